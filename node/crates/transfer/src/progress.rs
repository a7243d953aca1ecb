//! How far a pull is: verified bytes, never going back.
//!
//! A byte counts when its chunk has a hash on disk; what is asked for again, after a damage or a restart of the node,
//! is not subtracted. News of bytes are bundled, news of stages are not. The rate is that of the last seconds, and how
//! long the rest takes is told only when the rate has shown itself for a while.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use ollamax_blobs::{BlobSpec, Manifest};
use ollamax_types::limits::PULL_WATCHERS_MAX;
use ollamax_types::{Digest, ModelName, NodeId, Root};

use crate::error::PullError;
use crate::metrics::Metrics;

/// Shortest time between two news of bytes, and longest until they are told.
pub(crate) const NEWS_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time between two news of a rate.
const RATE_INTERVAL: Duration = Duration::from_secs(1);
/// The rate is that of so long.
const RATE_MS: u64 = 10_000;
/// Shortest time from which a rate is told.
const RATE_MS_MIN: u64 = 500;
/// Shortest time from which the rest is foretold.
const LEFT_MS_MIN: u64 = 3_000;
/// Shortest time between two points of the rate.
const POINT_MS: u64 = 100;

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The model.
    pub name: ModelName,
    /// Where it is pulled.
    pub node: NodeId,
    /// What is being done.
    pub stage: Stage,
    /// What it waits for, where it waits for other nodes, a time of the week, a store or a runtime.
    pub wait: Option<Wait>,
    /// Which version of the model; `None` while it is not known.
    pub digest: Option<Digest>,
    /// Its files, in the manifest's order.
    pub blobs: Arc<[BlobProgress]>,
    /// What came from where.
    pub sources: Vec<SourceProgress>,
    /// What comes just now.
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes at that rate.
    pub left: Option<Duration>,
    /// What whoever asked for it is to know of the version, for people: why it may not be the newest.
    pub remark: Option<Arc<str>>,
}

/// How far one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobProgress {
    /// Which file.
    pub blob: BlobSpec,
    /// Bytes of it that are there and have a hash.
    pub verified_bytes: u64,
}

/// What came from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProgress {
    /// The place.
    pub source: Source,
    /// How much.
    pub bytes: u64,
}

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The registry.
    Origin,
    /// They were on this node already.
    Here,
    /// Another node.
    Node(NodeId),
    /// A bundle that somebody sent.
    Bundle,
}

/// What a pull is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It is taken on, and others are before it, or there is no store yet.
    Waiting,
    /// Finds out what the name stands for, and whether it fits.
    Resolving,
    /// Looks through what is there of a file.
    Checking,
    /// Fetches what is missing.
    Fetching,
    /// Compares the last file with its name.
    Verifying,
    /// Makes the model visible.
    Publishing,
    /// Waits until the runtime and the cluster know of it.
    Settling,
    /// It is there.
    Done,
    /// It will not come.
    Failed(PullError),
}

/// What a pull waits for, beside its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// No node has all of it yet.
    FirstCopy,
    /// One has, and the cluster cannot put that on record.
    Quorum,
    /// Nothing may move at this time of the week.
    Window {
        /// The minute of the day in which that is over; `None`: never.
        until_minute: Option<u16>,
    },
    /// There is no model store beside that node.
    Store {
        /// Why, for people.
        reason: String,
    },
    /// It is in the store, and the runtime, which is down, does not list it yet.
    Runtime,
}

/// A pull that somebody watches. Dropping it ends the watching, not the pull.
#[derive(Debug)]
pub struct Watch {
    receiver: watch::Receiver<Arc<PullProgress>>,
    is_over: bool,
}

/// The sender's side: what is known of one pull, and whom it is told.
#[derive(Debug)]
pub(crate) struct Board {
    sender: watch::Sender<Arc<PullProgress>>,
    sheet: Mutex<Sheet>,
    /// The roots of files that were fetched and published.
    roots: Mutex<BTreeMap<Digest, Root>>,
    metrics: Metrics,
    started: Instant,
}

#[derive(Debug)]
struct Sheet {
    name: ModelName,
    node: NodeId,
    stage: Stage,
    wait: Option<Wait>,
    manifest: Option<Manifest>,
    blobs: Vec<BlobProgress>,
    origin_bytes: u64,
    here_bytes: u64,
    bundle_bytes: u64,
    node_bytes: BTreeMap<NodeId, u64>,
    remark: Option<Arc<str>>,
    meter: Meter,
    told_at: Instant,
    /// There are news that were not told.
    is_stale: bool,
}

