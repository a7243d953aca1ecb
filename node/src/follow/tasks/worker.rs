//! Works at the tasks that the record gives to this node, and says so again and again.
//!
//! Always: what works here is told in one command, three times in a lease; what could not be told is let go a little
//! before its lease is over, since another node may have it then. What failed because of something that passes is done
//! again in the same attempt, as long as the lease is kept. How a task ended is told until the record takes it or has
//! moved. A node that stops ends nothing: its leases run out. The tasks are read only where that may find something
//! else than the last time.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Fault, Refusal, Task, TaskOutcome, TaskTold};
use ollamax_metadata::{Committed, ProposeError};
use ollamax_security::draw_request_id;
use ollamax_tools::progress::{Progress, Step};
use ollamax_tools::work::Work;
use ollamax_tools::{Caller, Principal, ToolError};
use ollamax_types::limits::TASK_LEASE;
use ollamax_types::{ErrorCode, TaskId, Timestamp};

use super::desk::{self, Deed, Held, Look, Stage};
use super::{Bench, Record};
use crate::follow::pause_after;

/// Parts of a lease after which it is renewed.
const TELLS_IN_A_LEASE: u32 = 3;
/// Pause before what was not taken is told again.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Pause before work is done again that failed because of something that passes.
const WORK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So long nobody else has what was told last; the rest of the lease is for what is broken off.
const LET_GO_AFTER: Duration = TASK_LEASE.saturating_sub(Duration::from_secs(1));

/// A task that this node has to do with.
struct Job {
    /// None of this process has the same.
    number: u64,
    held: Held,
    renewed_at: Instant,
    /// Breaks it off.
    gone: CancellationToken,
    /// Asks it to stop.
    cancelled: CancellationToken,
    steps: watch::Receiver<Step>,
}

/// What the last look at the record found.
struct Looked {
    /// Index of the entry that had changed a task last.
    changed_at: u64,
    /// The revision up to which it was complete.
    revision: u64,
}

/// What wakes the loop.
enum Event {
    Changed,
    Look,
    Tell,
    LetGo,
    /// A job came to its end: on record from this revision on, or not at all.
    Worked(TaskId, u64, Option<u64>),
    /// Leases were renewed, or not.
    Told(Vec<TaskTold>, Instant, Result<(), ProposeError>),
}

/// The loop's state.
struct Worker {
    record: Arc<dyn Record>,
    bench: Arc<dyn Bench>,
    stop: CancellationToken,
    since: Timestamp,
    jobs: BTreeMap<TaskId, Job>,
    /// `None`: the next look reads the tasks, whatever has changed.
    looked: Option<Looked>,
    begun: u64,
    is_telling: bool,
    under_way: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// Works until `stop`.
pub(super) async fn work(record: Arc<dyn Record>, bench: Arc<dyn Bench>, stop: CancellationToken) {
    let mut changes = record.changes();
    let mut worker = Worker::new(record, bench, stop.clone());
    let between_tells = TASK_LEASE / TELLS_IN_A_LEASE;
    let mut tells = interval_at(Instant::now() + between_tells, between_tells);
    tells.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_due, mut look_at) = (true, Instant::now());
    loop {
        let lease_ends = worker.lease_ends();
        let event = tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed(), if !is_due => match changed {
                Ok(()) => Event::Changed,
                Err(_) => return,
            },
            () = sleep_until(look_at), if is_due => Event::Look,
            Some(event) = worker.under_way.next(), if !worker.under_way.is_empty() => event,
            _ = tells.tick() => Event::Tell,
            () = lease_ends => Event::LetGo,
        };
        match event {
            Event::Changed => is_due = true,
            Event::Look => {
                changes.borrow_and_update();
                let began = Instant::now();
                if let Err(fault) = worker.look() {
                    tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the tasks");
                }
                (is_due, look_at) = (false, Instant::now() + pause_after(began.elapsed()));
            }
            Event::Tell => worker.tell(),
            Event::LetGo => worker.let_go(),
            Event::Worked(id, number, revision) => {
                worker.worked(id, number, revision);
                is_due = true;
            }
            Event::Told(tasks, at, outcome) => {
                if outcome.is_err() {
                    tells.reset_after(TELL_AGAIN_AFTER);
                }
                worker.told(&tasks, at, outcome);
            }
        }
    }
}

