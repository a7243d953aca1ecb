//! Whole imports beside runtimes in memory.

use std::collections::BTreeMap;

use super::leg::Target;
use super::mem::MemStore;
use super::runtime_side::{self, Orders};
use super::*;

const FILE: &[u8] = b"GGUF and more";
const SHA256: Digest = Digest([9; 32]);
const OLD: Digest = Digest([2; 32]);
const ID: &str = "00112233445566ff";

fn asked(replace: bool) -> Wanted {
    let names = Names::new(ID, &"demo".parse().expect("a name")).expect("room");
    Wanted { names, sha256: SHA256, size_bytes: FILE.len() as u64, replace }
}

fn upload(chunks: &[&'static [u8]]) -> Upload {
    let part = |data| Some(v1::import_model_request::Part::Data(Bytes::from_static(data)));
    let chunks: Vec<_> = chunks.iter().map(|data| Ok(v1::ImportModelRequest { part: part(data) })).collect();
    futures::stream::iter(chunks).boxed()
}

async fn take_part(store: MemStore, orders: Orders) -> mpsc::Receiver<Result<v1::ImportEvent, Status>> {
    let (events, receiver) = mpsc::channel(16);
    runtime_side::take_part(&store, orders, events).await;
    receiver
}

/// An import to these runtimes; `upload` is what the administrator sends.
async fn import_to(stores: &[&MemStore], wanted: &Wanted, upload: Upload) -> Outcome {
    let tasks = TaskTracker::new();
    let leg = |(at, store): (usize, &&MemStore)| {
        let target = Target { id: NodeId(at as u64), name: format!("n{at}") };
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        let head = futures::stream::iter([order(Order::Header(wanted.header()))]);
        let orders = head.chain(ReceiverStream::new(orders)).map(Ok).boxed();
        let (events, receiver) = mpsc::channel(4);
        let store = MemStore::clone(store);
        tasks.spawn(async move { runtime_side::take_part(&store, orders, events).await });
        Leg::new(target, sender, ReceiverStream::new(receiver).boxed())
    };
    let legs = stores.iter().enumerate().map(leg).collect();
    let outcome = import(wanted, legs, upload, Arc::default()).await;
    tasks.close();
    tasks.wait().await;
    outcome
}

fn code(outcome: Outcome) -> ErrorCode {
    outcome.expect_err("refused").code
}

fn only(name: &str, digest: Digest) -> BTreeMap<ModelName, Digest> {
    BTreeMap::from([(name.parse().expect("a name"), digest)])
}

#[tokio::test]
async fn every_target_gets_the_model_and_nothing_else_stays() {
    let (one, two) = (MemStore::default(), MemStore::with(&[("other", OLD)]));
    let copies = import_to(&[&one, &two], &asked(false), upload(&[FILE])).await.expect("imported");
    assert_eq!(copies.iter().map(|copy| copy.node_name.as_str()).collect::<Vec<_>>(), ["n0", "n1"]);
    let made = one.made_of(SHA256);
    assert_eq!(one.models(), only("demo", made));
    assert_eq!(two.models().len(), 2);
    // Once more changes nothing, needs no bytes and no --replace.
    import_to(&[&one, &two], &asked(false), upload(&[])).await.expect("there already");
    assert_eq!(one.models(), only("demo", made));
}

#[tokio::test]
async fn another_model_of_the_name_is_replaced_only_when_told_to() {
    let (one, two) = (MemStore::default(), MemStore::with(&[("Demo", OLD)]));
    let before = two.models();
    let refused = import_to(&[&one, &two], &asked(false), upload(&[FILE])).await;
    assert_eq!(code(refused), ErrorCode::PreconditionFailed);
    assert_eq!((one.models(), two.models()), (BTreeMap::new(), before));
    import_to(&[&one, &two], &asked(true), upload(&[FILE])).await.expect("replaced");
    assert_eq!(two.models(), only("demo", two.made_of(SHA256)));
}

#[tokio::test]
async fn runtimes_that_disagree_keep_what_they_had() {
    let (one, two) = (MemStore::with(&[("demo", OLD)]), MemStore::default().salted(1));
    let refused = import_to(&[&one, &two], &asked(true), upload(&[FILE])).await;
    assert_eq!(code(refused), ErrorCode::DigestConflict);
    assert_eq!((one.models(), two.models()), (only("demo", OLD), BTreeMap::new()));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let store = MemStore::with(&[("demo", OLD)]);
    let broken = upload(&[FILE]).chain(futures::stream::iter([Err(Status::aborted("gone"))])).boxed();
    assert_eq!(code(import_to(&[&store], &asked(true), broken).await), ErrorCode::BadRequest);
    assert_eq!(store.models(), only("demo", OLD));
    assert_eq!(code(import_to(&[&store], &asked(true), upload(&[&FILE[1..]])).await), ErrorCode::BadRequest);
    assert_eq!(store.models(), only("demo", OLD));
}

#[tokio::test]
async fn a_failure_of_any_change_on_one_node_is_undone_on_all() {
    let before = |held: bool| if held { MemStore::with(&[("demo", OLD)]) } else { MemStore::default() };
    for held in [false, true] {
        let mut whole = 0;
        for working in 0..12 {
            let (one, two) = (before(held), before(held).fail_after(working));
            let outcome = import_to(&[&one, &two], &asked(true), upload(&[FILE])).await;
            // What one failure at the very end leaves is swept.
            runtime_side::undo(&two, None).await.expect("the runtime works again");
            let (old, new) = (before(held).models(), only("demo", one.made_of(SHA256)));
            let expected = match outcome {
                Ok(_) => (new.clone(), new),
                // Only the last step is one for each node; the error says so.
                Err(error) if error.code == ErrorCode::OutcomeUnknown => (new, old),
                Err(_) => (old.clone(), old),
            };
            whole += usize::from(expected.0 == expected.1 && expected.1.contains_key(&asked(true).names.target));
            assert_eq!((one.models(), two.models()), expected, "held {held}, the change after {working} fails");
        }
        assert!(whole > 0);
    }
}

#[tokio::test]
async fn a_driver_that_vanishes_makes_the_target_undo_its_part() {
    let orders = [
        Order::Header(asked(true).header()),
        Order::Data(Bytes::from_static(FILE)),
        Order::Create(v1::ImportCreate {}),
        Order::Publish(v1::ImportPublish {}),
        Order::Finish(v1::ImportFinish {}),
    ];
    for held in [None, Some(OLD)] {
        let before: Vec<(&str, Digest)> = held.map(|digest| ("demo", digest)).into_iter().collect();
        for until in 0..=orders.len() {
            let store = MemStore::with(&before);
            let sent: Vec<_> = orders[..until].iter().map(|part| Ok(order(part.clone()))).collect();
            let mut events = take_part(store.clone(), futures::stream::iter(sent).boxed()).await;
            let mut last = None;
            while let Some(event) = events.recv().await {
                last = Some(event);
            }
            let finished = until == orders.len();
            assert_eq!(last.expect("an event").is_ok(), finished);
            let expected =
                if finished { only("demo", store.made_of(SHA256)) } else { MemStore::with(&before).models() };
            assert_eq!(store.models(), expected, "{held:?} after {until} orders");
        }
    }
}
