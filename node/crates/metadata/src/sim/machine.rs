//! The state machine in memory: the product's own `apply`, with everything that it did told to the checker.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EmptyNode, OptionalSend, RaftSnapshotBuilder, Snapshot};

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{self, Key, Mutation, View};

use super::disk::{Disk, Image};
use super::types::{Bug, SimTypes};
use crate::envelope;
use crate::feed::{Feed, event_of};
use crate::raft::snapshot::{Meta, meta_of};
use crate::raft::{Answered, Entry, LogId, Payload, StoredMembership, term_of};
use crate::record::encode_entry;

/// Entries applied between two flushes.
const FLUSH_EVERY: u64 = 30;
/// Longest time that passes between the wish for a snapshot and its making, milliseconds.
const BUILD_MS_MAX: u64 = 20;

/// The state machine of one node.
#[derive(Debug)]
pub(super) struct Machine {
    node: u64,
    disk: Disk,
    feed: Feed,
}

/// A snapshot with its label.
pub(super) type Labelled = Snapshot<CommittedLeaderId<u64>, u64, EmptyNode, Arc<Image>>;

// === impl Machine ===

impl Machine {
    /// As the product's: a start begins an empty feed where the state is.
    pub(super) fn new(node: u64, disk: Disk, feed: Feed) -> Self {
        feed.restart(disk.lock().state.applied.last.map_or(0, |id| id.index));
        Self { node, disk, feed }
    }

    fn apply_one(&self, entry: &Entry) -> io::Result<Answered> {
        let id = entry.log_id;
        let mut inner = self.disk.lock();
        let (answer, mutations) = match &entry.payload {
            Payload::Blank => (Answered::done(), Vec::new()),
            Payload::Membership(membership) => {
                inner.state.applied.membership = StoredMembership::new(Some(id), membership.clone());
                (Answered::done(), Vec::new())
            }
            Payload::Normal(sealed) => {
                let decoded = envelope::decode(&sealed.0, catalog::CLUSTER_VERSION).map_err(io::Error::other)?;
                let outcome = catalog::apply(&inner.state.view, id.index, term_of(&id), &decoded);
                let outcome = outcome.map_err(io::Error::other)?;
                inner.state.applied.log_time = decoded.log_time;
                (Answered { answer: outcome.answer, before: outcome.before }, outcome.mutations)
            }
        };
        let Image { view, hash, .. } = &mut inner.state;
        for mutation in &mutations {
            follow(view, hash, mutation)?;
        }
        inner.state.applied.last = Some(id);
        let (hash, facts) = (inner.state.hash, inner.facts.clone());
        drop(inner);
        facts.applied(self.node, id.index, fingerprint(&encode_entry(entry)), hash, &mutations);
        self.feed.add(mutations.iter().filter_map(|mutation| event_of(id.index, mutation)).collect(), id.index);
        Ok(answer)
    }
}

/// Carries out one mutation, and follows it with the sum of the hashes of all records.
fn follow(view: &mut MemView, hash: &mut u64, mutation: &Mutation) -> io::Result<()> {
    let (key, new) = match mutation {
        Mutation::Put(key, record) => (key, Some(record)),
        Mutation::Delete(key) => (key, None),
    };
    if let Some(old) = view.get(key).map_err(io::Error::other)? {
        *hash = hash.wrapping_sub(of_record(key, &old));
    }
    if let Some(record) = new {
        *hash = hash.wrapping_add(of_record(key, record));
    }
    view.write(std::slice::from_ref(mutation));
    Ok(())
}

fn of_record(key: &Key, record: &catalog::Record) -> u64 {
    fingerprint(format!("{key:?}={record:?}").as_bytes())
}

/// The same in every run.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl RaftStateMachine<SimTypes> for Machine {
    type SnapshotData = Arc<Image>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.disk.lock();
        Ok((inner.state.applied.last, inner.state.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<SimTypes>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answer = self.apply_one(&entry)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        if self.disk.unflushed() >= FLUSH_EVERY {
            self.disk.flush();
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { disk: self.disk.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Arc<Image>) -> Result<(), io::Error> {
        let (facts, bug) = {
            let mut inner = self.disk.lock();
            inner.state = Image::clone(&snapshot);
            inner.state.applied.last = meta.last_log_id;
            inner.state.applied.membership = meta.last_membership.clone();
            inner.snapshot = Some(Arc::new(inner.state.clone()));
            (inner.facts.clone(), inner.bug)
        };
        self.disk.flush();
        let index = meta.last_log_id.map_or(0, |id| id.index);
        if bug == Some(Bug::FeedOverSnapshot) {
            self.feed.add(Vec::new(), index);
        } else {
            self.feed.restart(index);
        }
        if let Some(last) = meta.last_log_id {
            facts.installed(self.node, last.index, snapshot.hash);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Labelled>, io::Error> {
        // As the product: that there is one is remembered, its content is what is there now.
        let inner = self.disk.lock();
        let label_first = inner.bug == Some(Bug::LabelBeforeContent);
        Ok(inner.snapshot.as_ref().map(|built| {
            let image = inner.state.clone();
            let labelled = if label_first { &built.applied } else { &image.applied };
            Snapshot { meta: meta_of(labelled), snapshot: Arc::new(image) }
        }))
    }
}

/// Builds snapshots beside a running state machine.
#[derive(Debug)]
pub(super) struct Builder {
    disk: Disk,
}

impl RaftSnapshotBuilder<SimTypes> for Builder {
    type SnapshotData = Arc<Image>;

    async fn build_snapshot(&mut self) -> Result<Labelled, io::Error> {
        tokio::time::sleep(self.disk.pause(BUILD_MS_MAX)).await;
        self.disk.flush();
        let mut inner = self.disk.lock();
        let image = Arc::new(inner.state.clone());
        inner.snapshot = Some(image.clone());
        Ok(Snapshot { meta: meta_of(&image.applied), snapshot: image })
    }
}
