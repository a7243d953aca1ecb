//! The memory that chunks on their way may take, counted.
//!
//! All pulls of a node share it. Who reads from an origin has a buffer before he asks, so what comes in is never more
//! than there is memory for; who gets none waits. A buffer that is dropped, wherever that is, is the next one's. What
//! comes from outside may be slow for long and keeps its buffers meanwhile, so it never has all of them: what comes
//! from other nodes goes on beside it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use ollamax_types::CHUNK_BYTES;

/// Most buffers of one node, each of the length of a chunk: 64 MiB.
pub(crate) const BUFFERS_MAX: usize = 16;
/// Most of them that what comes from outside has at a time.
const OUTSIDE_MAX: usize = 12;

/// The buffers of a node. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    places: Arc<Semaphore>,
    outside: Arc<Semaphore>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// One of them, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    _place: OwnedSemaphorePermit,
    _outside: Option<OwnedSemaphorePermit>,
}

// === impl Buffers ===

impl Buffers {
    pub(crate) fn new() -> Self {
        let [places, outside] = [BUFFERS_MAX, OUTSIDE_MAX].map(|places| Arc::new(Semaphore::new(places)));
        Self { places, outside, free: Arc::default() }
    }

    /// An empty buffer for what comes from another node, as soon as there is one.
    pub(crate) async fn take(&self) -> Buffer {
        self.take_within(None).await
    }

    /// The same for what comes from outside, a registry or a bundle.
    pub(crate) async fn take_for_outside(&self) -> Buffer {
        let outside = Arc::clone(&self.outside).acquire_owned().await.expect("it is never closed");
        self.take_within(Some(outside)).await
    }

    async fn take_within(&self, outside: Option<OwnedSemaphorePermit>) -> Buffer {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("it is never closed");
        let mut bytes = lock(&self.free).pop().unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(usize::try_from(CHUNK_BYTES).expect("a chunk fits into memory"));
        Buffer { bytes, free: Arc::clone(&self.free), _place: place, _outside: outside }
    }
}

// === impl Buffer ===

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.free).push(std::mem::take(&mut self.bytes));
    }
}

fn lock(free: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn memory_is_bounded_and_used_again() {
        let buffers = Buffers::new();
        let mut held = Vec::new();
        for _ in 0..BUFFERS_MAX {
            held.push(buffers.take().await);
        }
        assert!(buffers.take().now_or_never().is_none(), "one more waits");
        let mut given = held.pop().expect("there are some");
        given.bytes_mut().extend_from_slice(b"rest");
        let place = given.bytes().as_ptr();
        drop(given);
        let again = buffers.take().now_or_never().expect("one is free");
        assert_eq!((again.bytes().len(), again.bytes().as_ptr()), (0, place), "empty, and the same memory");
        drop((held, again));
        assert_eq!(lock(&buffers.free).len(), BUFFERS_MAX);
    }

    #[tokio::test]
    async fn what_comes_from_outside_leaves_some_for_what_comes_from_other_nodes() {
        let buffers = Buffers::new();
        let mut outside = Vec::new();
        while let Some(buffer) = buffers.take_for_outside().now_or_never() {
            outside.push(buffer);
        }
        let mut links = Vec::new();
        while let Some(buffer) = buffers.take().now_or_never() {
            links.push(buffer);
        }
        assert_eq!((outside.len(), links.len()), (OUTSIDE_MAX, BUFFERS_MAX - OUTSIDE_MAX));
        links.clear();
        assert!(buffers.take_for_outside().now_or_never().is_none(), "those are not for it");
        outside.pop();
        assert!(buffers.take_for_outside().now_or_never().is_some(), "it has its own again");
    }
}
