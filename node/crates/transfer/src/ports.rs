//! What transfer needs from others: an origin, the runtime beside this node, the other nodes, the cluster's record.
//!
//! The in-memory forms are in [`crate::mem`]; the real ones are the assembly's adapters. Every future and every stream
//! that a port returns is given up by dropping it. What another node answers is believed by nobody: a hash or a digest
//! that is on record proves it, or it is not used. Only the node that brings a file into the cluster says which hashes
//! its chunks have, until the file is on record or its own digest decides.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use ollamax_blobs::{BlobSpec, ChunkHash, Store};
use ollamax_core::catalog::{CopyCourse, OnceKey, Refusal, Replicas, Want, Wish};
use ollamax_core::placement::Unfit;
use ollamax_core::transfer_plan::Extent;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Root, Timestamp};

use crate::error::PullError;
use crate::handle::{PullLimit, PullSpec};
use crate::keeping::KeptVersion;
use crate::progress::PullProgress;
use crate::shelf::Shelf;
use crate::verify::{VerifyOrder, VerifyStream};

/// Where models come from.
pub trait Origin: Send + Sync + 'static {
    /// The manifest for which a name stands now, byte for byte.
    fn manifest(&self, name: &ModelName, insecure: bool) -> BoxFuture<'static, Result<Bytes, OriginError>>;
    /// The manifest with this digest, byte for byte, whatever the name stands for now. Not every origin has it.
    fn manifest_of(
        &self,
        name: &ModelName,
        digest: Digest,
        insecure: bool,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>>;
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
    /// Whether it does not run, as far as one sees from outside: its machine refuses the connection.
    pub is_down: bool,
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
    /// Has files there read again, and tells how far that is. A connection that is lost shows as
    /// [`ErrorCode::PeerUnreachable`], which is the last thing that comes.
    fn verify(&self, to: NodeId, order: VerifyOrder) -> VerifyStream;
    /// Slows a pull there down; false when there was none.
    fn limit(&self, to: NodeId, limit: PullLimit) -> BoxFuture<'static, Result<bool, PullError>>;
    /// The versions that are kept there: of one name, or all.
    fn kept(&self, to: NodeId, name: Option<ModelName>) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>>;
    /// Lets those go there that are due, and tells which; `dry_run`: only tells.
    fn sweep(&self, to: NodeId, dry_run: bool) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>>;
}

/// Bytes both ways, between two nodes that know each other.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// The same engine on other nodes, as far as files are concerned.
pub trait Peers: Send + Sync + 'static {
    /// A stream over which another node hands out chunks.
    fn connect(&self, to: NodeId) -> BoxFuture<'static, Result<Box<dyn ByteStream>, PeerError>>;
    /// The manifest with this digest, byte for byte.
    fn manifest(&self, from: NodeId, digest: Digest) -> BoxFuture<'static, Result<Bytes, PeerError>>;
    /// The size of a file and the hashes of its chunks, 32 bytes each, in order.
    fn hashes(&self, from: NodeId, sha256: Digest) -> BoxFuture<'static, Result<(u64, Bytes), PeerError>>;
    /// What another node has of these files: first what is there, then what comes. It does not end by itself.
    fn haves(&self, from: NodeId, blobs: Vec<Digest>) -> BoxStream<'static, Result<Have, PeerError>>;
    /// A pull of another node, as it tells of it. It ends with the pull.
    fn watch(&self, at: NodeId, name: ModelName) -> BoxStream<'static, Result<PullProgress, PeerError>>;
    /// Tells another node that this chunk of a file came from it and was not what it must be.
    fn doubt(&self, at: NodeId, sha256: Digest, index: u32) -> BoxFuture<'static, Result<(), PeerError>>;
}

/// What a node has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Have {
    /// All of it.
    Whole {
        /// Which file.
        sha256: Digest,
        /// Its size.
        size_bytes: u64,
    },
    /// These chunks, and those that were told before.
    Some {
        /// Which file.
        sha256: Digest,
        /// Its size.
        size_bytes: u64,
        /// The chunks.
        extent: Extent,
        /// Their hashes, where the node that tells it brings the file into the cluster just now; else none.
        hashes: Vec<ChunkHash>,
    },
    /// Nothing of it, whatever was told before.
    Void {
        /// Which file.
        sha256: Digest,
    },
}

/// What another node did not do, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It cannot be reached, or the connection broke off.
    #[error("{0}")]
    Unreachable(String),
    /// It says no.
    #[error("{text}")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
    /// It says something that has no meaning.
    #[error("{0}")]
    Garbled(String),
}

