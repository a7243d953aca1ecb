//! The ports through which tools see the node. [`crate::mem`] holds the forms for tests, the assembly the real ones.
//!
//! What a tool may reach is what a port here offers: nothing of the disk, of Raft, of sockets.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use crate::error::ToolError;
use crate::once::OnceKey;
use crate::principal::Caller;
use crate::progress::Progress;
use crate::tool::{Call, Foreseen};
use crate::views::{Cluster, Model, Node, NodeHealth, TaskView, Transfer};
use crate::work::Work;

pub use crate::views::{Deleted, EventView, Pulled, Rescanned};

/// What a port answers when it is done.
pub type Answer<T> = BoxFuture<'static, Result<T, ToolError>>;

/// All ports. Clones see the same node.
#[derive(Clone)]
pub struct Ports {
    /// What the lab is.
    pub lab: Arc<dyn Lab>,
    /// What can be changed in it.
    pub changes: Arc<dyn Changes>,
    /// What takes longer than a call.
    pub tasks: Arc<dyn Tasks>,
    /// What its models answer.
    pub inference: Arc<dyn Inference>,
}

/// The lab, as one node sees it. Every call but [`Lab::transfers`] answers at once, from what the node holds.
pub trait Lab: Send + Sync + 'static {
    /// How this node stands; answered also before it belongs to a cluster.
    fn health(&self) -> NodeHealth;

    /// The cluster, its consensus, and what wants attention; answered also before there is one.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn cluster(&self) -> Result<Cluster, ToolError>;

    /// The members, in the order of their ids.
    ///
    /// # Errors
    /// When this node belongs to no cluster, or its state cannot be read.
    fn nodes(&self) -> Result<Vec<Node>, ToolError>;

    /// The models that are being fetched somewhere, as far as the nodes say it soon. Refused when this node belongs to
    /// no cluster, or its state cannot be read.
    fn transfers(&self) -> Answer<Vec<Transfer>>;

    /// The models, in the order of their names.
    ///
    /// # Errors
    /// When this node belongs to no cluster, or its state cannot be read.
    fn models(&self) -> Result<Vec<Model>, ToolError>;

    /// One model.
    ///
    /// # Errors
    /// As [`Lab::models`], and when no node has it, or that is no name.
    fn model(&self, name: &str) -> Result<Model, ToolError>;
}

/// A task that somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// The tool that works at it.
    pub tool: &'static str,
    /// What it is to do: without a key, without what was not said, names in order.
    pub arguments: Value,
    /// At most `TASK_PRIORITY_MAX`; the highest is begun first.
    pub priority: u8,
    /// Another node may begin it again.
    pub repeatable: bool,
    /// A person must agree first.
    pub needs_approval: bool,
    /// What that person reads: what it would do, line by line, together at most `TASK_PLAN_BYTES_MAX`.
    pub plan: Vec<String>,
    /// The call that asks for it, where it is to have effect once.
    pub once: Option<OnceKey>,
}

/// The tasks of the cluster. What is read is told as this node has it on record.
pub trait Tasks: Send + Sync + 'static {
    /// Puts one on record; when this answers, it outlives every node. The same key and arguments again: the same task.
    fn open(&self, by: &Caller, asked: NewTask) -> Answer<TaskView>;

    /// One task.
    ///
    /// # Errors
    /// When there is none of this id, or the state cannot be read.
    fn task(&self, id: &str) -> Result<TaskView, ToolError>;

    /// Tells each of them, or each that is not over, without its result and in no order that counts. Few are held at
    /// once.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn each(&self, open_alone: bool, tell: &mut dyn FnMut(TaskView)) -> Result<(), ToolError>;

    /// Ends one, or has it ended by the node that works at it. One that is over stays as it is.
    fn cancel(&self, by: &Caller, id: &str) -> Answer<TaskView>;

    /// What one was asked for with.
    ///
    /// # Errors
    /// As [`Tasks::task`].
    fn arguments(&self, id: &str) -> Result<Value, ToolError>;

    /// Has one that failed, or was cancelled, done again; who is to agree to that reads what it would do now.
    fn retry(&self, by: &Caller, id: &str, plan: Vec<String>) -> Answer<TaskView>;

    /// Says whether one that waits for a person may be done; with an attempt, only while it has been begun so often, as
    /// that person saw it.
    fn decide(&self, by: &Caller, id: &str, approved: bool, attempt: Option<u32>) -> Answer<TaskView>;

    /// Waits until this node shows everything that was on record anywhere when it was asked.
    fn catch_up(&self) -> Answer<()>;

    /// Ticks with every change that this node applies; `None` before there is a cluster.
    fn changes(&self) -> Option<watch::Receiver<u64>>;
}

