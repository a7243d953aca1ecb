//! The pulls of the whole cluster, as one node tells them.
//!
//! Its own it knows. Who else is to get something the record says, and how far each of those is, it says itself, within
//! a second or not at all.

use std::collections::BTreeSet;

use futures::future::join_all;

use ollamax_core::catalog::{Wish, read};
use ollamax_core::health::Health;
use ollamax_proto::v1;
use ollamax_transfer::Stage;
use ollamax_types::{ModelName, NodeId};

use super::super::Engines;
use super::super::daemon::AdminError;
use super::super::wishes::{Names, holders};
use super::{Pulls, convert};

/// Pulls of other nodes that are asked about at once.
const ASKED_MAX: usize = 200;

// === impl Pulls ===

impl Pulls {
    /// The pulls of this node, and those of the others that are heard.
    pub(in crate::grpc) async fn of_all(&self) -> Result<v1::ListPullsReply, AdminError> {
        let mut reply = self.list()?;
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let (asked, names) = (self.elsewhere()?, Names::of(&*metadata.view())?);
        let ask = |(node, name): (NodeId, ModelName)| {
            let transfer = transfer.clone();
            async move { transfer.pull_seen_at(node, &name).await }
        };
        let told = join_all(asked.into_iter().map(ask)).await;
        let going = told.into_iter().flatten().filter(|pull| pull.stage != Stage::Done);
        reply.pulls.extend(going.map(|pull| convert::to_wire(&pull, &|node| names.name(node))));
        Ok(reply)
    }

    /// Which nodes beside this one may be fetching what.
    fn elsewhere(&self) -> Result<Vec<(NodeId, ModelName)>, AdminError> {
        let Engines { metadata, scheduler, .. } = self.0.engines()?;
        let (view, own, mut asked) = (metadata.view(), metadata.node(), Vec::new());
        for wish in read::wishes(&*view)? {
            let missing = fetching(&wish, &holders(&*view, &wish)?);
            let others = missing.into_iter().filter(|node| *node != own && scheduler.health(*node) == Health::Alive);
            asked.extend(others.map(|node| (node, wish.name.clone())));
        }
        asked.truncate(ASKED_MAX);
        Ok(asked)
    }
}

/// Who has a part in a wish and has not what it asks for: the targets of its plan, and whoever asks the registry.
fn fetching(wish: &Wish, holders: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let Some(plan) = &wish.plan else { return BTreeSet::new() };
    let lacks = |node: &NodeId| wish.digest.is_none() || !holders.contains(node);
    plan.targets.iter().chain([&plan.ingester]).copied().filter(lacks).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ollamax_core::catalog::{Plan, PlanKind, Replicas, Want};
    use ollamax_types::{Digest, Timestamp};

    use super::*;

    #[test]
    fn those_that_lack_what_is_planned_are_asked() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        let check = |planned: Option<&[u64]>, is_known: bool, holders: &[u64], expected: &[u64]| {
            let plan = |targets: &[u64]| Plan {
                ingester: NodeId(1),
                targets: targets.iter().copied().map(NodeId).collect(),
                made_at: Timestamp(0),
                kind: PlanKind::Asked,
            };
            let wish = Wish {
                name: "m".parse().expect("a name"),
                round: 7,
                insecure: false,
                replicas: Replicas::Count(2),
                digest: is_known.then_some(Digest([1; 32])),
                size_bytes: 1,
                plan: planned.map(plan),
                failures: BTreeMap::new(),
                asked_at: Timestamp(0),
                asked_by: "test".to_owned(),
                want: Want::default(),
                declared: false,
                surplus: BTreeSet::new(),
                shared: false,
            };
            let found = fetching(&wish, &nodes(holders));
            assert_eq!(found, nodes(expected), "{planned:?} {is_known} {holders:?}");
        };
        check(None, false, &[], &[]);
        check(Some(&[1, 2]), false, &[], &[1, 2]);
        check(Some(&[2]), false, &[2], &[1, 2]); // an update: they have the version before
        check(Some(&[1, 2]), true, &[1], &[2]);
        check(Some(&[2]), true, &[1], &[2]);
        check(Some(&[1, 2]), true, &[1, 2], &[]);
    }
}
