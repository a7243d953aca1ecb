//! What the leader would do for the wishes of the cluster: asked of whoever leads, and answered by it.
//!
//! Nobody else answers: since when nodes are away is known to the leader alone. A node that leads asks nobody. Where no
//! leader is known, or it cannot be reached, that is said; nothing is tried again.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Request, Response, Status};

use ollamax_core::catalog::Fault;
use ollamax_gateway::grpc::{AdminError, outlook};
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::placement_client::PlacementClient;
use ollamax_proto::v1::placement_server::{Placement, PlacementServer};
use ollamax_types::{ErrorCode, NodeId};

use crate::adapters::status::{code_of, refusal};
use crate::follow::presence::Foresight;
use crate::slot::{MemberEngines, Slot};

/// How long a leader may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks whoever leads.
///
/// # Errors
/// When no leader is known, it does not answer, or the state cannot be read.
pub(crate) async fn ask(
    net: &NetHandle,
    engines: &MemberEngines,
    order: v1::OutlookOrder,
) -> Result<v1::OutlookView, AdminError> {
    if let Some(view) = here(engines, &order)? {
        return Ok(view);
    }
    let leader = engines.metadata.status().leader.filter(|leader| *leader != engines.node);
    let leader = leader.ok_or_else(|| told(ErrorCode::NoQuorum, "no leader is known just now"))?;
    let mut client = PlacementClient::new(net.channel(leader, Class::Forward));
    match timeout(ANSWER_TIMEOUT, client.outlook(order)).await {
        Ok(Ok(view)) => Ok(view.into_inner()),
        Ok(Err(status)) => Err(unanswered(&status)),
        Err(_) => Err(told(ErrorCode::PeerUnreachable, "the leader does not answer")),
    }
}

/// What this node would do; `None` where it does not lead.
fn here(engines: &MemberEngines, order: &v1::OutlookOrder) -> Result<Option<v1::OutlookView>, Fault> {
    let asked = Foresight { at_once: order.at_once, rebalance: order.rebalance };
    let name_of = |node: NodeId| {
        let member = engines.placements.member(node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    Ok(engines.prospect.outlook(asked)?.map(|seen| outlook::to_wire(&seen, &name_of)))
}

/// What the leader said, or that it said nothing.
fn unanswered(status: &Status) -> AdminError {
    let code = code_of(status).unwrap_or(ErrorCode::PeerUnreachable);
    told(code, status.message())
}

fn told(code: ErrorCode, what: &str) -> AdminError {
    AdminError::new(code, what, "only the leader knows what is to be done for models", "ollamax status")
}

/// The answering side.
#[derive(Debug, Clone)]
pub(crate) struct PlacementService {
    slot: Slot,
}

// === impl PlacementService ===

impl PlacementService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot) -> PlacementServer<Self> {
        PlacementServer::new(Self { slot })
    }
}

#[tonic::async_trait]
impl Placement for PlacementService {
    async fn outlook(&self, request: Request<v1::OutlookOrder>) -> Result<Response<v1::OutlookView>, Status> {
        let unready = || refusal(ErrorCode::PeerUnreachable, "this node is not ready");
        let engines = self.slot.get().ok_or_else(unready)?;
        match here(&engines, request.get_ref()) {
            Ok(Some(view)) => Ok(Response::new(view)),
            Ok(None) => Err(refusal(ErrorCode::NoQuorum, "this node does not lead any more")),
            Err(fault) => Err(refusal(ErrorCode::StorageFailed, &fault.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_refuses_keeps_its_code_and_silence_is_one_that_cannot_be_reached() {
        let code = |status: &Status| unanswered(status).code;
        assert_eq!(code(&refusal(ErrorCode::NoQuorum, "not any more")), ErrorCode::NoQuorum);
        assert_eq!(code(&Status::unavailable("connection refused")), ErrorCode::PeerUnreachable);
        // Of a release that knows no such question.
        assert_eq!(code(&Status::unimplemented("")), ErrorCode::PeerUnreachable);
    }

    #[tokio::test]
    async fn a_node_without_engines_is_not_ready() {
        let service = PlacementService { slot: Slot::default() };
        let refused = service.outlook(Request::new(v1::OutlookOrder::default())).await.expect_err("not ready");
        assert_eq!(code_of(&refused), Some(ErrorCode::PeerUnreachable));
    }
}
