//! Which node works at which task: a plan that the leader carries out, one command for each line of it.
//!
//! Always holds: only what is queued is given away, each task once, and no node has more than `TASKS_PER_NODE_MAX`. A
//! task that finds no node waits. The same record and hosts give the same plan.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ollamax_types::limits::TASKS_PER_NODE_MAX;
use ollamax_types::{NodeId, TaskId};

use crate::catalog::principal::node_of;
use crate::catalog::{Task, TaskState};

/// A member that may work at tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Which.
    pub node: NodeId,
    /// It is heard, and takes new work.
    pub is_fit: bool,
}

/// Gives the tasks that are queued to nodes: the highest priority first, then the oldest. Each goes to the node at
/// which it was asked for, where that is fit and has room, else to the fit one that works at fewest.
#[must_use]
pub fn assign(tasks: &[Task], hosts: &[Host]) -> Vec<(TaskId, NodeId)> {
    let mut busy: BTreeMap<NodeId, usize> =
        hosts.iter().filter(|host| host.is_fit).map(|host| (host.node, 0)).collect();
    for task in tasks {
        if let TaskState::Working { node } = &task.state
            && let Some(count) = busy.get_mut(node)
        {
            *count += 1;
        }
    }
    let mut queued: Vec<&Task> = tasks.iter().filter(|task| task.state == TaskState::Queued).collect();
    queued.sort_by_key(|task| (Reverse(task.priority), task.created_at, task.id));
    let mut given = Vec::new();
    for task in queued {
        let Some(node) = choose(&busy, node_of(&task.asked_by)) else { break };
        *busy.entry(node).or_default() += 1;
        given.push((task.id, node));
    }
    given
}

/// `None`: no node has room.
fn choose(busy: &BTreeMap<NodeId, usize>, asked_at: Option<NodeId>) -> Option<NodeId> {
    let has_room = |count: &usize| *count < TASKS_PER_NODE_MAX;
    if let Some(node) = asked_at.filter(|node| busy.get(node).is_some_and(has_room)) {
        return Some(node);
    }
    let open = busy.iter().filter(|(_, count)| has_room(count));
    open.min_by_key(|(node, count)| (**count, **node)).map(|(node, _)| *node)
}

#[cfg(test)]
mod tests {
    use ollamax_types::Timestamp;

    use super::*;
    use crate::catalog::TaskProgress;

    fn task(number: u8, priority: u8, created_at: u64, asked_by: &str, state: TaskState) -> Task {
        Task {
            id: TaskId([number; 16]),
            tool: "pull_model".to_owned(),
            arguments_json: "{}".to_owned(),
            subject: "uid/0".to_owned(),
            priority,
            repeatable: true,
            needs_approval: false,
            plan: String::new(),
            state,
            attempt: 0,
            losses: 0,
            cancel_asked: false,
            progress: TaskProgress::default(),
            asked_by: asked_by.to_owned(),
            created_at: Timestamp(created_at),
            begun_at: Timestamp(0),
            updated_at: Timestamp(created_at),
            due_at: Timestamp(0),
        }
    }

    fn queued(number: u8, priority: u8, created_at: u64, asked_by: &str) -> Task {
        task(number, priority, created_at, asked_by, TaskState::Queued)
    }

    fn at(number: u8, node: u64) -> Task {
        task(number, 5, 0, "node/1", TaskState::Working { node: NodeId(node) })
    }

    fn check(what: &str, tasks: &[Task], hosts: &[(u64, bool)], expected: &[(u8, u64)]) {
        let hosts: Vec<Host> =
            hosts.iter().map(|(node, is_fit)| Host { node: NodeId(*node), is_fit: *is_fit }).collect();
        let expected: Vec<_> = expected.iter().map(|(id, node)| (TaskId([*id; 16]), NodeId(*node))).collect();
        assert_eq!(assign(tasks, &hosts), expected, "{what}");
    }

    #[test]
    fn a_queued_task_goes_to_the_node_that_it_was_asked_at_else_to_the_least_busy_fit_one() {
        let all = [(1, true), (2, true), (3, true)];
        check("nothing to do", &[], &all, &[]);
        check("nobody there", &[queued(1, 5, 1, "node/1")], &[], &[]);
        check("nobody fit", &[queued(1, 5, 1, "node/1")], &[(1, false), (2, false)], &[]);
        check("asked there", &[queued(1, 5, 1, "node/2 for uid/0")], &all, &[(1, 2)]);
        check("not fit there", &[queued(1, 5, 1, "node/2 for uid/0")], &[(1, true), (2, false)], &[(1, 1)]);
        check("not known there", &[queued(1, 5, 1, "node/9 for uid/0")], &all, &[(1, 1)]);
        check("the least busy", &[at(7, 1), at(8, 2), queued(1, 5, 1, "node/9")], &all, &[(1, 3)]);
        check("the lowest of equals", &[at(7, 1), queued(1, 5, 1, "admin")], &all, &[(1, 2)]);
        let over = task(4, 5, 1, "node/1", TaskState::Cancelled);
        let waiting = task(5, 5, 1, "node/1", TaskState::Waiting);
        check("others are left alone", &[at(7, 1), over, waiting], &all, &[]);
    }

    #[test]
    fn the_highest_priority_goes_first_then_the_oldest_and_each_counts_for_the_next() {
        let tasks = [
            queued(1, 5, 3, "admin"),
            queued(2, 9, 9, "admin"),
            queued(3, 5, 2, "admin"),
            queued(4, 0, 1, "admin"),
            queued(6, 5, 3, "admin"),
            queued(5, 5, 3, "admin"),
        ];
        let expected = [(2, 1), (3, 2), (1, 1), (5, 2), (6, 1), (4, 2)];
        check("two nodes", &tasks, &[(1, true), (2, true)], &expected);
    }

    #[test]
    fn a_node_has_no_more_than_its_share_and_what_finds_no_place_waits() {
        let full: Vec<Task> = (0..TASKS_PER_NODE_MAX).map(|number| at(100 + number as u8, 1)).collect();
        let with = |more: &[Task]| [&full[..], more].concat();
        check("elsewhere", &with(&[queued(1, 5, 1, "node/1")]), &[(1, true), (2, true)], &[(1, 2)]);
        check("nowhere", &with(&[queued(1, 5, 1, "node/1")]), &[(1, true)], &[]);
        let many: Vec<Task> = (0..90).map(|number| queued(number, 5, u64::from(number), "node/2")).collect();
        let hosts = [Host { node: NodeId(1), is_fit: true }, Host { node: NodeId(2), is_fit: true }];
        let given = assign(&with(&many), &hosts);
        assert_eq!(given.len(), TASKS_PER_NODE_MAX, "the rest waits");
        assert!(given.iter().all(|(_, node)| *node == NodeId(2)), "{given:?}");
    }
}
