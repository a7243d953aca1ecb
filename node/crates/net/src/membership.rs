//! Which services a request reaches: decided for each request by whether its key is a member at that moment.
//!
//! A member reaches the members' routes; any other key reaches the strangers' routes, with few requests at once. So a
//! connection that a node opened before it became a member serves it as one afterwards, and a member that departs
//! loses its rights with the next request, before its connections are closed. A stream that is open stays what it was
//! when it began; it ends with its connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use crate::metrics::Metrics;
use crate::peer::Caller;
use crate::roster::{Link, Roster};

/// Chooses between two sets of routes.
#[derive(Debug, Clone)]
pub(crate) struct ByMembership {
    pub(crate) members: Routes,
    pub(crate) strangers: Routes,
    pub(crate) roster: Arc<Roster>,
    /// Requests of strangers that may run at once.
    pub(crate) stranger_places: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Body>> for ByMembership {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        let Some(link) = request.extensions().get::<Link>().cloned() else {
            return refusal(Status::internal("the connection carries no proved key"));
        };
        let node = self.roster.node_of(&link);
        request.extensions_mut().insert(Caller { peer_id: link.peer_id, node, vouched: link.vouched });
        if node.is_some() {
            let answer = self.members.call(request);
            return Box::pin(answer);
        }
        let Ok(place) = Arc::clone(&self.stranger_places).try_acquire_owned() else {
            self.metrics.refused("strangers");
            return refusal(Status::resource_exhausted("too many nodes are joining at once; try again in a moment"));
        };
        let answer = self.strangers.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer.map(|answer| if is_unserved(&answer) { not_a_member().into_http() } else { answer })
        })
    }
}

/// Whether no service took the request.
fn is_unserved(answer: &Response<Body>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() == Code::Unimplemented)
}

fn not_a_member() -> Status {
    Status::permission_denied(
        "this node's key belongs to no member of the cluster that answers here; `ollamax join TOKEN` makes it one, and \
         a member that was removed leaves first: ollamax leave",
    )
}

fn refusal(status: Status) -> Answer {
    Box::pin(async move { Ok(status.into_http()) })
}
