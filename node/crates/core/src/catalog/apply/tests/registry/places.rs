//! What is said of nodes for placement: labels, cordons, and which nodes a wish takes.

use std::collections::BTreeMap;

use super::*;
use crate::catalog::record::Want;

#[test]
fn people_and_nodes_label_a_node_apart() {
    let set = |own: bool, set: &[(&str, &str)], unset: &[&str]| Command::SetLabels {
        node: NodeId(4),
        own,
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    };
    let mut world = World::with_copies();
    world.check(set(false, &[("room", "a"), ("disk", "ssd")], &[]), Answer::Done);
    world.check(set(true, &[("room", "b"), ("os", "")], &["disk"]), Answer::Done);
    world.check_idle(set(true, &[("room", "b")], &["never-there"]));
    world.check(set(false, &[("room", "c")], &["room", "disk"]), Answer::Done);
    let shown = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let member = world.member(4);
    assert_eq!((shown(&member.labels), shown(&member.own_labels)), ("room=c".to_owned(), "os= room=b".to_owned()));

    let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("k{number}")).collect();
    let pairs: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
    let keys: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    let value = |key: &str| format!("the value of label {key} is longer than 63 bytes or holds a control character");
    for (command, expected) in [
        (set(false, &pairs, &[]), "the list of labels has 33 items; the limit is 32".to_owned()),
        (set(false, &pairs[1..], &[]), "the list of labels has 33 items; the limit is 32".to_owned()), // one was there
        (set(false, &[], &keys), "the list of labels has 33 items; the limit is 32".to_owned()),
        (set(false, &[("", "v")], &[]), "a label is empty".to_owned()),
        (set(false, &[(long.as_str(), "v")], &[]), "a label has 64 bytes; the limit is 63".to_owned()),
        (
            set(false, &[("Room", "v")], &[]),
            "label \"Room\" holds more than a-z, 0-9, dots, dashes and underscores".to_owned(),
        ),
        (set(false, &[("k", long.as_str())], &[]), value("k")),
        (set(false, &[("k", "a\nb")], &[]), value("k")),
    ] {
        assert_eq!(invalid_text(&world.view, command), expected);
    }
    world.check(set(false, &pairs[1..], &["room"]), Answer::Done);
    let node = NodeId(9);
    let unknown = Command::SetLabels { node, own: false, set: BTreeMap::new(), unset: vec![] };
    world.check(unknown, refused(Refusal::NodeNotFound(node)));
}

#[test]
fn a_node_that_may_hold_models_is_cordoned_and_opened() {
    let mut world = World::with_copies();
    world.check_idle(cordon(2, Cordon::Open));
    for state in [Cordon::Cordoned, Cordon::Emptying, Cordon::Open] {
        world.check(cordon(2, state), Answer::Done);
        assert_eq!(world.member(2).cordon, state);
        world.check_idle(cordon(2, state));
    }
    let gateway = "node 4 is a gateway and holds no models";
    assert_eq!(invalid_text(&world.view, cordon(4, Cordon::Cordoned)), gateway);
    world.check(Command::RemoveMember { node: NodeId(3) }, Answer::Done);
    world.check(cordon(3, Cordon::Cordoned), refused(Refusal::NodeNotFound(NodeId(3))));
}

#[test]
fn a_wish_says_which_nodes_come_into_question_within_limits() {
    let wanting = |want: Want| Command::AskModel {
        name: name(),
        replicas: Replicas::Count(1),
        insecure: false,
        want,
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    let world = World::with_copies();
    let labels = BTreeMap::from([("Room".to_owned(), "a".to_owned())]);
    let text = invalid_text(&world.view, wanting(Want { labels, ..Want::default() }));
    assert_eq!(text, "label \"Room\" holds more than a-z, 0-9, dots, dashes and underscores");
    let avoid = (0..=WISH_TARGETS_MAX as u64).map(NodeId).collect();
    let text = invalid_text(&world.view, wanting(Want { avoid, ..Want::default() }));
    assert_eq!(text, "the list of nodes to avoid has 65 items; the limit is 64");
    let mut world = World::with_copies();
    let placed = || Want { gpu_memory_bytes_min: 1, avoid: [NodeId(9)].into(), ..Want::default() };
    let round = world.ask(wanting(placed()));
    assert_eq!(world.wish("m").want, placed(), "whom it avoids need not be a member");
    world.check_goes_on(wanting(placed()), round);
    assert_eq!(world.ask(wanting(Want::default())), world.index);
}
