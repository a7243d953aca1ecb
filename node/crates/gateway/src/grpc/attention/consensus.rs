//! Whether a majority of voters answers, and whether there are voters enough.
//!
//! Always holds: a machine is asked for only where none is there that votes in a moment.

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::{Attention, NodeView, StatusReply};

use super::entry;

/// What wants a decision of those who vote.
pub(super) fn told(status: &StatusReply, found: &mut Vec<Attention>) {
    let Some(raft) = &status.raft else { return };
    if !raft.has_quorum {
        found.push(entry(
            "no_quorum",
            "no majority of voters answers: nothing can be changed".to_owned(),
            "inference and listing go on from what each node knows".to_owned(),
            "start the missing voters: ollamax node list; if most are gone for good: on a node that is left, stop the \
             daemon, then: ollamax recover plan"
                .to_owned(),
        ));
    }
    if raft.voters.len() == 2 {
        let next = match status.nodes.iter().find(|node| is_about_to_vote(node)) {
            Some(node) => format!("wait a moment: {} follows, and votes as soon as it is healthy", node.name),
            None => "ollamax token create, then ollamax join on a third machine".to_owned(),
        };
        found.push(entry(
            "two_voters",
            "two nodes vote: one death stops changes, not inference".to_owned(),
            "a majority of two is two".to_owned(),
            next,
        ));
    }
}

/// Whether the leader gives it a vote where fewer than three vote.
fn is_about_to_vote(node: &NodeView) -> bool {
    let is_there = node.state() == State::Active && node.health() == Health::Alive;
    is_there && node.role == "voter" && !node.voter
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::RaftView;

    use super::*;

    /// Three members that are heard, of which these vote.
    fn status(voters: &[u64]) -> StatusReply {
        let node = |id: u64| {
            let voter = voters.contains(&id);
            let mut node =
                NodeView { id, name: format!("n{id}"), role: "voter".to_owned(), voter, ..NodeView::default() };
            node.set_state(State::Active);
            node.set_health(Health::Alive);
            node
        };
        let raft = RaftView { has_quorum: true, voters: voters.to_vec(), ..RaftView::default() };
        StatusReply { raft: Some(raft), nodes: (1..=3).map(node).collect(), ..StatusReply::default() }
    }

    fn next(status: &StatusReply) -> Vec<String> {
        let mut found = Vec::new();
        told(status, &mut found);
        found.into_iter().map(|entry| entry.next).collect()
    }

    #[test]
    fn where_two_vote_a_third_that_follows_is_waited_for() {
        let check = |change: &dyn Fn(&mut NodeView), expected: &str| {
            let mut status = status(&[1, 2]);
            change(&mut status.nodes[2]);
            assert_eq!(next(&status), [expected]);
        };
        check(&|_| {}, "wait a moment: n3 follows, and votes as soon as it is healthy");
        let third = "ollamax token create, then ollamax join on a third machine";
        check(&|node| node.role = "learner".to_owned(), third);
        check(&|node| node.set_health(Health::Suspect), third);
        check(&|node| node.set_state(State::Departed), third);
        assert!(next(&status(&[1, 2, 3])).is_empty());
    }

    #[test]
    fn without_a_majority_the_daemon_is_stopped_before_a_recovery() {
        let mut status = status(&[1, 2, 3]);
        status.raft.as_mut().expect("there").has_quorum = false;
        let next = next(&status);
        assert!(next[0].ends_with("stop the daemon, then: ollamax recover plan"), "{next:?}");
    }
}
