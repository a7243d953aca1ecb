//! The chaser of a file that comes from other nodes: chunks that the disk changed come again, and not for ever.

use std::mem;
use std::sync::atomic::Ordering;

use ollamax_types::Digest;

use super::{News, Receiving, Shared};
use crate::error::PullError;
use crate::pull::chase::{Chaser, check_damage};

// === impl Shared ===

impl Shared {
    /// Hashes the file in order as it comes, to its end.
    pub(super) async fn chase(&self, mut chaser: Chaser) -> Result<Digest, PullError> {
        let Receiving { part, place, .. } = &self.receiving;
        let (count, mut damaged) = (self.count(), 0);
        let mut changes = self.changes.subscribe();
        loop {
            if self.is_rewound.swap(false, Ordering::Relaxed) {
                chaser = Chaser::new();
            }
            let index = chaser.next();
            let lost = if index >= count && part.have().is_full() {
                match mem::replace(&mut chaser, Chaser::new()).verdict(part, place).await? {
                    Ok(digest) if !self.is_rewound.load(Ordering::Relaxed) => return Ok(digest),
                    // Meanwhile chunks went that are not those of the file; they come again.
                    Ok(_) => Vec::new(),
                    Err(lost) => lost,
                }
            } else if index >= count || part.hash_of(index).is_none() {
                // Behind the end: a chunk that was hashed went, and comes again.
                changes.changed().await.expect("the sender is ours");
                continue;
            } else {
                let (back, lost) = chaser.follow(part, count, place).await?;
                chaser = back;
                lost.into_iter().collect()
            };
            for index in lost {
                damaged += 1;
                self.lose(index, damaged).await?;
            }
        }
    }

    /// A chunk is not what was written: it is fetched again, if the disk is not too bad.
    async fn lose(&self, index: u32, damaged: u32) -> Result<(), PullError> {
        let Receiving { part, place, metrics, .. } = &self.receiving;
        metrics.damaged();
        check_damage(part, place, index, damaged)?;
        // Where nobody listens any more the file ends anyway.
        drop(self.news.send(News::Lost { index }).await);
        Ok(())
    }
}
