//! Changes of names that are waited for, as Ollama's own clients expect: a copy that is there, a model that is gone.
//!
//! The change goes on record as any other, and each node carries it out by itself. It is waited for on the nodes that
//! are heard, for a bounded time. What was not seen until then still comes, and whoever asked is told so.

use std::collections::BTreeSet;
use std::time::Duration;

use ollamax_core::catalog::{Location, models};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_types::{Digest, ModelName, NodeId, RequestId};

use crate::grpc::daemon::AdminError;
use crate::grpc::management::wait_for_copies;
use crate::grpc::pulls::Pulls;
use crate::grpc::registry::check_not_pinned;

/// How long nodes are given to carry it out.
const SEEN_TIMEOUT: Duration = Duration::from_secs(30);

// === impl Pulls ===

impl Pulls {
    /// Gives a version another name, and says whether a node has it under that one by now.
    pub(in crate::grpc) async fn copy_until_seen(
        &self,
        id: RequestId,
        from: &ModelName,
        to: &ModelName,
    ) -> Result<bool, AdminError> {
        let asked = v1::TagModelRequest { name: from.to_string(), new_name: to.to_string() };
        let fixed = self.tag(id, &asked).await?;
        let is_there = |copies: &[Location]| copies.iter().any(|copy| copy.model.digest.0[..] == fixed.digest[..]);
        Ok(wait_for_copies(&self.0.metadata()?, to, SEEN_TIMEOUT, is_there).await)
    }

    /// Removes a model as a whole, its last copy too but not a pinned one, and says whether it is gone by now.
    pub(in crate::grpc) async fn delete_until_seen(&self, id: RequestId, name: &ModelName) -> Result<bool, AdminError> {
        let metadata = self.0.fresh(false).await?;
        // Who pins a name wants it to stay, whoever deletes it in Ollama's words: they have none for insisting. It is
        // asked once more when the change is applied.
        check_not_pinned(name, models::pin_of(&*metadata.view(), name)?)?;
        let asked = v1::RemoveModelRequest { name: name.to_string(), force: true, ..v1::RemoveModelRequest::default() };
        let removed = self.remove_copies(id, &asked, true).await?;
        let going = going(&removed, &self.heard_now(&metadata));
        let is_gone = |copies: &[Location]| !copies.iter().any(|copy| going.contains(&(copy.node, copy.model.digest)));
        Ok(wait_for_copies(&metadata, name, SEEN_TIMEOUT, is_gone).await)
    }

    /// This node, and the others that answer.
    fn heard_now(&self, metadata: &metadata::Handle) -> BTreeSet<NodeId> {
        let mut heard = self.alive();
        heard.insert(metadata.node());
        heard
    }
}

/// The copies that go, on nodes that are heard.
fn going(removed: &v1::RemoveModelReply, heard: &BTreeSet<NodeId>) -> BTreeSet<(NodeId, Digest)> {
    let acts = removed.plan.iter().flat_map(|plan| &plan.acts);
    let copies = acts.filter_map(|act| Some((NodeId(act.node_id), Digest(act.digest.clone().try_into().ok()?))));
    copies.filter(|(node, _)| heard.contains(node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_copies_of_nodes_that_are_heard_are_waited_for() {
        let act = |node_id: u64, byte: u8| v1::ActView { node_id, digest: vec![byte; 32], ..v1::ActView::default() };
        let plan = v1::PlanView { acts: vec![act(1, 7), act(2, 8)], frees_bytes: 0 };
        let removed = v1::RemoveModelReply { plan: Some(plan), ..v1::RemoveModelReply::default() };
        let expected = BTreeSet::from([(NodeId(1), Digest([7; 32]))]);
        assert_eq!(going(&removed, &BTreeSet::from([NodeId(1), NodeId(3)])), expected);
        assert!(going(&v1::RemoveModelReply::default(), &BTreeSet::from([NodeId(1)])).is_empty());
    }
}
