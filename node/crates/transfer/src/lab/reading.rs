//! One range of one file as a stream: from the store, or from a part as it grows.
//!
//! A file of the store was checked when it came and is not hashed again; of a part only chunks are given that are what
//! was written. A range waits for what is not there yet for as long as a pull fetches it, and goes on with the file of
//! the store once the pull is over. What ends it early breaks it off: no pull is left, the disk fails, or a chunk stays
//! damaged. A range that a limit keeps back waits. Readers that take nothing may keep others from a file on its way,
//! but not from the file of the store.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use ollamax_blobs::{BlobFile, BlobSpec, Part, chunk_hash};
use ollamax_core::rates::Urgency;
use ollamax_types::{CHUNK_BYTES, chunk_range};

use crate::class::Class;
use crate::metrics::OpenLink;
use crate::pull::blocking;

use super::{Kept, Lab, Pieces};

/// What is given at once.
const PIECE_BYTES: u64 = 256 << 10;
/// Time between two looks for a chunk that is not there yet.
const CHUNK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two looks where the file is.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a pull may take to find out that a chunk is damaged, and to fetch it anew.
const DAMAGED_WAIT: Duration = Duration::from_secs(30);

/// A range that is read.
pub(super) struct Reading {
    lab: Lab,
    blob: BlobSpec,
    /// What is still to be given.
    rest: Range<u64>,
    kept: Kept,
    held: Option<Held>,
    looked_at: Instant,
    /// When the next chunk was found damaged.
    damaged_at: Option<Instant>,
    _open: OpenLink,
}

/// What was read of a chunk and is not given yet.
struct Held {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(lab: Lab, blob: BlobSpec, range: Range<u64>, kept: Kept) -> Self {
        let open = lab.service.means.metrics.open_reading();
        let rest = range.start..range.end.min(blob.size_bytes);
        Self { lab, blob, rest, kept, held: None, looked_at: Instant::now(), damaged_at: None, _open: open }
    }

    pub(super) fn pieces(self) -> Pieces {
        stream::try_unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        while !self.rest.is_empty() {
            if let Some(bytes) = self.piece() {
                self.pass(&bytes).await;
                return Ok(Some((bytes, self)));
            }
            match &self.kept {
                Kept::Store(file) => {
                    let bytes = read_piece(Arc::clone(file), self.rest.clone()).await?;
                    self.rest.start += bytes.len() as u64;
                    self.pass(&bytes).await;
                    return Ok(Some((bytes, self)));
                }
                Kept::Part(part) => {
                    let part = part.clone();
                    if !self.hold(part).await? {
                        self.wait().await?;
                    }
                }
                Kept::Coming => self.wait().await?,
            }
        }
        Ok(None)
    }

    /// Waits until a piece may go out.
    async fn pass(&self, piece: &Bytes) {
        let limits = &self.lab.service.means.limits;
        limits.pass(Class::Lab, Urgency::Asked, piece.len() as u64).await;
    }

    /// The next bytes of the chunk that is held.
    fn piece(&mut self) -> Option<Bytes> {
        let held = self.held.as_mut()?;
        let piece = usize::try_from(PIECE_BYTES).expect("a piece fits into memory").min(held.bytes.len());
        let bytes = held.bytes.split_to(piece);
        if held.bytes.is_empty() {
            self.held = None;
        }
        self.rest.start += bytes.len() as u64;
        Some(bytes)
    }

    /// Reads the next chunk of a part. False: it is not there, or not what was written.
    async fn hold(&mut self, part: Part) -> io::Result<bool> {
        let index = u32::try_from(self.rest.start / CHUNK_BYTES).map_err(io::Error::other)?;
        let Some(wanted) = part.hash_of(index) else { return Ok(false) };
        let Some(place) = self.place().await? else { return Ok(false) };
        let size_bytes = self.blob.size_bytes;
        let read = blocking(move || {
            let mut bytes = Vec::new();
            let is_read = part.read(index, &mut bytes).is_ok();
            (is_read && chunk_hash(size_bytes, index, &bytes) == wanted).then_some(bytes)
        });
        let Some(bytes) = read.await.map_err(io::Error::other)? else { return self.doubt(index) };
        let chunk = chunk_range(size_bytes, index);
        let within = |at: u64| usize::try_from(at - chunk.start).expect("a chunk fits into memory");
        let bytes = Bytes::from(bytes).slice(within(self.rest.start)..within(self.rest.end.min(chunk.end)));
        self.damaged_at = None;
        self.held = Some(Held { bytes, _place: place });
        Ok(true)
    }

    /// A place for a chunk. `None`: the file is not on its way any more, so none is needed.
    async fn place(&mut self) -> io::Result<Option<OwnedSemaphorePermit>> {
        let mut place = pin!(Arc::clone(&self.lab.places.chunks).acquire_owned());
        loop {
            tokio::select! {
                biased;
                place = &mut place => return Ok(Some(place.expect("it is never closed"))),
                () = sleep(FILE_INTERVAL) => self.look().await?,
            }
            if !matches!(self.kept, Kept::Part(_)) {
                return Ok(None);
            }
        }
    }

    /// A chunk is damaged. The pull finds that too and fetches it anew, unless it has passed it.
    fn doubt(&mut self, index: u32) -> io::Result<bool> {
        let since = *self.damaged_at.get_or_insert_with(Instant::now);
        if since.elapsed() < DAMAGED_WAIT {
            return Ok(false);
        }
        let blob = self.blob.sha256.short();
        tracing::warn!(blob, chunk = index, "a chunk of a file on its way is not what was written");
        Err(io::Error::other("a chunk of the file is damaged"))
    }

    /// Waits a moment, and looks from time to time where the file is by now.
    async fn wait(&mut self) -> io::Result<()> {
        sleep(CHUNK_INTERVAL).await;
        if self.looked_at.elapsed() < FILE_INTERVAL { Ok(()) } else { self.look().await }
    }

    /// Looks where the file is by now.
    async fn look(&mut self) -> io::Result<()> {
        self.looked_at = Instant::now();
        let found = self.lab.kept(self.blob).await;
        self.kept = found.ok_or_else(|| io::Error::other("the file is not here, and no pull fetches it any more"))?;
        Ok(())
    }
}

/// The first bytes of a range of a file of the store.
async fn read_piece(file: Arc<BlobFile>, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(PIECE_BYTES.min(range.end - range.start)).expect("a piece fits into memory");
    let read = blocking(move || {
        let mut bytes = vec![0; length];
        // A file that somebody cut off ends too early.
        file.file.read_exact_at(&mut bytes, range.start).map(|()| Bytes::from(bytes))
    });
    read.await.map_err(io::Error::other)?
}
