//! Taking part without an administrator: `cluster.init` or `cluster.token_file` in the configuration.
//!
//! Does nothing on a node that belongs to a cluster. A join that fails is tried again with growing waits, since the
//! other machines, or the token, may come later; what cannot succeed by waiting is said once and given up.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use ollamax_gateway::grpc::{AdminError, Daemon as _, Phase};
use ollamax_proto::v1;
use ollamax_types::ErrorCode;

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
        if let Err(error) = node.init(request).await {
            report(&error, "make the cluster");
        }
        return;
    }
    if wish.token_file.is_empty() {
        return;
    }
    let mut wait = FIRST_WAIT;
    loop {
        let Err(error) = join(&node, &wish.token_file, &wish.role).await else { return };
        let hopeless =
            matches!(error.code, ErrorCode::TokenInvalid | ErrorCode::IdentityConflict | ErrorCode::BadRequest);
        report(&error, "join the cluster");
        if hopeless || stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn join(node: &Node, token_file: &str, role: &str) -> Result<v1::JoinReply, AdminError> {
    let token = std::fs::read_to_string(token_file).map_err(|error| {
        let next = "write the token there, mode 0600; it is read again soon";
        let what = format!("cluster.token_file {token_file}");
        AdminError::new(ErrorCode::PreconditionFailed, what, error.to_string(), next)
    })?;
    let request = v1::JoinRequest { token, seeds: Vec::new(), role: role.to_owned(), node_name: String::new() };
    node.join(request).await
}

fn report(error: &AdminError, what: &str) {
    let AdminError { code, what: error, why, next } = error;
    tracing::error!(%code, error, why, next, what, "take part without an administrator");
}
