//! The ports in memory: a runtime that is a folder.
//!
//! For tests and simulations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ports::{Place, Runtime};

/// A runtime that says where its folder is, and counts how often it is asked to list again. Clones are the same
/// runtime.
#[derive(Debug, Clone)]
pub struct MemRuntime {
    state: Arc<Mutex<Folder>>,
}

#[derive(Debug)]
struct Folder {
    place: Place,
    looks: u32,
}

// === impl MemRuntime ===

impl MemRuntime {
    /// A runtime that keeps its models there.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { state: Arc::new(Mutex::new(Folder { place, looks: 0 })) }
    }

    /// Moves it.
    pub fn set_place(&self, place: Place) {
        self.lock().place = place;
    }

    /// How often it was asked to list its models again.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.lock().looks
    }

    fn lock(&self) -> MutexGuard<'_, Folder> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for MemRuntime {
    fn place(&self) -> Place {
        self.lock().place.clone()
    }

    fn look(&self) {
        self.lock().looks += 1;
    }
}
