//! The leader's queue of changes: what arrives while groups are on their way goes out together, as the next group.
//!
//! A group costs one write, one sync and one message to each follower (more beyond what one message may carry), however
//! many changes are in it. So the more callers there are, the less each of them costs; one alone waits for nobody.
//!
//! Always: stamps rise with indexes; a change whose caller has left, or whose time is over, is not written; at most
//! [`GROUPS_MAX`] groups wait for their majority. While it does not answer, what waits here was certainly not written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::{BoxStream, FuturesUnordered};
use openraft::errors::Fatal;
use openraft::raft::WriteResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use ollamax_core::catalog::Entry;

use crate::envelope;
use crate::logtime::Stamper;
use crate::raft::{Sealed, Types};

/// Groups that are on their way at once.
const GROUPS_MAX: usize = 2;
/// Most changes in a group.
const GROUP_CHANGES_MAX: usize = 1_024;
/// Changes that wait for the next group; more wait for a place here.
const WAITING_MAX: usize = 4_096;

/// What became of a group, in the order of its changes.
pub(crate) type Answers = BoxStream<'static, Result<WriteResult<Types>, Fatal<Types>>>;

/// The entrance to the queue.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Sender<Proposed>);

/// A change that waits.
pub(crate) struct Proposed {
    deadline: Instant,
    fate: Ticket,
    done: oneshot::Sender<Result<WriteResult<Types>, String>>,
}

/// Decided once, by the queue or by the caller, whoever is first. Who leaves takes the change along: its bytes are not
/// counted any more.
#[derive(Debug, Clone)]
struct Ticket(Arc<Mutex<Fate>>);

#[derive(Debug)]
enum Fate {
    Waiting(Box<Entry>),
    /// It went out with a group.
    Written,
    /// It never will.
    Withdrawn,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Its time was over before it could be written.
    Late,
    /// Consensus took it no more.
    Stopped(String),
    /// It was written; whether it took effect is not known.
    Unknown(&'static str),
}

// === impl Queue ===

impl Queue {
    /// The entrance and what [`run`] takes from.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Proposed>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Has an entry stamped and written with the next group, and waits for what became of it.
    pub(crate) async fn write(&self, entry: Entry, deadline: Instant) -> Result<WriteResult<Types>, Unanswered> {
        let (fate, (done, answer)) = (Ticket::new(entry), oneshot::channel());
        // Whoever drops this future leaves the queue.
        let place = Leaving(fate.clone());
        let proposed = Proposed { deadline, fate, done };
        let heard = timeout_at(deadline, async {
            // When nobody takes from the queue any more, what comes back is dropped, and with it `answer` is closed.
            drop(self.0.send(proposed).await);
            answer.await
        })
        .await;
        let is_unwritten = place.0.withdraw();
        match heard {
            Ok(Ok(result)) => result.map_err(Unanswered::Stopped),
            Err(_) if is_unwritten => Err(Unanswered::Late),
            Err(_) => Err(Unanswered::Unknown("no majority answered in time")),
            Ok(Err(_)) if Instant::now() >= deadline && is_unwritten => Err(Unanswered::Late),
            Ok(Err(_)) if is_unwritten => Err(Unanswered::Stopped("consensus has stopped".to_owned())),
            Ok(Err(_)) => Err(Unanswered::Unknown("consensus stopped before it answered")),
        }
    }
}

// === impl Ticket ===

impl Ticket {
    fn new(entry: Entry) -> Self {
        Self(Arc::new(Mutex::new(Fate::Waiting(Box::new(entry)))))
    }

    /// The change, when it goes out now.
    fn write(&self) -> Option<Box<Entry>> {
        let mut fate = self.fate();
        match std::mem::replace(&mut *fate, Fate::Written) {
            Fate::Waiting(entry) => Some(entry),
            decided @ (Fate::Written | Fate::Withdrawn) => {
                *fate = decided;
                None
            }
        }
    }

    /// Whether the change was not written, and never will be.
    fn withdraw(&self) -> bool {
        let mut fate = self.fate();
        if matches!(*fate, Fate::Waiting(_)) {
            *fate = Fate::Withdrawn;
        }
        matches!(*fate, Fate::Withdrawn)
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Withdraws the change when it is dropped.
struct Leaving(Ticket);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// Sends groups until the entrance is gone. `write` gives one to consensus.
pub(crate) async fn run<W, F>(mut queue: mpsc::Receiver<Proposed>, stamper: Arc<Stamper>, write: W)
where
    W: Fn(Vec<Sealed>) -> F,
    F: Future<Output = Result<Answers, Fatal<Types>>>,
{
    let (mut on_their_way, mut waiting) = (FuturesUnordered::new(), Vec::new());
    loop {
        tokio::select! {
            Some(()) = on_their_way.next() => {}
            count = queue.recv_many(&mut waiting, GROUP_CHANGES_MAX), if on_their_way.len() < GROUPS_MAX => {
                if count == 0 {
                    return;
                }
                let (changes, callers) = stamp(waiting.drain(..), &stamper);
                if callers.is_empty() {
                    continue;
                }
                match write(changes).await {
                    Ok(answers) => on_their_way.push(hand_on(answers, callers)),
                    Err(fatal) => callers.into_iter().for_each(|done| drop(done.send(Err(fatal.to_string())))),
                }
            }
        }
    }
}

type Callers = Vec<oneshot::Sender<Result<WriteResult<Types>, String>>>;

/// What is still wanted, in the order in which it came.
fn stamp(waiting: impl Iterator<Item = Proposed>, stamper: &Stamper) -> (Vec<Sealed>, Callers) {
    let now = Instant::now();
    let wanted = waiting.filter_map(|Proposed { deadline, fate, done }| {
        if deadline <= now {
            fate.withdraw();
            return None;
        }
        let mut entry = fate.write()?;
        entry.log_time = stamper.stamp();
        Some((Sealed(envelope::encode(&entry)), done))
    });
    wanted.unzip()
}

/// Gives each caller its result. Callers that are left over hear that consensus stopped.
async fn hand_on(mut answers: Answers, callers: Callers) {
    for done in callers {
        let Some(Ok(result)) = answers.next().await else { return };
        // A caller that has left is told nothing.
        let _left = done.send(Ok(result));
    }
}

#[cfg(test)]
mod tests;
