//! A snapshot as openraft handles it: a handle on an export of the store, or on one that was received, never bytes.
//!
//! How far a snapshot reaches is read from the export itself, so that label and data are of one moment.

use std::fmt;
use std::io;

use openraft::storage::SnapshotMeta;
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EmptyNode, RaftSnapshotBuilder, Snapshot};

use ollamax_store as store;

use crate::metrics::Metrics;
use crate::raft::Types;
use crate::raft::log::on_disk;
use crate::record::{Applied, RecordError};

/// How far a snapshot reaches.
pub(crate) type Meta = SnapshotMeta<CommittedLeaderId<u64>, u64, EmptyNode>;
/// A snapshot with its label.
pub(crate) type Labelled = Snapshot<CommittedLeaderId<u64>, u64, EmptyNode, SnapshotData>;

/// The data of a snapshot.
pub(crate) enum SnapshotData {
    /// This node's own state at one moment.
    Exported(store::Export),
    /// Received whole from the leader, waiting to be installed.
    Received(store::Import),
    /// Nothing was applied yet, so there is nothing to hand on.
    Empty,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exported(_) => "Exported",
            Self::Received(_) => "Received",
            Self::Empty => "Empty",
        })
    }
}

impl SnapshotData {
    /// Makes it the state of `state`, when it is what `expected` says. Waits for the disk.
    pub(crate) fn install(self, state: &store::State, expected: &Meta) -> io::Result<Applied> {
        let import = match self {
            Self::Received(import) => import,
            Self::Empty => return Err(RecordError::new("snapshot", "nothing in it").into()),
            Self::Exported(mut export) => {
                let mut import = state.import().map_err(io::Error::other)?;
                while let Some(chunk) = export.next_chunk().map_err(io::Error::other)? {
                    import.add(&chunk).map_err(io::Error::other)?;
                }
                import
            }
        };
        let meta = import.meta().cloned().ok_or_else(|| RecordError::new("snapshot", "no header"))?;
        let applied = Applied::from_store(&meta)?;
        if meta_of(&applied) != *expected {
            let reason = format!("reaches {:?}, was announced as {:?}", applied.last, expected.last_log_id);
            return Err(RecordError::new("snapshot", reason).into());
        }
        import.finish(&meta).map_err(io::Error::other)?;
        Ok(applied)
    }
}

/// openraft's label of a state.
pub(crate) fn meta_of(applied: &Applied) -> Meta {
    Meta { last_log_id: applied.last, last_membership: applied.membership.clone() }
}

/// Labels an export.
pub(crate) fn label(export: store::Export) -> Result<Labelled, RecordError> {
    let applied = Applied::from_store(export.meta())?;
    Ok(Labelled { meta: meta_of(&applied), snapshot: SnapshotData::Exported(export) })
}

/// Builds snapshots beside a running state machine.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) state: store::State,
    pub(crate) slot: super::state::Slot,
    pub(crate) metrics: Metrics,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Labelled, io::Error> {
        if self.state.applied().is_none() {
            return Ok(Labelled { meta: Meta::default(), snapshot: SnapshotData::Empty });
        }
        let state = self.state.clone();
        on_disk(move || state.flush()).await?;
        let state = self.state.clone();
        let built = label(on_disk(move || state.export()).await?)?;
        self.slot.set(built.meta.clone());
        self.metrics.snapshots_built.inc();
        tracing::info!(reaches = built.meta.last_log_id.map(|id| id.index), "snapshot taken");
        Ok(built)
    }
}
