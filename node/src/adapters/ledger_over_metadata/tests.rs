//! What follows from the record is a table; what is told is told to a cluster of one.

use ollamax_core::catalog::mem::{self, MemView};
use ollamax_core::catalog::{CLUSTER_VERSION, Cordon, Failure, Key, Location, Model, Mutation, Pin, Plan, Record};
use ollamax_scheduler::RuntimeReport;
use ollamax_types::{ModelRecord, SpareRule};

use super::*;
use crate::cluster_of_one::{NODE, World};

const ME: NodeId = NodeId(1);

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A wish whose round 7 is planned so.
fn wish(ingester: u64, targets: &[u64], version: Option<u8>) -> Wish {
    let plan =
        Plan { ingester: NodeId(ingester), targets: nodes(targets), made_at: Timestamp(1), kind: Default::default() };
    Wish { insecure: true, digest: version.map(|byte| Digest([byte; 32])), plan: Some(plan), ..mem::wish(name()) }
}

/// A copy of this version on each of these nodes.
fn copies(held: &[(u64, u8)]) -> Vec<Location> {
    let copy = |(node, version): &(u64, u8)| Location {
        node: NodeId(*node),
        model: ModelRecord {
            name: name(),
            digest: Digest([*version; 32]),
            weights: Digest([*version; 32]),
            size_bytes: 1,
            modified_at: Timestamp(u64::from(*version)),
            details_json: "{}".to_owned(),
            capabilities: vec![],
        },
    };
    held.iter().map(copy).collect()
}

/// Duty, place among the receivers, others.
type Todo<'a> = (Duty, (u32, u32), &'a [u64]);

#[test]
fn what_a_node_has_to_do_follows_from_the_plan_and_from_who_has_the_version() {
    use Duty::{Ingest, Receive};
    let check = |what: &str, wish: &Wish, held: &[(u64, u8)], expected: Option<Todo<'_>>| {
        let found = assignment(ME, wish, &holders(wish.digest, None, &copies(held)));
        let expected = expected.map(|(duty, (rank, of), others)| Assignment {
            name: name(),
            round: 7,
            insecure: true,
            digest: wish.digest,
            duty,
            rank,
            of,
            ingester: wish.plan.as_ref().expect("planned").ingester,
            others: nodes(others),
            in_background: false,
            disk_free_bytes_min: 0,
        });
        assert_eq!(found, expected, "{what}");
    };
    check("nothing is resolved", &wish(1, &[1, 2], None), &[], Some((Ingest, (0, 1), &[2])));
    check("a receiver", &wish(2, &[2, 3, 1], None), &[], Some((Receive, (1, 2), &[2, 3])));
    check("its place is that in the plan", &wish(2, &[2, 1, 3], None), &[], Some((Receive, (0, 2), &[2, 3])));
    check("others take part", &wish(2, &[2, 3], None), &[(1, 1)], None);
    check("the ingester need be no target", &wish(1, &[2], None), &[(1, 1)], Some((Ingest, (0, 1), &[2])));
    check("an ingester beside the targets", &wish(3, &[1], None), &[(3, 1)], Some((Receive, (0, 1), &[3])));
    check("who has what is served", &wish(1, &[1], None), &[(4, 1), (5, 2)], Some((Ingest, (0, 1), &[5])));
    check("who has the version", &wish(2, &[1, 2], Some(1)), &[(4, 1), (5, 2)], Some((Receive, (0, 1), &[2, 4])));
    check("another version is none", &wish(2, &[1, 2], Some(1)), &[(1, 2)], Some((Receive, (0, 1), &[2])));
    check("it is there", &wish(2, &[1, 2], Some(1)), &[(1, 1)], None);
    check("the others lack it", &wish(1, &[1, 2], Some(1)), &[(1, 1)], Some((Ingest, (0, 1), &[2])));
    check("all have it", &wish(1, &[1, 2], Some(1)), &[(1, 1), (2, 1)], None);
    check("all targets have it", &wish(1, &[2], Some(1)), &[(2, 1)], None);
    let unplanned = Wish { plan: None, ..wish(1, &[1], None) };
    check("nobody has planned", &unplanned, &[], None);
    let failure = Failure { code: ErrorCode::DiskFull, text: "full".to_owned(), at: Timestamp(2), by_hand: false };
    let failed = |ingester, node| Wish {
        failures: BTreeMap::from([(NodeId(node), failure.clone())]),
        ..wish(ingester, &[1, 2], Some(1))
    };
    check("it has failed", &failed(2, 1), &[], None);
    check("another has", &failed(2, 2), &[], Some((Receive, (0, 1), &[2])));
    let two_left = Wish { plan: wish(3, &[2, 1, 3], Some(1)).plan, ..failed(3, 2) };
    check("a stripe less", &two_left, &[], Some((Receive, (0, 1), &[2, 3])));
    check("it has it whatever it told", &failed(1, 1), &[(1, 1)], Some((Ingest, (0, 1), &[2])));
}

