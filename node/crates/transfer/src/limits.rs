//! How fast bytes may move through this node, by class and urgency.
//!
//! Each class has a limit of the configuration and one bucket; beside them there is a bucket for each pull that
//! somebody slowed down, and one for writing while the cluster's log waits for its disk. Whoever moves bytes asks
//! before he does; who has to wait holds nothing of the bucket, so leaving costs nothing. Always holds: what waits
//! because of a limit is told so, and does not count as silence. Cannot fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use ollamax_core::rates::{Allowed, Bucket, Limit, MINUTES_PER_DAY, Shares, Take, Urgency};
use ollamax_types::{Clock, ModelName, Rate, Timestamp};

use crate::class::Class;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::progress::{Board, Wait, millis};

/// Time between two looks at the minute of the week.
const LOOK_MS: u64 = 1_000;
/// What may be written in all while the cluster's log waits for its disk, bytes a second.
const STRAINED_BYTES_PER_SECOND: u64 = 32 << 20;
/// Longest wait of one chunk for that. Then it is written all the same, so that nothing stops.
const STRAINED_WAIT_MS_MAX: u64 = 1_000;
/// How long a limit waits for the pull that it is meant for.
const AHEAD_MS: u64 = 600_000;
/// Most pulls that are slowed down one by one.
const SLOWED_MAX: usize = 1_024;
/// One range of a file is asked for at once for so many bytes a second that are allowed.
const BYTES_PER_SECOND_PER_STREAM: u64 = 1 << 20;

/// A class of which nothing moves just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedClass {
    /// The setting that says so.
    pub key: &'static str,
    /// In words, for people.
    pub what: &'static str,
    /// The minute of the day in which it opens; `None`: it does not.
    pub until_minute: Option<u16>,
}

/// The limits of a node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Limits(Arc<Inner>);

struct Inner {
    lanes: [Mutex<Lane>; 4],
    /// Pulls that somebody slowed down.
    pulls: Mutex<BTreeMap<ModelName, Slowed>>,
    /// What may be written while the log waits.
    writing: Mutex<Bucket>,
    strain: watch::Receiver<bool>,
    background: Option<Rate>,
    background_percent: u32,
    calendar: Calendar,
    started: Instant,
    metrics: Metrics,
}

/// Where the time of the week comes from.
struct Calendar {
    clock: Clock,
    minute_of_week: fn(Timestamp) -> u32,
}

/// One class.
struct Lane {
    limit: Limit,
    bucket: Bucket,
    /// What the limit allows as of the last look.
    shares: Shares,
    looked_at_ms: Option<u64>,
}

/// One pull that somebody slowed down.
struct Slowed {
    rate: Rate,
    bucket: Bucket,
    /// When it was asked for, where the pull has not begun yet.
    ahead_since_ms: Option<u64>,
}

/// Why bytes may not move yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// They are too many.
    Slowed { ms: u64 },
    /// Nothing of the class moves just now.
    Closed { ms: u64, until_minute: Option<u16> },
}

/// The way of one pull's bytes into this node.
#[derive(Clone)]
pub(crate) struct Gate {
    limits: Limits,
    class: Class,
    urgency: Urgency,
    name: ModelName,
    board: Arc<Board>,
}

// === impl Limits ===

impl Limits {
    /// The configuration is valid; what is not is no limit.
    pub(crate) fn new(
        config: &Config,
        clock: Clock,
        minute_of_week: fn(Timestamp) -> u32,
        strain: watch::Receiver<bool>,
        metrics: Metrics,
    ) -> Self {
        let lane = |class: Class| {
            let limit = config.limit_of(class).parse::<Limit>().unwrap_or_default();
            let shares = Shares { all: Allowed::Everything, background: None };
            Mutex::new(Lane { limit, bucket: Bucket::new(0), shares, looked_at_ms: None })
        };
        Self(Arc::new(Inner {
            lanes: Class::ALL.map(lane),
            pulls: Mutex::default(),
            writing: Mutex::new(Bucket::new(0)),
            strain,
            background: config.limit_background.parse::<Rate>().ok(),
            background_percent: config.limit_background_percent,
            calendar: Calendar { clock, minute_of_week },
            started: Instant::now(),
            metrics,
        }))
    }

    /// Without any limit.
    #[cfg(test)]
    pub(crate) fn unlimited(metrics: Metrics) -> Self {
        Self::new(&Config::default(), Clock::system(), |_| 0, watch::Sender::new(false).subscribe(), metrics)
    }

    /// The way of the bytes of a class into one pull.
    pub(crate) fn gate(&self, class: Class, name: ModelName, board: Arc<Board>) -> Gate {
        Gate { limits: self.clone(), class, urgency: Urgency::Asked, name, board }
    }

    /// Whether nothing of a class moves just now.
    pub(crate) fn is_closed(&self, class: Class) -> bool {
        self.allowed(class) == Allowed::Nothing
    }

