//! Versions that somebody means, and a history as it is told.

use ollamax_core::catalog::mem::{self, MemView};
use ollamax_core::catalog::{Key, Location, Model, Mutation, Pin, Plan, PlanKind, Record, Version, Wish};
use ollamax_types::{Digest, ModelRecord};

use super::*;
use crate::order;
use crate::samples::member;

const HOUR_MS: u64 = 3_600_000;

fn named(name: &str) -> ModelName {
    name.parse().expect("a name")
}

/// Digests of the versions 1, 2, …: two begin alike.
fn digest(version: u8) -> Digest {
    let mut digest = [version; 32];
    digest[..2].copy_from_slice(if version < 3 { &[0xab, 0xcd] } else { &[0x12, 0x34] });
    Digest(digest)
}

fn copy(node: u64, version: u8) -> Location {
    let model = ModelRecord {
        name: named("m"),
        digest: digest(version),
        weights: digest(version),
        size_bytes: 10,
        modified_at: Timestamp(u64::from(version)),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    };
    Location { node: NodeId(node), model }
}

fn version(number: u64, of: u8, how: How) -> Version {
    let by = "node/1 for admin".to_owned();
    Version { number, digest: digest(of), size_bytes: 10, at: Timestamp(number * HOUR_MS), how, by }
}

fn kept(of: u8, until: Option<u64>) -> KeptVersion {
    KeptVersion {
        name: named("m"),
        digest: digest(of),
        size_bytes: 10,
        kept_at: Timestamp(1),
        until: until.map(Timestamp),
    }
}

/// Version 1 was pulled, 2 came after it, 3 is 1 again; node 1 has 1, node 2 has 2, and node 3 has what nobody noted.
fn case() -> Case {
    let versions =
        vec![version(1, 1, How::Pulled), version(2, 2, How::Found), version(3, 1, How::RolledBack { to: 1 })];
    Case {
        name: named("m"),
        copies: vec![copy(1, 1), copy(2, 2), copy(3, 7)],
        wish: None,
        model: Some(Model { head: 3, first: 1, ..Model::new(named("m"), Timestamp(1)) }),
        versions,
    }
}

#[test]
fn a_version_is_meant_by_its_number_or_by_digits_that_only_it_has() {
    let case = case();
    let check = |text: &str, expected: Result<u64, ErrorCode>| {
        assert_eq!(case.noted(text).map(|chosen| chosen.number).map_err(|error| error.code), expected, "{text}");
    };
    check("1", Ok(1));
    check("2", Ok(2));
    check("3", Ok(3));
    check("4", Err(ErrorCode::ModelNotFound));
    check("", Err(ErrorCode::ModelNotFound));
    // The first digits of two versions; and too few of one.
    check("abcd", Err(ErrorCode::BadRequest));
    check("abc", Err(ErrorCode::BadRequest));
    check("sha256:a", Err(ErrorCode::BadRequest));
    check("12", Err(ErrorCode::ModelNotFound));
    check("abd", Err(ErrorCode::ModelNotFound));
    let short = case.noted("abc").expect_err("too short");
    assert_eq!(short.what, "abc has too few digits for a version of m:latest");
    assert_eq!(short.why, "it takes its number in the history, or 4 digits of its digest or more");
    check("abcd02", Ok(2));
    check("sha256:ABCD02", Ok(2));
    // The newest number of a version that the name had twice.
    check("abcd01", Ok(3));
    check(&digest(1).to_string(), Ok(3));
    // Node 3 has it, and nobody noted it: it can be pinned.
    check("12340707", Err(ErrorCode::ModelNotFound));
    assert_eq!(case.chosen("12340707").map(|chosen| (chosen.number, chosen.digest)), Ok((0, digest(7))));
}

#[test]
fn the_one_before_is_another_version() {
    assert_eq!(case().before().map(|chosen| chosen.number), Ok(2));
    let one = Case { versions: vec![version(1, 1, How::Found), version(2, 1, How::Found)], ..case() };
    assert_eq!(one.before().map_err(|error| error.code), Err(ErrorCode::ModelNotFound));
}

#[test]
fn a_name_stands_for_what_is_pinned_where_anybody_has_it() {
    let pinned_at = |of: u8| {
        let pin = Pin { digest: digest(of), by: "node/1 for admin".to_owned(), at: Timestamp(1) };
        Case { model: case().model.map(|model| Model { pin: Some(pin), ..model }), ..case() }
    };
    let standing = |case: &Case| case.standing().map(|chosen| chosen.digest);
    assert_eq!(standing(&case()), Ok(digest(7)));
    assert_eq!(standing(&pinned_at(2)), Ok(digest(2)));
    assert_eq!(standing(&pinned_at(9)), Ok(digest(7)));
    let gone = Case { copies: Vec::new(), ..case() };
    assert_eq!(standing(&gone).map_err(|error| error.code), Err(ErrorCode::ModelNotFound));
}

/// Planned for nodes 4 and 5.
fn wish(replicas: Replicas) -> Wish {
    Wish {
        replicas,
        plan: Some(Plan {
            ingester: NodeId(4),
            targets: vec![NodeId(4), NodeId(5)],
            made_at: Timestamp(1),
            kind: PlanKind::Asked,
        }),
        asked_at: Timestamp(1),
        asked_by: String::new(),
        ..mem::wish(named("m"))
    }
}