/// The rate of bytes, from points in time. It reads no clock.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Milliseconds, and bytes until then.
    points: VecDeque<(u64, u64)>,
    began_ms: Option<u64>,
}

// === impl PullProgress ===

impl PullProgress {
    /// Bytes of all files that are there and have a hash.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        self.blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.verified_bytes))
    }

    /// Bytes of all files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.blob.size_bytes))
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed(_))
    }

    /// How many bytes came from where: `origin 500, node/2 200`.
    pub(crate) fn sources_in_words(&self) -> String {
        let each = self.sources.iter().map(|from| format!("{} {}", from.source, from.bytes));
        each.collect::<Vec<_>>().join(", ")
    }

    /// How many bytes came from each kind of source, whichever node it was.
    pub(crate) fn bytes_by_kind(&self) -> [(&'static str, u64); Source::KINDS.len()] {
        Source::KINDS.map(|kind| {
            let of_kind = self.sources.iter().filter(|from| from.source.kind() == kind);
            (kind, of_kind.fold(0, |sum: u64, from| sum.saturating_add(from.bytes)))
        })
    }

    /// The same, but no file less far than it was told before.
    pub(crate) fn not_before(mut self, before: &Self) -> Self {
        let is_same = self.blobs.len() == before.blobs.len()
            && self.blobs.iter().zip(before.blobs.iter()).all(|(now, then)| now.blob == then.blob);
        if is_same {
            let further = self.blobs.iter().zip(before.blobs.iter()).map(|(now, then)| BlobProgress {
                blob: now.blob,
                verified_bytes: now.verified_bytes.max(then.verified_bytes),
            });
            self.blobs = further.collect();
        }
        self
    }
}

// === impl Source ===

impl Source {
    /// All kinds, in words.
    pub(crate) const KINDS: [&'static str; 4] = ["origin", "node", "here", "bundle"];

    /// Its kind, in a word: one for all nodes.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Here => "here",
            Self::Node(_) => "node",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Origin | Self::Here | Self::Bundle => f.write_str(self.kind()),
        }
    }
}

// === impl Wait ===

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstCopy => f.write_str("waiting for the first copy"),
            Self::Quorum => f.write_str("waiting for a quorum"),
            Self::Window { until_minute: Some(minute) } => {
                write!(f, "waiting until {:02}:{:02}", minute / 60, minute % 60)
            }
            Self::Window { until_minute: None } => f.write_str("waiting for a limit that is off"),
            Self::Store { reason } => write!(f, "waiting for the model store: {reason}"),
            Self::Runtime => f.write_str("waiting for the runtime"),
        }
    }
}

// === impl Watch ===

impl Watch {
    pub(crate) fn new(receiver: watch::Receiver<Arc<PullProgress>>) -> Self {
        let is_over = receiver.borrow().is_over();
        Self { receiver, is_over }
    }

    /// How far it is.
    #[must_use]
    pub fn now(&self) -> Arc<PullProgress> {
        Arc::clone(&self.receiver.borrow())
    }

    /// Waits for news. False: it is over, and that was seen.
    pub async fn changed(&mut self) -> bool {
        if self.is_over || self.receiver.changed().await.is_err() {
            return false;
        }
        self.is_over = self.receiver.borrow_and_update().is_over();
        true
    }
}

// === impl Board ===

impl Board {
    pub(crate) fn new(name: ModelName, node: NodeId, stage: Stage, metrics: Metrics) -> Self {
        let now = Instant::now();
        metrics.stage_begins(&stage);
        let sheet = Sheet {
            name,
            node,
            stage,
            wait: None,
            manifest: None,
            blobs: Vec::new(),
            origin_bytes: 0,
            here_bytes: 0,
            bundle_bytes: 0,
            node_bytes: BTreeMap::new(),
            remark: None,
            meter: Meter::default(),
            told_at: now,
            is_stale: false,
        };
        let sender = watch::Sender::new(Arc::new(sheet.progress()));
        Self { sender, sheet: Mutex::new(sheet), roots: Mutex::default(), metrics, started: now }
    }

    /// Lets somebody watch.
    pub(crate) fn watch(&self) -> Result<Watch, PullError> {
        if self.sender.receiver_count() >= PULL_WATCHERS_MAX {
            return Err(PullError::TooManyWatchers(PULL_WATCHERS_MAX));
        }
        Ok(self.watch_anyway())
    }