    /// What bytes of a class wait for of which nothing moves just now.
    pub(crate) fn window(&self, class: Class) -> Wait {
        Wait::Window { until_minute: self.until_minute(class) }
    }

    /// The classes of which nothing moves just now.
    pub(crate) fn closed(&self) -> Vec<ClosedClass> {
        let closed = Class::ALL.into_iter().filter(|class| self.is_closed(*class));
        let told =
            |class: Class| ClosedClass { key: class.key(), what: class.what(), until_minute: self.until_minute(class) };
        closed.map(told).collect()
    }

    /// Returns when so many bytes may move.
    pub(crate) async fn pass(&self, class: Class, urgency: Urgency, bytes: u64) {
        while let Some(hold) = self.hold(class, urgency, bytes) {
            let (Hold::Slowed { ms } | Hold::Closed { ms, .. }) = hold;
            self.wait(class, ms).await;
        }
    }

    /// Returns when so many bytes of something that has begun may move. That its class is closed meanwhile does not
    /// keep them back: who hands out asks that before he begins, and what he began is short.
    pub(crate) async fn pass_begun(&self, class: Class, urgency: Urgency, bytes: u64) {
        while let Some(Hold::Slowed { ms }) = self.hold(class, urgency, bytes) {
            self.wait(class, ms).await;
        }
    }

    /// Slows a pull down, or lets it go as fast as it can. One that has not begun may begin within a while.
    pub(crate) fn limit_pull(&self, name: &ModelName, rate: Option<Rate>, has_begun: bool) {
        let now_ms = self.now_ms();
        let mut pulls = lock(&self.0.pulls);
        pulls.retain(|_, slowed| !slowed.is_late(now_ms));
        let Some(rate) = rate else {
            pulls.remove(name);
            return;
        };
        if pulls.len() >= SLOWED_MAX && !pulls.contains_key(name) {
            return;
        }
        let slowed = pulls.entry(name.clone()).or_insert_with(|| Slowed::new(rate, now_ms));
        slowed.rate = rate;
        slowed.ahead_since_ms = (!has_begun).then_some(now_ms);
    }

    /// A pull begins, under the limit that somebody has just asked for.
    pub(crate) fn pull_begins(&self, name: &ModelName) {
        let now_ms = self.now_ms();
        let mut pulls = lock(&self.0.pulls);
        pulls.retain(|_, slowed| !slowed.is_late(now_ms));
        if let Some(slowed) = pulls.get_mut(name) {
            slowed.ahead_since_ms = None;
        }
    }

    /// Whether a pull of that name is slowed down, or is to be when it begins.
    pub(crate) fn is_slowed(&self, name: &ModelName) -> bool {
        let now_ms = self.now_ms();
        lock(&self.0.pulls).get(name).is_some_and(|slowed| !slowed.is_late(now_ms))
    }

    /// To what somebody slowed a pull down.
    pub(crate) fn limit_of_pull(&self, name: &ModelName) -> Option<Rate> {
        lock(&self.0.pulls).get(name).map(|slowed| slowed.rate)
    }

    /// Waits before so many bytes are written, while the cluster's log waits for its disk; not for long.
    pub(crate) async fn before_write(&self, bytes: u64) {
        let rate = Rate::of(STRAINED_BYTES_PER_SECOND).map_or(Allowed::Everything, Allowed::Rate);
        let (shares, mut waited_ms) = (Shares { all: rate, background: None }, 0);
        while self.is_strained() && waited_ms < STRAINED_WAIT_MS_MAX {
            let take = lock(&self.0.writing).take(self.now_ms(), shares, Urgency::Asked, bytes);
            let (Take::Wait { ms } | Take::Closed { ms }) = take else { return };
            sleep(Duration::from_millis(ms)).await;
            waited_ms += ms;
        }
    }

    fn is_strained(&self) -> bool {
        *self.0.strain.borrow()
    }

    /// Why so many bytes of a class have to wait; `None`: they may move, and are spent.
    fn hold(&self, class: Class, urgency: Urgency, bytes: u64) -> Option<Hold> {
        let now_ms = self.now_ms();
        let mut lane = self.lane(class);
        let shares = lane.shares;
        let take = lane.bucket.take(now_ms, shares, urgency, bytes);
        drop(lane);
        match take {
            Take::Now => {
                self.0.metrics.moved(class, urgency, bytes);
                None
            }
            Take::Wait { ms } => Some(Hold::Slowed { ms }),
            Take::Closed { ms } => Some(Hold::Closed { ms, until_minute: self.until_minute(class) }),
        }
    }

    /// Waits, and counts it.
    async fn wait(&self, class: Class, ms: u64) {
        let wait = Duration::from_millis(ms);
        self.0.metrics.limited(class, wait);
        sleep(wait).await;
    }

