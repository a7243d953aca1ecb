//! What the cluster is told of a copy on its way: its quarters, where it is large, and its end.
//!
//! Always holds: of one pull the quarters are told in order, each once, and the end last. Nothing waits for it: what
//! cannot be told at once is not told, and the pull knows nothing of that.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use ollamax_core::catalog::CopyCourse;
use ollamax_types::limits::COPY_SOURCES_MAX;

use crate::ports::Assignment;
use crate::progress::{PullProgress, Source, Stage, Watch, millis};
use crate::service::Service;

/// From so many bytes on the quarters of a copy are told.
const LARGE_BYTES: u64 = 1 << 30;
/// From then on those of a smaller one are told, too.
const LONG: Duration = Duration::from_secs(30);
/// Longest time that one telling may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// What was told of a copy.
#[derive(Debug, Default)]
struct Milestones {
    quarters: u64,
    is_over: bool,
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Quarter,
    Whole,
}

// === impl Milestones ===

impl Milestones {
    /// What is to be told now, if anything. `is_visible`: the model has its name.
    fn due(&mut self, (verified_bytes, size_bytes): (u64, u64), elapsed: Duration, is_visible: bool) -> Option<Due> {
        if self.is_over || size_bytes == 0 {
            return None;
        }
        if is_visible {
            self.is_over = true;
            // Of what was here before nothing is known.
            return (verified_bytes >= size_bytes).then_some(Due::Whole);
        }
        let quarters = u64::try_from(u128::from(verified_bytes) * 4 / u128::from(size_bytes)).unwrap_or(0).min(3);
        let is_told = size_bytes >= LARGE_BYTES || elapsed >= LONG;
        if !is_told || quarters <= self.quarters {
            return None;
        }
        self.quarters = quarters;
        Some(Due::Quarter)
    }
}

/// Tells the cluster of a pull until it is over.
pub(crate) async fn tell(service: Arc<Service>, assignment: watch::Receiver<Assignment>, mut pull: Watch) {
    let stop = service.stop.clone();
    let told = async {
        let (mut milestones, began) = (Milestones::default(), Instant::now());
        loop {
            let (now, elapsed) = (pull.now(), began.elapsed());
            let bytes = (now.verified_bytes(), now.total_bytes());
            let is_visible = matches!(now.stage, Stage::Settling | Stage::Done);
            if let Some(due) = milestones.due(bytes, elapsed, is_visible) {
                let (name, round) = (now.name.clone(), assignment.borrow().round);
                let noted = service.means.ledger.note_copy(name, round, course(&now, due, elapsed));
                match timeout(TELL_TIMEOUT, noted).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(model = %now.name, %error, "tell how far a copy is"),
                    Err(_) => tracing::debug!(model = %now.name, "tell how far a copy is: nobody answers"),
                }
            }
            if milestones.is_over || !pull.changed().await {
                return;
            }
        }
    };
    stop.run_until_cancelled(told).await;
}

/// How far a pull is, as the cluster is told.
fn course(now: &PullProgress, due: Due, elapsed: Duration) -> CopyCourse {
    let (verified_bytes, took_ms) = (now.verified_bytes(), millis(elapsed));
    let (mut origin_bytes, mut here_bytes, mut other_bytes, mut members) = (0, 0, 0_u64, Vec::new());
    for from in &now.sources {
        match from.source {
            Source::Origin => origin_bytes = from.bytes,
            Source::Here => here_bytes = from.bytes,
            Source::Node(node) => members.push((node, from.bytes)),
            Source::Bundle => other_bytes = other_bytes.saturating_add(from.bytes),
        }
    }
    members.sort_by_key(|(node, bytes)| (Reverse(*bytes), *node));
    let rest = members.iter().skip(COPY_SOURCES_MAX);
    other_bytes = rest.fold(other_bytes, |sum, (_, bytes)| sum.saturating_add(*bytes));
    members.truncate(COPY_SOURCES_MAX);
    let came = verified_bytes.saturating_sub(here_bytes);
    let average = came.saturating_mul(1_000) / took_ms.max(1);
    let is_whole = due == Due::Whole;
    let bytes_per_second = if is_whole { average } else { now.bytes_per_second.unwrap_or(average) };
    CopyCourse {
        is_whole,
        verified_bytes,
        size_bytes: now.total_bytes(),
        took_ms,
        bytes_per_second,
        origin_bytes,
        here_bytes,
        members,
        other_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_or_long_copy_tells_its_quarters_in_order_and_every_copy_its_end_once() {
        let check = |rows: &[(u64, u64, u64, bool, Option<Due>)]| {
            let mut milestones = Milestones::default();
            for (number, (verified, size, seconds, is_visible, expected)) in rows.iter().enumerate() {
                let due = milestones.due((*verified, *size), Duration::from_secs(*seconds), *is_visible);
                assert_eq!(due, *expected, "row {number} of {rows:?}");
            }
        };
        let (gib, quarter, whole) = (1 << 30, Some(Due::Quarter), Some(Due::Whole));
        check(&[
            (0, 0, 0, false, None),
            (gib / 4 - 1, gib, 0, false, None),
            (gib / 4, gib, 0, false, quarter),
            (gib / 4 + 1, gib, 1, false, None),
            (gib / 2, gib, 1, false, quarter),
            (gib / 4, gib, 1, false, None),
            (gib - 1, gib, 2, false, quarter),
            (gib, gib, 2, false, None),
            (gib, gib, 3, true, whole),
            (gib, gib, 3, true, None),
        ]);
        // A small one.
        check(&[(50, 100, 29, false, None), (50, 100, 30, false, quarter), (50, 100, 31, false, None)]);
        check(&[(99, 100, 1, false, None), (100, 100, 2, true, whole), (100, 100, 3, true, None)]);
        // It was there before.
        check(&[(0, gib, 1, true, None), (gib, gib, 2, true, None)]);
        check(&[(u64::MAX, u64::MAX, 0, false, quarter)]);
    }
}
