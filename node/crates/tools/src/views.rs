//! What tools tell of the lab: the words of their results. A field is added, never renamed and never given another
//! meaning: assistants and scripts read them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::principal::{Permission, Principal};

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

/// Long work, as it is on record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct TaskView {
    /// Its id.
    pub id: String,
    /// The tool that works at it.
    pub tool: String,
    /// Where it stands: waiting (for a person), queued, working, completed, failed, cancelled.
    pub status: String,
    /// The node that works at it, or did last.
    pub node: Option<String>,
    /// How often it was begun.
    pub attempt: u32,
    /// Which is begun first, from 0 to 9; 5 is usual.
    pub priority: u8,
    /// How much is done, in bytes, nodes or pieces.
    pub done: u64,
    /// Of how much; null: not known.
    pub total: Option<u64>,
    /// What it does.
    pub text: String,
    /// What was to be agreed to, line by line.
    pub plan: Vec<String>,
    /// Who asked for it.
    pub subject: String,
    /// Somebody wants it to end.
    pub cancel_asked: bool,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When it changed last (RFC 3339).
    pub updated_at: String,
    /// What came of it, where it is completed.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<TaskError>,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct TaskError {
    /// Its place in the table of codes.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub next: String,
}

/// What every tool answers that works in a task. Exactly one of plan and task is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Done<T> {
    /// The task, as get_task tells it.
    #[schemars(schema_with = "in_short")]
    pub task: Option<TaskView>,
    /// What would happen, line by line, where it was a dry run.
    pub plan: Option<Vec<String>>,
    /// What came of it; null as long as it is not done.
    pub result: Option<T>,
    /// What to do about it as it stands.
    pub next: Option<String>,
}

/// Copies of a model that are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Pulled {
    /// The nodes that have it.
    pub nodes: Vec<String>,
    /// Why a newer version may be there; absent: the registry named this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// Copies of a model that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Deleted {
    /// The nodes that had them.
    pub nodes: Vec<String>,
    /// Bytes that were freed.
    pub bytes: u64,
}

/// What a node found when it looked anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Rescanned {
    /// The node.
    pub node: String,
    /// How many models it has; null: it did not say.
    pub models: Option<u32>,
    /// Why it did not.
    pub problem: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct EventView {
    /// With which change.
    pub revision: u64,
    /// When (RFC 3339).
    pub at: String,
    /// What kind of thing.
    pub kind: String,
    /// For people.
    pub text: String,
}

// === impl TaskView ===

impl TaskView {
    /// It is completed, failed or cancelled, and stays so unless somebody has it done again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    /// A person must agree first.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.status == "waiting"
    }

    /// As it stands among others: without its result, which may be large, and with the first line of what was to be
    /// agreed to. Whoever wants more asks for the task.
    #[must_use]
    pub fn brief(self) -> Self {
        let mut plan = self.plan;
        let more = plan.len().saturating_sub(1);
        plan.truncate(1);
        plan.extend((more > 0).then(|| lines_more(more)));
        Self { plan, result: None, ..self }
    }

    /// Who asked for it, and who manages the cluster. For everybody else there is no such task.
    #[must_use]
    pub fn is_seen_by(&self, principal: &Principal) -> bool {
        principal.may(Permission::Manage) || principal.subject().to_string() == self.subject
    }

    /// What to do about it as it stands; `None` where nothing is left to do.
    #[must_use]
    pub fn next(&self) -> Option<String> {
        let Self { id, .. } = self;
        match self.status.as_str() {
            "waiting" => Some(format!("a person says yes or no: ollamax approve {id} [--deny]")),
            "queued" | "working" => Some(format!(r#"call get_task with {{"id": "{id}", "wait_seconds": 45}}"#)),
            "failed" => self.error.as_ref().map(|error| error.next.clone()).filter(|next| !next.is_empty()),
            _ => None,
        }
    }
}

/// The schema of a task that stands beside something else: all tools that show one would repeat it otherwise.
fn in_short(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut shown = Map::new();
    shown.insert("type".to_owned(), Value::from(vec!["object", "null"]));
    shown.into()
}

/// What stands for lines that are not shown.
pub(crate) fn lines_more(count: usize) -> String {
    format!("... and {count} {} more", if count == 1 { "line" } else { "lines" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: &str) -> TaskView {
        TaskView {
            id: "task_1".to_owned(),
            status: status.to_owned(),
            subject: "uid/7".to_owned(),
            ..TaskView::default()
        }
    }

    #[test]
    fn what_is_left_to_do_follows_from_where_a_task_stands() {
        let check = |status: &str, is_over: bool, next: Option<&str>| {
            let task = task(status);
            assert_eq!((task.is_over(), task.is_waiting()), (is_over, status == "waiting"), "{status}");
            let found = task.next();
            assert_eq!(found.is_some(), next.is_some(), "{status}: {found:?}");
            assert!(found.unwrap_or_default().contains(next.unwrap_or_default()), "{status}");
        };
        check("waiting", false, Some("ollamax approve task_1"));
        check("queued", false, Some("get_task"));
        check("working", false, Some(r#"{"id": "task_1", "wait_seconds": 45}"#));
        check("completed", true, None);
        check("cancelled", true, None);
        check("failed", true, None);
        let error = TaskError { next: "ollamax node list".to_owned(), ..TaskError::default() };
        let failed = TaskView { error: Some(error), ..task("failed") };
        assert_eq!(failed.next().as_deref(), Some("ollamax node list"));
    }

    #[test]
    fn among_others_a_task_is_told_without_what_may_be_large() {
        let check = |lines: &[&str], expected: &[&str]| {
            let plan = lines.iter().map(|line| (*line).to_owned()).collect();
            let brief = TaskView { plan, result: Some(Value::Null), ..task("waiting") }.brief();
            assert_eq!((brief.plan, brief.result), (expected.iter().map(|line| (*line).to_owned()).collect(), None));
        };
        check(&[], &[]);
        check(&["a"], &["a"]);
        check(&["a", "b"], &["a", "... and 1 line more"]);
        check(&["a", "b", "c"], &["a", "... and 2 lines more"]);
    }

    #[test]
    fn a_task_is_seen_by_who_asked_for_it_and_by_who_manages() {
        let of = |subject: &str| TaskView { subject: subject.to_owned(), ..TaskView::default() };
        let check = |subject: &str, principal: Principal, seen: bool| {
            assert_eq!(of(subject).is_seen_by(&principal), seen, "{subject} {principal:?}");
        };
        check("loopback", Principal::loopback(), true);
        check("uid/7", Principal::loopback(), false);
        check("uid/7", Principal::of_socket(7), true);
        check("loopback", Principal::of_socket(7), true);
    }
}