    /// How long so many bytes of a pull that was slowed down have to wait.
    fn hold_pull(&self, name: &ModelName, bytes: u64) -> Option<u64> {
        let now_ms = self.now_ms();
        let mut pulls = lock(&self.0.pulls);
        let slowed = pulls.get_mut(name)?;
        let shares = Shares { all: Allowed::Rate(slowed.rate), background: None };
        match slowed.bucket.take(now_ms, shares, Urgency::Asked, bytes) {
            Take::Now => None,
            Take::Wait { ms } | Take::Closed { ms } => Some(ms),
        }
    }

    fn allowed(&self, class: Class) -> Allowed {
        self.lane(class).shares.all
    }

    /// The minute of the day in which a class that is closed opens.
    fn until_minute(&self, class: Class) -> Option<u16> {
        let minute = self.0.calendar.minute();
        let ahead = self.lane(class).limit.until(minute)?;
        u16::try_from((minute + ahead) % MINUTES_PER_DAY).ok()
    }

    /// A class, with what it allows now.
    fn lane(&self, class: Class) -> MutexGuard<'_, Lane> {
        let (inner, now_ms) = (&*self.0, self.now_ms());
        let mut lane = lock(&inner.lanes[class as usize]);
        if lane.looked_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= LOOK_MS) {
            let all = lane.limit.at(inner.calendar.minute());
            let part = |rate: Rate| rate.percent(inner.background_percent);
            lane.shares = Shares { all, background: all.rate().map_or(inner.background, |rate| Some(part(rate))) };
            lane.looked_at_ms = Some(now_ms);
        }
        lane
    }

    fn now_ms(&self) -> u64 {
        millis(self.0.started.elapsed())
    }
}

// === impl Slowed ===

impl Slowed {
    const fn new(rate: Rate, now_ms: u64) -> Self {
        Self { rate, bucket: Bucket::new(now_ms), ahead_since_ms: None }
    }

    /// Nobody began it in time.
    fn is_late(&self, now_ms: u64) -> bool {
        self.ahead_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) > AHEAD_MS)
    }
}

// === impl Calendar ===

impl Calendar {
    fn minute(&self) -> u32 {
        (self.minute_of_week)(self.clock.now())
    }
}

// === impl Gate ===

impl Gate {
    /// The same way for bytes for which nobody waits.
    #[must_use]
    pub(crate) fn in_background(self) -> Self {
        self.with_urgency(Urgency::Background)
    }

    /// The same way for bytes of this urgency.
    #[must_use]
    pub(crate) fn with_urgency(self, urgency: Urgency) -> Self {
        Self { urgency, ..self }
    }

    /// Whether somebody waits for the bytes.
    pub(crate) const fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// Returns when so many bytes may come. `held` is called whenever they have to wait, at least once a second.
    pub(crate) async fn pass(&self, bytes: u64, mut held: impl FnMut()) {
        let limits = &self.limits;
        while let Some(ms) = limits.hold_pull(&self.name, bytes) {
            held();
            sleep(Duration::from_millis(ms)).await;
        }
        while let Some(hold) = limits.hold(self.class, self.urgency, bytes) {
            held();
            let ms = match hold {
                Hold::Slowed { ms } => ms,
                Hold::Closed { ms, until_minute } => {
                    self.board.wait_for(Wait::Window { until_minute });
                    ms
                }
            };
            limits.wait(self.class, ms).await;
        }
        // Whoever waited for it may have left.
        self.board.window_is_there();
    }

    /// The same for bytes of something that has begun, which a closed class does not keep back.
    pub(crate) async fn pass_begun(&self, bytes: u64, mut held: impl FnMut()) {
        let limits = &self.limits;
        while let Some(ms) = limits.hold_pull(&self.name, bytes) {
            held();
            sleep(Duration::from_millis(ms)).await;
        }
        while let Some(Hold::Slowed { ms }) = limits.hold(self.class, self.urgency, bytes) {
            held();
            limits.wait(self.class, ms).await;
        }
    }

    /// Whether nothing of its class moves just now.
    pub(crate) fn is_closed(&self) -> bool {
        self.limits.is_closed(self.class)
    }

    /// Waits before so many bytes are written, while the cluster's log waits for its disk.
    pub(crate) async fn before_write(&self, bytes: u64) {
        self.limits.before_write(bytes).await;
    }

    /// How many streams share what may come, so that each gets on: as many as there are, or fewer where it is little.
    pub(crate) fn streams(&self, most: u32) -> u32 {
        let class = self.limits.allowed(self.class).rate();
        let least = class.into_iter().chain(self.limits.limit_of_pull(&self.name)).min();
        let Some(rate) = least else { return most };
        u32::try_from(rate.bytes() / BYTES_PER_SECOND_PER_STREAM).unwrap_or(u32::MAX).clamp(1, most.max(1))
    }

    /// Whether a limit keeps anything back just now.
    pub(crate) fn is_limited(&self) -> bool {
        let class = self.limits.allowed(self.class);
        class != Allowed::Everything || self.limits.limit_of_pull(&self.name).is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
