//! What tools tell of the lab: the words of their results. A field is added, never renamed and never given another
//! meaning: assistants and scripts read them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct NodeHealth {
    /// Its name.
    pub node: String,
    /// Everything that was to be started has been.
    pub started: bool,
    /// It finishes what runs and takes nothing new.
    pub stopping: bool,
    /// The process is worth keeping.
    pub live: bool,
    /// It can serve.
    pub ready: bool,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// One part of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Part {
    /// For example metadata.
    pub name: String,
    /// Whether it works.
    pub works: bool,
    /// What goes with it where it does not work: to_live, to_serve, or nothing (shown).
    pub needed: String,
    /// For people.
    pub detail: String,
}

/// A cluster, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Cluster {
    /// Where the answering node stands: waiting, joining, member, stopping, removed.
    pub phase: String,
    /// Its name; empty before there is one.
    pub name: String,
    /// Its id in hexadecimal digits; empty before there is one.
    pub id: String,
    /// The answering node's name.
    pub node: String,
    /// The answering node's release.
    pub version: String,
    /// The node that leads; null where none is known.
    pub leader: Option<String>,
    /// Whether changes can be made.
    pub has_quorum: bool,
    /// Ids of the nodes that vote.
    pub voters: Vec<u64>,
    /// Ids of the nodes that follow without a vote.
    pub learners: Vec<u64>,
    /// Nodes that are heard.
    pub healthy_nodes: u32,
    /// Voters that may still fail before nothing can be changed.
    pub failure_tolerance: u32,
    /// How old the answering node's view may be, in milliseconds; null: no leader was heard yet.
    pub view_age_ms: Option<u64>,
    /// What wants a decision, most urgent first.
    pub attention: Vec<Attention>,
}

/// One thing that wants a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Attention {
    /// Stable, for programs.
    pub id: String,
    /// What is so.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The command to type.
    pub next: String,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it may do: voter, learner, gateway.
    pub role: String,
    /// Active, drained or departed, in small letters.
    pub state: String,
    /// Alive, suspect, dead or unknown, in small letters, as the answering node hears it.
    pub health: String,
    /// It leads.
    pub leader: bool,
    /// It votes.
    pub voter: bool,
    /// Milliseconds since it was heard.
    pub silent_ms: u64,
    /// Whether it takes new models: open, cordoned, emptying.
    pub cordon: String,
    /// How many models it has.
    pub models: u32,
    /// The models that are loaded there.
    pub loaded: Vec<String>,
    /// The model runtime beside it; null where it is not heard.
    pub runtime: Option<Runtime>,
    /// Bytes of memory in use.
    pub memory_used_bytes: u64,
    /// Bytes of memory.
    pub memory_total_bytes: u64,
    /// Free bytes on the disk of its models; null: not known.
    pub disk_free_bytes: Option<u64>,
    /// Its graphics cards.
    pub gpus: Vec<Gpu>,
    /// What people say of it.
    pub labels: BTreeMap<String, String>,
}

/// A model runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Runtime {
    /// Which: ollama, engine.
    pub kind: String,
    /// How it is: up, down, absent.
    pub state: String,
    /// Its release.
    pub version: String,
    /// Why it is down.
    pub reason: String,
}

/// A graphics card.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Bytes of its memory; null: not known.
    pub memory_total_bytes: Option<u64>,
    /// Bytes of it in use; null: not known.
    pub memory_used_bytes: Option<u64>,
    /// How busy it is, in thousandths; null: not known.
    pub use_permille: Option<u32>,
}

/// A model on its way to a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Transfer {
    /// The model.
    pub model: String,
    /// The node that fetches it.
    pub node: String,
    /// How far: waiting, resolving, checking, fetching, verifying, publishing, settling, done, failed.
    pub stage: String,
    /// Bytes that are there and checked.
    pub verified_bytes: u64,
    /// Bytes of the whole.
    pub total_bytes: u64,
    /// How fast; null: not known yet.
    pub bytes_per_second: Option<u64>,
    /// How long it will take; null: not known yet.
    pub left_ms: Option<u64>,
    /// Why it failed; empty where it did not.
    pub error: String,
}

/// A model of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The version that is served, in hexadecimal digits.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
    /// When that version was made or fetched, in milliseconds since 1970.
    pub modified_at_ms: u64,
    /// Family, parameter size, quantisation and the like, as its runtime tells them.
    pub details: Map<String, Value>,
    /// What it can do, such as completion, tools, vision; empty: not known.
    pub capabilities: Vec<String>,
    /// Where it stands in its life: active, deprecated, disabled.
    pub phase: String,
    /// It stands for one version, whatever is newer.
    pub pinned: bool,
    /// Nodes have different versions.
    pub conflict: bool,
    /// Who has it.
    pub copies: Vec<ModelCopy>,
}

/// A model on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct ModelCopy {
    /// The node.
    pub node: String,
    /// Its version, in hexadecimal digits.
    pub digest: String,
    /// It is the version that is served.
    pub served: bool,
    /// It is in memory.
    pub loaded: bool,
}
