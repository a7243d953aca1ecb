//! How long nobody can write when the leader is lost: a write begins every 10 ms, at the two other nodes in turn and
//! whether or not earlier ones were answered, while the leader is killed, stopped, or asked to hand over.
//!
//! After a kill the gap goes from the kill to the first acknowledgement of a write that began after it; otherwise it is
//! the longest time between two acknowledgements. Every write is a fresh one: none is sent again by the generator.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use ollamax_testkit::wait;

use super::door::{Door, Fresh};
use super::etcd::Program;
use super::plan::{NODES, Pace, Plan, SMALL_BYTES, Which, key};
use super::system::System;

const EVERY: Duration = Duration::from_millis(10);
/// How long writes go on before the leader is lost, and after the last that is waited for.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(1);
/// Longest wait for a write to be acknowledged again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most writes of one trial, more than its longest waits allow.
const WRITES_MAX: u32 = 20_000;

/// How the leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// It is asked to, and goes on as a follower.
    HandOver,
}

// === impl Event ===

impl Event {
    pub(crate) const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::HandOver];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the leader",
            Self::Stop => "graceful stop of the leader",
            Self::HandOver => "hand-over of leadership",
        }
    }
}

/// One write of a trial, in time since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    began: Duration,
    ended: Duration,
    acknowledged: bool,
}

/// What one trial showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trial {
    /// `None`: nothing was acknowledged again in time.
    pub(crate) gap: Option<Duration>,
    pub(crate) failed: u64,
}

/// All trials of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Trials {
    pub(crate) which: Which,
    pub(crate) pace: Pace,
    pub(crate) event: Event,
    pub(crate) trials: Vec<Trial>,
}

/// Kills at both paces; stops and hand-overs, which do not wait for a timeout, at the default one.
pub(crate) async fn measure(plan: &Plan, program: &Program) -> Result<Vec<Trials>> {
    let mut found = Vec::new();
    for pace in Pace::BOTH {
        let events = Event::ALL.into_iter().filter(|event| pace == Pace::Default || *event == Event::Kill);
        for event in events {
            for which in Which::BOTH {
                let mut system = System::start(which, program, pace).await?;
                let mut trials = Vec::new();
                for _ in 0..plan.failovers {
                    let trial = Box::pin(trial(&mut system, event)).await;
                    trials.push(trial.with_context(|| format!("{}: {}", which.name(), event.name()))?);
                }
                system.finish().await?;
                eprintln!("{}, {}, {}: {trials:?}", which.name(), event.name(), pace.name());
                found.push(Trials { which, pace, event, trials });
            }
        }
    }
    Ok(found)
}

async fn trial(system: &mut System, event: Event) -> Result<Trial> {
    system.whole().await?;
    let leader = system.leader().await?;
    let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
    let doors = others.iter().map(|node| system.door(*node)).collect::<Result<Vec<Door>>>()?;
    for door in &doors {
        // Connections stand before anything is measured.
        door.get(&key(0), Fresh::Linearizable).await.context("read before the trial")?;
    }
    let writer = Writer::begin(doors);
    wait::pause(BEFORE).await;
    let at = writer.begin.elapsed();
    match event {
        Event::Kill => system.kill(leader).await?,
        Event::Stop => system.stop(leader).await?,
        Event::HandOver => system.hand_over(leader, others[0]).await?,
    }
    let again = || async { first_after(&writer.attempts(), at).is_some() };
    let is_back = wait::until_true("a write to be acknowledged", PATIENCE, again).await.is_ok();
    wait::pause(AFTER).await;
    let attempts = writer.finish().await;
    let failed = attempts.iter().filter(|attempt| !attempt.acknowledged).count() as u64;
    let gap = match event {
        Event::Kill => first_after(&attempts, at),
        Event::Stop | Event::HandOver => longest_silence(&attempts, at),
    };
    // A leader that stayed in spite of all has handed nothing over.
    let is_lost = event != Event::HandOver || system.leader().await? != leader;
    if event != Event::HandOver {
        system.restart(leader).await?;
    }
    Ok(Trial { gap: gap.filter(|_| is_back && is_lost), failed })
}

