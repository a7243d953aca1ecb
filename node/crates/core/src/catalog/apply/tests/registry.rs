//! The registry of names, row by row: versions, pins, phases, and copies that go.

use ollamax_types::{ModelName, ModelRecord};

use super::*;
use crate::catalog::record::{How, PhaseWord, Replicas};

const NOW: u64 = 50;

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn held(node: u64, digest: u8) -> Command {
    let model = ModelRecord {
        name: name(),
        digest: Digest([digest; 32]),
        weights: Digest([digest; 32]),
        size_bytes: 5,
        modified_at: Timestamp(1),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    };
    Command::ReportModels { node: NodeId(node), present: vec![model], absent: Vec::new() }
}

fn note(digest: u8) -> Command {
    Command::NoteVersion { name: name(), digest: Digest([digest; 32]), size_bytes: 5, how: How::Pulled }
}

fn pin(digest: u8) -> Command {
    Command::PinModel { name: name(), digest: Some(Digest([digest; 32])) }
}

fn drop_at(nodes: &[u64], forget: bool, force: bool) -> Command {
    Command::DropCopies { name: name(), nodes: nodes.iter().copied().map(NodeId).collect(), forget, force }
}

fn ask(replicas: Replicas) -> Command {
    Command::AskModel { name: name(), replicas, insecure: false, want: Default::default(), declared: false }
}

/// Nodes 1 and 2 have version 7; what is done to it, and the last answer.
fn after(commands: Vec<Command>) -> (MemView, Answer) {
    let mut view = check_in_cluster(vec![(0, join("t", "n2", 2), member_answer(2, "n2", false))]);
    let mut answer = Answer::Done;
    for (step, command) in [held(1, 7), held(2, 7)].into_iter().chain(commands).enumerate() {
        let index = NOW + step as u64;
        answer = view.apply(index, 1, &entry(index, command)).expect("no fault");
    }
    (view, answer)
}

#[test]
fn the_last_copy_stays_unless_forced() {
    let last = || refused(Refusal::LastCopy { name: name() });
    let check = |commands: Vec<Command>, expected: Answer| {
        let shown = format!("{commands:?}");
        assert_eq!(after(commands).1, expected, "{shown}");
    };
    check(vec![drop_at(&[1], false, false)], Answer::Done);
    check(vec![drop_at(&[], false, false)], last());
    check(vec![drop_at(&[1], false, false), drop_at(&[2], false, false)], last());
    check(vec![drop_at(&[], false, true)], Answer::Done);
    let below = refused(Refusal::BelowWish { name: name(), wanted: 2, left: 1 });
    check(vec![ask(Replicas::Count(2)), drop_at(&[1], false, false)], below);
    check(vec![ask(Replicas::Count(2)), drop_at(&[1], true, false)], Answer::Done);
    let disabled = || Command::SetPhase { name: name(), phase: PhaseWord::Disabled, note: String::new() };
    check(vec![disabled(), drop_at(&[], true, false)], Answer::Done);
    check(vec![disabled(), ask(Replicas::Count(1))], refused(Refusal::Disabled(name())));
    let pinned = refused(Refusal::Pinned { name: name(), digest: Digest([7; 32]) });
    check(vec![pin(7), disabled(), drop_at(&[], true, false)], pinned);
}

#[test]
fn a_report_ends_the_drop_that_it_fulfils() {
    let gone = Command::ReportModels { node: NodeId(1), present: Vec::new(), absent: vec![name().key()] };
    let (view, _) = after(vec![drop_at(&[1], false, false)]);
    let drops = |view: &MemView| read::model(view, &name()).expect("readable").expect("on record").drops;
    assert_eq!(drops(&view).keys().collect::<Vec<_>>(), [&NodeId(1)]);
    let (view, _) = after(vec![drop_at(&[1], false, false), gone]);
    assert!(drops(&view).is_empty());
}

#[test]
fn a_pin_outlives_pulls() {
    let (view, _) = after(vec![pin(7), note(8), ask(Replicas::Count(1))]);
    assert_eq!(read::wish(&view, &name()).expect("readable").expect("asked for").digest, Some(Digest([7; 32])));
    let (_, answer) = after(vec![pin(9)]);
    let version = Digest([9; 32]).short();
    assert_eq!(answer, refused(Refusal::VersionNotFound { name: name(), version }));
}

#[test]
fn a_history_counts_on_and_notes_no_version_twice_in_a_row() {
    let (view, _) = after(vec![note(7), note(7), note(8), note(7)]);
    let noted = read::versions(&view, &name()).expect("readable");
    let shown: Vec<(u64, u8)> = noted.iter().map(|version| (version.number, version.digest.0[0])).collect();
    assert_eq!(shown, [(1, 7), (2, 8), (3, 7)]);
}
