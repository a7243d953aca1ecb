//! What people say of nodes for models: their labels, and whether they take new models and keep those they have.
//!
//! A node that is being emptied goes on answering with what it has until that has gone. What nobody wished for, and
//! what is wished for on that very node, stays there and is told: neither may go without somebody's word. What cannot
//! go because too few others can have it is told with what is wrong with them, as the leader sees it.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Command, Cordon, Fault, Location, Replicas, View, read};
use ollamax_proto::v1;
use ollamax_proto::v1::model_left::Fate;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use super::Admin;
use super::daemon::AdminError;
use super::wishes::labels;

impl Admin {
    pub(super) async fn label(
        &self,
        id: RequestId,
        request: v1::LabelNodeRequest,
    ) -> Result<v1::LabelNodeReply, AdminError> {
        let v1::LabelNodeRequest { node, set, unset } = request;
        let node = self.find(&node)?.id;
        if !set.is_empty() || !unset.is_empty() {
            let set = set.into_iter().map(|label| (label.key, label.value)).collect();
            self.change_here(id, Command::SetLabels { node, own: false, set, unset }).await?;
        }
        let member = read::member(&*self.metadata()?.view(), node)?;
        let labels = member.map(|member| labels(&member.labels)).unwrap_or_default();
        Ok(v1::LabelNodeReply { node_id: node.0, labels })
    }

    pub(super) async fn cordon(
        &self,
        id: RequestId,
        request: &v1::CordonNodeRequest,
    ) -> Result<v1::CordonNodeReply, AdminError> {
        let node = self.find(&request.node)?.id;
        let cordon = from_wire(request.cordon()).ok_or_else(|| {
            AdminError::new(
                ErrorCode::BadRequest,
                "a node is open, cordoned or emptying",
                "",
                "ollamax node cordon NODE",
            )
        })?;
        if !request.dry_run {
            self.change_here(id, Command::SetCordon { node, cordon }).await?;
        }
        let mut models = if cordon == Cordon::Emptying { left(&*self.metadata()?.view(), node)? } else { Vec::new() };
        if models.iter().any(|model| model.fate() == Fate::Goes) {
            // Without a leader nothing is known to be in the way: whoever waits goes on waiting.
            if let Ok(seen) = self.daemon.outlook(v1::OutlookOrder::default()).await {
                mark_stuck(&mut models, &seen.stuck);
            }
        }
        Ok(v1::CordonNodeReply { node_id: node.0, models })
    }
}

/// In wire form.
pub(super) const fn to_wire(cordon: Cordon) -> v1::Cordon {
    match cordon {
        Cordon::Open => v1::Cordon::Open,
        Cordon::Cordoned => v1::Cordon::Cordoned,
        Cordon::Emptying => v1::Cordon::Emptying,
    }
}

/// `None` where nothing was said.
const fn from_wire(cordon: v1::Cordon) -> Option<Cordon> {
    match cordon {
        v1::Cordon::Unspecified => None,
        v1::Cordon::Open => Some(Cordon::Open),
        v1::Cordon::Cordoned => Some(Cordon::Cordoned),
        v1::Cordon::Emptying => Some(Cordon::Emptying),
    }
}

/// What is on a node, and what becomes of it when the node is emptied.
fn left(view: &dyn View, node: NodeId) -> Result<Vec<v1::ModelLeft>, Fault> {
    let mut left = BTreeMap::new();
    for copy in read::models_of(view, node)? {
        left.insert(copy.model.name.key(), model_left(view, &copy)?);
    }
    Ok(left.into_values().collect())
}

/// What cannot go, as the leader sees it.
fn mark_stuck(models: &mut [v1::ModelLeft], stuck: &[v1::Impossibility]) {
    for model in models.iter_mut().filter(|model| model.fate() == Fate::Goes) {
        if let Some(found) = stuck.iter().find(|found| found.name == model.name) {
            model.set_fate(Fate::Stuck);
            model.why.clone_from(&found.why);
        }
    }
}

