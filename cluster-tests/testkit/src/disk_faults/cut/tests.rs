//! The plan for each rule, and that a seed always gives the same one.

use super::*;
use crate::disk_faults::journal::Change;
use crate::disk_faults::tree::{Grave, Place};

const ROOT: Inode = Inode(1);
const FOLDER: Inode = Inode(2);
const KEPT: Variant = Variant { tail: Tail::Cut, names: Names::Kept };

fn place(directory: Inode, name: &str) -> Place<Inode> {
    Place { directory, name: name.into() }
}

fn tree(names: &[(Inode, &str, u64, Kind)], lengths: &[(u64, u64)]) -> Tree {
    let entry = |node, kind| Entry { node: Inode(node), kind };
    let entries = names.iter().map(|(directory, name, node, kind)| (place(*directory, name), entry(*node, *kind)));
    let lengths = lengths.iter().map(|(inode, length)| (Inode(*inode), *length));
    Tree { root: ROOT, entries: entries.collect(), lengths: lengths.collect() }
}

fn file(name: &str, inode: u64) -> (Inode, &str, u64, Kind) {
    (ROOT, name, inode, Kind::File)
}

fn found(tree: Tree, graves: &[(u64, u64)]) -> Found {
    let grave = |length: &u64| Grave { file: "grave".into(), length: *length };
    Found { tree, graves: graves.iter().map(|(inode, length)| (Inode(*inode), grave(length))).collect() }
}

/// Numbers what happened from 0.
fn records(changes: impl IntoIterator<Item = Change>) -> Vec<Record> {
    (0..).zip(changes).map(|(sequence, change)| Record { sequence, change }).collect()
}

fn created(name: &str, inode: u64) -> Change {
    Change::Created { place: Some(place(ROOT, name)), inode: Inode(inode), kind: Kind::File }
}

fn made(directory: Inode, name: &str, inode: Inode) -> Change {
    Change::Created { place: Some(place(directory, name)), inode, kind: Kind::Directory }
}

fn renamed(from: &str, to: &str, inode: u64) -> Change {
    Change::Renamed { from: place(ROOT, from), to: place(ROOT, to), inode: Inode(inode), kind: Kind::File }
}

fn unlinked(name: &str, inode: u64) -> Change {
    Change::Unlinked { place: place(ROOT, name), inode: Inode(inode) }
}

/// A sync that began when everything before it in the list was over.
fn synced(inode: u64, length: u64, began: u64) -> Change {
    Change::FileSynced { inode: Inode(inode), length, began }
}

fn synced_names(inode: Inode, began: u64) -> Change {
    Change::DirectorySynced { inode, began }
}

fn plan(before: &Tree, changes: impl IntoIterator<Item = Change>, found: &Found, variant: Variant) -> Plan {
    plan_cut(before, &records(changes), found, Seed(7), variant)
}

fn shorten(path: &str, to: u64) -> Action {
    Action::Shorten { path: path.into(), to }
}

fn remove(path: &str) -> Action {
    Action::Remove { path: path.into(), kind: Kind::File }
}

fn keep(path: &str, inode: u64) -> Action {
    Action::Keep { path: path.into(), inode: Inode(inode) }
}

fn put(path: &str, inode: u64) -> Action {
    Action::PutFile { path: path.into(), inode: Inode(inode) }
}

fn raise(path: &str) -> Action {
    Action::Raise { path: path.into(), grave: "grave".into() }
}

#[test]
fn a_file_keeps_what_was_there_when_its_last_sync_began() {
    let before = tree(&[], &[]);
    let now = found(tree(&[file("log", 5)], &[(5, 900)]), &[]);
    let check = |more: Vec<Change>, expected: &[Action]| {
        let changes = [created("log", 5), synced_names(ROOT, 1)].into_iter().chain(more);
        let plan = plan(&before, changes, &now, Variant::STRICT);
        assert_eq!(plan.actions, expected);
        assert!(plan.report.is_exact());
    };
    check(vec![], &[shorten("log", 0)]);
    check(vec![synced(5, 700, 2)], &[shorten("log", 700)]);
    check(vec![synced(5, 700, 2), synced(5, 800, 3)], &[shorten("log", 800)]);
    check(vec![synced(5, 900, 2)], &[]);
}