/// Which model to have, and where. Where nothing is said of the place, as `ollamax model pull NAME` has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullAsked {
    /// The model.
    pub model: String,
    /// On so many nodes.
    pub replicas: Option<u32>,
    /// On all nodes that hold models.
    pub all: bool,
    /// On these.
    pub nodes: Vec<String>,
    /// From a registry without TLS.
    pub insecure: bool,
}

/// Which model to delete, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteAsked {
    /// The model.
    pub model: String,
    /// On these nodes; on all that have it where none is named.
    pub nodes: Vec<String>,
    /// Also where it is pinned or the last copy.
    pub force: bool,
}

/// What can be changed in the lab. A change is on record when it answers; one with a key has effect once.
pub trait Changes: Send + Sync + 'static {
    /// Has a name stand for one version, by its digest or the beginning of it; without one, for the version that it
    /// stands for now. Answers the digest.
    fn pin(&self, by: &Call, model: &str, version: Option<&str>) -> Answer<String>;

    /// The version for which a name would stand, as [`Changes::pin`] answers it. Changes nothing.
    fn plan_pin(&self, model: &str, version: Option<&str>) -> Answer<String>;

    /// Whether a name could stand for what is newest again. Changes nothing.
    fn plan_unpin(&self, model: &str) -> Answer<()>;

    /// Has a name stand for what is newest again.
    fn unpin(&self, by: &Call, model: &str) -> Answer<()>;

    /// Says where a model stands in its life (active, deprecated, disabled), and what to use in its place.
    fn set_phase(&self, by: &Call, model: &str, phase: &str, instead: Option<&str>) -> Answer<()>;

    /// Takes a node out of use, or back into it.
    fn set_drained(&self, by: &Call, node: &str, drained: bool) -> Answer<()>;

    /// Has every node look anew at which models are in its folder. One that does not answer is told as such.
    fn rescan(&self) -> Answer<Vec<Rescanned>>;

    /// What a pull would do, line by line. Changes nothing.
    fn plan_pull(&self, asked: &PullAsked) -> Answer<Foreseen>;

    /// Has a model come to where it is wanted, until all have it; answers who has it. Tells bytes; ends when cancelled.
    fn pull(&self, work: Work, asked: PullAsked) -> Answer<Pulled>;

    /// What a deletion would do, line by line, and what would refuse it. Changes nothing.
    fn plan_delete(&self, asked: &DeleteAsked) -> Answer<Foreseen>;

    /// Deletes copies of a model. Tells nodes; ends when cancelled.
    fn delete(&self, work: Work, asked: DeleteAsked) -> Answer<Deleted>;

    /// What happened, from a revision on, that one too; without one, the newest. The oldest stands first.
    ///
    /// # Errors
    /// When what was asked for is not kept any more, or the state cannot be read.
    fn events(&self, since: Option<u64>, limit: u32) -> Result<Vec<EventView>, ToolError>;
}

/// The models' answers, in Ollama's words.
pub trait Inference: Send + Sync + 'static {
    /// Asks as a client does at `path` (/api/chat, /api/generate, /api/embed) with the body that it sends there, and
    /// answers the body that it gets when nothing is streamed. Tells the pieces as they come.
    fn ask(&self, by: &Caller, path: &'static str, body: Value, progress: Progress) -> Answer<Value>;
}

// === impl Ports ===

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}
