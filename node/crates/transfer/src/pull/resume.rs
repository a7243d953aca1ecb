//! Looks through what is there of a file before anybody is asked for more.
//!
//! Which chunks are there is a claim of an earlier moment, perhaps of another process and from before a power cut. So
//! each of them is read once and compared with its hash; the same reading goes into SHA-256 as far as there is no gap.
//! It can be left between any two chunks.

use ollamax_blobs::Part;
use ollamax_types::chunk_range;

use crate::error::PullError;
use crate::metrics::Metrics;
use crate::progress::Board;

use super::blocking;
use super::chase::Chaser;

/// The chaser behind the gapless beginning. What is damaged is not there any more.
pub(crate) async fn look_through(
    part: &Part,
    place: &str,
    board: &Board,
    metrics: &Metrics,
) -> Result<Chaser, PullError> {
    let (spec, claimed) = (part.spec(), part.have());
    let (mut chaser, mut sound_bytes) = (Chaser::new(), 0_u64);
    for index in claimed.runs().flatten() {
        let part = part.clone();
        let looked = blocking(move || {
            let is_sound = chaser.take(&part, index);
            (chaser, is_sound)
        });
        let (back, is_sound) = looked.await?;
        chaser = back;
        if is_sound.map_err(|error| PullError::of_part(place, &error))? {
            let range = chunk_range(spec.size_bytes, index);
            sound_bytes += range.end - range.start;
            board.found(spec.sha256, sound_bytes);
        } else {
            metrics.damaged();
        }
    }
    Ok(chaser)
}