/// The writes of a trial, going on.
#[derive(Debug)]
struct Writer {
    begin: Instant,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    is_over: Arc<AtomicBool>,
    task: JoinSet<()>,
}

// === impl Writer ===

impl Writer {
    fn begin(doors: Vec<Door>) -> Self {
        let (attempts, is_over) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let begin = Instant::now();
        let mut task = JoinSet::new();
        task.spawn(write(doors, begin, Arc::clone(&attempts), Arc::clone(&is_over)));
        Self { begin, attempts, is_over, task }
    }

    fn attempts(&self) -> Vec<Attempt> {
        lock(&self.attempts).clone()
    }

    /// Begins no more, and waits for the answers of those that have begun.
    async fn finish(mut self) -> Vec<Attempt> {
        self.is_over.store(true, Ordering::Relaxed);
        while self.task.join_next().await.is_some() {}
        self.attempts()
    }
}

async fn write(doors: Vec<Door>, begin: Instant, attempts: Arc<Mutex<Vec<Attempt>>>, is_over: Arc<AtomicBool>) {
    let mut writes = JoinSet::new();
    for (number, door) in (0..WRITES_MAX).zip(doors.iter().cycle()) {
        wait::pause_until(begin + EVERY * number).await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (door, attempts) = (door.clone(), Arc::clone(&attempts));
        writes.spawn(async move {
            let began = begin.elapsed();
            let answer = door.put(&key(number as usize), &[b'v'; SMALL_BYTES]).await;
            lock(&attempts).push(Attempt { began, ended: begin.elapsed(), acknowledged: answer.is_ok() });
        });
        // Those that have ended need no place any more.
        while writes.try_join_next().is_some() {}
    }
    while writes.join_next().await.is_some() {}
}

/// A poisoned lock means that a write panicked while it held it; what it guards is still whole.
fn lock(attempts: &Mutex<Vec<Attempt>>) -> MutexGuard<'_, Vec<Attempt>> {
    attempts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the event to the first acknowledgement of a write that began after it.
fn first_after(attempts: &[Attempt], event: Duration) -> Option<Duration> {
    let later = attempts.iter().filter(|attempt| attempt.acknowledged && attempt.began >= event);
    later.map(|attempt| attempt.ended - event).min()
}

/// The longest time between two acknowledgements in a row, of which the later came after the event.
fn longest_silence(attempts: &[Attempt], event: Duration) -> Option<Duration> {
    let mut ended: Vec<Duration> = attempts.iter().filter(|it| it.acknowledged).map(|it| it.ended).collect();
    ended.sort();
    let pairs = ended.windows(2).filter(|pair| pair[1] >= event);
    pairs.map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(list: &[(u64, u64, bool)]) -> Vec<Attempt> {
        let ms = Duration::from_millis;
        let attempt =
            |&(began, ended, acknowledged): &(_, _, _)| Attempt { began: ms(began), ended: ms(ended), acknowledged };
        list.iter().map(attempt).collect()
    }

    #[test]
    fn after_a_kill_only_writes_that_began_later_count() {
        let event = Duration::from_millis(100);
        let list = attempts(&[(80, 90, true), (95, 300, true), (110, 900, true), (120, 850, true), (130, 200, false)]);
        assert_eq!(first_after(&list, event), Some(Duration::from_millis(750)));
        assert_eq!(first_after(&list[..2], event), None);
    }

    #[test]
    fn otherwise_the_longest_silence_counts_that_ends_after_the_event() {
        let event = Duration::from_millis(100);
        // 60 ms before the event, then 12, 50 across a failure, 5; in the order in which they were answered or not.
        let list = attempts(&[(0, 10, true), (60, 70, true), (90, 95, true), (100, 107, true), (110, 115, false)]);
        let list = [list, attempts(&[(112, 157, true), (150, 162, true)])].concat();
        assert_eq!(longest_silence(&list, event), Some(Duration::from_millis(50)));
        assert_eq!(longest_silence(&list[..3], event), None);
        assert_eq!(longest_silence(&[], event), None);
    }
}
