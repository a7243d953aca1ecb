//! Receiving a snapshot: the offer first, then the stream of what this node lacks of it.
//!
//! It is written to the store as it arrives and handed to consensus only when it is whole. A stream that was cut leaves
//! its whole files; the sender asks before its next attempt, and goes on behind them when it sends the same state. An
//! older release does not ask; what it sends is taken from the first record on, and a cut leaves nothing of it. What
//! leads no further than the state has come is neither taken nor kept; a full disk keeps nothing of any.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::vote::RaftLeaderId;
use tokio::time::Instant;

use ollamax_store as store;
use ollamax_types::NodeId;

use super::speaks_for_itself;
use crate::error::ServeError;
use crate::handle::Handle;
use crate::raft::Vote;
use crate::raft::snapshot::{Labelled, SnapshotData, meta_of};
use crate::record::Applied;
use crate::wire::{Reply, Request, SnapshotPart};

/// How long no snapshot is taken after one for which the disk had no room: the next attempt would fill it as far again.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// The import that waits for the stream of what was offered last; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offered(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    waiting: Option<Waiting>,
    /// The disk had no room for what came, and when.
    full: Option<(store::NoRoom, Instant)>,
}

#[derive(Debug)]
struct Waiting {
    id: store::SnapshotId,
    applied: Applied,
    import: store::Import,
}

/// Where a stream goes.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// Into the import that was opened when it was offered.
    Offered,
    /// Into a new one.
    New,
    /// It leaves out records that are not here.
    Nowhere,
}

/// `offered` is how far the snapshot reaches that was offered last, and the last key that is here of it.
fn choose_destination(offered: Option<(&Applied, &[u8])>, announced: &Applied, after: &[u8]) -> Destination {
    match offered {
        Some((applied, last)) if applied == announced && last == after => Destination::Offered,
        _ if after.is_empty() => Destination::New,
        _ => Destination::Nowhere,
    }
}

impl Handle {
    /// Says how much of a snapshot is here already.
    pub(super) async fn serve_offer(
        &self,
        from: NodeId,
        vote: &Vote,
        id: store::SnapshotId,
    ) -> Result<Reply, ServeError> {
        speaks_for_itself(from, vote)?;
        if self.is_of_an_old_leader(vote) {
            return Ok(Reply::Snapshot(self.raft_metrics().vote));
        }
        if self.0.state.applied().is_some_and(|applied| applied.index >= id.meta.index) {
            // It has come, and the answer that said so was lost; or the log has led as far.
            self.tend_snapshots().await;
            return Ok(Reply::Snapshot(self.raft_metrics().vote));
        }
        self.check_room_for_snapshots()?;
        let applied = Applied::from_store(&id.meta).map_err(|error| ServeError::Unreadable(error.to_string()))?;
        let waiting = self.0.offered.take_if(|_| true).filter(|waiting| waiting.id == id);
        let (state, offered) = (self.0.state.clone(), self.0.offered.clone());
        // Reading what is here may take longer than the sender waits; it is not begun anew with its next question.
        let last_key = match waiting {
            Some(waiting) => offered.put(waiting),
            None => {
                blocking(move || {
                    let import = state.resume_import(&id)?;
                    Ok(offered.put(Waiting { id, applied, import }))
                })
                .await?
            }
        };
        Ok(Reply::SnapshotFrom(last_key))
    }

    /// Receives a snapshot, installs it, and answers. A stream that is cut leaves what came whole for the next attempt;
    /// one that is damaged leaves nothing.
    ///
    /// # Errors
    /// When the stream breaks, falls silent, is damaged, or cannot be written; nothing was installed then.
    pub async fn serve_snapshot(
        &self,
        from: NodeId,
        mut chunks: BoxStream<'static, Result<Bytes, String>>,
    ) -> Result<Bytes, ServeError> {
        let first = self.next_part(&mut chunks).await?;
        let Some(SnapshotPart::Header { vote, applied, after }) = first else {
            return Err(ServeError::Snapshot("the stream does not start with a header".to_owned()));
        };
        let leader = speaks_for_itself(from, &vote)?;
        if self.is_of_an_old_leader(&vote) {
            // The answer tells it so, without reading the rest.
            return Ok(self.sealed(Reply::Snapshot(self.raft_metrics().vote)));
        }
        self.check_room_for_snapshots()?;
        let mut import = self.open_import(&applied, &after).await?;
        loop {
            match self.next_part(&mut chunks).await? {
                None => break,
                Some(SnapshotPart::Header { .. }) => {
                    return Err(ServeError::Snapshot("a second header in the stream".to_owned()));
                }
                Some(SnapshotPart::Data(data)) => {
                    self.0.contact.heard(leader);
                    self.0.metrics.snapshot_bytes_received.inc_by(data.len() as u64);
                    if let Err(full) = self.0.store.check_room() {
                        import.discard();
                        self.0.offered.note_full(full);
                        return Err(full.into());
                    }
                    import = blocking(move || import.add(&data).map(|()| import)).await?;
                }
            }
        }
        let snapshot = received(import, &applied)?;
        let reply = Box::pin(self.0.raft.install_full_snapshot(vote, snapshot)).await;
        let reply = reply.map_err(|error| ServeError::Fatal(error.to_string()))?;
        Ok(self.sealed(Reply::Snapshot(reply.vote)))
    }

