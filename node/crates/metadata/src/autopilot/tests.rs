//! What follows from what is seen, step by step.

use ollamax_core::catalog::TaskProgress;
use ollamax_types::{Incarnation, PeerId, Role, TaskId};

use super::*;

#[test]
fn the_log_has_a_step_in_words() {
    let check = |step: Step, expected: &str| assert_eq!(step.to_string(), expected);
    check(Step::FinishJoint([NodeId(1), NodeId(3)].into()), "finish the change to the voters 1, 3");
    check(Step::Promote(NodeId(3)), "node 3 votes");
    check(Step::Replace { silent: NodeId(2), by: NodeId(4) }, "node 4 votes in the place of node 2");
}

fn member(id: u64, role: Role, state: MemberState) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("peer{id}")),
        incarnation: Incarnation([1; 16]),
        role,
        state,
        peer_addresses: Vec::new(),
        p2p_addresses: Vec::new(),
        api_addresses: Vec::new(),
        joined_at: Timestamp(0),
        labels: Default::default(),
        own_labels: Default::default(),
        cordon: Default::default(),
    }
}

fn healthy() -> Standing {
    Standing { healthy_for: Some(Duration::from_secs(60)), ..Standing::default() }
}

fn silent(hours: u64) -> Standing {
    Standing { silent: Duration::from_secs(hours * 3_600), ..Standing::default() }
}

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn check(members: &[(u64, Role, bool)], configs: &[&[u64]], nodes: &[u64], caught_up: &[u64], expected: Option<Step>) {
    let state = |departed| if departed { MemberState::Departed { at: Timestamp(1) } } else { MemberState::Active };
    let facts = Facts {
        leader: NodeId(1),
        members: members.iter().map(|(id, role, departed)| member(*id, *role, state(*departed))).collect(),
        configs: configs.iter().map(|set| ids(set)).collect(),
        nodes: ids(nodes),
        seen: caught_up.iter().map(|node| (NodeId(*node), healthy())).collect(),
        ..Facts::default()
    };
    assert_eq!(decide(&facts), expected, "{facts:?}");
}

#[test]
fn brings_the_raft_group_in_step_with_the_catalog() {
    use Role::{Gateway, Voter};
    let (one, two, three) = ((1, Voter, false), (2, Voter, false), (3, Voter, false));
    check(&[], &[&[1]], &[1], &[], None);
    check(&[one], &[&[1]], &[1], &[], None);
    check(&[one, two], &[&[1]], &[1], &[], Some(Step::AddLearner(NodeId(2))));
    check(&[one, two], &[&[1]], &[1, 2], &[], None);
    check(&[one, two], &[&[1]], &[1, 2], &[2], Some(Step::Promote(NodeId(2))));
    check(&[one, two, three], &[&[1, 2]], &[1, 2, 3], &[2, 3], Some(Step::Promote(NodeId(3))));
    check(&[one, two, three], &[&[1, 2, 3]], &[1, 2, 3], &[2, 3], None);
    check(&[one, (2, Gateway, false)], &[&[1]], &[1, 2], &[2], None);
}

fn working(number: u8, node: u64, due_at: u64) -> Task {
    Task {
        id: TaskId([number; 16]),
        tool: "t".to_owned(),
        arguments_json: "{}".to_owned(),
        subject: "uid/0".to_owned(),
        priority: 5,
        repeatable: true,
        needs_approval: false,
        plan: String::new(),
        state: TaskState::Working { node: NodeId(node) },
        attempt: 3,
        losses: 0,
        cancel_asked: false,
        progress: TaskProgress { done: u64::from(number), ..TaskProgress::default() },
        asked_by: "node/1".to_owned(),
        created_at: Timestamp(1),
        begun_at: Timestamp(1),
        updated_at: Timestamp(1),
        due_at: Timestamp(due_at),
    }
}

fn told(number: u8) -> TaskTold {
    let progress = TaskProgress { done: u64::from(number), ..TaskProgress::default() };
    TaskTold { id: TaskId([number; 16]), attempt: 3, progress }
}

