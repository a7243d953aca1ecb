//! A snapshot that broke off on its way, held for its receivers' next attempts.
//!
//! openraft asks for the current snapshot before each attempt, and a state of that moment would be another one, of
//! which a receiver has nothing yet. So the one that broke off is handed out again, to whoever needs a snapshot, until
//! all that have a part of it have the whole. It is let go earlier when the log does not lead on from it any more, it
//! cannot be read, the disk is full, or nobody has come back for it in time: what it sees takes room on disk.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use ollamax_store as store;
use ollamax_types::NodeId;

/// How long a snapshot is held after an attempt broke off.
const HELD_MAX: Duration = Duration::from_secs(600);

/// What is held; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Hold>>);

#[derive(Debug, Default)]
struct Hold {
    kept: Option<Kept>,
    /// The node stops: nothing is held any more, so that the store can close.
    is_over: bool,
}

#[derive(Debug)]
struct Kept {
    export: store::Export,
    /// Who may have a part of it.
    receivers: BTreeSet<NodeId>,
    /// When an attempt broke off last.
    since: Instant,
}

/// Whether a snapshot that reaches `index` still brings a receiver to where the log goes on.
fn is_of_use(index: u64, purged: Option<u64>, unused: Duration) -> bool {
    unused < HELD_MAX && purged.is_none_or(|purged| purged <= index)
}

// === impl Held ===

impl Held {
    /// An attempt broke off of which the receiver may have a part.
    pub(crate) fn keep(&self, receiver: NodeId, export: store::Export) {
        let mut hold = self.hold();
        if hold.is_over {
            return;
        }
        let mut receivers = match hold.kept.take() {
            Some(kept) if kept.export.id() == export.id() => kept.receivers,
            _ => BTreeSet::new(),
        };
        receivers.insert(receiver);
        hold.kept = Some(Kept { export, receivers, since: Instant::now() });
    }

    /// A receiver has all of it.
    pub(crate) fn release(&self, receiver: NodeId) {
        let mut hold = self.hold();
        let is_last = hold.kept.as_mut().is_some_and(|kept| {
            kept.receivers.remove(&receiver);
            kept.receivers.is_empty()
        });
        if is_last {
            hold.kept = None;
        }
    }

    /// The snapshot that is held, once more from its beginning. `purged` is the last entry that the log has dropped.
    pub(crate) fn again(&self, purged: Option<u64>) -> Option<store::Export> {
        self.tend(purged);
        self.hold().kept.as_ref().map(|kept| kept.export.again())
    }

    /// Lets go what is of no use any more.
    pub(crate) fn tend(&self, purged: Option<u64>) {
        let mut hold = self.hold();
        let useless = |kept: &Kept| !is_of_use(kept.export.meta().index, purged, kept.since.elapsed());
        if hold.kept.as_ref().is_some_and(useless) {
            hold.kept = None;
        }
    }

    /// This snapshot cannot be read.
    pub(crate) fn forget(&self, id: &store::SnapshotId) {
        let mut hold = self.hold();
        if hold.kept.as_ref().is_some_and(|kept| kept.export.id() == *id) {
            hold.kept = None;
        }
    }

    /// Lets go what there is: the disk needs the room.
    pub(crate) fn let_go(&self) {
        self.hold().kept = None;
    }

    /// Lets go what there is, for good.
    pub(crate) fn close(&self) {
        *self.hold() = Hold { kept: None, is_over: true };
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::Command;
    use ollamax_types::RequestId;

    use crate::alone::Alone;

    use super::*;

    #[test]
    fn a_snapshot_is_held_while_the_log_leads_on_from_it_and_somebody_may_come_back() {
        let check = |index, purged, unused, expected| {
            assert_eq!(is_of_use(index, purged, unused), expected, "{index} {purged:?} {unused:?}");
        };
        let soon = Duration::from_secs(1);
        check(10, None, soon, true);
        check(10, Some(9), soon, true);
        check(10, Some(10), soon, true);
        check(10, Some(11), soon, false);
        check(10, None, HELD_MAX, false);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_held_goes_when_it_cannot_be_read_and_when_the_disk_is_full() {
        let alone = Alone::cluster_of_one().await;
        let state = &alone.handle.0.state;
        let (older, held) = (state.export().expect("a state"), Held::default());
        let set = Command::SetSetting { key: "k".into(), value: b"v".to_vec() };
        alone.handle.propose(RequestId::default(), "admin", set).await.expect("committed");
        let export = state.export().expect("a state");
        held.keep(NodeId(2), export.again());
        held.forget(&older.id());
        assert!(held.again(None).is_some(), "it is another one");
        held.forget(&export.id());
        assert!(held.again(None).is_none());
        held.keep(NodeId(2), export);
        held.let_go();
        assert!(held.again(None).is_none());
        held.keep(NodeId(2), older);
        assert!(held.again(None).is_some(), "there may be room again");
        alone.close().await;
    }
}