#[test]
fn who_makes_a_copy_that_nobody_asked_for_makes_it_in_the_background() {
    for (kind, expected) in
        [(PlanKind::Asked, false), (PlanKind::Repair, true), (PlanKind::Rebalance, true), (PlanKind::Emptying, true)]
    {
        let wish = wish(2, &[2, 1], Some(1));
        let plan = wish.plan.clone().map(|plan| Plan { kind, ..plan });
        let found = assignment(ME, &Wish { plan, ..wish }, &[NodeId(2)].into()).expect("it lacks the copy");
        assert_eq!(found.in_background, expected, "{kind:?}");
    }
}

#[test]
fn who_makes_a_copy_keeps_free_of_its_disk_what_the_wish_says() {
    let want = Want { disk_free_bytes_min: 5, ..Want::default() };
    let found = assignment(ME, &Wish { want, ..wish(2, &[2, 1], Some(1)) }, &[NodeId(2)].into());
    assert_eq!(found.map(|found| found.disk_free_bytes_min), Some(5));
}

#[test]
fn what_a_proposal_ends_with_keeps_its_code() {
    let failed = |code, text: &str| LedgerError::Failed { code, text: text.to_owned() };
    let refusal = || Refusal::RoundPassed { name: name(), round: 7 };
    let rows = [
        (
            ProposeError::NoQuorum("nobody leads".to_owned()),
            LedgerError::NoQuorum("no quorum: nobody leads".to_owned()),
        ),
        (ProposeError::Refused(refusal()), LedgerError::Refused(refusal())),
        (
            ProposeError::Refused(Refusal::VersionTooLow { needed: 4, actual: 3 }),
            LedgerError::NeedsVersion { needed: 4, actual: 3 },
        ),
        (
            ProposeError::OutcomeUnknown("gone".to_owned()),
            failed(ErrorCode::OutcomeUnknown, "the outcome is not known: gone"),
        ),
        (
            ProposeError::Leader { node: ME, code: ErrorCode::QuotaExceeded, message: "too many".to_owned() },
            failed(ErrorCode::QuotaExceeded, "node 1 refused: too many"),
        ),
    ];
    for (error, expected) in rows {
        assert_eq!(ledger_error(error), expected);
    }
}

#[test]
fn whoever_asks_is_one_word_in_the_log() {
    let check = |asked_by: &str, expected: &str| assert_eq!(principal_of(ME, asked_by), expected, "{asked_by:?}");
    check("admin", "admin");
    check("the  administrator", "the-administrator");
    check("", "node/1");
    check("node/2", "node/1");
    check("a\u{7}b", "node/1");
    check(&"x".repeat(IDENTIFIER_BYTES_MAX + 1), "node/1");
}

fn asked() -> Ask {
    let (replicas, asked_by) = (Replicas::Nodes(vec![NODE]), "admin".to_owned());
    Ask { name: name(), replicas, is_said: true, want: None, insecure: false, version: None, asked_by, once: None }
}

