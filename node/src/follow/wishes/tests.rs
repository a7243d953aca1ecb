//! What follows from the facts of wishes is a table; that it lands is seen in a cluster of one.

use std::sync::Arc;

use prometheus::Registry;

use ollamax_core::catalog::mem::{self, MemView};
use ollamax_core::catalog::{
    CLUSTER_VERSION, Cordon, Failure, How, Key, Location, Mutation, Plan, Record, Replicas, Version,
};
use ollamax_core::placement::Presence;
use ollamax_types::{ModelRecord, ReplicaKnobs, SpareRule, Timestamp};

use super::*;
use crate::cluster_of_one::{NODE, World};

const VERSION: u8 = 1;

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

#[test]
fn the_log_has_a_plan_in_words() {
    let (ingester, targets, kind) = (NodeId(1), nodes(&[1, 2]), PlanKind::Repair);
    let plan = command_of(Move::Plan { name: name(), round: 7, ingester, targets, kind });
    assert_eq!(in_words(&plan), "m:latest: on node 1, 2, from node 1; repair");
    assert_eq!(in_words(&command_of(Move::Drop { name: name(), node: NodeId(3) })), "m:latest: goes from node 3");
}

/// A node that may hold models, with so much room.
fn site(node: u64, free_bytes: u64) -> Site {
    Site {
        node: NodeId(node),
        health: Health::Alive,
        drained: false,
        gateway: false,
        runtime_up: true,
        disk_free_bytes: Some(free_bytes),
        holds: false,
        is_self: node == 1,
        progress_permille: None,
        labels: Arc::default(),
        gpu_memory_bytes: 0,
        cordon: Cordon::Open,
        disk_total_bytes: None,
        aside_bytes: None,
        spare: SpareRule::default(),
        at_hand: false,
        has_damage: false,
        no_store_at: None,
    }
}

fn asked(count: u32) -> Wish {
    Wish { replicas: Replicas::Count(count), ..mem::wish(name()) }
}

/// For two copies, and planned so.
fn planned(ingester: u64, targets: &[u64]) -> Wish {
    let plan =
        Plan { ingester: NodeId(ingester), targets: nodes(targets), made_at: Timestamp(1), kind: Default::default() };
    Wish { plan: Some(plan), ..asked(2) }
}

fn resolved(wish: Wish) -> Wish {
    Wish { digest: Some(Digest([VERSION; 32])), size_bytes: 50, ..wish }
}

fn failed(wish: Wish, failed: &[(u64, ErrorCode)]) -> Wish {
    let failure = |code| Failure { code, text: "it does not work".to_owned(), at: Timestamp(2), by_hand: false };
    Wish { failures: failed.iter().map(|(node, code)| (NodeId(*node), failure(*code))).collect(), ..wish }
}

fn copy(node: u64) -> Location {
    let model = ModelRecord {
        name: name(),
        digest: Digest([VERSION; 32]),
        weights: Digest([VERSION; 32]),
        size_bytes: 50,
        modified_at: Timestamp(1),
        details_json: "{}".to_owned(),
        capabilities: vec![],
    };
    Location { node: NodeId(node), model }
}

fn standing_of(wish: Wish, held: &[u64]) -> Standing {
    Standing {
        size_bytes: wish.size_bytes,
        holders: nodes(held).into_iter().collect(),
        dropping: BTreeSet::new(),
        pinned: false,
        loaded_on: BTreeSet::new(),
        surplus: BTreeSet::new(),
        at_hand: BTreeSet::new(),
        wish,
    }
}

/// Everybody has been as they are for an hour.
fn scene(sites: &[Site], wishes: &[Standing]) -> Scene {
    let seen = sites.iter().map(|site| (site.node, site.health)).collect();
    let mut presence = Presence::default();
    for turn in 0..=360 {
        presence.look(turn * 10_000, 1, &seen);
    }
    let (sites, wishes) = (Sites::of(sites.to_vec()), wishes.to_vec());
    let (runtimes, knobs) = (Presence::default(), ReplicaKnobs::default());
    Scene { now_ms: 100_000_000, sites, wishes, presence, runtimes, knobs }
}

