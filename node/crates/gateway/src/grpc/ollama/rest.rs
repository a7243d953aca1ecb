//! What is left of a body when its request is answered.
//!
//! A client that still sends while its connection is closed meets a broken pipe, and many never read their answer then.
//! One that reads beside its sending ends by itself when it has its answer. So the answer goes out at once, and what
//! nobody has read of a body is read and thrown away beside it: as long as its bytes come, and no more of them than a
//! file of a model has, and a moment longer when this node stops; where the body goes on behind that, the connection
//! ends. A client that waits to be asked for its body is not asked for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use ollamax_types::limits::BLOB_BYTES_MAX;

use super::{Beside, stop_of};

/// How long what is left may stand still, and how long it may come yet when this node stops.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Body,
    /// Where it comes back; nobody waits there behind its end.
    back: Option<oneshot::Sender<Body>>,
    /// Whether the client sends nothing before it is asked to, which the first look does.
    is_unasked: bool,
}

/// As [`with_rest_read`], around routes.
pub(super) async fn read_rest(request: Request, next: Next) -> Response<Body> {
    with_rest_read(request, move |request| next.run(request)).await
}

/// Answers a request, and reads beside the answer what that left of the body.
pub(super) async fn with_rest_read<A>(request: Request, answer: impl FnOnce(Request) -> A) -> Response<Body>
where
    A: Future<Output = Response<Body>>,
{
    let (head, body) = request.into_parts();
    let stop = stop_of(&head.extensions);
    let Beside(tasks) = head.extensions.get().cloned().unwrap_or_default();
    let (back, left) = oneshot::channel();
    let lent = Lent { body, back: Some(back), is_unasked: head.headers.contains_key(EXPECT) };
    let response = answer(Request::from_parts(head, Body::new(lent))).await;
    let rest = async move {
        // Where a runtime still takes it, it is read there.
        if let Ok(Ok(body)) = timeout(SILENCE_MAX, left).await {
            swallow(body).await;
        }
    };
    tasks.spawn(async move {
        tokio::select! {
            () = rest => {}
            () = stopped(&stop) => {}
        }
    });
    response
}

async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(SILENCE_MAX).await;
}

async fn swallow(mut body: Body) {
    let mut left_bytes = BLOB_BYTES_MAX;
    while left_bytes > 0 {
        let Ok(Some(Ok(frame))) = timeout(SILENCE_MAX, body.frame()).await else { break };
        left_bytes = left_bytes.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let lent = self.get_mut();
        lent.is_unasked = false;
        let frame = ready!(Pin::new(&mut lent.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || lent.body.is_end_stream() {
            lent.back = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let is_wanted = !self.is_unasked && !self.body.is_end_stream();
        if let Some(back) = self.back.take().filter(|_| is_wanted) {
            drop(back.send(std::mem::take(&mut self.body)));
        }
    }
}
