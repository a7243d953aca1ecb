//! The only owner of model bytes on disk: what lies in a runtime's store, and the hashes by which it is proved.
//!
//! All calls are synchronous and wait for the disk; call them from a thread that may block.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod aside;
pub mod bundle;
pub mod details;
pub mod fault;
pub mod hashing;
pub mod index;
pub mod jobs;
pub mod keep;
pub mod manifest;
pub mod priority;
pub mod scrubbing;
pub mod space;
pub mod staging;
pub mod store;
pub mod tree;

pub use aside::Aside;
pub use bundle::{BUNDLE_VERSION, BundleError, BundleReader, BundleWriter, Contents};
pub use fault::Fault;
pub use hashing::{Hashed, Hashing, Progress};
pub use index::{Index, Indexed};
pub use jobs::{JOB_VERSION, JobFile, Jobs};
pub use keep::{Keep, KeepError, Kept};
pub use manifest::{Layer, Manifest, ManifestError};
pub use scrubbing::{Scrubbed, Scrubbing};
pub use space::{Need, NoRoom, Promise, Promises, Space};
pub use staging::{Part, PartError, SYNC_BYTES, Staging};
pub use store::access::{Access, How};
pub use store::publish::{Publication, PublishError, Published};
pub use store::replace::Replaced;
pub use store::scan::{Scan, Scanned};
pub use store::{BlobFile, BlobSpec, FileIdentity, Owner, ReadError, Store};
pub use tree::{ChunkHash, Tree, TreeError, chunk_hash};
