//! What goes on beside the fetching of a file, wherever it comes from.

use std::time::Duration;

use tokio::time::sleep;

use ollamax_blobs::Part;

use crate::error::PullError;
use crate::progress::{Board, NEWS_INTERVAL};

use super::blocking;

/// Time between two moments when what has come is made durable.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);

/// Makes durable from time to time what has come. It returns only when the disk does not.
pub(crate) async fn keep_durable(part: &Part, place: &str) -> PullError {
    loop {
        sleep(SYNC_INTERVAL).await;
        let part = part.clone();
        match blocking(move || part.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return PullError::of_part(place, &error),
            Err(error) => return error,
        }
    }
}

/// Tells how far it is, also while nothing comes. It never ends.
pub(crate) async fn keep_told(board: &Board) {
    loop {
        sleep(NEWS_INTERVAL).await;
        board.refresh();
    }
}