#[test]
fn what_was_there_before_the_journal_lasts() {
    let before = tree(&[file("old", 5)], &[(5, 300)]);
    let now = found(tree(&[file("old", 5)], &[(5, 450)]), &[]);
    assert_eq!(plan(&before, [], &now, Variant::STRICT).actions, [shorten("old", 300)]);
}

#[test]
fn a_new_file_lasts_only_after_a_sync_of_its_directory() {
    let before = tree(&[], &[]);
    let now = found(tree(&[file("new", 5)], &[(5, 10)]), &[]);
    let synced_alone = [created("new", 5), synced(5, 10, 1)];
    let strict = plan(&before, synced_alone.clone(), &now, Variant::STRICT);
    assert_eq!(strict.actions, [remove("new")]);
    assert_eq!((strict.report.undone, strict.expected.len()), (vec!["create new".to_owned()], 0));
    assert_eq!(plan(&before, synced_alone, &now, KEPT).actions, []);
    // Kept without its bytes: it is there and empty.
    assert_eq!(plan(&before, [created("new", 5)], &now, KEPT).actions, [shorten("new", 0)]);
    // This sync of the directory began before the file was made.
    let too_early = [created("new", 5), synced_names(ROOT, 0)];
    assert_eq!(plan(&before, too_early, &now, Variant::STRICT).actions, [remove("new")]);
}

#[test]
fn a_rename_over_another_file_is_undone_until_the_directory_is_synced() {
    let before = tree(&[file("current", 5), file("next", 6)], &[(5, 10), (6, 12)]);
    let now = found(tree(&[file("current", 6)], &[(6, 12)]), &[(5, 10)]);
    let check = |changes: Vec<Change>, variant, expected: &[Action]| {
        let plan = plan(&before, changes, &now, variant);
        assert_eq!(plan.actions, expected);
        assert!(plan.report.is_exact(), "{}", plan.report);
    };
    let undo = [keep("current", 6), remove("current"), raise("current"), put("next", 6)];
    let rename = || renamed("next", "current", 6);
    check(vec![rename()], Variant::STRICT, &undo);
    check(vec![rename(), synced(6, 12, 1)], Variant::STRICT, &undo);
    check(vec![rename(), synced_names(FOLDER, 1)], Variant::STRICT, &undo);
    check(vec![rename(), synced_names(ROOT, 1)], Variant::STRICT, &[]);
    check(vec![rename()], KEPT, &[]);
}

#[test]
fn a_removed_file_comes_back_as_long_as_its_bytes_are_there() {
    let before = tree(&[file("old", 5)], &[(5, 10)]);
    let nothing = tree(&[], &[]);
    let buried = found(nothing.clone(), &[(5, 14)]);
    let gone = found(nothing, &[]);
    let strict = plan(&before, [unlinked("old", 5)], &buried, Variant::STRICT);
    assert_eq!(strict.actions, [raise("old"), shorten("old", 10)]);
    assert_eq!(strict.report.restored, [PathBuf::from("old")]);
    assert_eq!(plan(&before, [unlinked("old", 5), synced_names(ROOT, 1)], &buried, Variant::STRICT).actions, []);
    let lost = plan(&before, [unlinked("old", 5)], &gone, Variant::STRICT);
    assert_eq!((lost.actions.len(), lost.expected.len(), lost.report.is_exact()), (0, 0, false));
    assert_eq!(lost.report.missing, [PathBuf::from("old")]);
}

#[test]
fn a_new_file_with_the_number_of_a_removed_one_is_another_file() {
    let before = tree(&[file("old", 5)], &[(5, 10)]);
    let now = found(tree(&[file("new", 5)], &[(5, 30)]), &[]);
    let changes = [unlinked("old", 5), synced_names(ROOT, 1), created("new", 5), synced_names(ROOT, 3)];
    assert_eq!(plan(&before, changes, &now, Variant::STRICT).actions, [shorten("new", 0)]);
}

