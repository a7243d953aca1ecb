//! Transfer: models fetched from a registry or from other nodes into the store of the runtime beside this node, and
//! what lies in it.
//!
//! Owns the pulls of this node, what it does for the cluster's wishes, the list of adopted models and their hash trees.
//! Always holds: a model is visible when all of it is there and is what its name says, and what the runtime has is
//! neither changed nor removed, unless the cluster has the model removed here. What cannot be read is told, and looked
//! at again later.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod handle;
pub mod lab;
pub mod mem;
pub mod metrics;
pub mod overview;
pub mod ports;
pub mod progress;
pub mod shelf;
pub mod verify;

mod adopt;
mod buffers;
mod bulk;
mod bundle;
mod class;
mod elsewhere;
mod haves;
mod keeping;
mod library;
mod limits;
mod milestones;
mod pull;
mod quiet;
mod removing;
mod scrub;
mod service;
mod trust;
mod wishes;

pub use adopt::Adopted;
pub use bundle::{ComeOrder, Leaving};
pub use config::Config;
pub use error::PullError;
pub use handle::{Handle, Parts, PullLimit, PullSpec};
pub use keeping::KeptVersion;
pub use limits::ClosedClass;
pub use metrics::Metrics;
pub use ollamax_blobs::{Access, BlobSpec, ManifestError, NoRoom, Scanned};
pub use overview::{NodeCopy, Overview, OverviewWatch};
pub use ports::{
    Ask, AskedVersion, Assignment, Bound, ByteStream, Duty, FetchStep, Have, Ledger, LedgerError, Listing, Opened,
    Origin, OriginError, OriginTrouble, Others, PeerError, Peers, Place, PullStream, Runtime, RuntimeTrouble, Wanted,
};
pub use progress::{BlobProgress, PullProgress, Source, SourceProgress, Stage, Wait, Watch};
pub use shelf::{Shelf, Ware};
pub use verify::{Sight, VerifyNews, VerifyOrder, VerifyStream};
