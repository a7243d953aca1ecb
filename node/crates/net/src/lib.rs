#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod address;
pub mod advertise;
mod channels;
pub mod config;
mod connections;
mod dial;
mod discovery;
mod door;
pub mod error;
mod greeting;
mod handle;
mod lanes;
mod listener;
mod membership;
pub mod metrics;
pub mod peer;
mod roster;
mod service;
mod stream;
mod twins;
mod upgrade;

pub use config::{Config, P2pConfig, PeerConfig};
pub use error::{BindError, ConnectError, was_never_sent};
pub use handle::NetHandle;
pub use peer::{Caller, Class, Discovered, Local, PeerEntry, Reach, Refuser, Way};
pub use service::{BulkSender, NetService};
pub use stream::PeerStream;
