//! Long work, as the node sees it that owns it for the time being.
//!
//! It may have been begun by another node before: what it does must be harmless where it was done already. Whoever does
//! it looks at `cancelled` wherever it waits, since nothing else ends it.

use tokio_util::sync::CancellationToken;

use crate::principal::Caller;
use crate::progress::Progress;

/// What the function of a task gets beside its arguments.
#[derive(Debug, Clone)]
pub struct Work {
    /// Who asked for it.
    pub caller: Caller,
    /// Which beginning of it this is, from 1 on.
    pub attempt: u32,
    /// Where it says how far it is.
    pub progress: Progress,
    /// Somebody wants it to end, or another node owns it now.
    pub cancelled: CancellationToken,
}
