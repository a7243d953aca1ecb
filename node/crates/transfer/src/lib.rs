//! Transfer: what lies in the store of the runtime beside this node, and what is known of its files.
//!
//! Owns the list of adopted models and their hash trees. Always holds: nothing in a store is changed or removed. What
//! cannot be read is told, and looked at again later.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod handle;
pub mod mem;
pub mod metrics;
pub mod ports;

mod adopt;

pub use adopt::Adopted;
pub use config::Config;
pub use handle::{Handle, Parts};
pub use metrics::Metrics;
pub use ollamax_blobs::{Access, BlobSpec, Scanned};
pub use ports::{Place, Runtime};
