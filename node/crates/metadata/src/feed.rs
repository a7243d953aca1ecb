//! What changed of the values, in order, for those who watch.
//!
//! Owns the last changes in memory, bounded in number and bytes. Always holds: the feed has every change from its
//! oldest revision to the applied index, and all changes of one revision together. What is older is compacted: a
//! watcher that asks for it is told so and reads the values anew. A restart or a snapshot begins an empty feed at the
//! applied index.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use ollamax_core::catalog::{Key, Mutation, Record, Value};

/// Most changes that are kept.
const CHANGES_MAX: usize = 10_000;
/// Most bytes of keys and values that are kept.
const BYTES_MAX: usize = 32 << 20;
/// Changes that one look hands out, at the border of a revision.
const BATCH_CHANGES: usize = 1_000;
/// Bytes that one look hands out, at the border of a revision.
const BATCH_BYTES: usize = 2 << 20;

/// One change of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Index of the entry that changed it.
    pub revision: u64,
    /// Whose value.
    pub namespace: String,
    /// Which value.
    pub key: String,
    /// What it holds now; `None`: it was deleted.
    pub value: Option<Value>,
}

impl Event {
    fn bytes(&self) -> usize {
        self.namespace.len() + self.key.len() + self.value.as_ref().map_or(0, |value| value.bytes.len())
    }
}

/// Which values are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whose values.
    pub namespace: String,
    /// A key, or what the keys begin with.
    pub key: String,
    /// Whether `key` is only the beginning.
    pub prefix: bool,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        let fits = if self.prefix { event.key.starts_with(&self.key) } else { event.key == self.key };
        fits && event.namespace == self.namespace
    }
}

/// Why a watch cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes that were asked for are not kept any more.
    #[error("changes before revision {oldest} are not kept any more; read the values and watch from there")]
    Compacted {
        /// The least revision from which a watch can begin.
        oldest: u64,
    },
    /// Consensus has stopped on this node.
    #[error("this node is stopping")]
    Stopped,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    /// The least revision that is complete here.
    oldest: u64,
    /// Everything up to here is in it.
    newest: u64,
}

/// A cheap handle on the last changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed(Arc<Mutex<Ring>>);

// === impl Feed ===

impl Feed {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: the state is now what `applied` left.
    pub(crate) fn restart(&self, applied: u64) {
        *self.ring() = Ring { oldest: applied + 1, newest: applied, ..Ring::default() };
    }

    /// Adds the changes of the entries up to `applied`.
    pub(crate) fn add(&self, events: Vec<Event>, applied: u64) {
        let mut ring = self.ring();
        ring.bytes += events.iter().map(Event::bytes).sum::<usize>();
        ring.events.extend(events);
        ring.newest = applied;
        while ring.events.len() > CHANGES_MAX || ring.bytes > BYTES_MAX {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.bytes -= oldest.bytes();
            // A revision that has lost one of its changes is not whole any more.
            ring.oldest = oldest.revision + 1;
        }
    }

    /// The changes from `from` on that `filter` takes, and the revision up to which they are complete.
    fn look(&self, filter: &Filter, from: u64) -> Result<(Vec<Event>, u64), WatchError> {
        let ring = self.ring();
        if from < ring.oldest {
            return Err(WatchError::Compacted { oldest: ring.oldest });
        }
        let start = ring.events.partition_point(|event| event.revision < from);
        let (mut found, mut bytes) = (Vec::<Event>::new(), 0);
        for event in ring.events.range(start..).filter(|event| filter.takes(event)) {
            let new_revision = found.last().is_some_and(|last| last.revision != event.revision);
            if new_revision && (found.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES) {
                return Ok((found, event.revision - 1));
            }
            bytes += event.bytes();
            found.push(event.clone());
        }
        Ok((found, ring.newest))
    }
}

/// The value that a mutation changes, as an event.
pub(crate) fn event_of(revision: u64, mutation: &Mutation) -> Option<Event> {
    let (key, value) = match mutation {
        Mutation::Put(key, Record::Value(value)) => (key, Some(value.clone())),
        Mutation::Delete(key) => (key, None),
        Mutation::Put(..) => return None,
    };
    let Key::Value(namespace, key) = key else { return None };
    Some(Event { revision, namespace: namespace.clone(), key: key.clone(), value })
}

/// Changes that a watcher is handed: in order, each once, all of a revision together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What changed; may be empty.
    pub events: Vec<Event>,
    /// Every change up to here has been told.
    pub revision: u64,
}

/// One watch. Costs nothing while nobody asks it.
#[derive(Debug)]
pub struct Watcher {
    feed: Feed,
    changes: watch::Receiver<u64>,
    filter: Filter,
    next: u64,
}

// === impl Watcher ===

impl Watcher {
    /// From `from` on; `None`: from what comes after everything that is applied now.
    pub(crate) fn new(feed: Feed, changes: watch::Receiver<u64>, filter: Filter, from: Option<u64>) -> Self {
        let next = from.unwrap_or_else(|| feed.ring().newest + 1);
        Self { feed, changes, filter, next }
    }

    /// Every change below this revision has been told.
    #[must_use]
    pub const fn next_revision(&self) -> u64 {
        self.next
    }

    /// Waits for the next changes. Loses nothing when it is dropped half-way.
    ///
    /// # Errors
    /// When what comes next is not kept any more, or the node stops.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            self.changes.borrow_and_update();
            let (events, revision) = self.feed.look(&self.filter, self.next)?;
            self.next = self.next.max(revision + 1);
            if !events.is_empty() {
                return Ok(Batch { events, revision });
            }
            self.changes.changed().await.map_err(|_| WatchError::Stopped)?;
        }
    }
}

#[cfg(test)]
mod tests;
