//! What somebody wants of a model, followed to its end, as both doors do it.
//!
//! Where the cluster knows wishes, what is wanted goes on record and all nodes that have a part in it are followed;
//! below that, a node pulls for itself. A state is told once in [`LOOK_INTERVAL`] at most, and the last one is over,
//! unless this node stops. Dropping what is given out here ends the listening and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::time::{Instant, sleep_until};

use ollamax_core::catalog::{COPIES_UNSAID, Fault, View, Wish, read};
use ollamax_transfer as transfer;
use ollamax_transfer::{Overview, OverviewWatch, PullError, PullProgress, PullSpec, Stage, Watch};
use ollamax_types::{ModelName, NodeId};

/// From this cluster version on there are wishes.
pub(crate) const WISHES_VERSION: u32 = 4;
/// How many nodes get a model when nobody says how many and nothing is on record; one where no two can.
pub(crate) const REPLICAS: u32 = COPIES_UNSAID;
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

/// Whether all nodes that shall have a model do. Of such a wish nothing can be ended, and it stays.
pub(crate) fn is_met(view: &dyn View, name: &ModelName) -> Result<bool, Fault> {
    let Some(wish) = read::wish(view, name)? else { return Ok(false) };
    let holders = holders(view, &wish)?;
    Ok(wish.plan.is_some_and(|plan| plan.targets.iter().all(|target| holders.contains(target))))
}

/// Who has the version of a wish.
fn holders(view: &dyn View, wish: &Wish) -> Result<BTreeSet<NodeId>, Fault> {
    let copies = read::locations_of(view, &wish.name)?;
    Ok(copies.iter().filter(|copy| Some(copy.model.digest) == wish.digest).map(|copy| copy.node).collect())
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
    let (sources, wait, remark) = (Vec::new(), None, None);
    PullProgress { name, node, stage, digest, blobs, sources, bytes_per_second: None, left: None, wait, remark }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Command, Failure, Key, Location, Mutation, Plan, Record, Replicas};
    use ollamax_types::{Digest, ErrorCode, ModelRecord, Timestamp};

    use super::*;

    const VERSION: Digest = Digest([1; 32]);

    fn name() -> ModelName {
        "m".parse().expect("a name")
    }

    /// For three copies; whoever stands first asks the registry.
    fn wish(digest: Option<Digest>, targets: &[u64], failed: &[u64]) -> Wish {
        let targets: Vec<NodeId> = targets.iter().copied().map(NodeId).collect();
        let failure =
            || Failure { code: ErrorCode::DiskFull, text: "full".to_owned(), at: Timestamp(2), by_hand: false };
        Wish {
            replicas: Replicas::Count(3),
            digest,
            plan: targets.first().copied().map(|ingester| Plan {
                ingester,
                targets,
                made_at: Timestamp(1),
                kind: Default::default(),
            }),
            failures: failed.iter().map(|node| (NodeId(*node), failure())).collect(),
            ..mem::wish(name())
        }
    }

    fn copy(node: u64, digest: Digest) -> Mutation {
        let (node, details_json) = (NodeId(node), "{}".to_owned());
        let (weights, modified_at, capabilities) = (digest, Timestamp(0), vec![]);
        let model =
            ModelRecord { name: name(), digest, weights, size_bytes: 1, modified_at, details_json, capabilities };
        Mutation::Put(Key::Location(name().key(), node), Record::Location(Location { node, model }))
    }

    /// Whether it is met.
    fn check(what: &str, wish: Option<Wish>, copies: &[Mutation], expected: bool) {
        let mut view = MemView::default();
        view.write(copies);
        if let Some(wish) = wish {
            view.write(&[Mutation::Put(Key::Wish(name().key()), Record::Wish(Box::new(wish)))]);
        }
        assert_eq!(is_met(&view, &name()), Ok(expected), "{what}");
    }

    #[test]
    fn what_all_have_that_shall_is_there_and_is_not_ended() {
        let both = [copy(1, VERSION), copy(2, VERSION)];
        let other = [copy(1, VERSION), copy(2, Digest([2; 32]))];
        let resolved = |failed: &[u64]| Some(wish(Some(VERSION), &[1, 2], failed));
        check("nobody asked", None, &both, false);
        check("nobody has planned", Some(wish(None, &[], &[])), &both, false);
        check("the version is not known", Some(wish(None, &[1, 2], &[])), &both, false);
        check("one lacks it", resolved(&[]), &both[..1], false);
        check("one has another version", resolved(&[]), &other, false);
        check("all have it", resolved(&[]), &both, true);
        check("whatever they told before", resolved(&[1, 2]), &both, true);
        check("whoever lacks it has failed", resolved(&[2]), &both[..1], false);
    }

    #[test]
    fn wishes_are_asked_for_from_their_version_on() {
        let ask = Command::AskModel {
            name: name(),
            replicas: Replicas::Count(REPLICAS),
            insecure: false,
            want: Default::default(),
            declared: false,
            unsaid: false,
            away: Default::default(),
        };
        assert_eq!(ask.least_version(), WISHES_VERSION);
    }
}