#[test]
fn a_member_that_is_never_heard_keeps_nobody_waiting() {
    let alive = Site {
        node: NODE,
        health: Health::Alive,
        drained: false,
        gateway: false,
        runtime_up: true,
        disk_free_bytes: None,
        holds: false,
        is_self: true,
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
    };
    let silent = Site { node: NodeId(2), health: Health::Unknown, runtime_up: false, is_self: false, ..alive.clone() };
    let mut sites = Sites::of(vec![alive, silent]);
    sites.are_clear = false;
    let both = Ask { replicas: Replicas::Nodes(nodes(&[1, 2])), ..asked() };
    assert_eq!(judge(&both, &sites, &BTreeSet::new(), HEAR_TIMEOUT / 2), Judgement::NotKnownYet, "it may be heard yet");
    let impossible = |ask: &Ask| {
        let (replicas, why) = (ask.replicas.clone(), vec![(NodeId(2), Unfit::NoRuntime)]);
        Judgement::Impossible(LedgerError::Impossible { replicas, fits: 1, of: 2, why })
    };
    assert_eq!(judge(&both, &sites, &BTreeSet::new(), HEAR_TIMEOUT), impossible(&both));
    // Two that somebody said are two; where nobody says a number, one is better than none.
    let two = Ask { replicas: Replicas::Count(2), ..asked() };
    assert_eq!(judge(&two, &sites, &BTreeSet::new(), HEAR_TIMEOUT), impossible(&two));
    assert_eq!(judge(&Ask { is_said: false, ..two }, &sites, &BTreeSet::new(), HEAR_TIMEOUT), Judgement::Fits);
    let one = Ask { replicas: Replicas::Count(1), ..asked() };
    assert_eq!(judge(&one, &sites, &BTreeSet::new(), HEAR_TIMEOUT), Judgement::Fits);
}

#[test]
fn who_says_nothing_of_places_asks_for_what_is_on_record() {
    let check = |what: &str, known: Option<Wish>, replicas: Replicas, is_said: bool, goes_on: bool| {
        let mut view = MemView::default();
        if let Some(wish) = known {
            view.write(&[Mutation::Put(Key::Wish(name().key()), Record::Wish(Box::new(wish)))]);
        }
        let ask = Ask { replicas: Replicas::Count(2), is_said: false, want: Some(Want::default()), ..asked() };
        let expected = Ask { replicas, is_said, ..ask.clone() };
        assert_eq!(on_record(&view, &ask), Ok((expected, goes_on)), "{what}");
    };
    let three = || Wish { replicas: Replicas::Count(3), ..wish(1, &[1, 2], Some(1)) };
    check("nothing is", None, Replicas::Count(2), false, false);
    check("three are", Some(three()), Replicas::Count(3), false, true);
    check("a file says so", Some(Wish { declared: true, ..three() }), Replicas::Count(3), true, true);
    check("nobody has planned", Some(Wish { plan: None, ..three() }), Replicas::Count(3), false, false);
    let want = Want { avoid: [NodeId(3)].into(), ..Want::default() };
    check("other nodes come into question", Some(Wish { want, ..three() }), Replicas::Count(3), false, false);
    let failure = Failure { code: ErrorCode::DiskFull, text: "full".to_owned(), at: Timestamp(2), by_hand: false };
    let failed = Wish { failures: BTreeMap::from([(NodeId(1), failure)]), ..three() };
    check("it came to nothing", Some(failed), Replicas::Count(2), false, false);
    let of_pinned = |version: u8| {
        let pin = Pin { digest: Digest([version; 32]), by: "admin".to_owned(), at: Timestamp(1) };
        let model = Model { pin: Some(pin), ..Model::new(name(), Timestamp(1)) };
        let mut view = MemView::default();
        view.write(&[
            Mutation::Put(Key::Model(name().key()), Record::Model(Box::new(model))),
            Mutation::Put(Key::Wish(name().key()), Record::Wish(Box::new(three()))),
        ]);
        on_record(&view, &Ask { is_said: false, want: Some(Want::default()), ..asked() }).map(|(_, goes_on)| goes_on)
    };
    assert_eq!((of_pinned(1), of_pinned(2)), (Ok(true), Ok(false)), "one that is pinned goes on with its version");
}

