//! The nodes that discovery has heard of, and when each is to be asked again. Pure: time is handed in.
//!
//! Bounded: when it is full, newcomers are not entered until somebody leaves. A node that has not answered for three
//! rounds is not listed any more; one that is silent for longer is forgotten, unless multicast DNS still names it.
//! Who gave no answer is asked again before the round is over, after pauses that grow: a node ends its connections
//! when what it says of itself changes, and the question may have been in one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use ollamax_types::ClusterId;

use super::announcement::Said;
use crate::lanes;
use crate::peer::Discovered;

/// Most nodes in the book.
const PEERS_MAX: usize = 1_024;
/// Most `p2p` addresses that are kept of one node.
const PEER_ADDRESSES_MAX: usize = 16;
/// Rounds without an answer after which a node is not listed.
const LISTED_ROUNDS: u32 = 3;
/// Rounds without an answer after which it is forgotten.
const KEPT_ROUNDS: u32 = 10;
/// Pause after the first question without an answer; each one more doubles it, up to a round.
const AGAIN: Duration = Duration::from_secs(2);
/// Rounds between two questions to a program that is not ours.
const FOREIGN_ROUNDS: u32 = 20;

/// The nodes that are known.
#[derive(Debug)]
pub(super) struct Book {
    round: Duration,
    known: BTreeMap<PeerId, Known>,
}

#[derive(Debug)]
struct Known {
    /// Its `p2p` listener.
    addresses: Vec<Multiaddr>,
    named_by_mdns: bool,
    heard_at: Instant,
    /// What it said last, and when.
    said: Option<(Said, Instant)>,
    /// It answered as something else than a node.
    is_foreign: bool,
    asked_at: Option<Instant>,
    /// Questions since its last answer.
    unanswered: u32,
}

// === impl Book ===

impl Book {
    pub(super) fn new(round: Duration) -> Self {
        Self { round, known: BTreeMap::new() }
    }

    /// Multicast DNS named a node.
    pub(super) fn heard(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        if let Some(known) = self.enter(peer, now) {
            known.named_by_mdns = true;
            known.add(address);
        }
    }

    /// Multicast DNS names it no longer at this address.
    pub(super) fn lost(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(known) = self.known.get_mut(peer) {
            known.addresses.retain(|kept| kept != address);
            known.named_by_mdns = !known.addresses.is_empty();
        }
    }

    /// A node said who it is; `None`: it is something else.
    pub(super) fn identified(&mut self, peer: PeerId, listens: Vec<Multiaddr>, said: Option<Said>, now: Instant) {
        let Some(known) = self.enter(peer, now) else { return };
        known.is_foreign = said.is_none();
        (known.asked_at, known.unanswered) = (Some(now), 0);
        known.said = said.map(|said| (said, now));
        for address in listens {
            known.add(address);
        }
    }

    /// Whom to ask now, with the addresses to try. They count as asked.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let kept = self.round * KEPT_ROUNDS;
        self.known.retain(|_, known| known.named_by_mdns || now.duration_since(known.last_sign()) < kept);
        let mut due = Vec::new();
        for (peer, known) in &mut self.known {
            let pause = known.pause(self.round);
            let is_due = known.asked_at.is_none_or(|asked| now.duration_since(asked) >= pause);
            if is_due && !known.addresses.is_empty() {
                known.asked_at = Some(now);
                known.unanswered = known.unanswered.saturating_add(1);
                due.push((*peer, known.addresses.clone()));
            }
        }
        due
    }

    /// Everybody is due with the next look.
    pub(super) fn ask_all_again(&mut self) {
        self.known.values_mut().filter(|known| !known.is_foreign).for_each(|known| known.asked_at = None);
    }

    /// The nodes that answered lately; of one cluster only when `cluster` is given.
    pub(super) fn listing(&self, cluster: Option<ClusterId>, now: Instant) -> Vec<Discovered> {
        let fresh = self.round * LISTED_ROUNDS;
        let listed = self.known.iter().filter_map(|(peer, known)| {
            let (said, at) = known.said.as_ref()?;
            let wanted = cluster.is_none() || said.cluster == cluster;
            (wanted && now.duration_since(*at) < fresh).then(|| Discovered {
                peer_id: ollamax_types::PeerId(peer.to_base58()),
                cluster: said.cluster,
                addresses: said.addresses.clone(),
            })
        });
        listed.collect()
    }

    fn enter(&mut self, peer: PeerId, now: Instant) -> Option<&mut Known> {
        if self.known.len() >= PEERS_MAX && !self.known.contains_key(&peer) {
            return None;
        }
        let new = || Known {
            addresses: Vec::new(),
            named_by_mdns: false,
            heard_at: now,
            said: None,
            is_foreign: false,
            asked_at: None,
            unanswered: 0,
        };
        let known = self.known.entry(peer).or_insert_with(new);
        known.heard_at = now;
        Some(known)
    }
}

