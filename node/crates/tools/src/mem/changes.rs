//! Changes in memory: each is written down in a line, and nothing else comes of it.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;

use ollamax_types::ErrorCode;

use crate::error::ToolError;
use crate::ports::{Answer, Changes, DeleteAsked, PullAsked};
use crate::tool::{Call, Foreseen};
use crate::views::{Deleted, EventView, Pulled, Rescanned};
use crate::work::Work;

/// Changes in memory. Clones write into one list.
#[derive(Debug, Clone, Default)]
pub struct MemChanges {
    made: Arc<Mutex<Vec<String>>>,
    events: Vec<EventView>,
}

// === impl MemChanges ===

impl MemChanges {
    /// Those of a lab in which this happened, the oldest first.
    #[must_use]
    pub fn after(events: Vec<EventView>) -> Self {
        Self { events, ..Self::default() }
    }

    /// What was changed, one line each. A line ends with `once` where it is to have effect once.
    #[must_use]
    pub fn made(&self) -> Vec<String> {
        self.lines().clone()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T: Send + 'static>(&self, by: &Call, line: &str, answer: T) -> Answer<T> {
        let once = if by.once.is_some() { " once" } else { "" };
        self.lines().push(format!("{line}{once}"));
        ready(Ok(answer)).boxed()
    }

    fn work<T: Send + 'static>(&self, work: &Work, line: String, answer: T) -> Answer<T> {
        let ended = || ToolError::new(ErrorCode::PullCancelled, "it was cancelled", "");
        let outcome = if work.cancelled.is_cancelled() { Err(ended()) } else { Ok(answer) };
        self.lines().push(line);
        work.progress.tell(1, Some(1), "done");
        ready(outcome).boxed()
    }
}

impl Changes for MemChanges {
    fn pin(&self, by: &Call, model: &str, version: Option<&str>) -> Answer<String> {
        let version = version.unwrap_or("newest");
        self.write(by, &format!("pin {model} {version}"), "ab".repeat(32))
    }

    fn plan_pin(&self, _model: &str, _version: Option<&str>) -> Answer<String> {
        ready(Ok("ab".repeat(32))).boxed()
    }

    fn plan_unpin(&self, _model: &str) -> Answer<()> {
        ready(Ok(())).boxed()
    }

    fn unpin(&self, by: &Call, model: &str) -> Answer<()> {
        self.write(by, &format!("unpin {model}"), ())
    }

    fn set_phase(&self, by: &Call, model: &str, phase: &str, instead: Option<&str>) -> Answer<()> {
        let instead = instead.map(|instead| format!(" instead {instead}")).unwrap_or_default();
        self.write(by, &format!("phase {model} {phase}{instead}"), ())
    }

    fn set_drained(&self, by: &Call, node: &str, drained: bool) -> Answer<()> {
        self.write(by, &format!("drained {node} {drained}"), ())
    }

    fn rescan(&self) -> Answer<Vec<Rescanned>> {
        self.lines().push("rescan".to_owned());
        ready(Ok(vec![Rescanned { node: "n1".to_owned(), models: Some(2), problem: None }])).boxed()
    }

    fn plan_pull(&self, asked: &PullAsked) -> Answer<Foreseen> {
        ready(Ok(Foreseen::of(vec![pull(asked)]))).boxed()
    }

    fn pull(&self, work: Work, asked: PullAsked) -> Answer<Pulled> {
        self.work(&work, pull(&asked), Pulled { nodes: asked.nodes, remark: None })
    }

    fn plan_delete(&self, asked: &DeleteAsked) -> Answer<Foreseen> {
        ready(Ok(Foreseen::of(vec![delete(asked)]))).boxed()
    }

    fn delete(&self, work: Work, asked: DeleteAsked) -> Answer<Deleted> {
        self.work(&work, delete(&asked), Deleted { nodes: asked.nodes, bytes: 7 })
    }

    fn events(&self, since: Option<u64>, limit: u32) -> Result<Vec<EventView>, ToolError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let skipped = match since {
            Some(since) => self.events.iter().take_while(|event| event.revision < since).count(),
            None => self.events.len().saturating_sub(limit),
        };
        Ok(self.events.iter().skip(skipped).take(limit).cloned().collect())
    }
}

fn pull(asked: &PullAsked) -> String {
    let PullAsked { model, replicas, all, nodes, insecure } = asked;
    format!("pull {model} replicas {replicas:?} all {all} nodes {nodes:?} insecure {insecure}")
}

fn delete(asked: &DeleteAsked) -> String {
    let DeleteAsked { model, nodes, force } = asked;
    format!("delete {model} nodes {nodes:?} force {force}")
}
