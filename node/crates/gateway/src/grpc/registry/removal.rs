//! Copies that an administrator has removed: what goes is told before it is done, by the same state that guards it.

use ollamax_core::catalog::{Command, Member, read};
use ollamax_core::retention::{self, Removal};
use ollamax_proto::v1;
use ollamax_types::{ModelName, NodeId, RequestId};

use super::{case, name_in};
use crate::grpc::daemon::AdminError;
use crate::grpc::pulls::{Pulls, parse};

// === impl Pulls ===

impl Pulls {
    /// Removes copies, or only says which would go. Without nodes the wish for the model goes along.
    pub(in crate::grpc) async fn remove_copies(
        &self,
        id: RequestId,
        asked: &v1::RemoveModelRequest,
    ) -> Result<v1::RemoveModelReply, AdminError> {
        let (name, view) = (parse(&asked.name)?, self.0.fresh(asked.dry_run).await?.view());
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in &asked.nodes {
            let found = self.0.find(node)?.id;
            if !nodes.contains(&found) {
                nodes.push(found);
            }
        }
        let removal = retention::removal(&*view, &name, &nodes)?;
        let (forget, is_wanted) = (nodes.is_empty(), read::wish(&*view, &name)?.is_some());
        if removal.going.is_empty() && !(forget && is_wanted) {
            return Err(case::unknown(&name));
        }
        let told = told(&name, &removal, (forget, is_wanted), &read::members(&*view)?);
        let command = Command::DropCopies { name, nodes, forget, force: asked.force };
        self.0.change_or_try(id, command, asked.dry_run).await?;
        Ok(told)
    }
}

fn told(
    name: &ModelName,
    removal: &Removal,
    (forget, is_wanted): (bool, bool),
    members: &[Member],
) -> v1::RemoveModelReply {
    let act = |parting: &retention::Parting| v1::ActView {
        name: name.to_string(),
        node_id: parting.node.0,
        node_name: name_in(members, parting.node),
        deed: "drop".to_owned(),
        digest: parting.digest.0.to_vec(),
        size_bytes: parting.size_bytes,
        frees_bytes: parting.frees_bytes,
        ..v1::ActView::default()
    };
    let acts = removal.going.iter().map(act).collect();
    v1::RemoveModelReply {
        name: name.to_string(),
        plan: Some(v1::PlanView { acts, frees_bytes: removal.frees_bytes() }),
        left: removal.staying.iter().map(|node| name_in(members, *node)).collect(),
        is_forgotten: forget || !is_wanted,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ollamax_core::retention::Parting;
    use ollamax_types::Digest;

    use super::*;

    #[test]
    fn a_removal_is_told_with_what_it_frees_and_who_is_left() {
        let parting = |node: u64, frees_bytes: u64| Parting {
            node: NodeId(node),
            digest: Digest([7; 32]),
            size_bytes: 10,
            frees_bytes,
        };
        let removal = Removal { going: vec![parting(1, 10), parting(2, 0)], staying: BTreeSet::from([NodeId(3)]) };
        let name: ModelName = "m".parse().expect("a name");
        let check = |known: (bool, bool), is_forgotten: bool| {
            let reply = told(&name, &removal, known, &[]);
            let plan = reply.plan.expect("a plan");
            let acts: Vec<(u64, &str, u64, u64)> = plan
                .acts
                .iter()
                .map(|act| (act.node_id, act.node_name.as_str(), act.size_bytes, act.frees_bytes))
                .collect();
            assert_eq!(acts, [(1, "1", 10, 10), (2, "2", 10, 0)]);
            assert_eq!((plan.frees_bytes, reply.left, reply.is_forgotten), (10, vec!["3".to_owned()], is_forgotten));
        };
        check((false, true), false);
        check((false, false), true);
        check((true, true), true);
    }
}
