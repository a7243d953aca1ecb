//! Snapshots that break off on their way to a new member: what it has already is not sent again.

use ollamax_metadata::Config;
use ollamax_metadata::mem::Link;
use ollamax_types::{NodeId, Role};

use crate::world::{World, eventually, setting};

/// Messages of a snapshot that arrive before the link breaks.
const ARRIVE: usize = 24;
/// Values in the state; four fill a message.
const VALUES: usize = 120;

/// What happens between the break and the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// The leader's state goes on.
    StateGoesOn,
    /// The same, and the receiver starts anew.
    ReceiverRestarts,
    /// The leader's log drops what would lead on from the snapshot.
    LogIsPurged,
}

/// A leader whose log does not reach back to the beginning of its state.
async fn leader() -> World {
    let mut world = World::new(Config { snapshot_every: 50, keep_log: 20, ..Config::default() });
    world.store.snapshot_chunk_bytes = 128 << 10;
    let world = world.with_first().await;
    let value = "x".repeat(30_000);
    for number in 0..VALUES {
        world.propose(1, setting(&format!("value/{number:03}"), &value)).await;
    }
    world.wait(1, "its log is purged", |status| status.log_first_index > 1).await;
    world
}

/// Breaks the first snapshot of node 2 off, and gives the messages of each that it was sent until it had the state.
async fn sent(meanwhile: Meanwhile) -> Vec<usize> {
    let mut world = leader().await;
    let (leader, joiner) = (NodeId(1), NodeId(2));
    world.network.break_snapshot(leader, joiner, ARRIVE);
    world.join(2, Role::Learner).await;
    world.wait(1, "the link breaks", |_| world.network.link(leader, joiner) == Link::Cut).await;
    assert_eq!(world.network.snapshots_sent(joiner), [ARRIVE], "{meanwhile:?}");

    let broke_at = world.propose(1, setting("after", "the break")).await.revision;
    match meanwhile {
        Meanwhile::StateGoesOn => {}
        Meanwhile::ReceiverRestarts => {
            world.close(2).await;
            world.open(2).await;
        }
        Meanwhile::LogIsPurged => {
            for number in 0..100 {
                world.propose(1, setting("later", &number.to_string())).await;
            }
            world.wait(1, "the log leads on from later", |status| status.log_first_index > broke_at + 1).await;
        }
    }
    world.network.heal();
    let applied = world.propose(1, setting("last", "change")).await.revision;
    world.wait(2, "the state is there", |status| status.applied >= applied).await;
    let (one, two) = eventually("both stand at the same entry", || {
        let (one, two) = (world.handle(1).status(), world.handle(2).status());
        let equal = (one.applied == two.applied).then_some((one.state_hash, two.state_hash));
        async move { equal.ok_or((one.applied, two.applied)) }
    })
    .await;
    assert_eq!(one, two, "{meanwhile:?}: the states differ");
    for key in ["value/000", "value/119", "after", "last"] {
        assert_eq!(world.read(2, key), world.read(1, key), "{meanwhile:?}: {key}");
    }
    world.network.snapshots_sent(joiner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_broke_off_goes_on_though_the_leaders_state_has_moved() {
    for meanwhile in [Meanwhile::StateGoesOn, Meanwhile::ReceiverRestarts] {
        let sent = sent(meanwhile).await;
        // Nine messages are a file of the receiver, and two files were whole when the link broke.
        assert!(sent[1] + 8 <= VALUES / 4, "{meanwhile:?}: {sent:?} messages");
        assert_eq!(sent.len(), 2, "{meanwhile:?}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_the_log_does_not_lead_on_from_is_not_gone_on_with() {
    let sent = sent(Meanwhile::LogIsPurged).await;
    assert!(sent[1] >= VALUES / 4, "the later state is sent whole: {sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_of_a_snapshot_goes_when_the_disk_is_full() {
    let mut world = leader().await;
    let (leader, joiner) = (NodeId(1), NodeId(2));
    world.network.break_snapshot(leader, joiner, ARRIVE);
    world.join(2, Role::Learner).await;
    world.wait(1, "the link breaks", |_| world.network.link(leader, joiner) == Link::Cut).await;
    world.close(2).await;
    let incoming = world.dir(2).join("raft").join("incoming");
    assert!(incoming.join("1.sst").exists(), "two files were whole when the link broke");
    // No disk has as much room as this node wants to keep.
    world.reserves.insert(2, u64::MAX);
    world.open(2).await;
    world.wait(2, "it gives the room back", |_| !incoming.exists()).await;
    world.reserves.remove(&2);
    world.close(2).await;
    world.open(2).await;
    world.network.heal();
    let applied = world.propose(1, setting("last", "change")).await.revision;
    world.wait(2, "the state is there once there is room", |status| status.applied >= applied).await;
    assert_eq!(world.read(2, "value/119"), world.read(1, "value/119"));
}
