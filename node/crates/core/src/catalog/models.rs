//! Reading copies of models: which version is served, what conflicts, and the merged listing.
//!
//! One name is served from one digest: that of the newest copy, by the runtimes' `modified_at`; among equally new ones
//! the larger digest, so that every node decides alike. A pinned name stands for its pinned version instead, while any
//! node has that. Copies of other digests are shown as conflicts, never mixed in.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Digest, ModelName, ModelRecord, NodeId, Timestamp};

use super::read;
use super::record::{Location, Model};
use super::view::{Fault, View};

/// The digest that is served for a name, from all copies of it; `None` when there is none.
#[must_use]
pub fn served_digest(locations: &[Location]) -> Option<Digest> {
    served(locations).map(|location| location.model.digest)
}

/// The digest that a name stands for: the pinned one where any node has it, else the one that is served.
#[must_use]
pub fn standing_digest(locations: &[Location], pin: Option<Digest>) -> Option<Digest> {
    standing(locations, pin).map(|location| location.model.digest)
}

/// The digest that a name stands for, from all copies of it and from its record.
///
/// # Errors
/// When the state cannot be read.
pub fn standing_of(view: &dyn View, name: &ModelName, locations: &[Location]) -> Result<Option<Digest>, Fault> {
    Ok(standing_digest(locations, pin_of(view, name)?))
}

/// Who holds this version of a model; `None`: the version that the name stands for, with this pin.
#[must_use]
pub fn holders(version: Option<Digest>, pin: Option<Digest>, locations: &[Location]) -> BTreeSet<NodeId> {
    let version = version.or_else(|| standing_digest(locations, pin));
    locations.iter().filter(|copy| Some(copy.model.digest) == version).map(|copy| copy.node).collect()
}

/// The version that a name is pinned at.
///
/// # Errors
/// When the state cannot be read.
pub fn pin_of(view: &dyn View, name: &ModelName) -> Result<Option<Digest>, Fault> {
    Ok(read::model(view, name)?.as_ref().and_then(Model::pinned))
}

/// The versions that names are pinned at, by model key.
///
/// # Errors
/// When the state cannot be read.
pub fn pins(view: &dyn View) -> Result<BTreeMap<String, Digest>, Fault> {
    let models = read::models(view)?.into_iter();
    Ok(models.filter_map(|model| Some((model.name.key(), model.pinned()?))).collect())
}

/// The weights behind a version, from whichever copy knows them, because a manifest never changes its weights. While no
/// copy does, the version's own digest.
#[must_use]
pub fn weights_of(locations: &[Location], version: Digest) -> Digest {
    let mut copies = locations.iter().filter(|location| location.model.digest == version);
    copies.find_map(|location| location.model.known_weights()).unwrap_or(version)
}

/// What a version can do, from the first copy that tells it; nothing while none does.
#[must_use]
pub fn abilities_of(locations: &[Location], version: Digest) -> Vec<String> {
    let mut copies = locations.iter().filter(|location| location.model.digest == version);
    let told = copies.find(|location| !location.model.capabilities.is_empty());
    told.map(|location| location.model.capabilities.clone()).unwrap_or_default()
}

fn served(locations: &[Location]) -> Option<&Location> {
    newest(locations.iter())
}

/// The newest copy of the version that a name stands for.
fn standing(locations: &[Location], pin: Option<Digest>) -> Option<&Location> {
    newest(locations.iter().filter(|location| Some(location.model.digest) == pin)).or_else(|| served(locations))
}

fn newest<'a>(locations: impl Iterator<Item = &'a Location>) -> Option<&'a Location> {
    locations.max_by_key(|location| (location.model.modified_at, location.model.digest, location.node))
}

/// Copies of one name that are not the version that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The name.
    pub name: ModelName,
    /// The version that the name stands for.
    pub served: Digest,
    /// The other versions and who holds each, newest first.
    pub others: Vec<(Digest, Vec<NodeId>)>,
}

/// What stands beside the version that the name stands for; `None` when all copies are alike.
#[must_use]
pub fn conflict(locations: &[Location], pin: Option<Digest>) -> Option<Conflict> {
    let served = standing(locations, pin)?;
    let mut others: BTreeMap<Digest, (Timestamp, Vec<NodeId>)> = BTreeMap::new();
    for Location { node, model } in locations.iter().filter(|other| other.model.digest != served.model.digest) {
        let (newest, nodes) = others.entry(model.digest).or_default();
        *newest = model.modified_at.max(*newest);
        nodes.push(*node);
    }
    if others.is_empty() {
        return None;
    }
    let mut others: Vec<_> = others.into_iter().collect();
    others.sort_by_key(|(digest, (newest, _))| std::cmp::Reverse((*newest, *digest)));
    let others = others.into_iter().map(|(digest, (_, nodes))| (digest, nodes)).collect();
    Some(Conflict { name: served.model.name.clone(), served: served.model.digest, others })
}