fn model_left(view: &dyn View, copy: &Location) -> Result<v1::ModelLeft, Fault> {
    let Location { node, model } = copy;
    let others = read::locations_of(view, &model.name)?.into_iter();
    let elsewhere = others.filter(|other| other.node != *node && other.model.digest == model.digest).count();
    let wish = read::wish(view, &model.name)?;
    // Another version than the one that is wished for is nobody's wish.
    let wish = wish.filter(|wish| wish.digest.is_none_or(|digest| digest == model.digest));
    let fate = match wish.map(|wish| wish.replicas) {
        Some(Replicas::Count(_) | Replicas::All) => Fate::Goes,
        Some(Replicas::Nodes(nodes)) if nodes.contains(node) => Fate::Named,
        Some(Replicas::Nodes(_)) | None => Fate::Unwished,
    };
    Ok(v1::ModelLeft {
        name: model.name.to_string(),
        size_bytes: model.size_bytes,
        elsewhere: u32::try_from(elsewhere).unwrap_or(u32::MAX),
        fate: fate.into(),
        why: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, Mutation, Record, Wish};
    use ollamax_types::{Digest, ModelRecord, Timestamp};

    use super::*;

    /// As a report of the node writes it.
    fn copy(node: u64, name: &str, digest: u8) -> [Mutation; 2] {
        let model = ModelRecord {
            name: name.parse().expect("a name"),
            digest: Digest([digest; 32]),
            weights: Digest([digest; 32]),
            size_bytes: 5,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let (key, node) = (model.name.key(), NodeId(node));
        let record = || Record::Location(Location { node, model: model.clone() });
        [Mutation::Put(Key::NodeModel(node, key.clone()), record()), Mutation::Put(Key::Location(key, node), record())]
    }

    fn wish(name: &str, replicas: Replicas) -> Mutation {
        let wish =
            Wish { replicas, digest: Some(Digest([1; 32])), size_bytes: 5, ..mem::wish(name.parse().expect("a name")) };
        Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)))
    }

    #[test]
    fn what_goes_from_a_node_is_what_a_wish_may_have_elsewhere() {
        let mut view = MemView::default();
        let copies = [
            copy(1, "counted", 1),
            copy(2, "counted", 1),
            copy(1, "everywhere", 1),
            copy(1, "found", 3),
            copy(1, "named", 1),
            copy(1, "old", 2),
            copy(2, "old", 1),
            copy(1, "strayed", 1),
        ];
        view.write(&copies.concat());
        view.write(&[
            wish("counted", Replicas::Count(2)),
            wish("everywhere", Replicas::All),
            wish("named", Replicas::Nodes(vec![NodeId(1)])),
            wish("old", Replicas::Count(1)),
            wish("strayed", Replicas::Nodes(vec![NodeId(2)])),
        ]);
        let left = left(&view, NodeId(1)).expect("readable");
        let found: Vec<(&str, Fate, u32)> =
            left.iter().map(|model| (model.name.as_str(), model.fate(), model.elsewhere)).collect();
        let expected = [
            ("counted:latest", Fate::Goes, 1),
            ("everywhere:latest", Fate::Goes, 0),
            ("found:latest", Fate::Unwished, 0),
            ("named:latest", Fate::Named, 0),
            ("old:latest", Fate::Unwished, 0),
            ("strayed:latest", Fate::Unwished, 0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_nobody_else_can_have_is_told_with_the_reasons() {
        let left = |name: &str, fate: Fate| v1::ModelLeft {
            name: name.to_owned(),
            fate: fate.into(),
            ..v1::ModelLeft::default()
        };
        let mut models =
            vec![left("a:latest", Fate::Goes), left("b:latest", Fate::Goes), left("c:latest", Fate::Named)];
        let stuck = ["b:latest", "c:latest"]
            .map(|name| v1::Impossibility { name: name.to_owned(), why: vec!["n3 is a gateway".to_owned()] });
        mark_stuck(&mut models, &stuck);
        let found: Vec<(Fate, usize)> = models.iter().map(|model| (model.fate(), model.why.len())).collect();
        assert_eq!(found, [(Fate::Goes, 0), (Fate::Stuck, 1), (Fate::Named, 0)]);
    }

    #[test]
    fn a_cordon_is_the_same_on_both_sides() {
        for cordon in [Cordon::Open, Cordon::Cordoned, Cordon::Emptying] {
            assert_eq!(from_wire(to_wire(cordon)), Some(cordon));
        }
        assert_eq!(from_wire(v1::Cordon::Unspecified), None);
    }
}
