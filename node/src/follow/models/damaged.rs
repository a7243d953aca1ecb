//! Which of the models that a runtime does not list any more, or lists anew, lie in its store with a manifest that is
//! damaged.
//!
//! Always holds: nothing is changed. Whoever cannot look says what the runtime says.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ollamax_blobs::Store;
use ollamax_core::catalog::{Command, Location};
use ollamax_outbound::Report;
use ollamax_transfer::Adopted;
use ollamax_types::{Digest, ModelName};

/// Of the models that are gone, the keys of those whose manifest lies in the store and is damaged: asked now, as the
/// last look at the store may be older than what the runtime says.
pub(super) async fn damaged_of(report: &Command, recorded: &[Location], store: &Adopted) -> BTreeSet<String> {
    let Command::ReportModels { absent, .. } = report else { return BTreeSet::new() };
    let (Some(place), false) = (store.store.clone(), absent.is_empty()) else { return BTreeSet::new() };
    let gone = recorded.iter().map(|held| &held.model.name).filter(|name| absent.contains(&name.key()));
    let gone: Vec<ModelName> = gone.cloned().collect();
    let look = move || damaged_at(&place, &gone);
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// The report without those models that the runtime lists anew and of which the manifest is damaged: a runtime lists
/// any JSON, and such a file is no other version. `None` where it stays as it is.
pub(super) async fn without_damaged(report: &Report, recorded: &[Location], store: &Adopted) -> Option<Report> {
    let (models, place) = (report.models.as_ref()?, store.store.clone()?);
    let known: BTreeSet<(String, Digest)> =
        recorded.iter().map(|held| (held.model.name.key(), held.model.digest)).collect();
    let news = models.iter().filter(|model| !known.contains(&(model.name.key(), model.digest)));
    let news: Vec<ModelName> = news.map(|model| model.name.clone()).collect();
    if news.is_empty() {
        return None;
    }
    let look = move || damaged_at(&place, &news);
    let damaged = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    if damaged.is_empty() {
        return None;
    }
    let sound = models.iter().filter(|model| !damaged.contains(&model.name.key())).cloned().collect();
    Some(Report { models: Some(Arc::new(sound)), ..report.clone() })
}

/// Blocks on the disk.
fn damaged_at(place: &Path, names: &[ModelName]) -> BTreeSet<String> {
    let Ok(store) = Store::open(place) else { return BTreeSet::new() };
    let is_damaged = |name: &&ModelName| store.manifest(name).is_err_and(|error| error.is_damage());
    names.iter().filter(is_damaged).map(ModelName::key).collect()
}

#[cfg(test)]
mod tests {
    use ollamax_types::{ModelRecord, NodeId, RuntimeKind, Timestamp};

    use crate::follow::models::{Listed, plan_report, with_removed};

    use super::*;

    #[test]
    fn a_manifest_that_is_damaged_is_told_from_one_that_somebody_removed() {
        let folder = tempfile::tempdir().expect("temp");
        std::fs::create_dir(folder.path().join("blobs")).expect("room");
        put(folder.path(), "a", b"\x07\xff what a disk gives back");
        put(folder.path(), "b", br#"{"schemaVersion":1}"#);
        put(folder.path(), "d", br#"{"schemaVersion":2,"layers":[{"mediaType":"x","digest":"sha256:0f","size":1}]}"#);
        let names = ["a", "b", "c", "d"].map(|name| name.parse::<ModelName>().expect("a name"));
        assert_eq!(damaged_at(folder.path(), &names), BTreeSet::from([names[0].key(), names[3].key()]));
        assert_eq!(damaged_at(&folder.path().join("nowhere"), &names), BTreeSet::new());
    }

    #[tokio::test]
    async fn a_model_of_which_the_manifest_is_damaged_was_removed_by_no_person() {
        let folder = tempfile::tempdir().expect("temp");
        std::fs::create_dir(folder.path().join("blobs")).expect("room");
        put(folder.path(), "a", b"{");
        let recorded = ["a", "b"].map(|name| Location { node: NodeId(1), model: model(name) });
        let report = plan_report(NodeId(1), Listed::Runtime(&[]), &recorded, None).expect("both are gone");
        let store = Adopted { store: Some(folder.path().to_owned()), ..Adopted::default() };
        let damaged = damaged_of(&report, &recorded, &store).await;
        let is_damaged = |held: &Location| damaged.contains(&held.model.name.key());
        match with_removed(report, &recorded, &is_damaged) {
            Command::ReportModels { absent, removed, .. } => {
                assert_eq!((absent.len(), removed), (2, vec![recorded[0].model.name.key()]));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_manifest_that_is_json_and_none_of_a_model_is_no_other_version() {
        let folder = tempfile::tempdir().expect("temp");
        std::fs::create_dir(folder.path().join("blobs")).expect("room");
        put(folder.path(), "a", b"{}");
        let store = Adopted { store: Some(folder.path().to_owned()), ..Adopted::default() };
        let other = |name: &str| ModelRecord { digest: Digest([9; 32]), ..model(name) };
        let report =
            Report { models: Some(Arc::new(vec![other("a"), other("b")])), ..Report::absent(RuntimeKind::Ollama) };
        // What is on record, and once it is gone from there too.
        for recorded in [vec![Location { node: NodeId(1), model: model("a") }], Vec::new()] {
            let left = without_damaged(&report, &recorded, &store).await.expect("one is damaged");
            assert_eq!(left.models.as_deref(), Some(&vec![other("b")]));
        }
        let nothing_new = ["a", "b"].map(|name| Location { node: NodeId(1), model: other(name) });
        assert!(without_damaged(&report, &nothing_new, &store).await.is_none(), "nothing is read for what is known");
    }

    fn put(store: &Path, name: &str, bytes: &[u8]) {
        let place = store.join("manifests/registry.ollama.ai/library").join(name);
        std::fs::create_dir_all(&place).expect("room");
        std::fs::write(place.join("latest"), bytes).expect("room");
    }

    fn model(name: &str) -> ModelRecord {
        ModelRecord {
            name: name.parse().expect("a name"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        }
    }
}
