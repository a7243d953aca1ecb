//! Opens the store, starts consensus over it, and owns the loops beside it.
//!
//! Tasks in the given group: `autopilot` (logs a failed step and decides anew), `leader` (cannot fail), `stop` (hands
//! over, stops consensus, flushes). All end when `stop` fires; openraft's own tasks end within [`Handle::shutdown`].

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{SnapshotPolicy, StepDownPolicy};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::read;
use ollamax_store as store;
use ollamax_types::limits::PROPOSALS_IN_FLIGHT_BYTES_MAX;
use ollamax_types::{Clock, ClusterId};

use crate::autopilot;
use crate::config::Config;
use crate::error::OpenError;
use crate::feed::Feeds;
use crate::handle::{Contact, Handle, Identity, Inner};
use crate::integrity::Integrity;
use crate::logtime::Stamper;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::proposer::{self, Queue};
use crate::raft::held::Held;
use crate::raft::log::LogStore;
use crate::raft::network::{Network, Wiring};
use crate::raft::state::{Listeners, Machine};
use crate::raft::{Raft, Sealed};
use crate::releases::Releases;
use crate::serve::Offered;
use crate::session::OwnSession;
use crate::thread::Thread;

/// The version that every cluster has at least.
const OLDEST_VERSION: u32 = 1;

/// What consensus is made of.
pub struct Parts {
    /// Its numbers.
    pub config: Config,
    /// The store's numbers.
    pub store: store::Config,
    /// Who this node is.
    pub identity: Identity,
    /// The node's data directory; the store makes its own folder in it.
    pub dir: PathBuf,
    /// Wall time, towards which log time is drawn.
    pub clock: Clock,
    /// The way to other members.
    pub peers: Arc<dyn Peers>,
    /// The group in which its loops run.
    pub tasks: TaskTracker,
    /// Fires when the node stops.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("identity", &self.identity).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Consensus on one node.
#[derive(Debug)]
pub struct Service;

impl Service {
    /// Opens what is on disk and goes on from there. A directory without a log waits to be initialised, or to be
    /// found by a leader that has this node among its members.
    ///
    /// # Errors
    /// When the configuration is impossible, the store is damaged or another node's, or the log contradicts itself.
    pub async fn open(parts: Parts) -> Result<Handle, OpenError> {
        let problems = parts.config.validate();
        if !problems.is_empty() {
            return Err(OpenError::Config(problems));
        }
        let store = open_store(&parts).await?;
        let (log, state) = (store.log(), store.state());
        check_version(&state, parts.config.release())?;
        let metrics = Metrics::new();
        let stamper = Arc::new(Stamper::new(parts.clock.clone()));
        let (changes_in, changes) = watch::channel(0);
        let raft_error = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());

        let (feeds, releases, integrity) = (Feeds::default(), Releases::default(), Integrity::default());
        let listeners = Listeners {
            stamper: stamper.clone(),
            changes: changes_in,
            feeds: feeds.clone(),
            integrity: integrity.clone(),
            metrics: metrics.clone(),
        };
        let held = Held::default();
        let machine = Machine::open(&store, held.clone(), listeners);
        let machine = machine.map_err(|error| raft_error(&error))?;
        let bytes_max = usize::try_from(parts.config.append_bytes_max).unwrap_or(usize::MAX);
        let log_store = LogStore::new(log.clone(), stamper.clone(), bytes_max);
        log_store.observe_tail(state.applied().map(|meta| meta.index)).map_err(|error| raft_error(&error))?;
        let network = Network(Arc::new(Wiring {
            peers: parts.peers.clone(),
            cluster: parts.identity.cluster,
            node: parts.identity.node,
            append_deadline: parts.config.lease(),
            snapshot_idle: parts.config.snapshot_idle(),
            releases: releases.clone(),
            integrity: integrity.clone(),
            held: held.clone(),
            metrics: metrics.clone(),
        }));
        let config = raft_config(&parts.config, parts.identity.cluster).map_err(|error| raft_error(&error))?;
        let thread = Thread::start().map_err(|error| raft_error(&error))?;
        let raft = Raft::new(parts.identity.node.0, Arc::new(config), network, log_store, machine);
        let raft = thread.spawn(raft).await.map_err(|error| raft_error(&error))?;
        let raft = raft.map_err(|error| raft_error(&error))?;

