//! How many databases this process has open, for whoever ends the process.
//!
//! Always: each open database is counted from before it opens until RocksDB has closed it. A process that ends before
//! takes RocksDB's globals away from under threads that still use them, and dies of that.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

static COUNT: Count = Count { open: Mutex::new(0), changed: Condvar::new() };

/// Counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(&'static Count);

#[derive(Debug)]
struct Count {
    open: Mutex<usize>,
    changed: Condvar,
}

/// Waits until every database of this process is closed. `false`: some were still open when the time was over.
///
/// Stores close with their last handle, on whichever thread that goes; call this when no thread makes new ones.
#[must_use]
pub fn wait_closed(limit: Duration) -> bool {
    COUNT.wait(limit)
}

// === impl Counted ===

impl Counted {
    pub(crate) fn one() -> Self {
        COUNT.one()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

// === impl Count ===

impl Count {
    fn one(&'static self) -> Counted {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counted(self)
    }

    fn wait(&self, limit: Duration) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(open, limit, |open| *open > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_waits_for_the_last_one() {
        static COUNT: Count = Count { open: Mutex::new(0), changed: Condvar::new() };
        assert!(COUNT.wait(Duration::ZERO), "nothing was ever open");
        let (first, last) = (COUNT.one(), COUNT.one());
        assert!(!COUNT.wait(Duration::ZERO), "two are open");
        drop(first);
        assert!(!COUNT.wait(Duration::ZERO), "one is open");
        let closer = std::thread::spawn(move || drop(last));
        assert!(COUNT.wait(Duration::from_mins(1)), "the last one is closed on another thread");
        closer.join().expect("ended");
    }
}
