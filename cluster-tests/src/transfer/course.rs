//! One course: a seed sends, nodes receive, and from outside it is seen when each has all of it and what that cost.
//!
//! All systems are looked at in the same way. A node has the file when the place where its system puts what is complete
//! has it, or when the program that fetches it says so or has ended; whether it is the right file is found out
//! afterwards, when no clock runs. A copy that is not the file counts as none.
//!
//! A course ends at its limit, and before that where nothing goes on any more. Who has not the file then is named, with
//! what its program said last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use ollamax_testkit::fake_registry::sha256_of_file;
use ollamax_testkit::{Room, room, wait};
use ollamax_types::Digest;

use super::watched::{Cost, Io, Watched};
use super::words::{says, told_with};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of so many looks one also looks at the memory, and whether anything goes on.
const MEMORY_EACH: u32 = 10;
/// Fewer bytes than that are programs that only keep in touch.
const STEP_BYTES: u64 = 1 << 20;
/// So many without the file are named one by one.
const NAMED_MAX: usize = 3;
/// So much must have left the seed for the transfer to have begun.
pub(super) const BEGUN_BYTES: u64 = 4 << 20;
/// Files that are hashed at once.
const HASHED_AT_ONCE: usize = 2;

/// How a node shows that it has all of it.
#[derive(Debug)]
pub(super) enum Done {
    /// Its program ends.
    Ended,
    /// This file is there.
    Appeared(PathBuf),
    /// These words are in the file into which its program speaks.
    Said(PathBuf, &'static str),
}

/// One that gets the file.
#[derive(Debug)]
pub(super) struct Receiver {
    process: Watched,
    done: Done,
    /// Where it has the file then.
    copy: PathBuf,
    /// The file into which its program speaks.
    said: Option<PathBuf>,
    finished: Option<Duration>,
    is_settled: bool,
}

/// Whose sent bytes are the seed's.
#[derive(Debug)]
pub(super) enum Traffic<'a> {
    Room(&'a Room),
    /// All of this machine's loopback.
    Loopback,
}

/// How long nothing may go on.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    /// What is sent anywhere here goes on.
    pub(super) rooms: &'a [Arc<Room>],
    pub(super) longest: Duration,
}

/// When something last went on.
#[derive(Debug, Default)]
struct Step {
    at: Duration,
    sent_bytes: u64,
    settled: usize,
}

/// All who take part.
#[derive(Debug)]
pub(super) struct Party<'a> {
    pub(super) seed: Watched,
    /// The file into which the seed's program speaks.
    pub(super) seed_said: Option<PathBuf>,
    pub(super) receivers: Vec<Receiver>,
    pub(super) traffic: Traffic<'a>,
    /// `None`: only the limit ends it.
    pub(super) silence: Option<Silence<'a>>,
}

/// What was seen of a course.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outcome {
    /// When each receiver had the file; `None`: it never had, or had another.
    pub(crate) finished: Vec<Option<Duration>>,
    /// When the seed had sent the first of it.
    pub(crate) began: Option<Duration>,
    pub(crate) sent_bytes: u64,
    pub(crate) seed: Cost,
    pub(crate) receivers: Vec<Cost>,
    /// Why not all have it, for people.
    pub(crate) failures: Vec<String>,
}

/// What it took a node to offer a file that was put into the store of its runtime.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Adopted {
    /// From when the file lay there.
    pub(crate) time: Duration,
    pub(crate) cost: Cost,
    pub(crate) io: Io,
}

// === impl Outcome ===

impl Outcome {
    /// Of a course that did not take place: nobody has it.
    pub(crate) fn nothing(nodes: usize, why: String) -> Self {
        Self { finished: vec![None; nodes], failures: vec![why], ..Self::default() }
    }

    /// With what was seen on its way.
    fn seen(self, began: Option<Duration>, sent_bytes: u64) -> Self {
        Self { began, sent_bytes, ..self }
    }

    /// When the last one had it; `None` where one has not.
    pub(crate) fn makespan(&self) -> Option<Duration> {
        let finished: Option<Vec<Duration>> = self.finished.iter().copied().collect();
        finished?.into_iter().max()
    }
}

// === impl Receiver ===