/// How a wish stands, and what is done for it.
fn found(wish: &Wish, sites: &[Site], held: &[u64]) -> (State, Vec<Command>) {
    let mut book = Book::default();
    let commands = book.decide(&scene(sites, &[standing_of(wish.clone(), held)]), Instant::now());
    (book.known[&name().key()].state, commands)
}

/// The only plan among these, as who brings the model, and who is to have it.
fn plan_of(commands: &[Command]) -> (u64, Vec<NodeId>) {
    let [Command::PlanPull { ingester, targets, round: 7, .. }] = commands else { panic!("one plan: {commands:?}") };
    (ingester.0, targets.clone())
}

#[test]
fn a_wish_without_a_plan_gets_one_where_that_is_possible() {
    let sites = [site(1, 100), site(2, 900), site(3, 500)];
    let (state, commands) = found(&asked(2), &sites, &[]);
    assert_eq!((state, plan_of(&commands)), (State::UnderWay, (2, nodes(&[2, 3]))), "node 1 has the least room");
    let nobody = Site { runtime_up: false, ..site(1, 100) };
    assert_eq!(found(&asked(2), &[nobody], &[]), (State::Impossible, vec![]));
}

#[test]
fn a_plan_that_goes_on_is_left_alone_and_one_that_cannot_is_made_anew() {
    let sites = [site(1, 900), site(2, 900), site(3, 900)];
    let check = |what: &str, wish: &Wish, held: &[u64], state: State| {
        assert_eq!(found(wish, &sites, held), (state, vec![]), "{what}");
    };
    check("nobody has it yet", &planned(1, &[1, 2]), &[], State::UnderWay);
    check("one has", &resolved(planned(1, &[1, 2])), &[1], State::UnderWay);
    check("all have", &resolved(planned(1, &[1, 2])), &[1, 2], State::Held);
    let told = failed(resolved(planned(1, &[1, 2])), &[(2, ErrorCode::DiskFull)]);
    check("who has it has not failed", &told, &[1, 2], State::Held);

    let dead = [Site { health: Health::Dead, ..site(1, 900) }, site(2, 900), site(3, 900)];
    let (_, commands) = found(&planned(1, &[1, 2]), &dead, &[]);
    assert_ne!(plan_of(&commands).0, 1);
    let full = failed(planned(1, &[1, 2]), &[(1, ErrorCode::DiskFull)]);
    let (_, commands) = found(&full, &sites, &[]);
    assert_ne!(plan_of(&commands).0, 1);
}

#[test]
fn where_nobody_else_can_a_failed_wish_is_told_as_such() {
    let all = failed(planned(1, &[1, 2]), &[(1, ErrorCode::DiskFull), (2, ErrorCode::DiskFull)]);
    let sites = [site(1, 900), site(2, 900)];
    assert_eq!(found(&all, &sites, &[]), (State::Failed, vec![]));
}

#[test]
fn a_copy_too_many_goes_and_counts_as_gone_when_that_is_on_record() {
    let sites = [site(1, 900), site(2, 900), site(3, 900)];
    let held = [standing_of(resolved(planned(1, &[1, 2, 3])), &[1, 2, 3])];
    let mut book = Book::default();
    let due = book.decide(&scene(&sites, &held), Instant::now());
    let (nodes, unless_pinned) = (nodes(&[3]), false);
    let drop = Command::DropCopies { name: name(), nodes, forget: false, force: false, unless_pinned };
    assert_eq!(due, [drop]);
    assert_eq!((book.taken(&due[0]), book.known.len()), (Some(DROP), 0), "the record is read anew");
}

#[test]
fn who_has_the_most_of_a_model_takes_the_place_of_who_brought_it() {
    let begun = standing_of(resolved(planned(1, &[2, 3])), &[]);
    let sites = [Site { health: Health::Dead, ..site(1, 900) }, site(2, 900), site(3, 100)];
    let with = |permille: &[(u64, u16)]| {
        let permille = permille.iter().map(|(node, permille)| (NodeId(*node), *permille)).collect();
        let known = Sites::of(sites.to_vec()).with_progress(&permille);
        let scene = Scene { sites: known, ..scene(&sites, std::slice::from_ref(&begun)) };
        plan_of(&scene.outlook().moves.into_iter().map(command_of).collect::<Vec<_>>())
    };
    assert_eq!(with(&[]), (2, nodes(&[2, 3])), "nobody said how far it is");
    assert_eq!(with(&[(2, 300), (3, 301)]), (3, nodes(&[2, 3])));
    assert_eq!(with(&[(3, 0)]), (3, nodes(&[2, 3])), "what is not known is the least");
}

