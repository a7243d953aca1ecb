//! What changed of the values, and what happened in the cluster, in order, for those who watch.
//!
//! Owns the last items of either in memory, bounded in number and bytes, each in a ring of its own, so that busy values
//! do not push out what happened in the cluster. Always holds: a feed has every item from its oldest revision to the
//! applied index, and all items of one revision together. What is older is compacted: a watcher that asks for it is
//! told so. A restart or a snapshot begins an empty feed at the applied index. While the state of the node is known to
//! differ from that of the majority, nobody is told anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use ollamax_core::catalog::{ClusterEvent, EventKind, Key, Mutation, Record, Value};

use crate::error::ReadError;
use crate::integrity::Agreement;

/// What a feed keeps.
pub trait Item: Clone + std::fmt::Debug {
    /// How a watcher says what it wants.
    type Filter: std::fmt::Debug;

    /// Index of the entry that it comes from.
    fn revision(&self) -> u64;

    /// What it weighs in memory.
    fn bytes(&self) -> usize;

    /// Whether a watcher wants it.
    fn is_wanted(&self, filter: &Self::Filter) -> bool;
}

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

impl Item for Event {
    type Filter = Filter;

    fn revision(&self) -> u64 {
        self.revision
    }

    fn bytes(&self) -> usize {
        self.namespace.len() + self.key.len() + self.value.as_ref().map_or(0, |value| value.bytes.len())
    }

    fn is_wanted(&self, filter: &Filter) -> bool {
        filter.takes(self)
    }
}

impl Item for ClusterEvent {
    /// These kinds; none: all.
    type Filter = Vec<EventKind>;

    fn revision(&self) -> u64 {
        self.revision
    }

    fn bytes(&self) -> usize {
        self.subject.len() + self.text.len()
    }

    fn is_wanted(&self, kinds: &Vec<EventKind>) -> bool {
        kinds.is_empty() || kinds.contains(&self.kind)
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
    /// What was asked for is not kept any more.
    #[error("what happened before revision {oldest} is not kept any more")]
    Compacted {
        /// The least revision from which a watch can begin.
        oldest: u64,
    },
    /// What this node has applied is known to be wrong, as for a read.
    #[error("{}", ReadError::Deviates)]
    Deviates,
    /// Consensus has stopped on this node.
    #[error("this node is stopping")]
    Stopped,
}

#[derive(Debug)]
struct Ring<T> {
    items: VecDeque<T>,
    bytes: usize,
    /// The least revision that is complete here.
    oldest: u64,
    /// Everything up to here is in it.
    newest: u64,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0, oldest: 0, newest: 0 }
    }
}

/// A cheap handle on the last items of one kind.
#[derive(Debug)]
pub(crate) struct Feed<T = Event>(Arc<Mutex<Ring<T>>>);

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

// === impl Feed ===

impl<T: Item> Feed<T> {
    fn ring(&self) -> MutexGuard<'_, Ring<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The least revision from which a watch can begin.
    pub(crate) fn oldest(&self) -> u64 {
        self.ring().oldest
    }

    /// Forgets everything: the state is now what `applied` left.
    pub(crate) fn restart(&self, applied: u64) {
        *self.ring() = Ring { oldest: applied + 1, newest: applied, ..Ring::default() };
    }

    /// Adds what the entries up to `applied` brought.
    pub(crate) fn add(&self, items: Vec<T>, applied: u64) {
        let mut ring = self.ring();
        ring.bytes += items.iter().map(Item::bytes).sum::<usize>();
        ring.items.extend(items);
        ring.newest = applied;
        while ring.items.len() > CHANGES_MAX || ring.bytes > BYTES_MAX {
            let Some(oldest) = ring.items.pop_front() else { break };
            ring.bytes -= oldest.bytes();
            // A revision that has lost one of its items is not whole any more.
            ring.oldest = oldest.revision() + 1;
        }
    }

