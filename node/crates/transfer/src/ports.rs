//! What transfer needs from others: an origin, the runtime beside this node, the other nodes.
//!
//! The in-memory forms are in [`crate::mem`]; the real ones are the assembly's adapters. Every future and every stream
//! that a port returns is given up by dropping it.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use ollamax_blobs::BlobSpec;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::error::PullError;
use crate::handle::PullSpec;
use crate::progress::PullProgress;
use crate::shelf::Shelf;

/// Where models come from.
pub trait Origin: Send + Sync + 'static {
    /// The manifest for which a name stands now, byte for byte.
    fn manifest(&self, name: &ModelName, insecure: bool) -> BoxFuture<'static, Result<Bytes, OriginError>>;
    /// Asks for a range of a file, and answers when its first bytes may be read.
    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OriginError>>;
}

/// A range of a file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The model; who has it is asked.
    pub name: ModelName,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// Which file.
    pub blob: BlobSpec,
    /// Where the range begins.
    pub from: u64,
    /// Where it ends: the first byte that is not wanted.
    pub until: u64,
}

/// An answer that may be read.
pub struct Opened {
    /// There are no ranges to be had: the body is the file from its beginning to its end.
    pub whole: bool,
    /// The bytes as they come; fewer than were promised end with an error.
    pub body: BoxStream<'static, Result<Bytes, OriginError>>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("whole", &self.whole).finish_non_exhaustive()
    }
}

/// What an origin did not give, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct OriginError {
    /// What that means for whoever wants to try again.
    pub kind: OriginTrouble,
    /// The code that leaves the node.
    pub code: ErrorCode,
    /// For people.
    pub text: String,
}

/// What kind of trouble an origin has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginTrouble {
    /// It does not have it.
    Absent,
    /// It does not let us have it.
    Refused,
    /// It has too much to do.
    Busy {
        /// How long it asks us to wait, milliseconds, where it says so.
        after_ms: Option<u64>,
    },
    /// It broke off.
    Cut,
    /// It fell silent.
    Stalled,
    /// It is not there.
    Unreachable,
    /// It answered something else.
    Garbled,
}

/// The runtime beside this node, as far as its store is concerned.
pub trait Runtime: Send + Sync + 'static {
    /// Where it keeps its models. Asked anew at each look and for each pull, from a thread that may block on questions
    /// about files.
    fn place(&self) -> Place;
    /// The files of its store have changed: it is to be asked for its list again now. Does not wait for that.
    fn look(&self);
    /// Resolves when it lists this version of a model, and at once while it is down. The caller bounds the wait.
    fn lists(&self, name: &ModelName, digest: Digest) -> BoxFuture<'static, Listing>;
    /// Resolves when the cluster knows that this node has this version of a model. The caller bounds the wait.
    fn known(&self, name: &ModelName, digest: Digest) -> BoxFuture<'static, ()>;
    /// Where it is offered what this node may not put into its store; else why it fetches nothing from this node.
    ///
    /// # Errors
    /// With what people are told.
    fn shelf(&self) -> Result<Shelf, String>;
    /// Has it fetch a model from where its name says, by plain HTTP, and tells how far it is. The last word of a fetch
    /// that went well is [`FetchStep::Done`]. The caller bounds the silence.
    fn fetch(&self, name: &ModelName) -> BoxStream<'static, Result<FetchStep, RuntimeTrouble>>;
    /// Which version it has under a name, asked now.
    fn holds(&self, name: &ModelName) -> BoxFuture<'static, Result<Option<Digest>, RuntimeTrouble>>;
    /// Has it give a model a second name; what had that name loses it.
    fn copy(&self, from: &ModelName, to: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>>;
    /// Has it take a name away; that there is none is fine.
    fn delete(&self, name: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>>;
}

/// How far a runtime is that fetches a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchStep {
    /// It does something.
    Went {
        /// In its words.
        what: String,
        /// Bytes that it has of that, where it is a file.
        bytes: u64,
    },
    /// It has all of it.
    Done,
}

/// What a runtime did not do, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RuntimeTrouble {
    /// Whether it may be asked again: it does not run, or broke off.
    pub may_pass: bool,
    /// The code that leaves the node.
    pub code: ErrorCode,
    /// For people.
    pub text: String,
}

/// What a runtime says of a model that was put into its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// It has it.
    Listed,
    /// Nothing: it does not run.
    Down,
}

/// Where a runtime keeps its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this folder.
    Store(PathBuf),
    /// Nowhere that this node can read, and why: no runtime, another machine, no folder found.
    None(String),
}

/// A pull as another node tells of it.
pub type PullStream = BoxStream<'static, Result<PullProgress, PullError>>;

/// The same engine on other nodes.
pub trait Others: Send + Sync + 'static {
    /// Has another node pull a model, or joins its pull of that name. The first state comes when it was taken on, the
    /// last one when it is over. A connection that is lost shows as [`ErrorCode::PeerUnreachable`], or as the end.
    fn pull(&self, to: NodeId, spec: PullSpec) -> BoxFuture<'static, Result<PullStream, PullError>>;
    /// Ends a pull there; false when there was none.
    fn cancel(&self, to: NodeId, name: ModelName) -> BoxFuture<'static, Result<bool, PullError>>;
}