#[test]
fn a_look_reads_anew_how_that_wish_stands_which_it_has_changed_and_no_other() {
    let of = |text: &str, wish: Wish| Wish { name: text.parse().expect("a name"), ..wish };
    let before = ["a", "b"].map(|text| standing_of(of(text, asked(2)), &[]));
    let mut view = MemView::default();
    let put = |wish: Wish| Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)));
    view.write(&["a", "b"].map(|text| put(of(text, planned(1, &[1, 2])))));
    let mut wishes = before.to_vec();
    let mut targets_of = |view: &MemView, text: &str| {
        renew(view, &mut wishes, &text.parse::<ModelName>().expect("a name")).expect("readable");
        let targets = |known: &Standing| known.wish.plan.clone().map(|plan| plan.targets);
        wishes.iter().map(|known| (known.wish.name.key(), targets(known))).collect::<BTreeMap<_, _>>()
    };
    let key = |text: &str| text.parse::<ModelName>().expect("a name").key();
    let of_b = Some(nodes(&[1, 2]));
    assert_eq!(targets_of(&view, "b"), BTreeMap::from([(key("a"), None), (key("b"), of_b.clone())]));
    view.write(&[Mutation::Delete(Key::Wish(key("a")))]);
    assert_eq!(targets_of(&view, "a"), BTreeMap::from([(key("b"), of_b)]), "nobody wants it any more");
}

#[test]
fn who_is_not_heard_is_not_asked_how_much_it_has() {
    let with = |node: u64, health: Health| Site { health, ..site(node, 100) };
    let own = Site { is_self: true, ..with(1, Health::Unknown) };
    let others = [with(2, Health::Alive), with(3, Health::Dead), with(4, Health::Suspect), with(5, Health::Alive)];
    let sites = Sites::of([own].into_iter().chain(others).collect());
    assert_eq!(sites.heard_of(&nodes(&[1, 2, 3, 4, 9])), nodes(&[1, 2]));
}

#[test]
fn what_is_done_is_looked_at_again_only_now_and_then_unless_it_is_asked_for_anew() {
    let put = |wish: &Wish| Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish.clone())));
    let at = |node| Key::Location(name().key(), NodeId(node));
    let held = |node| Mutation::Put(at(node), Record::Location(copy(node)));
    let (mut view, mut book) = (MemView::default(), Book::default());
    view.write(&[put(&resolved(planned(1, &[1, 2]))), held(1), held(2)]);
    let sites = [site(1, 900), site(2, 900)];
    let start = Instant::now();
    let due_at = |book: &mut Book, view: &MemView, seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        let wishes = book.standings(view, &|_| nodes(&[2]), now).expect("readable");
        assert!(wishes.iter().all(|standing| standing.loaded_on.contains(&NodeId(2))), "that is asked each time");
        book.decide(&scene(&sites, &wishes), now)
    };
    let state_at = |book: &mut Book, view: &MemView, seconds: u64| {
        due_at(book, view, seconds);
        book.known[&name().key()].state
    };
    assert_eq!(state_at(&mut book, &view, 0), State::Held);
    view.write(&[Mutation::Delete(at(2))]);
    assert_eq!(state_at(&mut book, &view, 1), State::Held, "not looked at");
    assert_eq!(state_at(&mut book, &view, 5), State::UnderWay);
    view.write(&[held(2)]);
    assert_eq!(state_at(&mut book, &view, 6), State::Held, "what is not done is looked at each time");
    let again = Wish { round: 8, ..asked(2) };
    view.write(&[put(&again)]);
    let due = due_at(&mut book, &view, 7);
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 8, .. }]), "{due:?}");
    view.write(&[Mutation::Delete(Key::Wish(name().key()))]);
    assert_eq!(due_at(&mut book, &view, 8), vec![]);
    assert!(book.known.is_empty(), "what is forgotten is not counted");
}

