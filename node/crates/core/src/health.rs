//! Alive, suspect, dead: judged from frames that arrive four times a second.
//!
//! Always holds: a node is suspect only when this process was awake to hear it and heard nothing. A stall of this
//! process (stopped, swapped out, starved) shows as a late [`Book::tick`] and is forgiven to everybody, so that a
//! busy machine does not suspect the whole cluster. Suspect means last choice, not excluded. A lost link makes
//! suspect at once, until the next frame. Deliberately absent: votes of others; each node judges for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use ollamax_types::{NodeId, limits};

/// The book's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Silence after which a node is suspect.
    pub suspect_after: Duration,
    /// Silence after which a node is dead.
    pub dead_after: Duration,
    /// How often [`Book::tick`] is meant to be called.
    pub tick_every: Duration,
    /// How late a tick may be before it counts as a stall.
    pub late_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suspect_after: limits::SUSPECT_AFTER,
            dead_after: limits::DEAD_AFTER,
            tick_every: limits::BEAT_INTERVAL,
            late_after: Duration::from_millis(100),
        }
    }
}

/// What one node thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Heard in time.
    Alive,
    /// Never heard since this process started.
    Unknown,
    /// Silent, or its link broke: the last choice.
    Suspect,
    /// Silent for long.
    Dead,
}

impl Health {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Unknown => "unknown",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    last: Duration,
    link_lost: bool,
}

/// When each node was last heard. `now` is monotonic time since the process started.
#[derive(Debug, Clone)]
pub struct Book {
    config: Config,
    nodes: BTreeMap<NodeId, Heard>,
    last_tick: Option<Duration>,
}

// === impl Book ===

impl Book {
    /// An empty book.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, nodes: BTreeMap::new(), last_tick: None }
    }

    /// A frame of the node arrived.
    pub fn observe(&mut self, node: NodeId, now: Duration) {
        self.nodes.insert(node, Heard { last: now, link_lost: false });
    }

    /// The stream to the node broke or could not be opened. A node that was never heard counts as last heard now.
    pub fn lost_link(&mut self, node: NodeId, now: Duration) {
        self.nodes.entry(node).or_insert(Heard { last: now, link_lost: true }).link_lost = true;
    }

    /// Notices a stall of this process, and forgives every node as much silence.
    pub fn tick(&mut self, now: Duration) {
        let stall = self.stall(now);
        for heard in self.nodes.values_mut() {
            heard.last = heard.last.saturating_add(stall).min(now);
        }
        self.last_tick = Some(now);
    }

    /// How late the next tick is already; zero while that is within bounds.
    fn stall(&self, now: Duration) -> Duration {
        let Some(last_tick) = self.last_tick else { return Duration::ZERO };
        let late = now.saturating_sub(last_tick).saturating_sub(self.config.tick_every);
        if late > self.config.late_after { late } else { Duration::ZERO }
    }

    /// How long the node has been silent while this process was awake; `None` when it was never heard.
    #[must_use]
    pub fn silent_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        let heard = self.nodes.get(&node)?;
        Some(now.saturating_sub(heard.last).saturating_sub(self.stall(now)))
    }

    /// What to think of the node.
    #[must_use]
    pub fn health(&self, node: NodeId, now: Duration) -> Health {
        let (Some(heard), Some(silent)) = (self.nodes.get(&node), self.silent_for(node, now)) else {
            return Health::Unknown;
        };
        if silent >= self.config.dead_after {
            Health::Dead
        } else if heard.link_lost || silent >= self.config.suspect_after {
            Health::Suspect
        } else {
            Health::Alive
        }
    }

    /// Forgets all nodes but these.
    pub fn retain(&mut self, members: &[NodeId]) {
        self.nodes.retain(|node, _| members.contains(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Frame(NodeId),
        Lost(NodeId),
        Tick,
        /// What is thought of the node.
        Look(NodeId, Health),
    }

    use Event::{Frame, Look, Lost, Tick};
    use Health::{Alive, Dead, Suspect, Unknown};

    fn check(events: &[(u64, Event)]) {
        let mut book = Book::new(Config::default());
        for (at, (ms, event)) in events.iter().enumerate() {
            let now = Duration::from_millis(*ms);
            match event {
                Frame(node) => book.observe(*node, now),
                Lost(node) => book.lost_link(*node, now),
                Tick => book.tick(now),
                Look(node, expected) => assert_eq!(book.health(*node, now), *expected, "row {at} of {events:?}"),
            }
        }
    }

    /// Ticks on time from `from` to `to`.
    fn awake(from: u64, to: u64) -> Vec<(u64, Event)> {
        (from..=to).step_by(250).map(|ms| (ms, Tick)).collect()
    }

    #[test]
    fn silence_makes_suspect_and_then_dead_and_a_frame_makes_alive() {
        check(&[(0, Look(A, Unknown)), (0, Frame(A)), (799, Look(A, Alive)), (800, Look(A, Suspect))]);
        check(&[(0, Frame(A)), (29_999, Look(A, Suspect)), (30_000, Look(A, Dead)), (30_001, Look(B, Unknown))]);
        check(&[(0, Frame(A)), (31_000, Look(A, Dead)), (31_000, Frame(A)), (31_500, Look(A, Alive))]);
    }

    #[test]
    fn a_lost_link_is_suspect_at_once_until_the_next_frame() {
        check(&[(0, Frame(A)), (10, Lost(A)), (10, Look(A, Suspect)), (200, Frame(A)), (200, Look(A, Alive))]);
        check(&[(0, Lost(B)), (0, Look(B, Suspect)), (9_000, Lost(B)), (30_000, Look(B, Dead))]);
    }

    #[test]
    fn an_own_stall_is_forgiven_before_and_after_the_late_tick() {
        let mut events = vec![(0, Frame(A)), (50, Frame(B))];
        events.extend(awake(0, 250));
        // This process stands still from 250 to 5,300 ms, then asks before and after it ticks.
        events.extend([(5_300, Look(A, Alive)), (5_300, Tick), (5_300, Look(A, Alive)), (5_300, Look(B, Alive))]);
        // B speaks again, A does not.
        events.extend(awake(5_550, 6_050));
        events.extend([(5_600, Frame(B)), (5_599, Look(A, Alive)), (6_000, Look(A, Suspect)), (6_000, Look(B, Alive))]);
        events.sort_by_key(|(ms, _)| *ms);
        check(&events);
    }

    #[test]
    fn a_tick_a_little_late_forgives_nothing() {
        let late_ticks = (0..=800).step_by(340).map(|ms| (ms, Tick));
        let mut events = vec![(0, Frame(A))];
        events.extend(late_ticks);
        events.push((800, Look(A, Suspect)));
        check(&events);
    }

    #[test]
    fn a_node_that_left_is_unknown() {
        let mut book = Book::new(Config::default());
        book.observe(A, Duration::ZERO);
        book.observe(B, Duration::ZERO);
        book.retain(&[B]);
        assert_eq!((book.health(A, Duration::ZERO), book.health(B, Duration::ZERO)), (Unknown, Alive));
    }
}
