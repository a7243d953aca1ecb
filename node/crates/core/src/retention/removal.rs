//! What goes when somebody has copies of a model removed, and what is left: for people, before it is done.
//!
//! A picture of the state, not a decision: whether the copies may go is decided when the command is applied. A file
//! that another model of the same node uses stays there, so it frees nothing; weights are what models share, so they
//! stand for all files. Copies that are to go already are among neither, except for whoever insists: then those go too
//! that would stay as long as they are the last ones.

use std::collections::BTreeMap;

use ollamax_types::{Digest, ModelName, NodeId};

use crate::catalog::{Fault, Location, View, read};

/// What goes and what stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// The copies that go, by node.
    pub going: Vec<Parting>,
    /// Who has which version behind that, silent or not.
    pub staying: BTreeMap<NodeId, Digest>,
}

/// One copy that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parting {
    /// Whose.
    pub node: NodeId,
    /// Which version.
    pub digest: Digest,
    /// What it takes.
    pub size_bytes: u64,
    /// What goes from the disk with it.
    pub frees_bytes: u64,
}

/// What goes when these nodes, or all if there are none, lose their copies of a model; `force` as in the command.
///
/// # Errors
/// When the state cannot be read.
pub fn removal(view: &dyn View, name: &ModelName, nodes: &[NodeId], force: bool) -> Result<Removal, Fault> {
    let model = read::model(view, name)?;
    let is_named = |copy: &Location| nodes.is_empty() || nodes.contains(&copy.node);
    let is_going = |copy: &Location| {
        let dropped = model.as_ref().and_then(|model| model.drop_of(copy.node, copy.model.digest));
        dropped.is_some_and(|dropped| dropped.insisted || !force || !is_named(copy))
    };
    let mut removal = Removal::default();
    for copy in read::locations_of(view, name)?.into_iter().filter(|copy| !is_going(copy)) {
        if !is_named(&copy) {
            removal.staying.insert(copy.node, copy.model.digest);
            continue;
        }
        let size_bytes = copy.model.size_bytes;
        let frees_bytes = if is_shared(view, &copy)? { 0 } else { size_bytes };
        removal.going.push(Parting { node: copy.node, digest: copy.model.digest, size_bytes, frees_bytes });
    }
    removal.going.sort_by_key(|parting| parting.node);
    Ok(removal)
}

/// What is still to go from these nodes, or from all if there are none, since somebody asked for that before.
///
/// # Errors
/// When the state cannot be read.
pub fn going(view: &dyn View, name: &ModelName, nodes: &[NodeId]) -> Result<Vec<Parting>, Fault> {
    let Some(model) = read::model(view, name)? else { return Ok(Vec::new()) };
    let mut going = Vec::new();
    for copy in read::locations_of(view, name)? {
        let (node, digest, size_bytes) = (copy.node, copy.model.digest, copy.model.size_bytes);
        if (nodes.is_empty() || nodes.contains(&node)) && model.drop_of(node, digest).is_some() {
            let frees_bytes = if is_shared(view, &copy)? { 0 } else { size_bytes };
            going.push(Parting { node, digest, size_bytes, frees_bytes });
        }
    }
    going.sort_by_key(|parting| parting.node);
    Ok(going)
}

/// Whether another model of the node stands on the same weights.
fn is_shared(view: &dyn View, copy: &Location) -> Result<bool, Fault> {
    let own = copy.model.name.key();
    let others = read::models_of(view, copy.node)?;
    Ok(others.iter().any(|other| other.model.weights == copy.model.weights && other.model.name.key() != own))
}

// === impl Removal ===

impl Removal {
    /// What goes from all disks.
    #[must_use]
    pub fn frees_bytes(&self) -> u64 {
        self.going.iter().fold(0, |sum: u64, parting| sum.saturating_add(parting.frees_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ollamax_types::{ModelRecord, Timestamp};

    use super::*;
    use crate::catalog::mem::MemView;
    use crate::catalog::{Drop, Key, Model, Mutation, Record};

    fn named(name: &str) -> ModelName {
        name.parse().expect("a name")
    }

    /// A copy of 10 bytes on a node.
    fn copy(name: &str, node: u64, weights: u8) -> Location {
        let model = ModelRecord {
            name: named(name),
            digest: Digest([1; 32]),
            weights: Digest([weights; 32]),
            size_bytes: 10,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        Location { node: NodeId(node), model }
    }

    /// `m` on nodes 1, 2 and 3, of which 2 has the same weights under another name, and 3 shall lose its copy anyway.
    fn state() -> MemView {
        let mut view = MemView::default();
        for location in [copy("m", 1, 7), copy("m", 2, 7), copy("m", 3, 7), copy("other", 2, 7), copy("other", 1, 8)] {
            for key in [
                Key::Location(location.model.name.key(), location.node),
                Key::NodeModel(location.node, location.model.name.key()),
            ] {
                view.write(&[Mutation::Put(key, Record::Location(location.clone()))]);
            }
        }
        let (at, by) = (Timestamp(1), "node/1 for admin".to_owned());
        let dropped = Drop { digest: Digest([1; 32]), at, by, insisted: false };
        let model = Model { drops: BTreeMap::from([(NodeId(3), dropped)]), ..Model::new(named("m"), Timestamp(1)) };
        view.write(&[Mutation::Put(Key::Model(named("m").key()), Record::Model(Box::new(model)))]);
        view
    }

    #[test]
    fn what_is_still_to_go_is_what_somebody_asked_to_remove_before() {
        let check = |nodes: &[u64], expected: &[(u64, u64)]| {
            let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
            let found = going(&state(), &named("m"), &nodes).expect("readable");
            let found: Vec<(u64, u64)> = found.iter().map(|parting| (parting.node.0, parting.frees_bytes)).collect();
            assert_eq!(found, expected, "{nodes:?}");
        };
        check(&[], &[(3, 10)]);
        check(&[1, 3], &[(3, 10)]);
        check(&[1, 2], &[]);
        assert_eq!(going(&state(), &named("other"), &[]), Ok(vec![]), "nobody asked for that");
    }

    #[test]
    fn shared_files_free_nothing_and_what_goes_already_is_not_counted() {
        let view = state();
        let check = |nodes: &[u64], force: bool, going: &[(u64, u64)], staying: &[u64]| {
            let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
            let removal = removal(&view, &named("m"), &nodes, force).expect("readable");
            let found: Vec<(u64, u64)> =
                removal.going.iter().map(|parting| (parting.node.0, parting.frees_bytes)).collect();
            assert_eq!(found, going, "{nodes:?}");
            let staying: BTreeSet<NodeId> = staying.iter().copied().map(NodeId).collect();
            assert_eq!(removal.staying.keys().copied().collect::<BTreeSet<_>>(), staying, "{nodes:?}");
            assert_eq!(removal.frees_bytes(), going.iter().map(|(_, frees)| frees).sum::<u64>(), "{nodes:?}");
        };
        check(&[], false, &[(1, 10), (2, 0)], &[]);
        check(&[2], false, &[(2, 0)], &[1]);
        check(&[1, 3], false, &[(1, 10)], &[2]);
        check(&[1, 3], true, &[(1, 10), (3, 10)], &[2]);
        check(&[2], true, &[(2, 0)], &[1]);
        check(&[9], false, &[], &[1, 2]);
        assert_eq!(removal(&view, &named("nobody"), &[], true), Ok(Removal::default()));
    }
}
