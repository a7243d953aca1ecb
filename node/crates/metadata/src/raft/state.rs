//! openraft's state machine over the store: `core` decides, the store writes, then callers hear.
//!
//! Entries are applied in bounded batches; data, applied index and membership are written together, and responders
//! are answered only after that. An entry that this release does not understand, or a state that contradicts
//! itself, is a fault: nothing of its batch is written and consensus stops on this node.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use tokio::sync::watch;
use tokio::time::Instant;

use ollamax_core::catalog::{self, ClusterEvent};
use ollamax_core::integrity::{Mark, is_checkpoint};
use ollamax_store as store;
use ollamax_types::{ErrorCode, NodeId, Timestamp};

use crate::envelope;
use crate::feed::{Feeds, News, event_of};
use crate::integrity::Integrity;
use crate::logtime::Stamper;
use crate::metrics::Metrics;
use crate::raft::held::Held;
use crate::raft::log::on_disk;
use crate::raft::snapshot::{Builder, Labelled, Meta, SnapshotData, label, meta_of};
use crate::raft::{Answered, Entry, LogId, Membership, Payload, StoredMembership, Types, term_of};
use crate::record::Applied;

/// Most entries in one batch.
const BATCH_ENTRIES_MAX: usize = 256;
/// Most bytes of envelopes in one batch; one entry always fits.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Remembers that there is a snapshot; its data is exported afresh for whoever needs it, save for one that broke off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Meta>>>);

impl Slot {
    pub(crate) fn set(&self, meta: Meta) {
        *self.0.lock().expect("no holder of this lock can panic") = Some(meta);
    }

    fn is_set(&self) -> bool {
        self.0.lock().expect("no holder of this lock can panic").is_some()
    }
}

/// The state machine of this node.
#[derive(Debug)]
pub(crate) struct Machine {
    state: store::State,
    log: store::Log,
    applied: Applied,
    slot: Slot,
    held: Held,
    stamper: Arc<Stamper>,
    changes: watch::Sender<u64>,
    feeds: Feeds,
    integrity: Integrity,
    metrics: Metrics,
}

/// What the state machine tells, and whom.
pub(crate) struct Listeners {
    pub(crate) stamper: Arc<Stamper>,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) feeds: Feeds,
    pub(crate) integrity: Integrity,
    pub(crate) metrics: Metrics,
}