impl Known {
    /// Circuits are left out: nobody is asked through a relay who it is.
    fn add(&mut self, address: Multiaddr) {
        if !lanes::is_circuit(&address) && !self.addresses.contains(&address) {
            self.addresses.insert(0, address);
            self.addresses.truncate(PEER_ADDRESSES_MAX);
        }
    }

    /// How long after one question the next one comes.
    fn pause(&self, round: Duration) -> Duration {
        if self.is_foreign {
            return round * FOREIGN_ROUNDS;
        }
        let Some(doublings) = self.unanswered.checked_sub(1) else { return round };
        let again = 2_u32.checked_pow(doublings).and_then(|times| AGAIN.checked_mul(times));
        again.map_or(round, |again| again.min(round))
    }

    fn last_sign(&self) -> Instant {
        self.said.as_ref().map_or(self.heard_at, |(_, at)| self.heard_at.max(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(30);

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.7/tcp/{port}").parse().unwrap()
    }

    fn said(cluster: Option<ClusterId>) -> Option<Said> {
        Some(Said { cluster, addresses: vec!["10.0.0.7:11436".to_owned()] })
    }

    #[test]
    fn a_heard_node_is_asked_once_a_round() {
        let (mut book, start, peer) = (Book::new(ROUND), Instant::now(), PeerId::random());
        book.heard(peer, address(1), start);
        assert_eq!(book.due(start), [(peer, vec![address(1)])]);
        book.identified(peer, Vec::new(), said(None), start);
        assert_eq!(book.due(start + ROUND / 2), []);
        assert_eq!(book.due(start + ROUND).len(), 1);
        book.ask_all_again();
        assert_eq!(book.due(start + ROUND).len(), 1);
    }

    #[test]
    fn who_gave_no_answer_is_asked_again_soon_and_then_ever_less_often_down_to_once_a_round() {
        let (mut book, start, peer) = (Book::new(ROUND), Instant::now(), PeerId::random());
        book.heard(peer, address(1), start);
        let is_asked = |book: &mut Book, second: &u64| !book.due(start + Duration::from_secs(*second)).is_empty();
        let asked: Vec<u64> = (0..100).filter(|second| is_asked(&mut book, second)).collect();
        assert_eq!(asked, [0, 2, 6, 14, 30, 60, 90]);
        book.identified(peer, Vec::new(), said(None), start + Duration::from_secs(100));
        let asked: Vec<u64> = (100..150).filter(|second| is_asked(&mut book, second)).collect();
        assert_eq!(asked, [130, 132, 136, 144], "an answer begins it anew");
    }

    #[test]
    fn only_nodes_of_the_own_cluster_are_listed_once_it_is_known() {
        let (mut book, start) = (Book::new(ROUND), Instant::now());
        let (ours, theirs) = (ClusterId([1; 16]), ClusterId([2; 16]));
        for cluster in [None, Some(ours), Some(theirs)] {
            book.identified(PeerId::random(), vec![address(1)], said(cluster), start);
        }
        book.identified(PeerId::random(), vec![address(1)], None, start);
        assert_eq!(book.listing(None, start).len(), 3);
        let listed = book.listing(Some(ours), start);
        assert_eq!(listed.iter().map(|one| one.cluster).collect::<Vec<_>>(), [Some(ours)]);
        assert_eq!(book.listing(Some(ours), start + ROUND * LISTED_ROUNDS), [], "silent for three rounds");
    }

    #[test]
    fn silent_nodes_are_forgotten_and_foreign_programs_left_in_peace() {
        let (mut book, start, foreign) = (Book::new(ROUND), Instant::now(), PeerId::random());
        book.heard(foreign, address(1), start);
        book.identified(foreign, Vec::new(), None, start);
        assert_eq!(book.due(start + ROUND), []);
        assert_eq!(book.due(start + ROUND * FOREIGN_ROUNDS).len(), 1);
        book.lost(&foreign, &address(1));
        assert_eq!(book.due(start + ROUND * 100), []);
        assert!(book.known.is_empty());
    }

    #[test]
    fn the_book_is_bounded() {
        let (mut book, start) = (Book::new(ROUND), Instant::now());
        for port in 0..u16::try_from(PEERS_MAX).unwrap() + 10 {
            book.heard(PeerId::random(), address(port), start);
        }
        assert_eq!(book.known.len(), PEERS_MAX);
        let one = *book.known.keys().next().unwrap();
        for port in 0..100 {
            book.heard(one, address(port), start);
        }
        assert_eq!(book.known[&one].addresses.len(), PEER_ADDRESSES_MAX);
    }

    #[test]
    fn nobody_is_asked_through_a_relay() {
        let (mut book, start, peer) = (Book::new(ROUND), Instant::now(), PeerId::random());
        let circuit = lanes::circuit_through(&address(1), &PeerId::random(), &peer);
        book.identified(peer, vec![circuit, address(2)], said(None), start);
        assert_eq!(book.due(start + ROUND), [(peer, vec![address(2)])]);
    }
}
