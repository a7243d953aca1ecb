//! What may be removed, as a plan: rules, guards, and the reason of each act.
//!
//! A plan is data: it is shown, and carried out act by act by whoever leads, and only while the rules are on. Always
//! holds, whatever the rules say: a model that is pinned, or that some node fetches just now, is in no act. No single
//! copy goes that is the last one of a version that is heard, nor one that is wanted, nor one that is loaded. As the
//! last one any copy counts, wherever it lies: its bytes are there. For the number that is wanted only those count that
//! belong where they are: the leader takes the others away as soon as it can. A model is disabled only while every node
//! with a copy says what it has loaded, and it is not among that. Only a model that was disabled before is deleted as a
//! whole, and none that is declared. When an act is applied, the guards of copies are kept again on the state of then.
//! A copy that was told to go is gone from its disk here, long before the disk says so. What is not known removes
//! nothing: a model that is not on record yet, a node that is not heard, a disk whose size nobody told, a rule without
//! a condition.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{DAY_MS, Digest, ModelName, NodeId, Timestamp};

use crate::catalog::{Command, Phase, PhaseWord, Replicas};

mod facts;
mod names;
mod removal;
mod rules;
mod sharing;
mod why;

pub use facts::{CopyFacts, Disk, Facts, ModelFacts, SiteFacts};
pub use names::{FORGOTTEN_NAMES_MAX, NamesPlan, OldName, names_now};
pub use removal::{Parting, Removal, going, removal};
pub use rules::{PATTERN_BYTES_MAX, RULES_MAX, Rule, Rules, Then};
pub use sharing::{Sharing, sharing};
pub use why::{Reason, why};

use rules::Held;

/// Most acts of one plan.
pub const ACTS_MAX: usize = 16;
/// How far [`foretell`] looks ahead, in days.
const DAYS_AHEAD_MAX: u32 = 366;

/// One thing that a rule would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// To which model.
    pub name: ModelName,
    /// On which node; `None`: in the whole cluster.
    pub node: Option<NodeId>,
    /// What.
    pub deed: Deed,
    /// Which rule says so; the first is 1.
    pub rule: usize,
    /// Why, for people: what was found, and what the rule says.
    pub why: String,
    /// What it frees on disks, as far as that is known: files that another model uses do not count.
    pub frees_bytes: u64,
}

/// What an act does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// The model gets the word that it should not be used any more.
    Deprecate,
    /// The model answers nobody any more.
    Disable,
    /// One copy goes.
    Drop,
    /// The wish for it and all copies go.
    Delete,
}

/// What a rule will do to a model if nothing changes until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// In how many days; 0: today.
    pub days: u32,
    /// What.
    pub act: Act,
}

/// What the rules would do now, at most [`ACTS_MAX`] acts: rule by rule, in each the model that was unused for longest
/// first, and never two for one model. Whether the rules are on is for whoever carries the plan out.
#[must_use]
pub fn plan(facts: &Facts, rules: &Rules) -> Vec<Act> {
    let mut state = Standing::of(facts);
    let mut models: Vec<&ModelFacts> = facts.models.iter().collect();
    models.sort_by_key(|model| (model.used_on(), model.name.key()));
    let mut acts = Vec::new();
    let mut touched = BTreeSet::new();
    for rule in rules.numbered() {
        for model in &models {
            if acts.len() >= ACTS_MAX {
                return acts;
            }
            if touched.contains(&model.name) {
                continue;
            }
            let Some(act) = state.act(rule, model, facts.now) else { continue };
            state.carry_out(model, &act);
            touched.insert(model.name.clone());
            acts.push(act);
        }
    }
    acts
}

/// What the rules will do next to one model if all stays as it is, within a year.
#[must_use]
pub fn foretell(facts: &Facts, rules: &Rules, name: &ModelName) -> Option<Coming> {
    let model = facts.models.iter().find(|model| model.name == *name)?;
    let state = Standing::of(facts);
    (0..=DAYS_AHEAD_MAX).find_map(|days| {
        let then = facts.now.plus_ms(u64::from(days) * DAY_MS);
        let act = rules.numbered().find_map(|rule| state.act(rule, model, then))?;
        Some(Coming { days, act })
    })
}

/// The state while acts of one plan are thought to be carried out.
struct Standing<'a> {
    sites: &'a BTreeMap<NodeId, SiteFacts>,
    /// The disks behind the acts so far, and without the copies that were told to go before.
    disks: BTreeMap<NodeId, Disk>,
    /// How many copies of a node stand on the same weights.
    sharers: BTreeMap<(NodeId, Digest), usize>,
}

// === impl Act ===

