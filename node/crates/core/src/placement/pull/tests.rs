//! Plans row by row: who is chosen, who gives way, and what people are told.

use std::sync::Arc;

use ollamax_types::{Digest, SpareRule, Timestamp};

use super::*;
use crate::catalog::{Cordon, Failure, Want, mem};
use crate::placement::tests as sample;

const GB: u64 = 1_000_000_000;
const SIZE_BYTES: u64 = 50 * GB;
/// Room for it, and for what stays free beside it.
const NEEDED_BYTES: u64 = SIZE_BYTES + SIZE_BYTES / 20;

fn site(node: u64) -> Site {
    with_free(node, 100 * GB)
}

fn dead(node: u64) -> Site {
    Site { health: Health::Dead, ..site(node) }
}

fn holder(node: u64) -> Site {
    Site { holds: true, ..site(node) }
}

fn with_free(node: u64, free_bytes: u64) -> Site {
    Site { disk_free_bytes: Some(free_bytes), ..sample::site(node) }
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn asked(replicas: Replicas) -> Wish {
    Wish { replicas, ..mem::wish("m".parse().expect("a name")) }
}

fn planned(wish: Wish, ingester: u64, targets: &[u64]) -> Wish {
    let plan = Plan { ingester: NodeId(ingester), targets: ids(targets), made_at: Timestamp(1), kind: PlanKind::Asked };
    Wish { plan: Some(plan), ..wish }
}

fn resolved(wish: Wish) -> Wish {
    Wish { digest: Some(Digest([1; 32])), size_bytes: SIZE_BYTES, ..wish }
}

fn failed(mut wish: Wish, node: u64, code: ErrorCode) -> Wish {
    wish.failures.insert(NodeId(node), Failure { code, text: "no".to_owned(), at: Timestamp(2), by_hand: false });
    wish
}

/// Compares a plan, with the sites in either order.
fn check(what: &str, wish: &Wish, sites: &[Site], expected: &Planned) {
    let size_bytes = wish.digest.map(|_| wish.size_bytes);
    let turned: Vec<Site> = sites.iter().rev().cloned().collect();
    assert_eq!(plan_pull(wish, sites, size_bytes), *expected, "{what}");
    assert_eq!(plan_pull(wish, &turned, size_bytes), *expected, "{what}, in another order");
}

fn plan(ingester: u64, targets: &[u64]) -> Planned {
    Planned::Plan { ingester: NodeId(ingester), targets: ids(targets) }
}

fn impossible(unfit: &[(u64, Unfit)]) -> Planned {
    Planned::Impossible(unfit.iter().map(|(node, why)| (NodeId(*node), why.clone())).collect())
}

#[test]
fn a_first_plan_takes_holders_then_who_is_heard_then_who_has_the_most_room() {
    let two = asked(Replicas::Count(2));
    let here = || Site { is_self: true, health: Health::Unknown, ..site(1) };
    let silent = || Site { health: Health::Suspect, ..with_free(2, 900 * GB) };
    check("most room", &two, &[site(1), with_free(2, 900 * GB), with_free(3, 500 * GB)], &plan(2, &[2, 3]));
    check("the lowest of equals", &two, &[site(3), site(1), site(2)], &plan(1, &[1, 2]));
    check("a holder before room", &two, &[with_free(1, 900 * GB), holder(2), site(3)], &plan(2, &[2, 1]));
    check("a silent one last", &two, &[here(), silent(), site(3)], &plan(1, &[1, 3]));
    check("but a choice", &two, &[here(), silent()], &plan(1, &[1, 2]));
    let old = Site { holds: true, ..silent() };
    check("a silent holder is a copy, but does not ask", &two, &[site(1), old, site(3)], &plan(1, &[2, 1]));
    check("one copy", &asked(Replicas::Count(1)), &[site(1), holder(2)], &plan(2, &[2]));
    let unknown = Site { disk_free_bytes: None, ..site(1) };
    check("unknown room is the least", &two, &[unknown, with_free(2, 0), with_free(3, 1)], &plan(3, &[3, 2]));
}

#[test]
fn who_has_the_files_at_hand_comes_before_who_has_more_room() {
    let two = resolved(asked(Replicas::Count(2)));
    let at_hand = |node: u64| Site { at_hand: true, ..site(node) };
    let empty = || with_free(3, 900 * GB);
    check("a version that two keep", &two, &[at_hand(1), at_hand(2), empty()], &plan(1, &[1, 2]));
    check("one keeps it, and asks", &two, &[at_hand(1), site(2), empty()], &plan(1, &[1, 3]));
    check("a holder comes first", &two, &[at_hand(1), holder(2), empty()], &plan(2, &[2, 1]));
    let silent = Site { health: Health::Suspect, ..at_hand(1) };
    check("a silent one last", &two, &[silent, site(2), empty()], &plan(3, &[3, 2]));
    let with = |site: Site, permille: u16| Site { progress_permille: Some(permille), ..site };
    let begun = planned(two, 4, &[1, 2]);
    let known = [with(at_hand(1), 400), with(site(2), 500), dead(4)];
    check("more of it is better", &begun, &known, &plan(2, &[1, 2]));
}

#[test]
fn a_node_without_a_store_is_chosen_where_nobody_else_is_fit() {
    let two = asked(Replicas::Count(2));
    let storeless = |node: u64| Site { no_store_at: Some("/models".to_owned()), ..with_free(node, 900 * GB) };
    check("others before it", &two, &[storeless(1), site(2), site(3)], &plan(2, &[2, 3]));
    check("it is a choice, and asks nobody", &two, &[storeless(1), site(2), dead(3)], &plan(2, &[2, 1]));
    check("also alone", &two, &[storeless(1)], &plan(1, &[1]));
    check("of all", &asked(Replicas::All), &[storeless(1), site(2)], &plan(2, &[2, 1]));
    check("where it is named", &asked(Replicas::Nodes(ids(&[1, 2]))), &[storeless(1), site(2)], &plan(2, &[1, 2]));
}

#[test]
fn how_many_copies_there_are() {
    let sites = [site(1), site(2), Site { gateway: true, ..site(3) }, dead(4)];
    let unfit = [(3, Unfit::Gateway), (4, Unfit::Dead)];
    check("two where nobody says how many", &asked(Replicas::Count(2)), &sites, &plan(1, &[1, 2]));
    check("one where only one is fit", &asked(Replicas::Count(2)), &sites[1..], &plan(2, &[2]));
    let declared = Wish { declared: true, ..asked(Replicas::Count(2)) };
    check("two that a file declares", &declared, &sites[1..], &impossible(&unfit));
    check("two that it declares, and there are", &declared, &sites, &plan(1, &[1, 2]));
    check("three that were asked for", &asked(Replicas::Count(3)), &sites, &impossible(&unfit));
    check("all that are fit", &asked(Replicas::All), &sites, &plan(1, &[1, 2]));
    check("none is fit", &asked(Replicas::All), &sites[2..], &impossible(&unfit));
    check("nor for one", &asked(Replicas::Count(1)), &sites[2..], &impossible(&unfit));
    check("nobody is there", &asked(Replicas::Count(2)), &[], &impossible(&[]));
    let many: Vec<Site> = (1..=70).map(site).collect();
    let Planned::Plan { targets, .. } = plan_pull(&asked(Replicas::All), &many, None) else { panic!("no plan") };
    assert_eq!(targets.len(), WISH_TARGETS_MAX);
}

#[test]
fn named_nodes_are_taken_or_it_is_said_why_not() {
    let named = |nodes: &[u64]| asked(Replicas::Nodes(ids(nodes)));
    let drained = Site { drained: true, ..site(3) };
    let down = Site { runtime_up: false, ..site(4) };
    let sites = [site(1), with_free(2, 900 * GB), drained, down, dead(5)];
    check("they alone", &named(&[1]), &sites, &plan(1, &[1]));
    check("the better one asks", &named(&[1, 2]), &sites, &plan(2, &[1, 2]));
    let unfit = [(3, Unfit::Drained), (4, Unfit::NoRuntime), (5, Unfit::Dead), (9, Unfit::Removed)];
    check("why not", &named(&[1, 3, 4, 5, 9]), &sites, &impossible(&unfit));
    check("who has it asks for them", &named(&[1]), &[site(1), holder(2)], &plan(2, &[1]));
    let removed = |nodes: &[u64]| failed(named(nodes), 2, ErrorCode::PullCancelled);
    check("a copy was removed there before", &removed(&[1, 2]), &sites, &plan(1, &[1]));
    let told = (2, Unfit::Told(ErrorCode::PullCancelled));
    check("there alone", &removed(&[2]), &sites, &impossible(std::slice::from_ref(&told)));
    check("beside one that is dead", &removed(&[1, 2, 5]), &sites, &impossible(&[told, (5, Unfit::Dead)]));
    let emptied = Site { drained: true, ..holder(2) };
    check("unless it is being emptied", &named(&[1]), &[site(1), emptied], &plan(1, &[1]));
}

#[test]
fn room_is_judged_when_the_size_is_known_and_only_of_who_would_be_new() {
    let small = || with_free(2, NEEDED_BYTES - 1);
    let no_room = Unfit::NoRoom { needed_bytes: NEEDED_BYTES, free_bytes: NEEDED_BYTES - 1 };
    let three = || asked(Replicas::Count(3));
    check("not known yet", &three(), &[site(1), small(), site(3)], &plan(1, &[1, 3, 2]));
    let sites = [site(1), small(), site(3)];
    check("too little", &resolved(three()), &sites, &impossible(&[(2, no_room)]));
    let enough = [site(1), with_free(2, NEEDED_BYTES), Site { disk_free_bytes: None, ..site(3) }];
    check("just enough, and not known", &resolved(three()), &enough, &plan(1, &[1, 2, 3]));
    let nearly_full = Site { disk_total_bytes: Some(1000 * GB), ..with_free(2, NEEDED_BYTES) };
    let sites_of = |second: Site| [site(1), second, site(3)];
    check("how full it may be is for others", &resolved(three()), &sites_of(nearly_full), &plan(1, &[1, 3, 2]));
    let of_nothing = Wish { size_bytes: 0, ..resolved(three()) };
    check("a size of nothing is none", &of_nothing, &sites_of(with_free(2, 9)), &plan(1, &[1, 3, 2]));
    let of_few = Wish { size_bytes: 9, ..resolved(three()) };
    let no_spare = Unfit::NoRoom { needed_bytes: 9 + (1 << 30), free_bytes: GB };
    check("few bytes", &of_few, &sites_of(with_free(2, GB)), &impossible(&[(2, no_spare)]));
    let has = [site(1), Site { holds: true, ..small() }, site(3)];
    check("a holder needs none", &resolved(three()), &has, &plan(2, &[2, 1, 3]));
    let at_hand = |free_bytes: u64| Site { at_hand: true, ..with_free(2, free_bytes) };
    check("nor who has the files", &resolved(three()), &[site(1), at_hand(9), site(3)], &plan(2, &[2, 1, 3]));
    let named = |nodes: &[u64]| Wish { replicas: Replicas::Nodes(ids(nodes)), ..resolved(three()) };
    check("a node by its name too", &named(&[2]), &[site(1), at_hand(9)], &plan(2, &[2]));
    check("one that has half of it", &named(&[1, 2]), &sites_of(with_free(2, 9)), &plan(1, &[1, 2]));
    check("or had it by another name", &named(&[1, 2]), &[holder(1), with_free(2, 9)], &plan(1, &[1, 2]));
    let mut keeping = named(&[2]);
    keeping.want.disk_free_bytes_min = 10;
    let disk = Unfit::DiskFree { kept_bytes: 10, left_bytes: Some(9) };
    check("but for what is to stay free", &keeping, &[at_hand(9)], &impossible(&[(2, disk)]));
    check("which is there", &keeping, &[at_hand(10)], &plan(2, &[2]));
    let beside = Unfit::DiskFree { kept_bytes: 10, left_bytes: Some(0) };
    check("beside all of it", &keeping, &[with_free(2, SIZE_BYTES)], &impossible(&[(2, beside)]));
    let set = |percent, free_bytes| Site { spare: SpareRule { percent, bytes_min: 0 }, ..with_free(2, free_bytes) };
    let bare = sites_of(set(0, SIZE_BYTES));
    check("a node that keeps nothing free", &resolved(three()), &bare, &plan(1, &[1, 3, 2]));
    let fifth = Unfit::NoRoom { needed_bytes: 60 * GB, free_bytes: 59 * GB };
    check("one that keeps a fifth", &resolved(three()), &sites_of(set(20, 59 * GB)), &impossible(&[(2, fifth)]));
    let under_way = resolved(planned(asked(Replicas::Count(2)), 1, &[1, 2]));
    check("half of it has come to the disk", &under_way, &sites, &Planned::Nothing);
    let full = failed(under_way, 1, ErrorCode::DiskFull);
    check("but it is for another", &full, &[site(1), small(), with_free(3, 9)], &plan(2, &[1, 2]));
}

#[test]
fn a_plan_stands_while_its_nodes_can_go_on() {
    let wish = || planned(asked(Replicas::Count(2)), 1, &[1, 2]);
    let sites = || [site(1), site(2), with_free(3, 900 * GB)];
    check("nothing has happened", &wish(), &sites(), &Planned::Nothing);
    let [one, two, three] = sites();
    let silent = Site { health: Health::Suspect, ..one.clone() };
    check("a silent ingester", &wish(), &[silent, two.clone(), three.clone()], &Planned::Nothing);
    let restarting = Site { runtime_up: false, ..one.clone() };
    check("a runtime that starts again", &wish(), &[restarting, two.clone(), three.clone()], &Planned::Nothing);
    let emptied = Site { drained: true, ..two.clone() };
    check("a node that is being emptied", &wish(), &[one.clone(), emptied, three.clone()], &Planned::Nothing);
    let better = Site { holds: true, ..three };
    check("a better one", &wish(), &[one, two, better], &Planned::Nothing);
    for code in [ErrorCode::OriginFailed, ErrorCode::ModelNotFound, ErrorCode::DigestConflict] {
        check("a failure that all would have", &failed(wish(), 1, code), &sites(), &Planned::Nothing);
    }
}

#[test]
fn a_wish_says_where() {
    let labels = |room: &str| Arc::new(BTreeMap::from([("room".to_owned(), room.to_owned())]));
    let one = Site { labels: labels("a"), gpu_memory_bytes: 16, ..site(1) };
    let two = Site { labels: labels("b"), gpu_memory_bytes: 24, ..site(2) };
    let three = Site { cordon: Cordon::Cordoned, ..holder(3) };
    let with = |want: Want| Wish { want, ..asked(Replicas::Count(1)) };
    let room = |room: &str| Want { labels: BTreeMap::from([("room".to_owned(), room.to_owned())]), ..Want::default() };
    let sites = [one, two];
    check("a label", &with(room("b")), &sites, &plan(2, &[2]));
    let label = || Unfit::Label { key: "room".to_owned(), wanted: "c".to_owned() };
    check("that nobody has", &with(room("c")), &sites, &impossible(&[(1, label()), (2, label())]));
    let gpu = |gpu_memory_bytes_min| with(Want { gpu_memory_bytes_min, ..Want::default() });
    check("memory of a GPU", &gpu(24), &sites, &plan(2, &[2]));
    let small = |has_bytes| Unfit::GpuMemory { needed_bytes: 25, has_bytes };
    check("that nobody has", &gpu(25), &sites, &impossible(&[(1, small(16)), (2, small(24))]));
    let avoid = Want { avoid: [NodeId(1)].into(), ..Want::default() };
    check("not there", &with(avoid), &sites, &plan(2, &[2]));
    let kept = |disk_free_bytes_min| with(Want { disk_free_bytes_min, ..Want::default() });
    let disks = [site(1), with_free(2, 900 * GB)];
    check("what stays free of a disk", &kept(101 * GB), &disks, &plan(2, &[2]));
    check("just so much", &kept(900 * GB), &disks, &plan(2, &[2]));
    let short = |kept_bytes, left_bytes| Unfit::DiskFree { kept_bytes, left_bytes };
    let lacking = impossible(&[(1, short(901 * GB, Some(100 * GB))), (2, short(901 * GB, Some(900 * GB)))]);
    check("that nobody has", &kept(901 * GB), &disks, &lacking);
    check("beside the copy", &resolved(kept(850 * GB)), &disks, &plan(2, &[2]));
    let lacking = impossible(&[(1, short(851 * GB, Some(50 * GB))), (2, short(851 * GB, Some(850 * GB)))]);
    check("which takes its part", &resolved(kept(851 * GB)), &disks, &lacking);
    let tight = Unfit::NoRoom { needed_bytes: NEEDED_BYTES, free_bytes: 9 };
    check("room comes first", &resolved(kept(1)), &[with_free(1, 9)], &impossible(&[(1, tight)]));
    let unknown = Site { disk_free_bytes: None, ..site(1) };
    check("not known", &kept(1), std::slice::from_ref(&unknown), &impossible(&[(1, short(1, None))]));
    check("where nothing is said", &kept(0), &[unknown], &plan(1, &[1]));
    check("what lies there stays", &kept(901 * GB), &[site(1), holder(2)], &plan(2, &[2]));
    check("and what is on its way", &resolved(planned(kept(901 * GB), 1, &[1])), &disks, &Planned::Nothing);
    let named = Wish { replicas: Replicas::Nodes(ids(&[1])), ..kept(101 * GB) };
    check("a node by its name too", &named, &disks, &impossible(&[(1, short(101 * GB, Some(100 * GB)))]));
    check("what a cordoned node has counts", &with(Want::default()), &[site(1), three.clone()], &plan(3, &[3]));
    let bare = Site { holds: false, ..three.clone() };
    check("but it gets nothing", &with(Want::default()), &[bare], &impossible(&[(3, Unfit::Cordoned)]));
    let emptied = Site { cordon: Cordon::Emptying, ..three };
    check("nor does one that is emptied count", &with(Want::default()), &[site(1), emptied], &plan(1, &[1]));
}

#[test]
fn who_cannot_go_on_gives_way() {
    let wish = || planned(asked(Replicas::Count(2)), 1, &[1, 2]);
    let [one, two, three] = [site(1), site(2), site(3)];
    check("a dead ingester", &wish(), &[dead(1), two.clone(), three.clone()], &plan(2, &[3, 2]));
    check("a dead target", &wish(), &[one.clone(), dead(2), three.clone()], &plan(1, &[1, 3]));
    check("a removed one", &wish(), &[one.clone(), three.clone()], &plan(1, &[1, 3]));
    check("a removed ingester", &wish(), &[two.clone(), three.clone()], &plan(2, &[3, 2]));
    let all = [one.clone(), two.clone(), three.clone()];
    for code in [ErrorCode::DiskFull, ErrorCode::StoreNotWritable, ErrorCode::RuntimeUnavailable] {
        check("an ingester that told why", &failed(wish(), 1, code), &all, &plan(2, &[3, 2]));
        check("a target that told why", &failed(wish(), 2, code), &all, &plan(1, &[1, 3]));
    }
    let removed = failed(resolved(wish()), 2, ErrorCode::PullCancelled);
    check("a copy that a person removed", &removed, &[one.clone(), two.clone(), three.clone()], &plan(1, &[1, 3]));
    let apart = planned(wish(), 4, &[1, 2]);
    check("an ingester that is no target stays", &apart, &[one.clone(), two.clone(), site(4)], &Planned::Nothing);
    check("while it is there", &apart, &[one.clone(), two.clone(), dead(4)], &plan(1, &[1, 2]));
    check("where there is room later", &planned(wish(), 1, &[1]), &[one, two], &plan(1, &[1, 2]));
}

#[test]
fn the_target_with_the_most_of_the_model_takes_the_place_of_an_ingester_that_died() {
    let begun = resolved(planned(asked(Replicas::Count(3)), 1, &[1, 2, 3]));
    let with = |site: Site, permille: u16| Site { progress_permille: Some(permille), ..site };
    let check_with = |what: &str, two: Site, three: Site, expected: u64| {
        check(what, &begun, &[dead(1), two, three], &plan(expected, &[1, 2, 3]));
    };
    check_with("more of it", with(with_free(2, 900 * GB), 400), with(with_free(3, 100 * GB), 500), 3);
    check_with("unknown is the least", with(with_free(2, 900 * GB), 0), site(3), 2);
    check_with("its own bytes need no room", with(with_free(2, 900 * GB), 400), with(with_free(3, 10), 500), 3);
    check_with("a holder before all", holder(2), with(site(3), 999), 2);
    let silent = Site { health: Health::Suspect, ..with(site(3), 999) };
    check_with("who is heard before all", with(site(2), 1), silent, 2);
    let off = Site { runtime_up: false, ..with(site(3), 999) };
    check_with("who can before who has more", with(site(2), 1), off, 2);
}

#[test]
fn where_nobody_else_is_fit_the_others_go_on() {
    let wish = || planned(asked(Replicas::Count(2)), 1, &[1, 2]);
    check("the ingester's work goes to the other", &wish(), &[dead(1), site(2)], &plan(2, &[1, 2]));
    let told = failed(wish(), 1, ErrorCode::DiskFull);
    check("also when it told why", &told, &[site(1), site(2)], &plan(2, &[1, 2]));
    let both = failed(failed(planned(wish(), 2, &[1, 2]), 1, ErrorCode::DiskFull), 2, ErrorCode::DiskFull);
    check("it is not given back to who has failed", &both, &[site(1), site(2)], &Planned::Nothing);
    check("a target", &wish(), &[site(1), dead(2)], &Planned::Nothing);
    check("all are dead", &wish(), &[dead(1), dead(2)], &Planned::Nothing);
    let gone = impossible(&[(3, Unfit::Dead)]);
    check("all are removed", &wish(), &[dead(3)], &gone);
    let named = || planned(asked(Replicas::Nodes(ids(&[1, 2]))), 1, &[1, 2]);
    check("named nodes stay", &named(), &[site(1), dead(2), site(3)], &Planned::Nothing);
    check("as long as they are members", &named(), &[site(1), site(3)], &plan(1, &[1]));
    let unfit = [(1, Unfit::Removed), (2, Unfit::Removed)];
    check("and others say nothing of them", &named(), &[site(3), dead(4)], &impossible(&unfit));
}

#[test]
fn all_means_also_those_that_become_fit_in_the_round() {
    let wish = || planned(asked(Replicas::All), 1, &[1, 2]);
    check("one more", &wish(), &[site(1), site(2), site(3)], &plan(1, &[1, 2, 3]));
    check("and the dead stay", &wish(), &[site(1), dead(2), site(3)], &plan(1, &[1, 2, 3]));
    let over = resolved(wish());
    check("but not when it is over", &over, &[holder(1), holder(2), site(3)], &Planned::Nothing);
}

#[test]
fn a_round_is_over_when_its_targets_have_the_model() {
    let wish = || resolved(planned(asked(Replicas::Count(2)), 1, &[1, 2]));
    let lost = || Site { holds: true, ..dead(2) };
    check("all have", &wish(), &[holder(1), holder(2), site(3)], &Planned::Nothing);
    check("one died and had it", &wish(), &[holder(1), lost(), site(3)], &Planned::Nothing);
    check("one died before", &wish(), &[holder(1), dead(2), site(3)], &plan(1, &[1, 3]));
    check("one was removed", &wish(), &[holder(1), site(3)], &plan(1, &[1, 3]));
    check("all that had it died", &wish(), &[Site { holds: true, ..dead(1) }, lost(), site(3)], &Planned::Nothing);
    let told = failed(wish(), 2, ErrorCode::DiskFull);
    check("who has it has not failed", &told, &[holder(1), holder(2), site(3)], &Planned::Nothing);
    let removed = failed(wish(), 2, ErrorCode::PullCancelled);
    check(
        "a copy was removed by hand, or its store is away",
        &removed,
        &[holder(1), site(2), site(3)],
        &Planned::Nothing,
    );
    let unresolved = Wish { digest: None, ..wish() };
    let sites = [Site { holds: true, ..dead(1) }, holder(2), site(3)];
    check("an old version is none", &unresolved, &sites, &plan(2, &[3, 2]));
}

#[test]
fn what_people_are_told() {
    let told = |why: Unfit| why.of("n2");
    let no_room = |needed_bytes, free_bytes| told(Unfit::NoRoom { needed_bytes, free_bytes });
    assert_eq!(no_room(12_100_000_000, 3_000_000_000), "n2: 12.1 GB needed, 3.0 GB free");
    assert_eq!(no_room(123_456_789, 999), "n2: 123 MB needed, 999 B free");
    assert_eq!(no_room(2_000_000_000_000, 1_900), "n2: 2.0 TB needed, 1.9 kB free");
    assert_eq!(told(Unfit::Gateway), "n2 is a gateway");
    assert_eq!(told(Unfit::Drained), "n2 takes no requests: it is drained, or starts or stops just now");
    assert_eq!(told(Unfit::NoRuntime), "n2 has no runtime that answers");
    assert_eq!(told(Unfit::Dead), "n2 is not heard");
    assert_eq!(told(Unfit::Removed), "n2 is no member");
    assert_eq!(told(Unfit::Departed), "n2 is no member any more");
    assert_eq!(told(Unfit::Told(ErrorCode::DiskFull)), "n2 has failed (disk_full)");
    assert_eq!(told(Unfit::Cordoned), "n2 takes no new models");
    assert_eq!(told(Unfit::Avoided), "n2 is to be avoided");
    let label = Unfit::Label { key: "room".to_owned(), wanted: "a".to_owned() };
    assert_eq!(told(label), "n2 is not labelled room=a");
    let gpu = |has_bytes| told(Unfit::GpuMemory { needed_bytes: 16_000_000_000, has_bytes });
    assert_eq!(gpu(8_000_000_000), "n2: 16.0 GB of GPU memory needed, 8.0 GB there");
    assert_eq!(gpu(0), "n2: 16.0 GB of GPU memory needed, none known");
    assert_eq!(told(Unfit::DiskWatermark { percent: 90 }), "n2: its disk would be more than 90 % full");
    let kept = |left_bytes| told(Unfit::DiskFree { kept_bytes: 50_000_000_000, left_bytes });
    assert_eq!(kept(Some(12_300_000_000)), "n2: 50.0 GB of its disk to stay free, 12.3 GB would be");
    assert_eq!(kept(None), "n2: 50.0 GB of its disk to stay free, what is free is not known");
    assert_eq!(told(Unfit::Damaged), "n2 has damaged files");
    assert_eq!(told(Unfit::NoStore { place: "/models".to_owned() }), "n2 has no model store at /models");
}
