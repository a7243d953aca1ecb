//! Fetches one file in several ranges.
//!
//! Each stream asks the plan what to fetch, waits for a buffer, asks the origin, and writes chunk by chunk; a chunk
//! counts when it is on disk with its hash. Beside them the chaser hashes what has come without a gap, and what it
//! finds damaged is fetched again. It ends with the digest of the whole file, or with the first thing that cannot be
//! mended. Dropping it ends all streams; what a thread was writing then is still written. Always holds: no more is read
//! than there are buffers, and no lock is held across an await.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use ollamax_blobs::{Part, chunk_hash};
use ollamax_core::transfer_plan::origin::{End, OriginPlan, Verdict};
use ollamax_core::transfer_plan::{Extent, Patience};
use ollamax_types::{Digest, ErrorCode, ModelName, chunk_range};

use crate::buffers::{Buffer, Buffers};
use crate::config::Config;
use crate::error::PullError;
use crate::library::Library;
use crate::limits::Gate;
use crate::metrics::Metrics;
use crate::ports::{Opened, Origin, OriginError, OriginTrouble, Wanted};
use crate::progress::{Board, millis};

use super::chase::{Chaser, check_damage};
use super::{blocking, upkeep};

/// Most chunks that are asked for at once by one stream: 64 MiB.
const EXTENT_CHUNKS_MAX: u32 = 16;
/// Time between two looks whether limits let enough pass for one more stream.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// What is fetched, from where, and into what.
pub(crate) struct Source {
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) name: ModelName,
    pub(crate) insecure: bool,
    pub(crate) part: Part,
    /// The place of the store, for people.
    pub(crate) place: String,
    pub(crate) buffers: Buffers,
    /// Where others find what has come.
    pub(crate) library: Library,
    pub(crate) board: Arc<Board>,
    /// What lets bytes pass.
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
}

/// One file on its way, as its streams share it.
struct Fetching {
    source: Source,
    stall: Duration,
    silence: Duration,
    /// How many there are, where limits let enough pass.
    streams: u32,
    started: Instant,
    shared: Mutex<Shared>,
    /// Something happened to the plan.
    changes: watch::Sender<()>,
}

struct Shared {
    plan: OriginPlan,
    verified_bytes: u64,
}

/// Why a stream's extent did not come.
enum Trouble {
    Origin(OriginError),
    Here(PullError),
}

/// A body on its way.
struct Flow {
    body: BoxStream<'static, Result<Bytes, OriginError>>,
    rest: Bytes,
    stall: Duration,
}

/// Fetches what is missing of a part. `chaser` has hashed its gapless beginning, or less.
pub(crate) async fn fetch(source: Source, config: &Config, chaser: Chaser) -> Result<Digest, PullError> {
    let fetching = Arc::new(Fetching::new(source, config));
    let mut streams = JoinSet::new();
    for number in 0..config.origin_streams {
        streams.spawn(Arc::clone(&fetching).stream(number));
    }
    tokio::select! {
        biased;
        ended = fetching.chase(chaser) => ended,
        Some(ended) = streams.join_next() => Err(ended.unwrap_or_else(|error| {
            tracing::error!(code = %ErrorCode::Internal, %error, "fetch a range of a file");
            PullError::Disk("a stream of the pull broke down".to_owned())
        })),
        error = upkeep::keep_durable(&fetching.source.part, &fetching.source.place) => Err(error),
        () = upkeep::keep_told(&fetching.source.board) => Err(PullError::Stopping),
    }
}

// === impl Fetching ===

impl Fetching {
    fn new(source: Source, config: &Config) -> Self {
        let have = source.part.have();
        let missing = have.len() - have.ones();
        // A small file is shared among all streams too.
        let extent_max = missing.div_ceil(config.origin_streams.max(1)).clamp(1, EXTENT_CHUNKS_MAX);
        let patience = Patience {
            first_wait_ms: config.retry_ms,
            wait_ms_max: config.retry_ms_max,
            silence_ms: config.silence_ms,
        };
        let size_bytes = source.part.spec().size_bytes;
        let there: u64 = have.runs().flatten().map(|index| length(size_bytes, index)).sum();
        let shared = Shared { plan: OriginPlan::new(have, extent_max, patience, 0), verified_bytes: there };
        Self {
            source,
            stall: Duration::from_millis(config.stall_ms),
            silence: Duration::from_millis(config.silence_ms),
            streams: config.origin_streams,
            started: Instant::now(),
            shared: Mutex::new(shared),
            changes: watch::Sender::new(()),
        }
    }

