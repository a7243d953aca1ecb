//! The load generator, one for both systems. Closed: every client asks again when it was answered, which finds the
//! maximum. Open: requests are due at fixed moments whether or not earlier ones were answered, and latency counts from
//! the moment that was planned, so that a stall is paid by every request that should have been made meanwhile.
//!
//! What begins before the warm-up is over or, in a closed load, ends after the end is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use ollamax_testkit::wait;

use super::cost::{Cost, Used};
use super::door::{Door, Fresh};
use super::histogram::Histogram;
use super::plan::{Case, LARGE_BYTES, MIXED_PUT_EVERY, SMALL_BYTES, key};

/// How long a client that was refused waits before it asks again.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// The timer wakes a client up to one step late; that is no latency of the system.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// How long after its end an open load may still work off what was due before.
const GRACE: Duration = Duration::from_secs(30);
/// How the keys of one client follow each other; it has no divisor in common with their number.
const STRIDE: usize = 617;
/// How far apart the keys of two clients begin.
const APART: usize = 389;
/// Rows of a list: keys that begin with this, and how many there are.
const LISTED: &str = "user/0";
const ROWS: u32 = 100;
/// Bytes of the key and of the value that `etcdctl check perf` puts.
const PERF_KEY_BYTES: usize = 256;
const PERF_VALUE_BYTES: usize = 1_024;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Case(Case),
    /// Linearizable lists of 100 rows.
    List,
    /// Puts of the size that `etcdctl check perf` uses.
    Perf,
}

/// A load: who asks what, through which connections, how long.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) job: Job,
    pub(crate) clients: usize,
    /// Shared by the clients; never empty.
    pub(crate) doors: Vec<Door>,
    pub(crate) warm: Duration,
    pub(crate) time: Duration,
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) latencies: Histogram,
    pub(crate) failed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) cost: Cost,
    /// What the first failure said.
    pub(crate) complaint: Option<String>,
}

// === impl Measured ===

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.total() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn fail(&mut self, status: &Status) {
        self.failed += 1;
        self.complaint.get_or_insert_with(|| format!("{}: {}", status.code(), status.message()));
    }

    fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.failed += other.failed;
        self.complaint = self.complaint.take().or(other.complaint);
    }
}

/// One client and what it remembers.
#[derive(Debug)]
struct Client {
    job: Job,
    number: usize,
    step: usize,
    value: Vec<u8>,
    /// Of its own key, which nobody else swaps.
    modified: Option<u64>,
}

// === impl Client ===

impl Client {
    fn new(job: Job, number: usize) -> Self {
        let bytes = match job {
            Job::Case(Case::PutLarge) => LARGE_BYTES,
            Job::Perf => PERF_VALUE_BYTES,
            Job::Case(Case::Put | Case::Swap | Case::Get | Case::GetStale | Case::Mixed) | Job::List => SMALL_BYTES,
        };
        Self { job, number, step: 0, value: vec![b'v'; bytes], modified: None }
    }

    /// One request and its answer.
    async fn ask(&mut self, door: &Door) -> Result<(), Status> {
        let key = key(self.number * APART + self.step * STRIDE);
        self.step += 1;
        match self.job {
            Job::Case(Case::Put | Case::PutLarge) => door.put(&key, &self.value).await,
            Job::Case(Case::Swap) => self.swap(door).await,
            Job::Case(Case::Get) => door.get(&key, Fresh::Linearizable).await.map(drop),
            Job::Case(Case::GetStale) => door.get(&key, Fresh::Stale).await.map(drop),
            Job::Case(Case::Mixed) if self.puts() => door.put(&key, &self.value).await,
            Job::Case(Case::Mixed) => door.get(&key, Fresh::Linearizable).await.map(drop),
            Job::List => door.list(LISTED, ROWS).await,
            Job::Perf => door.put(&format!("{key:-<PERF_KEY_BYTES$}"), &self.value).await,
        }
    }

    /// Whether it is the turn of a put in the mixed load; the clients do not put all at once.
    fn puts(&self) -> bool {
        (self.step + self.number).is_multiple_of(MIXED_PUT_EVERY)
    }

    /// The first swap of a client, and the first after a failure, reads where its key stands.
    async fn swap(&mut self, door: &Door) -> Result<(), Status> {
        let key = key(self.number);
        let modified = match self.modified.take() {
            Some(modified) => modified,
            None => door.get(&key, Fresh::Linearizable).await?,
        };
        self.modified = door.swap(&key, modified, &self.value).await?;
        self.modified.map(drop).ok_or_else(|| Status::aborted("a key that nobody else changes was changed"))
    }
}

/// When a load warms up, is counted and ends.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    begin: Instant,
    end: Instant,
}

impl Window {
    fn of(load: &Load) -> Self {
        let start = Instant::now();
        let begin = start + load.warm;
        Self { start, begin, end: begin + load.time }
    }
}

/// Every client asks as fast as it is answered.
pub(crate) async fn closed(load: &Load, daemons: &[u32]) -> Result<Measured> {
    let window = Window::of(load);
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let door = load.doors[number % load.doors.len()].clone();
        clients.spawn(ask_again(Client::new(load.job, number), door, window));
    }
    collect(clients, window, daemons).await
}

