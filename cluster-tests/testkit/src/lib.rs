//! What the whole-cluster suites and benchmarks stand on: a scripted model runtime, clusters of real processes, links
//! that can be cut, seeds that can be replayed, and the one place where tests wait.
//!
//! Nothing here is linked into the product. What a test starts ends with it, found by process id, never by name.
//! When something fails, the seed and the place of every log are printed and the logs stay.
#![forbid(unsafe_code)]
#![doc = include_str!("../DESIGN.md")]

pub mod cluster;
pub mod copy;
pub mod disk_faults;
pub mod fake_ollama;
pub mod fake_registry;
pub mod fake_s3;
pub mod history;
pub mod http;
pub mod kept_log;
pub mod link;
pub mod other_state;
pub mod port;
pub mod remembered;
pub mod room;
pub mod seed;
pub mod wait;

pub use cluster::Cluster;
pub use copy::copy_directory;
pub use fake_ollama::FakeOllama;
pub use fake_registry::FakeRegistry;
pub use fake_s3::FakeS3;
pub use kept_log::KeptLog;
pub use remembered::Remembered;
pub use room::Room;
pub use seed::Seed;
