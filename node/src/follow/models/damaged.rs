//! Which of the models that a runtime does not list any more lie in its store with a manifest that is none.
//!
//! Always holds: nothing is changed. Whoever cannot look says what the runtime says.

use std::collections::BTreeSet;
use std::path::Path;

use ollamax_blobs::{ManifestError, ReadError, Store};
use ollamax_core::catalog::{Command, Location};
use ollamax_transfer::Adopted;
use ollamax_types::ModelName;

/// Of the models that are gone, the keys of those whose manifest lies in the store and is none: asked now, as the last
/// look at the store may be older than what the runtime says.
pub(super) async fn damaged_of(report: &Command, recorded: &[Location], store: &Adopted) -> BTreeSet<String> {
    let Command::ReportModels { absent, .. } = report else { return BTreeSet::new() };
    let (Some(place), false) = (store.store.clone(), absent.is_empty()) else { return BTreeSet::new() };
    let gone = recorded.iter().map(|held| &held.model.name).filter(|name| absent.contains(&name.key()));
    let gone: Vec<ModelName> = gone.cloned().collect();
    let look = move || damaged_at(&place, &gone);
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// Blocks on the disk.
fn damaged_at(place: &Path, names: &[ModelName]) -> BTreeSet<String> {
    let Ok(store) = Store::open(place) else { return BTreeSet::new() };
    let is_damaged = |name: &&ModelName| {
        let found = store.manifest(name);
        matches!(found, Err(ReadError::Manifest { problem: ManifestError::Shape(_), .. }))
    };
    names.iter().filter(is_damaged).map(ModelName::key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_none_is_told_from_one_that_somebody_removed() {
        let folder = tempfile::tempdir().expect("temp");
        std::fs::create_dir(folder.path().join("blobs")).expect("room");
        let put = |name: &str, bytes: &[u8]| {
            let place = folder.path().join("manifests/registry.ollama.ai/library").join(name);
            std::fs::create_dir_all(&place).expect("room");
            std::fs::write(place.join("latest"), bytes).expect("room");
        };
        put("a", b"\x07\xff what a disk gives back");
        put("b", br#"{"schemaVersion":1}"#);
        let names = ["a", "b", "c"].map(|name| name.parse::<ModelName>().expect("a name"));
        assert_eq!(damaged_at(folder.path(), &names), BTreeSet::from([names[0].key()]));
        assert_eq!(damaged_at(&folder.path().join("nowhere"), &names), BTreeSet::new());
    }
}
