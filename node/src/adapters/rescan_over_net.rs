//! A new look at what the runtimes of the cluster have: asked of every member at once, and answered by each.
//!
//! A runtime whose store somebody filled past the cluster is listed anew now and then; this is now. Each node is asked
//! once and for a bounded time; one that does not answer is told with the reason and keeps nobody waiting.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use ollamax_core::catalog::{Fault, Member, read};
use ollamax_net::{Class, NetHandle};
use ollamax_outbound::RuntimeHandle;
use ollamax_proto::v1;
use ollamax_proto::v1::inventory_client::InventoryClient;
use ollamax_proto::v1::inventory_server::{Inventory, InventoryServer};
use ollamax_tools::views::Rescanned;
use ollamax_transfer as transfer;
use ollamax_types::{ErrorCode, NodeId, Role};

use crate::adapters::status::{code_of, refusal};
use crate::import::plan::is_temporary;
use crate::slot::{MemberEngines, Slot};

/// How long a node may take to list its models anew.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// How many nodes are asked at once.
const ASK_AT_ONCE: usize = 16;
/// What is said where there is nothing to look at.
const NO_RUNTIME: &str = "there is no runtime beside it; run ollamax doctor there";

/// The asking side.
#[derive(Debug, Clone)]
pub(crate) struct Rescans {
    net: NetHandle,
    runtime: RuntimeHandle,
}

// === impl Rescans ===

impl Rescans {
    /// Asks over these connections, and looks at this node's own runtime itself.
    #[must_use]
    pub(crate) const fn new(net: NetHandle, runtime: RuntimeHandle) -> Self {
        Self { net, runtime }
    }

    /// Has all members look that may hold models; what they found, in the order of their names.
    ///
    /// # Errors
    /// When the members cannot be read.
    pub(crate) async fn all(&self, engines: &MemberEngines) -> Result<Vec<Rescanned>, Fault> {
        let members = read::members(&*engines.metadata.view())?.into_iter();
        let answers: Vec<_> = members.filter(holds_models).map(|member| self.one(member, engines.clone())).collect();
        let mut found: Vec<Rescanned> = stream::iter(answers).buffer_unordered(ASK_AT_ONCE).collect().await;
        found.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(found)
    }

    async fn one(&self, member: Member, engines: MemberEngines) -> Rescanned {
        let Member { id, name, .. } = member;
        let asked = async {
            if id == engines.node { here(&engines.transfer, &self.runtime).await } else { self.there(id).await }
        };
        let models = match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|status| told(&status)),
            Err(_) => Err(format!("it did not answer within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        rescanned(name, models)
    }

    async fn there(&self, node: NodeId) -> Result<u32, Status> {
        let mut client = InventoryClient::new(self.net.channel(node, Class::Forward));
        client.rescan(v1::RescanOrder {}).await.map(|outcome| outcome.into_inner().models)
    }
}

/// How many models a node's runtime lists, or why that is not known.
fn rescanned(node: String, models: Result<u32, String>) -> Rescanned {
    Rescanned { node, models: models.as_ref().ok().copied(), problem: models.err() }
}

/// Gateways hold no models, whatever runs beside them.
fn holds_models(member: &Member) -> bool {
    member.is_standing() && member.role != Role::Gateway
}

/// Why a node did not look, for people.
fn told(status: &Status) -> String {
    match (code_of(status), status.code()) {
        (Some(_), _) => status.message().to_owned(),
        (None, Code::Unimplemented) => "it runs an older release".to_owned(),
        (None, _) => format!("it cannot be reached: {}", status.message()),
    }
}

/// Looks at the runtime and the store beside this node. What follows is told to the cluster as ever.
async fn here(transfer: &transfer::Handle, runtime: &RuntimeHandle) -> Result<u32, Status> {
    let client = runtime.client().ok_or_else(|| refusal(ErrorCode::RuntimeUnavailable, NO_RUNTIME))?;
    transfer.look_again();
    client.note_models_changed();
    let models = client.tags().await.map_err(|error| refusal(error.code(), &error.to_string()))?;
    let count = models.iter().filter(|model| !is_temporary(&model.name)).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The answering side.
#[derive(Debug, Clone)]
pub(crate) struct InventoryService {
    slot: Slot,
    runtime: RuntimeHandle,
}

// === impl InventoryService ===

impl InventoryService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot, runtime: RuntimeHandle) -> InventoryServer<Self> {
        InventoryServer::new(Self { slot, runtime })
    }
}

#[tonic::async_trait]
impl Inventory for InventoryService {
    async fn rescan(&self, _request: Request<v1::RescanOrder>) -> Result<Response<v1::RescanOutcome>, Status> {
        let unready = || refusal(ErrorCode::PeerUnreachable, "this node is not ready");
        let engines = self.slot.get().ok_or_else(unready)?;
        let models = here(&engines.transfer, &self.runtime).await?;
        Ok(Response::new(v1::RescanOutcome { models }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_or_why_not_is_told() {
        let found = |models: Result<u32, String>| rescanned("a".to_owned(), models);
        assert_eq!((found(Ok(3)).models, found(Ok(3)).problem), (Some(3), None));
        let silent = found(Err("it cannot be reached".to_owned()));
        assert_eq!((silent.models, silent.problem.as_deref()), (None, Some("it cannot be reached")));
    }

    #[test]
    fn a_node_that_did_not_look_is_told_with_the_reason() {
        let check = |status: &Status, expected: &str| assert_eq!(told(status), expected);
        check(&refusal(ErrorCode::RuntimeUnavailable, NO_RUNTIME), NO_RUNTIME);
        check(&Status::unimplemented(""), "it runs an older release");
        check(&Status::unavailable("connection refused"), "it cannot be reached: connection refused");
    }
}
