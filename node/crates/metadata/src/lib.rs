//! Engine 1, the only owner of Raft: the replicated state of the cluster behind one [`Handle`].
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

#[cfg(test)]
mod alone;
mod autopilot;
pub mod backup;
mod config;
mod envelope;
mod error;
mod feed;
mod followers;
mod forward;
mod freshness;
mod gauges;
mod handle;
mod lineage;
mod logtime;
pub mod mem;
mod metrics;
mod peers;
mod raft;
mod record;
mod releases;
mod serve;
mod service;
mod session;
mod status;
mod thread;
mod wire;

pub use config::Config;
pub use error::{ChangeError, OpenError, ProposeError, ReadError, ServeError};
pub use feed::{Batch, Event, Filter, WatchError, Watcher};
pub use handle::{Change, Committed, Handle, Identity};
pub use lineage::LineageError;
pub use peers::{Lane, PeerError, Peers};
pub use service::{Parts, Service};
pub use status::Status;
