//! Who relays for this node: which members are asked for a place, and which places are held. Pure: time is handed in.
//!
//! Only a node that others cannot dial asks. A place that is held is kept; one that is lost or refused is asked for at
//! somebody else's first, and there again after a wait that doubles. Which member comes first depends on both keys, so
//! that not every node asks the same one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use crate::lanes;
use crate::peer::Reach;

/// Wait after a place was lost or refused.
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait after refusals.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Most circuits that are told to others.
const TOLD_MAX: usize = 2;

/// The places of this node at its relays.
#[derive(Debug)]
pub(super) struct Relays {
    own: PeerId,
    wanted: usize,
    places: BTreeMap<PeerId, Place>,
    waits: HashMap<PeerId, Wait>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Asked,
    Held,
}

#[derive(Debug)]
struct Wait {
    until: Instant,
    failures: u32,
}

// === impl Relays ===

impl Relays {
    pub(super) fn new(own: PeerId, wanted: usize) -> Self {
        Self { own, wanted, places: BTreeMap::new(), waits: HashMap::new() }
    }

    /// Whom to ask for a place now; they count as asked. `offers` are the members that relay and are connected.
    pub(super) fn decide(&mut self, reach: Reach, offers: &[PeerId], now: Instant) -> Vec<PeerId> {
        let missing = match reach {
            Reach::Relayed => self.wanted.saturating_sub(self.places.len()),
            Reach::Unknown | Reach::Direct => 0,
        };
        if missing == 0 {
            return Vec::new();
        }
        let is_free = |relay: &&PeerId| {
            !self.places.contains_key(*relay) && self.waits.get(*relay).is_none_or(|wait| wait.until <= now)
        };
        let mut free: Vec<PeerId> = offers.iter().filter(is_free).copied().collect();
        free.sort_by_key(|relay| self.rank(relay));
        free.truncate(missing);
        self.places.extend(free.iter().map(|relay| (*relay, Place::Asked)));
        free
    }

    /// A relay has given a place.
    pub(super) fn accepted(&mut self, relay: PeerId) {
        self.places.insert(relay, Place::Held);
        self.waits.remove(&relay);
    }

    /// A place is gone, or was refused. Whether it is the first refusal by this relay.
    pub(super) fn closed(&mut self, relay: PeerId, now: Instant) -> bool {
        let was_asked = self.places.remove(&relay) == Some(Place::Asked);
        let failures = self.waits.get(&relay).map_or(0, |wait| wait.failures);
        let wait = (WAIT * 2_u32.saturating_pow(failures.min(10))).min(WAIT_MAX);
        self.waits.insert(relay, Wait { until: now + wait, failures: failures.saturating_add(1) });
        was_asked && failures == 0
    }

    /// Forgets the waits for nodes that are no members any more.
    pub(super) fn retain(&mut self, is_member: impl Fn(&PeerId) -> bool) {
        self.waits.retain(|relay, _| is_member(relay));
    }

    /// How many places are held.
    pub(super) fn held(&self) -> usize {
        self.places.values().filter(|place| **place == Place::Held).count()
    }

    /// The circuits to tell to others.
    pub(super) fn told(&self) -> Vec<String> {
        let held = self.places.iter().filter(|(_, place)| **place == Place::Held);
        held.take(TOLD_MAX).map(|(relay, _)| lanes::told_circuit(relay, &self.own)).collect()
    }

    fn rank(&self, relay: &PeerId) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.own, relay).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn relays(wanted: usize) -> (Relays, Instant) {
        (Relays::new(PeerId::random(), wanted), Instant::now())
    }

    #[test]
    fn only_a_node_that_cannot_be_dialled_asks_and_for_no_more_than_it_wants() {
        let offers = offers(5);
        for (reach, expected) in [(Reach::Unknown, 0), (Reach::Direct, 0), (Reach::Relayed, 2)] {
            let (mut relays, now) = relays(2);
            assert_eq!(relays.decide(reach, &offers, now).len(), expected, "{reach}");
            assert_eq!(relays.decide(reach, &offers, now), [], "{reach}: those asked count");
        }
        let (mut relays, now) = relays(4);
        assert_eq!(relays.decide(Reach::Relayed, &offers[..1], now), offers[..1]);
    }

    #[test]
    fn held_places_are_kept_and_a_lost_one_is_asked_for_elsewhere_first() {
        let (offers, (mut relays, now)) = (offers(3), relays(2));
        let asked = relays.decide(Reach::Relayed, &offers, now);
        asked.iter().for_each(|relay| relays.accepted(*relay));
        assert_eq!((relays.held(), relays.told().len()), (2, 2));
        assert_eq!(relays.decide(Reach::Relayed, &offers, now), []);
        assert!(!relays.closed(asked[0], now), "it was held, so nobody refused");
        let other: Vec<PeerId> = offers.iter().filter(|offer| !asked.contains(offer)).copied().collect();
        assert_eq!(relays.decide(Reach::Relayed, &offers, now), other);
        assert_eq!(relays.told().len(), 1);
    }

    #[test]
    fn refusals_double_the_wait_and_the_first_is_told() {
        let (offers, (mut relays, mut now)) = (offers(1), relays(2));
        for (turn, seconds) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            assert_eq!(relays.decide(Reach::Relayed, &offers, now), offers, "{seconds}");
            assert_eq!(relays.closed(offers[0], now), turn == 0, "{seconds}");
            let wait = Duration::from_secs(seconds);
            assert_eq!(relays.decide(Reach::Relayed, &offers, now + wait / 2), [], "{seconds}: too early");
            now += wait;
        }
        relays.retain(|_| false);
        assert!(relays.waits.is_empty());
    }

    #[test]
    fn not_everybody_asks_the_same_relay_first() {
        let offers = offers(2);
        let first = || relays(1).0.decide(Reach::Relayed, &offers, Instant::now())[0];
        let firsts: Vec<PeerId> = (0..64).map(|_| first()).collect();
        assert!(offers.iter().all(|offer| firsts.contains(offer)));
    }
}
