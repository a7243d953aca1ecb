//! A cluster of nodes that may hold models, and what is asked of it command by command.

use super::*;
use crate::catalog::record::{Replicas, Wish};

pub(super) fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

pub(super) fn on(nodes: &[u64]) -> Replicas {
    Replicas::Nodes(ids(nodes))
}

/// Nodes 1 to 3, and node 4, a gateway. Log time goes with the index.
pub(super) struct World {
    pub(super) view: MemView,
    pub(super) index: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let view = check_in_cluster(vec![
            (0, join("t", "n2", 2), member_answer(2, "n2", false)),
            (0, join("t", "n3", 3), member_answer(3, "n3", false)),
            (0, token_with("g", Role::Gateway, 1, HOUR_MS), Answer::Done),
            (0, join_as("g", Role::Gateway, newcomer("n4", 4, 4)), member_answer(4, "n4", false)),
        ]);
        Self { view, index: 6 }
    }

    pub(super) fn apply(&mut self, command: Command) -> Applied {
        self.apply_at(self.index + 1, command)
    }

    pub(super) fn apply_at(&mut self, log_time: u64, command: Command) -> Applied {
        self.index += 1;
        let applied = apply(&self.view, self.index, 1, &entry(log_time, command)).expect("no fault");
        if matches!(applied.answer, Answer::Refused(_)) {
            assert_eq!(applied.mutations, vec![], "a refusal changes nothing");
        }
        self.view.write(&applied.mutations);
        applied
    }

    pub(super) fn check(&mut self, command: Command, expected: Answer) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command).answer, expected, "{shown}");
    }

    /// It is done, and changes nothing.
    pub(super) fn check_idle(&mut self, command: Command) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command), Applied::done(vec![]), "{shown}");
    }

    /// None of them is refused.
    pub(super) fn check_taken(&mut self, commands: impl IntoIterator<Item = Command>) {
        for command in commands {
            let shown = format!("{command:?}");
            let answer = self.apply(command).answer;
            assert!(!matches!(answer, Answer::Refused(_)), "{shown}: {answer:?}");
        }
    }

    /// Asks, and gives the round.
    pub(super) fn ask(&mut self, command: Command) -> u64 {
        match self.apply(command).answer {
            Answer::Wish { round } => round,
            other => unreachable!("{other:?}"),
        }
    }

    pub(super) fn wish(&self, model: &str) -> Wish {
        read::wish(&self.view, &model.parse().expect("a name")).expect("readable").expect("asked for")
    }
}
