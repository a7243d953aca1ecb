//! What the clients' door sees of its node. [`crate::mem`] holds the form for tests, the assembly the real one.

use std::sync::Arc;

use ollamax_core::catalog::{Phase, View};
use ollamax_core::placement::Site;
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{ModelName, NodeId, SecretKey};

/// The node behind the door. Every call answers at once, from what the node holds.
pub trait Node: Send + Sync + 'static {
    /// This node's name.
    fn name(&self) -> String;

    /// A member's name; `None` while the member table does not show it.
    fn name_of(&self, node: NodeId) -> Option<String>;

    /// Load, queues, dispatch; `None` until the node is a member of a cluster.
    fn scheduler(&self) -> Option<scheduler::Handle>;

    /// Pulls, here and on other nodes; `None` until the node is a member of a cluster.
    fn transfer(&self) -> Option<transfer::Handle>;

    /// The members, as places for this model; none until the node is a member of a cluster.
    fn sites(&self, model: &ModelName) -> Vec<Site>;

    /// The state that this node has applied; `None` until the node is a member of a cluster.
    fn view(&self) -> Option<Arc<dyn View + Send + Sync>>;

    /// Where a model stands in its life, as far as this node knows; active where it does not.
    fn phase(&self, model: &ModelName) -> Phase;

    /// Whether it is a member, where it has no scheduler, transfer and view: it will have them in a moment.
    fn is_starting(&self) -> bool;

    /// How the node stands.
    fn readiness(&self) -> Readiness;
}

/// The keys that seal what clients carry from one round of a call to the next. What one node has sealed, every node of
/// the cluster can open.
pub trait Keys: Send + Sync + 'static {
    /// All keys, as this node knows them now; `None` while there are none.
    fn ring(&self) -> Option<Ring>;
}

/// Keys by name, and which of them seals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// The name of the one that seals; it is among the keys.
    pub seals: String,
    /// All of them; each opens what it sealed.
    pub keys: Vec<(String, SecretKey)>,
}

/// How a node stands, from cached state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Everything that was to be started has been.
    pub started: bool,
    /// It finishes what runs and takes nothing new.
    pub stopping: bool,
    /// Its parts, in the order in which they are shown.
    pub components: Vec<Component>,
}

/// One part of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// For example `metadata`.
    pub name: &'static str,
    /// Whether it works.
    pub works: bool,
    /// What a part that does not work takes with it.
    pub needed: Needed,
    /// One line for people.
    pub detail: String,
}

/// What depends on a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// The process is of no use without it and should be restarted.
    ToLive,
    /// The node cannot serve without it.
    ToServe,
    /// It is shown only.
    Shown,
}

// === impl Readiness ===

impl Readiness {
    /// The process is worth keeping.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.components.iter().all(|part| part.works || part.needed != Needed::ToLive)
    }

    /// Clients may be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.started && !self.stopping && self.components.iter().all(|part| part.works || part.needed == Needed::Shown)
    }
}
