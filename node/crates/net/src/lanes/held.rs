//! Which of several connections between two nodes is held. Pure.
//!
//! Both ends come to the same one: among the direct ones those that the smaller key dialled come first, then the
//! oldest. If they did not, each end would hold another one and both would end as idle. Relayed ones are never held:
//! they last as long as somebody uses them.

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

/// One connection to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) id: ConnectionId,
    pub(crate) is_relayed: bool,
    /// This node was the dialler, in the sense that both ends agree on.
    pub(crate) is_dialled: bool,
    /// The other end, as this node sees it.
    pub(crate) address: Multiaddr,
}

/// The connection to hold; `lines` are in the order in which they were opened.
pub(crate) fn held(own: &PeerId, other: &PeerId, lines: &[Line]) -> Option<ConnectionId> {
    let is_smaller = own < other;
    let mut direct = lines.iter().filter(|line| !line.is_relayed);
    let by_the_smaller = direct.clone().find(|line| line.is_dialled == is_smaller);
    by_the_smaller.or_else(|| direct.next()).map(|line| line.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who dialled a line, or that it is relayed, as one end sees it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Ours,
        Theirs,
        Relayed,
    }

    fn lines(kinds: &[Kind], is_other_end: bool) -> Vec<Line> {
        let line = |(at, kind): (usize, &Kind)| Line {
            id: ConnectionId::new_unchecked(at),
            is_relayed: *kind == Kind::Relayed,
            is_dialled: (*kind == Kind::Ours) != is_other_end,
            address: Multiaddr::empty(),
        };
        kinds.iter().enumerate().map(line).collect()
    }

    fn every_order(longest: usize) -> Vec<Vec<Kind>> {
        let mut orders: Vec<Vec<Kind>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..longest {
            let until = orders.len();
            for at in from..until {
                for kind in [Kind::Ours, Kind::Theirs, Kind::Relayed] {
                    orders.push([orders[at].as_slice(), &[kind]].concat());
                }
            }
            from = until;
        }
        orders
    }

    #[test]
    fn both_ends_hold_the_same_connection() {
        let (one, two) = (PeerId::random(), PeerId::random());
        let orders = every_order(3);
        assert_eq!(orders.len(), 1 + 3 + 9 + 27);
        for kinds in orders {
            let here = held(&one, &two, &lines(&kinds, false));
            let there = held(&two, &one, &lines(&kinds, true));
            assert_eq!(here, there, "{kinds:?}");
            let has_direct = kinds.iter().any(|kind| *kind != Kind::Relayed);
            assert_eq!(here.is_some(), has_direct, "{kinds:?}");
        }
    }

    #[test]
    fn what_the_smaller_key_dialled_comes_first_then_the_oldest() {
        let (one, two) = (PeerId::random(), PeerId::random());
        let (smaller, larger) = (one.min(two), one.max(two));
        let rows = [
            (vec![Kind::Theirs, Kind::Ours], 1),
            (vec![Kind::Ours, Kind::Ours], 0),
            (vec![Kind::Relayed, Kind::Theirs, Kind::Theirs], 1),
        ];
        for (kinds, expected) in rows {
            let found = held(&smaller, &larger, &lines(&kinds, false));
            assert_eq!(found, Some(ConnectionId::new_unchecked(expected)), "{kinds:?}");
        }
    }
}
