//! The registry of names, row by row: versions, pins, phases, use, and copies that go.

mod bounds;
mod drops;
mod forgotten;
mod places;
mod versions;

use ollamax_types::ModelName;

use super::world::{World, ids, on};
use super::*;
use crate::catalog::record::{Cordon, How, Member, Model, Phase, PhaseWord, Replicas, Since};

/// Entries before the first of a test.
const START: u64 = 8;

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn held(node: u64, digest: u8) -> Command {
    report(node, &[("m", digest)], &[])
}

fn gone(node: u64) -> Command {
    report(node, &[], &["m"])
}

fn note(byte: u8) -> Command {
    Command::NoteVersion { name: name(), digest: digest(byte), size_bytes: 5, how: How::Pulled }
}

fn fix(byte: u8, replicas: Option<Replicas>, how: How) -> Command {
    Command::FixVersion { name: name(), digest: digest(byte), size_bytes: 5, replicas, how }
}

fn pin(byte: u8) -> Command {
    Command::PinModel { name: name(), digest: Some(digest(byte)) }
}

fn unpin() -> Command {
    Command::PinModel { name: name(), digest: None }
}

fn set_phase(phase: PhaseWord, note: &str) -> Command {
    Command::SetPhase { name: name(), phase, note: note.to_owned() }
}

fn drop_at(nodes: &[u64], forget: bool, force: bool) -> Command {
    Command::DropCopies { name: name(), nodes: ids(nodes), forget, force, unless_pinned: false }
}

fn ask(replicas: Replicas) -> Command {
    Command::AskModel {
        name: name(),
        replicas,
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    }
}

/// Somebody says nothing of places.
fn plain() -> Command {
    Command::AskModel {
        name: name(),
        replicas: Replicas::Count(2),
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: true,
        away: Default::default(),
    }
}

fn plan(round: u64, ingester: u64, targets: &[u64]) -> Command {
    let (ingester, targets) = (NodeId(ingester), ids(targets));
    Command::PlanPull { name: name(), round, ingester, targets, kind: Default::default() }
}

fn resolve(round: u64, node: u64, byte: u8) -> Command {
    Command::ResolveWish { node: NodeId(node), name: name(), round, digest: digest(byte), size_bytes: 5 }
}

fn cordon(node: u64, cordon: Cordon) -> Command {
    Command::SetCordon { node: NodeId(node), cordon }
}

fn pinned(byte: u8) -> Answer {
    refused(Refusal::Pinned { name: name(), digest: digest(byte) })
}

fn no_version(version: &str) -> Answer {
    refused(Refusal::VersionNotFound { name: name(), version: version.to_owned() })
}

fn last_copy() -> Answer {
    refused(Refusal::LastCopy { name: name() })
}

fn below(wanted: u32, left: u32) -> Answer {
    refused(Refusal::BelowWish { name: name(), wanted, left })
}

impl World {
    /// Nodes 1 and 2 have version 7.
    fn with_copies() -> Self {
        let mut world = Self::new();
        for node in [1, 2] {
            assert_eq!(world.apply_at(0, held(node, 7)).answer, Answer::Done);
        }
        world
    }

    /// After some commands that are done.
    fn after(commands: impl IntoIterator<Item = Command>) -> Self {
        let mut world = Self::with_copies();
        world.check_taken(commands);
        world
    }

    /// The same in a cluster of this version.
    fn at_version(mut self, version: u32) -> Self {
        let cluster = read::cluster(&self.view).expect("readable").expect("a cluster");
        self.view.write(&[put(Key::Cluster, Record::Cluster(Cluster { version, ..cluster }))]);
        self
    }

