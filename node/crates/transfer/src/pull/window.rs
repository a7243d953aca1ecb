//! Waits until a pull may fetch: for a time of the week, and for a place among the pulls of this node.
//!
//! Always holds: whoever waits for the time has no place, so that no pull whose bytes may come is kept from it. One
//! whose time ends while it fetches keeps its place. What needs nothing from anywhere waits for no time. It ends with
//! the node and with whoever cancels the pull.

use std::time::Duration;

use tokio::time::sleep;

use ollamax_blobs::BlobSpec;

use crate::class::Class;
use crate::error::PullError;
use crate::progress::Stage;

use super::course::Course;
use super::{Fetcher, Ground, Pull, blocking};

/// Time between two looks whether bytes may come.
const WINDOW_INTERVAL: Duration = Duration::from_secs(1);

// === impl Pull ===

impl Pull {
    /// Until it may fetch.
    pub(super) async fn await_place(&self, ground: &Ground) -> Result<Fetcher, PullError> {
        let lacking = lacking(ground).await?;
        loop {
            self.unless_ended(self.await_window(&lacking)).await?;
            self.board.begin(Stage::Waiting);
            let fetcher = self.unless_ended(Fetcher::wait(&self.means)).await?;
            if self.closed_way(&lacking).is_none() {
                return Ok(fetcher);
            }
        }
    }

    async fn await_window(&self, lacking: &[BlobSpec]) -> Result<(), PullError> {
        while let Some(class) = self.closed_way(lacking) {
            self.board.wait_for(self.means.limits.window(class));
            sleep(WINDOW_INTERVAL).await;
        }
        Ok(())
    }

    /// How these files would come, while nothing may come that way.
    fn closed_way(&self, lacking: &[BlobSpec]) -> Option<Class> {
        let is_bound = |blob: &BlobSpec| self.means.ledger.bound(blob.sha256).is_some();
        let way = match &self.course {
            Course::Bundled(_) => return None,
            Course::Wished(wished) if wished.is_from_nodes() => Class::Receive,
            // What is on record comes from nodes or from the registry.
            Course::Wished(_) if lacking.iter().all(is_bound) => return None,
            Course::Asked | Course::Wished(_) => Class::Origin,
        };
        Some(way).filter(|class| !lacking.is_empty() && self.means.limits.is_closed(*class))
    }
}

/// The files of which something must still come.
async fn lacking(ground: &Ground) -> Result<Vec<BlobSpec>, PullError> {
    let staging = ground.staging.clone();
    let blobs: Vec<BlobSpec> = ground.missing.iter().map(|(blob, _)| *blob).collect();
    blocking(move || {
        let is_there = |blob: &BlobSpec| {
            // It was begun when room was set aside for it.
            staging.begin(*blob).is_ok_and(|part| part.is_sealed() || part.have().is_full())
        };
        blobs.into_iter().filter(|blob| !is_there(blob)).collect()
    })
    .await
}
