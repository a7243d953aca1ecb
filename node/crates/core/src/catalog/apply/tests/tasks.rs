//! Tasks, row by row: opened, approved, given to a node, told of, ended, lost, cancelled, asked for again, forgotten.

use ollamax_types::{ErrorCode, TaskId};

use super::world::World;
use super::*;
use crate::catalog::record::{Counts, Due, Task, TaskOutcome, TaskProgress, TaskState, TaskTold};

const LEASE: u64 = TASK_LEASE.as_secs() * 1_000;
const APPROVAL: u64 = TASK_APPROVAL_FOR.as_secs() * 1_000;
const KEPT: u64 = TASK_KEPT_FOR.as_secs() * 1_000;

fn id(number: u8) -> TaskId {
    TaskId([number; 16])
}

fn opened(number: u8, repeatable: bool, needs_approval: bool) -> Command {
    let (tool, arguments_json, subject) = ("pull_model".to_owned(), "{}".to_owned(), "uid/0".to_owned());
    let (priority, plan) = (5, String::new());
    Command::OpenTask { id: id(number), tool, arguments_json, subject, priority, repeatable, needs_approval, plan }
}

/// It waits for somebody who reads this.
fn planned(number: u8, lines: &str) -> Command {
    let mut command = opened(number, true, true);
    if let Command::OpenTask { plan, .. } = &mut command {
        lines.clone_into(plan);
    }
    command
}

fn open(number: u8) -> Command {
    opened(number, true, false)
}

fn assign(number: u8, node: u64) -> Command {
    Command::AssignTask { id: id(number), node: NodeId(node) }
}

fn progress(done: u64, text: &str) -> TaskProgress {
    TaskProgress { done, total: 9, text: text.to_owned() }
}

fn tell(node: u64, told: &[(u8, u32, u64)]) -> Command {
    let one = |(number, attempt, done): &(u8, u32, u64)| {
        let progress = progress(*done, &format!("{done} of 9"));
        TaskTold { id: id(*number), attempt: *attempt, progress }
    };
    Command::TellTasks { node: NodeId(node), tasks: told.iter().map(one).collect() }
}

fn end(number: u8, node: u64, attempt: u32, outcome: TaskOutcome) -> Command {
    Command::EndTask { node: NodeId(node), id: id(number), attempt, outcome }
}

fn done() -> TaskOutcome {
    TaskOutcome::Completed { result_json: "[1]".to_owned() }
}

fn failed() -> TaskOutcome {
    TaskOutcome::Failed { code: ErrorCode::DiskFull, text: "no room".to_owned(), next: "make room".to_owned() }
}

fn cancelled() -> TaskOutcome {
    TaskOutcome::Cancelled { text: String::new() }
}

fn decide(number: u8, approved: bool) -> Command {
    Command::DecideTask { id: id(number), approved, attempt: None }
}

fn cancel(number: u8) -> Command {
    Command::CancelTask { id: id(number) }
}

fn retry(number: u8) -> Command {
    Command::RetryTask { id: id(number), plan: String::new() }
}

fn moved(number: u8) -> Answer {
    refused(Refusal::TaskMoved(id(number)))
}

fn stands(number: u8, state: &str) -> Answer {
    refused(Refusal::TaskStands { id: id(number), state: state.to_owned() })
}

fn at(node: u64) -> TaskState {
    TaskState::Working { node: NodeId(node) }
}

impl World {
    fn task(&self, number: u8) -> Task {
        read::task(&self.view, &id(number)).expect("readable").expect("on record")
    }

