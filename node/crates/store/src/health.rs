//! Whether the store still takes writes.
//!
//! The first failed write or sync ends it for good; everybody who waits is told the same reason, once and for all.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::error::{DiskError, SyncError, WriteError};

#[derive(Debug)]
pub(crate) struct Health {
    fatal: watch::Sender<Option<SyncError>>,
    closed: AtomicBool,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { fatal: watch::Sender::new(None), closed: AtomicBool::new(false) }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<SyncError>> {
        self.fatal.subscribe()
    }

    pub(crate) fn failure(&self) -> Option<SyncError> {
        self.fatal.borrow().clone()
    }

    /// Whether a write may be tried.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        if let Some(error) = self.failure() {
            return Err(WriteError::Stopped(error));
        }
        if self.closed.load(Ordering::Acquire) { Err(WriteError::Closed) } else { Ok(()) }
    }

    /// Ends the store; the first reason stays.
    pub(crate) fn fail(&self, cause: DiskError) -> SyncError {
        let error = SyncError { cause };
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                let code = error.code();
                tracing::error!(%code, error = %error.cause, "the store has stopped; the node must stop");
                *fatal = Some(error.clone());
            }
            first
        });
        self.failure().unwrap_or(error)
    }

    /// Marks the store closed; whether it was open before.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stays_and_every_later_write_hears_it() {
        let health = Health::new();
        let watch = health.watch();
        assert_eq!(health.check(), Ok(()));
        let first = health.fail(DiskError::Refused { action: "sync", reason: "gone".to_owned() });
        health.fail(DiskError::Full { action: "write", reason: "full".to_owned() });
        assert_eq!(health.check(), Err(WriteError::Stopped(first.clone())));
        assert_eq!(*watch.borrow(), Some(first));
    }
}