// === impl Worker ===

impl Worker {
    fn new(record: Arc<dyn Record>, bench: Arc<dyn Bench>, stop: CancellationToken) -> Self {
        let since = record.log_time();
        let (jobs, under_way) = (BTreeMap::new(), FuturesUnordered::new());
        Self { record, bench, stop, since, jobs, looked: None, begun: 0, is_telling: false, under_way }
    }

    /// Does what follows from the record.
    fn look(&mut self) -> Result<(), Fault> {
        // Read first: what changes behind it is found by the next look.
        let changed_at = self.record.tasks_changed_at()?;
        if self.looked.as_ref().is_some_and(|looked| self.would_find_the_same(looked, changed_at)) {
            return Ok(());
        }
        let (tasks, revision) = self.record.tasks()?;
        self.looked = Some(Looked { changed_at, revision });
        let look = Look { node: self.record.node(), since: self.since, tasks: &tasks, revision };
        let held = self.jobs.iter().map(|(id, job)| (*id, job.held)).collect();
        for deed in look.deeds(&held) {
            match deed {
                Deed::Begin(task) => self.begin(*task),
                Deed::Cancel(id) => {
                    if let Some(job) = self.jobs.get(&id) {
                        job.cancelled.cancel();
                    }
                }
                Deed::Drop(id) => {
                    if let Some(job) = self.jobs.remove(&id) {
                        job.gone.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether nothing follows now that did not follow from the last look: no task has changed, and there is no end
    /// that was on record only later than that.
    fn would_find_the_same(&self, looked: &Looked, changed_at: u64) -> bool {
        let is_later = |job: &Job| matches!(job.held.stage, Stage::Ended(at) if at > looked.revision);
        looked.changed_at == changed_at && !self.jobs.values().any(is_later)
    }

    fn begin(&mut self, task: Task) {
        let (progress, steps) = Progress::channel();
        let (gone, cancelled) = (CancellationToken::new(), CancellationToken::new());
        // Whoever had it before may have begun something that its work must end.
        if task.cancel_asked {
            cancelled.cancel();
        }
        let (id, number) = (task.id, self.begun);
        self.begun += 1;
        let held = Held { attempt: task.attempt, stage: Stage::Works };
        // Its lease runs since it was given, however late that is seen here; a clock that is ahead may take little of
        // it.
        let age = Duration::from_millis(self.record.log_time().0.saturating_sub(task.updated_at.0));
        let age = age.min(TASK_LEASE / TELLS_IN_A_LEASE);
        let renewed_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let job = Job { number, held, renewed_at, gone: gone.clone(), cancelled: cancelled.clone(), steps };
        self.jobs.insert(id, job);
        tracing::info!(task = %id, tool = task.tool, attempt = task.attempt, "work at a task begins");
        let course = Course {
            record: Arc::clone(&self.record),
            bench: Arc::clone(&self.bench),
            stop: self.stop.clone(),
            cancelled,
            progress,
            task,
        };
        let running = async move {
            let revision = gone.run_until_cancelled(course.run()).await.flatten();
            Event::Worked(id, number, revision)
        };
        self.under_way.push(running.boxed());
    }

    /// Resolves when the first lease is nearly over that is not renewed by then; never while nothing is worked at.
    fn lease_ends(&self) -> impl Future<Output = ()> + use<> {
        let working = self.jobs.values().filter(|job| job.held.stage == Stage::Works);
        let first = working.map(|job| job.renewed_at + LET_GO_AFTER).min();
        async move {
            match first {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        }
    }

    /// Lets go what could not be renewed.
    fn let_go(&mut self) {
        for (id, job) in &mut self.jobs {
            if job.held.stage == Stage::Works && job.renewed_at.elapsed() >= LET_GO_AFTER {
                tracing::warn!(task = %id, "the lease of a task could not be renewed; another node will have it");
                job.gone.cancel();
                job.held.stage = Stage::LetGo;
            }
        }
    }

    /// Renews the leases, if there are any.
    fn tell(&mut self) {
        let working = self.jobs.iter().filter(|(_, job)| job.held.stage == Stage::Works);
        let tasks: Vec<TaskTold> =
            working.map(|(id, job)| desk::told(*id, job.held.attempt, &job.steps.borrow())).collect();
        if tasks.is_empty() || self.is_telling {
            return;
        }
        self.is_telling = true;
        let (at, command) = (Instant::now(), Command::TellTasks { node: self.record.node(), tasks: tasks.clone() });
        let told = self.record.tell(command);
        let telling = async move {
            let outcome = told.await.and_then(Committed::accepted).map(|_| ());
            Event::Told(tasks, at, outcome)
        };
        self.under_way.push(telling.boxed());
    }

    fn told(&mut self, tasks: &[TaskTold], at: Instant, outcome: Result<(), ProposeError>) {
        self.is_telling = false;
        match outcome {
            Ok(()) => {
                for told in tasks {
                    let job = self.jobs.get_mut(&told.id).filter(|job| job.held.attempt == told.attempt);
                    if let Some(job) = job {
                        job.renewed_at = job.renewed_at.max(at);
                    }
                }
            }
            Err(error) => tracing::debug!(code = %error.code(), %error, "renew the leases of tasks; tried again soon"),
        }
    }

    fn worked(&mut self, id: TaskId, number: u64, revision: Option<u64>) {
        // What was dropped says nothing any more.
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.number == number) {
            job.held.stage = revision.map_or(Stage::LetGo, Stage::Ended);
            // Its place may be another one's, although the record is what it was.
            self.looked = None;
        }
    }
}

/// One task in one attempt.
struct Course {
    record: Arc<dyn Record>,
    bench: Arc<dyn Bench>,
    stop: CancellationToken,
    cancelled: CancellationToken,
    progress: Progress,
    task: Task,
}

// === impl Course ===

impl Course {
    /// Has it done and tells how it ended; the revision from which on that is on record, if it is.
    async fn run(self) -> Option<u64> {
        let outcome = self.outcome().await?;
        let (node, id, attempt) = (self.record.node(), self.task.id, self.task.attempt);
        let mut command = Command::EndTask { node, id, attempt, outcome };
        loop {
            match self.record.tell(command.clone()).await {
                Ok(Committed { answer: Answer::Refused(refusal), revision, .. })
                    if matches!(refusal, Refusal::TaskMoved(_) | Refusal::TaskNotFound(_)) =>
                {
                    tracing::info!(task = %id, %refusal, "a task that ended here is somebody else's by now");
                    return Some(revision);
                }
                Ok(Committed { answer: Answer::Refused(refusal), .. }) | Err(ProposeError::Refused(refusal)) => {
                    tracing::warn!(task = %id, %refusal, "the end of a task is not taken");
                    return None;
                }
                Ok(committed) => return Some(committed.revision),
                Err(ProposeError::TooLarge { .. }) => {
                    command = Command::EndTask { node, id, attempt, outcome: desk::too_large() };
                }
                Err(error) => {
                    tracing::debug!(task = %id, code = %error.code(), %error, "tell how a task ended; tried again");
                    sleep(TELL_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Has it done until it ends; `None`: it does not end here, because this node stops.
    async fn outcome(&self) -> Option<TaskOutcome> {
        loop {
            let answer = self.answer().await;
            // Whatever a node that stops makes of its work: another one goes on with it.
            if self.stop.is_cancelled() {
                return None;
            }
            if let Err(error) = &answer {
                tracing::debug!(task = %self.task.id, code = %error.code, %error, "work at a task failed");
            }
            let outcome = desk::outcome(answer, self.task.repeatable, self.cancelled.is_cancelled());
            if outcome.is_some() {
                return outcome;
            }
            sleep(WORK_AGAIN_AFTER).await;
        }
    }

    async fn answer(&self) -> Result<Value, ToolError> {
        let task = &self.task;
        let unreadable = |what: &str| {
            let message = format!("{what} of the task cannot be read");
            ToolError::new(ErrorCode::Internal, message, "ollamax logs --level error")
        };
        let principal = Principal::of_subject(&task.subject).ok_or_else(|| unreadable("the owner"))?;
        let arguments = serde_json::from_str(&task.arguments_json).map_err(|_| unreadable("the arguments"))?;
        let work = Work {
            caller: Caller { principal, request: draw_request_id(), trace: None },
            task: task.id,
            begun: task.first_attempt(),
            progress: self.progress.clone(),
            cancelled: self.cancelled.clone(),
        };
        self.bench.work(work, task.tool.clone(), arguments).await
    }
}

#[cfg(test)]
mod tests;
