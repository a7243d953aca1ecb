//! One task and two nodes, explored: given away, told of, ended, cancelled, asked for again and lost in every order.
//! What a node says may come at any time later, and again. At the first node it is done, at the second it fails; where
//! somebody wants it to end, either ends it.

use ollamax_types::{ErrorCode, TaskId};

use super::*;
use crate::catalog::record::{Task, TaskOutcome, TaskProgress, TaskState, TaskTold};

const TASK: TaskId = TaskId([7; 16]);
const LEASE: u64 = ms(TASK_LEASE);
const NODES: [u64; 2] = [1, 2];
const STEPS_MAX: u32 = 6;
/// What a node says of a task that it ended.
const ENDED: &str = "it was ended";

struct Tasks;

#[derive(Debug, Clone, PartialEq, Eq)]
struct TasksState {
    world: World,
    steps: u32,
    /// Who began it, and in which attempt, in order.
    begun: Vec<(u64, u32)>,
    /// Who has it, in which attempt, and until when at least.
    promised: Option<(u64, u32, u64)>,
    /// What a node said of an attempt that was not its own, or over, had an effect.
    haunted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TasksAct {
    Assign(u64),
    Tell(u64, u32),
    End(u64, u32),
    Cancel,
    Retry,
    TimePasses,
    Expire,
}

// === impl TasksState ===

impl TasksState {
    fn task(&self) -> Task {
        read::task(&self.world.view, &TASK).expect("readable").expect("it is kept for a day")
    }

    fn assign(&mut self, node: u64) {
        self.world.apply(None, Command::AssignTask { id: TASK, node: NodeId(node) });
        let attempt = self.task().attempt;
        self.begun.push((node, attempt));
        self.promised = Some((node, attempt, self.world.now + LEASE));
    }

    /// Says something of an attempt; whether it was the one on record.
    fn say(&mut self, node: u64, attempt: u32, command: Command) -> bool {
        let before = self.task();
        self.world.apply(None, command);
        let is_own = before.is_with(NodeId(node), attempt);
        self.haunted |= !is_own && self.task() != before;
        is_own
    }
}

impl Hash for TasksState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        format!("{self:?}").hash(hasher);
    }
}

impl Model for Tasks {
    type State = TasksState;
    type Action = TasksAct;

    fn init_states(&self) -> Vec<TasksState> {
        let mut world = World::new();
        let (tool, arguments_json, subject) = ("t".to_owned(), "{}".to_owned(), "uid/0".to_owned());
        let (priority, repeatable, needs_approval, plan) = (5, true, false, String::new());
        let id = TASK;
        let open = Command::OpenTask { id, tool, arguments_json, subject, priority, repeatable, needs_approval, plan };
        for command in [token("t"), join("t", "n2", 2), open] {
            world.apply(None, command);
        }
        vec![TasksState { world, steps: 0, begun: Vec::new(), promised: None, haunted: false }]
    }

    fn actions(&self, state: &TasksState, actions: &mut Vec<TasksAct>) {
        if state.task().state == TaskState::Queued {
            actions.extend(NODES.map(TasksAct::Assign));
        }
        for (node, attempt) in &state.begun {
            actions.extend([TasksAct::Tell(*node, *attempt), TasksAct::End(*node, *attempt)]);
        }
        if state.world.now <= 2 * LEASE {
            actions.push(TasksAct::TimePasses);
        }
        actions.extend([TasksAct::Cancel, TasksAct::Retry, TasksAct::Expire]);
    }

    fn next_state(&self, last: &TasksState, action: TasksAct) -> Option<TasksState> {
        let mut state = TasksState { steps: last.steps + 1, ..last.clone() };
        match action {
            TasksAct::Assign(node) => state.assign(node),
            TasksAct::Tell(node, attempt) => {
                let told = TaskTold { id: TASK, attempt, progress: TaskProgress::default() };
                let tell = Command::TellTasks { node: NodeId(node), tasks: vec![told] };
                if state.say(node, attempt, tell) {
                    state.promised = Some((node, attempt, state.world.now + LEASE));
                }
            }
            TasksAct::End(node, attempt) => {
                let outcome = if state.task().cancel_asked {
                    TaskOutcome::Cancelled { text: ENDED.to_owned() }
                } else if node == 1 {
                    TaskOutcome::Completed { result_json: node.to_string() }
                } else {
                    let (code, text, next) = (ErrorCode::DiskFull, "full".to_owned(), "free some".to_owned());
                    TaskOutcome::Failed { code, text, next }
                };
                let end = Command::EndTask { node: NodeId(node), id: TASK, attempt, outcome };
                if state.say(node, attempt, end) {
                    state.promised = None;
                }
            }
            TasksAct::Cancel => drop(state.world.apply(None, Command::CancelTask { id: TASK })),
            TasksAct::Retry => drop(state.world.apply(None, Command::RetryTask { id: TASK, plan: String::new() })),
            TasksAct::TimePasses => state.world.now += LEASE / 2,
            TasksAct::Expire => drop(state.world.apply(None, Command::Expire)),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an attempt is begun by one node", |_, state: &TasksState| {
                state.begun.windows(2).all(|pair| pair[0].1 < pair[1].1)
            }),
            Property::always("what is said of another attempt has no effect", |_, state: &TasksState| !state.haunted),
            Property::always("a node keeps its task as long as its lease", |_, state: &TasksState| {
                state.promised.is_none_or(|(node, attempt, until)| {
                    state.world.now >= until || state.task().is_with(NodeId(node), attempt)
                })
            }),
            Property::sometimes("a task goes on at another node", |_, state: &TasksState| {
                state.begun.windows(2).any(|pair| pair[0].0 != pair[1].0)
            }),
            Property::sometimes("a task that nobody lost is begun again", |_, state: &TasksState| {
                state.begun.len() > 1 && state.task().losses == 0
            }),
            Property::sometimes("a task is completed", |_, state: &TasksState| {
                matches!(state.task().state, TaskState::Completed { .. })
            }),
            Property::sometimes(
                "a task whose node is lost goes on to its end where somebody cancelled it",
                |_, state: &TasksState| {
                    let task = state.task();
                    task.cancel_asked && task.losses > 0 && task.state == TaskState::Queued
                },
            ),
            Property::always("what a lost node began is cancelled by a node alone", |_, state: &TasksState| {
                let task = state.task();
                task.losses == 0 || task.state != TaskState::Cancelled || task.progress.text == ENDED
            }),
            Property::sometimes("whoever works at a task says what became of it", |_, state: &TasksState| {
                state.task().state == TaskState::Cancelled && state.task().progress.text == ENDED
            }),
            Property::sometimes("a lease is renewed beyond its first end", |_, state: &TasksState| {
                let beyond = state.world.now > 1 + LEASE && state.begun.len() == 1;
                beyond
                    && matches!(state.task().state, TaskState::Working { .. })
                    && state.task().due_at.0 > state.world.now
            }),
        ]
    }

    fn within_boundary(&self, state: &TasksState) -> bool {
        state.steps <= STEPS_MAX
    }
}

#[test]
fn however_late_a_node_speaks_a_task_is_with_one_of_them_in_an_attempt() {
    Tasks.checker().spawn_bfs().join().assert_properties();
}
