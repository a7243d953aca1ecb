//! What is read from the state: the facts of a plan, and the lines of `why`.

use ollamax_types::{ErrorCode, ModelRecord};

use super::*;
use crate::catalog::mem::{self, MemView};
use crate::catalog::{
    Cordon, Drop, Failure, How, Key, Location, Member, MemberState, Model, Mutation, Pin, Plan, PlanKind, Record,
    Version, Want, Wish,
};

const HOUR_MS: u64 = 3_600 * 1_000;

fn named(name: &str) -> ModelName {
    name.parse().expect("a name")
}

/// What one row has on record of the model `m`.
struct State {
    copies: Vec<Location>,
    wish: Option<Wish>,
    model: Option<Model>,
    versions: Vec<Version>,
}

fn location(node: u64, version: u8, days: u32) -> Location {
    let model = ModelRecord {
        name: named("m"),
        digest: digest(version),
        weights: digest(100),
        size_bytes: 10,
        modified_at: days_ago(days),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    };
    Location { node: NodeId(node), model }
}

/// Asked for three days ago, and done on nodes 1 and 2.
fn wish(replicas: Replicas) -> Wish {
    let targets = vec![NodeId(1), NodeId(2)];
    Wish {
        replicas,
        digest: Some(digest(1)),
        size_bytes: 10,
        plan: Some(Plan { ingester: NodeId(1), targets, made_at: days_ago(3), kind: PlanKind::Asked }),
        asked_at: days_ago(3),
        asked_by: "admin".to_owned(),
        ..mem::wish(named("m"))
    }
}

/// Noted ten days ago, with its second version.
fn record() -> Model {
    Model {
        name: named("m"),
        phase: Phase::Active,
        pin: None,
        head: 2,
        first: 1,
        drops: BTreeMap::new(),
        used_on: 0,
        noted_at: days_ago(10),
        unheld_since: None,
    }
}

fn version(number: u64, days: u32) -> Version {
    let (digest, at, by) = (digest(1), days_ago(days), "admin".to_owned());
    Version { number, digest, size_bytes: 10, at, how: How::Pulled, by }
}

/// Two nodes have what was asked for.
fn state() -> State {
    State {
        copies: vec![location(1, 1, 3), location(2, 1, 2)],
        wish: Some(wish(Replicas::Count(2))),
        model: Some(record()),
        versions: vec![version(1, 9), version(2, 4)],
    }
}

fn pin() -> Pin {
    Pin { digest: digest(1), by: "admin".to_owned(), at: days_ago(1) }
}

fn failure(code: ErrorCode, text: &str) -> Failure {
    Failure { code, text: text.to_owned(), at: days_ago(1), by_hand: false }
}

fn member(id: u64, cordon: Cordon) -> Mutation {
    let member = Member { cordon, ..mem::member(id) };
    Mutation::Put(Key::Member(member.id), Record::Member(member))
}

fn view(state: State) -> MemView {
    let key = named("m").key();
    let mut puts = vec![member(1, Cordon::Open), member(2, Cordon::Open), member(3, Cordon::Emptying)];
    for copy in state.copies {
        puts.push(Mutation::Put(Key::Location(key.clone(), copy.node), Record::Location(copy)));
    }
    puts.extend(state.wish.map(|wish| Mutation::Put(Key::Wish(key.clone()), Record::Wish(Box::new(wish)))));
    puts.extend(state.model.map(|model| Mutation::Put(Key::Model(key.clone()), Record::Model(Box::new(model)))));
    for version in state.versions {
        let id = Key::Version(key.clone(), version.number);
        puts.push(Mutation::Put(id, Record::Version(Box::new(version))));
    }
    let mut view = MemView::default();
    view.write(&puts);
    view
}

#[test]
fn facts_are_what_is_on_record() {
    let sites = BTreeMap::from([(NodeId(1), site(5))]);
    let read = |state: State| Facts::of(&view(state), days_ago(0), sites.clone()).expect("readable");
    let facts = read(state());
    assert_eq!((facts.now, &facts.sites), (days_ago(0), &sites));
    let [model] = &facts.models[..] else { panic!("one model: {facts:?}") };
    let times = (model.used_on, model.used_on(), model.noted_at, model.version_at);
    assert_eq!(times, (0, TODAY - 10, days_ago(10), days_ago(4)));
    assert_eq!(model.copies, [copy(1), copy(2)]);
    assert_eq!((&model.wanted, model.digest), (&Some(Replicas::Count(2)), Some(digest(1))));
    let flags = |state: State| {
        let facts = read(state);
        let model = facts.models.first().expect("a model");
        (model.is_pinned, model.is_declared, model.is_under_way)
    };
    let check = |what: &str, turn: fn(&mut State), expected: (bool, bool, bool)| {
        let mut state = state();
        turn(&mut state);
        assert_eq!(flags(state), expected, "{what}");
    };
    check("done", |_| {}, (false, false, false));
    check("pinned", |state| state.model.as_mut().expect("there").pin = Some(pin()), (true, false, false));
    check("declared", |state| state.wish.as_mut().expect("there").declared = true, (false, true, false));
    check("not planned", |state| state.wish.as_mut().expect("there").plan = None, (false, false, true));
    check("not resolved", |state| state.wish.as_mut().expect("there").digest = None, (false, false, true));
    check("not on all targets", |state| state.copies.truncate(1), (false, false, true));
    let given_up = |state: &mut State| {
        state.copies.truncate(1);
        let failures = &mut state.wish.as_mut().expect("there").failures;
        failures.insert(NodeId(2), failure(ErrorCode::DiskFull, ""));
    };
    check("or failed there", given_up, (false, false, false));
    check("nobody asked", |state| state.wish = None, (false, false, false));
}

