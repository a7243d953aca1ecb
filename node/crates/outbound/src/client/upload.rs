//! A file of a model on its way to the runtime.
//!
//! However large it is, it may take as long as its bytes go. It is given up when none has gone for long, or when the
//! runtime has all of them and says nothing for as long. A source that breaks off is told in its own words.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use tokio::sync::watch;
use tokio::time::sleep;

use ollamax_types::Digest;

use crate::error::RuntimeError;

use super::{Client, UPLOAD_TIMEOUT, blob_path};

impl Client {
    /// Uploads a model file under its SHA-256, unless the runtime has it. Without a size it goes in chunks.
    ///
    /// # Errors
    /// When the source or the connection breaks, or the bytes do not have this digest.
    pub async fn push_blob(
        &self,
        digest: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), RuntimeError> {
        if self.has_blob(digest).await? {
            return Ok(());
        }
        let path = blob_path(digest);
        let source_error = Arc::new(OnceLock::new());
        let noted = Arc::clone(&source_error);
        let (moved, moves) = watch::channel(());
        let bytes = bytes.inspect(move |chunk| {
            moved.send_replace(());
            if let Err(error) = chunk {
                noted.get_or_init(|| error.to_string());
            }
        });
        let request = self.request(Method::POST, &path).body(reqwest::Body::wrap_stream(bytes));
        let request = match size_bytes {
            Some(size_bytes) => request.header(CONTENT_LENGTH, size_bytes),
            None => request,
        };
        let answer = while_it_moves(moves, UPLOAD_TIMEOUT, self.exchange(request, &path)).await;
        match (source_error.get(), answer) {
            (Some(reason), _) => Err(RuntimeError::UploadFailed { reason: reason.clone() }),
            (None, Some(answer)) => answer.map(|_| ()),
            (None, None) => Err(self.timed_out(&path, UPLOAD_TIMEOUT)),
        }
    }
}

/// Waits for the end of something as long as it moves; `None`: it has not for so long.
async fn while_it_moves<T>(mut moves: watch::Receiver<()>, idle: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let moved = async {
            // Behind its last byte nothing moves any more.
            if moves.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            ended = &mut work => return Some(ended),
            () = moved => {}
            () = sleep(idle) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const LESS: Duration = Duration::from_secs(59);

    #[tokio::test(start_paused = true)]
    async fn an_upload_takes_as_long_as_its_bytes_go_and_ends_when_it_stands_still() {
        let (moved, moves) = watch::channel(());
        let slow = async move {
            for _ in 0..10 {
                sleep(LESS).await;
                moved.send_replace(());
            }
            drop(moved);
            // The runtime has all of it, and says so a while later.
            sleep(LESS).await;
            "done"
        };
        assert_eq!(while_it_moves(moves, IDLE, slow).await, Some("done"));

        let (moved, moves) = watch::channel(());
        let begun = Instant::now();
        let stuck = async move {
            sleep(LESS).await;
            moved.send_replace(());
            pending::<()>().await;
        };
        assert_eq!(while_it_moves(moves, IDLE, stuck).await, None);
        assert!(begun.elapsed() >= LESS + IDLE, "{:?}", begun.elapsed());
    }
}
