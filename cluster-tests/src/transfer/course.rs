//! One course: a seed sends, nodes receive, and from outside it is seen when each has all of it and what that cost.
//!
//! All systems are looked at in the same way. A node has the file when the place where its system puts what is complete
//! has it, or when the program that fetches it says so or has ended; whether it is the right file is found out
//! afterwards, when no clock runs. A copy that is not the file counts as none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use ollamax_testkit::fake_registry::sha256_of_file;
use ollamax_testkit::{Room, room, wait};
use ollamax_types::Digest;

use super::watched::{Cost, Io, Watched};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of so many looks one also looks at the memory.
const MEMORY_EACH: u32 = 10;
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

/// All who take part.
#[derive(Debug)]
pub(super) struct Party<'a> {
    pub(super) seed: Watched,
    pub(super) receivers: Vec<Receiver>,
    pub(super) traffic: Traffic<'a>,
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
    pub(crate) fn nothing(nodes: usize) -> Self {
        Self { finished: vec![None; nodes], ..Self::default() }
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
        Self { process, done, copy, finished: None, is_settled: false }
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

// === impl Party ===

impl Party<'_> {
    /// Looks until every receiver has it or has ended, or this much time is over since `begin`; then at the copies.
    pub(super) async fn follow(mut self, begin: Instant, limit: Duration, sha256: Digest) -> Result<Outcome> {
        let before = self.traffic.sent_bytes()?;
        let (mut began, mut looks) = (None, 0_u32);
        loop {
            let now = begin.elapsed();
            for receiver in &mut self.receivers {
                receiver.look(now);
            }
            let sent = self.traffic.sent_bytes()?.saturating_sub(before);
            began = began.or_else(|| (sent >= BEGUN_BYTES).then_some(now));
            let is_over = now >= limit || self.receivers.iter().all(|receiver| receiver.is_settled);
            if is_over || looks.is_multiple_of(MEMORY_EACH) {
                self.look();
            }
            if is_over {
                return self.outcome(sha256, began, sent).await;
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

    async fn outcome(self, sha256: Digest, began: Option<Duration>, sent_bytes: u64) -> Result<Outcome> {
        let (seed, receivers) = (self.seed.cost(), self.receivers.iter().map(|it| it.process.cost()).collect());
        let hashed = self.receivers.into_iter().map(|Receiver { copy, finished, .. }| async move {
            let finished = finished?;
            let found = tokio::task::spawn_blocking(move || sha256_of_file(&copy)).await.ok()?.ok()?;
            (found == sha256).then_some(finished)
        });
        let finished: Vec<Option<Duration>> = stream::iter(hashed).buffered(HASHED_AT_ONCE).collect().await;
        Ok(Outcome { finished, began, sent_bytes, seed, receivers })
    }
}

/// Whether a program has said these words into a file.
pub(super) fn says(path: &Path, words: &str) -> bool {
    // What has just been begun may end within a letter; the next look sees all of it.
    fs::read_to_string(path).is_ok_and(|said| said.contains(words))
}

/// The process of a child that was started for this course.
pub(super) fn watched(child: &tokio::process::Child) -> Result<Watched> {
    Watched::from_its_start(child.id().context("it has ended")?)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::process::{Child, Command};

    use super::*;

    /// A program that lasts until its input is closed.
    fn waiting() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("there is cat")
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
        let receiver = |child: &Child, done: Done, copy: &PathBuf| {
            Receiver::new(watched(child).expect("it runs"), done, copy.clone())
        };
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
        let party = Party { seed: watched(&seed).expect("it runs"), receivers, traffic: Traffic::Loopback };
        let limit = Duration::from_millis(300);
        let outcome = party.follow(Instant::now(), limit, sha256).await.expect("looked at");
        let found: Vec<bool> = outcome.finished.iter().map(Option::is_some).collect();
        assert_eq!(found, [true, false, true, false, true, false]);
        assert_eq!(outcome.makespan(), None, "three have nothing");
        assert!(outcome.seed.peak_bytes > 0 && outcome.receivers.len() == 6);
    }

    #[test]
    fn the_last_one_decides() {
        let (second, nothing) = (Duration::from_secs(1), Outcome::nothing(2));
        assert_eq!(nothing.makespan(), None);
        let all = Outcome { finished: vec![Some(second * 3), Some(second)], ..nothing };
        assert_eq!(all.makespan(), Some(second * 3));
    }
}
