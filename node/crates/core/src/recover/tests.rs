//! Tables: who goes on, what is refused, what the state becomes.

use ollamax_types::{Digest, Incarnation, ModelRecord, PeerId, TokenId};

use super::*;
use crate::catalog::mem::MemView;
use crate::catalog::{Location, Setting};

const OLD: ClusterId = ClusterId([1; 16]);
const NEW: ClusterId = ClusterId([2; 16]);

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn survivor(node: u64, (term, index): (u64, u64), voters: &[u64]) -> Survivor {
    Survivor {
        cluster: OLD,
        node: NodeId(node),
        recovered_from: None,
        vote_term: term,
        last: LogEnd { term, index },
        committed: 0,
        configs: vec![ids(voters)],
        standing: true,
    }
}

/// Survivors as (node, (term, index)), all with the same voters.
fn check(voters: &[u64], survivors: &[(u64, (u64, u64))], expected: (bool, u64, &[u64], bool)) {
    let survivors: Vec<Survivor> = survivors.iter().map(|(node, last)| survivor(*node, *last, voters)).collect();
    let (needed, safest, missing, may_lose) = expected;
    let expected = Plan { needed, safest: NodeId(safest), voters: ids(voters), missing: ids(missing), may_lose };
    assert_eq!(plan(&survivors), Ok(expected), "{survivors:?}");
}

#[test]
fn the_end_of_the_log_decides_and_a_majority_needs_no_recovery() {
    // One of three: two others may have acknowledged what it never saw.
    check(&[1, 2, 3], &[(3, (7, 40))], (true, 3, &[1, 2], true));
    check(&[1, 2, 3], &[(1, (7, 40)), (3, (7, 41))], (false, 3, &[2], false));
    check(&[1], &[(1, (1, 1))], (false, 1, &[], false));
    // One of two: the other one alone could not acknowledge anything.
    check(&[1, 2], &[(2, (7, 40))], (true, 2, &[1], false));
    // Two of five: a later term wins over a higher index, then the index counts.
    check(&[1, 2, 3, 4, 5], &[(4, (6, 90)), (5, (7, 40))], (true, 5, &[1, 2, 3], true));
    check(&[1, 2, 3, 4, 5], &[(4, (7, 90)), (5, (7, 40))], (true, 4, &[1, 2, 3], true));
    check(&[1, 2, 3, 4, 5], &[(2, (7, 1)), (4, (7, 90)), (5, (7, 40))], (false, 4, &[1, 3], false));
    // Two of four: a majority is three, so every acknowledged change is on one of the two.
    check(&[1, 2, 3, 4], &[(2, (7, 1)), (4, (7, 90))], (true, 4, &[1, 3], false));
    // Given twice with the same content, it counts once.
    check(&[1, 2, 3], &[(3, (7, 40)), (3, (7, 40))], (true, 3, &[1, 2], true));
}

#[test]
fn among_equal_logs_a_voter_goes_on_then_who_knows_most_then_the_least_id() {
    let five = [1, 2, 3, 4, 5];
    let (learner, voter) = (survivor(6, (7, 40), &five), survivor(5, (7, 40), &five));
    assert_eq!(plan(&[learner.clone(), voter.clone()]).map(|plan| plan.safest), Ok(NodeId(5)));
    let knows = Survivor { committed: 39, ..survivor(4, (7, 40), &five) };
    assert_eq!(plan(&[survivor(3, (7, 40), &five), knows]).map(|plan| plan.safest), Ok(NodeId(4)));
    assert_eq!(plan(&[voter.clone(), survivor(4, (7, 40), &five)]).map(|plan| plan.safest), Ok(NodeId(4)));
    // A learner that saw more than the voter goes on.
    let ahead = Survivor { last: LogEnd { term: 7, index: 41 }, ..learner };
    let chosen = plan(&[ahead, voter]).expect("a plan");
    assert_eq!((chosen.safest, chosen.missing, chosen.may_lose), (NodeId(6), ids(&[1, 2, 3, 4]), true));
}

#[test]
fn a_change_of_voters_that_was_under_way_needs_both_majorities() {
    let joint = |node| Survivor { configs: vec![ids(&[1, 2, 3]), ids(&[3, 4, 5])], ..survivor(node, (7, 40), &[]) };
    let plan_of = |nodes: &[u64]| plan(&nodes.iter().copied().map(joint).collect::<Vec<_>>()).expect("a plan");
    assert!(!plan_of(&[2, 3, 4]).needed);
    // A majority of the old voters alone, and what is missing is no majority of them.
    let halted = plan_of(&[1, 2]);
    assert_eq!((halted.needed, halted.missing, halted.may_lose), (true, ids(&[3, 4, 5]), false));
    assert!(plan_of(&[1]).may_lose);
    // One that has not heard of the change gets no vote of one that has.
    assert!(plan(&[joint(1), survivor(2, (6, 30), &[1, 2, 3])]).expect("a plan").needed);
    // But who has not heard of it is enough where there are enough of them.
    let unaware = [survivor(1, (6, 30), &[1, 2, 3]), survivor(2, (6, 29), &[1, 2, 3])];
    assert!(!plan(&[&unaware[..], &[joint(5)]].concat()).expect("a plan").needed);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    assert_eq!(plan(&[]), Err(Refusal::Nobody));
    let old = survivor(1, (7, 40), &[1, 2, 3]);
    let foreign = Survivor { cluster: NEW, ..survivor(2, (7, 40), &[1, 2, 3]) };
    let apart = Refusal::OtherCluster { one: NodeId(1), its_cluster: OLD, other: NodeId(2), other_cluster: NEW };
    assert_eq!(plan(&[old.clone(), foreign.clone()]), Err(apart));
    let recovered = Survivor { recovered_from: Some(OLD), ..foreign };
    let begun = Err(Refusal::Recovered { node: NodeId(2), cluster: NEW });
    assert_eq!(plan(&[old.clone(), recovered.clone()]), begun);
    assert_eq!(plan(&[recovered.clone(), old.clone()]), begun);
    // By itself it is a cluster like any other, and may lose its majority again.
    assert!(plan(&[recovered]).expect("a plan").needed);
    let older = survivor(1, (7, 39), &[1, 2, 3]);
    assert_eq!(plan(&[old.clone(), older]), Err(Refusal::Twice(NodeId(1))));
    let departed = Survivor { standing: false, ..old.clone() };
    assert_eq!(plan(std::slice::from_ref(&departed)), Err(Refusal::Departed));
    // A removed one does not go on, however long its log is.
    let ahead = Survivor { node: NodeId(2), last: LogEnd { term: 8, index: 50 }, ..departed };
    assert_eq!(plan(&[old, ahead]).map(|plan| plan.safest), Ok(NodeId(1)));
}

