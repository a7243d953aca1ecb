//! Makes the state in a store the beginning of a new cluster: another identity, one voter, a log that begins anew far
//! behind. A recovery and a restore both end with it.
//!
//! What changes in the state is decided in [`ollamax_core::catalog::lineage`]; here it is written, in bounded steps.
//! The first term is above every term of before, so that no log id of the old lineage comes again. Everything is
//! durable when the store is closed. A crash before leaves a store of which nothing may be believed: the caller makes
//! its directory a member's only afterwards.

use std::collections::BTreeSet;

use ollamax_core::catalog::lineage::{Founded, Founder, Sweep, found};
use ollamax_core::catalog::{Fault, Member};
use ollamax_store as store;
use ollamax_types::{ErrorCode, NodeId};

use crate::raft::{Membership, StoredMembership, Vote, log_id, term_of};
use crate::record::{Applied, encode_log_id, encode_vote};

/// How far revisions jump: more than a cluster writes between a backup and its end. Whoever kept a revision of the old
/// cluster finds that everything is newer and that its place is compacted, and reads anew.
pub const REVISION_JUMP: u64 = 1_000_000_000;

/// Why a state was not made the beginning of something new.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// Nothing was ever applied.
    #[error("there is no state to go on from")]
    Empty,
    /// How far it reaches cannot be read.
    #[error("read the state: {0}")]
    Mark(String),
    /// It cannot be read, is of no cluster, or has no such member.
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

// === impl LineageError ===

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
    /// Members that have departed by it.
    pub(crate) departed: Vec<NodeId>,
    /// Where its log goes on.
    pub(crate) revision: u64,
    /// Its first term.
    pub(crate) term: u64,
}

/// Makes the state of `store` the beginning of the founder's cluster, [`REVISION_JUMP`] behind where it stands, in a
/// term above its last one and above `vote_term`. Waits for the disk.
pub(crate) fn begin(store: &store::Store, founder: &Founder, vote_term: u64) -> Result<Begun, LineageError> {
    let state = store.state();
    let meta = state.applied().ok_or(LineageError::Empty)?;
    let mut applied = Applied::from_store(&meta).map_err(|error| LineageError::Mark(error.to_string()))?;
    let last = applied.last.ok_or(LineageError::Empty)?;
    let (mut sweep, mut index) = (Sweep::of(founder), last.index);
    loop {
        let mut batch = state.begin();
        let Some(mutations) = sweep.step(&batch)? else { break };
        batch.stage(mutations)?;
        index += 1;
        applied.last = Some(log_id(term_of(&last), index));
        commit(&state, batch, &applied)?;
    }
    let mut batch = state.begin();
    let Founded { member, departed, mutations } = found(&batch, founder, applied.log_time)?;
    batch.stage(mutations)?;
    let (term, node) = (term_of(&last).max(vote_term) + 1, member.id.0);
    let first = log_id(term, last.index.saturating_add(REVISION_JUMP).max(index + 1));
    let only = Membership::new_with_defaults(vec![BTreeSet::from([node])], BTreeSet::new());
    applied.last = Some(first);
    applied.membership = StoredMembership::new(Some(first), only);
    commit(&state, batch, &applied)?;
    let log = store.log();
    log.save_vote(encode_vote(&Vote::new_committed(term, node)))?;
    log.purge_upto(first.index, encode_log_id(&first))?;
    Ok(Begun { member, departed, revision: first.index, term })
}

fn commit(state: &store::State, batch: store::Batch, applied: &Applied) -> Result<(), LineageError> {
    let meta = applied.to_store().ok_or(LineageError::Empty)?;
    Ok(state.commit(batch, meta)?)
}