    /// The same question is answered with the same round, and changes nothing.
    fn check_goes_on(&mut self, command: Command, round: u64) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command), Applied::new(vec![], Answer::Wish { round }), "{shown}");
    }

    fn model(&self) -> Model {
        read::model(&self.view, &name()).expect("readable").expect("on record")
    }

    fn member(&self, node: u64) -> Member {
        read::member(&self.view, NodeId(node)).expect("readable").expect("a member")
    }

    fn dropped(&self) -> Vec<u64> {
        self.model().drops.keys().map(|node| node.0).collect()
    }

    /// Who has failed in the round, and whether a person did that.
    fn failed(&self) -> Vec<(u64, bool)> {
        self.wish("m").failures.iter().map(|(node, failure)| (node.0, failure.by_hand)).collect()
    }

    /// Numbers and versions of the history.
    fn history(&self) -> Vec<(u64, u8)> {
        let noted = read::versions(&self.view, &name()).expect("readable");
        noted.iter().map(|version| (version.number, version.digest.0[0])).collect()
    }

    /// Nodes 1 and 2 shall have the model, and have it; node 1 asked the registry.
    fn spread(replicas: Replicas) -> (Self, u64) {
        let mut world = Self::with_copies();
        let round = world.ask(ask(replicas));
        world.check(plan(round, 1, &[1, 2]), Answer::Done);
        world.check(resolve(round, 1, 7), Answer::Done);
        (world, round)
    }
}

#[test]
fn a_model_goes_through_the_phases_of_its_life() {
    let mut world = World::with_copies();
    let other =
        Command::SetPhase { name: "other".parse().expect("a name"), phase: PhaseWord::Disabled, note: String::new() };
    world.check(other, refused(Refusal::WishNotFound("other".parse().expect("a name"))));
    world.check(set_phase(PhaseWord::Deprecated, "old"), Answer::Done);
    let since =
        |world: &World, note: &str| Since { at: Timestamp(world.index), by: "admin".to_owned(), note: note.to_owned() };
    assert_eq!(world.model().phase, Phase::Deprecated(since(&world, "old")));
    world.check_idle(set_phase(PhaseWord::Deprecated, "old"));
    world.check(set_phase(PhaseWord::Deprecated, "older"), Answer::Done);
    world.check(set_phase(PhaseWord::Disabled, ""), Answer::Done);
    assert_eq!(world.model().phase, Phase::Disabled(since(&world, "")));
    let text = invalid_text(&world.view, set_phase(PhaseWord::Disabled, &"x".repeat(PHASE_NOTE_BYTES_MAX + 1)));
    assert_eq!(text, "the note has 257 bytes; the limit is 256");
    world.check(drop_at(&[], true, false), Answer::Done);
    assert_eq!(world.model().phase, Phase::Deleted(since(&world, "")));
    assert_eq!(world.dropped(), [1, 2]);
    world.ask(ask(Replicas::Count(1)));
    assert_eq!(world.model().phase, Phase::Active, "somebody wants it again");
}

#[test]
fn the_last_day_of_use_is_kept_of_names_that_have_a_record() {
    let used = |day: u32, keys: &[String]| Command::NoteUse { node: NodeId(1), day, names: keys.to_vec() };
    let keys = [name().key(), "nobody/knows/it:latest".to_owned()];
    let mut world = World::with_copies();
    world.check_idle(used(1, &keys));
    world.check(pin(7), Answer::Done);
    world.check(used(1, &keys), Answer::Done);
    assert_eq!(world.model().used_on, 1);
    world.check_idle(used(1, &keys));
    world.check_idle(used(0, &keys));
    // Log time is some milliseconds after the first day began.
    assert_eq!(invalid_text(&world.view, used(2, &keys)), "day 2 is not here yet; it is day 0");
    assert_eq!(invalid_text(&world.view, used(1, &[String::new()])), "a model key is empty");
    let many = vec![name().key(); REPORT_MODELS_MAX + 1];
    assert_eq!(invalid_text(&world.view, used(1, &many)), "the list of used models has 201 items; the limit is 200");
    let node = NodeId(9);
    world.check(Command::NoteUse { node, day: 1, names: vec![] }, refused(Refusal::NodeNotFound(node)));
}