    /// At a log time.
    fn check_at(&mut self, log_time: u64, command: Command, expected: Answer) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply_at(log_time, command).answer, expected, "{shown}");
        self.check_deadlines();
    }

    /// Each task has the one deadline that it notes, or none, and all are counted.
    fn check_deadlines(&self) {
        let tasks = read::tasks(&self.view).expect("readable");
        let noted = tasks.iter().filter(|task| task.due_at != Timestamp(0)).map(|task| (task.due_at, task.id));
        let mut noted: Vec<_> = noted.collect();
        noted.sort_unstable();
        let deadlines = read::deadlines(&self.view, 99).expect("readable");
        let mut found: Vec<_> = deadlines
            .into_iter()
            .filter_map(|(at, due)| if let Due::Task(id) = due { Some((at, id)) } else { None })
            .collect();
        found.sort_unstable();
        assert_eq!(found, noted);
        let queued = tasks.iter().filter(|task| task.due_at == Timestamp(0));
        assert!(queued.into_iter().all(|task| task.state == TaskState::Queued), "{tasks:?}");
        assert_eq!(read::counts(&self.view).expect("readable").tasks, tasks.len() as u64);
    }
}

#[test]
fn a_task_is_on_record_from_the_question_to_its_end_and_a_day_longer() {
    let mut world = World::new();
    world.check_at(100, open(1), Answer::Done);
    let asked = Task {
        id: id(1),
        tool: "pull_model".to_owned(),
        arguments_json: "{}".to_owned(),
        subject: "uid/0".to_owned(),
        priority: 5,
        repeatable: true,
        needs_approval: false,
        plan: String::new(),
        state: TaskState::Queued,
        attempt: 0,
        losses: 0,
        cancel_asked: false,
        progress: TaskProgress::default(),
        asked_by: "admin".to_owned(),
        created_at: Timestamp(100),
        begun_at: Timestamp(0),
        updated_at: Timestamp(100),
        due_at: Timestamp(0),
    };
    assert_eq!(world.task(1), asked);
    world.check_idle(open(1));
    world.check_at(200, assign(1, 2), Answer::Done);
    let (begun_at, due_at) = (Timestamp(200), Timestamp(200 + LEASE));
    let begun = Task { state: at(2), attempt: 1, begun_at, updated_at: begun_at, due_at, ..asked };
    assert_eq!(world.task(1), begun);
    world.check_idle(assign(1, 2));
    world.check_at(300, tell(2, &[(1, 1, 4)]), Answer::Done);
    let told =
        Task { progress: progress(4, "4 of 9"), updated_at: Timestamp(300), due_at: Timestamp(300 + LEASE), ..begun };
    assert_eq!(world.task(1), told);
    world.check_at(400, end(1, 2, 1, done()), Answer::Done);
    let state = TaskState::Completed { result_json: "[1]".to_owned() };
    let (updated_at, due_at) = (Timestamp(400), Timestamp(400 + KEPT));
    let ended = Task { state, progress: progress(9, ""), updated_at, due_at, ..told };
    assert_eq!(world.task(1), ended);
    world.check_idle(end(1, 2, 1, done()));
    world.check_at(399 + KEPT, Command::Expire, Answer::Done);
    assert_eq!(world.task(1), ended);
    world.check_at(400 + KEPT, Command::Expire, Answer::Done);
    assert_eq!(read::tasks(&world.view), Ok(vec![]));
    assert_eq!(read::deadlines(&world.view, 9), Ok(vec![]));
}

