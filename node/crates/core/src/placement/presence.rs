//! Since when nodes are away or back, as one leader has watched it.
//!
//! Always holds: only time counts that the leader watched, from its first look in its term and at a node on, and not
//! what it slept through itself. So a leader that has just begun takes nobody for lost, and a node that flaps is
//! neither lost nor steady, however long it does. The shell gives the leader itself as alive.

use std::collections::BTreeMap;
use std::time::Duration;

use ollamax_types::NodeId;

use crate::health::Health;

/// Most time between two looks that counts, milliseconds; what is longer was a stall of the leader.
const GAP_MAX_MS: u64 = 15_000;

/// What one leader has seen of who is there.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    term: Option<u64>,
    last_ms: u64,
    nodes: BTreeMap<NodeId, Stay>,
}

/// In which state a node has been without interruption, and for how long that was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stay {
    is_here: bool,
    watched_ms: u64,
}

// === impl Presence ===

impl Presence {
    /// One look at all nodes. `now_ms` is monotonic; another term begins anew. Who is not alive is away.
    pub fn look(&mut self, now_ms: u64, term: u64, seen: &BTreeMap<NodeId, Health>) {
        if self.term != Some(term) {
            *self = Self { term: Some(term), last_ms: now_ms, nodes: BTreeMap::new() };
        }
        let gap_ms = now_ms.saturating_sub(self.last_ms).min(GAP_MAX_MS);
        let stay = |node: &NodeId, health: Health| {
            let is_here = health == Health::Alive;
            let same = self.nodes.get(node).filter(|before| before.is_here == is_here);
            Stay { is_here, watched_ms: same.map_or(0, |before| before.watched_ms.saturating_add(gap_ms)) }
        };
        self.nodes = seen.iter().map(|(node, health)| (*node, stay(node, *health))).collect();
        self.last_ms = now_ms;
    }

    /// Whether a node has been away for so long.
    #[must_use]
    pub fn lost(&self, node: NodeId, repair_after: Duration) -> bool {
        self.away_ms(node).is_some_and(|away_ms| u128::from(away_ms) >= repair_after.as_millis())
    }

    /// Whether a node has been there for so long, without interruption.
    #[must_use]
    pub fn steady(&self, node: NodeId, steady_for: Duration) -> bool {
        let stay = self.nodes.get(&node);
        stay.is_some_and(|stay| stay.is_here && u128::from(stay.watched_ms) >= steady_for.as_millis())
    }

    /// How long a node has been away; `None` while it is there, or was never looked at.
    #[must_use]
    pub fn away_ms(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).filter(|stay| !stay.is_here).map(|stay| stay.watched_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);

    /// A look each 10 s at node 2: `a` alive, `s` suspect, `d` dead, `u` unknown. Then how long it has been away, and
    /// whether it has been there for 20 s.
    fn check(looks: &str, expected: (Option<u64>, bool)) {
        let mut presence = Presence::default();
        for (turn, letter) in (0..).zip(looks.chars()) {
            let health = match letter {
                'a' => Health::Alive,
                's' => Health::Suspect,
                'd' => Health::Dead,
                _ => Health::Unknown,
            };
            presence.look(7_000 + turn * 10_000, 1, &BTreeMap::from([(TWO, health)]));
        }
        let told = (presence.away_ms(TWO), presence.steady(TWO, Duration::from_secs(20)));
        assert_eq!(told, expected, "{looks}");
    }

    #[test]
    fn time_counts_while_it_is_watched_without_interruption() {
        check("", (None, false));
        check("aa", (None, false));
        check("aaa", (None, true));
        check("aaasaa", (None, false));
        check("aaasaaa", (None, true));
        check("s", (Some(0), false));
        check("ssddd", (Some(40_000), false));
        check("uudd", (Some(30_000), false));
        check("sdads", (Some(10_000), false));
    }

    #[test]
    fn a_stall_of_the_leader_counts_little_and_another_term_begins_anew() {
        let away = BTreeMap::from([(TWO, Health::Dead)]);
        let mut presence = Presence::default();
        presence.look(0, 1, &away);
        presence.look(3_600_000, 1, &away);
        assert_eq!(presence.away_ms(TWO), Some(GAP_MAX_MS));
        assert!(presence.lost(TWO, Duration::from_secs(15)) && !presence.lost(TWO, Duration::from_secs(16)));
        presence.look(3_601_000, 2, &away);
        assert_eq!(presence.away_ms(TWO), Some(0));
        presence.look(3_602_000, 2, &BTreeMap::new());
        assert_eq!(presence.away_ms(TWO), None, "it is no member any more");
    }
}
