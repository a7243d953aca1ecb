//! Files and what follows from them, row by row.

use ollamax_core::catalog::mem::{self, MemView};
use ollamax_core::catalog::{
    Cluster, Command, Failure, How, Key, Location, Member, MemberState, Model, Mutation, NAMED_VERSION, Phase, Pin,
    Plan, PlanKind, Record, Replicas, Version, Want, Wish,
};
use ollamax_types::{ClusterId, ErrorCode, ModelRecord, NodeId, Timestamp};

use super::*;
use crate::samples;

const EXAMPLE: &str = r#"# What the lab has.
[[model]]
name = "llama3.2"
replicas = 3
labels = { room = "a" }
gpu_memory_min = "16GB"
disk_free_min = "50GB"
avoid = ["n4"]
pin = "sha256:A80C4F17ACD5"

[[model]]
name = "me/mine:q4"
nodes = ["n1", "2"]

[[model]]
name = "all"
replicas = "all"
"#;

fn word(text: &str, line: usize) -> Word {
    Word { text: text.to_owned(), line }
}

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

#[test]
fn a_file_says_what_each_model_shall_have() {
    let bare = |text: &str, line, replicas| {
        let (labels, avoid) = (BTreeMap::new(), Vec::new());
        Declared {
            name: name(text),
            line,
            replicas,
            labels,
            gpu_memory_bytes_min: 0,
            disk_free_bytes_min: 0,
            avoid,
            pin: None,
        }
    };
    let first = Declared {
        labels: BTreeMap::from([("room".to_owned(), "a".to_owned())]),
        gpu_memory_bytes_min: 16_000_000_000,
        disk_free_bytes_min: 50_000_000_000,
        avoid: vec![word("n4", 8)],
        pin: Some(word("a80c4f17acd5", 9)),
        ..bare("llama3.2", 3, Wanted::Count(3))
    };
    let second = bare("me/mine:q4", 12, Wanted::Nodes(vec![word("n1", 13), word("2", 13)]));
    assert_eq!(read(EXAMPLE), Ok(vec![first, second, bare("all", 16, Wanted::All)]));
    assert_eq!(read(""), Ok(vec![]));
}

#[test]
fn all_that_is_wrong_with_the_words_is_told_with_its_line() {
    let check = |rows: &str, expected: &[&str]| {
        assert_eq!(read(rows), Err(expected.iter().map(|problem| (*problem).to_owned()).collect()), "{rows}");
    };
    let both = "[[model]]\nname = \"m\"\nreplicas = 1\nnodes = [\"a\"]\n[[model]]\nname = \"M:latest\"\nreplicas = 2\n";
    check(
        both,
        &["line 4: m:latest has replicas and nodes: one of them says it", "line 6: M:latest stands in line 2 already"],
    );
    check("[[model]]\nname = \"m\"", &["line 2: m:latest has neither replicas nor nodes"]);
    check("[[model]]\n\nname = \"a b\"\nreplicas = 0", &["line 3: \"a b\" is no name of a model"]);
    let replicas = "line 3: replicas is a number between 1 and 64, or \"all\"";
    for wrong in ["0", "65", "-1", "1.5", "\"some\"", "true", "[1]"] {
        check(&format!("[[model]]\nname = \"m\"\nreplicas = {wrong}"), &[replicas]);
    }
    check("[[model]]\nname = \"m\"\nnodes = []", &["line 3: nodes are between 1 and 64"]);
    let rest = |line: &str| format!("[[model]]\nname = \"m\"\nreplicas = 1\n{line}");
    check(&rest("gpu_memory_min = \"much\""), &["line 4: \"much\" is no size like 16GB"]);
    check(&rest("disk_free_min = \"10 %\""), &["line 4: \"10 %\" is no size like 16GB"]);
    let short = "line 4: \"a80c4f17acd\" is no digest and no beginning of one, 12 digits long";
    check(&rest("pin = \"a80c4f17acd\""), &[short]);
    check(
        &rest(&format!("labels = {{ Room = \"a\", b = \"{}\" }}", "x".repeat(64))),
        &[
            "line 4: \"Room\" is no label: it has up to 63 of a-z 0-9 . _ -",
            "line 4: the value of \"b\" has more than 63 bytes",
        ],
    );
    let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("l{number} = \"a\"")).collect();
    check(&rest(&format!("labels = {{ {} }}", many.join(", "))), &["line 2: labels are at most 32"]);
    check(&" ".repeat(FILE_BYTES_MAX + 1), &["1048577 bytes are more than 1048576"]);
}

