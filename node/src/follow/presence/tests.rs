//! What a node foresees is what `plan_moves` makes of the facts; here the facts are gathered in a cluster of one.

use ollamax_core::catalog::{Answer, CLUSTER_VERSION, Command, Replicas};
use ollamax_core::placement::{Move, Unfit};
use ollamax_scheduler::RuntimeReport;
use ollamax_types::{Digest, ModelRecord, Timestamp};

use super::*;
use crate::cluster_of_one::{NODE, World};

const VERSION: Digest = Digest([1; 32]);

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn record(digest: Digest) -> ModelRecord {
    ModelRecord {
        name: name(),
        digest,
        weights: digest,
        size_bytes: 50,
        modified_at: Timestamp(1),
        details_json: "{}".to_owned(),
        capabilities: vec![],
    }
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

/// A cluster of one that can hold models, and what it foresees.
async fn world() -> (World, Prospect) {
    let world = World::start(CLUSTER_VERSION).await;
    world.let_models_in(1 << 40);
    let prospect = Prospect::new(world.metadata.clone(), world.scheduler.clone());
    prospect.watch().expect("readable");
    (world, prospect)
}

#[tokio::test]
async fn the_leader_foresees_a_plan_and_everybody_what_is_missing() {
    let (world, prospect) = world().await;
    let asked = Foresight::default();
    assert_eq!(prospect.outlook(asked), Ok(Some(Outlook::default())), "nothing is wished");
    world.change(ask(Replicas::Count(1))).await;
    let outlook = prospect.outlook(asked).expect("readable").expect("it leads");
    assert!(matches!(outlook.moves.as_slice(), [Move::Plan { ingester: NODE, .. }]), "{outlook:?}");
    assert_eq!(prospect.shortfall(), Ok(Outlook::default()), "it is on its way for the first time");

    world.change(ask(Replicas::Count(3))).await;
    let outlook = prospect.outlook(asked).expect("readable").expect("it leads");
    assert_eq!((outlook.moves, outlook.impossible.len()), (vec![], 1), "there is one node");
    let told = prospect.shortfall().expect("readable");
    assert!(told.moves.is_empty() && told.impossible == outlook.impossible, "{told:?}");
    world.finish().await;
}

#[tokio::test]
async fn whose_runtime_does_not_answer_is_watched() {
    let (world, prospect) = world().await;
    let Answer::Wish { round } = world.change(ask(Replicas::Count(1))).await else { panic!("a wish") };
    let (ingester, targets) = (NODE, vec![NODE]);
    world.change(Command::PlanPull { name: name(), round, ingester, targets, kind: Default::default() }).await;
    let digest = VERSION;
    world.change(Command::ResolveWish { node: NODE, name: name(), round, digest, size_bytes: 50 }).await;
    let seen = || {
        prospect.watch().expect("readable");
        let at_once = Foresight { at_once: true, rebalance: false };
        prospect.outlook(at_once).expect("readable").expect("it leads")
    };
    assert_eq!(seen(), Outlook::default(), "it is on its way");
    world.scheduler.set_runtime(RuntimeReport::default());
    let why = vec![(NODE, Unfit::NoRuntime)];
    assert_eq!(seen().impossible, [(name(), why)], "nobody waits any more");
    world.finish().await;
}

#[tokio::test]
async fn a_standing_says_who_holds_the_version_and_who_is_about_to_drop_it() {
    let (world, _) = world().await;
    let told = |digest: Digest| {
        let (present, absent, removed) = (vec![record(digest)], vec![], vec![]);
        Command::ReportModels { node: NODE, present, absent, removed }
    };
    world.change(told(VERSION)).await;
    world.change(ask(Replicas::Count(1))).await;
    let now = |loaded: &[NodeId]| {
        let view = world.metadata.view();
        let wish = read::wish(&*view, &name()).expect("readable").expect("asked");
        standing(&*view, wish, &|_| loaded.to_vec()).expect("readable")
    };
    let found = now(&[NODE]);
    assert_eq!((found.holders, found.loaded_on), (BTreeSet::from([NODE]), BTreeSet::from([NODE])));
    assert!(found.dropping.is_empty() && !found.pinned);
    world.change(Command::PinModel { name: name(), digest: Some(VERSION) }).await;
    assert!(now(&[]).pinned);
    world.change(Command::PinModel { name: name(), digest: None }).await;
    let drop =
        Command::DropCopies { name: name(), nodes: vec![NODE], forget: false, force: true, unless_pinned: false };
    world.change(drop).await;
    let found = now(&[]);
    assert_eq!((found.dropping, found.pinned), (BTreeSet::from([NODE]), false));
    world.change(told(Digest([2; 32]))).await;
    assert!(now(&[]).dropping.is_empty(), "another version was not meant");
    world.finish().await;
}

#[test]
fn a_question_counts_beside_what_is_set() {
    let set = ReplicaKnobs::default();
    let over = |at_once, rebalance| Foresight { at_once, rebalance }.over(set);
    assert_eq!(over(false, false), set);
    assert_eq!(over(true, false), ReplicaKnobs { repair_after: Duration::ZERO, ..set });
    assert_eq!(over(false, true), ReplicaKnobs { rebalance: true, ..set });
    let on = ReplicaKnobs { rebalance: true, ..set };
    assert_eq!(Foresight::default().over(on), on);
}
