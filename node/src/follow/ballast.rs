//! Looks after the ballast of the store: a file that is given back when the disk fills.
//!
//! The store decides and acts; here is only the clock, and a thread that may block. Cannot fail: what could not be made
//! or deleted is told by the store and tried again.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use ollamax_metadata as metadata;
use ollamax_types::ErrorCode;

/// Time between two looks at the disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks until `stop`.
pub(crate) async fn follow(metadata: metadata::Handle, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let metadata = metadata.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || metadata.tend_ballast()).await {
            tracing::error!(code = %ErrorCode::Internal, %error, "look after the ballast");
        }
    }
}
