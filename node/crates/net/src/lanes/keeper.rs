//! Whom to dial so that lanes can be had, and when. Pure: time is handed in, jitter comes from a seed.
//!
//! Every member is wanted on a direct connection: it is dialled at its direct addresses, and when they fail through a
//! relay; while only a relayed connection stands, the direct addresses are tried again at intervals. Failures double
//! the wait up to half a minute, and so do direct connections in a row that the other end did not keep (it speaks no
//! lanes, or does not take this node for a member). Few dials run at once, so a cluster that comes back does not flood
//! its relays.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use super::address::Target;
use crate::peer::Way;

/// Most dials at once. The relay client drops circuits that are asked for beyond ten at one relay.
const DIALS_MAX: usize = 8;
/// Wait after the first failure.
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest wait after a connection that ended, so that not everybody dials a restarted node at once.
const AFTER_END_MAX: Duration = Duration::from_millis(500);
/// A direct connection that both ends hold lasts longer; one that is held by one end alone ends as idle before, also
/// where that end relays, which holds it for some seconds more.
const KEPT_AFTER: Duration = Duration::from_secs(60);
/// Into how many steps jitter is cut.
const SHARES: u32 = 64;

/// A member and where it can be had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Member {
    pub(crate) direct: Vec<Target>,
    /// Members that relay for it.
    pub(crate) relays: Vec<PeerId>,
}

/// How a node is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Circuit,
}

/// One dial to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) who: PeerId,
    pub(crate) kind: Kind,
}

/// What is known of the dials to each member.
#[derive(Debug)]
pub(crate) struct Keeper {
    direct_again: Duration,
    seed: u64,
    tries: BTreeMap<PeerId, Try>,
}

#[derive(Debug)]
struct Try {
    due: Instant,
    running: Option<Kind>,
    /// What comes next while no connection stands.
    next: Kind,
    failures: u32,
    /// Since when a direct connection stands.
    since: Option<Instant>,
    /// Direct connections in a row that did not last.
    brief: u32,
}

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new(direct_again: Duration, seed: u64) -> Self {
        Self { direct_again, seed, tries: BTreeMap::new() }
    }

    /// The dials to begin now; they count as running.
    pub(crate) fn due(
        &mut self,
        members: &BTreeMap<PeerId, Member>,
        best: impl Fn(&PeerId) -> Option<Way>,
        now: Instant,
    ) -> Vec<Dial> {
        self.tries.retain(|who, _| members.contains_key(who));
        let mut places = DIALS_MAX.saturating_sub(self.tries.values().filter(|one| one.running.is_some()).count());
        let mut dials = Vec::new();
        for (who, member) in members {
            if places == 0 {
                break;
            }
            let one = self.tries.entry(*who).or_insert_with(|| Try::new(now));
            if one.running.is_some() || now < one.due {
                continue;
            }
            let Some(kind) = wanted(best(who), member, one.next) else { continue };
            one.running = Some(kind);
            places -= 1;
            dials.push(Dial { who: *who, kind });
        }
        dials
    }

    /// A dial came to nothing.
    pub(crate) fn failed(&mut self, dial: Dial, best: Option<Way>, has_relays: bool, now: Instant) {
        let Some(one) = self.tries.get_mut(&dial.who) else { return };
        one.running = None;
        if best.is_some() {
            one.due = now + self.direct_again;
            return;
        }
        if dial.kind == Kind::Direct && has_relays {
            (one.next, one.due) = (Kind::Circuit, now);
            return;
        }
        one.failures = one.failures.saturating_add(1);
        (one.next, one.due) = (Kind::Direct, now + wait_after(self.seed, &dial.who, one.failures));
    }

    /// A dial was not begun, because another one to the same node runs.
    pub(crate) fn postponed(&mut self, who: &PeerId, now: Instant) {
        if let Some(one) = self.tries.get_mut(who) {
            (one.running, one.due) = (None, now + WAIT);
        }
    }

    /// A connection stands, whoever dialled.
    pub(crate) fn connected(&mut self, who: &PeerId, way: Way, now: Instant) {
        if let Some(one) = self.tries.get_mut(who) {
            // A direct dial that still runs beside a circuit ends by itself, and says how.
            if way != Way::Relayed || one.running == Some(Kind::Circuit) {
                one.running = None;
            }
            (one.next, one.failures) = (Kind::Direct, 0);
            if way == Way::Relayed {
                (one.since, one.due) = (None, now + self.direct_again);
            } else {
                one.since.get_or_insert(now);
                one.due = now;
            }
        }
    }

    /// No connection stands any more. That is no failure, unless direct ones end soon again and again.
    pub(crate) fn ended(&mut self, who: &PeerId, now: Instant) {
        let Some(one) = self.tries.get_mut(who) else { return };
        let was_brief = one.since.take().is_some_and(|since| now.duration_since(since) < KEPT_AFTER);
        let wait = match one.brief {
            turns @ 1.. if was_brief => wait_after(self.seed, who, turns),
            _ => AFTER_END_MAX * share(self.seed, who, 0) / SHARES,
        };
        one.brief = if was_brief { one.brief.saturating_add(1) } else { 0 };
        (one.next, one.failures, one.due) = (Kind::Direct, 0, now + wait);
    }

    /// The member has told other addresses: what failed at the old ones says nothing.
    pub(crate) fn changed(&mut self, who: &PeerId, now: Instant) {
        if let Some(one) = self.tries.get_mut(who) {
            (one.next, one.failures, one.brief, one.due) = (Kind::Direct, 0, 0, now);
        }
    }
}

