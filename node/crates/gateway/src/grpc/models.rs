//! Models as an administrator sees them: which nodes hold which version, and where versions disagree.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Location, Model, Phase, models, read};
use ollamax_core::health::Health;
use ollamax_proto::v1;
use ollamax_scheduler::PeerLoad;
use ollamax_types::{Beat, Digest, ErrorCode, ModelName, NodeId};

use super::daemon::AdminError;
use super::{Admin, Engines, status};

impl Admin {
    /// All models, or that of one name.
    ///
    /// # Errors
    /// When this node has no engines, its state cannot be read, or nobody has the model.
    pub fn models(&self, name: &str) -> Result<v1::ListModelsReply, AdminError> {
        let Engines { metadata, scheduler, .. } = self.engines()?;
        let view = metadata.view();
        let copies =
            if name.is_empty() { read::locations(&*view)? } else { read::locations_of(&*view, &parse(name)?)? };
        let records = if name.is_empty() {
            read::models(&*view)?
        } else {
            read::model(&*view, &parse(name)?)?.into_iter().collect()
        };
        let known = Known {
            names: read::members(&*view)?.into_iter().map(|member| (member.id, member.name)).collect(),
            records: records.into_iter().map(|model| (model.name.key(), model)).collect(),
        };
        let (own, peers) = (scheduler.beat(), scheduler.peers());
        let views = model_views(copies, &known, &resident(&own, &peers));
        if views.is_empty() && !name.is_empty() {
            return Err(nowhere(name, read::wish(&*view, &parse(name)?)?.is_some()));
        }
        let (all_bytes, unique_bytes) = stored(&own, &peers);
        let view = Some(status::local_view(&metadata.status()));
        Ok(v1::ListModelsReply { models: views, view, all_bytes, unique_bytes })
    }
}

/// What a row says beside the copies.
#[derive(Default)]
struct Known {
    names: BTreeMap<NodeId, String>,
    /// What is kept of names, by key.
    records: BTreeMap<String, Model>,
}

/// No node has a model: nobody asked for it, or it is on its way, or failed.
fn nowhere(name: &str, is_wanted: bool) -> AdminError {
    let what = format!("model {name:?} not found");
    let (why, next) = if is_wanted {
        ("no node has it yet; it was asked for", format!("ollamax model why {name}"))
    } else {
        ("no node has it", format!("ollamax model list, or ollamax model import FILE --name {name}"))
    };
    AdminError::new(ErrorCode::ModelNotFound, what, why, next)
}

/// The bytes of all models of the nodes that are heard, this one included: model by model, and each file once.
fn stored(own: &Beat, peers: &[PeerLoad]) -> (u64, u64) {
    let heard = peers.iter().filter(|peer| peer.health == Health::Alive).map(|peer| &*peer.beat);
    std::iter::once(own).chain(heard).fold((0, 0), |(all, unique): (u64, u64), beat| {
        (all.saturating_add(beat.models_bytes), unique.saturating_add(beat.models_unique_bytes))
    })
}

/// Which weights are loaded where, this node included.
fn resident(own: &Beat, peers: &[PeerLoad]) -> Vec<(NodeId, Digest)> {
    let beats = std::iter::once(own).chain(peers.iter().map(|peer| &*peer.beat));
    beats.flat_map(|beat| beat.resident.iter().map(|model| (beat.node, model.weights))).collect()
}

fn parse(name: &str) -> Result<ModelName, AdminError> {
    name.parse().map_err(|_| {
        let why = "a name is [host/][namespace/]model[:tag]";
        AdminError::new(ErrorCode::BadRequest, format!("{name:?} is not a model name"), why, "ollamax model list")
    })
}

/// One row per model name, in name order.
fn model_views(copies: Vec<Location>, known: &Known, resident: &[(NodeId, Digest)]) -> Vec<v1::ModelView> {
    let mut by_name: BTreeMap<String, Vec<Location>> = BTreeMap::new();
    for copy in copies {
        by_name.entry(copy.model.name.key()).or_default().push(copy);
    }
    by_name.into_values().filter_map(|copies| model_view(&copies, known, resident)).collect()
}