#[test]
fn a_directory_that_does_not_last_takes_everything_along() {
    let before = tree(&[], &[]);
    let names = [(ROOT, "folder", 2, Kind::Directory), (FOLDER, "file", 5, Kind::File)];
    let now = found(tree(&names, &[(5, 10)]), &[]);
    let inside = Change::Created { place: Some(place(FOLDER, "file")), inode: Inode(5), kind: Kind::File };
    let changes = [made(ROOT, "folder", FOLDER), inside, synced(5, 10, 2), synced_names(FOLDER, 3)];
    let whole = [Action::Remove { path: "folder".into(), kind: Kind::Directory }];
    let strict = plan(&before, changes.clone(), &now, Variant::STRICT).actions;
    assert_eq!(strict, [vec![remove("folder/file")], whole.to_vec()].concat());
    let parent_too = changes.into_iter().chain([synced_names(ROOT, 4)]);
    assert_eq!(plan(&before, parent_too, &now, Variant::STRICT).actions, []);
}

#[test]
fn a_moved_directory_is_moved_back_with_what_it_holds_and_a_removed_one_is_made_again() {
    let names = |name| [(ROOT, name, 2, Kind::Directory), (FOLDER, "file", 5, Kind::File)];
    let before = tree(&names("a"), &[(5, 10)]);
    let now = found(tree(&names("b"), &[(5, 10)]), &[]);
    let (from, to) = (place(ROOT, "a"), place(ROOT, "b"));
    let moved = Change::Renamed { from, to, inode: FOLDER, kind: Kind::Directory };
    let expected =
        [Action::Lift { path: "b".into(), inode: FOLDER }, Action::PutDirectory { path: "a".into(), inode: FOLDER }];
    assert_eq!(plan(&before, [moved], &now, Variant::STRICT).actions, expected);

    let empty = tree(&[(ROOT, "a", 2, Kind::Directory)], &[]);
    let removed = Change::Unlinked { place: place(ROOT, "a"), inode: FOLDER };
    let strict = plan(&empty, [removed], &found(tree(&[], &[]), &[]), Variant::STRICT);
    assert_eq!(strict.actions, [Action::MakeDirectory { path: "a".into() }]);
}

#[test]
fn a_rename_between_directories_lasts_with_the_sync_of_either() {
    let names = |directory, name| [(ROOT, "folder", 2, Kind::Directory), (directory, name, 5, Kind::File)];
    let before = tree(&names(ROOT, "a"), &[(5, 10)]);
    let now = found(tree(&names(FOLDER, "b"), &[(5, 10)]), &[]);
    let (from, to) = (place(ROOT, "a"), place(FOLDER, "b"));
    let moved = Change::Renamed { from, to, inode: Inode(5), kind: Kind::File };
    let check = |synced: Option<Inode>, expected: &[Action]| {
        let sync = synced.map(|directory| synced_names(directory, 1));
        let changes = [moved.clone()].into_iter().chain(sync);
        assert_eq!(plan(&before, changes, &now, Variant::STRICT).actions, expected);
    };
    check(None, &[keep("folder/b", 5), remove("folder/b"), put("a", 5)]);
    check(Some(ROOT), &[]);
    check(Some(FOLDER), &[]);
}

#[test]
fn a_change_that_lasts_takes_earlier_ones_of_the_same_file_along() {
    // Made in the root, which is never synced, and moved into a directory that is.
    let before = tree(&[(ROOT, "folder", 2, Kind::Directory)], &[]);
    let names = [(ROOT, "folder", 2, Kind::Directory), (FOLDER, "b", 5, Kind::File)];
    let now = found(tree(&names, &[(5, 10)]), &[]);
    let (from, to) = (place(ROOT, "a"), place(FOLDER, "b"));
    let moved = Change::Renamed { from, to, inode: Inode(5), kind: Kind::File };
    let changes = [created("a", 5), synced(5, 10, 1), moved, synced_names(FOLDER, 3)];
    let plan = plan(&before, changes, &now, Variant::STRICT);
    assert_eq!((plan.actions, plan.report.undone), (vec![], vec![]));
}

