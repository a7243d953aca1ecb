//! A wish for fewer copies than there are, as it is told: what is there is there until the leader has some of it go.
//!
//! Whoever lowers a number brings nothing to any node, and those that lose their copy have nothing to say of a pull.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Fault, Replicas, View, Wish, read};
use ollamax_proto::v1;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_types::{Digest, NodeId};

/// Who has the version of a wish that has more targets than it wants copies; nobody of any other wish.
pub(super) fn there(view: &dyn View, wish: &Wish) -> Result<BTreeMap<NodeId, Digest>, Fault> {
    let (Replicas::Count(count), Some(plan), Some(digest)) = (&wish.replicas, &wish.plan, wish.digest) else {
        return Ok(BTreeMap::new());
    };
    if plan.targets.len() <= *count as usize {
        return Ok(BTreeMap::new());
    }
    let copies = read::locations_of(view, &wish.name)?.into_iter().filter(|copy| copy.model.digest == digest);
    Ok(copies.map(|copy| (copy.node, digest)).collect())
}

/// What is told of a node: that it has the model, where it is one of these and nothing was heard of it yet.
pub(super) fn told(progress: v1::PullProgress, there: &BTreeMap<NodeId, Digest>) -> v1::PullProgress {
    let digest = there.get(&NodeId(progress.node_id)).filter(|_| progress.stage() == Stage::Waiting);
    let Some(digest) = digest else { return progress };
    let mut progress = v1::PullProgress { digest: digest.0.to_vec(), ..progress };
    progress.set_stage(Stage::Done);
    progress
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, Location, Mutation, Plan, PlanKind, Record};
    use ollamax_types::{ModelName, ModelRecord, Timestamp};

    use super::*;

    const VERSION: Digest = Digest([1; 32]);

    fn name() -> ModelName {
        "m".parse().expect("a name")
    }

    fn copy(node: u64, digest: Digest) -> Mutation {
        let (node, details_json, weights) = (NodeId(node), "{}".to_owned(), digest);
        let (size_bytes, modified_at, capabilities) = (1, Timestamp(0), vec![]);
        let model = ModelRecord { name: name(), digest, weights, size_bytes, modified_at, details_json, capabilities };
        Mutation::Put(Key::Location(name().key(), node), Record::Location(Location { node, model }))
    }

    /// On nodes 1, 2 and 3.
    fn wish(replicas: Replicas, digest: Option<Digest>) -> Wish {
        let targets = [1, 2, 3].map(NodeId).to_vec();
        Wish {
            replicas,
            digest,
            size_bytes: 1,
            plan: Some(Plan { ingester: NodeId(1), targets, made_at: Timestamp(1), kind: PlanKind::Asked }),
            ..mem::wish(name())
        }
    }

    #[test]
    fn copies_of_which_fewer_are_wanted_are_there_and_are_not_pulled() {
        let mut view = MemView::default();
        view.write(&[copy(1, VERSION), copy(2, VERSION), copy(3, Digest([2; 32]))]);
        let check = |wish: Wish, expected: &[u64]| {
            let there = there(&view, &wish).expect("readable");
            assert_eq!(there.keys().map(|node| node.0).collect::<Vec<_>>(), expected);
        };
        check(wish(Replicas::Count(1), Some(VERSION)), &[1, 2]);
        check(wish(Replicas::Count(3), Some(VERSION)), &[]);
        check(wish(Replicas::All, Some(VERSION)), &[]);
        check(wish(Replicas::Count(1), None), &[]);
    }

    #[test]
    fn a_node_of_which_nothing_was_heard_has_what_is_there() {
        let there = BTreeMap::from([(NodeId(2), VERSION)]);
        let stage_of = |node_id: u64, stage: Stage| {
            let mut progress = v1::PullProgress { node_id, ..v1::PullProgress::default() };
            progress.set_stage(stage);
            let told = told(progress, &there);
            (told.stage(), told.digest.len())
        };
        assert_eq!(stage_of(2, Stage::Waiting), (Stage::Done, 32));
        assert_eq!(stage_of(2, Stage::Failed), (Stage::Failed, 0));
        assert_eq!(stage_of(3, Stage::Waiting), (Stage::Waiting, 0));
    }
}
