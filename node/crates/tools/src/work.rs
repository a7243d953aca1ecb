//! Long work, as the node sees it that owns it for the time being.
//!
//! It may have been begun by another node before: what it does must be harmless where it was done already. So each
//! command that it sends carries the key of its step, and has effect once in all attempts; what people did since then
//! stays. Whoever does it looks at `cancelled` at its start and wherever it waits, since nothing else ends it; where
//! that is set from the start, there is nothing to begin, and only to end what an earlier attempt began.

use tokio_util::sync::CancellationToken;

use ollamax_types::TaskId;

use crate::once::OnceKey;
use crate::principal::Caller;
use crate::progress::Progress;

/// What the function of a task gets beside its arguments.
#[derive(Debug, Clone)]
pub struct Work {
    /// Who asked for it.
    pub caller: Caller,
    /// Its task.
    pub task: TaskId,
    /// In which attempt it was begun since somebody asked for it last; others that go on after a loss have the same.
    pub begun: u32,
    /// Where it says how far it is.
    pub progress: Progress,
    /// Somebody wants it to end, or another node owns it now.
    pub cancelled: CancellationToken,
}

// === impl Work ===

impl Work {
    /// The key of a step: the same in each attempt, and another one when somebody has the task done again.
    #[must_use]
    pub fn once(&self, step: &str) -> OnceKey {
        OnceKey::of_step(self.task, self.begun, step)
    }
}