impl Receiver {
    pub(super) const fn new(process: Watched, done: Done, copy: PathBuf) -> Self {
        Self { process, done, copy, said: None, finished: None, is_settled: false }
    }

    /// Its program speaks into this file.
    pub(super) fn speaking(self, said: PathBuf) -> Self {
        Self { said: Some(said), ..self }
    }

    fn look(&mut self, now: Duration) {
        if self.is_settled {
            return;
        }
        let is_done = match &self.done {
            Done::Ended => self.process.is_over(),
            Done::Appeared(path) => path.exists(),
            Done::Said(path, words) => says(path, words),
        };
        if is_done {
            self.finished = Some(now);
        }
        self.is_settled = is_done || self.process.is_over();
    }

    /// When it had the file; else why it has not.
    async fn found(self, number: usize, sha256: Digest) -> Result<Duration, String> {
        let Self { copy, said, finished, is_settled, .. } = self;
        let shown = copy.display().to_string();
        let why = match finished {
            Some(time) => match tokio::task::spawn_blocking(move || sha256_of_file(&copy)).await {
                Ok(Ok(found)) if found == sha256 => return Ok(time),
                Ok(Ok(_)) => "is done, and what it has is not the file".to_owned(),
                Ok(Err(error)) => format!("is done without the file: {shown}: {error:#}"),
                Err(error) => format!("is done, and its file could not be read: {error}"),
            },
            None if is_settled => "ended before it had the file".to_owned(),
            None => "had not the file at the end".to_owned(),
        };
        Err(told_with(&format!("node {number} {why}"), said.as_deref()))
    }
}

// === impl Traffic ===

impl Traffic<'_> {
    fn sent_bytes(&self) -> Result<u64> {
        match self {
            Self::Room(room) => room.sent_bytes(),
            Self::Loopback => room::sent_bytes("/proc/net/dev".as_ref(), "lo"),
        }
    }
}

// === impl Silence ===

impl Silence<'_> {
    fn sent_bytes(&self) -> Result<u64> {
        self.rooms.iter().map(|room| room.sent_bytes()).sum()
    }
}

// === impl Step ===

impl Step {
    /// How long ago it is, by what has been sent and how many have ended now.
    fn age(&mut self, now: Duration, sent_bytes: u64, settled: usize) -> Duration {
        if settled > self.settled || sent_bytes >= self.sent_bytes.saturating_add(STEP_BYTES) {
            *self = Self { at: now, sent_bytes, settled };
        }
        now.saturating_sub(self.at)
    }
}

// === impl Party ===

impl Party<'_> {
    /// Looks until every receiver has it or has ended, nothing goes on any more, or this much time is over since
    /// `begin`; then at the copies.
    pub(super) async fn follow(mut self, begin: Instant, limit: Duration, sha256: Digest) -> Result<Outcome> {
        let before = self.traffic.sent_bytes()?;
        let (mut began, mut looks, mut step) = (None, 0_u32, Step::default());
        loop {
            let now = begin.elapsed();
            for receiver in &mut self.receivers {
                receiver.look(now);
            }
            let sent = self.traffic.sent_bytes()?.saturating_sub(before);
            began = began.or_else(|| (sent >= BEGUN_BYTES).then_some(now));
            let are_settled = self.receivers.iter().all(|receiver| receiver.is_settled);
            let mut why = (now >= limit).then(|| format!("it was ended after {} s", limit.as_secs_f64()));
            if looks.is_multiple_of(MEMORY_EACH) && why.is_none() {
                why = self.gone_silent(&mut step, now)?;
            }
            let is_over = are_settled || why.is_some();
            if is_over || looks.is_multiple_of(MEMORY_EACH) {
                self.look();
            }
            if is_over {
                let why = why.filter(|_| !are_settled);
                return Ok(self.outcome(sha256, why).await.seen(began, sent));
            }
            looks = looks.wrapping_add(1);
            wait::pause(LOOK_EVERY).await;
        }
    }

    /// Looks at what everybody uses.
    fn look(&mut self) {
        self.seed.look();
        self.receivers.iter_mut().for_each(|receiver| receiver.process.look());
    }

    /// That nothing has gone on for too long, if so.
    fn gone_silent(&self, step: &mut Step, now: Duration) -> Result<Option<String>> {
        let Some(silence) = &self.silence else { return Ok(None) };
        let settled = self.receivers.iter().filter(|receiver| receiver.is_settled).count();
        let longest = silence.longest;
        let is_silent = step.age(now, silence.sent_bytes()?, settled) > longest;
        Ok(is_silent.then(|| format!("nothing went on for {} s, so it was ended", longest.as_secs_f64())))
    }

    /// What is found in the end. `cut`: why it was ended before all were done.
    async fn outcome(mut self, sha256: Digest, cut: Option<String>) -> Outcome {
        let (seed, receivers) = (self.seed.cost(), self.receivers.iter().map(|it| it.process.cost()).collect());
        let seed_state = if self.seed.is_over() { "had ended" } else { "still ran" };
        let found = self.receivers.into_iter().zip(1..).map(|(receiver, number)| receiver.found(number, sha256));
        let found: Vec<Result<Duration, String>> = stream::iter(found).buffered(HASHED_AT_ONCE).collect().await;
        let finished: Vec<Option<Duration>> = found.iter().map(|found| found.as_ref().ok().copied()).collect();
        let without: Vec<String> = found.into_iter().filter_map(Result::err).collect();
        let mut failures: Vec<String> = cut.into_iter().collect();
        if !without.is_empty() && self.seed_said.is_some() {
            failures.push(told_with(&format!("the one that gave it {seed_state}"), self.seed_said.as_deref()));
        }
        failures.extend(named(without));
        Outcome { finished, seed, receivers, failures, ..Outcome::default() }
    }
}

