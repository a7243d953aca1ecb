//! Members: finding one by what a person types, draining, removing, handing leadership over.

use ollamax_core::catalog::{Command, Member, read};
use ollamax_core::health::Health;
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use super::daemon::AdminError;
use super::{Admin, raft};

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

/// Removes a member for an administrator. A repeated call goes on where it stopped.
///
/// # Errors
/// Those of a change; a refusal is an error.
pub async fn remove_member(metadata: &metadata::Handle, request: &RequestId, node: NodeId) -> Result<(), AdminError> {
    match metadata.remove_member(request, "admin", None, node).await {
        Err(metadata::ProposeError::Refused(refusal)) => Err(refusal.into()),
        removed => Ok(removed?),
    }
}
