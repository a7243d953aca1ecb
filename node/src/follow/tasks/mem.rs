//! The record of tasks in memory, of one node that may be cut off and may lead; and a bench that does what it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use serde_json::Value;
use tokio::sync::watch;

use ollamax_core::catalog::{Answer, Command, Fault, Refusal, Task, TaskOutcome, TaskProgress, TaskState};
use ollamax_core::tasks::Host;
use ollamax_metadata::{Committed, ProposeError};
use ollamax_tools::ToolError;
use ollamax_tools::work::Work;
use ollamax_types::{NodeId, TaskId, Timestamp};

use super::{Bench, Lead, Record};

/// The record, as one node sees it.
#[derive(Clone)]
pub(super) struct MemRecord(Arc<Inner>);

struct Inner {
    node: NodeId,
    changes: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: BTreeMap<TaskId, Task>,
    tasks_changed_at: u64,
    /// How often the tasks were read.
    reads: usize,
    /// What was told, in order.
    told: Vec<Command>,
    is_cut_off: bool,
    /// The node is not what it was: no end that it tells is taken.
    refuses_ends: bool,
    log_time: Timestamp,
    /// The term in which this node takes itself for the leader.
    term: Option<u64>,
    /// The term of the log.
    term_now: u64,
    hosts: Vec<Host>,
}

/// What a bench does.
type Working = Box<dyn Fn(Work) -> BoxFuture<'static, Result<Value, ToolError>> + Send + Sync>;

/// Does what it is told, and counts.
pub(super) struct MemBench {
    working: Working,
    begun: AtomicUsize,
    running: Arc<AtomicUsize>,
}

/// A work that is not over and not broken off.
struct Running(Arc<AtomicUsize>);

/// A task that waits for a node.
pub(super) fn task(number: u8) -> Task {
    Task {
        id: TaskId([number; 16]),
        tool: "pull_model".to_owned(),
        arguments_json: r#"{"name":"m"}"#.to_owned(),
        subject: "uid/7".to_owned(),
        priority: 5,
        repeatable: true,
        needs_approval: false,
        plan: String::new(),
        state: TaskState::Queued,
        attempt: 0,
        losses: 0,
        cancel_asked: false,
        progress: TaskProgress::default(),
        asked_by: "node/1 for uid/7".to_owned(),
        created_at: Timestamp(u64::from(number)),
        begun_at: Timestamp(0),
        updated_at: Timestamp(u64::from(number)),
        due_at: Timestamp(0),
    }
}

// === impl MemRecord ===

