//! The owner's queues with waiting: [`Queue`] behind a lock, and a place that gives itself back.
//!
//! A [`Place`] is held from the moment a request enters until it is over, waiting and running alike. Dropping it is
//! the only way out, so a request that is cancelled, fails or ends cannot keep its slot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use ollamax_types::{Digest, RunnerLoad};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::queue::{Entered, Full, Queue, Ticket};
use crate::timings::Timings;

/// The queues of this node's runners.
pub(crate) struct Admission {
    state: Mutex<State>,
    waiting_max: u32,
    wait_max: Duration,
    metrics: Metrics,
}

struct State {
    queue: Queue,
    /// Who is to be told when its turn comes. Entries without a waiter are those that gave up just now.
    turns: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// Why a request got no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("{waiting_max} requests wait for this model, which is the limit")]
    Full { waiting_max: u32 },
    #[error("no slot was free for {} s", .waited.as_secs())]
    WaitedTooLong { waited: Duration },
}

/// A slot, or a place in the queue for one.
pub(crate) struct Place {
    admission: Arc<Admission>,
    weights: Digest,
    ticket: Ticket,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        let whole = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let queue = Queue::new(whole(config.parallel), whole(config.queue_waiting_max));
        Self {
            state: Mutex::new(State { queue, turns: BTreeMap::new() }),
            waiting_max: config.queue_waiting_max,
            wait_max: Duration::from_millis(config.queue_wait_ms_max),
            metrics,
        }
    }

    /// Waits for a slot of the runner of these weights.
    pub(crate) async fn enter(self: &Arc<Self>, weights: Digest) -> Result<Place, NoSlot> {
        let since = Instant::now();
        let (place, turn) = self.take_place(weights)?;
        if let Some(turn) = turn {
            // An error would say that the sender is gone; it goes only with the place, which is held here.
            let waited = NoSlot::WaitedTooLong { waited: self.wait_max };
            timeout(self.wait_max, turn).await.ok().and_then(Result::ok).ok_or(waited)?;
        }
        self.metrics.waited(since.elapsed());
        Ok(place)
    }

    fn take_place(self: &Arc<Self>, weights: Digest) -> Result<(Place, Option<oneshot::Receiver<()>>), NoSlot> {
        let mut state = self.lock();
        let entered = state.queue.enter(weights).map_err(|Full| NoSlot::Full { waiting_max: self.waiting_max })?;
        let (ticket, turn) = match entered {
            Entered::Runs(ticket) => (ticket, None),
            Entered::Waits(ticket) => {
                let (sender, turn) = oneshot::channel();
                state.turns.insert(ticket, sender);
                (ticket, Some(turn))
            }
        };
        self.count(&state);
        Ok((Place { admission: Arc::clone(self), weights, ticket }, turn))
    }

    fn leave(&self, weights: Digest, ticket: Ticket) {
        let mut state = self.lock();
        state.turns.remove(&ticket);
        let next = state.queue.leave(weights, ticket);
        if let Some(turn) = next.and_then(|next| state.turns.remove(&next)) {
            // A waiter that gives up at this moment still holds its place, and passes the slot on when it drops it.
            turn.send(()).ok();
        }
        self.count(&state);
    }

    fn count(&self, state: &State) {
        let (running, waiting) = state.queue.totals();
        self.metrics.queue(running, waiting);
    }

    pub(crate) fn load(&self, weights: Digest) -> RunnerLoad {
        self.lock().queue.load(weights)
    }

    pub(crate) fn loads(&self) -> Vec<RunnerLoad> {
        self.lock().queue.loads()
    }

    pub(crate) fn in_flight(&self) -> usize {
        let (running, waiting) = self.lock().queue.totals();
        running + waiting
    }

    pub(crate) fn retain(&self, known: &BTreeSet<Digest>) {
        self.lock().queue.retain(known);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// The request that holds this place ended well.
    pub(crate) fn measured(&self, timings: Timings) {
        self.admission.lock().queue.measured(self.weights, timings);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.leave(self.weights, self.ticket);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("weights", &self.weights).field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