#[test]
fn a_model_without_a_record_is_not_among_the_facts() {
    let facts = Facts::of(&view(State { model: None, ..state() }), days_ago(0), BTreeMap::new()).expect("readable");
    assert!(facts.models.is_empty());
    let facts = Facts::of(&view(State { versions: vec![], ..state() }), days_ago(0), BTreeMap::new());
    assert_eq!(facts.expect("readable").models.first().map(|model| model.version_at), Some(days_ago(10)));
}

#[test]
fn a_copy_belongs_where_the_wish_may_have_it_and_anywhere_without_one() {
    let check = |what: &str, turn: fn(&mut State), expected: [bool; 4]| {
        let mut state = State { copies: (1..=4).map(|node| location(node, 1, 3)).collect(), ..state() };
        turn(&mut state);
        let facts = Facts::of(&view(state), days_ago(0), BTreeMap::new()).expect("readable");
        let belongs: Vec<bool> = facts.models.iter().flat_map(|model| &model.copies).map(|copy| copy.belongs).collect();
        assert_eq!(belongs, expected, "{what}");
    };
    check("node 3 is being emptied, and 4 is no member", |_| {}, [true, true, false, false]);
    let avoiding = |state: &mut State| {
        state.wish.as_mut().expect("there").want.avoid.insert(NodeId(2));
    };
    check("the wish keeps away from node 2", avoiding, [true, false, false, false]);
    let labelled = |state: &mut State| {
        state.wish.as_mut().expect("there").want.labels.insert("room".to_owned(), "a".to_owned());
    };
    check("and from all that are not labelled so", labelled, [false; 4]);
    check("nobody asked", |state| state.wish = None, [true; 4]);
}

#[test]
fn a_copy_that_was_told_to_go_is_going() {
    let mut state = state();
    let (at, by) = (days_ago(1), "admin".to_owned());
    let drop = Drop { digest: digest(1), at, by, insisted: false };
    state.model.as_mut().expect("there").drops.insert(NodeId(2), drop);
    let facts = Facts::of(&view(state), days_ago(0), BTreeMap::new()).expect("readable");
    let going: Vec<bool> = facts.models.iter().flat_map(|model| &model.copies).map(|copy| copy.is_going).collect();
    assert_eq!(going, [false, true]);
}

fn check_why(what: &str, turn: fn(&mut State), expected: &[&str]) {
    let mut state = state();
    turn(&mut state);
    let reasons = why(&view(state), &named("m"), days_ago(0), &|node| format!("n{node}")).expect("readable");
    let found: Vec<&str> = reasons.iter().map(|reason| reason.text.as_str()).collect();
    assert_eq!(found, expected, "{what}");
    for Reason { about, text } in &reasons {
        assert!(about.is_none_or(|node| text.starts_with(&format!("n{node} "))), "{text}");
    }
}

const ASKED: &str = "wanted on 2 nodes: asked by admin 3 days ago";
const FIRST: &str = "n1 has it since 3 days";
const SECOND: &str = "n2 has it since 2 days";

#[test]
fn why_a_model_is_wanted_or_not() {
    check_why("as it is", |_| {}, &[ASKED, FIRST, SECOND]);
    check_why(
        "nothing is known",
        |state| {
            (state.copies, state.wish, state.model) = (vec![], None, None);
        },
        &[],
    );
    check_why("as found", |state| state.wish = None, &["nobody asked for it: as found", FIRST, SECOND]);
    check_why("by nobody, nowhere", |state| (state.wish, state.copies) = (None, vec![]), &["nobody asks for it"]);
    check_why(
        "declared",
        |state| {
            let wish = state.wish.as_mut().expect("there");
            (wish.declared, wish.replicas, wish.asked_by) = (true, Replicas::All, String::new());
        },
        &["wanted on all nodes: declared by somebody 3 days ago", FIRST, SECOND],
    );
    check_why(
        "on certain nodes",
        |state| {
            state.wish.as_mut().expect("there").want = Want {
                labels: BTreeMap::from([("room".to_owned(), "a".to_owned())]),
                gpu_memory_bytes_min: 16_000_000_000,
                disk_free_bytes_min: 50_000_000_000,
                avoid: BTreeSet::from([NodeId(3)]),
            };
        },
        &[
            ASKED,
            "only on nodes labelled room=a, with a GPU of 16.0 GB, that keep 50.0 GB of their disk free, other than n3",
            FIRST,
            SECOND,
        ],
    );
    check_why(
        "on named nodes, of which one is not planned yet",
        |state| {
            state.wish.as_mut().expect("there").replicas = Replicas::Nodes(vec![NodeId(1), NodeId(3)]);
        },
        &["wanted on n1, n3: asked by admin 3 days ago", FIRST, SECOND, "n3 has not: it is not planned yet"],
    );
}

