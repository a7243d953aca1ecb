//! Engine 1, the only owner of Raft: the replicated state of the cluster behind one [`Handle`].
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

#[cfg(test)]
mod alone;
mod autopilot;
pub mod backup;
mod config;
mod departure;
mod envelope;
mod error;
mod feed;
mod followers;
mod forward;
mod freshness;
mod gauges;
mod handle;
mod integrity;
mod leadership;
mod lineage;
mod logtime;
pub mod mem;
mod metrics;
mod peers;
mod proposer;
mod quotas;
mod raft;
mod record;
pub mod recover;
mod releases;
mod serve;
mod service;
mod session;
#[cfg(test)]
mod sim;
mod snapshots;
mod status;
mod thread;
mod wire;

pub use config::Config;
pub use error::{ChangeError, Declined, HandOverError, OpenError, ProposeError, ReadError, ServeError, SnapshotError};
pub use feed::{Batch, Event, Filter, Item, WatchError, Watcher};
pub use handle::{Change, Committed, Handle, Identity};
pub use leadership::HandedOver;
pub use lineage::{LineageError, REVISION_JUMP};
pub use peers::{Lane, PeerError, Peers};
pub use service::{Parts, Service};
pub use snapshots::SnapshotTaken;
pub use status::{Following, Outlook, Part, Status};

pub use ollamax_store::ReleasedBallast;