impl MemRecord {
    pub(super) fn new(node: u64) -> Self {
        let (changes, state) = (watch::Sender::new(0), Mutex::default());
        Self(Arc::new(Inner { node: NodeId(node), changes, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.0.changes.send_modify(|revision| *revision += 1);
        *self.0.changes.borrow()
    }

    /// Writes a task past everybody.
    pub(super) fn put(&self, task: Task) {
        let mut state = self.state();
        state.tasks.insert(task.id, task);
        state.tasks_changed_at = self.tick();
    }

    /// Something changes that is no task; the revision since then.
    pub(super) fn pass(&self) -> u64 {
        self.tick()
    }

    /// How often the tasks were read.
    pub(super) fn reads(&self) -> usize {
        self.state().reads
    }

    fn read(&self) -> Vec<Task> {
        let mut state = self.state();
        state.reads += 1;
        state.tasks.values().cloned().collect()
    }

    pub(super) fn get(&self, number: u8) -> Task {
        self.state().tasks.get(&TaskId([number; 16])).cloned().expect("on record")
    }

    /// Nothing that this node tells arrives.
    pub(super) fn cut_off(&self, is_cut_off: bool) {
        self.state().is_cut_off = is_cut_off;
    }

    pub(super) fn refuse_ends(&self) {
        self.state().refuses_ends = true;
    }

    pub(super) fn set_log_time(&self, at: Timestamp) {
        self.state().log_time = at;
    }

    pub(super) fn set_lead(&self, term: Option<u64>, hosts: Vec<Host>) {
        let mut state = self.state();
        (state.term, state.hosts) = (term, hosts);
    }

    pub(super) fn set_term_now(&self, term: u64) {
        self.state().term_now = term;
    }

    /// Who works at something.
    pub(super) fn working(&self) -> Vec<NodeId> {
        let working = |task: &Task| if let TaskState::Working { node } = task.state { Some(node) } else { None };
        self.state().tasks.values().filter_map(working).collect()
    }

    /// How often leases were renewed, and how often an end was told.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let tells = state.told.iter().filter(|command| matches!(command, Command::TellTasks { .. })).count();
        (tells, state.told.len() - tells)
    }
}

// === impl State ===

impl State {
    fn apply(&mut self, command: &Command) -> Answer {
        match command {
            Command::TellTasks { node, tasks } => {
                for told in tasks {
                    let own = self.tasks.get_mut(&told.id).filter(|task| task.is_with(*node, told.attempt));
                    if let Some(task) = own {
                        task.progress = told.progress.clone();
                    }
                }
                Answer::Done
            }
            Command::EndTask { node, .. } if self.refuses_ends => Answer::Refused(Refusal::NodeNotFound(*node)),
            Command::EndTask { node, id, attempt, outcome } => {
                let own = self.tasks.get_mut(id).filter(|task| task.is_with(*node, *attempt));
                let Some(task) = own else { return Answer::Refused(Refusal::TaskMoved(*id)) };
                if let TaskOutcome::Cancelled { text } = outcome {
                    task.progress.text.clone_from(text);
                }
                task.state = outcome.clone().into();
                Answer::Done
            }
            other => panic!("nobody tells {other:?}"),
        }
    }
}

impl Record for MemRecord {
    fn node(&self) -> NodeId {
        self.0.node
    }

    fn tasks(&self) -> Result<(Vec<Task>, u64), Fault> {
        Ok((self.read(), *self.0.changes.borrow()))
    }

    fn tasks_changed_at(&self) -> Result<u64, Fault> {
        Ok(self.state().tasks_changed_at)
    }

    fn log_time(&self) -> Timestamp {
        self.state().log_time
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn tell(&self, command: Command) -> BoxFuture<'static, Result<Committed, ProposeError>> {
        let mut state = self.state();
        if state.is_cut_off {
            return ready(Err(ProposeError::NoQuorum("cut off".to_owned()))).boxed();
        }
        let answer = state.apply(&command);
        state.told.push(command);
        let (revision, term) = (self.tick(), state.term_now);
        if answer == Answer::Done {
            state.tasks_changed_at = revision;
        }
        ready(Ok(Committed { revision, term, answer })).boxed()
    }
}

impl Lead for MemRecord {
    fn term(&self) -> Option<u64> {
        self.state().term
    }

    fn tasks(&self) -> Result<Vec<Task>, Fault> {
        Ok(self.read())
    }

    fn tasks_changed_at(&self) -> Result<u64, Fault> {
        Ok(self.state().tasks_changed_at)
    }

    fn hosts(&self) -> Result<Vec<Host>, Fault> {
        let state = self.state();
        Ok(state.hosts.iter().map(|host| Host { node: host.node, is_fit: host.is_fit }).collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn give(&self, id: TaskId, node: NodeId, term: u64) -> BoxFuture<'static, Result<(), ProposeError>> {
        let mut state = self.state();
        let actual = state.term_now;
        if term != actual {
            return ready(Err(ProposeError::Refused(Refusal::Fenced { expected: term, actual }))).boxed();
        }
        if let Some(task) = state.tasks.get_mut(&id) {
            (task.state, task.attempt) = (TaskState::Working { node }, task.attempt + 1);
        }
        state.tasks_changed_at = self.tick();
        ready(Ok(())).boxed()
    }
}

// === impl MemBench ===

impl MemBench {
    pub(super) fn new<W>(working: impl Fn(Work) -> W + Send + Sync + 'static) -> Self
    where
        W: Future<Output = Result<Value, ToolError>> + Send + 'static,
    {
        let working: Working = Box::new(move |work| working(work).boxed());
        Self { working, begun: AtomicUsize::new(0), running: Arc::default() }
    }

    /// How many works were begun, and how many go on.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.begun.load(Ordering::SeqCst), self.running.load(Ordering::SeqCst))
    }
}

impl Bench for MemBench {
    fn work(&self, work: Work, _tool: String, _arguments: Value) -> BoxFuture<'static, Result<Value, ToolError>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let (running, working) = (Running(Arc::clone(&self.running)), (self.working)(work));
        async move {
            let _running = running;
            working.await
        }
        .boxed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