#[test]
fn why_a_model_stays_goes_or_does_not_come() {
    check_why(
        "pinned, deprecated and used",
        |state| {
            let model = state.model.as_mut().expect("there");
            let since = Since { note: "use m2".to_owned(), ..since(1) };
            (model.pin, model.phase, model.used_on) = (Some(pin()), Phase::Deprecated(since), TODAY - 5);
        },
        &[
            ASKED,
            "pinned at 010101010101 by admin, 1 day ago",
            "deprecated by admin 1 day ago: use m2",
            "used 5 days ago",
            FIRST,
            SECOND,
        ],
    );
    check_why(
        "used today, disabled just now",
        |state| {
            let model = state.model.as_mut().expect("there");
            (model.phase, model.used_on) = (Phase::Disabled(since(0)), TODAY);
        },
        &[ASKED, "disabled by admin just now", "used today", FIRST, SECOND],
    );
    check_why(
        "told to go, and another version",
        |state| {
            let (at, by) = (Timestamp(days_ago(0).0 - 2 * HOUR_MS), "rules".to_owned());
            let dropped = Drop { digest: digest(1), at, by, insisted: false };
            state.model.as_mut().expect("there").drops.insert(NodeId(1), dropped);
            state.copies[1] = location(2, 9, 0);
        },
        &[
            ASKED,
            "n1 is to remove it: rules said so 2 hours ago",
            "n2 has another version since a moment: 090909090909",
        ],
    );
    check_why(
        "on its way, and failed",
        |state| {
            let wish = state.wish.as_mut().expect("there");
            wish.failures.insert(NodeId(3), failure(ErrorCode::PullCancelled, ""));
            wish.failures.insert(NodeId(4), failure(ErrorCode::DiskFull, "12.1 GB needed, 3.0 GB free"));
            wish.failures.insert(NodeId(5), failure(ErrorCode::DiskFull, ""));
            state.copies.truncate(1);
        },
        &[
            ASKED,
            FIRST,
            "n2 has not yet: it is to fetch it",
            "n3 has not: somebody removed it there, or ended the pull",
            "n4 has not: 12.1 GB needed, 3.0 GB free",
            "n5 has not: disk_full",
        ],
    );
    check_why(
        "who fetches it for both has failed",
        |state| {
            let wish = state.wish.as_mut().expect("there");
            wish.failures.insert(NodeId(1), failure(ErrorCode::DigestMismatch, "the file is another"));
            state.copies.clear();
        },
        &[ASKED, "n1 has not: the file is another", "n2 has not: nobody is at it, as n1 has failed"],
    );
}

#[test]
fn a_node_that_left_is_said_to_get_nothing() {
    let mut state = state();
    state.wish.as_mut().expect("there").replicas = Replicas::Nodes(vec![NodeId(3)]);
    let mut view = view(state);
    let member = crate::catalog::read::member(&view, NodeId(3)).expect("readable").expect("there");
    let left = Member { state: MemberState::Departed { at: days_ago(1) }, ..member };
    view.write(&[Mutation::Put(Key::Member(NodeId(3)), Record::Member(left))]);
    let reasons = why(&view, &named("m"), days_ago(0), &|node| format!("n{node}")).expect("readable");
    let last = reasons.last().map(|reason| (reason.about, reason.text.as_str()));
    assert_eq!(last, Some((Some(NodeId(3)), "n3 has not: it is no member any more")));
}

#[test]
fn why_a_name_is_forgotten_one_day() {
    check_why(
        "had by nobody, so far",
        |state| {
            (state.wish, state.copies) = (None, vec![]);
            state.model.as_mut().expect("there").unheld_since = Some(days_ago(2));
        },
        &["nobody asks for it", "nobody has it since 2 days: after 30 days it is forgotten with its history"],
    );
    check_why(
        "had by nobody, and pinned",
        |state| {
            (state.wish, state.copies) = (None, vec![]);
            let model = state.model.as_mut().expect("there");
            (model.unheld_since, model.pin) = (Some(days_ago(2)), Some(pin()));
        },
        &["nobody asks for it", "pinned at 010101010101 by admin, 1 day ago"],
    );
}
