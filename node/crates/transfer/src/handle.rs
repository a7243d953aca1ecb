//! What the rest of the node holds of transfer: ask, watch, cancel.
//!
//! A cheap clone. Pulls and adoption run in tasks of their own, which end with `stop`; dropping what is held here ends
//! none of them. Adoption cannot fail: what it cannot read is told in the log and looked at again. Without it the node
//! knows of its models only what the runtime lists.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::Promises;
use ollamax_core::transfer_plan::Patience;
use ollamax_types::{Clock, ModelName, NodeId};

use crate::adopt::{Adopted, Adoption, Ties, Trees};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::elsewhere::Remote;
use crate::error::PullError;
use crate::metrics::Metrics;
use crate::ports::{Origin, Others, Runtime};
use crate::progress::{PullProgress, Stage, Watch};
use crate::pull::Means;
use crate::service::Service;

/// What somebody wants to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSpec {
    /// The model.
    pub name: ModelName,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// Who asks, for people.
    pub asked_by: String,
}

/// The things, as opposed to the numbers, that transfer works with.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Wall time, for the stamps of files and jobs.
    pub clock: Clock,
    /// Where `transfer/` lies.
    pub data_dir: PathBuf,
    /// Where models come from.
    pub origin: Arc<dyn Origin>,
    /// The runtime beside this node.
    pub runtime: Arc<dyn Runtime>,
    /// The other nodes.
    pub others: Arc<dyn Others>,
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
    service: Arc<Service>,
    others: Arc<dyn Others>,
    metrics: Metrics,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.0.node).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Starts to look through the store beside this node and to hash its files, and takes up the pulls that were cut
    /// off, until `stop`.
    #[must_use]
    pub fn start(config: Config, parts: Parts, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let Parts { node, clock, data_dir, origin, runtime, others, metrics } = parts;
        let folder = data_dir.join("transfer");
        let (sender, adopted) = watch::channel(Arc::default());
        let (fetching, pulling) = watch::channel(0);
        let look = Arc::new(Notify::new());
        let trees = Trees::new(folder.join("trees"));
        let ties = Ties {
            runtime: Arc::clone(&runtime),
            trees: trees.clone(),
            pulling,
            metrics: metrics.clone(),
            adopted: sender,
            look: Arc::clone(&look),
        };
        // If it fails, the last list stays as it was; it ends with `stop`, between two reads.
        tasks.spawn(Adoption::new(config.hash_bytes_per_second_max, ties).run(stop.clone()));
        let means = Means {
            clock,
            origin,
            runtime,
            metrics: metrics.clone(),
            buffers: Buffers::new(),
            promises: Promises::default(),
            places: Arc::new(Semaphore::new(config.pulls_max as usize)),
            trees,
            look: Arc::clone(&look),
            fetching,
            own_staging: folder.join("staging"),
            staging: tokio::sync::Mutex::default(),
            turns: Mutex::default(),
            config,
        };
        let service = Arc::new(Service {
            node,
            means: Arc::new(means),
            jobs_root: folder.join("jobs"),
            jobs: OnceCell::new(),
            pulls: Mutex::new(BTreeMap::new()),
            tasks: tasks.clone(),
            stop,
        });
        // If it fails, pulls that were cut off wait for the next start or for somebody who asks; it ends with `stop`.
        tasks.spawn(Arc::clone(&service).run());
        Self(Arc::new(Inner { node, adopted, look, service, others, metrics }))
    }

    /// Pulls a model to this node, or joins the pull of that name. It answers when the pull is promised: its name is
    /// known, it fits, and it goes on whoever watches, over restarts.
    ///
    /// # Errors
    /// When it failed before that, and when no more can wait or watch.
    pub async fn pull(&self, spec: PullSpec) -> Result<Watch, PullError> {
        self.0.service.pull(spec).await
    }

    /// Pulls a model to another node, or to this one. The watch goes on over lost connections; dropping it does not
    /// end the pull.
    ///
    /// # Errors
    /// As [`Handle::pull`] there, or when that node cannot be asked.
    pub async fn pull_at(&self, node: NodeId, spec: PullSpec) -> Result<Watch, PullError> {
        if node == self.0.node {
            return self.pull(spec).await;
        }
        let Service { means, tasks, stop, .. } = &*self.0.service;
        let Config { retry_ms, retry_ms_max, silence_ms, .. } = means.config;
        let patience = Patience { first_wait_ms: retry_ms, wait_ms_max: retry_ms_max, silence_ms };
        let remote = Remote { others: Arc::clone(&self.0.others), node, spec, patience };
        let (stream, first) = remote.open().await?;
        if let Stage::Failed(error) = &first.stage {
            return Err(error.clone());
        }
        let (sender, receiver) = watch::channel(Arc::new(first));
        let watch = Watch::new(receiver);
        if !watch.now().is_over() {
            // It ends when nobody watches, with the pull and with this node; a defect in it ends the watch.
            tasks.spawn(remote.follow(stream, sender, stop.clone()));
        }
        Ok(watch)
    }

    /// Ends a pull of this node, and keeps what was fetched. False when there is none, or it is over otherwise.
    pub async fn cancel(&self, name: &ModelName) -> bool {
        self.0.service.cancel(name).await
    }

    /// Ends a pull of another node, or of this one. False as [`Handle::cancel`] there.
    ///
    /// # Errors
    /// When that node cannot be asked.
    pub async fn cancel_at(&self, node: NodeId, name: &ModelName) -> Result<bool, PullError> {
        if node == self.0.node { Ok(self.cancel(name).await) } else { self.0.others.cancel(node, name.clone()).await }
    }

    /// The pulls of this node that are not over, and those that failed within the last hour, by name.
    #[must_use]
    pub fn pulls(&self) -> Vec<Arc<PullProgress>> {
        self.0.service.pulls()
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
