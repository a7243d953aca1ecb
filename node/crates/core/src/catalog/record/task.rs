//! Tasks: long work that is on record, with who works at it; and what is remembered of requests that carry a key.
//!
//! Always holds: a task that is worked at names one node, and each time that it is begun has a number of its own. What
//! a node does in another attempt than the one on record is nobody's concern. A node that tells nothing for
//! `TASK_LEASE` has lost its task. What is over stays for `TASK_KEPT_FOR`.

use std::time::Duration;

use ollamax_types::limits::{TASK_APPROVAL_FOR, TASK_ATTEMPTS_MAX, TASK_KEPT_FOR, TASK_LEASE};
use ollamax_types::{ErrorCode, NodeId, TaskId, Timestamp};

use crate::catalog::command::Answer;

/// Long work that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Drawn by whoever opened it.
    pub id: TaskId,
    /// Which tool does it.
    pub tool: String,
    /// What the tool was given, as JSON; at most `TASK_ARGUMENTS_BYTES_MAX`.
    pub arguments_json: String,
    /// Whose it is, as the door that it came by named the caller: `uid/0`, `loopback`.
    pub subject: String,
    /// 0 to `TASK_PRIORITY_MAX`, 5 as a rule; the highest first.
    pub priority: u8,
    /// It may be begun again after its node was lost.
    pub repeatable: bool,
    /// Somebody must approve it, each time that it is asked for.
    pub needs_approval: bool,
    /// What it would do, line by line, as it was foreseen when it was opened; at most `TASK_PLAN_BYTES_MAX`. Empty: not
    /// told.
    pub plan: String,
    /// Where it stands.
    pub state: TaskState,
    /// How often it was begun since it was opened; 0: never. It never counts back, also where the task is asked for
    /// again: what a node says late of an earlier attempt is of no attempt to come.
    pub attempt: u32,
    /// How often its node was lost since it was opened or asked for again.
    pub losses: u32,
    /// Somebody wants it to stop; whoever works at it, or has it next, ends it.
    pub cancel_asked: bool,
    /// How far it is.
    pub progress: TaskProgress,
    /// Who asked for it, as in [`super::super::Entry::principal`].
    pub asked_by: String,
    /// Log time at which it was opened.
    pub created_at: Timestamp,
    /// Log time at which a node was given it last; 0: never.
    pub begun_at: Timestamp,
    /// Log time at which it last changed.
    pub updated_at: Timestamp,
    /// Log time at which it is looked at again: the end of the wait for an approval, of the node's lease, of its time
    /// on record. 0: never, since it waits for a node.
    pub due_at: Timestamp,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// Somebody must approve it.
    Waiting,
    /// The leader gives it to a node.
    Queued,
    /// A node works at it.
    Working {
        /// Which.
        node: NodeId,
    },
    /// Done.
    Completed {
        /// What the tool answered, as JSON; at most `TASK_RESULT_BYTES_MAX`.
        result_json: String,
    },
    /// It came to nothing.
    Failed {
        /// What kind of failure.
        code: ErrorCode,
        /// What happened; at most `TASK_TEXT_BYTES_MAX`, as the next.
        text: String,
        /// What to do.
        next: String,
    },
    /// Somebody ended it, or nobody approved it.
    Cancelled,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskProgress {
    /// So much is done, in whatever the tool counts.
    pub done: u64,
    /// Of so much; 0: not known.
    pub total: u64,
    /// For people; at most `TASK_TEXT_BYTES_MAX`.
    pub text: String,
}

/// How a task ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutcome {
    /// As [`TaskState::Completed`].
    Completed {
        /// What the tool answered, as JSON.
        result_json: String,
    },
    /// As [`TaskState::Failed`].
    Failed {
        /// What kind of failure.
        code: ErrorCode,
        /// What happened.
        text: String,
        /// What to do.
        next: String,
    },
    /// As [`TaskState::Cancelled`].
    Cancelled {
        /// What is to be said of it, for people; it takes the place of how far it was. Empty: nothing.
        text: String,
    },
}

