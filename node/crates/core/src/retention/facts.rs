//! What the rules are held against: models, their copies, and the nodes that hold them, at one moment.
//!
//! What the state knows is read by [`Facts::of`]; what only the nodes know of themselves is handed in. A model without
//! a record of its own is not among the facts: nobody knows since when it is there, and it gets its record soon.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Digest, ModelName, NodeId, Timestamp};

use crate::catalog::models::standing_digest;
use crate::catalog::{Fault, Location, Member, Model, Phase, Replicas, View, Wish, read};

/// Everything that a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Now.
    pub now: Timestamp,
    /// The models that have a record.
    pub models: Vec<ModelFacts>,
    /// The nodes; one that is missing is not heard.
    pub sites: BTreeMap<NodeId, SiteFacts>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Its name.
    pub name: ModelName,
    /// Where it stands in its life.
    pub phase: Phase,
    /// It stands for one version until somebody lifts that.
    pub is_pinned: bool,
    /// A file says that it shall be there.
    pub is_declared: bool,
    /// A node fetches it, or shall.
    pub is_under_way: bool,
    /// On which nodes it is wanted; `None`: nobody asked for it.
    pub wanted: Option<Replicas>,
    /// The version that is wanted, or served where nobody asked for one.
    pub digest: Option<Digest>,
    /// Who has it.
    pub copies: Vec<CopyFacts>,
    /// Day since 1970 on which it was used last; 0: not known.
    pub used_on: u32,
    /// When its record was made.
    pub noted_at: Timestamp,
    /// When its newest version came.
    pub version_at: Timestamp,
}

/// One node's copy of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFacts {
    /// Who has it.
    pub node: NodeId,
    /// Which version.
    pub digest: Digest,
    /// Its weights; the version itself where they are not known. Copies with the same share most of their bytes.
    pub weights: Digest,
    /// What it takes.
    pub size_bytes: u64,
    /// The node was told to remove it.
    pub is_going: bool,
    /// Nobody asked for the model, or the node is one on which it may be: not one that is being emptied, nor one that
    /// the wish keeps away from.
    pub belongs: bool,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteFacts {
    /// The disk of its models; `None` where that is not known.
    pub disk: Option<Disk>,
    /// It is heard just now, and its runtime answers: what it has loaded is known.
    pub is_heard: bool,
    /// Keys (`ModelName::key`) of the models that its runtime has loaded.
    pub loaded: BTreeSet<String>,
}

/// The disk of a node's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub total_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

// === impl Facts ===

impl Facts {
    /// What is on record, with what the nodes say of themselves.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn of(view: &dyn View, now: Timestamp, sites: BTreeMap<NodeId, SiteFacts>) -> Result<Self, Fault> {
        let mut copies: BTreeMap<String, Vec<Location>> = BTreeMap::new();
        for location in read::locations(view)? {
            copies.entry(location.model.name.key()).or_default().push(location);
        }
        let wishes: BTreeMap<String, Wish> =
            read::wishes(view)?.into_iter().map(|wish| (wish.name.key(), wish)).collect();
        let members: BTreeMap<NodeId, Member> =
            read::members(view)?.into_iter().map(|member| (member.id, member)).collect();
        let mut models = Vec::new();
        for model in read::models(view)? {
            let key = model.name.key();
            let version_at = read::version(view, &model.name, model.head)?.map(|version| version.at);
            let copies = copies.remove(&key).unwrap_or_default();
            let wish = wishes.get(&key);
            let suits = |node: NodeId| {
                wish.is_none_or(|wish| members.get(&node).is_some_and(|member| member.suits(&wish.want)))
            };
            models.push(ModelFacts::of(model, version_at, wish, (&copies, &suits)));
        }
        Ok(Self { now, models, sites })
    }
}

// === impl ModelFacts ===

impl ModelFacts {
    /// `suits` says whether a copy belongs on a node.
    fn of(
        model: Model,
        version_at: Option<Timestamp>,
        wish: Option<&Wish>,
        (copies, suits): (&[Location], &dyn Fn(NodeId) -> bool),
    ) -> Self {
        let pin = model.pinned();
        let fact = |copy: &Location| CopyFacts {
            node: copy.node,
            digest: copy.model.digest,
            weights: copy.model.weights,
            size_bytes: copy.model.size_bytes,
            is_going: model.drop_of(copy.node, copy.model.digest).is_some(),
            belongs: suits(copy.node),
        };
        Self {
            is_pinned: pin.is_some(),
            is_declared: wish.is_some_and(|wish| wish.declared),
            is_under_way: wish.is_some_and(|wish| is_under_way(wish, copies)),
            wanted: wish.map(|wish| wish.replicas.clone()),
            digest: wish.and_then(|wish| wish.digest).or_else(|| standing_digest(copies, pin)),
            copies: copies.iter().map(fact).collect(),
            used_on: model.used_on,
            noted_at: model.noted_at,
            version_at: version_at.unwrap_or(model.noted_at),
            name: model.name,
            phase: model.phase,
        }
    }

    /// Day since 1970 on which it was used last, or came to be known where no use is.
    #[must_use]
    pub fn used_on(&self) -> u32 {
        if self.used_on == 0 { self.noted_at.day() } else { self.used_on }
    }
}

/// Whether a node that is planned has neither the version nor told why not.
fn is_under_way(wish: &Wish, copies: &[Location]) -> bool {
    let (Some(plan), Some(digest)) = (&wish.plan, wish.digest) else { return true };
    let has = |node: NodeId| copies.iter().any(|copy| copy.node == node && copy.model.digest == digest);
    !plan.targets.iter().all(|node| has(*node) || wish.failures.contains_key(node))
}

// === impl Disk ===

impl Disk {
    /// How full it is, in whole percent; `None` for a disk without a size.
    #[must_use]
    pub fn used_percent(&self) -> Option<u32> {
        let used = u128::from(self.total_bytes.saturating_sub(self.free_bytes));
        let percent = (used * 100).checked_div(u128::from(self.total_bytes))?;
        u32::try_from(percent).ok()
    }
}