#[test]
fn a_file_of_another_form_is_refused_with_the_line() {
    for (text, line) in [
        ("[[model]]\nname = \"m\"\nreplicas = 1 2\n", "line 3: "),
        ("[[model]]\nname = 7\nreplicas = 1\n", "line 2: "),
        ("[[model]]\nname = \"m\"\nreplica = 1\n", "line 3: "),
        ("[[modell]]\nname = \"m\"\n", "line 1: "),
    ] {
        let problems = read(text).expect_err(text);
        assert!(problems.len() == 1 && problems[0].starts_with(line), "{problems:?}");
    }
    assert_eq!(read("[[model]]\nreplicas = 1\n").expect_err("no name").len(), 1);
}

fn member(id: u64, name: &str, state: MemberState) -> Mutation {
    let member = Member { name: name.to_owned(), state, ..samples::member(id) };
    Mutation::Put(Key::Member(member.id), Record::Member(member))
}

fn wish(text: &str, replicas: Replicas, declared: bool) -> Wish {
    Wish { round: 1, replicas, asked_by: "admin".to_owned(), declared, ..mem::wish(name(text)) }
}

fn asked(wish: Wish) -> Mutation {
    Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)))
}

fn pinned(text: &str, digest: Digest) -> Mutation {
    let model = Model {
        name: name(text),
        phase: Phase::Active,
        pin: Some(Pin { digest, by: "admin".to_owned(), at: Timestamp(0) }),
        head: 0,
        first: 0,
        drops: BTreeMap::new(),
        used_on: 0,
        noted_at: Timestamp(0),
        unheld_since: None,
    };
    Mutation::Put(Key::Model(model.name.key()), Record::Model(Box::new(model)))
}

fn found(text: &str, digest: Digest) -> Mutation {
    let model = ModelRecord {
        name: name(text),
        digest,
        weights: digest,
        size_bytes: 1,
        modified_at: Timestamp(0),
        details_json: "{}".to_owned(),
        capabilities: vec![],
    };
    let location = Location { node: NodeId(1), model };
    Mutation::Put(Key::Location(name(text).key(), NodeId(1)), Record::Location(location))
}

fn known(text: &str, digest: Digest) -> Mutation {
    let (by, at) = ("admin".to_owned(), Timestamp(0));
    let version = Version { number: 1, digest, size_bytes: 1, at, how: How::Pulled, by };
    Mutation::Put(Key::Version(name(text).key(), 1), Record::Version(Box::new(version)))
}

/// Nodes n1, n2 and one called `1`; n3 has departed.
fn view(more: &[Mutation]) -> MemView {
    let departed = MemberState::Departed { at: Timestamp(1) };
    let mut view = MemView::default();
    view.write(&[
        member(1, "n1", MemberState::Active),
        member(2, "n2", MemberState::Drained),
        member(3, "n3", departed),
        member(4, "1", MemberState::Active),
    ]);
    view.write(more);
    view
}

fn file(lines: &str) -> Vec<Declared> {
    read(&format!("[[model]]\nname = \"m\"\n{lines}\n")).expect("a file")
}

fn told(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.text(&|node| format!("n{node}"))).collect()
}

const PIN: Digest = Digest([0xa8; 32]);
const OTHER: Digest = Digest([0x0b; 32]);