#[test]
fn a_history_is_behind_while_the_version_that_came_is_not_its_end() {
    // Node 3 has version 7, and the history ends with 1.
    let check = |asked: Option<u8>, expected: bool| {
        let wished = asked.map(|version| Wish { digest: Some(digest(version)), ..wish(Replicas::Count(2)) });
        assert_eq!(Case { wish: wished, ..case() }.is_behind(), expected, "{asked:?}");
    };
    check(Some(7), true);
    // What was asked for has not come, or nobody asked.
    check(Some(1), false);
    check(Some(9), false);
    check(None, false);
    let noted = Case { copies: vec![copy(1, 1)], ..case() };
    let wished = Some(Wish { digest: Some(digest(1)), ..wish(Replicas::Count(2)) });
    assert!(!Case { wish: wished.clone(), ..noted }.is_behind(), "it ends with it");
    assert!(Case { wish: wished, copies: vec![copy(1, 1)], versions: Vec::new(), ..case() }.is_behind());
}

#[test]
fn a_version_goes_where_it_is_wanted() {
    let check = |wished: Option<Replicas>, asked: Option<&Replicas>, expected: &[u64]| {
        let case = Case { wish: wished.map(wish), ..case() };
        let expected: Vec<NodeId> = expected.iter().copied().map(NodeId).collect();
        assert_eq!(case.targets(asked), expected, "{asked:?} {:?}", case.wish);
    };
    let named = Replicas::Nodes(vec![NodeId(1)]);
    check(None, None, &[]);
    check(None, Some(&named), &[1]);
    check(None, Some(&case().everywhere()), &[1, 2, 3]);
    assert_eq!(Case { copies: Vec::new(), ..case() }.everywhere(), Replicas::Count(order::REPLICAS));
    check(Some(Replicas::Count(2)), None, &[4, 5]);
    check(Some(named.clone()), None, &[1]);
    check(Some(Replicas::All), Some(&named), &[1]);
}

#[test]
fn a_history_names_who_has_each_version_and_who_keeps_its_files() {
    let mut view = MemView::default();
    view.write(&[1, 2, 3].map(|id| Mutation::Put(Key::Member(NodeId(id)), Record::Member(member(id)))));
    let names = Names::of(&view).expect("readable");
    let keeping = Keeping {
        kept: vec![
            (member(2), kept(1, Some(HOUR_MS))),
            // What it has under the name is not told twice.
            (member(1), kept(1, None)),
            (member(3), kept(5, None)),
        ],
        silent: vec!["n4".to_owned()],
    };
    let told = case().history(&names, &keeping);
    let shown: Vec<String> = told
        .versions
        .iter()
        .map(|version| {
            let keepers = version.keepers.iter().map(|keeper| match (keeper.is_kept, keeper.until_ms) {
                (false, _) => keeper.node_name.clone(),
                (true, Some(until_ms)) => format!("{} until {until_ms}", keeper.node_name),
                (true, None) => format!("{} kept", keeper.node_name),
            });
            let head = if version.is_head { "*" } else { "" };
            let (number, how, to) = (version.number, &version.how, version.to);
            format!("{number}{head} {how} {to}: {}", keepers.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let expected = [
        "3* rolled_back 1: n1, n2 until 3600000",
        "2 found 0: n2",
        "1 pulled 0: n1, n2 until 3600000",
        "0  0: n3 kept",
    ];
    assert_eq!(shown[..4], expected);
    assert_eq!(shown[4..], ["0  0: n3"]);
    assert_eq!((told.phase.as_str(), told.silent), ("active", vec!["n4".to_owned()]));
}

#[test]
fn what_lies_aside_is_told_with_the_day_on_which_it_goes() {
    let day_20000 = 20_000 * 24 * HOUR_MS;
    assert_eq!(kept_text("n2", &kept(1, Some(day_20000)), Some(4)), "kept on n2 until 2024-10-04: version 4");
    let short = digest(1).short();
    assert_eq!(kept_text("n2", &kept(1, None), None), format!("kept on n2 as long as it is pinned: version {short}"));
}

#[test]
fn who_did_not_answer_is_named_and_the_others_are_in_the_order_of_their_names() {
    let said = vec![(member(3), None), (member(2), Some(vec![kept(2, None)])), (member(1), Some(vec![kept(1, None)]))];
    let keeping = gathered(said);
    let names: Vec<&str> = keeping.kept.iter().map(|(member, _)| member.name.as_str()).collect();
    assert_eq!((names, keeping.silent), (vec!["n1", "n2"], vec!["n3".to_owned()]));
}

#[test]
fn a_pinned_version_is_refused_to_go_with_what_unpins_it() {
    let name: ModelName = "m".parse().expect("a name");
    assert_eq!(check_not_pinned(&name, None), Ok(()));
    let refused = check_not_pinned(&name, Some(Digest([7; 32]))).expect_err("pinned");
    assert_eq!(refused.code, ErrorCode::PreconditionFailed);
    assert_eq!(refused.next, "ollamax model unpin m:latest");
}