    /// Fetches extent after extent, for as long as the file is on its way. It returns only what cannot be mended.
    async fn stream(self: Arc<Self>, number: u32) -> PullError {
        loop {
            self.turn_of(number).await;
            let extent = self.next_extent(number).await;
            let error = match self.take(number, extent).await {
                Ok(()) => None,
                Err(Trouble::Origin(error)) => Some(error),
                Err(Trouble::Here(error)) => return error,
            };
            let end = error.as_ref().map_or(End::Whole, end_of);
            self.source.metrics.retried(end);
            let verdict = self.change(|shared, now_ms| shared.plan.ended(number, end, now_ms));
            match (verdict, error) {
                (Verdict::Next, _) => {}
                (Verdict::WaitMs(wait_ms), error) => {
                    let blob = self.blob();
                    let reason = error.map(|error| error.text).unwrap_or_default();
                    tracing::debug!(blob, wait_ms, reason, "a range of a file did not come; it is asked for again");
                    sleep(Duration::from_millis(wait_ms)).await;
                }
                (Verdict::GiveUp, Some(error)) => return self.given_up(end, error),
                // Only what failed is given up.
                (Verdict::GiveUp, None) => {}
            }
        }
    }

    fn given_up(&self, end: End, error: OriginError) -> PullError {
        let blob = self.blob();
        match end {
            End::Refused => PullError::Blob { blob, error },
            _ => PullError::Silent { blob, silence: self.silence, last: error.text },
        }
    }

    /// Waits while limits let too little pass for this stream beside those before it.
    async fn turn_of(&self, number: u32) {
        while !self.is_in_turn(number) {
            sleep(TURN_INTERVAL).await;
        }
    }

    fn is_in_turn(&self, number: u32) -> bool {
        number < self.source.gate.streams(self.streams)
    }

    /// What this stream fetches, as soon as there is something.
    async fn next_extent(&self, number: u32) -> Extent {
        let mut changes = self.changes.subscribe();
        loop {
            let next = self.lock().plan.next(number);
            if let Some(extent) = next {
                return extent;
            }
            changes.changed().await.expect("the sender is ours");
        }
    }

    /// Fetches an extent. What came of it is there, however it ends.
    async fn take(&self, number: u32, extent: Extent) -> Result<(), Trouble> {
        let source = &self.source;
        let spec = source.part.spec();
        // Who waits for a time of the week holds no buffer.
        source.gate.pass(0, || self.held_back()).await;
        let mut buffer = source.buffers.take_for_outside().await;
        let wanted = Wanted {
            name: source.name.clone(),
            insecure: source.insecure,
            blob: spec,
            from: chunk_range(spec.size_bytes, extent.first).start,
            until: chunk_range(spec.size_bytes, extent.end().saturating_sub(1)).end,
        };
        let Opened { whole, body } = source.origin.open(wanted).await.map_err(Trouble::Origin)?;
        // Without ranges one stream gets the file from its beginning, and the others get nothing.
        let granted = if whole { self.take_whole(number, extent) } else { Some(extent) };
        let Some(extent) = granted else { return Ok(()) };
        let mut flow = Flow { body, rest: Bytes::new(), stall: self.stall };
        for index in extent.chunks() {
            let is_in_turn = whole || self.is_in_turn(number);
            if index > extent.first && (source.gate.is_closed() || !is_in_turn) {
                // The rest is free again, and is asked for when something may move.
                break;
            }
            let wanted = length(spec.size_bytes, index);
            let is_there = self.lock().plan.has(index);
            buffer.bytes_mut().clear();
            let into = if is_there { None } else { Some(buffer.bytes_mut()) };
            flow.read(wanted, into, self).await.map_err(Trouble::Origin)?;
            source.metrics.received(wanted);
            if !is_there {
                source.gate.before_write(wanted).await;
                buffer = self.write(index, buffer).await.map_err(Trouble::Here)?;
            }
            self.arrived(index, wanted);
        }
        Ok(())
    }

    /// What a limit of this node keeps back is no silence of the origin.
    fn held_back(&self) {
        self.lock().plan.held_back(millis(self.started.elapsed()));
    }

    /// The whole file, if no other stream has it.
    fn take_whole(&self, number: u32, extent: Extent) -> Option<Extent> {
        self.change(|shared, _| {
            if shared.plan.covers(extent) {
                return Some(extent);
            }
            shared.plan.one_stream();
            shared.plan.next(number)
        })
    }

