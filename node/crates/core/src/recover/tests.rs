//! Tables: who goes on, and what is refused.

mod explored;

use super::*;

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