#[test]
fn what_follows_is_what_differs() {
    let check = |more: &[Mutation], lines: &str, expected: &[&str]| {
        let changes = compare(&view(more), &file(lines)).expect("clear");
        assert_eq!(told(&changes), expected, "{lines}");
    };
    let m = |replicas, declared| asked(wish("m", replicas, declared));
    let three = || Replicas::Count(3);
    check(&[], "replicas = 3", &["+ wanted on 3 nodes"]);
    check(&[], "replicas = 1", &["+ wanted on 1 node"]);
    check(&[], "replicas = \"all\"", &["+ wanted on all nodes"]);
    check(&[], "nodes = [\"n2\", \"1\", \"n1\"]", &["+ wanted on n1, n2"]);
    check(&[m(Replicas::Count(2), true)], "replicas = 3", &["~ 2 → 3"]);
    check(&[m(Replicas::All, true)], "nodes = [\"n2\"]", &["~ all → n2"]);
    check(&[m(three(), true)], "replicas = 3", &["as declared"]);
    check(&[m(three(), false)], "replicas = 3", &["~ wanted on 3 nodes as declared"]);
    check(&[m(three(), true)], "replicas = 3\navoid = [\"n2\"]", &["~ wanted on 3 nodes as declared"]);
    check(&[m(three(), true)], "replicas = 3\nlabels = { room = \"a\" }", &["~ wanted on 3 nodes as declared"]);
    check(&[m(three(), true)], "replicas = 3\ndisk_free_min = \"1GB\"", &["~ wanted on 3 nodes as declared"]);
    let keeping = Want { disk_free_bytes_min: 1_000_000_000, ..Want::default() };
    let kept = asked(Wish { want: keeping, ..wish("m", three(), true) });
    check(&[kept], "replicas = 3\ndisk_free_min = \"1GB\"", &["as declared"]);
    // Of those that are not listed, only what was declared is forgotten.
    let (declared, by_hand) = (asked(wish("old", three(), true)), asked(wish("mine", three(), false)));
    let forgotten = "- no longer declared; copies stay";
    check(&[m(three(), true), declared, by_hand], "replicas = 3", &["as declared", forgotten]);
    let pin = "replicas = 3\npin = \"a8a8a8a8a8a8\"";
    check(&[m(three(), true), found("m", PIN)], pin, &["+ pinned at a8a8a8a8a8a8"]);
    check(&[known("m", PIN), found("m", OTHER)], pin, &["+ pinned at a8a8a8a8a8a8", "+ wanted on 3 nodes"]);
    check(&[m(three(), true), found("m", PIN), pinned("m", PIN)], pin, &["as declared"]);
    check(&[m(three(), true), found("m", PIN), pinned("m", OTHER)], pin, &["+ pinned at a8a8a8a8a8a8"]);
    check(&[m(three(), true), pinned("m", PIN)], "replicas = 3", &["- not pinned any more"]);
}

fn cluster(version: u32) -> Mutation {
    let (id, name, created_at) = (ClusterId([1; 16]), "lab".to_owned(), Timestamp(0));
    let cluster = Cluster { id, name, public_key: [0; 32], created_at, next_node_id: 5, version };
    Mutation::Put(Key::Cluster, Record::Cluster(cluster))
}

#[test]
fn a_named_node_that_could_not_get_its_copy_is_asked_for_it_again() {
    let check = |what: &str, version: u32, replicas: Replicas, code: ErrorCode, lines: &str, expected: &str| {
        let (id, name, created_at) = (ClusterId([1; 16]), "lab".to_owned(), Timestamp(0));
        let cluster = Cluster { id, name, public_key: [0; 32], created_at, next_node_id: 5, version };
        let cluster = Mutation::Put(Key::Cluster, Record::Cluster(cluster));
        // Node 1 has it, whatever it told before.
        let failure = |text: &str| Failure { code, text: text.to_owned(), at: Timestamp(1), by_hand: false };
        let failures = BTreeMap::from([(NodeId(1), failure("once")), (NodeId(2), failure("full"))]);
        let wish = Wish { digest: Some(PIN), failures, ..wish("m", replicas, true) };
        let changes = compare(&view(&[cluster, asked(wish), found("m", PIN)]), &file(lines)).expect("clear");
        assert_eq!(told(&changes), [expected], "{what}");
    };
    let (named, full, five) = (|nodes: &[u64]| nodes.iter().copied().map(NodeId).collect(), ErrorCode::DiskFull, 5);
    let (both, of_both) = ("nodes = [\"n1\", \"n2\"]", || Replicas::Nodes(named(&[1, 2])));
    check("its disk was full", five, of_both(), full, both, "~ wanted on n1, n2 as declared");
    check("in an older cluster", 4, of_both(), full, both, "as declared");
    check("somebody ended it", five, of_both(), ErrorCode::PullCancelled, both, "as declared");
    check("who failed has it", five, Replicas::Nodes(named(&[1])), full, "nodes = [\"n1\"]", "as declared");
    check("others stand in for it", five, Replicas::Count(2), full, "replicas = 2", "as declared");
}

#[test]
fn whose_copies_go_is_told_where_nodes_are_named_instead_of_a_number() {
    let check = |what: &str, version: u32, replicas: Replicas, lines: &str, expected: &[&str]| {
        let cluster = cluster(version);
        let targets = vec![NodeId(1), NodeId(2)];
        let plan = Plan { ingester: NodeId(1), targets, made_at: Timestamp(1), kind: PlanKind::Asked };
        let wish = Wish { digest: Some(PIN), plan: Some(plan), ..wish("m", replicas, true) };
        let changes = compare(&view(&[cluster, asked(wish), found("m", PIN)]), &file(lines)).expect("clear");
        assert_eq!(told(&changes), expected, "{what}");
    };
    let (two, to_n2, five) = (|| Replicas::Count(2), "nodes = [\"n2\"]", NAMED_VERSION);
    check("one has it and is not named", five, two(), to_n2, &["~ 2 → n2; copies go from n1"]);
    check("in an older cluster", five - 1, two(), to_n2, &["~ 2 → n2"]);
    check("who has it is named", five, two(), "nodes = [\"n1\"]", &["~ 2 → n1"]);
    check("other nodes were named before", five, Replicas::Nodes(vec![NodeId(1)]), to_n2, &["~ n1 → n2"]);
    check("a number", five, two(), "replicas = 3", &["~ 2 → 3"]);
    let pinned = "nodes = [\"n2\"]\npin = \"a8a8a8a8a8a8\"";
    check("what is pinned", five, two(), pinned, &["+ pinned at a8a8a8a8a8a8", "~ 2 → n2"]);
}

