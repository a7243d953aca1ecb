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
            return Err(alive_still(&member, self.holds_models(member.id)?));
        }
        let metadata = self.metadata()?;
        remove_member(&metadata, request, member.id).await?;
        Ok(v1::RemoveNodeReply { node_id: member.id.0 })
    }

    fn holds_models(&self, node: NodeId) -> Result<bool, AdminError> {
        Ok(!read::models_of(&*self.metadata()?.view(), node)?.is_empty())
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

/// A living node is not removed by others; what it holds can go elsewhere first.
fn alive_still(member: &Member, holds_models: bool) -> AdminError {
    let Member { id, name, .. } = member;
    let what = format!("node {id} ({name}) is alive");
    let leave = format!("on that node: ollamax leave; or: ollamax node remove {id} --force");
    let (why, next) = if holds_models {
        let why = "a living node leaves by itself, and models are on it that others may not have";
        (why, format!("ollamax node drain {name} --models --wait; then {leave}"))
    } else {
        ("a living node leaves by itself", leave)
    };
    AdminError::new(ErrorCode::PreconditionFailed, what, why, next)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn who_removes_a_living_node_is_told_to_empty_it_where_it_holds_models() {
        let member = Member { name: "c".to_owned(), ..samples::member(3) };
        let leave = "on that node: ollamax leave; or: ollamax node remove 3 --force";
        assert_eq!(alive_still(&member, false).next, leave);
        let emptied = format!("ollamax node drain c --models --wait; then {leave}");
        assert_eq!(alive_still(&member, true).next, emptied);
    }
}