    /// Lets somebody watch, however many others do.
    pub(crate) fn watch_anyway(&self) -> Watch {
        Watch::new(self.sender.subscribe())
    }

    pub(crate) fn now(&self) -> Arc<PullProgress> {
        Arc::clone(&self.sender.borrow())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The version that is pulled, as soon as it is known.
    pub(crate) fn manifest(&self) -> Option<Manifest> {
        self.lock().manifest.clone()
    }

    /// A file was hashed on its way, all of it.
    pub(crate) fn rooted(&self, sha256: Digest, root: Root) {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256, root);
    }

    /// The root of a file that was hashed on its way.
    pub(crate) fn root_of(&self, sha256: Digest) -> Option<Root> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).get(&sha256).copied()
    }

    /// Another stage begins. What is over stays over.
    pub(crate) fn begin(&self, stage: Stage) {
        self.enter(stage, None);
    }

    /// It waits for something that it can name.
    pub(crate) fn wait_for(&self, wait: Wait) {
        self.enter(Stage::Waiting, Some(wait));
    }

    /// It is in the store, and the runtime is down.
    pub(crate) fn settle_later(&self) {
        self.enter(Stage::Settling, Some(Wait::Runtime));
    }

    /// The time of the week is there, if it was that for which it waited.
    pub(crate) fn window_is_there(&self) {
        let mut sheet = self.lock();
        if matches!(sheet.wait, Some(Wait::Window { .. })) {
            self.put(&mut sheet, Stage::Fetching, None);
        }
    }

    fn enter(&self, stage: Stage, wait: Option<Wait>) {
        self.put(&mut self.lock(), stage, wait);
    }

    fn put(&self, sheet: &mut Sheet, stage: Stage, wait: Option<Wait>) {
        let is_same = sheet.stage == stage && sheet.wait == wait;
        if is_same || matches!(sheet.stage, Stage::Done | Stage::Failed(_)) {
            return;
        }
        sheet.wait = wait;
        self.metrics.stage_ends(&sheet.stage);
        self.metrics.stage_begins(&stage);
        sheet.stage = stage;
        if matches!(sheet.stage, Stage::Done | Stage::Failed(_)) {
            self.metrics.forget_pull(&sheet.name);
        }
        self.tell(sheet);
    }

    /// Something is to be known of the version, and stays so to the end.
    pub(crate) fn remark(&self, text: &str) {
        let mut sheet = self.lock();
        sheet.remark = Some(text.into());
        self.tell(&mut sheet);
    }

    /// It is known what the name stands for.
    pub(crate) fn resolved(&self, manifest: &Manifest) {
        let mut sheet = self.lock();
        sheet.manifest = Some(manifest.clone());
        let blobs = manifest.blobs().into_iter();
        sheet.blobs = blobs.map(|blob| BlobProgress { blob, verified_bytes: 0 }).collect();
        self.tell(&mut sheet);
    }

    /// So much of a file was on this node.
    pub(crate) fn found(&self, sha256: Digest, bytes: u64) {
        let mut sheet = self.lock();
        let gained = sheet.advance(sha256, bytes);
        sheet.here_bytes = sheet.here_bytes.saturating_add(gained);
        self.tell_soon(&mut sheet);
    }

    /// So much of a file came from the registry and is there.
    pub(crate) fn came(&self, sha256: Digest, verified_bytes: u64, received_bytes: u64) {
        let mut sheet = self.lock();
        sheet.advance(sha256, verified_bytes);
        sheet.origin_bytes = sheet.origin_bytes.saturating_add(received_bytes);
        sheet.note(self.started.elapsed());
        self.tell_soon(&mut sheet);
    }

    /// So much of a file came from another node and is there.
    pub(crate) fn came_from(&self, node: NodeId, sha256: Digest, verified_bytes: u64, received_bytes: u64) {
        let mut sheet = self.lock();
        sheet.advance(sha256, verified_bytes);
        let bytes = sheet.node_bytes.entry(node).or_default();
        *bytes = bytes.saturating_add(received_bytes);
        sheet.note(self.started.elapsed());
        self.tell_soon(&mut sheet);
    }

    /// So much of a file came in a bundle and is sound.
    pub(crate) fn came_in_bundle(&self, sha256: Digest, verified_bytes: u64, received_bytes: u64) {
        let mut sheet = self.lock();
        sheet.advance(sha256, verified_bytes);
        sheet.bundle_bytes = sheet.bundle_bytes.saturating_add(received_bytes);
        sheet.note(self.started.elapsed());
        self.tell_soon(&mut sheet);
    }

    /// Tells what was held back, and what becomes of the rate while nothing comes.
    pub(crate) fn refresh(&self) {
        let mut sheet = self.lock();
        sheet.note(self.started.elapsed());
        if sheet.is_stale || sheet.told_at.elapsed() >= RATE_INTERVAL {
            self.tell(&mut sheet);
        }
    }

    fn tell_soon(&self, sheet: &mut Sheet) {
        sheet.is_stale = true;
        if sheet.told_at.elapsed() >= NEWS_INTERVAL {
            self.tell(sheet);
        }
    }

    fn tell(&self, sheet: &mut Sheet) {
        sheet.told_at = Instant::now();
        sheet.is_stale = false;
        let progress = sheet.progress();
        if !progress.is_over() && !progress.blobs.is_empty() {
            self.metrics.show_pull(&progress);
        }
        self.sender.send_replace(Arc::new(progress));
    }

    fn lock(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sheet ===

impl Sheet {
    /// Takes note of how far a file is, and says by how much further that is.
    fn advance(&mut self, sha256: Digest, verified_bytes: u64) -> u64 {
        let Some(blob) = self.blobs.iter_mut().find(|blob| blob.blob.sha256 == sha256) else { return 0 };
        let further = verified_bytes.min(blob.blob.size_bytes).max(blob.verified_bytes);
        let gained = further - blob.verified_bytes;
        blob.verified_bytes = further;
        gained
    }

    /// Takes note of what has come until now.
    fn note(&mut self, elapsed: Duration) {
        let outside = self.origin_bytes.saturating_add(self.bundle_bytes);
        let total = self.node_bytes.values().fold(outside, |sum, bytes| sum.saturating_add(*bytes));
        self.meter.note(millis(elapsed), total);
    }

    fn progress(&self) -> PullProgress {
        let here = [(Source::Origin, self.origin_bytes), (Source::Here, self.here_bytes)];
        let nodes = self.node_bytes.iter().map(|(node, bytes)| (Source::Node(*node), *bytes));
        let bundle = [(Source::Bundle, self.bundle_bytes)];
        let sources = here.into_iter().chain(nodes).chain(bundle).filter(|(_, bytes)| *bytes > 0);
        let mut progress = PullProgress {
            name: self.name.clone(),
            node: self.node,
            stage: self.stage.clone(),
            wait: self.wait.clone(),
            digest: self.manifest.as_ref().map(Manifest::digest),
            blobs: self.blobs.as_slice().into(),
            sources: sources.map(|(source, bytes)| SourceProgress { source, bytes }).collect(),
            bytes_per_second: None,
            left: None,
            remark: self.remark.clone(),
        };
        if progress.stage == Stage::Fetching {
            let missing = progress.total_bytes().saturating_sub(progress.verified_bytes());
            progress.bytes_per_second = self.meter.rate();
            progress.left = self.meter.left(missing);
        }
        progress
    }
}

// === impl Meter ===

impl Meter {
    /// So many bytes have come until now.
    pub(crate) fn note(&mut self, now_ms: u64, bytes: u64) {
        self.began_ms = self.began_ms.or(Some(now_ms));
        let before_last = self.points.len().checked_sub(2).and_then(|at| self.points.get(at));
        let is_near = before_last.is_some_and(|(at_ms, _)| now_ms < at_ms.saturating_add(POINT_MS));
        match self.points.back_mut() {
            Some(last) if is_near => *last = (now_ms, bytes),
            _ => self.points.push_back((now_ms, bytes)),
        }
        while self.points.get(1).is_some_and(|(second_ms, _)| second_ms.saturating_add(RATE_MS) <= now_ms) {
            self.points.pop_front();
        }
    }

    /// Bytes each second over the last seconds.
    pub(crate) fn rate(&self) -> Option<u64> {
        let ((first_ms, first), (last_ms, last)) = (self.points.front()?, self.points.back()?);
        let span_ms = last_ms.saturating_sub(*first_ms);
        (span_ms >= RATE_MS_MIN).then(|| last.saturating_sub(*first).saturating_mul(1_000) / span_ms)
    }

    /// How long so many bytes take at that rate.
    pub(crate) fn left(&self, missing: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate > 0)?;
        let (last_ms, _) = self.points.back()?;
        let known_ms = last_ms.saturating_sub(self.began_ms?);
        (known_ms >= LEFT_MS_MIN).then(|| Duration::from_millis(missing.saturating_mul(1_000) / rate))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