#[test]
fn a_new_leader_spares_the_tasks_of_standing_members_one_after_the_other() {
    let gone = member(4, Role::Voter, MemberState::Departed { at: Timestamp(1) });
    let members = [member(2, Role::Voter, MemberState::Active), member(3, Role::Voter, MemberState::Drained), gone];
    let spared = |tasks: &[Task]| spared(tasks, &members, Timestamp(9));
    assert_eq!(spared(&[]), None);
    assert_eq!(spared(&[working(1, 2, 10)]), None, "its lease runs still");
    assert_eq!(spared(&[working(1, 4, 9)]), None, "a member that was removed has lost it");
    let waiting = Task { state: TaskState::Waiting, ..working(1, 2, 9) };
    assert_eq!(spared(&[waiting]), None);
    let tasks = [working(1, 4, 9), working(2, 3, 9), working(3, 2, 8), working(4, 3, 7), working(5, 3, 10)];
    assert_eq!(spared(&tasks), Some((NodeId(3), vec![told(2), told(4)])));
    let many = vec![working(1, 2, 9); TASKS_TOLD_MAX + 1];
    assert_eq!(spared(&many).map(|(_, told)| told.len()), Some(TASKS_TOLD_MAX));
}

#[test]
fn nothing_is_ended_while_tasks_are_spared() {
    let facts = Facts {
        leader: NodeId(1),
        members: vec![member(1, Role::Voter, MemberState::Active)],
        configs: vec![ids(&[1])],
        nodes: ids(&[1]),
        due: true,
        ..Facts::default()
    };
    assert_eq!(decide(&facts), Some(Step::Expire));
    let spared = Some((NodeId(1), vec![told(1)]));
    let expected = Step::Spare(NodeId(1), vec![told(1)]);
    assert_eq!(decide(&Facts { spared, ..facts }), Some(expected));
}

#[test]
fn departed_members_stop_voting_and_then_leave() {
    use Role::Voter;
    let (one, gone) = ((1, Voter, false), (2, Voter, true));
    check(&[one, gone], &[&[1, 2]], &[1, 2], &[2], Some(Step::Demote(NodeId(2))));
    check(&[one, gone], &[&[1]], &[1, 2], &[2], Some(Step::RemoveLearner(NodeId(2))));
    check(&[one, gone], &[&[1]], &[1], &[], None);
}

#[test]
fn a_leader_without_room_gives_way_to_another_voter_and_not_again_at_once() {
    let facts = |configs: &[&[u64]]| Facts {
        leader: NodeId(1),
        configs: configs.iter().map(|set| ids(set)).collect(),
        ..Facts::default()
    };
    assert!(gives_way(&facts(&[&[1, 2, 3]]), None));
    assert!(!gives_way(&facts(&[&[1, 2, 3]]), Some(HAND_OVER_PAUSE / 2)));
    assert!(gives_way(&facts(&[&[1, 2, 3]]), Some(HAND_OVER_PAUSE)));
    assert!(!gives_way(&facts(&[&[1]]), None), "nobody else votes");
}

#[test]
fn the_version_goes_up_when_every_member_applies_it_and_no_higher() {
    let check = |releases: &[(u64, u32)], version: u32, expected: Option<Step>| {
        let facts = Facts {
            leader: NodeId(1),
            members: [1, 2].map(|id| member(id, Role::Voter, MemberState::Active)).to_vec(),
            configs: vec![ids(&[1, 2])],
            nodes: ids(&[1, 2]),
            seen: BTreeMap::from([(NodeId(2), healthy())]),
            knobs: Knobs::default(),
            version,
            releases: releases.iter().map(|(node, release)| (NodeId(*node), *release)).collect(),
            ..Facts::default()
        };
        assert_eq!(decide(&facts), expected, "{releases:?} at {version}");
        let silent = Standing { silent: Duration::from_secs(60), healthy_for: None, wavered: true };
        let unheard = Facts { seen: BTreeMap::from([(NodeId(2), silent)]), ..facts.clone() };
        assert_eq!(decide(&unheard), None, "node 2 may have gone back to the release before");
        // What has passed its time comes first.
        assert_eq!(decide(&Facts { due: true, ..facts }), Some(Step::Expire));
    };
    check(&[(1, 2), (2, 2)], 1, Some(Step::RaiseVersion(2)));
    check(&[(1, 3), (2, 2)], 1, Some(Step::RaiseVersion(2)));
    check(&[(1, 2), (2, 2)], 2, None);
    check(&[(1, 2), (2, 1)], 1, None);
    check(&[(1, 2)], 1, None); // node 2 said nothing
    check(&[(1, 2), (2, 2), (9, 1)], 1, Some(Step::RaiseVersion(2))); // no member
}

