//! openraft's own store suite over the real store, and what a node must not apply.

use std::io;
use std::sync::Arc;

use openraft::StorageError;
use openraft::errors::ErrorSource;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::{Key, View};
use ollamax_store as store;
use ollamax_types::{Clock, NodeId, RequestId, Timestamp};

use super::held::Held;
use super::log::LogStore;
use super::state::{Listeners, Machine};
use super::{Entry, Payload, Sealed, Types, Vote, log_id};
use crate::alone::{Alone, CLUSTER, INCARNATION, init};
use crate::envelope;
use crate::feed::Feeds;
use crate::integrity::Integrity;
use crate::logtime::Stamper;
use crate::metrics::Metrics;

/// Everything that one node's disk holds; the folder goes last.
struct Disk {
    store: store::Store,
    log: LogStore,
    machine: Machine,
    stamper: Arc<Stamper>,
    integrity: Integrity,
}

fn open(dir: &std::path::Path, purge_only_flushed: bool) -> io::Result<Disk> {
    let identity = store::StoreIdentity { cluster: CLUSTER, node: NodeId(1), incarnation: INCARNATION };
    let config = store::Config { purge_only_flushed, ..store::Config::default() };
    let store = store::Store::open(dir, Some(identity), config).map_err(io::Error::other)?;
    let stamper = Arc::new(Stamper::new(Clock::manual(Timestamp(1_000))));
    let log = LogStore::new(store.log(), stamper.clone(), 1 << 20);
    let (changes, feeds, metrics) = (watch::channel(0).0, Feeds::default(), Metrics::new());
    let integrity = Integrity::default();
    let listeners = Listeners { stamper: stamper.clone(), changes, feeds, integrity: integrity.clone(), metrics };
    let machine = Machine::open(&store, Held::default(), listeners)?;
    log.observe_tail(store.state().applied().map(|meta| meta.index))?;
    Ok(Disk { store, log, machine, stamper, integrity })
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let failed =
            |error: io::Error| StorageError::read(<Types as openraft::RaftTypeConfig>::ErrorSource::from_error(&error));
        let dir = tempfile::tempdir().map_err(failed)?;
        let disk = open(dir.path(), false).map_err(failed)?;
        Ok((dir, disk.log, disk.machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_suite_passes_on_the_real_store() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

fn entry(index: u64, log_time: u64, command: Command) -> Entry {
    let entry = ollamax_core::catalog::Entry {
        least_version: 1,
        log_time: Timestamp(log_time),
        request: RequestId::default(),
        principal: "admin".into(),
        namespace: String::new(),
        session: None,
        fence_term: None,
        once: None,
        command,
    };
    Entry { log_id: log_id(1, index), payload: Payload::Normal(Sealed(envelope::encode(&entry))) }
}

fn setting(index: u64, log_time: u64) -> Entry {
    entry(index, log_time, Command::SetSetting { key: format!("k{index}"), value: vec![1] })
}

async fn apply(machine: &mut Machine, entries: Vec<Entry>) -> io::Result<()> {
    machine.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

#[tokio::test]
async fn an_entry_that_is_not_understood_halts_and_leaves_its_batch_unwritten() {
    let dir = tempfile::tempdir().expect("folder");
    let mut disk = open(dir.path(), true).expect("opens");
    apply(&mut disk.machine, vec![entry(0, 1, init())]).await.expect("applies");

    let unknown = Entry { log_id: log_id(1, 2), payload: Payload::Normal(Sealed(bytes::Bytes::from_static(&[8, 1]))) };
    let error = apply(&mut disk.machine, vec![setting(1, 2), unknown]).await.expect_err("halts");
    assert!(error.to_string().contains("apply entry 2"), "{error}");
    assert_eq!(disk.store.state().applied().map(|meta| meta.index), Some(0));
    assert_eq!(disk.store.state().view().get(&Key::Setting("k1".into())), Ok(None));
}

#[tokio::test]
async fn the_same_log_gives_the_same_state_in_any_batching() {
    let log: Vec<Entry> =
        std::iter::once(entry(0, 1, init())).chain((1..700).map(|index| setting(index, index))).collect();
    let mut hashes = Vec::new();
    for size in [1, 7, 700] {
        let dir = tempfile::tempdir().expect("folder");
        let mut disk = open(dir.path(), true).expect("opens");
        for chunk in log.chunks(size) {
            apply(&mut disk.machine, chunk.to_vec()).await.expect("applies");
        }
        let (applied, hash) = disk.store.state().applied_and_hash();
        hashes.push((applied.map(|meta| meta.index), hash));
    }
    assert_eq!(hashes[0].0, Some(699));
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[tokio::test]
async fn every_node_notes_the_hash_at_a_checkpoint_however_its_batches_were_cut() {
    let log: Vec<Entry> =
        std::iter::once(entry(0, 1, init())).chain((1..1_100).map(|index| setting(index, index))).collect();
    let mut noted = Vec::new();
    for size in [7, 1_100] {
        let dir = tempfile::tempdir().expect("folder");
        let mut disk = open(dir.path(), true).expect("opens");
        for chunk in log.chunks(size) {
            apply(&mut disk.machine, chunk.to_vec()).await.expect("applies");
        }
        noted.push(disk.integrity.marks(None));
    }
    assert_eq!(noted[0].iter().map(|mark| mark.index).collect::<Vec<_>>(), [1_024]);
    assert_eq!(noted[0], noted[1]);
}

#[tokio::test]
async fn log_time_goes_on_from_the_last_entry_in_the_log_after_a_restart() {
    let dir = tempfile::tempdir().expect("folder");
    {
        let mut disk = open(dir.path(), true).expect("opens");
        disk.log.save_vote(&Vote::new_committed(1, 1)).await.expect("votes");
        disk.log.blocking_append(vec![entry(0, 50_000, init()), setting(1, 90_000)]).await.expect("appends");
        disk.store.close().expect("closes");
    }
    let disk = open(dir.path(), true).expect("opens again");
    // Wall time says 1 s; the log has seen 90 s.
    assert!(disk.stamper.stamp() >= Timestamp(90_000));
}

#[tokio::test]
async fn entries_for_a_follower_are_cut_by_bytes_but_never_to_none() {
    use openraft::RaftLogReader;
    let dir = tempfile::tempdir().expect("folder");
    let mut disk = open(dir.path(), true).expect("opens");
    let large = |index| entry(index, index, Command::SetSetting { key: "k".into(), value: vec![7; 600 << 10] });
    disk.log.blocking_append((0..4).map(large).collect::<Vec<_>>()).await.expect("appends");
    let mut reader = disk.log.get_log_reader().await;
    let cut = reader.limited_get_log_entries(0, 4).await.expect("reads");
    assert!((1..=2).contains(&cut.len()), "{}", cut.len());
    assert_eq!(reader.try_get_log_entries(0..4).await.expect("reads").len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_meets_an_unknown_command_says_why_it_must_stop() {
    let alone = Alone::cluster_of_one().await;
    let handle = &alone.handle;
    let unknown = Sealed(bytes::Bytes::from_static(&[8, 1, 16, 1]));
    handle.0.raft.client_write_ff(unknown, None).await.expect("the log takes any bytes");
    let (code, reason) = handle.fatal().await;
    assert!(reason.contains("a command that this release does not know"), "{reason}");
    assert_eq!((handle.failure(), handle.store_failure()), (Some((code, reason)), None));
    assert!(handle.propose(RequestId::default(), "test", init()).await.is_err());
    alone.close().await;
}