#[test]
fn what_cannot_be_known_is_said() {
    let before = tree(&[file("data", 5)], &[(5, 100)]);
    let now = found(tree(&[file("data", 5)], &[(5, 100)]), &[]);
    let check = |changes: Vec<Change>, exact: bool| {
        let report = plan(&before, changes.clone(), &now, Variant::STRICT).report;
        assert_eq!(report.is_exact(), exact, "{changes:?}");
        assert_eq!(report.inexact.is_empty(), exact, "{changes:?}");
    };
    let (inode, overwritten) = (Inode(5), || Change::Overwritten { inode: Inode(5) });
    check(vec![], true);
    check(vec![overwritten()], false);
    check(vec![overwritten(), synced(5, 100, 1)], true);
    check(vec![overwritten(), synced(5, 100, 0)], false);
    check(vec![Change::Truncated { inode, length: 50 }], false);
    check(vec![Change::Truncated { inode, length: 50 }, synced(5, 50, 1), synced(5, 100, 2)], true);
    check(vec![Change::Truncated { inode, length: 100 }], true);
    check(vec![Change::Mapped { inode }, synced(5, 100, 1)], false);
    // Shorter than what was promised, and no record says why.
    let short = found(tree(&[file("data", 5)], &[(5, 60)]), &[]);
    assert_eq!(plan(&before, [], &short, Variant::STRICT).report.inexact, [PathBuf::from("data")]);
}

#[test]
fn names_that_no_record_explains_are_taken_as_never_synced_and_named() {
    let before = tree(&[], &[]);
    let other = (ROOT, "socket", 9, Kind::Other);
    let now = found(tree(&[file("strange", 5), other], &[(5, 10)]), &[]);
    let plan = plan(&before, [synced_names(ROOT, 0)], &now, Variant::STRICT);
    assert_eq!(plan.actions, [remove("strange")]);
    assert_eq!((plan.report.unexplained, plan.expected.len()), (vec![PathBuf::from("strange")], 0));
}

#[test]
fn tails_are_cut_zeroed_garbled_or_torn_at_a_border() {
    let before = tree(&[file("log", 5)], &[(5, 1_000)]);
    let now = found(tree(&[file("log", 5)], &[(5, 2_000)]), &[]);
    let at = |tail, seed| {
        let variant = Variant { tail, names: Names::Undone };
        plan_cut(&before, &[], &now, Seed(seed), variant)
    };
    let path = PathBuf::from("log");
    assert_eq!(at(Tail::Cut, 1).actions, [shorten("log", 1_000)]);
    assert_eq!(at(Tail::Zeroed, 1).actions, [Action::Zero { path, from: 1_000, to: 2_000 }]);
    assert!(matches!(at(Tail::Garbled, 1).actions[..], [Action::Garble { from: 1_000, to: 2_000, .. }]));
    assert_ne!(at(Tail::Garbled, 1).actions, at(Tail::Garbled, 2).actions);
    let ends: BTreeSet<u64> = (0..200).map(|seed| at(Tail::Torn, seed).report.tails[0].left_bytes).collect();
    assert_eq!(ends, BTreeSet::from([1_000, 1_024, 1_536, 2_000]));
    assert_eq!(at(Tail::Torn, 3).report.unsynced_bytes(), 1_000);
}

#[test]
fn a_seed_always_gives_the_same_plan_and_draws_every_number_of_names() {
    let before = tree(&[], &[]);
    let now = found(tree(&[file("a", 5), file("b", 6), file("c", 7)], &[(5, 0), (6, 0), (7, 0)]), &[]);
    let changes = || records([created("a", 5), created("b", 6), created("c", 7)]);
    let drawn = Variant { tail: Tail::Torn, names: Names::Drawn };
    let kept = |seed| {
        let plan = plan_cut(&before, &changes(), &now, Seed(seed), drawn);
        assert_eq!(plan, plan_cut(&before, &changes(), &now, Seed(seed), drawn));
        assert_eq!(plan.report.kept.len() + plan.report.undone.len(), 3);
        assert_eq!(plan.expected.len(), plan.report.kept.len());
        plan.report.kept.len()
    };
    assert_eq!((0..100).map(kept).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(Variant::drawn(Seed(5)), Variant::drawn(Seed(5)));
    assert!((0..20).any(|seed| Variant::drawn(Seed(seed)) != Variant::drawn(Seed(5))));
}
