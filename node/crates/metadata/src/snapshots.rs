//! Snapshots that somebody asked for. Those that consensus takes by itself, each `raft.snapshot_every` entries, need
//! nothing of this.
//!
//! A snapshot is the state as it was flushed, with a label; it takes no room of its own. What it brings is that the
//! log before it may go.

use std::time::Duration;

use openraft::metrics::WaitError;
use tokio::time::Instant;

use crate::error::SnapshotError;
use crate::handle::Handle;
use crate::raft;

/// How long a snapshot may take: the state is flushed for it.
const TAKE_WAIT: Duration = Duration::from_secs(60);
/// How often it is asked for again: consensus takes one at a time, and one that was under way may reach less far.
const LOOK: Duration = Duration::from_secs(1);

/// A snapshot of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTaken {
    /// Index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// It was there: nothing was applied since.
    pub already: bool,
    /// Records in it; `None` when the state has gone on meanwhile.
    pub records: Option<u64>,
}

// === impl Handle: snapshots ===

impl Handle {
    /// Takes a snapshot of everything that is applied on this node now, and returns when it is taken.
    ///
    /// # Errors
    /// When nothing was applied yet, consensus has stopped, or the disk takes very long.
    pub async fn take_snapshot(&self) -> Result<SnapshotTaken, SnapshotError> {
        let wanted = self.0.state.applied().ok_or(SnapshotError::Empty)?.index;
        let reaches = |now: &raft::Metrics| now.snapshot.as_ref().is_some_and(|id| id.index >= wanted);
        if let Some(taken) = self.taken(&self.raft_metrics(), true).filter(|taken| taken.index >= wanted) {
            return Ok(taken);
        }
        let deadline = Instant::now() + TAKE_WAIT;
        loop {
            let asked = self.0.raft.trigger().snapshot().await;
            asked.map_err(|fatal| SnapshotError::Fatal(fatal.to_string()))?;
            let over = |now: &raft::Metrics| reaches(now) || now.running_state.is_err();
            match self.0.raft.wait(Some(LOOK)).metrics(over, "a snapshot").await {
                Ok(now) => {
                    if let Err(fatal) = &now.running_state {
                        return Err(SnapshotError::Fatal(fatal.to_string()));
                    }
                    return self.taken(&now, false).ok_or(SnapshotError::Late);
                }
                Err(WaitError::ShuttingDown) => {
                    return Err(SnapshotError::Fatal("consensus has stopped".to_owned()));
                }
                Err(WaitError::Timeout(..)) if Instant::now() >= deadline => return Err(SnapshotError::Late),
                Err(WaitError::Timeout(..)) => {}
            }
        }
    }

    /// The last snapshot, as these metrics have it.
    fn taken(&self, metrics: &raft::Metrics, already: bool) -> Option<SnapshotTaken> {
        let id = metrics.snapshot.as_ref()?;
        let export = self.0.state.export().ok();
        let same = export.filter(|export| export.meta().index == id.index);
        let records = same.map(|export| export.count());
        Some(SnapshotTaken { index: id.index, term: raft::term_of(id), already, records })
    }
}
