//! Members: finding one by what a person types, draining, removing, handing leadership over.

use ollamax_core::catalog::{Answer, Command, Member, Refusal, read};
use ollamax_core::health::Health;
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use super::daemon::AdminError;
use super::{Admin, raft};

/// How often a removal starts again because the node reported models meanwhile.
const REMOVE_ATTEMPTS_MAX: usize = 5;
/// Model records that one step of a removal forgets.
const FORGET_STEP: u32 = 256;

impl Admin {
    pub(super) async fn drain(
        &self,
        request: RequestId,
        node: &str,
        drained: bool,
    ) -> Result<v1::DrainNodeReply, AdminError> {
        let node = self.find(node)?.id;
        self.change(request, Command::SetDrained { node, drained }).await?;
        Ok(v1::DrainNodeReply { node_id: node.0 })
    }

    /// Removes a member. A living one is refused unless forced: it should `leave` by itself.
    pub(super) async fn remove(
        &self,
        request: &RequestId,
        node: &str,
        force: bool,
    ) -> Result<v1::RemoveNodeReply, AdminError> {
        let member = self.find(node)?;
        let facts = self.daemon.facts();
        let alive = self.peers().iter().any(|peer| peer.beat.node == member.id && peer.health == Health::Alive);
        if !force && (alive || facts.node == Some(member.id)) {
            let what = format!("node {} ({}) is alive", member.id, member.name);
            let next = format!("on that node: ollamax leave; or: ollamax node remove {} --force", member.id);
            return Err(AdminError::new(ErrorCode::PreconditionFailed, what, "a living node leaves by itself", next));
        }
        let metadata = self.metadata()?;
        remove_member(&metadata, request, member.id).await?;
        Ok(v1::RemoveNodeReply { node_id: member.id.0 })
    }

    /// As `TransferLeadership`, for programs that know ids.
    pub(super) async fn transfer(&self, to: u64) -> Result<v1::TransferLeaderReply, AdminError> {
        raft::hand_over(&self.metadata()?, (to != 0).then_some(NodeId(to))).await?;
        Ok(v1::TransferLeaderReply {})
    }

    /// The member that an administrator means.
    pub(super) fn find(&self, text: &str) -> Result<Member, AdminError> {
        let view = self.metadata()?.view();
        read::find_member(&*view, text)?.ok_or_else(|| AdminError::node_not_found(text))
    }
}

/// Forgets a member's models step by step, then the member. A repeated call goes on where it stopped.
///
/// # Errors
/// Those of a change; a refusal is an error.
pub async fn remove_member(metadata: &metadata::Handle, request: &RequestId, node: NodeId) -> Result<(), AdminError> {
    // A living node may report a model between the two steps.
    for _ in 0..REMOVE_ATTEMPTS_MAX {
        forget_models(metadata, request, node).await?;
        match metadata.propose(request.clone(), "admin", Command::RemoveMember { node }).await?.answer {
            Answer::Refused(Refusal::ModelsRemain(_)) => {}
            Answer::Refused(refusal) => return Err(refusal.into()),
            _ => return Ok(()),
        }
    }
    Err(Refusal::ModelsRemain(node).into())
}

async fn forget_models(metadata: &metadata::Handle, request: &RequestId, node: NodeId) -> Result<(), AdminError> {
    loop {
        let command = Command::ForgetModels { node, limit: FORGET_STEP };
        match metadata.propose(request.clone(), "admin", command).await?.answer {
            Answer::More => {}
            Answer::Refused(refusal) => return Err(refusal.into()),
            Answer::Done => return Ok(()),
            other => return Err(AdminError::unexpected(&other)),
        }
    }
}
