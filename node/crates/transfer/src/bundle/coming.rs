//! The bytes of a bundle that comes, as a thread that may wait reads them.
//!
//! One task takes the pieces as they come and lets them wait for the thread that reads; a bounded number of them, so
//! whoever sends is held back by the disk. It ends with the bytes, when nothing comes for too long, with the node, and
//! with whoever reads: a thread that waits for more then finds the end. So nothing is ever left waiting.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use ollamax_blobs::{BlobSpec, BundleReader, Contents};
use ollamax_types::chunk_range;

use crate::buffers::Buffers;
use crate::error::PullError;
use crate::progress::{Board, Stage};
use crate::pull::blocking;

use super::PIECES_WAITING_MAX;

/// What comes.
pub(crate) type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// A bundle whose files are those of a pull.
pub(crate) struct Bundled {
    pub(crate) contents: Contents,
    /// Another version under the name gives way.
    pub(crate) replaces: bool,
    /// A version that was put under the name after this moment is newer; milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// It is read once.
    incoming: Mutex<Option<Incoming>>,
}

/// A bundle that is being read.
pub(crate) struct Incoming {
    contents: Contents,
    /// Away while a thread reads.
    reader: Option<BundleReader<Feed>>,
    _end: DropGuard,
    _place: OwnedSemaphorePermit,
}

/// The pieces, as a thread reads them.
pub(crate) struct Feed {
    from: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

// === impl Bundled ===

impl Bundled {
    pub(crate) fn new(incoming: Incoming, replaces: bool, since_ms: u64) -> Self {
        let contents = incoming.contents.clone();
        Self { contents, replaces, since_ms, incoming: Mutex::new(Some(incoming)) }
    }

    /// What comes; `None` when it was read before.
    pub(crate) fn take(&self) -> Option<Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

// === impl Incoming ===

impl Incoming {
    /// Reads what a bundle promises.
    pub(crate) async fn begin(
        pieces: Pieces,
        silence: Duration,
        place: OwnedSemaphorePermit,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, PullError> {
        let (to, from) = mpsc::channel(PIECES_WAITING_MAX);
        let end = stop.child_token();
        let guard = end.clone().drop_guard();
        // It ends with the bytes, with whoever reads them, and with the node; if it fails the bundle ends too early.
        tasks.spawn(pump(pieces, to, silence, end));
        let reader = blocking(move || BundleReader::begin(Feed { from, rest: Bytes::new() })).await?;
        if stop.is_cancelled() {
            return Err(PullError::Stopping);
        }
        let reader = reader.map_err(|error| PullError::of_bundle(&error))?;
        Ok(Self { contents: reader.contents().clone(), reader: Some(reader), _end: guard, _place: place })
    }

    pub(crate) const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Does something with the reader on a thread that may wait. Who leaves meanwhile loses it.
    pub(crate) async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut BundleReader<Feed>) -> T + Send + 'static,
    ) -> Result<T, PullError> {
        let mut reader = self.reader.take().expect("each step gives it back, and an error is the last one");
        let worked = blocking(move || {
            let done = work(&mut reader);
            (reader, done)
        });
        let (reader, done) = worked.await?;
        self.reader = Some(reader);
        Ok(done)
    }

    /// The next file of the model; what was not read of the last is read over and checked.
    pub(crate) async fn next_file(&mut self) -> Result<Option<BlobSpec>, PullError> {
        self.with(BundleReader::next_file).await?.map_err(|error| PullError::of_bundle(&error))
    }

    /// Reads to the end, and says whether all of the model came.
    pub(crate) async fn finish(mut self) -> Result<(), PullError> {
        let reader = self.reader.take().expect("each step gives it back, and an error is the last one");
        let finished = blocking(move || reader.finish()).await?;
        finished.map(drop).map_err(|error| PullError::of_bundle(&error))
    }
}

// === impl Feed ===

impl io::Read for Feed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let taken = into.len().min(self.rest.len());
        into[..taken].copy_from_slice(&self.rest.split_to(taken));
        Ok(taken)
    }
}

/// Reads a bundle from its front to its end and writes nothing.
pub(crate) async fn check(mut incoming: Incoming, board: &Arc<Board>, buffers: &Buffers) -> Result<(), PullError> {
    board.resolved(incoming.contents.manifest());
    board.begin(Stage::Fetching);
    let mut buffer = buffers.take_for_outside().await;
    while let Some(spec) = incoming.next_file().await? {
        loop {
            let stepped = incoming.with(move |reader| {
                let taken = reader.next_chunk(buffer.bytes_mut());
                (buffer, taken)
            });
            let (back, taken) = stepped.await?;
            buffer = back;
            let Some((index, _)) = taken.map_err(|error| PullError::of_bundle(&error))? else { break };
            let range = chunk_range(spec.size_bytes, index);
            board.came_in_bundle(spec.sha256, range.end, range.end - range.start);
        }
    }
    incoming.finish().await
}

/// Lets what comes wait for whoever reads it.
async fn pump(mut pieces: Pieces, to: mpsc::Sender<io::Result<Bytes>>, silence: Duration, end: CancellationToken) {
    let pumped = async {
        loop {
            let piece = match timeout(silence, pieces.next()).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err(_) => {
                    let text = format!("nothing came for {} s", silence.as_secs());
                    Err(io::Error::new(ErrorKind::TimedOut, text))
                }
            };
            let is_last = piece.is_err();
            if to.send(piece).await.is_err() || is_last {
                return;
            }
        }
    };
    end.run_until_cancelled(pumped).await;
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_and_goes_silent_ends_the_bundle() {
        let (to, mut from) = mpsc::channel::<io::Result<Bytes>>(PIECES_WAITING_MAX);
        let sent = stream::iter([Ok(Bytes::from_static(b"first"))]).chain(stream::pending()).boxed();
        let taken = async {
            let first = from.recv().await.expect("it came").expect("sound");
            let error = from.recv().await.expect("it is told").expect_err("nothing came");
            (first, error.to_string(), from.recv().await.is_none())
        };
        let pumped = pump(sent, to, Duration::from_secs(30), CancellationToken::new());
        let ((), (first, error, is_over)) = tokio::join!(pumped, taken);
        assert_eq!((&first[..], error.as_str(), is_over), (&b"first"[..], "nothing came for 30 s", true));
    }
}