    /// Lets go what leads no further than the state has come; and all that takes room on the disk where that is full.
    /// A snapshot that is arriving is left alone: it ends by itself. Ask from time to time.
    pub(crate) async fn tend_snapshots(&self) {
        self.0.held.tend(self.0.log.state().purged.map(|(index, _)| index));
        let is_full = self.check_room().is_err();
        if is_full {
            self.0.held.let_go();
        }
        let applied = self.0.state.applied().map(|applied| applied.index);
        let useless = self.0.offered.take_if(|waiting| is_full || applied >= Some(waiting.id.meta.index));
        if !is_full && useless.is_none() {
            return;
        }
        let state = self.0.state.clone();
        let gone = blocking(move || {
            if let Some(waiting) = useless {
                waiting.import.discard();
            }
            if is_full {
                state.discard_incoming();
            }
            Ok(())
        });
        if let Err(error) = gone.await {
            tracing::warn!(%error, "remove the files of an unfinished snapshot");
        }
    }

    fn check_room_for_snapshots(&self) -> Result<(), store::NoRoom> {
        self.check_room().and_then(|()| self.0.offered.check_full())
    }

    fn is_of_an_old_leader(&self, vote: &Vote) -> bool {
        let known = *self.0.raft.metrics().borrow_watched().vote.leader_id();
        vote.leader_id().term() < known.term()
    }

    async fn open_import(&self, announced: &Applied, after: &[u8]) -> Result<store::Import, ServeError> {
        let waiting = self.0.offered.take_if(|_| true);
        let offered = waiting.as_ref().map(|waiting| (&waiting.applied, waiting.import.last_key()));
        match (choose_destination(offered, announced, after), waiting) {
            (Destination::Offered, Some(waiting)) => Ok(waiting.import),
            (Destination::New, waiting) => {
                let state = self.0.state.clone();
                blocking(move || {
                    drop(waiting);
                    state.import()
                })
                .await
            }
            _ => Err(ServeError::Snapshot("it leaves out records that are not here".to_owned())),
        }
    }

    async fn next_part(
        &self,
        chunks: &mut BoxStream<'static, Result<Bytes, String>>,
    ) -> Result<Option<SnapshotPart>, ServeError> {
        let idle = self.config().snapshot_idle();
        let next = tokio::time::timeout(idle, chunks.next()).await;
        match next.map_err(|_| ServeError::Snapshot("the stream fell silent".to_owned()))? {
            None => Ok(None),
            Some(Err(reason)) => Err(ServeError::Snapshot(reason)),
            Some(Ok(bytes)) => match self.addressed_to_me(bytes)? {
                Request::Snapshot(part) => Ok(Some(part)),
                _ => Err(ServeError::Unreadable("another message within a snapshot".to_owned())),
            },
        }
    }
}

// === impl Offered ===

impl Offered {
    /// Lets an import wait; tells the last key that it has.
    fn put(&self, waiting: Waiting) -> Vec<u8> {
        let last_key = waiting.import.last_key().to_vec();
        self.remembered().waiting = Some(waiting);
        last_key
    }

    fn take_if(&self, is_wanted: impl FnOnce(&mut Waiting) -> bool) -> Option<Waiting> {
        self.remembered().waiting.take_if(is_wanted)
    }

    /// The disk had no room for what came.
    fn note_full(&self, full: store::NoRoom) {
        self.remembered().full = Some((full, Instant::now()));
    }

    fn check_full(&self) -> Result<(), store::NoRoom> {
        match self.remembered().full {
            Some((full, at)) if at.elapsed() < FULL_PAUSE => Err(full),
            _ => Ok(()),
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::ImportError> + Send + 'static,
) -> Result<T, ServeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServeError::Snapshot(error.to_string()))?
        .map_err(|error| ServeError::Snapshot(error.to_string()))
}

/// Checks that what arrived is whole, and what was announced.
fn received(mut import: store::Import, announced: &Applied) -> Result<Labelled, ServeError> {
    import.verify().map_err(|error| ServeError::Snapshot(error.to_string()))?;
    let applied = import.meta().map(Applied::from_store).transpose();
    let applied = applied.map_err(|error| ServeError::Snapshot(error.to_string()))?;
    let Some(applied) = applied.filter(|applied| applied == announced) else {
        import.discard();
        return Err(ServeError::Snapshot("the data is not what the header announced".to_owned()));
    };
    Ok(Labelled { meta: meta_of(&applied), snapshot: SnapshotData::Received(import) })
}

#[cfg(test)]
mod tests;
