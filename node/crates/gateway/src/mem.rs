//! The ports in memory: a node that is what it was set to be, and keys that are drawn once.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{Phase, View, read};
use ollamax_core::placement::Site;
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{ModelName, NodeId, SecretKey};

use crate::ports::{Keys, Node, Readiness, Ring};

/// What the key of a node alone is called.
const OWN: &str = "own";

/// A node in memory. Clones are the same node.
#[derive(Clone, Default)]
pub struct MemNode(Arc<Mutex<Parts>>);

/// Keys in memory: one that was drawn, or none. Clones have the same one.
#[derive(Debug, Clone, Default)]
pub struct MemKeys(Option<Ring>);

#[derive(Default)]
struct Parts {
    name: String,
    scheduler: Option<scheduler::Handle>,
    transfer: Option<transfer::Handle>,
    sites: Vec<Site>,
    view: Option<Arc<MemView>>,
    is_starting: bool,
    readiness: Readiness,
}

// === impl MemNode ===

impl MemNode {
    /// A node of this name that belongs to no cluster.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let node = Self::default();
        name.clone_into(&mut node.parts().name);
        node
    }

    /// Makes it a member.
    pub fn join(&self, scheduler: scheduler::Handle, view: MemView) {
        let mut parts = self.parts();
        parts.scheduler = Some(scheduler);
        parts.view = Some(Arc::new(view));
    }

    /// Gives it an engine that pulls.
    pub fn set_transfer(&self, transfer: transfer::Handle) {
        self.parts().transfer = Some(transfer);
    }

    /// Sets which places there are for every model.
    pub fn set_sites(&self, sites: Vec<Site>) {
        self.parts().sites = sites;
    }

    /// Makes it a member whose engines do not run yet, or one that is no member.
    pub fn set_starting(&self, is_starting: bool) {
        self.parts().is_starting = is_starting;
    }

    /// Sets how it stands.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.parts().readiness = readiness;
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemNode({})", self.parts().name)
    }
}

impl Node for MemNode {
    fn name(&self) -> String {
        self.parts().name.clone()
    }

    fn name_of(&self, node: NodeId) -> Option<String> {
        let view = self.view()?;
        read::member(&*view, node).ok().flatten().map(|member| member.name)
    }

    fn scheduler(&self) -> Option<scheduler::Handle> {
        self.parts().scheduler.clone()
    }

    fn transfer(&self) -> Option<transfer::Handle> {
        self.parts().transfer.clone()
    }

    fn sites(&self, _: &ModelName) -> Vec<Site> {
        self.parts().sites.clone()
    }

    fn view(&self) -> Option<Arc<dyn View + Send + Sync>> {
        self.parts().view.clone().map(|view| view as Arc<dyn View + Send + Sync>)
    }

    fn phase(&self, model: &ModelName) -> Phase {
        let record = self.view().and_then(|view| read::model(&*view, model).ok().flatten());
        record.map_or(Phase::Active, |record| record.phase)
    }

    fn is_starting(&self) -> bool {
        self.parts().is_starting
    }

    fn readiness(&self) -> Readiness {
        self.parts().readiness.clone()
    }
}

// === impl MemKeys ===

impl MemKeys {
    /// Draws a key. Where the system gives no chance there is none, and nothing is sealed.
    #[must_use]
    pub fn draw() -> Self {
        let key = ollamax_security::random_bytes().ok().map(SecretKey::new);
        Self(key.map(|key| Ring { seals: OWN.to_owned(), keys: vec![(OWN.to_owned(), key)] }))
    }
}

impl Keys for MemKeys {
    fn ring(&self) -> Option<Ring> {
        self.0.clone()
    }
}