    /// The items from `from` on that `filter` wants, and the revision up to which they are complete.
    fn look(&self, filter: &T::Filter, from: u64) -> Result<(Vec<T>, u64), WatchError> {
        let ring = self.ring();
        if from < ring.oldest {
            return Err(WatchError::Compacted { oldest: ring.oldest });
        }
        let start = ring.items.partition_point(|item| item.revision() < from);
        let (mut found, mut bytes) = (Vec::<T>::new(), 0);
        for item in ring.items.range(start..).filter(|item| item.is_wanted(filter)) {
            let new_revision = found.last().is_some_and(|last| last.revision() != item.revision());
            if new_revision && (found.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES) {
                return Ok((found, item.revision() - 1));
            }
            bytes += item.bytes();
            found.push(item.clone());
        }
        Ok((found, ring.newest))
    }
}

/// All feeds of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feeds {
    pub(crate) values: Feed<Event>,
    pub(crate) cluster: Feed<ClusterEvent>,
}

/// What some entries brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) values: Vec<Event>,
    pub(crate) cluster: Vec<ClusterEvent>,
}

// === impl Feeds ===

impl Feeds {
    /// The state is now what `applied` left.
    pub(crate) fn restart(&self, applied: u64) {
        self.values.restart(applied);
        self.cluster.restart(applied);
    }

    /// Adds what the entries up to `applied` brought.
    pub(crate) fn add(&self, news: News, applied: u64) {
        self.values.add(news.values, applied);
        self.cluster.add(news.cluster, applied);
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

/// What a watcher is handed: in order, each once, all of a revision together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T = Event> {
    /// What came; may be empty.
    pub events: Vec<T>,
    /// Everything up to here has been told.
    pub revision: u64,
}

/// One watch. Costs nothing while nobody asks it.
#[derive(Debug)]
pub struct Watcher<T: Item = Event> {
    feed: Feed<T>,
    changes: watch::Receiver<u64>,
    agreement: Agreement,
    filter: T::Filter,
    next: u64,
}

// === impl Watcher ===

impl<T: Item> Watcher<T> {
    /// From `from` on; `None`: from what comes after everything that is applied now.
    pub(crate) fn new(
        feed: Feed<T>,
        changes: watch::Receiver<u64>,
        agreement: Agreement,
        filter: T::Filter,
        from: Option<u64>,
    ) -> Self {
        let next = from.unwrap_or_else(|| feed.ring().newest + 1);
        Self { feed, changes, agreement, filter, next }
    }

    /// Nothing new, and up to where everything has been told.
    ///
    /// # Errors
    /// While the state of this node is known to differ.
    pub fn so_far(&self) -> Result<Batch<T>, WatchError> {
        self.check()?;
        Ok(Batch { events: Vec::new(), revision: self.next.saturating_sub(1) })
    }

    /// The least revision from which a watch of this node can begin now.
    #[must_use]
    pub fn oldest_revision(&self) -> u64 {
        self.feed.oldest()
    }

    /// Waits for what comes next. Loses nothing when it is dropped half-way.
    ///
    /// # Errors
    /// When what comes next is not kept any more, the state of this node is known to differ, or the node stops.
    pub async fn next(&mut self) -> Result<Batch<T>, WatchError> {
        loop {
            self.changes.borrow_and_update();
            if let Some(batch) = self.next_kept()? {
                return Ok(batch);
            }
            self.changes.changed().await.map_err(|_| WatchError::Stopped)?;
        }
    }

    /// What is there and was not handed out yet; `None`: nothing more now.
    ///
    /// # Errors
    /// When what comes next is not kept any more, or the state of this node is known to differ.
    pub fn next_kept(&mut self) -> Result<Option<Batch<T>>, WatchError> {
        self.check()?;
        let (events, revision) = self.feed.look(&self.filter, self.next)?;
        self.next = self.next.max(revision + 1);
        Ok((!events.is_empty()).then_some(Batch { events, revision }))
    }

    fn check(&self) -> Result<(), WatchError> {
        if self.agreement.holds() { Ok(()) } else { Err(WatchError::Deviates) }
    }
}

#[cfg(test)]
mod tests;
