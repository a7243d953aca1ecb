//! The scheduler: which node answers a request, and when the runtime beside this node starts on it.
//!
//! Owns the load view, the queues of this node's runners and the rules of sending. Always holds: what a request took is
//! given back when it is dropped. When a node fails, its requests move on as long as nothing of an answer was seen.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod handle;
pub mod mem;
pub mod metrics;
pub mod ports;
pub mod report;
pub mod response;

mod admission;
mod admit;
mod beat;
mod candidates;
mod dispatch;
mod load_view;
mod queue;
mod served;
mod timings;
mod vigil;

pub use config::Config;
pub use error::{AdmitError, DispatchError, NodeReason, Reason};
pub use handle::{Handle, Parts};
pub use load_view::PeerLoad;
pub use metrics::Metrics;
pub use ports::{Placements, PlacementsError, Remote, Runtime, RuntimeError, SendError};
pub use report::{Machine, RuntimeReport};
pub use response::{Body, Broken, Response};