impl Act {
    /// The change of the state that carries it out.
    #[must_use]
    pub fn command(&self) -> Command {
        let name = self.name.clone();
        match self.deed {
            Deed::Deprecate => Command::SetPhase { name, phase: PhaseWord::Deprecated, note: self.why.clone() },
            Deed::Disable => Command::SetPhase { name, phase: PhaseWord::Disabled, note: self.why.clone() },
            Deed::Drop => {
                let nodes = self.node.into_iter().collect();
                Command::DropCopies { name, nodes, forget: false, force: false, unless_pinned: false }
            }
            Deed::Delete => {
                let (nodes, forget) = (Vec::new(), true);
                Command::DropCopies { name, nodes, forget, force: false, unless_pinned: false }
            }
        }
    }

    /// What it does, for people who call the nodes by these names.
    #[must_use]
    pub fn text(&self, names: &dyn Fn(NodeId) -> String) -> String {
        match (self.deed, self.node) {
            (Deed::Deprecate, _) => "deprecate it".to_owned(),
            (Deed::Disable, _) => "disable it".to_owned(),
            (Deed::Drop, Some(node)) => format!("remove the copy on {}", names(node)),
            (Deed::Drop, None) => "remove one copy".to_owned(),
            (Deed::Delete, _) => "delete it".to_owned(),
        }
    }
}

// === impl Coming ===

impl Coming {
    /// The same as a line of `why`.
    #[must_use]
    pub fn text(&self, names: &dyn Fn(NodeId) -> String) -> String {
        let when = match self.days {
            0 => "now".to_owned(),
            days => format!("in {}", why::count(u64::from(days), "day")),
        };
        format!("rule {} would {} {when}", self.act.rule, self.act.text(names))
    }
}

// === impl Standing ===

impl<'a> Standing<'a> {
    fn of(facts: &'a Facts) -> Self {
        let disks = facts.sites.iter().filter_map(|(node, site)| Some((*node, site.disk?))).collect();
        let copies = || facts.models.iter().flat_map(|model| &model.copies);
        let mut sharers: BTreeMap<(NodeId, Digest), usize> = BTreeMap::new();
        for copy in copies().filter(|copy| !copy.is_going) {
            *sharers.entry((copy.node, copy.weights)).or_default() += 1;
        }
        let mut going: BTreeMap<(NodeId, Digest), u64> = BTreeMap::new();
        for copy in copies().filter(|copy| copy.is_going && !sharers.contains_key(&(copy.node, copy.weights))) {
            let bytes = going.entry((copy.node, copy.weights)).or_default();
            *bytes = copy.size_bytes.max(*bytes);
        }
        let mut standing = Self { sites: &facts.sites, disks, sharers };
        for ((node, _), bytes) in going {
            standing.free(node, bytes);
        }
        standing
    }

    /// What a rule does to a model at a time.
    fn act(&self, (number, rule): (usize, &Rule), model: &ModelFacts, now: Timestamp) -> Option<Act> {
        if model.is_pinned || model.is_under_way || !rule.is_about(&model.name) {
            return None;
        }
        let mut held = rule.held(model, now)?;
        let (deed, node, frees_bytes) = match rule.then {
            Then::Deprecate => (self.mark(rule, model, Deed::Deprecate)?, None, 0),
            Then::Disable => (self.mark(rule, model, Deed::Disable)?, None, 0),
            Then::Delete => (self.mark(rule, model, Deed::Delete)?, None, self.all_bytes(model)),
            Then::DropCopy => {
                let copy = self.spare(rule, model)?;
                (Deed::Drop, Some(copy.node), self.frees_bytes(copy))
            }
        };
        if let Some(limit) = rule.disk_percent {
            held.push(self.disk_held(model, node, limit)?);
        }
        let why = rules::told(number, &held)?;
        Some(Act { name: model.name.clone(), node, deed, rule: number, why, frees_bytes })
    }

    /// The deed upon a whole model, where its guards let it be done. Only what holds this deed back is asked here.
    fn mark(&self, rule: &Rule, model: &ModelFacts, deed: Deed) -> Option<Deed> {
        let is_due = match deed {
            Deed::Deprecate => matches!(model.phase, Phase::Active),
            Deed::Disable => matches!(model.phase, Phase::Active | Phase::Deprecated(_)) && self.may_be_missed(model),
            Deed::Delete => matches!(model.phase, Phase::Disabled(_)) && self.may_be_deleted(model),
            Deed::Drop => false,
        };
        let is_loaded = model.copies.iter().any(|copy| self.is_loaded(model, copy.node));
        let is_full = rule.disk_percent.is_none_or(|limit| self.fullest(model).is_some_and(|full| full >= limit));
        (is_due && !is_loaded && is_full).then_some(deed)
    }

    /// No file says that it shall be there, and every node with a copy is heard: what it has loaded is known.
    fn may_be_missed(&self, model: &ModelFacts) -> bool {
        !model.is_declared && model.copies.iter().all(|copy| self.is_heard(copy.node))
    }

