//! Moves row by row; `simulated` has what holds over time.

use std::time::Duration;

use ollamax_types::{Digest, Timestamp};

use super::*;
use crate::catalog::mem;
use crate::placement::tests as sample;

mod simulated;

const GB: u64 = 1_000_000_000;
const NOW_MS: u64 = 100_000_000;
const TERM: u64 = 1;
/// What stays free beside a copy at least.
const SPARE_BYTES_MIN: u64 = 1 << 30;

fn site(node: u64) -> Site {
    Site { disk_free_bytes: Some(100 * GB), disk_total_bytes: Some(200 * GB), ..sample::site(node) }
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// A wish for so many copies of 10 GB, whose plan was made a long time ago.
fn standing(count: u32, targets: &[u64], holders: &[u64]) -> Standing {
    let plan =
        Plan { ingester: NodeId(targets[0]), targets: ids(targets), made_at: Timestamp(1), kind: PlanKind::Asked };
    let wish = Wish {
        replicas: Replicas::Count(count),
        digest: Some(Digest([1; 32])),
        size_bytes: 10 * GB,
        plan: Some(plan),
        ..mem::wish("m".parse().expect("a name"))
    };
    Standing {
        wish,
        size_bytes: 10 * GB,
        holders: ids(holders).into_iter().collect(),
        dropping: BTreeSet::new(),
        pinned: false,
        loaded_on: BTreeSet::new(),
        surplus: BTreeSet::new(),
        at_hand: BTreeSet::new(),
    }
}

fn of_kind(mut standing: Standing, kind: PlanKind) -> Standing {
    let plan = standing.wish.plan.take().expect("a plan");
    standing.wish.plan = Some(Plan { kind, ..plan });
    standing
}

/// What has been so for an hour; with `new` since a moment ago.
fn watched(sites: &[Site], new: &[u64], health: &dyn Fn(&Site) -> Health) -> Presence {
    let mut presence = Presence::default();
    for turn in 0..=360 {
        let known = sites.iter().filter(|site| turn == 360 || !new.contains(&site.node.0));
        let seen = known.map(|site| (site.node, health(site))).collect();
        presence.look(turn * 10_000, TERM, &seen);
    }
    presence
}

fn outlook(sites: &[Site], wishes: &[Standing], new: &[u64], knobs: &ReplicaKnobs) -> Outlook {
    outlook_beside(&BTreeSet::new(), sites, wishes, new, knobs)
}

fn outlook_beside(
    resting: &BTreeSet<String>,
    sites: &[Site],
    wishes: &[Standing],
    new: &[u64],
    knobs: &ReplicaKnobs,
) -> Outlook {
    let presence = watched(sites, new, &|site| site.health);
    let runtimes = watched(sites, new, &|site| if site.runtime_up { Health::Alive } else { Health::Dead });
    plan_moves(&Facts { now_ms: NOW_MS, sites, wishes, presence: &presence, runtimes: &runtimes, knobs, resting })
}

/// Compares the moves for one wish.
fn check(what: &str, sites: &[Site], standing: Standing, expected: &[Move]) {
    let found = outlook(sites, &[standing], &[], &ReplicaKnobs::default());
    assert_eq!(found.moves, expected, "{what}");
}

fn plan(ingester: u64, targets: &[u64], kind: PlanKind) -> Move {
    let name = "m".parse().expect("a name");
    Move::Plan { name, round: 7, ingester: NodeId(ingester), targets: ids(targets), kind }
}

fn dropped(node: u64) -> Move {
    Move::Drop { name: "m".parse().expect("a name"), node: NodeId(node) }
}

fn lost(node: u64) -> Site {
    Site { health: Health::Dead, runtime_up: false, ..site(node) }
}

fn emptying(node: u64) -> Site {
    Site { cordon: Cordon::Emptying, ..site(node) }
}

#[test]
fn a_lost_copy_is_made_anew_and_the_lost_node_stays_a_target() {
    let sites = [site(1), lost(2), site(3)];
    check("a copy is lost", &sites, standing(2, &[1, 2], &[1, 2]), &[plan(1, &[1, 2, 3], PlanKind::Repair)]);
    check("the one that there is", &sites, standing(1, &[2], &[2]), &[plan(1, &[2, 1], PlanKind::Repair)]);
    check("a copy that was found counts", &sites, standing(2, &[1, 2], &[1, 2, 3]), &[]);
    check("one is on its way already", &sites, of_kind(standing(2, &[1, 2, 3], &[1, 2]), PlanKind::Repair), &[]);
    let named = |mut standing: Standing| {
        standing.wish.replicas = Replicas::Nodes(ids(&[1, 2]));
        standing
    };
    check("nobody stands in for a named node", &sites, named(standing(2, &[1, 2], &[1, 2])), &[]);
    let back = [site(1), site(2), site(3)];
    check("it came back: the newest goes", &back, standing(2, &[1, 2, 3], &[1, 2, 3]), &[dropped(3)]);
    let loaded = Standing { loaded_on: BTreeSet::from([NodeId(3)]), ..standing(2, &[1, 2, 3], &[1, 2, 3]) };
    check("not one that is loaded", &back, loaded, &[dropped(2)]);
    let pinned = Standing { pinned: true, ..standing(2, &[1, 2, 3], &[1, 2, 3]) };
    check("nor one of a pinned name", &back, pinned, &[]);
    let going = Standing { dropping: BTreeSet::from([NodeId(3)]), ..standing(2, &[1, 2], &[1, 2, 3]) };
    check("one that goes is not dropped twice", &back, going, &[]);
    let away = Standing { dropping: BTreeSet::from([NodeId(4)]), ..standing(2, &[1, 2, 3], &[1, 2, 3, 4]) };
    check("nobody waits for a lost node", &[site(1), site(2), site(3), lost(4)], away.clone(), &[dropped(3)]);
    check("one after the other", &[site(1), site(2), site(3), site(4)], away, &[]);
}

#[test]
fn a_named_node_that_has_left_is_the_reason_and_no_other_is() {
    let check = |what: &str, named: &[u64], wish: Standing, sites: &[Site], expected: &[(u64, Unfit)]| {
        let wish = Standing { wish: Wish { replicas: Replicas::Nodes(ids(named)), ..wish.wish }, ..wish };
        let found = outlook(sites, &[wish], &[], &ReplicaKnobs::default());
        let expected: Vec<(NodeId, Unfit)> = expected.iter().map(|(node, why)| (NodeId(*node), why.clone())).collect();
        let name: ModelName = "m".parse().expect("a name");
        let impossible = if expected.is_empty() { vec![] } else { vec![(name, expected)] };
        assert_eq!((found.moves, found.impossible), (vec![], impossible), "{what}");
    };
    let others = [site(1), emptying(2)];
    check("the only one", &[3], standing(1, &[3], &[]), &others, &[(3, Unfit::Departed)]);
    check("one of two", &[1, 3], standing(2, &[1], &[1]), &others, &[(3, Unfit::Departed)]);
    let emptied = [(2, Unfit::Cordoned), (3, Unfit::Departed)];
    check("and one is emptied", &[2, 3], standing(2, &[2], &[2]), &others, &emptied);
    check("all are there", &[1], standing(1, &[1], &[1]), &others, &[]);
    let unplanned = standing(1, &[3], &[]);
    let unplanned = Standing { wish: Wish { plan: None, digest: None, ..unplanned.wish }, ..unplanned };
    check("nothing is planned yet", &[3], unplanned, &others, &[(3, Unfit::Departed)]);
}

#[test]
fn a_copy_that_was_told_to_go_and_is_missed_is_taken_back() {
    let going = |targets: &[u64], holders: &[u64], node: u64| Standing {
        dropping: BTreeSet::from([NodeId(node)]),
        ..standing(2, targets, holders)
    };
    let with_failure = |mut standing: Standing, node: u64| {
        let (code, text, at) = (ErrorCode::PullCancelled, "no".to_owned(), Timestamp(NOW_MS - 1));
        standing.wish.failures.insert(NodeId(node), Failure { code, text, at, by_hand: false });
        standing
    };
    let sites = |third: Site| [site(1), lost(2), third, site(4)];
    let third = || going(&[1, 2], &[1, 2, 3], 3);
    let (back, anew) = ([plan(1, &[1, 2, 3], PlanKind::Repair)], [plan(1, &[1, 2, 4], PlanKind::Repair)]);
    check("another one is lost meanwhile", &sites(site(3)), third(), &back);
    check("it is not there itself", &sites(lost(3)), third(), &anew);
    check("it does not belong there", &sites(emptying(3)), third(), &anew);
    check("somebody insisted", &sites(site(3)), with_failure(third(), 3), &anew);
    let last = [plan(3, &[1, 2, 3], PlanKind::Repair)];
    check("all others are lost", &[lost(1), lost(2), site(3), site(4)], third(), &last);
    let by_hand = with_failure(going(&[1, 2], &[1, 3], 3), 2);
    let sites = [site(1), site(2), site(3), site(4)];
    check("a person removed another one", &sites, by_hand, &[plan(1, &[1, 3], PlanKind::Repair)]);
    check("nothing is missing", &sites, third(), &[]);
}

#[test]
fn a_copy_that_somebody_insisted_must_go_is_chosen_by_no_plan() {
    let failed = |mut standing: Standing, node: u64, code: ErrorCode| {
        let failure = Failure { code, text: "no".to_owned(), at: Timestamp(NOW_MS - 1), by_hand: false };
        standing.wish.failures.insert(NodeId(node), failure);
        standing
    };
    let insisted = |standing: Standing, node: u64| {
        let dropping = BTreeSet::from([NodeId(node)]);
        failed(Standing { dropping, ..standing }, node, ErrorCode::PullCancelled)
    };
    let only = || {
        let mut only = insisted(standing(1, &[1], &[1]), 1);
        only.wish.plan = None;
        only
    };
    check("it was the only target", &[site(1), site(2)], only(), &[plan(2, &[2], PlanKind::Asked)]);
    check("and there is nobody else", &[site(1)], only(), &[]);
    let full = failed(insisted(standing(2, &[1, 2], &[1, 3]), 3), 2, ErrorCode::DiskFull);
    let sites = [site(1), site(2), site(3), site(4)];
    check("a target has no room", &sites, full, &[plan(1, &[1, 4], PlanKind::Asked)]);
}

#[test]
fn who_is_not_steady_gets_nothing_and_loses_nothing() {
    let sites = [site(1), lost(2), site(3)];
    let knobs = ReplicaKnobs::default();
    let found = outlook(&sites, &[standing(2, &[1, 2], &[1, 2])], &[3], &knobs);
    assert!(found.moves.is_empty() && found.impossible.is_empty(), "node 3 has just come: it is waited for");
    let found = outlook(&sites, &[standing(2, &[1, 2], &[1, 2])], &[2], &knobs);
    assert!(found.moves.is_empty() && found.under.is_empty(), "node 2 is silent only since a moment");
    let back = [site(1), site(2), site(3)];
    let found = outlook(&back, &[standing(2, &[1, 2, 3], &[1, 2, 3])], &[2], &knobs);
    assert!(found.moves.is_empty(), "node 2 has just come back");
}

#[test]
fn a_silent_copy_that_is_not_lost_counts_and_makes_up_for_no_other() {
    let knobs = ReplicaKnobs::default();
    let told_soon = ReplicaKnobs { repair_after: Duration::ZERO, ..knobs };
    let sites = [site(1), lost(2), site(3)];
    let check = |what: &str, standing: Standing, short: Option<(u32, u32)>| {
        let found = outlook(&sites, std::slice::from_ref(&standing), &[2], &knobs);
        assert_eq!((found.moves, found.under, found.impossible), (vec![], vec![], vec![]), "{what}");
        let told = outlook(&sites, &[standing], &[2], &told_soon).under;
        assert_eq!(told.first().map(|short| (short.has, short.wants)), short, "{what}");
    };
    check("the only copy", standing(1, &[2], &[2]), Some((0, 1)));
    check("one of two", standing(2, &[1, 2], &[1, 2]), Some((1, 2)));
    check("one of three where two are wanted", standing(2, &[1, 2, 3], &[1, 2, 3]), None);
}

#[test]
fn a_copy_on_its_way_waits_for_its_node_as_long_as_one_that_is_there() {
    let knobs = ReplicaKnobs::default();
    let moves = |sites: &[Site], standing: Standing, new: &[u64]| outlook(sites, &[standing], new, &knobs).moves;
    let sites = [site(1), lost(2), lost(3), site(4)];
    for kind in [PlanKind::Repair, PlanKind::Rebalance, PlanKind::Emptying] {
        let begun = || of_kind(standing(2, &[1, 2, 3], &[1, 2]), kind);
        assert_eq!(moves(&sites, begun(), &[3]), [], "{kind:?}: node 3 starts again, and has what had come");
        assert_eq!(moves(&sites, begun(), &[]), [plan(1, &[1, 2, 4], kind)], "{kind:?}: it is lost");
    }
    let source_died = of_kind(standing(3, &[1, 2, 3], &[1, 2]), PlanKind::Repair);
    let away = [lost(1), site(2), lost(3), site(4)];
    assert_eq!(moves(&away, source_died, &[1, 3]), [plan(2, &[1, 2, 3], PlanKind::Repair)], "another brings the rest");
    let asked = standing(2, &[1, 3], &[1]);
    assert_eq!(moves(&sites, asked, &[3]), [plan(1, &[1, 4], PlanKind::Asked)], "people wait for what they asked for");
    let alone = of_kind(standing(1, &[3], &[]), PlanKind::Repair);
    assert_eq!(moves(&sites, alone, &[3]), [plan(1, &[1], PlanKind::Repair)], "nor is who brings the model awaited");
}

#[test]
fn a_node_without_a_store_gets_no_copy_that_nobody_asked_for() {
    let storeless =
        |node: u64| Site { no_store_at: Some("/models".to_owned()), disk_free_bytes: Some(900 * GB), ..site(node) };
    let short = || standing(2, &[1, 2], &[1, 2]);
    let anew = [plan(1, &[1, 2, 4], PlanKind::Repair)];
    check("another does", &[site(1), lost(2), storeless(3), site(4)], short(), &anew);
    let alone = outlook(&[site(1), lost(2), storeless(3)], &[short()], &[], &ReplicaKnobs::default());
    assert_eq!(alone.moves, []);
    let place = "/models".to_owned();
    let told: Vec<(NodeId, Unfit)> = alone.impossible.into_iter().flat_map(|(_, reasons)| reasons).collect();
    assert!(told.contains(&(NodeId(3), Unfit::NoStore { place })), "{told:?}");
}

#[test]
fn what_an_earlier_round_had_too_many_of_goes_when_this_one_has_its_copies() {
    let left = |count: u32, targets: &[u64], holders: &[u64], surplus: &[u64]| Standing {
        surplus: ids(surplus).into_iter().collect(),
        ..standing(count, targets, holders)
    };
    let sites = [site(1), site(2), site(3)];
    // Nodes 2 and 3 have an older version, or this one.
    check("of an older version", &sites, left(1, &[1], &[1], &[2, 3]), &[dropped(3)]);
    check("of the same", &sites, left(1, &[1], &[1, 2, 3], &[2, 3]), &[dropped(3)]);
    check("not before this round has its own", &sites, left(1, &[1], &[], &[2, 3]), &[]);
    let anew = [plan(2, &[1, 2], PlanKind::Repair)];
    check("nor where that is away", &[lost(1), site(2), site(3)], left(1, &[1], &[1], &[2, 3]), &anew);
    let damaged = Site { has_damage: true, ..site(1) };
    check("nor where nobody relies on that", &[damaged, site(2), site(3)], left(1, &[1], &[1], &[2, 3]), &[]);
    check("nor of one who makes up for it", &[lost(1), site(2), site(3)], left(1, &[1], &[1, 3], &[3]), &[]);
    check("not of a target", &sites, left(2, &[1, 2], &[1, 2], &[2]), &[]);
    check("not of who is away itself", &[site(1), site(2), lost(3)], left(1, &[1], &[1], &[2, 3]), &[dropped(2)]);
    let loaded = Standing { loaded_on: ids(&[3]).into_iter().collect(), ..left(1, &[1], &[1], &[2, 3]) };
    check("not one that is loaded", &sites, loaded, &[dropped(2)]);
    let one_goes = Standing { dropping: ids(&[3]).into_iter().collect(), ..left(1, &[1], &[1], &[2, 3]) };
    check("one after the other", &sites, one_goes, &[]);
    let pinned = |holders: &[u64]| Standing { pinned: true, ..left(1, &[1], holders, &[3]) };
    check("an older one of a pinned name", &sites, pinned(&[1]), &[dropped(3)]);
    check("but not the pinned one", &sites, pinned(&[1, 3]), &[]);
    let named = |holders: &[u64]| {
        let mut standing = left(1, &[1, 2], holders, &[3]);
        standing.wish.replicas = Replicas::Nodes(ids(&[1, 2]));
        standing
    };
    check("beside named nodes that have it", &sites, named(&[1, 2]), &[dropped(3)]);
    check("and not before", &sites, named(&[1]), &[]);
    check("what was found stays", &sites, standing(1, &[1], &[1, 2, 3]), &[]);
}

#[test]
fn a_target_whose_runtime_stays_away_loses_its_place() {
    let off = |node: u64| Site { runtime_up: false, ..site(node) };
    let knobs = ReplicaKnobs::default();
    let asked = || standing(2, &[1, 2], &[1]);
    let sites = [site(1), off(2), site(3)];
    check("another one gets the copy", &sites, asked(), &[plan(1, &[1, 3], PlanKind::Repair)]);
    assert_eq!(outlook(&sites, &[asked()], &[2], &knobs), Outlook::default(), "it may start again in a moment");
    let found = outlook(&sites[..2], &[asked()], &[], &knobs);
    assert_eq!((found.moves.len(), found.under.len()), (0, 1), "nobody else is there: it is told");
    assert_eq!(
        found.impossible.into_iter().flat_map(|(_, why)| why).collect::<Vec<_>>(),
        [(NodeId(2), Unfit::NoRuntime)]
    );
    let moved = of_kind(standing(2, &[1, 3, 2], &[1, 3]), PlanKind::Rebalance);
    check("a move to it is given up", &sites, moved, &[plan(1, &[1, 3], PlanKind::Rebalance)]);
    check("what it has counts", &sites, standing(2, &[1, 2], &[1, 2]), &[]);
}

#[test]
fn copies_on_a_node_with_damaged_files_are_nothing_to_rely_on() {
    let damaged = |node: u64| Site { has_damage: true, ..site(node) };
    let three = || standing(2, &[1, 2, 3], &[1, 2, 3]);
    check("the newest stays: another may be damaged", &[site(1), damaged(2), site(3)], three(), &[]);
    check("and so does the damaged one", &[site(1), site(2), damaged(3)], three(), &[]);
    let four = [site(1), damaged(2), site(3), site(4)];
    check("there are enough without it", &four, standing(2, &[1, 2, 3, 4], &[1, 2, 3, 4]), &[dropped(4)]);
    let moved = || of_kind(standing(2, &[1, 2, 3], &[1, 2, 3]), PlanKind::Emptying);
    check("nothing leaves because of it", &[damaged(1), emptying(2), site(3)], moved(), &[]);
    let found = outlook(&[damaged(1), emptying(2), site(3)], &[moved()], &[], &ReplicaKnobs::default());
    assert_eq!(found.stuck.into_iter().flat_map(|(_, why)| why).collect::<Vec<_>>(), [(NodeId(1), Unfit::Damaged)]);
    let leaves = Site { has_damage: true, ..emptying(2) };
    check("but it may leave", &[site(1), leaves, site(3)], moved(), &[dropped(2)]);
}

#[test]
fn a_node_that_is_emptied_loses_its_copy_when_others_have_it() {
    let sites = [site(1), emptying(2), site(3)];
    check("first a new one", &sites, standing(2, &[1, 2], &[1, 2]), &[plan(1, &[1, 2, 3], PlanKind::Emptying)]);
    let moved = || of_kind(standing(2, &[1, 2, 3], &[1, 2, 3]), PlanKind::Emptying);
    check("then it goes", &sites, moved(), &[dropped(2)]);
    let loaded = Standing { loaded_on: BTreeSet::from([NodeId(2)]), ..moved() };
    check("when it is not in use", &sites, loaded, &[]);
    let found = outlook(&sites[..2], &[standing(2, &[1, 2], &[1, 2])], &[], &ReplicaKnobs::default());
    assert!(found.moves.is_empty(), "nobody else is there");
    let mut all = standing(2, &[1, 2, 3], &[1, 2, 3]);
    all.wish.replicas = Replicas::All;
    check("all but it", &sites, all, &[dropped(2)]);
}

#[test]
fn what_cannot_leave_a_node_that_is_emptied_is_told_and_what_may_leave_yet_is_not() {
    let knobs = ReplicaKnobs::default();
    let stuck = |third: Option<Site>, standing: Standing, new: &[u64]| {
        let sites: Vec<Site> = [Some(site(1)), Some(emptying(2)), third].into_iter().flatten().collect();
        let found = outlook(&sites, &[standing], new, &knobs).stuck;
        found.into_iter().map(|(_, why)| why).next()
    };
    let two = || standing(2, &[1, 2], &[1, 2]);
    assert_eq!(stuck(None, two(), &[]), Some(vec![]), "there is nobody else");
    assert_eq!(stuck(None, standing(3, &[1, 2], &[1, 2]), &[]), Some(vec![]), "nor where a number was said");
    let full = Site { disk_free_bytes: Some(11 * GB), ..site(3) };
    let no_room = Unfit::NoRoom { needed_bytes: 10 * GB + SPARE_BYTES_MIN, free_bytes: 11 * GB };
    assert_eq!(stuck(Some(full.clone()), two(), &[]), Some(vec![(NodeId(3), no_room.clone())]));
    let mut failed = two();
    let failure = Failure { code: ErrorCode::OriginFailed, text: "no".to_owned(), at: Timestamp(2), by_hand: false };
    failed.wish.failures.insert(NodeId(3), failure);
    let told = vec![(NodeId(3), Unfit::Told(ErrorCode::OriginFailed))];
    assert_eq!(stuck(Some(site(3)), failed, &[]), Some(told), "others would fail too");
    assert_eq!(stuck(Some(site(3)), two(), &[]), None, "there is a place");
    assert_eq!(stuck(Some(site(3)), two(), &[3]), None, "it is not steady yet");
    let coming = of_kind(standing(2, &[1, 2, 3], &[1, 2]), PlanKind::Emptying);
    assert_eq!(stuck(Some(full.clone()), coming, &[]), None, "a copy is on its way");
    let loaded = Standing { loaded_on: BTreeSet::from([NodeId(2)]), ..standing(1, &[1, 2], &[1, 2]) };
    assert_eq!(stuck(None, loaded, &[]), None, "one is enough, and this one is only in use");
    let mut all = standing(2, &[2], &[2]);
    all.wish.replicas = Replicas::All;
    let elsewhere = Standing { holders: BTreeSet::from([NodeId(1), NodeId(2)]), ..all.clone() };
    assert_eq!(stuck(None, elsewhere, &[]), None, "somebody else has it");
    let site_1_full = Site { node: NodeId(1), ..full };
    let found = outlook(&[site_1_full, emptying(2)], &[all], &[], &knobs).stuck;
    assert_eq!(found.into_iter().map(|(_, why)| why).collect::<Vec<_>>(), [vec![(NodeId(1), no_room)]]);
    let stays = outlook(&[site(1), site(2)], &[two()], &[], &knobs).stuck;
    assert!(stays.is_empty(), "nothing is to leave");
}

#[test]
fn a_third_copy_that_is_asked_for_is_none_that_nobody_asked_for_although_the_second_has_come_first() {
    let begun = |holders: &[u64]| {
        let mut begun = standing(3, &[1, 2], holders);
        begun.wish.asked_at = Timestamp(1);
        begun
    };
    let nearly_full = Site { disk_free_bytes: Some(15 * GB), ..site(3) };
    let sites = [site(1), site(2), nearly_full.clone()];
    check("one is on its way", &sites, begun(&[1]), &[plan(1, &[1, 2, 3], PlanKind::Asked)]);
    check("it has come", &sites, begun(&[1, 2]), &[plan(1, &[1, 2, 3], PlanKind::Asked)]);
    let off = Site { runtime_up: false, ..nearly_full };
    check("nobody is fit", &[site(1), site(2), off], begun(&[1, 2]), &[]);
    check("a plan of later", &sites, standing(3, &[1, 2], &[1, 2]), &[]);
    let repaired = [plan(1, &[1, 2, 3], PlanKind::Repair)];
    check("a repair where there is room", &[site(1), site(2), site(3)], standing(3, &[1, 2], &[1, 2]), &repaired);
}

#[test]
fn all_follows_who_joins() {
    let mut all = standing(2, &[1, 2], &[1, 2]);
    all.wish.replicas = Replicas::All;
    let gateway = Site { gateway: true, ..site(4) };
    check("one more", &[site(1), site(2), site(3), gateway], all, &[plan(1, &[1, 2, 3], PlanKind::Repair)]);
}

#[test]
fn what_cannot_be_is_told_with_the_reasons() {
    let knobs = ReplicaKnobs::default();
    let told = |third: Site, standing: Standing| {
        let found = outlook(&[site(1), lost(2), third], &[standing], &[], &knobs);
        assert!(found.moves.is_empty());
        let shortages: Vec<(u32, u32)> = found.under.iter().map(|under| (under.has, under.wants)).collect();
        assert_eq!(shortages, [(1, 2)]);
        found.impossible.into_iter().flat_map(|(_, why)| why).collect::<Vec<_>>()
    };
    let two = || standing(2, &[1, 2], &[1, 2]);
    let full = Site { disk_free_bytes: Some(11 * GB), ..site(3) };
    let no_room = Unfit::NoRoom { needed_bytes: 10 * GB + SPARE_BYTES_MIN, free_bytes: 11 * GB };
    let dead = || (NodeId(2), Unfit::Dead);
    assert_eq!(told(full, two()), [dead(), (NodeId(3), no_room)], "a little stays free");
    let nearly = Site { disk_free_bytes: Some(29 * GB), ..site(3) };
    assert_eq!(told(nearly, two()), [dead(), (NodeId(3), Unfit::DiskWatermark { percent: 90 })]);
    let keeping = |disk_free_bytes_min: u64| {
        let mut two = two();
        two.wish.want.disk_free_bytes_min = disk_free_bytes_min;
        two
    };
    let disk = Unfit::DiskFree { kept_bytes: 91 * GB, left_bytes: Some(90 * GB) };
    assert_eq!(told(site(3), keeping(91 * GB)), [dead(), (NodeId(3), disk)], "the wish wants more of the disk left");
    let unknown = Site { disk_free_bytes: None, ..site(3) };
    let disk = Unfit::DiskFree { kept_bytes: 1, left_bytes: None };
    assert_eq!(told(unknown, keeping(1)), [dead(), (NodeId(3), disk)]);
    let sites = [site(1), lost(2), site(3)];
    check("just so much", &sites, keeping(90 * GB), &[plan(1, &[1, 2, 3], PlanKind::Repair)]);
    let cordoned = Site { cordon: Cordon::Cordoned, ..site(3) };
    let found = outlook(&[site(1), lost(2), cordoned], &[standing(3, &[1, 2], &[1, 2])], &[], &knobs);
    assert_eq!(found.impossible[0].1, [dead(), (NodeId(3), Unfit::Cordoned)]);
    let all_had = outlook(&[site(1), site(3), lost(2)], &[standing(3, &[1, 2, 3], &[1, 2, 3])], &[], &knobs);
    assert_eq!(all_had.impossible[0].1, [dead()], "nobody else is there, and who is lost is the reason");
    let mut failed = two();
    let failure = Failure { code: ErrorCode::OriginFailed, text: "no".to_owned(), at: Timestamp(2), by_hand: false };
    failed.wish.failures.insert(NodeId(3), failure);
    assert_eq!(told(site(3), failed), [(NodeId(3), Unfit::Told(ErrorCode::OriginFailed))], "others would fail too");
    let alone = outlook(&[site(1)], &[standing(2, &[1], &[1])], &[], &knobs);
    assert_eq!(alone, Outlook::default(), "two where nobody says how many, on one node");
}

#[test]
fn room_is_given_once_and_what_is_set_aside_counts_once() {
    let knobs = ReplicaKnobs::default();
    let of = |name: &str, standing: Standing| {
        let wish = Wish { name: name.parse().expect("a name"), size_bytes: 60 * GB, ..standing.wish };
        Standing { wish, size_bytes: 60 * GB, ..standing }
    };
    let fresh = |name: &str| {
        let mut standing = of(name, standing(1, &[1], &[]));
        standing.wish.plan = None;
        standing
    };
    let under_way = |name: &str| of(name, standing(1, &[1], &[]));
    let larger = |node: u64, gb: u64| Site { disk_free_bytes: Some(gb * GB), disk_total_bytes: None, ..site(node) };
    let aside = |site: Site, gb: u64| Site { aside_bytes: Some(gb * GB), ..site };
    let targets = |sites: &[Site], wishes: &[Standing]| -> Vec<(String, Option<u64>)> {
        let moves = outlook(sites, wishes, &[], &knobs).moves.into_iter();
        let target = |step: Move| match step {
            Move::Plan { name, targets, .. } => (name.to_string(), targets.first().map(|node| node.0)),
            Move::Drop { .. } => panic!("{step:?}"),
        };
        moves.map(target).map(|(name, node)| (name.split(':').next().unwrap_or_default().to_owned(), node)).collect()
    };
    let check = |what: &str, sites: &[Site], wishes: &[Standing], expected: &[(&str, u64)]| {
        let found = targets(sites, wishes);
        let expected: Vec<_> = expected.iter().map(|(name, node)| ((*name).to_owned(), Some(*node))).collect();
        assert_eq!(found, expected, "{what}");
    };
    let both = [larger(1, 100), larger(2, 90)];
    check("two at one look", &both, &[fresh("a"), fresh("b")], &[("a", 1), ("b", 2)]);
    check("no room for both", &both[..1], &[fresh("a"), fresh("b")], &[("a", 1)]);
    check("one is on its way", &both, &[under_way("a"), fresh("b")], &[("b", 2)]);
    let not_told = outlook(&both[..1], &[under_way("a"), fresh("b")], &[], &knobs).impossible;
    let no_room = Unfit::NoRoom { needed_bytes: 63 * GB, free_bytes: 40 * GB };
    assert_eq!(not_told.into_iter().map(|(_, why)| why).collect::<Vec<_>>(), [vec![(NodeId(1), no_room)]]);
    let set_aside = [aside(larger(1, 100), 60), larger(2, 90)];
    check("its room is set aside", &set_aside, &[under_way("a"), fresh("b")], &[("b", 1)]);
    let of_both = [aside(larger(1, 70), 60), larger(2, 65)];
    check("of one of two", &of_both, &[under_way("a"), under_way("b"), fresh("c")], &[("c", 2)]);
    let no_more = [aside(larger(1, 100), 600), larger(2, 90)];
    check("more than is on its way", &no_more, &[under_way("a"), fresh("b")], &[("b", 1)]);
    let at_hand = |name: &str| Standing { at_hand: BTreeSet::from([NodeId(1)]), ..fresh(name) };
    let full = [larger(1, 1)];
    check("the files are there", &full, &[at_hand("a"), at_hand("b")], &[("a", 1), ("b", 1)]);
    check("and take no room", &[larger(1, 70)], &[at_hand("a"), fresh("b")], &[("a", 1), ("b", 1)]);
    let repaired = || of("r", standing(2, &[1, 2], &[1, 2]));
    let short = [larger(1, 10), lost(2), larger(3, 100)];
    check("a repair", &short, &[repaired()], &[("r", 1)]);
    check("a repair and a first plan", &short, &[repaired(), fresh("a")], &[("a", 3)]);
    let beside = |resting: &str| {
        let key = under_way(resting).wish.name.key();
        outlook_beside(&BTreeSet::from([key]), &both[..1], &[under_way("a"), fresh("b")], &[], &knobs)
    };
    let found = beside("a");
    assert_eq!((found.moves.len(), found.impossible.len()), (0, 1), "what rests takes its room");
    assert_eq!(beside("b"), Outlook::default(), "and nothing is decided of it");
}

#[test]
fn a_copy_that_a_person_removed_is_made_elsewhere_later() {
    let sites = [site(1), site(2), site(3)];
    let removed = |ago_ms: u64| {
        let mut standing = standing(2, &[1, 2], &[1]);
        let at = Timestamp(NOW_MS - ago_ms);
        let failure = Failure { code: ErrorCode::PullCancelled, text: "by hand".to_owned(), at, by_hand: false };
        standing.wish.failures.insert(NodeId(2), failure);
        standing
    };
    check("its store may be away", &sites, removed(599_999), &[]);
    check("it stays away", &sites, removed(600_000), &[plan(1, &[1, 3], PlanKind::Repair)]);
    let only = |ago_ms: u64| {
        let mut standing = standing(1, &[2], &[]);
        let at = Timestamp(NOW_MS - ago_ms);
        let failure = Failure { code: ErrorCode::PullCancelled, text: "by hand".to_owned(), at, by_hand: true };
        standing.wish.failures.insert(NodeId(2), failure);
        standing
    };
    check("the only one: nor is that fetched anew at once", &sites, only(599_999), &[]);
    check("but later", &sites, only(600_000), &[plan(1, &[1], PlanKind::Asked)]);
}

#[test]
fn where_copies_are_enough_nobody_waits_for_a_target_that_has_failed() {
    let sites = [site(1), site(2), site(3)];
    let check_after = |what: &str, mut standing: Standing, failed: (u64, ErrorCode), ago_ms: u64, expected: &[Move]| {
        let (node, code) = failed;
        let failure = Failure { code, text: "no".to_owned(), at: Timestamp(NOW_MS - ago_ms), by_hand: false };
        standing.wish.failures.insert(NodeId(node), failure);
        check(what, &sites, standing, expected);
    };
    let moved = |holders: &[u64]| of_kind(standing(2, &[1, 2, 3], holders), PlanKind::Rebalance);
    let full = (3, ErrorCode::DiskFull);
    check_after("it is told for a while", moved(&[1, 2]), full, 599_999, &[]);
    check_after("then no more", moved(&[1, 2]), full, 600_000, &[plan(1, &[1, 2], PlanKind::Rebalance)]);
    let origin = (3, ErrorCode::OriginFailed);
    check_after("whatever it was", moved(&[1, 2]), origin, 600_000, &[plan(1, &[1, 2], PlanKind::Rebalance)]);
    check_after("not while one is missing", moved(&[1]), (2, ErrorCode::OriginFailed), 600_000, &[]);
    let found = || standing(2, &[1, 2], &[1, 3]);
    let removed = (2, ErrorCode::PullCancelled);
    check_after("a person removed it", found(), removed, 599_999, &[]);
    check_after("and others are enough", found(), removed, 600_000, &[plan(1, &[1], PlanKind::Asked)]);
    check_after("that one is none", standing(1, &[2], &[1]), (2, ErrorCode::OriginFailed), 600_000, &[]);
}

#[test]
fn what_a_member_had_that_left_is_made_anew_in_turn_and_not_twice() {
    let sites = [site(1), site(3), site(4)];
    let two = |name: &str, targets: &[u64], holders: &[u64]| {
        let mut standing = standing(2, targets, holders);
        standing.wish.name = name.parse().expect("a name");
        standing
    };
    check("nobody waits for it", &sites, two("m", &[1, 2], &[1]), &[plan(1, &[1], PlanKind::Asked)]);
    check("it brought the model", &sites, two("m", &[2, 1], &[1]), &[plan(1, &[1], PlanKind::Asked)]);
    check("then as what is lost", &sites, two("m", &[1], &[1]), &[plan(1, &[1, 3], PlanKind::Repair)]);
    let made_up = || of_kind(two("m", &[1, 2, 3], &[1, 3]), PlanKind::Repair);
    check("it was made up for before", &sites, made_up(), &[plan(1, &[1, 3], PlanKind::Repair)]);
    let about_to_leave = [site(1), lost(2), site(3), site(4)];
    check("nor before it has left", &about_to_leave, made_up(), &[]);
    check("and nothing follows", &sites, of_kind(two("m", &[1, 3], &[1, 3]), PlanKind::Repair), &[]);
    check("nobody else has it", &sites, standing(1, &[2], &[]), &[plan(1, &[1], PlanKind::Asked)]);
    let wishes = [two("a", &[1], &[1]), two("b", &[1], &[1])];
    assert_eq!(outlook(&sites, &wishes, &[], &ReplicaKnobs::default()).moves.len(), 1, "one after the other");
}

#[test]
fn one_plan_that_nobody_asked_for_is_made_at_a_look_and_some_are_under_way() {
    let sites = [site(1), lost(2), site(3), site(4)];
    let named = |mut standing: Standing, name: &str| {
        standing.wish.name = name.parse().expect("a name");
        standing
    };
    let lacking = |name: &str| named(standing(2, &[1, 2], &[1, 2]), name);
    let moving = |name: &str| named(of_kind(standing(2, &[1, 2, 3], &[1, 2]), PlanKind::Repair), name);
    let planned = |wishes: &[Standing]| outlook(&sites, wishes, &[], &ReplicaKnobs::default()).moves.len();
    assert_eq!(planned(&[lacking("a"), lacking("b")]), 1);
    assert_eq!(planned(&[lacking("a"), moving("b")]), 1);
    assert_eq!(planned(&[lacking("a"), moving("b"), moving("c")]), 0);
    let away = [site(1), lost(2), lost(3), site(4)];
    let wishes = [lacking("a"), moving("b"), moving("c")];
    let found = outlook(&away, &wishes, &[3], &ReplicaKnobs::default()).moves;
    assert!(matches!(found.as_slice(), [Move::Plan { .. }]), "who starts again is waited for by its own: {found:?}");
    let mut asked = lacking("d");
    asked.wish.plan = None;
    assert_eq!(planned(&[asked, moving("b"), moving("c")]), 1, "what people ask for does not wait");
}

#[test]
fn copies_go_from_the_fullest_disk_to_the_emptiest_where_that_is_on() {
    let used = |node: u64, used_gb: u64| Site { disk_free_bytes: Some((200 - used_gb) * GB), ..site(node) };
    let sites = [used(1, 150), used(2, 60), used(3, 100)];
    let sized = |name: &str, size_gb: u64| {
        let mut standing = Standing { size_bytes: size_gb * GB, ..standing(1, &[1], &[1]) };
        standing.wish.name = name.parse().expect("a name");
        standing
    };
    let on = ReplicaKnobs { rebalance: true, ..ReplicaKnobs::default() };
    let moved = |wishes: &[Standing], knobs: &ReplicaKnobs| match outlook(&sites, wishes, &[], knobs).moves.as_slice() {
        [] => None,
        [Move::Plan { name, targets, kind: PlanKind::Rebalance, .. }] => Some((name.to_string(), targets.clone())),
        other => panic!("{other:?}"),
    };
    let wishes = || [sized("small", 10), sized("fits", 40), sized("large", 60)];
    let to = |name: &str| Some((sized(name, 1).wish.name.to_string(), ids(&[2, 1])));
    assert_eq!(moved(&wishes(), &ReplicaKnobs::default()), None, "it is off");
    assert_eq!(moved(&wishes(), &on), to("fits"), "the most equal, the source last");
    assert_eq!(moved(&wishes(), &ReplicaKnobs { rebalance_percent: 46, ..on }), None, "not worth it");
    let pinned = wishes().map(|standing| Standing { pinned: true, ..standing });
    assert_eq!(moved(&pinned, &on), None, "pinned");
    let loaded = wishes().map(|standing| Standing { loaded_on: BTreeSet::from([NodeId(1)]), ..standing });
    assert_eq!(moved(&loaded, &on), None, "in use");
    let again = wishes().map(|mut standing| {
        let plan = standing.wish.plan.take().expect("a plan");
        let made_at = Timestamp(NOW_MS - 3_600_000);
        standing.wish.plan = Some(Plan { kind: PlanKind::Rebalance, made_at, ..plan });
        standing
    });
    assert_eq!(moved(&again, &on), None, "moved an hour ago");
    let beside_a_drop_on = |node: u64| {
        let mut other = Standing { dropping: BTreeSet::from([NodeId(node)]), ..standing(1, &[3], &[3, node]) };
        other.wish.name = "other".parse().expect("a name");
        let wishes: Vec<Standing> = wishes().into_iter().chain([other]).collect();
        let sites = [used(1, 150), used(2, 60), used(3, 100), used(4, 100), lost(5)];
        outlook(&sites, &wishes, &[], &on).moves.len()
    };
    assert_eq!((beside_a_drop_on(4), beside_a_drop_on(5)), (0, 1), "a node that never comes back stops nothing");
    let arrived = of_kind(standing(1, &[2, 1], &[1, 2]), PlanKind::Rebalance);
    assert_eq!(outlook(&sites, &[arrived], &[], &on).moves, [dropped(1)], "the source goes");
}
