//! Taking part without an administrator: `cluster.init` or `cluster.token_file` in the configuration.
//!
//! Does nothing on a node that belongs to a cluster. Each attempt is a request of the node itself, with an id. A join
//! that fails is tried again with growing waits, since the other machines, or the token, may come later; what cannot
//! succeed by waiting is said once and given up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use ollamax_gateway::grpc::{AdminError, Daemon as _, Phase};
use ollamax_proto::v1;
use ollamax_security::draw_request_id;
use ollamax_types::{ErrorCode, RequestId};

use crate::config::{self, TokenFault};
use crate::lifecycle::Node;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Takes part as the configuration says, once.
pub(crate) async fn take_part(node: Arc<Node>, stop: CancellationToken) {
    let wish = node.around.config.cluster.clone();
    if *node.around.phase.borrow() != Phase::Waiting {
        return;
    }
    if wish.init {
        let request = v1::InitRequest { cluster_name: wish.name, node_name: String::new() };
        let (id, span) = own_request();
        let attempt = async {
            if let Err(error) = node.init(id, request).await {
                report(error, "make the cluster");
            }
        };
        return attempt.instrument(span).await;
    }
    if wish.token_file.is_empty() {
        return;
    }
    let mut wait = FIRST_WAIT;
    loop {
        let (id, span) = own_request();
        let attempt = async {
            let Err(error) = join(&node, id, &wish.token_file, &wish.role).await else { return true };
            let hopeless =
                matches!(error.code, ErrorCode::TokenInvalid | ErrorCode::IdentityConflict | ErrorCode::BadRequest);
            report(error, "join the cluster");
            hopeless
        };
        let is_over = attempt.instrument(span).await;
        if is_over || stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn own_request() -> (RequestId, Span) {
    let id = draw_request_id();
    let span = tracing::error_span!("unattended", request_id = id.0);
    (id, span)
}

async fn join(node: &Node, id: RequestId, token_file: &str, role: &str) -> Result<v1::JoinReply, AdminError> {
    let token = config::read_token(Path::new(token_file)).map_err(|TokenFault { why, next }| {
        let what = format!("cluster.token_file {token_file}");
        AdminError::new(ErrorCode::PreconditionFailed, what, why, format!("{next}; it is read again soon"))
    })?;
    let request = v1::JoinRequest { token, seeds: Vec::new(), role: role.to_owned(), node_name: String::new() };
    node.join(id, request).await
}

fn report(error: AdminError, what: &str) {
    let AdminError { code, what: error, why, next } = error;
    tracing::error!(%code, error, why, next, what, "take part without an administrator");
}
