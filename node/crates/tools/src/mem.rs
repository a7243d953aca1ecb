//! The ports in memory: a lab that is what it was set to be, and changes, tasks and answers that are written down.
//!
//! Nothing here works by itself: a test says what a task has come to.

use std::future::ready;
use std::sync::Arc;

use futures::FutureExt as _;

use ollamax_types::ErrorCode;

use crate::error::ToolError;
use crate::ports::{Answer, Lab, Ports};
use crate::views::{Cluster, Model, Node, NodeHealth, Transfer};

mod changes;
mod inference;
mod tasks;

pub use changes::MemChanges;
pub use inference::MemInference;
pub use tasks::MemTasks;

/// A lab in memory.
#[derive(Debug, Clone, Default)]
pub struct MemLab {
    /// How the node stands.
    pub health: NodeHealth,
    /// The cluster.
    pub cluster: Cluster,
    /// Its members; `None`: the node belongs to no cluster.
    pub nodes: Option<Vec<Node>>,
    /// What is on its way.
    pub transfers: Vec<Transfer>,
    /// The models.
    pub models: Vec<Model>,
}

/// All ports in memory. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct MemPorts {
    /// What the lab is.
    pub lab: MemLab,
    /// What was changed in it.
    pub changes: MemChanges,
    /// Its tasks.
    pub tasks: MemTasks,
    /// What its models were asked.
    pub inference: MemInference,
}

// === impl MemPorts ===

impl MemPorts {
    /// Those of a lab in which nothing has happened.
    #[must_use]
    pub fn of(lab: MemLab) -> Self {
        Self { lab, ..Self::default() }
    }

    /// As tools see them.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports {
            lab: Arc::new(self.lab.clone()),
            changes: Arc::new(self.changes.clone()),
            tasks: Arc::new(self.tasks.clone()),
            inference: Arc::new(self.inference.clone()),
        }
    }
}

// === impl MemLab ===

impl MemLab {
    fn members(&self) -> Result<&Vec<Node>, ToolError> {
        let alone = || ToolError::new(ErrorCode::NotInitialised, "this node belongs to no cluster", "ollamax init");
        self.nodes.as_ref().ok_or_else(alone)
    }
}

impl Lab for MemLab {
    fn health(&self) -> NodeHealth {
        self.health.clone()
    }

    fn cluster(&self) -> Result<Cluster, ToolError> {
        Ok(self.cluster.clone())
    }

    fn nodes(&self) -> Result<Vec<Node>, ToolError> {
        self.members().cloned()
    }

    fn transfers(&self) -> Answer<Vec<Transfer>> {
        ready(self.members().map(|_| self.transfers.clone())).boxed()
    }

    fn models(&self) -> Result<Vec<Model>, ToolError> {
        self.members()?;
        Ok(self.models.clone())
    }

    fn model(&self, name: &str) -> Result<Model, ToolError> {
        let found = self.models()?.into_iter().find(|model| model.name == name);
        let missing = || ToolError::new(ErrorCode::ModelNotFound, format!("model {name:?} not found"), "list_models");
        found.ok_or_else(missing)
    }
}