fn model_view(copies: &[Location], known: &Known, resident: &[(NodeId, Digest)]) -> Option<v1::ModelView> {
    let record = copies.first().and_then(|copy| known.records.get(&copy.model.name.key()));
    let pinned = record.and_then(Model::pinned);
    let served = models::standing_digest(copies, pinned)?;
    let newest = copies.iter().find(|copy| copy.model.digest == served)?;
    // A node that does not know the weights yet goes by the manifest.
    let is_loaded = |copy: &Location, runner: Digest| resident.contains(&(copy.node, runner));
    let shown = copies.iter().map(|copy| v1::ModelCopy {
        node_id: copy.node.0,
        node_name: known.names.get(&copy.node).cloned().unwrap_or_default(),
        digest: copy.model.digest.0.to_vec(),
        modified_at_ms: copy.model.modified_at.0,
        served: copy.model.digest == served,
        resident: is_loaded(copy, copy.model.weights) || is_loaded(copy, copy.model.digest),
    });
    Some(v1::ModelView {
        name: newest.model.name.to_string(),
        digest: served.0.to_vec(),
        size_bytes: newest.model.size_bytes,
        modified_at_ms: newest.model.modified_at.0,
        details_json: newest.model.details_json.clone(),
        copies: shown.collect(),
        conflict: copies.iter().any(|copy| copy.model.digest != served),
        capabilities: models::abilities_of(copies, served),
        phase: record.map_or(Phase::Active.as_str(), |model| model.phase.as_str()).to_owned(),
        pinned: pinned.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ollamax_core::catalog::Pin;
    use ollamax_types::{ModelRecord, Residency, Timestamp};

    use super::*;
    use crate::samples;

    #[test]
    fn a_model_that_was_asked_for_is_told_as_that_before_a_node_has_it() {
        let check = |is_wanted: bool, why: &str, next: &str| {
            let told = nowhere("m", is_wanted);
            assert_eq!((told.code, told.why.as_str(), told.next.as_str()), (ErrorCode::ModelNotFound, why, next));
        };
        check(true, "no node has it yet; it was asked for", "ollamax model why m");
        check(false, "no node has it", "ollamax model list, or ollamax model import FILE --name m");
    }

    fn beat(node: u64, loaded: &[u8]) -> Beat {
        let residency = |digest: &u8| Residency {
            name: "m".parse().expect("a name"),
            digest: Digest([*digest; 32]),
            weights: Digest([*digest; 32]),
            size_bytes: 1,
            size_vram_bytes: 0,
            context_length: 0,
            expires_at: String::new(),
            details_json: "{}".to_owned(),
        };
        Beat { resident: loaded.iter().map(residency).collect(), ..samples::beat(node) }
    }

    fn copy(node: u64, name: &str, digest: u8, modified_ms: u64) -> Location {
        let model = ModelRecord {
            name: name.parse().expect("a name"),
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
    fn copies_that_are_loaded_are_shown_as_such_on_this_node_too() {
        let beat_of_2 = Arc::new(beat(2, &[2]));
        let peer = PeerLoad { beat: beat_of_2, health: Health::Alive, silent_ms: 0, clock_skew_ms: 0 };
        let loaded = resident(&beat(1, &[1]), &[peer]);
        let copies = vec![copy(1, "m", 1, 5), copy(2, "m", 1, 5), copy(2, "k", 2, 5)];
        let views = model_views(copies, &Known::default(), &loaded);
        let shown: Vec<(String, Vec<(u64, bool)>)> = views
            .into_iter()
            .map(|view| (view.name, view.copies.iter().map(|copy| (copy.node_id, copy.resident)).collect()))
            .collect();
        let expected = [("k:latest", vec![(2, true)]), ("m:latest", vec![(1, true), (2, false)])];
        assert_eq!(shown, expected.map(|(name, copies)| (name.to_owned(), copies)));
    }

    #[test]
    fn a_model_whose_weights_were_loaded_under_another_name_is_shown_as_loaded() {
        let mut alias = copy(1, "mine", 7, 5);
        alias.model.weights = Digest([1; 32]);
        let views = model_views(vec![alias], &Known::default(), &resident(&beat(1, &[1]), &[]));
        assert!(views[0].copies[0].resident, "{views:?}");
    }

    #[test]
    fn what_a_model_can_do_is_shown_whichever_copy_tells_it() {
        let mut other = copy(2, "m", 1, 5);
        other.model.capabilities = vec!["tools".to_owned()];
        let views = model_views(vec![copy(1, "m", 1, 5), other], &Known::default(), &[]);
        assert_eq!(views[0].capabilities, ["tools"]);
    }

    #[test]
    fn the_newest_version_is_served_and_others_are_a_conflict() {
        let views = model_views(vec![copy(1, "m", 1, 5), copy(2, "M", 2, 6)], &Known::default(), &[]);
        let [view] = views.as_slice() else { panic!("one name: {views:?}") };
        assert!(view.conflict);
        assert_eq!(view.digest, [2; 32]);
        assert_eq!(view.copies.iter().map(|copy| copy.served).collect::<Vec<_>>(), [false, true]);
    }
    #[test]
    fn a_pinned_version_is_served_although_another_is_newer() {
        let mut known = Known::default();
        let check = |known: &Known, expected: [bool; 2], pinned: bool| {
            let views = model_views(vec![copy(1, "m", 1, 5), copy(2, "m", 2, 6)], known, &[]);
            let [view] = views.as_slice() else { panic!("one name: {views:?}") };
            let served: Vec<bool> = view.copies.iter().map(|copy| copy.served).collect();
            assert_eq!((served.as_slice(), view.pinned), (expected.as_slice(), pinned));
        };
        check(&known, [false, true], false);
        let model = copy(1, "m", 1, 5).model;
        let record = Model::new(model.name.clone(), Timestamp(1));
        let pin =
            |digest: u8| Pin { digest: Digest([digest; 32]), by: "node/1 for admin".to_owned(), at: Timestamp(1) };
        known.records.insert(model.name.key(), Model { pin: Some(pin(1)), ..record.clone() });
        check(&known, [true, false], true);
        // Nobody has it any more.
        known.records.insert(model.name.key(), Model { pin: Some(pin(9)), ..record });
        check(&known, [false, true], true);
    }

    #[test]
    fn the_files_of_nodes_that_are_not_heard_are_not_counted() {
        let beat = |node: u64| Beat { models_bytes: 30, models_unique_bytes: 20, ..beat(node, &[]) };
        let peer = |node, health| PeerLoad { beat: Arc::new(beat(node)), health, silent_ms: 0, clock_skew_ms: 0 };
        assert_eq!(stored(&beat(1), &[peer(2, Health::Alive), peer(3, Health::Dead)]), (60, 40));
    }
}