// === impl Try ===

impl Try {
    fn new(now: Instant) -> Self {
        Self { due: now, running: None, next: Kind::Direct, failures: 0, since: None, brief: 0 }
    }
}

fn wanted(best: Option<Way>, member: &Member, next: Kind) -> Option<Kind> {
    let direct = (!member.direct.is_empty()).then_some(Kind::Direct);
    let circuit = (!member.relays.is_empty()).then_some(Kind::Circuit);
    match (best, next) {
        (Some(Way::Tcp | Way::P2p), _) => None,
        (Some(Way::Relayed), _) => direct,
        (None, Kind::Direct) => direct.or(circuit),
        (None, Kind::Circuit) => circuit.or(direct),
    }
}

/// Doubles with each turn; three quarters to all of it.
fn wait_after(seed: u64, who: &PeerId, turns: u32) -> Duration {
    let doubled = WAIT * 2_u32.saturating_pow(turns.saturating_sub(1).min(10));
    let wait = doubled.min(WAIT_MAX);
    wait - wait / 4 * share(seed, who, turns) / SHARES
}

/// 0 to `SHARES`, the same for the same arguments.
fn share(seed: u64, who: &PeerId, turn: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    (seed, who, turn).hash(&mut hasher);
    u32::try_from(hasher.finish() % (u64::from(SHARES) + 1)).expect("at most SHARES")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Duration = Duration::from_secs(30);
    const SEED: u64 = 7;

    fn member(direct: bool, relays: bool) -> Member {
        let target = Target::Ready("/ip4/10.0.0.7/tcp/1".parse().unwrap());
        Member {
            direct: direct.then_some(target).into_iter().collect(),
            relays: relays.then(PeerId::random).into_iter().collect(),
        }
    }

    fn one_member(direct: bool, relays: bool) -> (PeerId, BTreeMap<PeerId, Member>) {
        let who = PeerId::random();
        (who, BTreeMap::from([(who, member(direct, relays))]))
    }

    /// The kinds that are due, and marks them as running.
    fn kinds(keeper: &mut Keeper, members: &BTreeMap<PeerId, Member>, best: Option<Way>, now: Instant) -> Vec<Kind> {
        keeper.due(members, |_| best, now).iter().map(|dial| dial.kind).collect()
    }

    #[test]
    fn what_is_wanted_depends_on_what_stands_and_what_is_told() {
        use Kind::{Circuit, Direct};
        let rows = [
            (None, true, true, Direct, Some(Direct)),
            (None, true, true, Circuit, Some(Circuit)),
            (None, false, true, Direct, Some(Circuit)),
            (None, true, false, Circuit, Some(Direct)),
            (None, false, false, Direct, None),
            (Some(Way::Relayed), true, true, Circuit, Some(Direct)),
            (Some(Way::Relayed), false, true, Direct, None),
            (Some(Way::P2p), true, true, Direct, None),
        ];
        for (best, direct, relays, next, expected) in rows {
            assert_eq!(wanted(best, &member(direct, relays), next), expected, "{best:?} {direct} {relays} {next:?}");
        }
    }

    #[test]
    fn direct_addresses_come_first_and_then_the_circuit_at_once() {
        let (mut keeper, now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let (who, members) = one_member(true, true);
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct]);
        assert_eq!(kinds(&mut keeper, &members, None, now), [], "one dial at a time");
        keeper.failed(Dial { who, kind: Kind::Direct }, None, true, now);
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Circuit]);
        keeper.connected(&who, Way::Relayed, now);
        let relayed = Some(Way::Relayed);
        assert_eq!(kinds(&mut keeper, &members, relayed, now + AGAIN / 2), []);
        assert_eq!(kinds(&mut keeper, &members, relayed, now + AGAIN), [Kind::Direct]);
        keeper.failed(Dial { who, kind: Kind::Direct }, relayed, true, now + AGAIN);
        assert_eq!(kinds(&mut keeper, &members, relayed, now + AGAIN), []);
        assert_eq!(kinds(&mut keeper, &members, relayed, now + AGAIN * 2), [Kind::Direct]);
        keeper.connected(&who, Way::P2p, now + AGAIN * 2);
        assert_eq!(kinds(&mut keeper, &members, Some(Way::P2p), now + AGAIN * 9), []);
    }

    #[test]
    fn the_wait_doubles_up_to_half_a_minute() {
        let (mut keeper, mut now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let (who, members) = one_member(true, false);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct], "{seconds}");
            keeper.failed(Dial { who, kind: Kind::Direct }, None, false, now);
            let wait = Duration::from_secs(seconds);
            assert_eq!(kinds(&mut keeper, &members, None, now + wait * 7 / 10), [], "{seconds}: too early");
            now += wait;
        }
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct]);
    }

    #[test]
    fn other_addresses_and_an_ended_connection_make_a_member_due() {
        let (mut keeper, now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let (who, members) = one_member(true, false);
        for failures in 0..5 {
            assert_eq!(kinds(&mut keeper, &members, None, now + AGAIN * failures), [Kind::Direct]);
            keeper.failed(Dial { who, kind: Kind::Direct }, None, false, now + AGAIN * failures);
        }
        let now = now + AGAIN * 4;
        assert_eq!(kinds(&mut keeper, &members, None, now), []);
        keeper.changed(&who, now);
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct]);
        keeper.connected(&who, Way::P2p, now);
        keeper.ended(&who, now);
        assert_eq!(kinds(&mut keeper, &members, None, now + AFTER_END_MAX), [Kind::Direct]);
        keeper.postponed(&who, now + AFTER_END_MAX);
        assert_eq!(kinds(&mut keeper, &members, None, now + AFTER_END_MAX), []);
        assert_eq!(kinds(&mut keeper, &members, None, now + AFTER_END_MAX + WAIT), [Kind::Direct]);
    }

    #[test]
    fn who_does_not_keep_its_connections_is_dialled_ever_less_often() {
        let (mut keeper, mut now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let (who, members) = one_member(true, false);
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct]);
        // It takes the connection, and lets it end as idle.
        let brief = |keeper: &mut Keeper, now: &mut Instant, lasts: Duration| {
            keeper.connected(&who, Way::P2p, *now);
            // The second one of two that were dialled at once changes nothing.
            keeper.connected(&who, Way::P2p, *now + lasts / 2);
            *now += lasts;
            keeper.ended(&who, *now);
        };
        let idle = Duration::from_secs(5);
        for wait in [AFTER_END_MAX, WAIT, WAIT * 2, WAIT * 4, WAIT * 8, WAIT * 16, WAIT_MAX, WAIT_MAX] {
            brief(&mut keeper, &mut now, idle);
            if wait > AFTER_END_MAX {
                assert_eq!(kinds(&mut keeper, &members, None, now + wait * 7 / 10), [], "{wait:?}: too early");
            }
            now += wait;
            assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct], "{wait:?}");
        }
        // One that has lasted, or other addresses, and all is as at first.
        brief(&mut keeper, &mut now, KEPT_AFTER);
        assert_eq!(kinds(&mut keeper, &members, None, now + AFTER_END_MAX), [Kind::Direct]);
        now += AFTER_END_MAX;
        for _ in 0..3 {
            brief(&mut keeper, &mut now, idle);
        }
        assert_eq!(kinds(&mut keeper, &members, None, now + WAIT), []);
        keeper.changed(&who, now);
        assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Direct]);
    }

    #[test]
    fn a_circuit_that_ends_at_its_bounds_is_made_again_at_once_however_often() {
        let (mut keeper, mut now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let (who, members) = one_member(false, true);
        for _ in 0..4 {
            assert_eq!(kinds(&mut keeper, &members, None, now), [Kind::Circuit]);
            keeper.connected(&who, Way::Relayed, now);
            keeper.ended(&who, now);
            now += AFTER_END_MAX;
        }
    }

    #[test]
    fn dials_are_bounded_and_departed_members_are_forgotten() {
        let (mut keeper, now) = (Keeper::new(AGAIN, SEED), Instant::now());
        let members: BTreeMap<PeerId, Member> = (0..20).map(|_| (PeerId::random(), member(true, false))).collect();
        let first = keeper.due(&members, |_| None, now);
        assert_eq!(first.len(), DIALS_MAX);
        assert_eq!(keeper.due(&members, |_| None, now), []);
        keeper.failed(first[0], None, false, now);
        let next = keeper.due(&members, |_| None, now);
        assert_eq!(next.len(), 1);
        assert!(!first.contains(&next[0]), "the others have their turn");
        assert_eq!(keeper.due(&BTreeMap::new(), |_| None, now), []);
        assert!(keeper.tries.is_empty());
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        for turn in 0..1_000 {
            assert!(share(SEED, &PeerId::random(), turn) <= SHARES);
        }
    }
}