    /// Hashes a chunk and writes it; the buffer comes back.
    async fn write(&self, index: u32, buffer: Buffer) -> Result<Buffer, PullError> {
        let part = self.source.part.clone();
        let size_bytes = part.spec().size_bytes;
        let written = blocking(move || {
            let hash = chunk_hash(size_bytes, index, buffer.bytes());
            part.write(index, buffer.bytes(), hash).map(|()| buffer)
        });
        written.await?.map_err(|error| PullError::of_part(&self.source.place, &error))
    }

    fn arrived(&self, index: u32, bytes: u64) {
        let verified_bytes = self.change(|shared, now_ms| {
            if !shared.plan.has(index) {
                shared.verified_bytes += bytes;
            }
            shared.plan.arrived(index, now_ms);
            shared.verified_bytes
        });
        self.source.board.came(self.source.part.spec().sha256, verified_bytes, bytes);
        self.source.library.stir();
    }

    /// Hashes the file in order as it comes, to its end.
    async fn chase(&self, mut chaser: Chaser) -> Result<Digest, PullError> {
        let (source, mut damaged) = (&self.source, 0);
        let count = source.part.have().len();
        let mut changes = self.changes.subscribe();
        loop {
            let index = chaser.next();
            let lost = if index >= count {
                match mem::replace(&mut chaser, Chaser::new()).verdict(&source.part, &source.place).await? {
                    Ok(digest) => return Ok(digest),
                    Err(lost) => lost,
                }
            } else {
                let end = self.lock().plan.prefix();
                if end <= index {
                    changes.changed().await.expect("the sender is ours");
                    continue;
                }
                let (back, lost) = chaser.follow(&source.part, end, &source.place).await?;
                chaser = back;
                lost.into_iter().collect()
            };
            for index in lost {
                damaged += 1;
                self.lose(index, damaged)?;
            }
        }
    }

    /// A chunk is not what was written: it is fetched again, if the disk is not too bad.
    fn lose(&self, index: u32, damaged: u32) -> Result<(), PullError> {
        self.source.metrics.damaged();
        check_damage(&self.source.part, &self.source.place, index, damaged)?;
        self.change(|shared, _| {
            shared.verified_bytes =
                shared.verified_bytes.saturating_sub(length(self.source.part.spec().size_bytes, index));
            shared.plan.lost(index);
        });
        Ok(())
    }

    /// Changes what is shared, and tells everybody who waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut Shared, u64) -> T) -> T {
        let now_ms = millis(self.started.elapsed());
        let changed = change(&mut self.lock(), now_ms);
        self.changes.send_replace(());
        changed
    }

    /// The file, as people see it.
    fn blob(&self) -> String {
        self.source.part.spec().sha256.short()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Flow ===

impl Flow {
    /// Reads so many bytes, into a buffer or to nowhere, as fast as they may come.
    async fn read(
        &mut self,
        bytes: u64,
        mut into: Option<&mut Vec<u8>>,
        fetching: &Fetching,
    ) -> Result<(), OriginError> {
        let mut missing = bytes;
        while missing > 0 {
            if self.rest.is_empty() {
                self.rest = self.next_piece().await?;
                let came = self.rest.len() as u64;
                fetching.source.gate.pass_begun(came, || fetching.held_back()).await;
            }
            let taken = usize::try_from(missing).unwrap_or(usize::MAX).min(self.rest.len());
            let piece = self.rest.split_to(taken);
            missing -= taken as u64;
            if let Some(into) = &mut into {
                into.extend_from_slice(&piece);
            }
        }
        Ok(())
    }

    async fn next_piece(&mut self) -> Result<Bytes, OriginError> {
        let code = ErrorCode::OriginFailed;
        match timeout(self.stall, self.body.next()).await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                let text = "the answer ended before the range did".to_owned();
                Err(OriginError { kind: OriginTrouble::Cut, code, text })
            }
            Err(_) => {
                let text = format!("no byte came for {} s", self.stall.as_secs());
                Err(OriginError { kind: OriginTrouble::Stalled, code, text })
            }
        }
    }
}

/// What an error means for the plan.
const fn end_of(error: &OriginError) -> End {
    match error.kind {
        OriginTrouble::Absent | OriginTrouble::Refused | OriginTrouble::Garbled => End::Refused,
        OriginTrouble::Busy { after_ms } => End::Busy { after_ms },
        OriginTrouble::Cut | OriginTrouble::Unreachable => End::Cut,
        OriginTrouble::Stalled => End::Stalled,
    }
}

/// Bytes of a chunk.
fn length(size_bytes: u64, index: u32) -> u64 {
    let range = chunk_range(size_bytes, index);
    range.end - range.start
}