        let queue = spawn_proposer(&thread, raft.clone(), stamper.clone());
        let handle = Handle(Arc::new(Inner {
            identity: parts.identity,
            config: parts.config,
            raft,
            _thread: thread,
            store,
            log,
            state,
            peers: parts.peers,
            stamper,
            queue,
            room: Arc::new(Semaphore::new(PROPOSALS_IN_FLIGHT_BYTES_MAX)),
            changes,
            feeds,
            releases,
            integrity,
            held,
            offered: Offered::default(),
            session: OwnSession::new(),
            version_seen: AtomicU32::new(OLDEST_VERSION),
            contact: Contact::new(),
            metrics,
            outlook: Mutex::new(None),
            stopped: AtomicBool::new(false),
            stopping: tokio::sync::Mutex::new(()),
        }));
        parts.tasks.spawn(autopilot::run(handle.clone(), parts.stop.clone()));
        parts.tasks.spawn(watch_leader(handle.clone(), parts.stop.clone()));
        let (stopping, stop) = (handle.clone(), parts.stop);
        parts.tasks.spawn(async move {
            stop.cancelled().await;
            stopping.shutdown().await;
        });
        Ok(handle)
    }
}

/// What takes changes into the log. It ends with the entrance that is given back, or with the thread. It cannot fail;
/// if it panicked, every change here would end with "consensus has stopped".
fn spawn_proposer(thread: &Thread, raft: Raft, stamper: Arc<Stamper>) -> Queue {
    let (queue, proposed) = Queue::new();
    let write = move |changes: Vec<Sealed>| {
        let raft = raft.clone();
        async move { raft.client_write_many(changes).await }
    };
    drop(thread.spawn(proposer::run(proposed, stamper, write)));
    queue
}

async fn open_store(parts: &Parts) -> Result<store::Store, OpenError> {
    let identity = store::StoreIdentity {
        cluster: parts.identity.cluster,
        node: parts.identity.node,
        incarnation: parts.identity.incarnation,
    };
    let (dir, config) = (parts.dir.clone(), parts.store.clone());
    let opened = tokio::task::spawn_blocking(move || store::Store::open(&dir, Some(identity), config)).await;
    Ok(opened.map_err(|error| OpenError::Raft(error.to_string()))??)
}

/// A state of a version that this node does not apply is refused before anything is served.
fn check_version(state: &store::State, own: u32) -> Result<(), OpenError> {
    let cluster = read::cluster(&state.view()).map_err(|fault| OpenError::Raft(fault.to_string()))?;
    match cluster.map(|cluster| cluster.version) {
        Some(version) if version > own => Err(OpenError::ClusterTooNew { version, own }),
        _ => Ok(()),
    }
}

/// openraft's numbers, from ours.
pub(crate) fn raft_config(ours: &Config, cluster: ClusterId) -> Result<openraft::Config, openraft::ConfigError> {
    openraft::Config {
        cluster_name: cluster.to_string(),
        heartbeat_interval: ours.heartbeat_ms,
        election_timeout_min: ours.election_min_ms,
        election_timeout_max: ours.election_max_ms,
        install_snapshot_timeout: ours.snapshot_idle_ms,
        max_payload_entries: ours.append_entries_max,
        // Above the snapshot threshold, else a snapshot would not end the lag.
        replication_lag_threshold: ours.snapshot_every.saturating_mul(2).max(ours.keep_log.saturating_mul(2)).max(64),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ours.snapshot_every),
        max_in_snapshot_log_to_keep: ours.keep_log,
        purge_batch_size: (ours.keep_log / 8).clamp(1, 512),
        removed_leader_step_down: StepDownPolicy::After(ours.heartbeat_ms),
        quorum_loss_probe_interval: Some(ours.election_max_ms.saturating_mul(5) / 2),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms 400ms 800ms 1s".to_owned(),
        ..openraft::Config::default()
    }
    .validate()
}

/// Tells and counts each change of leader.
async fn watch_leader(handle: Handle, stop: CancellationToken) {
    let mut watched = handle.0.raft.server_metrics();
    let mut leader = None;
    loop {
        let now = watched.borrow_and_update().clone();
        if now.current_leader.is_some() && now.current_leader != leader {
            leader = now.current_leader;
            handle.metrics().leader_changes.inc();
            tracing::info!(leader, term = now.vote.leader_id().term(), "leader");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watched.changed() => if changed.is_err() { return },
        }
    }
}
