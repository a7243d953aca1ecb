//! What the rest of the node holds of transfer: a cheap clone that shows what lies in the store beside this node.
//!
//! The one task that is started here ends with `stop`, and cannot fail: what it cannot read is told in the log and
//! looked at again. Without it the node knows of its models only what the runtime lists.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_types::NodeId;

use crate::adopt::{Adopted, Adoption, Ties};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::ports::Runtime;

/// The things, as opposed to the numbers, that transfer works with.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Where `transfer/` lies.
    pub data_dir: PathBuf,
    /// The runtime beside this node.
    pub runtime: Arc<dyn Runtime>,
    /// What is counted.
    pub metrics: Metrics,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("node", &self.node).field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// Transfer, as callers hold it.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    node: NodeId,
    adopted: watch::Receiver<Arc<Adopted>>,
    look: Arc<Notify>,
    metrics: Metrics,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.0.node).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Starts to look through the store beside this node and to hash its files, until `stop`.
    #[must_use]
    pub fn start(config: Config, parts: Parts, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let Parts { node, data_dir, runtime, metrics } = parts;
        let Config { hash_bytes_per_second_max } = config;
        let (sender, adopted) = watch::channel(Arc::default());
        let look = Arc::new(Notify::new());
        let trees = data_dir.join("transfer").join("trees");
        let ties = Ties { runtime, trees, metrics: metrics.clone(), adopted: sender, look: Arc::clone(&look) };
        // If it fails, the last list stays as it was; it ends with `stop`, between two reads.
        tasks.spawn(Adoption::new(hash_bytes_per_second_max, ties).run(stop));
        Self(Arc::new(Inner { node, adopted, look, metrics }))
    }

    /// Follows what lies in the store beside this node. A new receiver takes what is known already for news. It ends
    /// with the engines.
    #[must_use]
    pub fn adopted(&self) -> watch::Receiver<Arc<Adopted>> {
        self.0.adopted.clone()
    }

    /// Has the store looked through within a second, because the runtime beside this node lists other models or is
    /// another one. Without this call it takes up to a minute. Does not wait for it.
    pub fn look_again(&self) {
        self.0.look.notify_one();
    }

    /// What is counted here, to be registered by the assembly.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}
