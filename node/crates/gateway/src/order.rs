//! What somebody wants of a model, followed to its end, as both doors do it.
//!
//! Where the cluster knows wishes, what is wanted goes on record and all nodes that have a part in it are followed;
//! below that, a node pulls for itself. A state is told once in [`LOOK_INTERVAL`] at most, and the last one is over,
//! unless this node stops. Dropping what is given out here ends the listening and nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::time::{Instant, sleep_until};

use ollamax_core::catalog::{Fault, View, read};
use ollamax_transfer as transfer;
use ollamax_transfer::{Overview, OverviewWatch, PullError, PullProgress, PullSpec, Stage, Watch};
use ollamax_types::{ModelName, NodeId};

/// From this cluster version on there are wishes.
pub(crate) const WISHES_VERSION: u32 = 4;
/// How many nodes get a model when nobody says how many; one where no two can.
pub(crate) const REPLICAS: u32 = 2;
/// A pull is looked at once in this time; what happened between two looks is told at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A pull of one node, and the node that is to be asked for it.
pub(crate) struct Order {
    pub(crate) transfer: transfer::Handle,
    pub(crate) node: NodeId,
    pub(crate) spec: PullSpec,
}

/// An order on its way.
enum Following {
    Ordered(Order),
    Begun(Watch),
    Watched { watch: Watch, next_look: Instant },
    Over,
}

/// A wish on its way.
enum Wished {
    Begun(OverviewWatch),
    Watched { watch: OverviewWatch, next_look: Instant },
    Over,
}

/// The cluster version as this node knows it; 0 before there is a cluster.
pub(crate) fn cluster_version(view: &dyn View) -> Result<u32, Fault> {
    Ok(read::cluster(view)?.map_or(0, |cluster| cluster.version))
}

/// How far a pull is that was begun; the last state is over.
pub(crate) fn begun(watch: Watch) -> impl Stream<Item = Arc<PullProgress>> + Send + 'static {
    stream::unfold(Following::Begun(watch), Following::step)
}

/// How far all nodes of a wish are. The stream ends behind the state that is over, or without one when this node
/// stops.
pub(crate) fn followed(watch: OverviewWatch) -> impl Stream<Item = Arc<Overview>> + Send + 'static {
    stream::unfold(Wished::Begun(watch), Wished::step)
}

// === impl Order ===

impl Order {
    /// How far it is; the last state is over.
    pub(crate) fn states(self) -> impl Stream<Item = Arc<PullProgress>> + Send + 'static {
        stream::unfold(Following::Ordered(self), Following::step)
    }
}

// === impl Following ===

impl Following {
    async fn step(self) -> Option<(Arc<PullProgress>, Self)> {
        let watch = match self {
            Self::Over => return None,
            Self::Begun(watch) => watch,
            Self::Ordered(order) => {
                let Order { transfer, node, spec } = order;
                let name = spec.name.clone();
                match transfer.pull_at(node, spec).await {
                    Ok(watch) => watch,
                    Err(error) => return Some((Arc::new(refused(name, node, error)), Self::Over)),
                }
            }
            Self::Watched { mut watch, next_look } => {
                let goes_on = watch.changed().await;
                let now = watch.now();
                if !goes_on && !now.is_over() {
                    let stage = Stage::Failed(PullError::Stopping);
                    return Some((Arc::new(PullProgress { stage, ..(*now).clone() }), Self::Over));
                }
                if !now.is_over() {
                    sleep_until(next_look).await;
                }
                watch
            }
        };
        let now = watch.now();
        let next_look = Instant::now() + LOOK_INTERVAL;
        let next = if now.is_over() { Self::Over } else { Self::Watched { watch, next_look } };
        Some((now, next))
    }
}

// === impl Wished ===

impl Wished {
    async fn step(self) -> Option<(Arc<Overview>, Self)> {
        let watch = match self {
            Self::Over => return None,
            Self::Begun(watch) => watch,
            Self::Watched { mut watch, next_look } => {
                if !watch.changed().await && !watch.now().is_over {
                    return None;
                }
                if !watch.now().is_over {
                    sleep_until(next_look).await;
                }
                watch
            }
        };
        let now = watch.now();
        let next_look = Instant::now() + LOOK_INTERVAL;
        let next = if now.is_over { Self::Over } else { Self::Watched { watch, next_look } };
        Some((now, next))
    }
}

/// A pull that did not begin.
fn refused(name: ModelName, node: NodeId, error: PullError) -> PullProgress {
    let (stage, digest, blobs) = (Stage::Failed(error), None, Arc::default());
    let (sources, wait) = (Vec::new(), None);
    PullProgress { name, node, stage, digest, blobs, sources, bytes_per_second: None, left: None, wait }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::{Command, Replicas};

    use super::*;

    #[test]
    fn wishes_are_asked_for_from_their_version_on() {
        let name: ModelName = "m".parse().expect("a name");
        let ask = Command::AskModel { name, replicas: Replicas::Count(REPLICAS), insecure: false };
        assert_eq!(ask.least_version(), WISHES_VERSION);
    }
}
