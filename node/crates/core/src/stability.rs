//! Which nodes a leader may rely on since when, and how long it has not heard the others.
//!
//! Fed with what the leader sees at each look. Always: silence is only what this leader has watched, from its first
//! look in its term on, and from its first look at a node on; so nobody is taken for dead by a leader that has just
//! begun, nor because the leader itself was stopped for a while. Health counts while it is watched without
//! interruption: one bad look, and it begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use ollamax_types::{Knobs, NodeId};

/// Most time between two looks that counts as silence; what is longer was a stall of the leader.
const GAP_MAX: Duration = Duration::from_secs(15);

/// What a leader sees of a node at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Since it was heard; `None`: never by this leader.
    pub silence: Option<Duration>,
    /// Entries that it lies behind; `None`: it has not said.
    pub behind: Option<u64>,
}

/// What a leader makes of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// How long it was not heard while the leader watched.
    pub silent: Duration,
    /// How long it has been healthy without interruption; `None`: it is not healthy.
    pub healthy_for: Option<Duration>,
    /// It was healthy before, and then was not, in this leader's term.
    pub wavered: bool,
}

/// The looks of one leader, put together.
#[derive(Debug, Clone, Default)]
pub struct Stability {
    term: Option<u64>,
    last: Duration,
    nodes: BTreeMap<NodeId, Standing>,
}

// === impl Stability ===

impl Stability {
    /// One look at all nodes but the leader itself. `now` is monotonic; another term begins anew.
    pub fn look(
        &mut self,
        now: Duration,
        term: u64,
        seen: &BTreeMap<NodeId, Look>,
        knobs: &Knobs,
    ) -> &BTreeMap<NodeId, Standing> {
        if self.term != Some(term) {
            *self = Self { term: Some(term), last: now, nodes: BTreeMap::new() };
        }
        let gap = now.saturating_sub(self.last);
        let judged = seen.iter().map(|(node, look)| (*node, judge(self.nodes.get(node), *look, gap, knobs)));
        self.nodes = judged.collect();
        self.last = now;
        &self.nodes
    }
}

fn judge(before: Option<&Standing>, look: Look, gap: Duration, knobs: &Knobs) -> Standing {
    let watched = before.map_or(Duration::ZERO, |before| before.silent.saturating_add(gap.min(GAP_MAX)));
    let heard = look.silence.is_some_and(|silence| silence <= knobs.last_contact);
    let healthy = heard && look.behind.is_some_and(|behind| behind <= knobs.max_trailing_logs);
    let healthy_before = before.and_then(|before| before.healthy_for);
    // A look tells of the time since the last answer, not of all the time since the look before.
    let longer = |so_far: Duration| so_far.saturating_add(gap.min(knobs.last_contact));
    Standing {
        silent: look.silence.map_or(watched, |silence| silence.min(watched)),
        healthy_for: healthy.then(|| healthy_before.map_or(Duration::ZERO, longer)),
        wavered: before.is_some_and(|before| before.wavered) || (healthy_before.is_some() && !healthy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);

    /// A look each 500 ms at node 2. One letter each: `h` heard 100 ms ago, `l` heard and far behind, `s` silent since
    /// the last `h` or `l`, `n` never heard. Returns the last standing.
    fn after(looks: &str) -> Standing {
        let mut stability = Stability::default();
        let (mut now, mut heard) = (Duration::from_secs(1_000), None);
        let mut last = Standing::default();
        for letter in looks.chars() {
            now += Duration::from_millis(500);
            if matches!(letter, 'h' | 'l') {
                heard = Some(now - Duration::from_millis(100));
            }
            let look = Look {
                silence: heard.filter(|_| letter != 'n').map(|heard| now - heard),
                behind: (letter != 'n').then_some(if letter == 'l' { 251 } else { 250 }),
            };
            let standings = stability.look(now, 7, &BTreeMap::from([(TWO, look)]), &Knobs::default());
            last = standings[&TWO];
        }
        last
    }

    #[test]
    fn health_counts_while_it_is_watched_and_begins_anew_after_one_bad_look() {
        let check = |looks: &str, healthy_for: Option<u64>, wavered: bool| {
            let standing = after(looks);
            assert_eq!(standing.healthy_for, healthy_for.map(Duration::from_millis), "{looks}");
            assert_eq!(standing.wavered, wavered, "{looks}");
        };
        check("n", None, false);
        check("h", Some(0), false);
        check("hhh", Some(1_000), false);
        check("nnh", Some(0), false); // it was never healthy before
        check("lllh", Some(0), false); // a newcomer that catches up
        check("hs", Some(500), false); // within last_contact
        check("hss", None, true);
        check("hhhhssh", Some(0), true);
        check("hhhhlhh", Some(500), true);
        check("hsshsshsshhh", Some(1_000), true); // it flaps
    }

    #[test]
    fn silence_is_what_this_leader_has_watched() {
        let check = |looks: &str, expected: u64| {
            assert_eq!(after(looks).silent, Duration::from_millis(expected), "{looks}");
        };
        check("n", 0);
        check("nnnnn", 2_000);
        check("hhh", 100);
        check("hsss", 1_500);
        check("hsssh", 100);
        check("h", 0);
    }

    #[test]
    fn a_new_leader_and_one_that_was_stopped_do_not_take_others_for_dead() {
        let mut stability = Stability::default();
        let hour = Duration::from_secs(3_600);
        let seen = BTreeMap::from([(TWO, Look { silence: Some(hour), behind: Some(0) })]);
        let mut silent = |now: u64, term: u64| {
            stability.look(Duration::from_secs(now), term, &seen, &Knobs::default())[&TWO].silent.as_secs()
        };
        assert_eq!(silent(10_000, 3), 0);
        assert_eq!(silent(10_005, 3), 5);
        assert_eq!(silent(13_605, 3), 20, "an hour in which nobody looked");
        assert_eq!(silent(13_606, 4), 0, "another term");
        assert_eq!(silent(13_607, 4), 1);
    }

    #[test]
    fn a_node_that_came_later_is_silent_since_then() {
        let mut stability = Stability::default();
        let never = Look { silence: None, behind: None };
        let at = |stability: &mut Stability, now: u64, nodes: &[u64]| {
            let seen = nodes.iter().map(|id| (NodeId(*id), never)).collect();
            let standings = stability.look(Duration::from_secs(now), 1, &seen, &Knobs::default());
            standings.values().map(|standing| standing.silent.as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(at(&mut stability, 100, &[2]), [0]);
        assert_eq!(at(&mut stability, 110, &[2]), [10]);
        assert_eq!(at(&mut stability, 120, &[2, 3]), [20, 0]);
        assert_eq!(at(&mut stability, 125, &[3]), [5]);
        assert_eq!(at(&mut stability, 126, &[2, 3]), [0, 6], "it was gone meanwhile");
    }
}