fn member(id: u64, role: Role) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("p{id}")),
        incarnation: Incarnation([id as u8; 16]),
        role,
        state: MemberState::Active,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
        joined_at: Timestamp(1),
    }
}

/// A cluster of a voter and a learner with a model each, and one member that has departed long ago.
fn state() -> MemView {
    let mut view = MemView::default();
    let cluster = Cluster {
        id: OLD,
        name: "lab".to_owned(),
        public_key: [1; 32],
        created_at: Timestamp(1),
        next_node_id: 4,
        version: 2,
    };
    let token = Token {
        id: TokenId("t".to_owned()),
        secret_sha256: [0; 32],
        role: Role::Voter,
        uses_left: 1,
        created_at: Timestamp(1),
        expires_at: Timestamp(9),
        revoked: false,
    };
    let gone = Member { state: MemberState::Departed { at: Timestamp(2) }, ..member(3, Role::Voter) };
    let mut mutations = vec![
        Mutation::Put(Key::Cluster, Record::Cluster(cluster)),
        Mutation::Put(Key::Member(NodeId(3)), Record::Member(gone)),
        Mutation::Put(Key::Token(token.id.clone()), Record::Token(token)),
        Mutation::Put(
            Key::Setting("kept".to_owned()),
            Record::Setting(Setting { value: b"yes".to_vec(), revision: 7 }),
        ),
    ];
    for (id, role) in [(1, Role::Voter), (2, Role::Learner)] {
        let member = member(id, role);
        mutations.push(Mutation::Put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)));
        mutations.push(Mutation::Put(Key::Member(member.id), Record::Member(member)));
        let model = ModelRecord {
            name: "demo".parse().expect("a name"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
        };
        let (key, node) = (model.name.key(), NodeId(id));
        let location = Record::Location(Location { node, model });
        mutations.push(Mutation::Put(Key::Location(key.clone(), node), location.clone()));
        mutations.push(Mutation::Put(Key::NodeModel(node, key), location));
    }
    view.write(&mutations);
    view
}

#[test]
fn the_survivor_is_the_only_member_of_a_new_cluster_and_keeps_everything_else() {
    let mut view = state();
    let lineage = Lineage { cluster: NEW, public_key: [2; 32], node: NodeId(2), at: Timestamp(5) };
    view.write(&rewrite(&view, &lineage).expect("rewritten"));
    let cluster = read::cluster(&view).expect("readable").expect("there");
    assert_eq!((cluster.id, cluster.public_key, cluster.name.as_str()), (NEW, [2; 32], "lab"));
    assert_eq!(cluster.next_node_id, 4 + MEMBERS_MAX as u64);
    let members = read::members(&view).expect("readable");
    let states: Vec<_> = members.iter().map(|member| (member.id.0, member.role, member.state)).collect();
    let departed = |at| MemberState::Departed { at: Timestamp(at) };
    assert_eq!(
        states,
        [(1, Role::Voter, departed(5)), (2, Role::Voter, MemberState::Active), (3, Role::Voter, departed(2)),]
    );
    assert_eq!(read::member_by_peer(&view, &PeerId("p1".to_owned())), Ok(None));
    assert_eq!(read::member_by_peer(&view, &PeerId("p2".to_owned())), Ok(Some(NodeId(2))));
    let locations = read::locations(&view).expect("readable");
    assert_eq!(locations.iter().map(|location| location.node.0).collect::<Vec<_>>(), [2]);
    assert!(read::models_of(&view, NodeId(1)).expect("readable").is_empty());
    assert!(read::tokens(&view).expect("readable").iter().all(|token| token.revoked));
    assert_eq!(read::setting(&view, "kept").expect("readable").map(|setting| setting.value), Some(b"yes".to_vec()));
}

#[test]
fn a_state_without_the_survivor_among_its_members_is_not_rewritten() {
    let lineage = |node| Lineage { cluster: NEW, public_key: [2; 32], node: NodeId(node), at: Timestamp(5) };
    for node in [3, 9] {
        assert!(matches!(rewrite(&state(), &lineage(node)), Err(Fault::Invariant(_))), "{node}");
    }
    assert!(matches!(rewrite(&MemView::default(), &lineage(1)), Err(Fault::Invariant(_))));
}