async fn ask_again(mut client: Client, door: Door, window: Window) -> Measured {
    let mut measured = Measured::default();
    while Instant::now() < window.end {
        let begin = Instant::now();
        let answer = client.ask(&door).await;
        let counts = begin >= window.begin && Instant::now() <= window.end;
        match answer {
            Ok(()) if counts => measured.latencies.add(begin.elapsed()),
            Ok(()) => {}
            Err(status) => {
                // A failure counts whenever it happens: a load that was refused while warming up was refused.
                measured.fail(&status);
                wait::pause(AFTER_FAILURE).await;
            }
        }
    }
    measured
}

/// `per_second` requests, due at even distances; the clients only bound how many are made at once.
pub(crate) async fn open(load: &Load, per_second: f64, daemons: &[u32]) -> Result<Measured> {
    let window = Window::of(load);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let door = load.doors[number % load.doors.len()].clone();
        let client = Client::new(load.job, number);
        clients.spawn(ask_when_due(client, door, window, per_second, Arc::clone(&next)));
    }
    let measured = collect(clients, window, daemons).await?;
    // What was due before the end may have been answered after it.
    Ok(Measured { elapsed: Instant::now().max(window.end) - window.begin, ..measured })
}

async fn ask_when_due(
    mut client: Client,
    door: Door,
    window: Window,
    per_second: f64,
    next: Arc<AtomicU64>,
) -> Measured {
    let mut measured = Measured::default();
    loop {
        let due = window.start + due_after(next.fetch_add(1, Ordering::Relaxed), per_second);
        if due >= window.end {
            return measured;
        }
        let taken = Instant::now();
        if taken > window.end + GRACE {
            measured.fail(&Status::deadline_exceeded("not even asked: too much was waiting before it"));
            continue;
        }
        wait::pause_until(due).await;
        let begin = charged_from(due, taken, Instant::now());
        let answer = client.ask(&door).await;
        match answer {
            Ok(()) if due >= window.begin => measured.latencies.add(begin.elapsed()),
            Ok(()) => {}
            Err(status) => measured.fail(&status),
        }
    }
}

/// When request `number` is due.
pub(crate) fn due_after(number: u64, per_second: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / per_second)
}

/// The moment from which latency counts: the planned one. Only what the timer itself was late, at most one step, is
/// taken off, and only for a client that had been waiting for the moment.
pub(crate) fn charged_from(due: Instant, taken: Instant, woke: Instant) -> Instant {
    if taken < due { woke.min(due + TIMER_STEP).max(due) } else { due }
}

/// Looks at the costs where the window begins and ends, and puts together what the clients found.
async fn collect(mut clients: JoinSet<Measured>, window: Window, daemons: &[u32]) -> Result<Measured> {
    wait::pause_until(window.begin).await;
    let used = Used::now(daemons)?;
    wait::pause_until(window.end).await;
    let cost = used.until_now(daemons)?;
    let mut total = Measured { cost, elapsed: window.end - window.begin, ..Measured::default() };
    while let Some(one) = clients.join_next().await {
        total.merge(one.context("a client of the load ended badly")?);
    }
    if let Some(complaint) = &total.complaint {
        eprintln!("{} requests failed, for instance: {complaint}", total.failed);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_an_open_load_are_due_at_even_distances() {
        let due: Vec<u128> = (0..4).map(|number| due_after(number, 400.0).as_micros()).collect();
        assert_eq!(due, [0, 2_500, 5_000, 7_500]);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_the_planned_moment_less_one_step_of_the_timer() {
        let due = Instant::now() + Duration::from_secs(1);
        let at = |ms: i64| {
            let by = Duration::from_millis(ms.unsigned_abs());
            if ms < 0 { due - by } else { due + by }
        };
        let check = |taken: i64, woke: i64, expected: i64| {
            assert_eq!(charged_from(due, at(taken), at(woke)), at(expected), "{taken} {woke}");
        };
        check(-5, 0, 0);
        check(-5, 1, 1);
        check(-5, 40, 1);
        // Nobody was free at the time: all of the delay counts.
        check(30, 30, 0);
        check(0, 1, 0);
    }

    #[test]
    fn one_of_ten_requests_of_the_mixed_load_is_a_put() {
        let mut client = Client::new(Job::Case(Case::Mixed), 3);
        let puts = (0..100).filter(|step| {
            client.step = *step;
            client.puts()
        });
        assert_eq!(puts.count(), 10);
    }

    #[test]
    fn a_client_goes_through_all_keys() {
        let mut keys: Vec<String> = (0..crate::against::plan::KEYS).map(|step| key(APART + step * STRIDE)).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), crate::against::plan::KEYS);
    }

    #[test]
    fn failures_of_all_clients_are_counted_and_the_first_is_told() {
        let mut total = Measured { elapsed: Duration::from_secs(2), ..Measured::default() };
        for text in ["a", "b"] {
            let mut one = Measured::default();
            one.latencies.add(Duration::from_millis(1));
            one.fail(&Status::unavailable(text));
            total.merge(one);
        }
        assert_eq!(total.failed, 2);
        assert!((total.per_second() - 1.0).abs() < 1e-9);
        assert!(total.complaint.is_some_and(|complaint| complaint.ends_with(": a")));
    }
}
