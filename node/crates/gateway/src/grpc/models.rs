//! Models as an administrator sees them: which nodes hold which version, and where versions disagree.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Key, KeyRange, Location, Record, models};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, ModelName, NodeId};

use super::daemon::AdminError;
use super::{Admin, status};

const PAGE: usize = 500;

impl Admin {
    pub(super) fn models(&self, name: &str) -> Result<v1::ListModelsReply, AdminError> {
        let metadata = self.metadata()?;
        let range = if name.is_empty() { KeyRange::Locations } else { KeyRange::LocationsOf(parse(name)?.key()) };
        let views = self.model_views(&metadata, &range)?;
        if views.is_empty() && !name.is_empty() {
            let what = format!("model {name:?} not found");
            let next = format!("ollamax model list, or ollamax model import FILE --name {name}");
            return Err(AdminError::new(ErrorCode::ModelNotFound, what, "no node has it", next));
        }
        Ok(v1::ListModelsReply { models: views, view: Some(status::local_view(&metadata.status())) })
    }

    /// One row per model name, in name order.
    pub(super) fn model_views(
        &self,
        metadata: &metadata::Handle,
        range: &KeyRange,
    ) -> Result<Vec<v1::ModelView>, AdminError> {
        let names: BTreeMap<NodeId, String> =
            self.members(metadata)?.into_iter().map(|member| (member.id, member.name)).collect();
        let resident = self.resident();
        let mut by_name: BTreeMap<String, Vec<Location>> = BTreeMap::new();
        let view = metadata.view();
        let mut after: Option<Key> = None;
        loop {
            let page = view.scan(range, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, record) in page {
                if let (Key::Location(model, _), Record::Location(location)) = (key, record) {
                    by_name.entry(model).or_default().push(location);
                }
            }
        }
        Ok(by_name.into_values().filter_map(|copies| model_view(&copies, &names, &resident)).collect())
    }

    fn resident(&self) -> Vec<(NodeId, [u8; 32])> {
        let peers = self.peers();
        let pairs =
            peers.iter().flat_map(|peer| peer.beat.resident.iter().map(|model| (peer.beat.node, model.digest.0)));
        pairs.collect()
    }
}

fn parse(name: &str) -> Result<ModelName, AdminError> {
    name.parse().map_err(|_| {
        let why = "a name is [host/][namespace/]model[:tag]";
        AdminError::new(ErrorCode::BadRequest, format!("{name:?} is not a model name"), why, "ollamax model list")
    })
}

fn model_view(
    copies: &[Location],
    names: &BTreeMap<NodeId, String>,
    resident: &[(NodeId, [u8; 32])],
) -> Option<v1::ModelView> {
    let served = models::served_digest(copies)?;
    let newest = copies.iter().find(|copy| copy.model.digest == served)?;
    let shown = copies.iter().map(|copy| v1::ModelCopy {
        node_id: copy.node.0,
        node_name: names.get(&copy.node).cloned().unwrap_or_default(),
        digest: copy.model.digest.0.to_vec(),
        modified_at_ms: copy.model.modified_at.0,
        served: copy.model.digest == served,
        resident: resident.contains(&(copy.node, copy.model.digest.0)),
    });
    Some(v1::ModelView {
        name: newest.model.name.to_string(),
        digest: served.0.to_vec(),
        size_bytes: newest.model.size_bytes,
        modified_at_ms: newest.model.modified_at.0,
        details_json: newest.model.details_json.clone(),
        copies: shown.collect(),
        conflict: copies.iter().any(|copy| copy.model.digest != served),
    })
}
