//! The schedule: whoever leads makes a backup when one is due in the cluster's own time.
//!
//! What was made last stands in the replicated state, so that a new leader goes on instead of beginning anew. One that
//! fails is tried again after a wait; `status` says so when none was made for twice the interval. Cannot fail the node;
//! ends with the engines.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use ollamax_core::backup::is_due;
use ollamax_core::catalog::read;
use ollamax_gateway::grpc::{AdminError, backup};
use ollamax_metadata as metadata;

use super::Backups;

/// How often it is looked whether one is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Wait after one that failed.
const RETRY_WAIT: Duration = Duration::from_secs(600);

/// Makes them until the node stops.
pub(crate) async fn follow(backups: Backups, stop: CancellationToken) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut not_before: Option<Instant> = None;
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let Ok(metadata) = backups.metadata() else { continue };
        if not_before.is_some_and(|at| Instant::now() < at) || !is_ours(&backups, &metadata) {
            continue;
        }
        let made = match backups.begin("") {
            Ok(making) => backups.make(making, |_| Ok(())).await.is_ok(),
            Err(error) => {
                let AdminError { code, what, why, next } = error;
                tracing::warn!(%code, error = what, why, next, "a scheduled backup cannot begin");
                false
            }
        };
        not_before = (!made).then(|| Instant::now() + RETRY_WAIT);
    }
}

/// Whether one is due and this node is who makes it. Shows when the last one was made on the way.
fn is_ours(backups: &Backups, metadata: &metadata::Handle) -> bool {
    let view = metadata.view();
    let (Ok(Some(cluster)), Ok(last)) = (read::cluster(&*view), backup::last_made(&*view)) else { return false };
    let last = last.map(|made| made.at);
    backups.0.metrics.show_scheduled(last);
    let status = metadata.status();
    let leads = status.leader == Some(status.node) && status.has_quorum;
    leads && is_due(metadata.log_time(), cluster.created_at, last, backups.every_ms())
}