#[test]
fn who_may_have_the_files_is_known_by_how_the_name_came_to_its_version() {
    let other: ModelName = "other".parse().expect("a name");
    let mut view = MemView::default();
    let held = |name: &ModelName, node: u64, digest: u8| {
        let model = ModelRecord { name: name.clone(), digest: Digest([digest; 32]), ..copy(node).model };
        let location = Location { node: NodeId(node), model };
        Mutation::Put(Key::Location(name.key(), NodeId(node)), Record::Location(location))
    };
    view.write(&[held(&other, 1, VERSION), held(&other, 2, 9), held(&name(), 3, 9), held(&name(), 4, VERSION)]);
    let mut number = 0;
    let mut came = |view: &mut MemView, digest: u8, how: How| {
        number += 1;
        let (digest, at, by) = (Digest([digest; 32]), Timestamp(1), "test".to_owned());
        let version = Version { number, digest, size_bytes: 50, at, how, by };
        view.write(&[Mutation::Put(Key::Version(name().key(), number), Record::Version(Box::new(version)))]);
    };
    let at_hand = |view: &MemView, wish: Wish| {
        let found = standing(view, wish, &|_| Vec::new()).expect("readable");
        found.at_hand.into_iter().collect::<Vec<NodeId>>()
    };
    assert_eq!(at_hand(&view, resolved(asked(2))), [], "nothing is known of it");
    came(&mut view, VERSION, How::Pulled);
    assert_eq!(at_hand(&view, resolved(asked(2))), [], "it is new");
    came(&mut view, 9, How::Pulled);
    assert_eq!(at_hand(&view, resolved(asked(2))), nodes(&[3, 4]), "the name had it before, and a pin brings it back");
    came(&mut view, VERSION, How::RolledBack { to: 1 });
    assert_eq!(at_hand(&view, resolved(asked(2))), nodes(&[3, 4]), "who has the name may keep it");
    came(&mut view, VERSION, How::Tagged { from: other });
    assert_eq!(at_hand(&view, resolved(asked(2))), nodes(&[1]), "who has the other name with that version has it");
    assert_eq!(at_hand(&view, resolved(planned(4, &[4, 5]))), nodes(&[1]), "one of them does not have it yet");
    assert_eq!(at_hand(&view, resolved(planned(4, &[4]))), [], "nobody has to get it");
    assert_eq!(at_hand(&view, asked(2)), [], "which version it will be is not known");
}

#[test]
fn a_step_that_was_refused_is_left_alone_for_longer_each_time_and_a_new_round_is_not() {
    let sites = [site(1, 900)];
    let of_round = |round: u64| scene(&sites, &[standing_of(Wish { round, ..asked(1) }, &[])]);
    let (mut book, start) = (Book::default(), Instant::now());
    let due = book.decide(&of_round(7), start);
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 7, .. }]), "{due:?}");
    let mut now = start;
    for pause in [REFUSED_FOR, 2 * REFUSED_FOR, 4 * REFUSED_FOR] {
        assert_eq!(book.leave_alone(&due[0], now), None, "somebody asked for it: it is no move");
        assert_eq!(book.decide(&of_round(7), now + pause - Duration::from_secs(1)), vec![], "{pause:?}");
        now += pause;
        assert_eq!(book.decide(&of_round(7), now), due, "{pause:?}");
    }
    book.leave_alone(&due[0], now);
    let due = book.decide(&of_round(8), now);
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 8, .. }]), "{due:?}");
}

