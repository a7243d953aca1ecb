//! Nodes in quarantine, as far as one file is concerned: linked and heard, and asked only where nobody else will do.
//!
//! The swarm knows nothing of a node that is left alone; what it has is noted, so that it can be asked at once. Always
//! holds: a node in quarantine is asked while no other linked node has anything that is missing, or none has given
//! anything for long; never beside one that does. What it sends is proved as everywhere, so it costs time at most.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_core::transfer_plan::swarm::{Action, Event};
use ollamax_types::NodeId;

use crate::haves::runs;
use crate::trust::Trusting;

use super::Conduct;

/// How long nobody else has what is missing before a node in quarantine is asked for it.
pub(super) const LAST_CHOICE_AFTER: Duration = Duration::from_secs(2);
/// How long others that have what is missing may give nothing of it.
const GIVEN_WITHIN: Duration = Duration::from_secs(30);

/// Who is left alone for a while.
pub(super) struct Shunned {
    /// They are linked, and the swarm does not know it.
    peers: BTreeSet<NodeId>,
    /// When others last gave a chunk, or had none to give.
    given_at: Instant,
    /// When others last did what there is to do.
    served_at: Instant,
    /// It was written to the log that one is asked all the same.
    is_told: bool,
}

// === impl Shunned ===

impl Shunned {
    pub(super) const fn new(now: Instant) -> Self {
        Self { peers: BTreeSet::new(), given_at: now, served_at: now, is_told: false }
    }

    /// A node is linked. Whether it is left alone.
    pub(super) fn keeps_out(&mut self, peer: NodeId, trust: &Trusting) -> bool {
        let is_kept_out = !trust.may_ask(peer);
        if is_kept_out {
            self.peers.insert(peer);
        }
        is_kept_out
    }

    /// Whether a node is left alone.
    pub(super) fn holds(&self, peer: NodeId) -> bool {
        self.peers.contains(&peer)
    }

    /// A node is linked no more.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// A node gave a chunk.
    pub(super) fn gave(&mut self, peer: NodeId, trust: &Trusting) {
        if trust.may_ask(peer) {
            self.given_at = Instant::now();
        }
    }

    /// Nobody can give anything, since a limit of this node keeps it back.
    pub(super) fn wait(&mut self) {
        self.given_at = Instant::now();
    }

    /// Whether nodes in quarantine are to be asked. `has_other`: another linked node has something that is missing.
    fn is_last_choice(&mut self, has_other: bool) -> bool {
        if !has_other {
            self.given_at = Instant::now();
        } else if self.given_at.elapsed() < GIVEN_WITHIN {
            self.served_at = Instant::now();
        }
        self.served_at.elapsed() >= LAST_CHOICE_AFTER
    }
}

// === impl Conduct ===

impl Conduct {
    /// Leaves those alone that are in quarantine by now, and asks those that are not any more, or must be.
    pub(super) fn sort_out(&mut self) -> Vec<Action> {
        let trust = &self.shared.receiving.trust;
        let in_quarantine = |peer: &NodeId| !trust.may_ask(*peer);
        let quarantined: BTreeSet<NodeId> = self.linked.keys().copied().filter(in_quarantine).collect();
        if quarantined.is_empty() && self.shunned.peers.is_empty() {
            let now = Instant::now();
            (self.shunned.given_at, self.shunned.served_at) = (now, now);
            return Vec::new();
        }
        let useful: BTreeSet<NodeId> = self.linked.keys().copied().filter(|peer| self.is_useful(*peer)).collect();
        let is_last_choice = self.shunned.is_last_choice(useful.difference(&quarantined).next().is_some());
        let mut actions = Vec::new();
        for peer in self.linked.keys().copied().collect::<Vec<_>>() {
            let is_in_quarantine = quarantined.contains(&peer);
            let is_asked = !is_in_quarantine || (is_last_choice && useful.contains(&peer));
            if is_asked && self.shunned.holds(peer) {
                if is_in_quarantine {
                    self.tell_last_choice(peer);
                }
                actions.extend(self.admit(peer));
            } else if is_in_quarantine && !is_last_choice && !self.shunned.holds(peer) {
                actions.extend(self.shun(peer));
            }
        }
        actions
    }

    /// Whether a node has something that is missing, and of which it is known what it must be.
    pub(super) fn is_useful(&self, peer: NodeId) -> bool {
        let (proof, have) = (self.shared.proof(), self.swarm.have());
        let is_missing = |index: u32| !have.get(index) && proof.hash_of(index).is_some();
        self.has.get(&peer).is_some_and(|has| has.runs().flatten().any(is_missing))
    }

    /// A node is asked from now on.
    fn admit(&mut self, peer: NodeId) -> Vec<Action> {
        self.shunned.forget(peer);
        let mut actions = self.tell(Event::Joined { peer });
        let proof = self.shared.proof();
        let known = self.has.get(&peer).map(|has| {
            let known = has.runs().flatten().filter(|index| proof.hash_of(*index).is_some());
            runs(known.collect())
        });
        for extent in known.unwrap_or_default() {
            actions.extend(self.tell(Event::Has { peer, extent }));
        }
        actions
    }

    /// A node is asked no more, and nothing more is expected of it.
    fn shun(&mut self, peer: NodeId) -> Vec<Action> {
        self.shunned.peers.insert(peer);
        self.asked.values().filter(|asked| asked.peer == peer).for_each(|asked| asked.cancel.cancel());
        self.asked.retain(|_, asked| asked.peer != peer);
        self.tell(Event::Gone { peer })
    }

    /// Once for each file.
    fn tell_last_choice(&mut self, peer: NodeId) {
        if !self.shunned.is_told {
            self.shunned.is_told = true;
            let sha256 = self.shared.blob().sha256;
            tracing::info!(%peer, %sha256, "a node in quarantine is asked all the same: no other node gives the file");
        }
    }
}