/// One name of the merged listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The newest copy of the version that the name stands for, with what any copy of it tells that it can do.
    pub model: ModelRecord,
    /// Who holds that version, by id.
    pub nodes: Vec<NodeId>,
    /// What stands beside it.
    pub conflict: Option<Conflict>,
}

/// Merges copies by name: newest `modified_at` first, as Ollama lists, then by name. `pins` is as [`pins`] says.
#[must_use]
pub fn listing(locations: impl IntoIterator<Item = Location>, pins: &BTreeMap<String, Digest>) -> Vec<Listed> {
    let mut by_name: BTreeMap<String, Vec<Location>> = BTreeMap::new();
    for location in locations {
        by_name.entry(location.model.name.key()).or_default().push(location);
    }
    let each = by_name.iter().filter_map(|(key, copies)| merged(copies, pins.get(key).copied()));
    let mut listed: Vec<Listed> = each.collect();
    listed.sort_by(|a, b| {
        let newest_first = b.model.modified_at.cmp(&a.model.modified_at);
        newest_first.then_with(|| a.model.name.cmp(&b.model.name))
    });
    listed
}

fn merged(copies: &[Location], pin: Option<Digest>) -> Option<Listed> {
    let served = standing(copies, pin)?;
    let same = copies.iter().filter(|copy| copy.model.digest == served.model.digest);
    let mut nodes: Vec<NodeId> = same.map(|copy| copy.node).collect();
    nodes.sort_unstable();
    let mut model = served.model.clone();
    if model.capabilities.is_empty() {
        model.capabilities = abilities_of(copies, model.digest);
    }
    Some(Listed { model, nodes, conflict: conflict(copies, pin) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::mem::MemView;
    use crate::catalog::{Key, Mutation, Pin, Record};

    fn copy(name: &str, node: u64, digest: u8, modified_ms: u64) -> Location {
        let model = ModelRecord {
            name: name.parse().expect("valid"),
            digest: Digest([digest; 32]),
            weights: Digest([digest; 32]),
            size_bytes: 1,
            modified_at: Timestamp(modified_ms),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        Location { node: NodeId(node), model }
    }

    #[test]
    fn holders_have_the_version_that_is_meant_or_else_the_one_that_the_name_stands_for() {
        let copy = |node, digest, modified_ms| copy("m", node, digest, modified_ms);
        let check = |version: Option<u8>, pin: Option<u8>, copies: &[Location], expected: &[u64]| {
            let digest = |byte| Digest([byte; 32]);
            let found = holders(version.map(digest), pin.map(digest), copies);
            assert_eq!(found, expected.iter().copied().map(NodeId).collect(), "{version:?} {pin:?}");
        };
        let copies = [copy(1, 1, 5), copy(2, 2, 6), copy(3, 1, 5)];
        check(Some(1), None, &copies, &[1, 3]);
        check(Some(2), Some(1), &copies, &[2]);
        check(Some(3), None, &copies, &[]);
        check(None, None, &copies, &[2]);
        check(None, Some(1), &copies, &[1, 3]);
        check(None, Some(3), &copies, &[2]);
        check(None, None, &[], &[]);
    }

    #[test]
    fn the_newest_copy_is_served_and_ties_go_to_the_larger_digest() {
        let check = |copies: &[Location], expected: Option<u8>| {
            assert_eq!(served_digest(copies), expected.map(|byte| Digest([byte; 32])), "{copies:?}");
        };
        check(&[], None);
        check(&[copy("m", 1, 7, 5)], Some(7));
        check(&[copy("m", 1, 7, 5), copy("m", 2, 3, 6)], Some(3));
        check(&[copy("m", 1, 7, 5), copy("m", 2, 9, 5)], Some(9));
        check(&[copy("m", 2, 9, 5), copy("m", 1, 7, 5)], Some(9));
    }

    #[test]
    fn a_pinned_version_stands_for_its_name_while_a_node_has_it() {
        let copies = [copy("m", 1, 7, 5), copy("m", 2, 3, 6)];
        let check = |copies: &[Location], pin: Option<u8>, expected: Option<u8>| {
            let digest = |byte| Digest([byte; 32]);
            assert_eq!(standing_digest(copies, pin.map(digest)), expected.map(digest), "{pin:?}");
        };
        check(&copies, None, Some(3));
        check(&copies, Some(3), Some(3));
        check(&copies, Some(7), Some(7));
        check(&copies, Some(9), Some(3));
        check(&[], Some(9), None);
    }

    #[test]
    fn one_copy_that_knows_the_weights_of_a_version_is_enough() {
        let mut copies = [copy("m", 1, 7, 5), copy("m", 2, 7, 5), copy("m", 3, 8, 4)];
        assert_eq!(weights_of(&copies, Digest([7; 32])), Digest([7; 32]), "the manifest stands for them");
        (copies[1].model.weights, copies[2].model.weights) = (Digest([1; 32]), Digest([2; 32]));
        let check = |version: u8, weights: u8| {
            assert_eq!(weights_of(&copies, Digest([version; 32])), Digest([weights; 32]), "{version}");
        };
        check(7, 1);
        check(8, 2);
        check(9, 9);
    }

    #[test]
    fn one_copy_that_tells_what_a_version_can_do_is_enough() {
        let mut copies = [copy("m", 1, 7, 5), copy("m", 2, 7, 4), copy("m", 3, 8, 4)];
        copies[1].model.capabilities = vec!["tools".to_owned()];
        copies[2].model.capabilities = vec!["vision".to_owned()];
        assert_eq!(abilities_of(&copies, Digest([7; 32])), ["tools"]);
        assert_eq!(abilities_of(&copies, Digest([8; 32])), ["vision"]);
        assert_eq!(abilities_of(&copies, Digest([9; 32])), Vec::<String>::new());
        let listed = listing(copies, &BTreeMap::new());
        assert_eq!(listed[0].model.capabilities, ["tools"], "the newest copy does not tell it");
    }

    #[test]
    fn conflicts_name_the_other_versions_newest_first() {
        assert_eq!(conflict(&[copy("m", 1, 7, 5), copy("m", 2, 7, 6)], None), None);
        let copies = [copy("m", 1, 1, 9), copy("m", 2, 2, 4), copy("m", 3, 3, 8), copy("m", 4, 2, 5)];
        let found = conflict(&copies, None).expect("three versions");
        assert_eq!(found.served, Digest([1; 32]));
        let expected = vec![(Digest([3; 32]), vec![NodeId(3)]), (Digest([2; 32]), vec![NodeId(2), NodeId(4)])];
        assert_eq!(found.others, expected);
    }

    #[test]
    fn the_listing_merges_by_name_and_shows_the_newest_first() {
        let copies =
            [copy("b", 3, 1, 5), copy("A", 2, 2, 7), copy("b", 1, 1, 4), copy("a", 1, 3, 6), copy("c", 1, 4, 5)];
        let listed = listing(copies, &BTreeMap::new());
        let shown: Vec<(String, Vec<u64>, bool)> = listed
            .iter()
            .map(|one| (one.model.name.to_string(), one.nodes.iter().map(|n| n.0).collect(), one.conflict.is_some()))
            .collect();
        let expected = [("A:latest", vec![2], true), ("b:latest", vec![1, 3], false), ("c:latest", vec![1], false)];
        assert_eq!(shown, expected.map(|(name, nodes, conflict)| (name.to_owned(), nodes, conflict)));
    }

    #[test]
    fn a_pinned_name_is_listed_and_read_as_its_pinned_version_while_a_node_has_it() {
        let name: ModelName = "m".parse().expect("valid");
        let copies = [copy("m", 1, 7, 5), copy("m", 3, 3, 9), copy("m", 2, 7, 6), copy("n", 1, 4, 8)];
        let check = |pinned: u8, version: u8, modified_ms: u64, nodes: &[u64]| {
            let pin = Pin { digest: Digest([pinned; 32]), by: "node/1 for admin".to_owned(), at: Timestamp(1) };
            let model = Model { pin: Some(pin), ..Model::new(name.clone(), Timestamp(1)) };
            let mut view = MemView::default();
            view.write(&[Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model)))]);
            let version = Digest([version; 32]);
            assert_eq!(standing_of(&view, &name, &copies[..3]), Ok(Some(version)), "{pinned}");
            let listed = listing(copies.clone(), &pins(&view).expect("readable"));
            let shown = listed.iter().find(|one| one.model.name == name).expect("listed");
            assert_eq!((shown.model.digest, shown.model.modified_at), (version, Timestamp(modified_ms)), "{pinned}");
            assert_eq!(shown.nodes, nodes.iter().copied().map(NodeId).collect::<Vec<_>>(), "{pinned}");
            assert_eq!(shown.conflict.as_ref().map(|conflict| conflict.served), Some(version), "{pinned}");
        };
        check(7, 7, 6, &[1, 2]);
        check(3, 3, 9, &[3]);
        // Nobody has it: what there is is better than nothing.
        check(8, 3, 9, &[3]);
    }
}