/// Not all of what is told of many that fail alike.
fn named(mut without: Vec<String>) -> Vec<String> {
    let more = without.len().saturating_sub(NAMED_MAX);
    without.truncate(NAMED_MAX);
    if more > 0 {
        without.push(format!("{more} more nodes had not the file"));
    }
    without
}

/// The process of a child that was started for this course.
pub(super) fn watched(child: &tokio::process::Child) -> Result<Watched> {
    Watched::from_its_start(child.id().context("it has ended")?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Stdio;

    use tokio::process::{Child, Command};

    use super::*;

    /// Longer than any of these courses takes.
    const LONG: Duration = Duration::from_secs(60);

    /// A program that lasts until its input is closed.
    fn waiting() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("there is cat")
    }

    fn receiver(child: &Child, done: Done, copy: &Path) -> Receiver {
        Receiver::new(watched(child).expect("it runs"), done, copy.to_owned())
    }

    fn party(seed: &Child, receivers: Vec<Receiver>) -> Party<'static> {
        let seed = watched(seed).expect("it runs");
        Party { seed, seed_said: None, receivers, traffic: Traffic::Loopback, silence: None }
    }

    #[tokio::test]
    async fn a_copy_counts_when_it_is_complete_and_the_file() {
        let temp = tempfile::tempdir().expect("temp");
        let file = |name: &str, text: &str| {
            fs::write(temp.path().join(name), text).expect("room");
            temp.path().join(name)
        };
        let (good, bad) = (file("good", "whole"), file("bad", "whale"));
        let sha256 = sha256_of_file(&good).expect("written");
        let said = file("log", "one line\nall of it is here\n");
        let (seed, right, wrong, ends) = (waiting(), waiting(), waiting(), waiting());
        let absent = temp.path().join("absent");
        let receivers = vec![
            receiver(&right, Done::Appeared(good.clone()), &good),
            receiver(&wrong, Done::Appeared(bad.clone()), &bad),
            receiver(&ends, Done::Ended, &good),
            receiver(&right, Done::Appeared(absent.clone()), &absent),
            receiver(&right, Done::Said(said.clone(), "all of it"), &good),
            receiver(&right, Done::Said(said, "nothing"), &good),
        ];
        // It ends when nobody writes to it any more.
        drop(ends);
        let party = party(&seed, receivers);
        let limit = Duration::from_millis(300);
        let outcome = party.follow(Instant::now(), limit, sha256).await.expect("looked at");
        let found: Vec<bool> = outcome.finished.iter().map(Option::is_some).collect();
        assert_eq!(found, [true, false, true, false, true, false]);
        assert_eq!(outcome.makespan(), None, "three have nothing");
        assert!(outcome.seed.peak_bytes > 0 && outcome.receivers.len() == 6);
        let expected = [
            "it was ended after 0.3 s",
            "node 2 is done, and what it has is not the file",
            "node 4 had not the file at the end",
            "node 6 had not the file at the end",
        ];
        assert_eq!(outcome.failures, expected);
    }

    #[tokio::test]
    async fn a_course_in_which_nothing_goes_on_ends_before_its_limit() {
        let temp = tempfile::tempdir().expect("temp");
        let (absent, said) = (temp.path().join("absent"), temp.path().join("said"));
        fs::write(&said, "error: no route\n").expect("room");
        let (seed, stuck) = (waiting(), waiting());
        let receivers = vec![receiver(&stuck, Done::Appeared(absent.clone()), &absent).speaking(said.clone())];
        let silence = Some(Silence { rooms: &[], longest: Duration::from_millis(50) });
        let party = Party { silence, seed_said: Some(said), ..party(&seed, receivers) };
        let outcome = party.follow(Instant::now(), LONG, Digest::default()).await.expect("looked at");
        let expected = [
            "nothing went on for 0.05 s, so it was ended",
            "the one that gave it still ran; its last words: error: no route",
            "node 1 had not the file at the end; its last words: error: no route",
        ];
        assert_eq!(outcome.failures, expected);
    }

    #[tokio::test]
    async fn one_that_ends_without_the_file_is_named_and_so_is_a_seed_that_has_ended() {
        let temp = tempfile::tempdir().expect("temp");
        let (absent, said) = (temp.path().join("absent"), temp.path().join("said"));
        fs::write(&said, "panicked\n").expect("room");
        let (mut seed, fails, stops) = (waiting(), waiting(), waiting());
        let receivers = vec![
            receiver(&fails, Done::Ended, &absent).speaking(said.clone()),
            receiver(&stops, Done::Said(said.clone(), "complete"), &absent).speaking(said.clone()),
        ];
        let party = Party { seed_said: Some(said), ..party(&seed, receivers) };
        seed.kill().await.expect("it ran");
        drop((fails, stops));
        let outcome = party.follow(Instant::now(), LONG, Digest::default()).await.expect("looked at");
        let [giver, first, second] = &outcome.failures[..] else { panic!("{:?}", outcome.failures) };
        assert_eq!(giver, "the one that gave it had ended; its last words: panicked");
        assert!(first.starts_with("node 1 is done without the file: ") && first.ends_with("panicked"), "{first}");
        assert_eq!(second, "node 2 ended before it had the file; its last words: panicked");
    }

    #[test]
    fn bytes_and_receivers_that_are_done_are_steps_and_keeping_in_touch_is_none() {
        let (mut step, second) = (Step::default(), Duration::from_secs(1));
        for (now, sent_bytes, settled, age) in [
            (0, 5 * STEP_BYTES, 0, 0),
            (1, 5 * STEP_BYTES + 1, 0, 1),
            (2, 6 * STEP_BYTES - 1, 0, 2),
            (3, 6 * STEP_BYTES, 0, 0),
            (4, 6 * STEP_BYTES, 0, 1),
            (5, 6 * STEP_BYTES, 1, 0),
            (9, 6 * STEP_BYTES, 1, 4),
        ] {
            assert_eq!(step.age(second * now, sent_bytes, settled), second * age, "at {now} s");
        }
    }

    #[test]
    fn of_many_without_the_file_the_first_are_named() {
        let without = |count: usize| (1..=count).map(|number| format!("node {number}")).collect::<Vec<_>>();
        assert_eq!(named(without(3)), without(3));
        let all = named(without(8));
        assert_eq!(all.split_last(), Some((&"5 more nodes had not the file".to_owned(), &without(3)[..])));
    }

    #[test]
    fn the_last_one_decides() {
        let (second, nothing) = (Duration::from_secs(1), Outcome::nothing(2, "no".to_owned()));
        assert_eq!(nothing.makespan(), None);
        let all = Outcome { finished: vec![Some(second * 3), Some(second)], ..nothing };
        assert_eq!(all.makespan(), Some(second * 3));
    }
}