#[test]
fn a_node_whose_state_differs_neither_votes_nor_leads_nor_decides() {
    let check = |deviating: &[u64], voters: &[u64], expected: Option<Step>| {
        let facts = Facts {
            leader: NodeId(1),
            members: [1, 2, 3].map(|id| member(id, Role::Voter, MemberState::Active)).to_vec(),
            configs: vec![ids(voters)],
            nodes: ids(&[1, 2, 3]),
            seen: [2, 3].map(|id| (NodeId(id), healthy())).into(),
            knobs: Knobs::default(),
            deviating: ids(deviating),
            ..Facts::default()
        };
        assert_eq!(decide(&facts), expected, "{deviating:?} of {voters:?}");
    };
    check(&[], &[1, 2, 3], None);
    check(&[3], &[1, 2, 3], Some(Step::Demote(NodeId(3))));
    check(&[3], &[1, 2], None); // caught up, and not promoted
    check(&[], &[1, 2], Some(Step::Promote(NodeId(3)))); // it agrees again
    check(&[1], &[1, 2, 3], Some(Step::HandOver));
    check(&[1], &[1], None); // nobody else votes
    check(&[1, 2, 3], &[1, 2, 3], None);
}

#[test]
fn a_departed_leader_hands_over_first() {
    let members = [(1, Role::Voter, true), (2, Role::Voter, false)];
    check(&members, &[&[1, 2]], &[1, 2], &[2], Some(Step::HandOver));
}

#[test]
fn a_change_that_a_dead_leader_left_half_way_is_finished_first() {
    let members = [(1, Role::Voter, false), (2, Role::Voter, false), (3, Role::Voter, false)];
    check(&members, &[&[1], &[1, 2]], &[1, 2], &[2], Some(Step::FinishJoint(ids(&[1, 2]))));
}

/// Four members of whom node 4 has this standing, and the first three vote.
fn four(last: Standing) -> Facts {
    Facts {
        leader: NodeId(1),
        members: (1..=4).map(|id| member(id, Role::Voter, MemberState::Active)).collect(),
        configs: vec![ids(&[1, 2, 3])],
        nodes: ids(&[1, 2, 3, 4]),
        seen: BTreeMap::from([(NodeId(2), healthy()), (NodeId(3), healthy()), (NodeId(4), last)]),
        ..Facts::default()
    }
}

#[test]
fn a_silent_voter_is_replaced_and_a_silent_member_removed_before_the_version_goes_up() {
    let releases: BTreeMap<NodeId, u32> = (1..=4).map(|id| (NodeId(id), 9)).collect();
    let removed = Facts { releases: releases.clone(), ..four(silent(24)) };
    assert_eq!(decide(&removed), Some(Step::Remove(NodeId(4))));
    let mut replaced = Facts { releases, ..four(healthy()) };
    replaced.seen.insert(NodeId(3), silent(1));
    assert_eq!(decide(&replaced), Some(Step::Replace { silent: NodeId(3), by: NodeId(4) }));
    assert_eq!(decide(&Facts { due: true, ..replaced }), Some(Step::Expire));
}

#[test]
fn a_drained_leader_is_relieved_by_a_healthy_voter_that_is_not_drained() {
    let check = |drained: &[u64], seen: &[(u64, Standing)], expected: Option<u64>| {
        let mut facts = four(healthy());
        for id in drained {
            facts.members[usize::try_from(*id).expect("few") - 1].state = MemberState::Drained;
        }
        facts.seen.extend(seen.iter().map(|(id, standing)| (NodeId(*id), *standing)));
        assert_eq!(decide(&facts), expected.map(|id| Step::HandOverTo(NodeId(id))), "{drained:?} {seen:?}");
    };
    check(&[], &[], None);
    check(&[2, 3], &[], None);
    check(&[1], &[], Some(2));
    check(&[1, 2], &[], Some(3));
    check(&[1], &[(2, silent(0))], Some(3));
    check(&[1, 2, 3], &[], None); // node 4 does not vote
}

#[test]
fn the_outlook_tells_health_tolerance_and_who_will_be_removed() {
    let outlook = four(silent(1)).outlook(7).expect("a group");
    assert_eq!((outlook.term, outlook.healthy, outlook.tolerance), (7, 3, 1));
    assert_eq!(outlook.removals, BTreeMap::from([(NodeId(4), Duration::from_secs(23 * 3_600))]));
    let outlook = four(healthy()).outlook(7).expect("a group");
    assert_eq!((outlook.healthy, outlook.tolerance, outlook.removals.len()), (4, 1, 0));
    assert_eq!(Facts::default().outlook(7), None);
}
