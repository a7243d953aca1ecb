//! Without a majority and without a daemon: what one directory holds, and the one-member cluster that is made of it.
//!
//! [`look`] reads a directory and changes nothing. [`make`] reads it too, and builds a store beside it: the state with
//! every entry of the log applied, made the beginning of a new cluster (`lineage`) with this node as the only voter.
//! The store that was read stays what it was: a copy that was cut off half-way is thrown away and made anew. Which of
//! the two counts is decided by who called.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use openraft::vote::RaftLeaderId as _;

use ollamax_core::catalog::lineage::{Founder, Leads};
use ollamax_core::catalog::{self, Fault, read};
use ollamax_core::recover::{LogEnd, Survivor};
use ollamax_store as store;
use ollamax_types::{ClusterId, ErrorCode, Incarnation, NodeId, Timestamp};

use crate::envelope;
use crate::feed::News;
use crate::lineage::{self, Begun, LineageError};
use crate::raft::state::apply_entry;
use crate::raft::{Entry, LogId, Payload, term_of};
use crate::record::{Applied, RecordError, decode_entry, decode_log_id, decode_vote};

/// Bytes of log records that are read at once.
const PAGE_BYTES: usize = 4 << 20;
/// Entries that are told one by one.
const TAIL_MAX: usize = 20;