/// One batch on its way.
#[derive(Default)]
struct Chunk {
    entries: Vec<EntryResponder<Types>>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, item: EntryResponder<Types>) {
        if let Payload::Normal(sealed) = &item.0.payload {
            self.bytes += sealed.0.len();
        }
        self.entries.push(item);
    }

    /// A batch ends at each checkpoint, so that every node knows the hash that its state had there.
    fn is_full(&self) -> bool {
        let ends = self.entries.last().is_some_and(|(entry, _)| is_checkpoint(entry.log_id.index));
        ends || self.entries.len() >= BATCH_ENTRIES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Machine {
    /// Takes up the state as it was flushed; openraft applies the rest of the log again.
    pub(crate) fn open(store: &store::Store, held: Held, listeners: Listeners) -> io::Result<Self> {
        let (state, log) = (store.state(), store.log());
        let Listeners { stamper, changes, feeds, integrity, metrics } = listeners;
        let applied = state.applied().map(|meta| Applied::from_store(&meta)).transpose()?.unwrap_or_default();
        stamper.observe(applied.log_time);
        let index = applied.last.map_or(0, |id| id.index);
        feeds.restart(index);
        changes.send_replace(index);
        Ok(Self { state, log, applied, slot: Slot::default(), held, stamper, changes, feeds, integrity, metrics })
    }

    fn apply_chunk(&mut self, chunk: Chunk) -> io::Result<()> {
        if chunk.entries.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let mut batch = self.state.begin();
        let mut applied = self.applied.clone();
        let mut answers = Vec::with_capacity(chunk.entries.len());
        let mut news = News::default();
        for (entry, responder) in chunk.entries {
            let answer = apply_entry(&mut batch, &mut applied, &mut news, entry)?;
            answers.push((responder, answer));
        }
        let Some(meta) = applied.to_store() else { return Ok(()) };
        let (index, count) = (meta.index, answers.len());
        self.state.commit(batch, meta).map_err(io::Error::other)?;
        self.applied = applied;
        if is_checkpoint(index) {
            self.integrity.passed(Mark { index, hash: self.state.state_hash() });
        }
        self.feeds.add(news, index);
        self.changes.send_replace(index);
        self.metrics.applied(count, started.elapsed());
        for (responder, answer) in answers {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }
}

/// Applies one entry to the batch; earlier entries of the batch are visible to it.
pub(crate) fn apply_entry(
    batch: &mut store::Batch,
    applied: &mut Applied,
    news: &mut News,
    entry: Entry,
) -> io::Result<Answered> {
    let id: LogId = entry.log_id;
    let answer = match entry.payload {
        Payload::Blank => {
            // The first entry of each leader is a blank one, and there is no other.
            news.cluster.push(catalog::leader_elected(id.index, applied.log_time, term_of(&id)));
            Answered::done()
        }
        Payload::Membership(membership) => {
            news.cluster.push(told(&membership, id.index, applied.log_time));
            applied.membership = StoredMembership::new(Some(id), membership);
            Answered::done()
        }
        Payload::Normal(sealed) => {
            let halt = |error: &dyn std::error::Error| {
                let (index, term, code) = (id.index, term_of(&id), ErrorCode::StorageCorrupt);
                tracing::error!(index, term, %code, %error, "entry cannot be applied: node halts");
                io::Error::other(format!("apply entry {}: {error}", id.index))
            };
            let decoded = envelope::decode(&sealed.0, catalog::CLUSTER_VERSION).map_err(|error| halt(&error))?;
            let outcome = catalog::apply(batch, id.index, term_of(&id), &decoded).map_err(|fault| halt(&fault))?;
            news.values.extend(outcome.mutations.iter().filter_map(|mutation| event_of(id.index, mutation)));
            news.cluster.extend(catalog::events_of(id.index, &decoded, &outcome.mutations));
            batch.stage(outcome.mutations).map_err(|fault| halt(&fault))?;
            applied.log_time = decoded.log_time;
            Answered { answer: outcome.answer, before: outcome.before }
        }
    };
    applied.last = Some(id);
    Ok(answer)
}

/// A membership of the Raft group, as what happened.
fn told(membership: &Membership, index: u64, at: Timestamp) -> ClusterEvent {
    let nodes = |set: &BTreeSet<u64>| set.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
    let voters: Vec<_> = membership.get_joint_config().iter().map(nodes).collect();
    let learners: Vec<NodeId> = membership.learner_ids().map(NodeId).collect();
    catalog::voters_changed(index, at, &voters, &learners)
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Chunk::default();
        while let Some(item) = entries.next().await {
            chunk.push(item?);
            if chunk.is_full() {
                self.apply_chunk(std::mem::take(&mut chunk))?;
                tokio::task::yield_now().await;
            }
        }
        self.apply_chunk(chunk)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { state: self.state.clone(), slot: self.slot.clone(), metrics: self.metrics.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let (state, expected) = (self.state.clone(), meta.clone());
        self.applied = on_disk(move || snapshot.install(&state, &expected)).await?;
        self.stamper.observe(self.applied.log_time);
        self.slot.set(meta_of(&self.applied));
        let index = self.applied.last.map_or(0, |id| id.index);
        self.feeds.restart(index);
        self.integrity.restart();
        self.changes.send_replace(index);
        self.metrics.snapshots_installed.inc();
        tracing::info!(reaches = meta.last_log_id.map(|id| id.index), "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Labelled>, io::Error> {
        if !self.slot.is_set() {
            return Ok(None);
        }
        let held = self.held.again(self.log.state().purged.map(|(index, _)| index));
        let state = self.state.clone();
        let export = on_disk(move || held.map_or_else(|| state.export(), Ok)).await?;
        Ok(Some(label(export)?))
    }
}