#[test]
fn what_is_asked_of_a_task_depends_on_where_it_stands() {
    let waiting = || vec![opened(1, true, true)];
    let queued = || vec![open(1)];
    let working = || vec![open(1), assign(1, 2)];
    let over = |outcome: TaskOutcome| vec![open(1), assign(1, 2), end(1, 2, 1, outcome)];
    let asked_to_stop = || vec![open(1), assign(1, 2), cancel(1)];
    let never_begun = "cancelled and was never begun; call its tool again";
    type Row = (Vec<Command>, Command, Answer, &'static str);
    let rows: Vec<Row> = vec![
        (waiting(), decide(1, true), Answer::Done, "queued"),
        (waiting(), decide(1, false), Answer::Done, "cancelled"),
        (waiting(), assign(1, 2), stands(1, "waiting"), "waiting"),
        (waiting(), cancel(1), Answer::Done, "cancelled"),
        (waiting(), retry(1), stands(1, "waiting"), "waiting"),
        (waiting(), end(1, 2, 0, done()), moved(1), "waiting"),
        (queued(), decide(1, true), stands(1, "queued"), "queued"),
        (queued(), cancel(1), Answer::Done, "cancelled"),
        (queued(), retry(1), stands(1, "queued"), "queued"),
        (queued(), end(1, 2, 0, done()), moved(1), "queued"),
        (working(), assign(1, 3), stands(1, "working"), "working"),
        (working(), decide(1, false), stands(1, "working"), "working"),
        (working(), cancel(1), Answer::Done, "working"),
        (working(), retry(1), stands(1, "working"), "working"),
        (working(), end(1, 3, 1, done()), moved(1), "working"),
        (working(), end(1, 2, 2, done()), moved(1), "working"),
        (working(), end(1, 2, 1, failed()), Answer::Done, "failed"),
        (working(), end(1, 2, 1, cancelled()), Answer::Done, "cancelled"),
        (asked_to_stop(), cancel(1), Answer::Done, "working"),
        (asked_to_stop(), end(1, 2, 1, done()), Answer::Done, "completed"),
        (over(done()), cancel(1), Answer::Done, "completed"),
        (over(done()), retry(1), stands(1, "completed"), "completed"),
        (over(done()), assign(1, 2), stands(1, "completed"), "completed"),
        (over(done()), end(1, 2, 1, failed()), moved(1), "completed"),
        (over(failed()), retry(1), Answer::Done, "queued"),
        (over(failed()), end(1, 2, 1, failed()), Answer::Done, "failed"),
        (over(cancelled()), retry(1), Answer::Done, "queued"),
        (vec![opened(1, true, true), decide(1, false)], retry(1), stands(1, never_begun), "cancelled"),
        (vec![open(1), cancel(1)], retry(1), stands(1, never_begun), "cancelled"),
    ];
    for (before, command, expected, state) in rows {
        let shown = format!("{before:?} {command:?}");
        let mut world = World::new();
        world.check_taken(before);
        assert_eq!(world.apply(command).answer, expected, "{shown}");
        assert_eq!(world.task(1).state.as_str(), state, "{shown}");
        world.check_deadlines();
    }
    for command in [decide(9, true), assign(9, 1), end(9, 1, 1, done()), cancel(9), retry(9)] {
        World::new().check(command, refused(Refusal::TaskNotFound(id(9))));
    }
}

#[test]
fn a_lost_task_is_begun_again_by_another_node_as_often_as_it_may_be() {
    let mut world = World::new();
    let mut now = 1_000;
    world.check_at(now, open(1), Answer::Done);
    for attempt in 1..=TASK_ATTEMPTS_MAX {
        world.check_at(now, assign(1, 2), Answer::Done);
        assert_eq!((world.task(1).attempt, world.task(1).state), (attempt, at(2)));
        now += LEASE - 1;
        world.check_at(now, Command::Expire, Answer::Done);
        assert_eq!(world.task(1).state, at(2), "its lease runs still");
        now += 1;
        world.check_at(now, Command::Expire, Answer::Done);
        // Whoever lost it has nothing to say of it any more.
        world.check_at(now, end(1, 2, attempt, done()), moved(1));
        let before = world.task(1);
        world.check_at(now, tell(2, &[(1, attempt, 9)]), Answer::Done);
        assert_eq!(world.task(1), before);
    }
    let TaskState::Failed { code, text, next } = world.task(1).state else { unreachable!("{:?}", world.task(1)) };
    assert_eq!(code, ErrorCode::OutcomeUnknown);
    assert_eq!(text, "node 2 was lost while it worked at it; what it did so far is not known");
    assert_eq!(next, format!("ollamax task show {0}, then ollamax task retry {0}", id(1)));
    world.check_at(now, retry(1), Answer::Done);
    let Task { attempt, losses, state, .. } = world.task(1);
    assert_eq!((attempt, losses, state), (TASK_ATTEMPTS_MAX, 0, TaskState::Queued), "and as often once more");
    world.check_at(now, assign(1, 2), Answer::Done);
    world.check_at(now + LEASE, Command::Expire, Answer::Done);
    assert_eq!((world.task(1).losses, world.task(1).state), (1, TaskState::Queued));
}

#[test]
fn what_a_node_says_of_a_task_before_it_was_asked_for_again_has_no_effect() {
    let mut world = World::new();
    world.check_at(1, open(1), Answer::Done);
    world.check_at(2, assign(1, 2), Answer::Done);
    world.check_at(3, end(1, 2, 1, failed()), Answer::Done);
    world.check_at(4, retry(1), Answer::Done);
    world.check_at(5, assign(1, 2), Answer::Done);
    let begun = world.task(1);
    assert_eq!((begun.attempt, begun.begun_at), (2, Timestamp(5)));
    // The node did not hear that its first word was taken.
    world.check_at(6, end(1, 2, 1, failed()), moved(1));
    world.check_at(6, tell(2, &[(1, 1, 9)]), Answer::Done);
    assert_eq!(world.task(1), begun);
}

#[test]
fn when_a_task_was_begun_is_moved_by_nothing_but_a_new_beginning() {
    let mut world = World::new();
    for (now, command, begun_at) in [
        (1, open(1), 0),
        (2, assign(1, 2), 2),
        (3, tell(2, &[(1, 1, 4)]), 2),
        (4, cancel(1), 2),
        (5, end(1, 2, 1, cancelled()), 2),
        (6, retry(1), 2),
        (7, assign(1, 3), 7),
    ] {
        world.check_at(now, command, Answer::Done);
        assert_eq!((world.task(1).begun_at, world.task(1).updated_at), (Timestamp(begun_at), Timestamp(now)));
    }
}

#[test]
fn what_needed_an_approval_needs_another_one_when_it_is_asked_for_again() {
    let mut world = World::new();
    for command in [opened(1, true, true), decide(1, true), assign(1, 2), end(1, 2, 1, failed()), retry(1)] {
        world.check_at(1, command, Answer::Done);
    }
    assert_eq!(world.task(1).state, TaskState::Waiting);
    world.check_at(2, assign(1, 2), stands(1, "waiting"));
    let answered = |attempt: u32, approved: bool| Command::DecideTask { id: id(1), approved, attempt: Some(attempt) };
    let anew = "waiting again, and what it would do is to be looked at anew";
    for approved in [true, false] {
        world.check_at(2, answered(0, approved), stands(1, anew));
    }
    world.check_at(3, answered(1, true), Answer::Done);
    world.check_at(3, answered(1, true), stands(1, "queued"));
    world.check_at(4, assign(1, 2), Answer::Done);
    assert_eq!((world.task(1).attempt, world.task(1).state), (2, at(2)));
}

#[test]
fn what_was_told_on_the_way_is_not_said_of_a_task_that_is_over() {
    let ended = |commands: Vec<Command>| {
        let mut world = World::new();
        for command in [open(1), assign(1, 2), tell(2, &[(1, 1, 4)])].into_iter().chain(commands) {
            world.check_at(1, command, Answer::Done);
        }
        world.task(1).progress
    };
    assert_eq!(ended(vec![]), progress(4, "4 of 9"));
    assert_eq!(ended(vec![end(1, 2, 1, done())]), progress(9, ""));
    assert_eq!(ended(vec![end(1, 2, 1, failed())]), progress(4, ""));
    assert_eq!(ended(vec![cancel(1), end(1, 2, 1, cancelled())]), progress(4, ""));
    // What whoever ended it has to say is of its end.
    let stays = TaskOutcome::Cancelled { text: "it stays".to_owned() };
    assert_eq!(ended(vec![cancel(1), end(1, 2, 1, stays)]), progress(4, "it stays"));
    let mut world = World::new();
    let told = tell(2, &[(1, 1, 4)]);
    for (now, command) in [(1, opened(1, false, false)), (1, assign(1, 2)), (1, told), (1 + LEASE, Command::Expire)] {
        world.check_at(now, command, Answer::Done);
    }
    assert_eq!((world.task(1).state.as_str(), world.task(1).progress), ("failed", progress(4, "")));
    let mut world = World::new();
    for (now, command) in [(1, open(1)), (1, assign(1, 2)), (1 + LEASE, Command::Expire), (1 + LEASE, cancel(1))] {
        world.check_at(now, command, Answer::Done);
    }
    assert_eq!(world.task(1).progress.text, "whoever has it next ends it", "nobody begins it again");
}

#[test]
fn what_becomes_of_a_lost_task_depends_on_what_was_asked_of_it() {
    let lost = |commands: Vec<Command>| {
        let mut world = World::new();
        for command in commands {
            world.apply_at(1, command);
        }
        world.check_at(1 + LEASE, Command::Expire, Answer::Done);
        (world.task(1).state.as_str(), world.task(1).progress.text)
    };
    let again = "node 2 was lost while it worked at it; it begins again".to_owned();
    assert_eq!(lost(vec![open(1), assign(1, 2)]), ("queued", again));
    assert_eq!(lost(vec![opened(1, false, false), assign(1, 2)]).0, "failed");
    let ends = "node 2 was lost while it worked at it; another one ends it".to_owned();
    assert_eq!(lost(vec![open(1), assign(1, 2), cancel(1)]), ("queued", ends));
    assert_eq!(lost(vec![opened(1, false, false), assign(1, 2), cancel(1)]).0, "failed");
}

#[test]
fn what_a_lost_node_began_is_cancelled_by_whoever_has_it_next_and_by_nobody_else() {
    let mut world = World::new();
    world.check_at(1, open(1), Answer::Done);
    world.check_at(1, assign(1, 2), Answer::Done);
    world.check_at(1 + LEASE, Command::Expire, Answer::Done);
    // Nobody works at it just now.
    world.check_at(2 + LEASE, cancel(1), Answer::Done);
    assert_eq!((world.task(1).state, world.task(1).cancel_asked), (TaskState::Queued, true));
    world.check_idle(cancel(1));
    world.check_at(3 + LEASE, assign(1, 3), Answer::Done);
    assert_eq!((world.task(1).state, world.task(1).cancel_asked), (at(3), true));
    let text = "m is wanted by others";
    let ended = end(1, 3, 2, TaskOutcome::Cancelled { text: text.to_owned() });
    world.check_at(4 + LEASE, ended.clone(), Answer::Done);
    assert_eq!((world.task(1).state, world.task(1).progress.text.as_str()), (TaskState::Cancelled, text));
    world.check_idle(ended);
}

#[test]
fn the_first_attempt_stays_after_a_loss_and_is_another_one_when_somebody_asks_again() {
    let (mut world, mut now) = (World::new(), 1);
    world.check_at(now, open(1), Answer::Done);
    let mut begun = Vec::new();
    for attempt in 1..=3 {
        world.check_at(now, assign(1, 2), Answer::Done);
        begun.push((world.task(1).attempt, world.task(1).first_attempt()));
        if attempt < 3 {
            now += LEASE;
            world.check_at(now, Command::Expire, Answer::Done);
        }
    }
    world.check_at(now, end(1, 2, 3, failed()), Answer::Done);
    world.check_at(now, retry(1), Answer::Done);
    world.check_at(now, assign(1, 2), Answer::Done);
    begun.push((world.task(1).attempt, world.task(1).first_attempt()));
    now += LEASE;
    world.check_at(now, Command::Expire, Answer::Done);
    world.check_at(now, assign(1, 3), Answer::Done);
    begun.push((world.task(1).attempt, world.task(1).first_attempt()));
    assert_eq!(begun, [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]);
}

#[test]
fn a_node_that_was_removed_tells_and_ends_nothing_and_loses_its_tasks() {
    let mut world = World::new();
    let gone = || refused(Refusal::NodeNotFound(NodeId(2)));
    world.check_at(1, open(1), Answer::Done);
    world.check_at(1, assign(1, 2), Answer::Done);
    world.check_at(2, Command::RemoveMember { node: NodeId(2) }, Answer::Done);
    world.check_at(3, tell(2, &[(1, 1, 4)]), gone());
    world.check_at(3, end(1, 2, 1, done()), gone());
    world.check_at(1 + LEASE, Command::Expire, Answer::Done);
    assert_eq!(world.task(1).state, TaskState::Queued);
    world.check_at(1 + LEASE, assign(1, 2), gone());
    world.check_at(1 + LEASE, assign(1, 3), Answer::Done);
    assert_eq!((world.task(1).attempt, world.task(1).state), (2, at(3)));
}

#[test]
fn a_node_tells_of_its_own_tasks_in_their_attempt_and_never_goes_back() {
    let mut world = World::new();
    for number in 1..=3 {
        world.check_at(1, open(number), Answer::Done);
    }
    world.check_at(1, assign(1, 2), Answer::Done);
    world.check_at(1, assign(2, 3), Answer::Done);
    let (other, queued) = (world.task(2), world.task(3));
    world.check_at(5, tell(2, &[(1, 1, 4), (2, 1, 4), (3, 0, 4), (9, 1, 4)]), Answer::Done);
    assert_eq!((world.task(2), world.task(3)), (other, queued), "those of others are left out");
    assert_eq!((world.task(1).progress.done, world.task(1).due_at), (4, Timestamp(5 + LEASE)));
    world.check_at(6, tell(2, &[(1, 1, 3)]), Answer::Done);
    assert_eq!((world.task(1).progress, world.task(1).due_at), (progress(4, "4 of 9"), Timestamp(6 + LEASE)));
    world.check_at(7, tell(2, &[(1, 1, 5), (1, 1, 6)]), Answer::Done);
    assert_eq!(world.task(1).progress.done, 6);
    let text = "ä".repeat(TASK_TEXT_BYTES_MAX);
    let told = TaskTold { id: id(1), attempt: 1, progress: progress(7, &text) };
    world.check_at(8, Command::TellTasks { node: NodeId(2), tasks: vec![told.clone()] }, Answer::Done);
    assert_eq!(world.task(1).progress.text, "ä".repeat(TASK_TEXT_BYTES_MAX / 2));
    let many = Command::TellTasks { node: NodeId(2), tasks: vec![told; TASKS_TOLD_MAX + 1] };
    assert_eq!(invalid_text(&world.view, many), "the list of tasks has 65 items; the limit is 64");
    // A new attempt begins from nothing.
    world.check_at(8 + LEASE, Command::Expire, Answer::Done);
    world.check_at(8 + LEASE, assign(1, 2), Answer::Done);
    assert_eq!(world.task(1).progress, TaskProgress::default());
}

#[test]
fn nobody_approves_in_time_and_a_task_is_cancelled() {
    let mut world = World::new();
    world.check_at(1, opened(1, true, true), Answer::Done);
    world.check_at(APPROVAL, Command::Expire, Answer::Done);
    assert_eq!(world.task(1).state, TaskState::Waiting);
    world.check_at(1 + APPROVAL, Command::Expire, Answer::Done);
    assert_eq!(
        (world.task(1).state, &*world.task(1).progress.text),
        (TaskState::Cancelled, "nobody approved it in time")
    );
    world.check_at(1 + APPROVAL, decide(1, true), stands(1, "cancelled"));
    world.check_at(2 + APPROVAL, opened(2, true, true), Answer::Done);
    world.check_at(3 + APPROVAL, decide(2, false), Answer::Done);
    assert_eq!(world.task(2).progress.text, "it was not approved");
}

#[test]
fn a_plan_is_kept_from_the_question_to_the_end_and_another_attempt_has_its_own() {
    let mut world = World::new();
    world.check(planned(1, "n1: m goes"), Answer::Done);
    // Who asks for the same again foresees something else.
    world.check_idle(planned(1, "n2: m goes"));
    for command in [decide(1, true), assign(1, 2), end(1, 2, 1, failed())] {
        world.check(command, Answer::Done);
        assert_eq!(world.task(1).plan, "n1: m goes");
    }
    let again = |plan: String| Command::RetryTask { id: id(1), plan };
    let limit = format!("the plan of a task has {} bytes; the limit is {TASK_PLAN_BYTES_MAX}", TASK_PLAN_BYTES_MAX + 1);
    assert_eq!(invalid_text(&world.view, again("x".repeat(TASK_PLAN_BYTES_MAX + 1))), limit);
    world.check(again("n2: m goes".to_owned()), Answer::Done);
    assert_eq!((world.task(1).state, world.task(1).plan), (TaskState::Waiting, "n2: m goes".to_owned()));
}

#[test]
fn a_task_has_limits_and_one_content() {
    let mut world = World::new();
    let with = |tool: &str, arguments_json: String, subject: &str, priority: u8| {
        let (tool, subject) = (tool.to_owned(), subject.to_owned());
        let (repeatable, needs_approval, plan) = (true, false, String::new());
        Command::OpenTask { id: id(1), tool, arguments_json, subject, priority, repeatable, needs_approval, plan }
    };
    let text = |command| invalid_text(&world.view, command);
    let long = "x".repeat(TASK_ARGUMENTS_BYTES_MAX + 1);
    assert_eq!(text(with("", "{}".to_owned(), "uid/0", 5)), "the tool of a task is empty");
    assert_eq!(text(with("t", String::new(), "uid/0", 5)), "the arguments of a task is empty");
    assert_eq!(text(with("t", long, "uid/0", 5)), "the arguments of a task has 16385 bytes; the limit is 16384");
    assert_eq!(text(with("t", "{}".to_owned(), "", 5)), "the subject of a task is empty");
    assert_eq!(text(with("t", "{}".to_owned(), "uid/0", 10)), "the priority of a task is 0 to 9, not 10");
    let plan = format!("the plan of a task has {} bytes; the limit is {TASK_PLAN_BYTES_MAX}", TASK_PLAN_BYTES_MAX + 1);
    assert_eq!(text(planned(1, &"x".repeat(TASK_PLAN_BYTES_MAX + 1))), plan);
    world.check_taken([with("t", "{}".to_owned(), "uid/0", 9), open(2), assign(2, 1)]);
    world.check_idle(with("t", "{}".to_owned(), "uid/0", 9));
    let other = format!("{} is another task", id(1));
    assert_eq!(invalid_text(&world.view, with("t", "{ }".to_owned(), "uid/0", 9)), other);
    assert_eq!(invalid_text(&world.view, with("t", "{}".to_owned(), "uid/1", 9)), other);
    let result_json = "x".repeat(TASK_RESULT_BYTES_MAX + 1);
    let large = end(2, 1, 1, TaskOutcome::Completed { result_json });
    assert_eq!(invalid_text(&world.view, large), "the result of a task has 65537 bytes; the limit is 65536");
    let (code, text, next) = (ErrorCode::DiskFull, "x".repeat(600), "y".repeat(600));
    world.check(end(2, 1, 1, TaskOutcome::Failed { code, text, next }), Answer::Done);
    let TaskState::Failed { text, next, .. } = world.task(2).state else { unreachable!("it failed") };
    assert_eq!((text.len(), next.len()), (TASK_TEXT_BYTES_MAX, TASK_TEXT_BYTES_MAX), "they are cut");
}

#[test]
fn tasks_are_counted_and_bounded() {
    let mut world = World::new();
    let counts = read::counts(&world.view).expect("readable");
    world.view.write(&[put(Key::Counts, Record::Counts(Counts { tasks: TASKS_MAX - 1, ..counts }))]);
    world.check(open(1), Answer::Done);
    let (what, unit) = ("this cluster".to_owned(), "tasks".to_owned());
    let full = Refusal::QuotaExceeded { what, needed: TASKS_MAX + 1, limit: TASKS_MAX, unit };
    world.check(open(2), refused(full));
    world.check_idle(open(1));
    // The oldest that is over makes room.
    world.check(assign(1, 2), Answer::Done);
    world.check(end(1, 2, 1, done()), Answer::Done);
    world.check(open(2), Answer::Done);
    assert_eq!(read::task(&world.view, &id(1)), Ok(None));
    assert_eq!(read::counts(&world.view).expect("readable").tasks, TASKS_MAX);
    assert_eq!(read::deadlines(&world.view, 9), Ok(vec![]), "its deadline went with it");
}

#[test]
fn one_caller_has_a_share_of_tasks_that_are_not_over() {
    let mut world = World::new();
    let held = |number: usize| {
        let mut id = [0xff; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        put(Key::OpenTask("uid/0".to_owned(), TaskId(id)), Record::Present)
    };
    world.view.write(&(1..TASKS_OPEN_MAX).map(held).collect::<Vec<_>>());
    world.check(open(1), Answer::Done);
    let (what, unit, limit) = ("uid/0".to_owned(), "open tasks".to_owned(), TASKS_OPEN_MAX as u64);
    let full = || refused(Refusal::QuotaExceeded { what: what.clone(), needed: limit + 1, limit, unit: unit.clone() });
    world.check(open(2), full());
    world.check_idle(open(1));
    let mut other = open(3);
    let Command::OpenTask { subject, .. } = &mut other else { unreachable!("it opens one") };
    *subject = "uid/1".to_owned();
    world.check(other, Answer::Done);
    // One that is over is none of them, until it is asked for again.
    for command in [assign(1, 2), end(1, 2, 1, failed()), open(2)] {
        world.check(command, Answer::Done);
    }
    world.check(retry(1), full());
}

#[test]
fn an_older_cluster_takes_no_task_and_no_key() {
    let Command::InitCluster { cluster, name, public_key, first, .. } = init() else { unreachable!("init is one") };
    let old = Command::InitCluster { cluster, name, public_key, first, version: 4 };
    let newer = || [open(1), decide(1, true), assign(1, 1), tell(1, &[]), end(1, 1, 1, failed()), cancel(1), retry(1)];
    let too_low = || refused(Refusal::VersionTooLow { needed: 5, actual: 4 });
    let rows = newer().map(|command| (0, command, too_low()));
    let mut view = check(std::iter::once((0, old, member_answer(1, "n1", false))).chain(rows).collect());
    let once = Some(crate::catalog::OnceKey { key: [1; 32], digest: [2; 32] });
    let keyed = Entry { once, ..entry(0, Command::SetSetting { key: "k".to_owned(), value: vec![] }) };
    assert_eq!(view.apply(90, 1, &keyed), Ok(too_low()));
    assert_eq!(view.apply(91, 1, &entry(0, Command::RaiseVersion { version: 5 })), Ok(Answer::Done));
    assert_eq!(view.apply(92, 1, &keyed), Ok(Answer::Done));
    for (index, command) in newer().into_iter().enumerate() {
        let answer = view.apply(93 + index as u64, 1, &entry(0, command)).expect("no fault");
        assert!(!matches!(answer, Answer::Refused(Refusal::VersionTooLow { .. })), "{answer:?}");
    }
}