fn ledger_of(world: &World) -> LedgerOverMetadata {
    let (metadata, scheduler) = (world.metadata.clone(), world.scheduler.clone());
    LedgerOverMetadata::start(metadata, scheduler, &world.tasks, world.stop.clone())
}

#[tokio::test]
async fn a_cluster_of_an_older_version_is_told_apart_before_anything_else() {
    let world = World::start(3).await;
    let ledger = ledger_of(&world);
    let needs = LedgerError::NeedsVersion { needed: 4, actual: 3 };
    assert_eq!(ledger.ask(asked()).await, Err(needs.clone()));
    let blob = BlobSpec { sha256: Digest([1; 32]), size_bytes: 1 };
    assert_eq!(ledger.bind(vec![(blob, Root([2; 32]))]).await, Err(needs));
    assert!(ledger.assignments().borrow().is_empty());
    drop(ledger);
    world.finish().await;
}

#[tokio::test]
async fn a_version_that_is_asked_for_is_that_of_the_round_from_its_start() {
    let world = World::start(CLUSTER_VERSION).await;
    let ledger = ledger_of(&world);
    world.let_models_in(1 << 40);
    let before = ledger.ask(asked()).await.expect("asked");
    let version = AskedVersion { digest: Digest([9; 32]), size_bytes: 5 };
    let known = Ask { version: Some(version), ..asked() };
    let round = ledger.ask(known.clone()).await.expect("asked");
    assert!(round > before, "the one before would ask the registry");
    let wish = ledger.plan(&name()).expect("on record");
    assert_eq!((wish.round, wish.digest, wish.size_bytes), (round, Some(version.digest), 5));
    assert_eq!(ledger.ask(known).await, Ok(round), "it is the same");
    drop(ledger);
    world.finish().await;
}

#[tokio::test]
async fn a_question_without_a_word_of_places_joins_the_wish_that_is_on_record() {
    let world = World::start(CLUSTER_VERSION).await;
    let ledger = ledger_of(&world);
    world.let_models_in(1 << 40);
    let round = ledger.ask(asked()).await.expect("asked");
    let unsaid = Ask { replicas: Replicas::Count(2), is_said: false, ..asked() };
    assert_eq!(ledger.ask(unsaid).await, Ok(round));
    assert_eq!(ledger.plan(&name()).map(|wish| wish.replicas), Some(Replicas::Nodes(vec![NODE])));
    drop(ledger);
    world.finish().await;
}

#[tokio::test]
async fn a_question_with_a_key_is_asked_once_whatever_became_of_its_wish() {
    let world = World::start(CLUSTER_VERSION).await;
    let ledger = ledger_of(&world);
    world.let_models_in(1 << 40);
    let keyed = Ask { once: Some(OnceKey { key: [1; 32], digest: [2; 32] }), ..asked() };
    let round = ledger.ask(keyed.clone()).await.expect("asked");
    assert_eq!(ledger.forget(name()).await, Ok(true));
    // What was asked before is not judged again.
    world.scheduler.set_runtime(RuntimeReport::default());
    assert!(matches!(ledger.ask(asked()).await, Err(LedgerError::Impossible { .. })));
    assert_eq!(ledger.ask(keyed.clone()).await, Ok(round), "the answer of the first time");
    assert_eq!(ledger.plan(&name()), None, "and what somebody ended stays so");
    world.let_models_in(1 << 40);
    let other = ledger.ask(Ask { replicas: Replicas::Count(1), once: None, ..asked() }).await.expect("asked");
    assert_eq!(ledger.ask(keyed.clone()).await, Ok(round));
    assert_eq!(ledger.plan(&name()).map(|wish| (wish.round, wish.replicas)), Some((other, Replicas::Count(1))));
    let anew = Ask { once: Some(OnceKey { key: [3; 32], digest: [2; 32] }), ..keyed };
    assert!(ledger.ask(anew).await.expect("asked") > other, "another key is another question");
    drop(ledger);
    world.finish().await;
}

