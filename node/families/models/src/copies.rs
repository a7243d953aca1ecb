//! Copies of models, fetched, placed and deleted: tasks, since bytes take their time.
//!
//! Always: the same task done twice leaves what it would have left once. Deleting waits until a person agrees.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::ready;
use schemars::JsonSchema;
use serde::Deserialize;

use ollamax_tools::views::{Deleted, Pulled};
use ollamax_tools::{
    Call, Changes, DeclarationError, DeleteAsked, Example, Hints, Lab, Planning, Ports, PullAsked, Spec, Tool,
    ToolError, Work,
};

use crate::{FAMILY, wrong};

const PULL_MODEL: Spec = Spec {
    name: "pull_model",
    title: "Pull a model",
    description: "Fetches a model from its registry onto nodes: a number of them, all, or those named.",
    family: FAMILY,
    hints: Hints { open_world: true, ..Hints::CHANGE },
    examples: &[
        Example { title: "Onto two nodes", arguments: r#"{"name": "llama3.2", "replicas": 2}"# },
        Example { title: "What would happen?", arguments: r#"{"name": "llama3.2", "all": true, "dry_run": true}"# },
    ],
    ..Spec::TASK
};

const PLACE_MODEL: Spec = Spec {
    name: "place_model",
    title: "Place a model",
    description: "Brings a model that the cluster has to more nodes: to a number of them, to all, or to those named.",
    family: FAMILY,
    examples: &[Example { title: "Onto two", arguments: r#"{"name": "m", "nodes": ["gpu-1", "gpu-2"]}"# }],
    ..Spec::TASK
};

const DELETE_MODEL: Spec = Spec {
    name: "delete_model",
    title: "Delete a model",
    description: "Deletes a model from the nodes named, or from all. A person must agree first.",
    hints: Hints { destructive: true, ..Hints::CHANGE },
    needs_approval: true,
    examples: &[Example { title: "What would go?", arguments: r#"{"name": "m", "dry_run": true}"# }],
    ..PLACE_MODEL
};

// Which model, where, and from where.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pull {
    #[schemars(length(min = 1, max = 512))]
    name: String,
    #[schemars(range(min = 1, max = 1_000))]
    replicas: Option<u32>,
    all: Option<bool>,
    #[schemars(length(max = 100), inner(length(min = 1, max = 64)))]
    nodes: Option<Vec<String>>,
    /// From a registry without TLS.
    insecure: Option<bool>,
    /// Which is begun first: 9 before 0; 5 where it is not said.
    #[schemars(range(min = 0, max = 9))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    priority: Option<u8>,
    /// Tells what would happen.
    #[expect(dead_code, reason = "the catalogue reads it")]
    dry_run: Option<bool>,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

// Which model, and where.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Place {
    #[schemars(length(min = 1, max = 512))]
    name: String,
    #[schemars(range(min = 1, max = 1_000))]
    replicas: Option<u32>,
    all: Option<bool>,
    #[schemars(length(max = 100), inner(length(min = 1, max = 64)))]
    nodes: Option<Vec<String>>,
    /// Which is begun first: 9 before 0; 5 where it is not said.
    #[schemars(range(min = 0, max = 9))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    priority: Option<u8>,
    /// Tells what would happen.
    #[expect(dead_code, reason = "the catalogue reads it")]
    dry_run: Option<bool>,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

// Which model, from where.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[schemars(length(min = 1, max = 512))]
    name: String,
    #[schemars(length(max = 100), inner(length(min = 1, max = 64)))]
    nodes: Option<Vec<String>>,
    /// Also what is pinned or the last copy.
    force: Option<bool>,
    /// Which is begun first: 9 before 0; 5 where it is not said.
    #[schemars(range(min = 0, max = 9))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    priority: Option<u8>,
    /// Tells what would happen.
    #[expect(dead_code, reason = "the catalogue reads it")]
    dry_run: Option<bool>,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

/// The tools of the family that move bytes.
pub(crate) fn tools(ports: &Ports) -> Result<Vec<Tool>, DeclarationError> {
    let Ports { lab, changes, .. } = ports;
    let (plans, pulls) = (Arc::clone(changes), Arc::clone(changes));
    let pull = Tool::work(
        PULL_MODEL,
        move |_: &Call, asked: &Pull| planned(asked.wish(), |asked| plans.plan_pull(asked)),
        move |work: Work, asked: Pull| fetch(Arc::clone(&pulls), work, asked.wish()).boxed(),
    )?
    .checked(|asked: &Pull| asked.wish().map(|_| ()));
    let (plan_lab, lab) = (Arc::clone(lab), Arc::clone(lab));
    let (plans, places) = (Arc::clone(changes), Arc::clone(changes));
    let place = Tool::work(
        PLACE_MODEL,
        move |_: &Call, asked: &Place| planned(asked.wish(&*plan_lab), |asked| plans.plan_pull(asked)),
        move |work: Work, asked: Place| {
            // What is to end needs no model: there may be none any more.
            let wish = if work.cancelled.is_cancelled() { asked.said() } else { asked.wish(&*lab) };
            fetch(Arc::clone(&places), work, wish).boxed()
        },
    )?
    .checked(|asked: &Place| asked.said().map(|_| ()));
    let (plans, deletions) = (Arc::clone(changes), Arc::clone(changes));
    let delete = Tool::work(
        DELETE_MODEL,
        move |_: &Call, asked: &Delete| plans.plan_delete(&asked.wish()),
        move |work: Work, asked: Delete| remove(Arc::clone(&deletions), work, asked.wish()).boxed(),
    )?;
    Ok(vec![pull, place, delete])
}

// === impl Pull ===

impl Pull {
    fn wish(&self) -> Result<PullAsked, ToolError> {
        let asked = PullAsked {
            model: self.name.clone(),
            replicas: self.replicas,
            all: self.all == Some(true),
            nodes: self.nodes.clone().unwrap_or_default(),
            insecure: self.insecure == Some(true),
        };
        if ways(&asked) > 1 {
            return Err(wrong("a number of copies, all nodes and named nodes are three wishes", "say one of them"));
        }
        Ok(asked)
    }
}

// === impl Place ===

impl Place {
    /// Only what some node has can be placed.
    fn wish(&self, lab: &dyn Lab) -> Result<PullAsked, ToolError> {
        let asked = self.said()?;
        Ok(PullAsked { model: lab.model(&asked.model)?.name, ..asked })
    }

    fn said(&self) -> Result<PullAsked, ToolError> {
        let asked = PullAsked {
            model: self.name.clone(),
            replicas: self.replicas,
            all: self.all == Some(true),
            nodes: self.nodes.clone().unwrap_or_default(),
            insecure: false,
        };
        if ways(&asked) != 1 {
            return Err(wrong("it is not clear where the model is to be", "say one of replicas, all: true, and nodes"));
        }
        Ok(asked)
    }
}

// === impl Delete ===

impl Delete {
    fn wish(&self) -> DeleteAsked {
        DeleteAsked {
            model: self.name.clone(),
            nodes: self.nodes.clone().unwrap_or_default(),
            force: self.force == Some(true),
        }
    }
}

/// In how many ways it is said where a model is to be.
fn ways(asked: &PullAsked) -> usize {
    [asked.replicas.is_some(), asked.all, !asked.nodes.is_empty()].into_iter().filter(|said| *said).count()
}

fn planned(asked: Result<PullAsked, ToolError>, plan: impl FnOnce(&PullAsked) -> Planning) -> Planning {
    match asked {
        Ok(asked) => plan(&asked),
        Err(error) => ready(Err(error)).boxed(),
    }
}

async fn fetch(
    changes: Arc<dyn Changes>,
    work: Work,
    asked: Result<PullAsked, ToolError>,
) -> Result<Pulled, ToolError> {
    changes.pull(work, asked?).await
}

async fn remove(changes: Arc<dyn Changes>, work: Work, asked: DeleteAsked) -> Result<Deleted, ToolError> {
    changes.delete(work, asked).await
}

#[cfg(test)]
mod tests;