/// What the cluster has on record of wishes and files, and how that is changed.
pub trait Ledger: Send + Sync + 'static {
    /// What this node has to do, as of what it knows of the record.
    fn assignments(&self) -> watch::Receiver<Arc<Vec<Assignment>>>;
    /// What is on record of a file.
    fn bound(&self, sha256: Digest) -> Option<Bound>;
    /// Puts on record what this node hashed itself, all bytes of it, and found to be what it should be.
    fn bind(&self, blobs: Vec<(BlobSpec, Root)>) -> BoxFuture<'static, Result<(), LedgerError>>;
    /// Puts on record which version a round of a wish stands for.
    fn resolve(
        &self,
        name: ModelName,
        round: u64,
        digest: Digest,
        size_bytes: u64,
    ) -> BoxFuture<'static, Result<(), LedgerError>>;
    /// Puts on record why this node does not do its part of a round.
    fn tell(&self, name: ModelName, round: u64, error: PullError) -> BoxFuture<'static, Result<(), LedgerError>>;
    /// Tells everybody how far this node is with its copy in a round. Nothing depends on it.
    fn note_copy(&self, name: ModelName, round: u64, course: CopyCourse)
    -> BoxFuture<'static, Result<(), LedgerError>>;
    /// Asks for copies of a model, and gives the round in which they are made.
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<u64, LedgerError>>;
    /// Ends the wish for a model. False when there is none.
    fn forget(&self, name: ModelName) -> BoxFuture<'static, Result<bool, LedgerError>>;
    /// The wish for a model, as this node knows it.
    fn plan(&self, name: &ModelName) -> Option<Wish>;
    /// All wishes, as this node knows them; none where that cannot be read.
    fn wishes(&self) -> Vec<Wish>;
    /// The record's own time, in which its moments are told. After an outage of all nodes it is far behind every clock.
    fn log_time(&self) -> Timestamp;
    /// Who has this version of a model, as this node knows it.
    fn holders(&self, name: &ModelName, digest: Digest) -> BTreeSet<NodeId>;
    /// Members that this node takes for dead, or has never heard: they do nothing before they are heard.
    fn away(&self) -> BTreeSet<NodeId>;
}

/// What is on record of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Its size.
    pub size_bytes: u64,
    /// The BLAKE3 of all of it.
    pub root: Root,
}

/// What somebody asks the cluster for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The model.
    pub name: ModelName,
    /// How many copies, or where.
    pub replicas: Replicas,
    /// Somebody said so: fewer will not do. Else what stands on record stays, and `replicas` are where nothing does.
    pub is_said: bool,
    /// Which nodes come into question; `None`: as it was asked for before.
    pub want: Option<Want>,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// The version, where it is known; `None`: what the name stands for in its registry.
    pub version: Option<AskedVersion>,
    /// Who asks, for people.
    pub asked_by: String,
    /// With it the question has effect once: whoever asks again gets the round of the first time, whatever has become
    /// of that wish since.
    pub once: Option<OnceKey>,
}

/// A version that some node has, and that shall be spread whatever a registry has of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedVersion {
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// Bytes of all its files; 0: not known.
    pub size_bytes: u64,
}

/// What this node has to do for a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The model.
    pub name: ModelName,
    /// The round of the wish.
    pub round: u64,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// Which version; `None` while nobody has resolved the name.
    pub digest: Option<Digest>,
    /// What this node does.
    pub duty: Duty,
    /// Its place among those that receive.
    pub rank: u32,
    /// How many receive.
    pub of: u32,
    /// Who fetches from outside.
    pub ingester: NodeId,
    /// The other nodes that have the model or will have it.
    pub others: Vec<NodeId>,
    /// Nobody waits for it: the cluster makes the copy by itself.
    pub in_background: bool,
    /// What of the disk stays free beside the copy, as the wish says; 0: it says nothing.
    pub disk_free_bytes_min: u64,
}

/// What a node does for a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// It finds out what the name stands for, and fetches from outside what no node has.
    Ingest,
    /// It gets the model from other nodes.
    Receive,
}

/// Why the record was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No majority of voters can be reached.
    #[error("{0}")]
    NoQuorum(String),
    /// The state speaks against it.
    #[error(transparent)]
    Refused(Refusal),
    /// A member runs a release that does not know wishes.
    #[error("needs cluster version {needed}; this cluster runs {actual}")]
    NeedsVersion {
        /// What it takes.
        needed: u32,
        /// What the cluster has.
        actual: u32,
    },
    /// There are fewer nodes for it than were asked for.
    #[error("it fits on {fits} of {of} nodes{}", reasons(why))]
    Impossible {
        /// Where it is wanted, by what was asked for or is on record.
        replicas: Replicas,
        /// On how many it fits.
        fits: usize,
        /// How many were wanted.
        of: usize,
        /// What is wrong with the others.
        why: Vec<(NodeId, Unfit)>,
    },
    /// All else that a change can end with.
    #[error("{text}")]
    Failed {
        /// The code that leaves the node.
        code: ErrorCode,
        /// For people.
        text: String,
    },
}

// === impl Place ===

impl Place {
    /// Opens the store that is there, else says why there is none. Blocks on the disk.
    pub(crate) fn store(self) -> Result<Store, String> {
        match self {
            Self::Store(place) => Store::open(&place).map_err(|fault| fault.to_string()),
            Self::None(why) => Err(why),
        }
    }
}

// === impl LedgerError ===

impl LedgerError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::Refused(refusal) => refusal.code(),
            Self::NeedsVersion { .. } | Self::Impossible { .. } => ErrorCode::PreconditionFailed,
            Self::Failed { code, .. } => *code,
        }
    }
}

/// What is wrong with each node, in brackets; nothing where nothing is.
fn reasons(why: &[(NodeId, Unfit)]) -> String {
    if why.is_empty() {
        return String::new();
    }
    let told: Vec<String> = why.iter().map(|(node, unfit)| unfit.of(&format!("node {node}"))).collect();
    format!(" ({})", told.join("; "))
}
