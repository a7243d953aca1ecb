//! What this node knows of the others: their newest beats, whether they are alive, and what it sent them itself.
//!
//! One lock over all of it, never held across an await. Between two beats a router counts its own requests, or every
//! router would send a burst to the same idle node; once a beat can have counted them they are no longer added, and a
//! request that ended since the beat is taken off again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ollamax_core::health::{self, Book, Health};
use ollamax_types::{Beat, Digest, NodeId, Timestamp};

use crate::config::Config;

/// A request sent this long before a beat arrived is taken to be counted in it.
const COUNTED_AFTER: Duration = Duration::from_millis(50);

/// What this node knows of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLoad {
    /// Its newest frame.
    pub beat: Arc<Beat>,
    /// Whether it is alive.
    pub health: Health,
    /// Time since that frame, without this process's own stalls, milliseconds.
    pub silent_ms: u64,
    /// Its wall clock less ours when the frame arrived, milliseconds.
    pub clock_skew_ms: i64,
}

/// What routing needs of one node and its runner of some weights.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) health: Health,
    pub(crate) beat: Option<Arc<Beat>>,
    /// Sent from here and not yet counted in the beat.
    pub(crate) sent_since: u32,
    /// Counted in the beat and over since.
    pub(crate) ended_since: u32,
}

/// The load view.
#[derive(Debug)]
pub(crate) struct LoadView {
    own: NodeId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    book: Book,
    /// The members that have not departed, as last told.
    members: Vec<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    sent: BTreeMap<(NodeId, Digest), Sent>,
    next: u64,
}

#[derive(Debug)]
struct Peer {
    beat: Arc<Beat>,
    clock_skew_ms: i64,
}

/// Requests of this router at one node's runner.
#[derive(Debug, Default)]
struct Sent {
    /// By number, which grows with time: when each was sent.
    fresh: BTreeMap<u64, Duration>,
    counted: u32,
    ended_since: u32,
}

/// One request on its way; dropping it takes it off the count.
#[derive(Debug)]
pub(crate) struct Sending {
    view: Arc<LoadView>,
    node: NodeId,
    weights: Digest,
    number: u64,
}

// === impl LoadView ===

impl LoadView {
    pub(crate) fn new(own: NodeId, config: &Config, tick_every: Duration) -> Self {
        let health = health::Config {
            suspect_after: Duration::from_millis(config.suspect_after_ms),
            dead_after: Duration::from_millis(config.dead_after_ms),
            tick_every,
            ..health::Config::default()
        };
        let book = Book::new(health);
        let state = State { book, members: Vec::new(), peers: BTreeMap::new(), sent: BTreeMap::new(), next: 0 };
        Self { own, state: Mutex::new(state) }
    }

    pub(crate) fn observe(&self, beat: Beat, now: Duration, wall: Timestamp) {
        let node = beat.node;
        if node == self.own {
            return;
        }
        let clock_skew_ms = beat.sent_at.0.cast_signed().saturating_sub(wall.0.cast_signed());
        let mut state = self.lock();
        state.book.observe(node, now);
        state.peers.insert(node, Peer { beat: Arc::new(beat), clock_skew_ms });
        let counted_before = now.saturating_sub(COUNTED_AFTER);
        let of_node = (node, Digest([0; 32]))..=(node, Digest([u8::MAX; 32]));
        for (_, sent) in state.sent.range_mut(of_node) {
            sent.counted_by_beat(counted_before);
        }
        state.sent.retain(|_, sent| !sent.is_empty());
    }

    pub(crate) fn lost_link(&self, node: NodeId, now: Duration) {
        if node != self.own {
            self.lock().book.lost_link(node, now);
        }
    }

    pub(crate) fn tick(&self, now: Duration) {
        self.lock().book.tick(now);
    }

    pub(crate) fn retain(&self, members: &[NodeId]) {
        let mut state = self.lock();
        state.book.retain(members);
        state.peers.retain(|node, _| members.contains(node));
        state.sent.retain(|(node, _), _| members.contains(node));
        members.clone_into(&mut state.members);
    }

    /// What is thought of each other member, those that were never heard among them.
    pub(crate) fn others(&self, now: Duration) -> Vec<Health> {
        let state = self.lock();
        let others = state.members.iter().filter(|node| **node != self.own);
        others.map(|node| state.book.health(*node, now)).collect()
    }

    pub(crate) fn health(&self, node: NodeId, now: Duration) -> Health {
        if node == self.own { Health::Alive } else { self.lock().book.health(node, now) }
    }

    /// How long the node has been silent; zero when nobody tried to hear it yet, as nothing was missed then.
    pub(crate) fn silent_for(&self, node: NodeId, now: Duration) -> Duration {
        self.lock().book.silent_for(node, now).unwrap_or_default()
    }

    pub(crate) fn peers(&self, now: Duration) -> Vec<PeerLoad> {
        let state = self.lock();
        let shown = state.peers.iter().map(|(node, peer)| PeerLoad {
            beat: Arc::clone(&peer.beat),
            health: state.book.health(*node, now),
            silent_ms: whole_ms(state.book.silent_for(*node, now).unwrap_or_default()),
            clock_skew_ms: peer.clock_skew_ms,
        });
        shown.collect()
    }

    pub(crate) fn seen(&self, node: NodeId, weights: Digest, now: Duration) -> Seen {
        let state = self.lock();
        let sent = state.sent.get(&(node, weights));
        Seen {
            health: state.book.health(node, now),
            beat: state.peers.get(&node).map(|peer| Arc::clone(&peer.beat)),
            sent_since: sent.map_or(0, |sent| u32::try_from(sent.fresh.len()).unwrap_or(u32::MAX)),
            ended_since: sent.map_or(0, |sent| sent.ended_since),
        }
    }

    /// Counts a request that goes to a node, until the guard is dropped.
    pub(crate) fn send(self: &Arc<Self>, node: NodeId, weights: Digest, now: Duration) -> Sending {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.sent.entry((node, weights)).or_default().fresh.insert(number, now);
        Sending { view: Arc::clone(self), node, weights, number }
    }

    fn ended(&self, sending: &Sending) {
        let key = (sending.node, sending.weights);
        let mut state = self.lock();
        let Some(sent) = state.sent.get_mut(&key) else { return };
        if sent.fresh.remove(&sending.number).is_none() {
            sent.counted = sent.counted.saturating_sub(1);
            sent.ended_since += 1;
        }
        if sent.is_empty() {
            state.sent.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sent ===

impl Sent {
    /// A beat arrived that counts whatever was sent before `moment`, and no longer what ended.
    fn counted_by_beat(&mut self, moment: Duration) {
        while let Some(first) = self.fresh.first_entry().filter(|first| *first.get() <= moment) {
            first.remove();
            self.counted += 1;
        }
        self.ended_since = 0;
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.counted == 0 && self.ended_since == 0
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.view.ended(self);
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