#[tokio::test]
async fn what_is_asked_and_told_is_on_record_and_what_has_to_be_done_follows_it() {
    let world = World::start(CLUSTER_VERSION).await;
    let ledger = ledger_of(&world);
    let impossible =
        |ask: &Ask, of, why| Err(LedgerError::Impossible { replicas: ask.replicas.clone(), fits: 0, of, why });
    assert_eq!(ledger.ask(asked()).await, impossible(&asked(), 1, vec![(NODE, Unfit::NoRuntime)]));
    let unknown = Ask { replicas: Replicas::Nodes(nodes(&[9, 1, 9])), ..asked() };
    let why = vec![(NODE, Unfit::NoRuntime), (NodeId(9), Unfit::Removed)];
    assert_eq!(ledger.ask(unknown.clone()).await, impossible(&unknown, 2, why));
    assert_eq!(ledger.plan(&name()), None, "nothing was asked");

    world.let_models_in(1 << 40);
    let round = ledger.ask(asked()).await.expect("asked");
    assert_eq!(ledger.ask(asked()).await, Ok(round), "it is the same");
    let recorded = ledger.plan(&name()).expect("on record");
    assert_eq!((recorded.round, recorded.asked_by.as_str()), (round, "node/1 for admin"));

    let mut assignments = ledger.assignments();
    assert!(assignments.borrow_and_update().is_empty(), "nobody has planned");
    world
        .change(Command::PlanPull {
            name: name(),
            round,
            ingester: NODE,
            targets: vec![NODE],
            kind: Default::default(),
        })
        .await;
    let todo = assignments.wait_for(|todo| !todo.is_empty()).await.expect("followed").to_vec();
    assert_eq!((todo[0].duty, todo[0].digest, todo[0].round), (Duty::Ingest, None, round));

    let version = Digest([9; 32]);
    ledger.resolve(name(), round, version, 5).await.expect("told");
    let todo =
        assignments.wait_for(|todo| todo.iter().any(|one| one.digest.is_some())).await.expect("followed").to_vec();
    assert_eq!(todo[0].digest, Some(version));
    let moved = Refusal::VersionMoved { name: name(), wanted: version, found: Digest([8; 32]) };
    let told = ledger.resolve(name(), round, Digest([8; 32]), 5).await;
    assert_eq!(told, Err(LedgerError::Refused(moved)));

    let many: Vec<(BlobSpec, Root)> = (0..=BIND_BLOBS_MAX)
        .map(|number| {
            let mut sha256 = [0; 32];
            sha256[..8].copy_from_slice(&(number as u64).to_be_bytes());
            (BlobSpec { sha256: Digest(sha256), size_bytes: 3 }, Root([4; 32]))
        })
        .collect();
    ledger.bind(many.clone()).await.expect("in batches");
    let last = many[BIND_BLOBS_MAX].0.sha256;
    assert_eq!(ledger.bound(last), Some(Bound { size_bytes: 3, root: Root([4; 32]) }));
    let applied = world.metadata.status().applied;
    ledger.bind(many.clone()).await.expect("known");
    assert_eq!(world.metadata.status().applied, applied, "what is on record is not told again");
    let other = ledger.bind(vec![(many[0].0, Root([5; 32]))]).await;
    assert_eq!(other, Err(LedgerError::Refused(Refusal::RootConflict { sha256: many[0].0.sha256 })));

    ledger.tell(name(), round, PullError::Cancelled).await.expect("told");
    assignments.wait_for(|todo| todo.is_empty()).await.expect("followed");
    let told = ledger.plan(&name()).expect("on record").failures.remove(&NODE).expect("a failure");
    assert_eq!((told.code, told.text.as_str()), (ErrorCode::PullCancelled, "the pull was cancelled"));
    assert_eq!(ledger.forget(name()).await, Ok(true));
    assert_eq!(ledger.forget(name()).await, Ok(false), "there is none any more");
    assert_eq!(ledger.plan(&name()), None);
    drop(ledger);
    world.finish().await;
}
