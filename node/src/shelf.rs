//! Opens the registry from which the runtime beside this node fetches what the node may not put into its store.
//!
//! It is bound to loopback at a port that the system gives, and empty but for the moments in which a model is handed
//! over. A node without it works; it only cannot pull into a store of another user.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_gateway::registry::Door;
use ollamax_transfer::Shelf;

/// Serves an empty shelf until `stop`; `None` where no port can be had, which the log tells.
pub(crate) fn open(tasks: &TaskTracker, stop: &CancellationToken) -> Option<Shelf> {
    match Door::bind() {
        Ok(door) => {
            let shelf = Shelf::new(door.address(), || ollamax_security::random_bytes().ok());
            door.spawn(&shelf, tasks, stop);
            Some(shelf)
        }
        Err(error) => {
            tracing::warn!(%error, "open the registry for the runtime beside this node");
            None
        }
    }
}