    /// The same, and some copy is not going already.
    fn may_be_deleted(&self, model: &ModelFacts) -> bool {
        self.may_be_missed(model) && model.copies.iter().any(|copy| !copy.is_going)
    }

    /// The copy that can be done without: of the fullest disk, and there the one that frees most.
    fn spare<'m>(&self, rule: &Rule, model: &'m ModelFacts) -> Option<&'m CopyFacts> {
        let helps = |copy: &CopyFacts| {
            let is_full = |limit: u32| self.percent(copy.node).is_some_and(|full| full >= limit);
            rule.disk_percent.is_none_or(|limit| is_full(limit) && self.frees_bytes(copy) > 0)
        };
        let spare = model.copies.iter().filter(|copy| self.may_go(model, copy) && helps(copy));
        spare.max_by_key(|copy| (self.percent(copy.node), self.frees_bytes(copy), Reverse(copy.node)))
    }

    /// Whether the others are enough when this copy goes. One that does not belong where it is goes, too, only behind
    /// as many as are wanted that do: until those are made, it stands in for one of them.
    fn may_go(&self, model: &ModelFacts, copy: &CopyFacts) -> bool {
        if copy.is_going || !self.is_heard(copy.node) || self.is_loaded(model, copy.node) {
            return false;
        }
        let stay = |other: &&CopyFacts| other.node != copy.node && !other.is_going && self.is_heard(other.node);
        let of = |digest: Digest| model.copies.iter().filter(stay).filter(move |other| other.digest == digest);
        let wanted_of = |digest: Digest| of(digest).filter(|other| other.belongs).count();
        let is_wanted = match &model.wanted {
            None => false,
            Some(Replicas::All) => true,
            Some(Replicas::Nodes(nodes)) => nodes.contains(&copy.node),
            Some(Replicas::Count(count)) => {
                model.digest.is_none_or(|digest| wanted_of(digest) < (*count).max(1) as usize)
            }
        };
        !is_wanted && of(copy.digest).next().is_some()
    }

    /// How full the disk is that a rule is about: that of the node of the act, else the fullest that has a copy.
    fn disk_held(&self, model: &ModelFacts, node: Option<NodeId>, limit: u32) -> Option<Held> {
        let full = node.map_or_else(|| self.fullest(model), |node| self.percent(node))?;
        Some(Held { found: format!("the disk is {full} % full"), limit })
    }

    fn fullest(&self, model: &ModelFacts) -> Option<u32> {
        let copies = model.copies.iter().filter(|copy| self.is_heard(copy.node));
        copies.filter_map(|copy| self.percent(copy.node)).max()
    }

    fn percent(&self, node: NodeId) -> Option<u32> {
        self.disks.get(&node).and_then(Disk::used_percent)
    }

    fn is_heard(&self, node: NodeId) -> bool {
        self.sites.get(&node).is_some_and(|site| site.is_heard)
    }

    fn is_loaded(&self, model: &ModelFacts, node: NodeId) -> bool {
        self.sites.get(&node).is_some_and(|site| site.loaded.contains(&model.name.key()))
    }

    /// What goes from the disk with a copy.
    fn frees_bytes(&self, copy: &CopyFacts) -> u64 {
        let is_shared = self.sharers.get(&(copy.node, copy.weights)).is_some_and(|sharers| *sharers > 1);
        if copy.is_going || is_shared { 0 } else { copy.size_bytes }
    }

    fn all_bytes(&self, model: &ModelFacts) -> u64 {
        model.copies.iter().fold(0, |sum: u64, copy| sum.saturating_add(self.frees_bytes(copy)))
    }

    /// Takes the copies of an act away, so that the next one is judged behind it.
    fn carry_out(&mut self, model: &ModelFacts, act: &Act) {
        let gone: Vec<&CopyFacts> = match act.deed {
            Deed::Deprecate | Deed::Disable => Vec::new(),
            Deed::Drop => model.copies.iter().filter(|copy| Some(copy.node) == act.node).collect(),
            Deed::Delete => model.copies.iter().filter(|copy| !copy.is_going).collect(),
        };
        for copy in gone {
            let frees_bytes = self.frees_bytes(copy);
            self.free(copy.node, frees_bytes);
            if let Some(sharers) = self.sharers.get_mut(&(copy.node, copy.weights)) {
                *sharers = sharers.saturating_sub(1);
            }
        }
    }

    fn free(&mut self, node: NodeId, bytes: u64) {
        if let Some(disk) = self.disks.get_mut(&node) {
            disk.free_bytes = disk.free_bytes.saturating_add(bytes).min(disk.total_bytes);
        }
    }
}

#[cfg(test)]
mod tests;
