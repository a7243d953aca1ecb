//! The place of one runner: who is next, and what is there.
//!
//! The lock is held for moments and never across a wait. While a runner is in use it is not in its seat, but the seat
//! still says what it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::child::Child;
use crate::keep_alive::KeepAlive;
use crate::limits;
use crate::pool::{Resident, Wanted};
use crate::protocol::Footprint;

/// A place for one runner.
#[derive(Debug)]
pub(super) struct Seat {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    resident: Option<Resident>,
    keep_alive: KeepAlive,
    /// Set while the runner is idle and not kept for ever.
    expiry: Option<Instant>,
}

/// Counts one who waits, for as long as it waits.
struct Ticket<'a>(&'a AtomicUsize);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Seat {
    fn default() -> Self {
        let keep_alive = KeepAlive::For(limits::KEEP_ALIVE_DEFAULT);
        Self {
            turns: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State { child: None, resident: None, keep_alive, expiry: None }),
        }
    }
}

// === impl Seat ===

impl Seat {
    /// Waits for a turn; `None` if too many wait already.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _ticket = Ticket(&self.waiting);
        if before >= limits::QUEUE_LENGTH_MAX {
            return None;
        }
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Takes the runner out; only for who has the turn, or at the end of all.
    pub(super) fn take(&self) -> Option<Child> {
        let mut state = self.state();
        state.expiry = None;
        state.child.take()
    }

    /// Takes an idle runner and the turn with it.
    pub(super) fn take_idle(&self) -> Option<(Child, OwnedSemaphorePermit)> {
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let child = self.take()?;
        self.set_gone();
        Some((child, turn))
    }

    /// Notes which runner is in use, and the wish of its user.
    pub(super) fn set_busy(&self, wanted: &Wanted, footprint: Footprint) {
        let mut state = self.state();
        let fresh = state.resident.is_none();
        if let Some(keep_alive) = wanted.keep_alive {
            state.keep_alive = keep_alive;
        } else if fresh {
            state.keep_alive = KeepAlive::For(limits::KEEP_ALIVE_DEFAULT);
        }
        if fresh {
            let expires_at = wall_clock_after(state.keep_alive);
            state.resident = Some(Resident { label: wanted.label.clone(), footprint, expires_at });
        }
    }

    /// Notes that there is no runner.
    pub(super) fn set_gone(&self) {
        let mut state = self.state();
        state.resident = None;
        state.expiry = None;
    }

    /// Puts the runner back and starts its time; gives it to the caller if its time is over.
    pub(super) fn put_back(&self, child: Child) -> Option<Child> {
        let mut state = self.state();
        if state.keep_alive.is_zero() && self.waiting.load(Ordering::Acquire) == 0 {
            state.resident = None;
            return Some(child);
        }
        state.expiry = match state.keep_alive {
            KeepAlive::For(time) => Instant::now().checked_add(time),
            KeepAlive::Forever => None,
        };
        let expires_at = wall_clock_after(state.keep_alive);
        if let Some(resident) = &mut state.resident {
            resident.expires_at = expires_at;
        }
        state.child = Some(child);
        None
    }

    /// Ends the time of the runner, now or when it is put back.
    pub(super) fn expire_now(&self) {
        let mut state = self.state();
        state.keep_alive = KeepAlive::For(Duration::ZERO);
        if state.child.is_some() {
            state.expiry = Some(Instant::now());
        }
    }

    /// When the idle runner goes.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.state().expiry
    }

    /// What is here.
    pub(super) fn resident(&self) -> Option<Resident> {
        self.state().resident.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::disallowed_methods, reason = "shown to people as the time of expiry; nothing is decided by it")]
fn wall_clock_after(keep_alive: KeepAlive) -> Option<SystemTime> {
    match keep_alive {
        KeepAlive::For(time) => SystemTime::now().checked_add(time),
        KeepAlive::Forever => None,
    }
}