#[test]
fn copies_of_another_version_than_the_pinned_one_and_of_an_earlier_round_are_told_too() {
    let check = |what: &str, wish: Wish, copy: Digest, lines: &str, expected: &[&str]| {
        let more = [cluster(NAMED_VERSION), asked(wish), found("m", copy), known("m", PIN)];
        assert_eq!(told(&compare(&view(&more), &file(lines)).expect("clear")), expected, "{what}");
    };
    let plan = Plan { ingester: NodeId(1), targets: vec![NodeId(1)], made_at: Timestamp(1), kind: PlanKind::Asked };
    let of_a_number = Wish { digest: Some(OTHER), plan: Some(plan), ..wish("m", Replicas::Count(2), true) };
    let pinned = "nodes = [\"n2\"]\npin = \"a8a8a8a8a8a8\"";
    let (pin, going) = ("+ pinned at a8a8a8a8a8a8", "~ 2 → n2; copies go from n1");
    check("another version is pinned", of_a_number, OTHER, pinned, &[pin, going]);
    let earlier = || Wish { surplus: [NodeId(1)].into(), ..wish("m", Replicas::Nodes(vec![NodeId(4)]), true) };
    check("too many before", earlier(), OTHER, "nodes = [\"n2\"]", &["~ n4 → n2; copies go from n1"]);
    check("it is named now", earlier(), OTHER, "nodes = [\"n1\"]", &["~ n4 → n1"]);
    check("it has the pinned one", earlier(), PIN, pinned, &[pin, "~ n4 → n2"]);
}

#[test]
fn what_the_cluster_does_not_know_is_told_with_its_line() {
    let check = |more: &[Mutation], lines: &str, expected: &[&str]| {
        let expected = expected.iter().map(|problem| (*problem).to_owned()).collect();
        assert_eq!(compare(&view(more), &file(lines)), Err(CompareError::Problems(expected)), "{lines}");
    };
    check(
        &[],
        "nodes = [\"n1\", \"n3\"]\navoid = [\"n9\"]",
        &["line 3: there is no node \"n3\"", "line 4: there is no node \"n9\""],
    );
    check(&[], "nodes = [\"n1\"]\navoid = [\"1\"]", &["line 2: m:latest is wanted on a node that it is to avoid"]);
    let pin = "replicas = 1\npin = \"a8a8a8a8a8a8\"";
    check(&[known("m", OTHER)], pin, &["line 4: no version of m:latest begins with \"a8a8a8a8a8a8\""]);
    let mut alike = PIN;
    alike.0[31] = 0;
    let several = "line 4: several versions of m:latest begin with \"a8a8a8a8a8a8\"";
    check(&[known("m", PIN), found("m", alike)], pin, &[several]);
}

#[test]
fn each_change_is_one_command_and_a_registry_without_tls_stays_one() {
    let insecure = Wish { insecure: true, ..wish("m", Replicas::Count(2), false) };
    let more = [asked(insecure), asked(wish("old", Replicas::All, true)), found("m", PIN)];
    let changes = compare(&view(&more), &file("replicas = 3\npin = \"a8a8a8a8a8a8\"")).expect("clear");
    let commands: Vec<Command> = changes.iter().filter_map(Change::command).collect();
    let (replicas, want) = (Replicas::Count(3), Want::default());
    let expected = [
        Command::PinModel { name: name("m"), digest: Some(PIN) },
        Command::AskModel {
            name: name("m"),
            replicas,
            insecure: true,
            want,
            declared: true,
            unsaid: false,
            away: Default::default(),
        },
        Command::ForgetWish { name: name("old"), round: None },
    ];
    assert_eq!(commands, expected);
    assert_eq!(Change::Unpin { name: name("m") }.command(), Some(Command::PinModel { name: name("m"), digest: None }));
    assert_eq!(Change::Same { name: name("m") }.command(), None);
}