#[test]
fn a_repair_that_was_refused_stands_in_nobodys_way() {
    let room = 1 << 40;
    let sites = [site(1, room), Site { health: Health::Dead, ..site(2, room) }, site(3, room)];
    let short = |name: &str| {
        let wish = Wish { name: name.parse().expect("a name"), ..resolved(planned(1, &[1, 2])) };
        standing_of(wish, &[1, 2])
    };
    let scene = scene(&sites, &[short("a"), short("b")]);
    let (mut book, now) = (Book::default(), Instant::now());
    let repaired = |due: &[Command]| {
        let [Command::PlanPull { name, targets, kind: PlanKind::Repair, .. }] = due else { panic!("{due:?}") };
        assert_eq!(*targets, nodes(&[1, 2, 3]));
        name.clone()
    };
    let first = book.decide(&scene, now);
    let second = {
        assert_eq!(book.leave_alone(&first[0], now), Some("repair"));
        book.decide(&scene, now)
    };
    assert_eq!([repaired(&first), repaired(&second)], ["a", "b"].map(|name| name.parse().expect("a name")));
    assert_eq!(book.short, (2, 0), "both are told all the same");
    book.leave_alone(&second[0], now);
    assert_eq!(book.decide(&scene, now), vec![]);
}

#[test]
fn a_move_counts_when_it_has_come_to_an_end() {
    let sites = [site(1, 900), site(2, 900), site(3, 900), Site { health: Health::Dead, ..site(4, 900) }];
    let away = [site(1, 900), site(2, 900), Site { health: Health::Dead, ..site(3, 900) }];
    let moving = |kind: PlanKind| {
        let wish = resolved(planned(1, &[1, 2, 3, 4]));
        let plan = wish.plan.clone().map(|plan| Plan { kind, ..plan });
        Wish { plan, ..wish }
    };
    let check = |what: &str, then: &[Standing], expected: &[(PlanKind, Moved)]| {
        let mut book = Book::default();
        let mut look = |wishes: &[Standing]| {
            let scene = scene(&sites, wishes);
            book.decide(&scene, Instant::now());
            (book.ended(&scene), book.moving.len())
        };
        assert_eq!(look(&[standing_of(moving(PlanKind::Repair), &[1, 2])]), (vec![], 1), "{what}: under way");
        assert_eq!(look(then), (expected.to_vec(), 0), "{what}");
    };
    let repair = || moving(PlanKind::Repair);
    let done = [(PlanKind::Repair, Moved::Done)];
    check("it is there; nobody waits for the dead", &[standing_of(repair(), &[1, 2, 3])], &done);
    let full = failed(repair(), &[(3, ErrorCode::DiskFull)]);
    check("it has failed", &[standing_of(full, &[1, 2])], &[(PlanKind::Repair, Moved::Failed)]);
    let mut left = failed(repair(), &[(2, ErrorCode::PullCancelled)]);
    left.failures.values_mut().for_each(|failure| failure.at = Timestamp(0));
    check("a person had removed another copy", &[standing_of(left, &[1, 3])], &done);
    check("it was asked for", &[standing_of(moving(PlanKind::Asked), &[1, 2])], &[]);
    check("nobody wants it any more", &[], &[]);
    let begun = standing_of(repair(), &[1, 2]);
    let watched = scene(&away, std::slice::from_ref(&begun));
    assert_eq!(coming(&begun, &watched), []);
    let just_now = Scene { presence: Presence::default(), ..watched };
    assert_eq!(coming(&begun, &just_now), nodes(&[3]), "who starts again has what had come");
}

#[tokio::test]
async fn the_leader_plans_a_wish_when_a_node_can_have_the_model() {
    let world = World::start(CLUSTER_VERSION).await;
    let (metadata, scheduler) = (world.metadata.clone(), world.scheduler.clone());
    let planner = Planner {
        prospect: Prospect::new(metadata.clone(), scheduler.clone()),
        metadata,
        scheduler,
        transfer: None,
        metrics: transfer::Metrics::default(),
        copies: CopyMetrics::register(&Registry::new()).expect("new names"),
    };
    world.tasks.spawn(follow(planner, world.stop.clone()));
    let ask = Command::AskModel {
        name: name(),
        replicas: Replicas::Count(1),
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    world.change(ask).await;
    let plan = || read::wish(&*world.metadata.view(), &name()).expect("readable").expect("asked").plan;
    assert_eq!(plan(), None, "no runtime answers");
    world.let_models_in(1 << 40);
    let mut changes = world.metadata.changes();
    while plan().is_none() {
        changes.changed().await.expect("it runs");
    }
    let made = plan().expect("a plan");
    assert_eq!((made.ingester, made.targets), (NODE, vec![NODE]));
    drop(changes);
    world.finish().await;
}