/// Why a directory could not be read, or no new one be made.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store does not open.
    #[error(transparent)]
    Open(Box<store::OpenError>),
    /// Its log cannot be read.
    #[error(transparent)]
    Read(#[from] store::ReadError),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] store::DiskError),
    /// What is stored cannot be understood or contradicts itself.
    #[error("what is stored cannot be understood: {0}")]
    Damaged(String),
    /// The state could not be read as a whole.
    #[error(transparent)]
    Export(#[from] store::ExportError),
    /// The new state could not be written.
    #[error(transparent)]
    Import(#[from] store::ImportError),
    /// A batch of the new state could not be written.
    #[error(transparent)]
    Commit(#[from] store::CommitError),
    /// The new store could not be closed.
    #[error(transparent)]
    Write(#[from] store::WriteError),
    /// The new state could not be made the beginning of a new cluster.
    #[error(transparent)]
    Lineage(#[from] LineageError),
}

// === impl RecoverError ===

impl RecoverError {
    /// Its place in the table of codes.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Open(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Damaged(_) => ErrorCode::StorageCorrupt,
            Self::Export(error) => error.code(),
            Self::Import(error) => error.code(),
            Self::Commit(error) => error.code(),
            Self::Write(error) => error.code(),
            Self::Lineage(error) => error.code(),
        }
    }
}

impl From<store::OpenError> for RecoverError {
    fn from(error: store::OpenError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl From<RecordError> for RecoverError {
    fn from(error: RecordError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<Fault> for RecoverError {
    fn from(fault: Fault) -> Self {
        Self::Damaged(fault.to_string())
    }
}

/// An entry of which the node does not know whether it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailEntry {
    /// Where it stands.
    pub end: LogEnd,
    /// What it is: the command's name, `blank` or `membership`.
    pub word: String,
    /// Who asked for it; empty where nobody did.
    pub principal: String,
}

/// What one directory holds. Counts and hash are of the state with the whole log applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What decides about the survivors.
    pub survivor: Survivor,
    /// Name of the cluster.
    pub cluster_name: String,
    /// The index that the state on disk has reached.
    pub applied: u64,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Hash over all records.
    pub state_hash: [u8; 16],
    /// Log time of the last change.
    pub log_time: Timestamp,
    /// Members that have not departed.
    pub members: usize,
    /// Copies of models on record.
    pub models: usize,
    /// Values under the known prefixes.
    pub values: u64,
    /// The last entries beyond what is known to be committed, oldest first.
    pub tail: Vec<TailEntry>,
    /// How many there are of them.
    pub tail_count: u64,
}

/// Reads a directory without changing it.
///
/// # Errors
/// When a daemon has it open, or it is damaged.
pub fn look(dir: &Path, config: store::Config) -> Result<Found, RecoverError> {
    let store = store::Store::open_read_only(dir, config)?;
    let identity = store.identity();
    let identity = identity.ok_or_else(|| RecoverError::Damaged("the directory is bound to no node".to_owned()))?;
    let (log, state) = (store.log(), store.state());
    let mut applied = applied_of(&state)?;
    let on_disk = applied.last.as_ref().map(|id| id.index);
    let noted = log.committed()?.map(|bytes| decode_log_id(&bytes)).transpose()?;
    let committed = noted.map(|id| id.index).max(on_disk).unwrap_or(0);
    let (mut batch, mut tail) = (state.begin(), Tail::default());
    let mut replay = Replay::after(on_disk, &log);
    loop {
        let entries = replay.page()?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if entry.log_id.index > committed {
                tail.push(&entry)?;
            }
            apply_entry(&mut batch, &mut applied, &mut News::default(), entry).map_err(|error| damaged(&error))?;
        }
    }
    let membership = applied.membership.membership();
    let cluster = read::cluster(&batch)?;
    let survivor = Survivor {
        cluster: identity.cluster,
        node: identity.node,
        recovered_from: None,
        vote_term: vote_term(&log)?,
        last: applied.last.as_ref().map(end_of).unwrap_or_default(),
        committed,
        configs: membership.get_joint_config().iter().map(|set| ids(set.iter().copied())).collect(),
        standing: read::member(&batch, identity.node)?.is_some_and(|member| member.is_standing()),
    };
    Ok(Found {
        survivor,
        cluster_name: cluster.map(|cluster| cluster.name).unwrap_or_default(),
        applied: on_disk.unwrap_or(0),
        learners: ids(membership.learner_ids()),
        state_hash: batch.state_hash()?,
        log_time: applied.log_time,
        members: read::members(&batch)?.iter().filter(|member| member.is_standing()).count(),
        models: read::locations(&batch)?.len(),
        values: values(&batch)?,
        tail: tail.entries.into(),
        tail_count: tail.count,
    })
}

/// The cluster to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewCluster {
    /// Its id.
    pub cluster: ClusterId,
    /// The public half of its key.
    pub public_key: [u8; 32],
    /// Its one member, under its old id.
    pub node: NodeId,
    /// The data directory that it goes on in.
    pub incarnation: Incarnation,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The revision at which the new cluster begins.
    pub revision: u64,
    /// Its first term.
    pub term: u64,
    /// Members that have departed by it.
    pub departed: Vec<NodeId>,
}

/// Builds the store of a new cluster under `to`, where there is none, from what lies under `from`, which is not
/// changed. Everything is durable on return.
///
/// # Errors
/// When the old store cannot be read, or the disk refuses the new one.
pub fn make(from: &Path, to: &Path, config: store::Config, new: &NewCluster) -> Result<Made, RecoverError> {
    let old = store::Store::open_read_only(from, config.clone())?;
    let identity = store::StoreIdentity { cluster: new.cluster, node: new.node, incarnation: new.incarnation };
    let made = store::Store::open(to, Some(identity), config)?;
    let state = made.state();
    copy(&old.state(), &state)?;
    let mut applied = applied_of(&state)?;
    let mut replay = Replay::after(applied.last.as_ref().map(|id| id.index), &old.log());
    loop {
        let entries = replay.page()?;
        if entries.is_empty() {
            break;
        }
        commit(&state, &mut applied, entries)?;
    }
    let (cluster, public_key) = (new.cluster, new.public_key);
    let founder = Founder { cluster, public_key, leads: Leads::Survivor(new.node) };
    let Begun { departed, revision, term, .. } = lineage::begin(&made, &founder, vote_term(&old.log())?)?;
    made.close()?;
    Ok(Made { revision, term, departed })
}

fn write(state: &store::State, batch: store::Batch, applied: &Applied) -> Result<(), RecoverError> {
    if let Some(meta) = applied.to_store() {
        state.commit(batch, meta)?;
    }
    Ok(())
}

fn commit(state: &store::State, applied: &mut Applied, entries: Vec<Entry>) -> Result<(), RecoverError> {
    let mut batch = state.begin();
    for entry in entries {
        apply_entry(&mut batch, applied, &mut News::default(), entry).map_err(|error| damaged(&error))?;
    }
    write(state, batch, applied)
}

/// What the last flush left of a state, as a snapshot travels.
fn copy(from: &store::State, to: &store::State) -> Result<(), RecoverError> {
    let mut export = match from.export() {
        Ok(export) => export,
        // All of it is in the log.
        Err(store::ExportError::Empty) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let meta = export.meta().clone();
    let mut import = to.import()?;
    while let Some(chunk) = export.next_chunk()? {
        import.add(&chunk)?;
    }
    Ok(import.finish(&meta)?)
}

/// The entries that a log holds beyond a state, page by page.
struct Replay {
    log: store::Log,
    next: u64,
    end: u64,
}

// === impl Replay ===

impl Replay {
    fn after(applied: Option<u64>, log: &store::Log) -> Self {
        let held = log.state();
        let next = applied.map_or(0, |index| index + 1).max(held.first.unwrap_or(0));
        Self { log: log.clone(), next, end: held.last.map_or(0, |last| last + 1) }
    }

    /// The next entries; none at the end.
    fn page(&mut self) -> Result<Vec<Entry>, RecoverError> {
        if self.next >= self.end {
            return Ok(Vec::new());
        }
        let records = self.log.read(self.next..self.end, PAGE_BYTES)?;
        let entries = records.into_iter().map(|(index, record)| decode_entry(index, record.into()));
        let entries = entries.collect::<Result<Vec<Entry>, RecordError>>()?;
        self.next = entries.last().map_or(self.end, |entry| entry.log_id.index + 1);
        Ok(entries)
    }
}

/// The last entries beyond what is committed.
#[derive(Default)]
struct Tail {
    entries: VecDeque<TailEntry>,
    count: u64,
}

// === impl Tail ===

impl Tail {
    fn push(&mut self, entry: &Entry) -> Result<(), RecoverError> {
        let (word, principal) = match &entry.payload {
            Payload::Blank => ("blank", String::new()),
            Payload::Membership(_) => ("membership", String::new()),
            Payload::Normal(sealed) => {
                let decoded = envelope::decode(&sealed.0, catalog::CLUSTER_VERSION).map_err(|error| damaged(&error))?;
                (decoded.command.word(), decoded.principal)
            }
        };
        if self.entries.len() == TAIL_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(TailEntry { end: end_of(&entry.log_id), word: word.to_owned(), principal });
        self.count += 1;
        Ok(())
    }
}

fn applied_of(state: &store::State) -> Result<Applied, RecoverError> {
    Ok(state.applied().map(|meta| Applied::from_store(&meta)).transpose()?.unwrap_or_default())
}

fn vote_term(log: &store::Log) -> Result<u64, RecoverError> {
    let vote = log.vote().map(|bytes| decode_vote(&bytes)).transpose()?;
    Ok(vote.map_or(0, |vote| vote.leader_id().term()))
}

fn end_of(id: &LogId) -> LogEnd {
    LogEnd { term: term_of(id), index: id.index }
}

fn ids(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

fn values(view: &store::Batch) -> Result<u64, RecoverError> {
    let mut count = 0;
    for prefix in catalog::prefixes().split(", ") {
        count += read::usage(view, "", prefix)?.map_or(0, |usage| usage.keys);
    }
    Ok(count)
}

fn damaged(error: &dyn std::error::Error) -> RecoverError {
    RecoverError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests;
