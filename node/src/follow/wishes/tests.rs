//! What follows from the facts of a wish is a table; that it lands is seen in a cluster of one.

use std::sync::Arc;

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{CLUSTER_VERSION, Cordon, Failure, Key, Mutation, Record, Replicas};
use ollamax_core::health::Health;
use ollamax_types::{Digest, ModelName, ModelRecord, Timestamp};

use super::*;
use crate::cluster_of_one::{NODE, World};

const VERSION: u8 = 1;

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
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
    }
}

fn asked(count: u32) -> Wish {
    Wish {
        name: name(),
        round: 7,
        insecure: false,
        replicas: Replicas::Count(count),
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: BTreeMap::new(),
        asked_at: Timestamp(0),
        asked_by: "test".to_owned(),
        want: Default::default(),
        declared: false,
    }
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

fn found(wish: &Wish, sites: &[Site], held: &[u64]) -> Finding {
    let copies: Vec<Location> = held.iter().copied().map(copy).collect();
    examine(wish, &Sites::of(sites.to_vec()), &copies)
}

#[test]
fn a_wish_without_a_plan_gets_one_where_that_is_possible() {
    let sites = [site(1, 100), site(2, 900), site(3, 500)];
    let Finding { state, step } = found(&asked(2), &sites, &[]);
    let step = step.expect("a plan");
    assert_eq!((state, step.targets.len()), (State::UnderWay, 2));
    assert!(step.targets.contains(&step.ingester), "{step:?}");
    assert!(!step.targets.contains(&NodeId(1)), "it has the least room: {step:?}");
    let nobody = Site { runtime_up: false, ..site(1, 100) };
    let impossible = Finding { state: State::Impossible, step: None };
    assert_eq!(found(&asked(2), &[nobody], &[]), impossible);
}

#[test]
fn a_plan_that_goes_on_is_left_alone_and_one_that_cannot_is_made_anew() {
    let sites = [site(1, 900), site(2, 900), site(3, 900)];
    let check = |what: &str, wish: &Wish, held: &[u64], state: State| {
        assert_eq!(found(wish, &sites, held), Finding { state, step: None }, "{what}");
    };
    check("nobody has it yet", &planned(1, &[1, 2]), &[], State::UnderWay);
    check("one has", &resolved(planned(1, &[1, 2])), &[1], State::UnderWay);
    check("all have", &resolved(planned(1, &[1, 2])), &[1, 2], State::Held);
    let told = failed(resolved(planned(1, &[1, 2])), &[(2, ErrorCode::DiskFull)]);
    check("who has it has not failed", &told, &[1, 2], State::Held);

    let dead = [Site { health: Health::Dead, ..site(1, 900) }, site(2, 900), site(3, 900)];
    let step = found(&planned(1, &[1, 2]), &dead, &[]).step.expect("another plan");
    assert_ne!(step.ingester, NodeId(1));
    let full = failed(planned(1, &[1, 2]), &[(1, ErrorCode::DiskFull)]);
    let step = found(&full, &sites, &[]).step.expect("another plan");
    assert_ne!(step.ingester, NodeId(1));
}

#[test]
fn where_nobody_else_can_a_failed_wish_is_told_as_such() {
    let all = failed(planned(1, &[1, 2]), &[(1, ErrorCode::DiskFull), (2, ErrorCode::DiskFull)]);
    let sites = [site(1, 900), site(2, 900)];
    assert_eq!(found(&all, &sites, &[]), Finding { state: State::Failed, step: None });
}

#[test]
fn who_has_the_most_of_a_model_takes_the_place_of_who_brought_it() {
    let begun = resolved(planned(1, &[2, 3]));
    let dead = Site { health: Health::Dead, ..site(1, 900) };
    let with = |permille: &[(u64, u16)]| {
        let permille = permille.iter().map(|(node, permille)| (NodeId(*node), *permille)).collect();
        let sites = Sites::of(vec![dead.clone(), site(2, 900), site(3, 100)]).with_progress(&permille);
        examine(&begun, &sites, &[]).step.map(|step| (step.ingester.0, step.targets))
    };
    assert_eq!(with(&[]), Some((2, nodes(&[2, 3]))), "nobody said how far it is");
    assert_eq!(with(&[(2, 300), (3, 301)]), Some((3, nodes(&[2, 3]))));
    assert_eq!(with(&[(3, 0)]), Some((3, nodes(&[2, 3]))), "what is not known is the least");
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
    let sites = Sites::of(vec![site(1, 900), site(2, 900)]);
    let start = Instant::now();
    let state_at = |book: &mut Book, view: &MemView, seconds: u64| {
        book.look(view, &sites, start + Duration::from_secs(seconds)).expect("readable");
        book.known[&name().key()].state
    };
    assert_eq!(state_at(&mut book, &view, 0), State::Held);
    view.write(&[Mutation::Delete(at(2))]);
    assert_eq!(state_at(&mut book, &view, 1), State::Held, "not looked at");
    assert_eq!(state_at(&mut book, &view, 5), State::UnderWay);
    view.write(&[held(2)]);
    assert_eq!(state_at(&mut book, &view, 6), State::Held, "what is not done is looked at each time");
    view.write(&[put(&Wish { round: 8, ..asked(2) })]);
    let due = book.look(&view, &sites, start + Duration::from_secs(7)).expect("readable");
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 8, .. }]), "{due:?}");
    view.write(&[Mutation::Delete(Key::Wish(name().key()))]);
    assert_eq!(book.look(&view, &sites, start + Duration::from_secs(8)), Ok(vec![]));
    assert!(book.known.is_empty(), "what is forgotten is not counted");
}

#[test]
fn a_plan_that_was_refused_is_left_alone_for_a_while_and_a_new_round_is_not() {
    let put = |wish: &Wish| Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish.clone())));
    let (mut view, mut book) = (MemView::default(), Book::default());
    view.write(&[put(&asked(1))]);
    let sites = Sites::of(vec![site(1, 900)]);
    let start = Instant::now();
    let due = book.look(&view, &sites, start).expect("readable");
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 7, .. }]), "{due:?}");
    book.leave_alone(&due[0], start);
    assert_eq!(book.look(&view, &sites, start + REFUSED_FOR / 2), Ok(vec![]));
    assert_eq!(book.look(&view, &sites, start + REFUSED_FOR), Ok(due.clone()));
    book.leave_alone(&due[0], start + REFUSED_FOR);
    view.write(&[put(&Wish { round: 8, ..asked(1) })]);
    let due = book.look(&view, &sites, start + REFUSED_FOR).expect("readable");
    assert!(matches!(due.as_slice(), [Command::PlanPull { round: 8, .. }]), "{due:?}");
}

#[tokio::test]
async fn the_leader_plans_a_wish_when_a_node_can_have_the_model() {
    let world = World::start(CLUSTER_VERSION).await;
    let (metadata, scheduler) = (world.metadata.clone(), world.scheduler.clone());
    let planner = Planner { metadata, scheduler, transfer: None, metrics: transfer::Metrics::default() };
    world.tasks.spawn(follow(planner, world.stop.clone()));
    let ask = Command::AskModel {
        name: name(),
        replicas: Replicas::Count(1),
        insecure: false,
        want: Default::default(),
        declared: false,
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
