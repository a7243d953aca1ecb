//! Begins a new lineage from a state that lies in a store and is served by nobody: another cluster identity, one voter,
//! a log that begins anew far behind.
//!
//! What changes in the state is decided in [`ollamax_core::catalog::lineage`]; here it is written, in bounded steps.
//! The term rises by one, so that no log id of the old lineage comes again, and a vote in it is saved, so that the
//! first election is of a later one. Everything is durable when it returns. A crash in between leaves a state without a
//! log and without an identity: the caller makes its directory a member's only afterwards.

use std::collections::BTreeSet;

use ollamax_core::catalog::lineage::{Founder, Sweep, found};
use ollamax_core::catalog::{Fault, Member};
use ollamax_store as store;
use ollamax_types::ErrorCode;

use crate::raft::{Membership, StoredMembership, Vote, log_id, term_of};
use crate::record::{Applied, encode_log_id, encode_vote};

/// Why a state was not made the beginning of something new.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// Nothing was ever applied.
    #[error("there is no state to go on from")]
    Empty,
    /// How far it reaches cannot be read.
    #[error("read the state: {0}")]
    Mark(String),
    /// It cannot be read, or is of no cluster.
    #[error(transparent)]
    State(#[from] Fault),
    /// It cannot be changed.
    #[error(transparent)]
    Commit(#[from] store::CommitError),
    /// The log cannot be made to begin behind it.
    #[error(transparent)]
    Purge(#[from] store::PurgeError),
    /// The disk refused.
    #[error(transparent)]
    Write(#[from] store::WriteError),
}

impl LineageError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::PreconditionFailed,
            Self::Mark(_) | Self::State(_) => ErrorCode::StorageCorrupt,
            Self::Commit(error) => error.code(),
            Self::Purge(error) => error.code(),
            Self::Write(error) => error.code(),
        }
    }
}

/// A lineage that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Who leads it alone.
    pub(crate) member: Member,
    /// Where its log goes on.
    pub(crate) revision: u64,
}

/// Makes the state of `store` the beginning of the founder's cluster, `skipped` revisions behind where it stands.
/// Waits for the disk.
pub(crate) fn begin(store: &store::Store, founder: &Founder, skipped: u64) -> Result<Begun, LineageError> {
    let state = store.state();
    let meta = state.applied().ok_or(LineageError::Empty)?;
    let mut applied = Applied::from_store(&meta).map_err(|error| LineageError::Mark(error.to_string()))?;
    let last = applied.last.ok_or(LineageError::Empty)?;
    let (mut sweep, mut index) = (Sweep::default(), last.index);
    loop {
        let mut batch = state.begin();
        let Some(mutations) = sweep.step(&batch)? else { break };
        batch.stage(mutations)?;
        index += 1;
        applied.last = Some(log_id(term_of(&last), index));
        commit(&state, batch, &applied)?;
    }
    let mut batch = state.begin();
    let (member, mutations) = found(&batch, founder, applied.log_time)?;
    batch.stage(mutations)?;
    let (term, node) = (term_of(&last) + 1, member.id.0);
    let first = log_id(term, last.index.saturating_add(skipped).max(index + 1));
    applied.last = Some(first);
    let voters = BTreeSet::from([node]);
    applied.membership = StoredMembership::new(Some(first), Membership::new_with_defaults(vec![voters], [node]));
    commit(&state, batch, &applied)?;
    let log = store.log();
    log.save_vote(encode_vote(&Vote::new(term, node)))?;
    log.purge_upto(first.index, encode_log_id(&first))?;
    log.save_committed(Some(encode_log_id(&first)))?;
    Ok(Begun { member, revision: first.index })
}

fn commit(state: &store::State, batch: store::Batch, applied: &Applied) -> Result<(), LineageError> {
    let meta = applied.to_store().ok_or(LineageError::Empty)?;
    Ok(state.commit(batch, meta)?)
}