/// What a node tells of a task that it works at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskTold {
    /// Which.
    pub id: TaskId,
    /// In which attempt.
    pub attempt: u32,
    /// How far it is.
    pub progress: TaskProgress,
}

/// What a request with a key was answered, for when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// What was asked for under the key.
    pub digest: [u8; 32],
    /// Index of its entry.
    pub revision: u64,
    /// Term of its entry.
    pub term: u64,
    /// Its answer.
    pub answer: Answer,
    /// Log time at which it is forgotten.
    pub ends_at: Timestamp,
}

// === impl Task ===

impl Task {
    /// The same in another state from now on, with the time at which it is looked at again.
    #[must_use]
    pub fn into_state(self, state: TaskState, now: Timestamp) -> Self {
        let due_at = match &state {
            TaskState::Waiting => now.plus_ms(ms(TASK_APPROVAL_FOR)),
            TaskState::Queued => Timestamp(0),
            TaskState::Working { .. } => now.plus_ms(ms(TASK_LEASE)),
            TaskState::Completed { .. } | TaskState::Failed { .. } | TaskState::Cancelled => {
                now.plus_ms(ms(TASK_KEPT_FOR))
            }
        };
        Self { state, updated_at: now, due_at, ..self }
    }

    /// In which attempt it was begun since it was opened or asked for again last. It is the same in all attempts in
    /// which others go on after a loss, and another one when somebody asks for it again.
    #[must_use]
    pub const fn first_attempt(&self) -> u32 {
        self.attempt.saturating_sub(self.losses)
    }

    /// What becomes of it when the node that works at it is lost; `None`: no node does. It is never cancelled by that:
    /// what that node began may go on, and whoever has it next ends it where somebody wants it to.
    #[must_use]
    pub fn after_loss(self, now: Timestamp) -> Option<Self> {
        let TaskState::Working { node } = self.state else { return None };
        let losses = self.losses.saturating_add(1);
        if self.repeatable && losses < TASK_ATTEMPTS_MAX {
            let next = if self.cancel_asked { "another one ends it" } else { "it begins again" };
            let text = format!("node {node} was lost while it worked at it; {next}");
            let progress = TaskProgress { text, ..TaskProgress::default() };
            return Some(Self { losses, progress, ..self }.into_state(TaskState::Queued, now));
        }
        let text = format!("node {node} was lost while it worked at it; what it did so far is not known");
        let next = format!("ollamax task show {id}, then ollamax task retry {id}", id = self.id);
        let failed = TaskState::Failed { code: ErrorCode::OutcomeUnknown, text, next };
        let progress = self.progress.at_the_end(&failed, String::new());
        Some(Self { losses, progress, ..self }.into_state(failed, now))
    }

    /// Whether a node works at it in this attempt.
    #[must_use]
    pub fn is_with(&self, node: NodeId, attempt: u32) -> bool {
        self.attempt == attempt && self.state == TaskState::Working { node }
    }
}

// === impl TaskProgress ===

impl TaskProgress {
    /// Of a task that was begun and is over: what was told on the way is not said of it any more, and `text` is.
    #[must_use]
    pub fn at_the_end(self, state: &TaskState, text: String) -> Self {
        let is_whole = matches!(state, TaskState::Completed { .. });
        let done = if is_whole { self.done.max(self.total) } else { self.done };
        Self { done, text, ..self }
    }
}

// === impl TaskState ===

impl TaskState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Working { .. } => "working",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more comes of it by itself.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

// === impl TaskOutcome ===

impl From<TaskOutcome> for TaskState {
    fn from(outcome: TaskOutcome) -> Self {
        match outcome {
            TaskOutcome::Completed { result_json } => Self::Completed { result_json },
            TaskOutcome::Failed { code, text, next } => Self::Failed { code, text, next },
            TaskOutcome::Cancelled { .. } => Self::Cancelled,
        }
    }
}

const fn ms(time: Duration) -> u64 {
    time.as_secs() * 1_000
}
