//! All runners: at most one for each set of weights, each with a queue, each with a time to go.
//!
//! A seat belongs to one set of weights. Whoever holds its turn may use or replace its runner; turns are given in the
//! order of asking. A runner that is idle past its time, or in the way of another model, is retired. Loads happen one
//! at a time; one that lacks memory makes all idle runners go and is tried once more. A runner that died, or would not
//! stop, is dropped, and the next request starts a new one.

mod job;
mod seat;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::child::{Child, LoadError};
use crate::keep_alive::KeepAlive;
use crate::limits;
use crate::options::Settings;
use crate::protocol::Footprint;
use crate::store::{Details, Digest};

pub(crate) use self::job::{Job, JobError};
use self::seat::Seat;

/// What a request needs to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Hash of the weights.
    pub(crate) weights: Digest,
    /// Where they lie.
    pub(crate) path: PathBuf,
    /// How to start the runner.
    pub(crate) settings: Settings,
    /// How long to stay; `None` leaves it as it is.
    pub(crate) keep_alive: Option<KeepAlive>,
    /// What lists call it.
    pub(crate) label: Label,
}

/// What lists say about a runner's model.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    /// Its short name.
    pub(crate) name: String,
    /// Hash of its manifest.
    pub(crate) digest: Digest,
    /// Family, size and form of the weights.
    pub(crate) details: Details,
}

/// A loaded model, for lists.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    /// Which model.
    pub(crate) label: Label,
    /// What it takes.
    pub(crate) footprint: Footprint,
    /// When it goes if nobody asks for it; `None` is never.
    pub(crate) expires_at: Option<SystemTime>,
}

/// Why there is no runner.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AcquireError {
    /// Too many are waiting.
    #[error("server busy, please try again.  maximum pending requests exceeded")]
    Busy,
    /// The model could not be loaded.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// The server ends.
    #[error("the server is shutting down")]
    Stopping,
}

/// The right to use one runner, alone.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Pool,
    seat: Arc<Seat>,
    child: Child,
    /// Time spent on loading.
    pub(crate) load: Duration,
    _turn: OwnedSemaphorePermit,
}

/// All runners; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    seats: Mutex<HashMap<Digest, Arc<Seat>>>,
    loading: tokio::sync::Mutex<()>,
    changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

// === impl Pool ===

impl Pool {
    /// An empty pool whose runners are started from `program`; one task watches their times until `stop`.
    pub(crate) fn new(program: PathBuf, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let pool = Self(Arc::new(Inner {
            program,
            seats: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            tasks,
            stop,
        }));
        pool.0.tasks.spawn(pool.clone().watch());
        pool
    }

    /// Waits for a turn and loads the model if it is not there. Giving up the wait aborts a load.
    pub(crate) async fn acquire(&self, wanted: &Wanted) -> Result<Lease, AcquireError> {
        let seat = self.seat(&wanted.weights);
        let turn = tokio::select! {
            turn = seat.turn() => turn.ok_or(AcquireError::Busy)?,
            () = self.0.stop.cancelled() => return Err(AcquireError::Stopping),
        };
        let started = Instant::now();
        let mut child = seat.take();
        if !child.as_mut().is_some_and(|child| child.settings() == &wanted.settings && child.is_alive()) {
            seat.set_gone();
            if let Some(old) = child.take() {
                old.retire().await;
            }
        }
        let child = match child {
            Some(child) => child,
            None => self.load(wanted).await?,
        };
        seat.set_busy(wanted, child.footprint());
        Ok(Lease { pool: self.clone(), seat, child, load: started.elapsed(), _turn: turn })
    }

    /// Lets the runner of these weights go as soon as nobody uses it.
    pub(crate) fn unload(&self, weights: &Digest) {
        let seat = self.seats().get(weights).cloned();
        if let Some(seat) = seat {
            seat.expire_now();
            self.0.changed.notify_one();
        }
    }

    /// What is loaded, the last to go first.
    pub(crate) fn residents(&self) -> Vec<Resident> {
        let mut residents: Vec<_> = self.seats().values().filter_map(|seat| seat.resident()).collect();
        let key = |resident: &Resident| (resident.expires_at.is_none(), resident.expires_at);
        residents.sort_by(|a, b| key(b).cmp(&key(a)).then_with(|| a.label.name.cmp(&b.label.name)));
        residents
    }

    /// Ends every runner that is not in use; those in use end with their jobs.
    pub(crate) async fn close(&self) {
        let seats: Vec<_> = self.seats().drain().map(|(_, seat)| seat).collect();
        for child in seats.iter().filter_map(|seat| seat.take()) {
            child.retire().await;
        }
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Seat>>> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, weights: &Digest) -> Arc<Seat> {
        Arc::clone(self.seats().entry(weights.clone()).or_default())
    }

    async fn load(&self, wanted: &Wanted) -> Result<Child, AcquireError> {
        let _loading = self.0.loading.lock().await;
        while self.loaded() >= limits::RUNNERS_MAX {
            let changed = self.0.changed.notified();
            if !self.evict().await {
                changed.await;
            }
        }
        let load = || Child::load(&self.0.program, wanted.path.clone(), wanted.settings.clone(), &self.0.tasks);
        tracing::info!(model = wanted.label.name, context = wanted.settings.num_ctx, "loading");
        match load().await {
            Err(error) if error.is_shortage() && self.evict_all().await => {
                tracing::warn!(%error, "load again after making room");
                Ok(load().await?)
            }
            result => Ok(result?),
        }
    }

    fn loaded(&self) -> usize {
        self.seats().values().filter(|seat| seat.resident().is_some()).count()
    }

    /// Retires the idle runner that would go first; false if all are in use.
    async fn evict(&self) -> bool {
        let mut seats: Vec<_> = self.seats().values().cloned().collect();
        seats.retain(|seat| seat.resident().is_some());
        seats.sort_by_key(|seat| seat.expiry().map_or((true, None), |at| (false, Some(at))));
        for seat in seats {
            if let Some((child, _turn)) = seat.take_idle() {
                child.retire().await;
                return true;
            }
        }
        false
    }

    /// Retires every idle runner; true if there was one.
    async fn evict_all(&self) -> bool {
        let mut any = false;
        while self.evict().await {
            any = true;
        }
        any
    }

    /// Retires runners whose time has come, until the server ends.
    async fn watch(self) {
        loop {
            let changed = self.0.changed.notified();
            let seats: Vec<_> = self.seats().values().cloned().collect();
            let now = Instant::now();
            for seat in seats.iter().filter(|seat| seat.expiry().is_some_and(|at| at <= now)) {
                if let Some((child, _turn)) = seat.take_idle() {
                    child.retire().await;
                    self.0.changed.notify_waiters();
                }
            }
            let next = seats.iter().filter_map(|seat| seat.expiry()).filter(|at| *at > now).min();
            let next = next.unwrap_or_else(|| now + limits::KEEP_ALIVE_DEFAULT);
            tokio::select! {
                () = changed => {}
                () = sleep_until(next) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Gives the runner back unused.
    pub(crate) fn release(self) {
        let tasks = self.pool.0.tasks.clone();
        tasks.spawn(self.give_back());
    }

    /// Gives the runner back; one that is not wanted any more goes.
    async fn give_back(self) {
        if let Some(child) = self.seat.put_back(self.child) {
            child.retire().await;
        }
        drop(self._turn);
        self.pool.0.changed.notify_one();
        self.pool.0.changed.notify_waiters();
    }

    /// Ends a runner that is of no more use.
    async fn discard(self) {
        self.seat.set_gone();
        self.child.retire().await;
        drop(self._turn);
        self.pool.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
