//! Which members vote: one change at a time, towards the number that the cluster's size wants.
//!
//! 1 candidate → 1 voter, 2 → 2, 3 or 4 → 3, 5 or more → 5. Only members with role voter count. A departed voter goes
//! first, unless it is the only one: then another is promoted before it. A learner is promoted once it has caught up;
//! the last voter is never taken away. Deliberately absent: replacing a voter that is only silent, because it may come
//! back and silence is judged differently on each node.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::limits::CAUGHT_UP_LAG_MAX;
use ollamax_types::{NodeId, Role};

use crate::catalog::Member;

/// One step towards the wanted set of voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A caught-up learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner, or leaves when it has departed.
    Demote(NodeId),
}

/// How many voters a cluster of so many voter candidates wants.
#[must_use]
pub const fn wanted(candidates: usize) -> usize {
    match candidates {
        0..=2 => candidates,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The next step, if any. `lags` holds, for each learner that the leader replicates to, the entries it lies behind.
#[must_use]
pub fn plan(members: &[Member], voters: &BTreeSet<NodeId>, lags: &BTreeMap<NodeId, u64>) -> Option<Change> {
    let candidates: BTreeSet<NodeId> =
        members.iter().filter(|member| may_vote(member)).map(|member| member.id).collect();
    let demotable = |node: &&NodeId| voters.len() > 1 && voters.contains(node);
    if let Some(node) = voters.difference(&candidates).find(demotable) {
        return Some(Change::Demote(*node));
    }
    let wanted = wanted(candidates.len());
    if voters.len() > wanted {
        return voters.iter().next_back().filter(demotable).copied().map(Change::Demote);
    }
    if voters.intersection(&candidates).count() < wanted {
        let caught_up = |node: &&NodeId| lags.get(node).is_some_and(|lag| *lag <= CAUGHT_UP_LAG_MAX);
        return candidates.difference(voters).find(caught_up).copied().map(Change::Promote);
    }
    None
}

fn may_vote(member: &Member) -> bool {
    member.role == Role::Voter && member.is_standing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MemberState;
    use ollamax_types::Timestamp;
    use ollamax_types::{Incarnation, PeerId};

    fn member(id: u64, role: Role, departed: bool) -> Member {
        let state = if departed { MemberState::Departed { at: Timestamp(1) } } else { MemberState::Active };
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            peer_id: PeerId(format!("p{id}")),
            incarnation: Incarnation([0; 16]),
            role,
            state,
            peer_addresses: vec![],
            p2p_addresses: vec![],
            api_addresses: vec![],
            joined_at: Timestamp(0),
        }
    }

    /// `members`: one letter each from id 1: v(oter), l(earner), g(ateway), d(eparted voter).
    fn check(members: &str, voters: &[u64], caught_up: &[u64], behind: &[u64], expected: Option<Change>) {
        let members: Vec<Member> = members
            .chars()
            .zip(1..)
            .map(|(letter, id)| match letter {
                'l' => member(id, Role::Learner, false),
                'g' => member(id, Role::Gateway, false),
                letter => member(id, Role::Voter, letter == 'd'),
            })
            .collect();
        let voters = voters.iter().copied().map(NodeId).collect();
        let lag = |nodes: &[u64], lag: u64| nodes.iter().map(move |id| (NodeId(*id), lag)).collect::<Vec<_>>();
        let lags = lag(caught_up, 3).into_iter().chain(lag(behind, CAUGHT_UP_LAG_MAX + 1)).collect();
        assert_eq!(plan(&members, &voters, &lags), expected, "{members:?} {voters:?}");
    }

    use Change::{Demote, Promote};

    #[test]
    fn plans_one_change_at_a_time_towards_the_wanted_number() {
        check("v", &[1], &[], &[], None);
        check("vv", &[1], &[2], &[], Some(Promote(NodeId(2))));
        check("vv", &[1], &[], &[2], None);
        check("vv", &[1], &[], &[], None);
        check("vvv", &[1, 2], &[3], &[], Some(Promote(NodeId(3))));
        check("vvvv", &[1, 2, 3], &[4], &[], None);
        check("vvvvv", &[1, 2, 3], &[5], &[4], Some(Promote(NodeId(5))));
        check("vvvvvvv", &[1, 2, 3, 4, 5], &[6, 7], &[], None);
        check("vlgv", &[1], &[2, 3, 4], &[], Some(Promote(NodeId(4))));
        check("vllll", &[1], &[2, 3, 4, 5], &[], None);
    }

    #[test]
    fn departed_voters_go_first_and_the_last_voter_stays() {
        check("vdvv", &[1, 2, 3], &[4], &[], Some(Demote(NodeId(2))));
        check("vdvv", &[1, 3], &[4], &[], Some(Promote(NodeId(4))));
        check("vvvvd", &[1, 2, 3, 4, 5], &[], &[], Some(Demote(NodeId(5))));
        check("vvvvd", &[1, 2, 3, 4], &[], &[], Some(Demote(NodeId(4))));
        check("vv", &[1, 2, 9], &[], &[], Some(Demote(NodeId(9))));
        check("d", &[1], &[], &[], None);
        check("dv", &[1], &[2], &[], Some(Promote(NodeId(2))));
        check("dv", &[1], &[], &[2], None);
        check("dv", &[1, 2], &[], &[], Some(Demote(NodeId(1))));
    }

    #[test]
    fn always_ends_at_the_wanted_number() {
        for count in 1..12_u64 {
            let members: Vec<Member> = (1..=count).map(|id| member(id, Role::Voter, false)).collect();
            let lags: BTreeMap<NodeId, u64> = (1..=count).map(|id| (NodeId(id), 0)).collect();
            for start in 1..=count {
                let mut voters: BTreeSet<NodeId> = (1..=start).map(NodeId).collect();
                for _ in 0..20 {
                    match plan(&members, &voters, &lags) {
                        Some(Promote(node)) => assert!(voters.insert(node)),
                        Some(Demote(node)) => assert!(voters.remove(&node)),
                        None => break,
                    }
                }
                assert_eq!(voters.len(), wanted(members.len()), "{count} members, {start} voters");
            }
        }
    }
}
