//! The store on a real folder: create, replace, share, delete, and what is refused.

use serde_json::{Map, json};
use tempfile::TempDir;

use super::*;

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::open(folder.path().to_owned()).expect("store");
    (folder, store)
}

fn demo() -> Vec<u8> {
    fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/demo/demo.gguf")).expect("the demo model")
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let mut upload = store.upload(digest.clone()).expect("start");
    upload.write(bytes).expect("write");
    upload.finish().expect("finish");
    digest
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid name")
}

fn spec(model: &str, source: Source) -> CreateSpec {
    CreateSpec {
        name: name(model),
        source,
        template: None,
        system: None,
        parameters: Map::new(),
        licenses: Vec::new(),
        messages: Vec::new(),
    }
}

fn blobs(store: &Store) -> usize {
    fs::read_dir(store.root.join("blobs")).expect("list").count()
}

#[test]
fn the_same_file_makes_the_same_digest_in_two_stores() {
    let make = || {
        let (folder, store) = store();
        let digest = put(&store, &demo());
        store.create(&spec("demo", Source::Blob(digest))).expect("create");
        let listed = store.list().expect("list").remove(0);
        assert_eq!(listed.details.family, "llama");
        assert_eq!(listed.details.quantization_level, "Q8_0");
        drop(folder);
        (listed.digest, listed.size)
    };
    assert_eq!(make(), make());
}

#[test]
fn deleting_keeps_what_another_model_uses() {
    let (_folder, store) = store();
    let digest = put(&store, &demo());
    store.create(&spec("one", Source::Blob(digest.clone()))).expect("create");
    let mut second = spec("two", Source::Model(name("ONE")));
    second.system = Some("Be brief.".to_owned());
    second.parameters.insert("temperature".to_owned(), json!(0));
    store.create(&second).expect("create");
    let model = store.open_model(&name("Two:latest")).expect("open");
    assert_eq!((model.system.as_deref(), model.parameters["temperature"].as_i64()), (Some("Be brief."), Some(0)));

    assert_eq!(store.delete(&name("one")).expect("delete"), None);
    assert!(store.has_blob(&digest));
    assert_eq!(store.delete(&name("two")).expect("delete"), Some(digest.clone()));
    assert!(!store.has_blob(&digest));
    assert_eq!(blobs(&store), 0);
    assert!(matches!(store.delete(&name("two")), Err(StoreError::NotFound)));
}

#[test]
fn a_damaged_manifest_of_another_model_keeps_all_layers_and_fails_nothing() {
    let (_folder, store) = store();
    let digest = put(&store, &demo());
    store.create(&spec("one", Source::Blob(digest.clone()))).expect("create");
    store.create(&spec("two", Source::Model(name("one")))).expect("create");
    fs::write(store.manifest_path(&name("two")), r#"{"schemaVersion":2,"lay"#).expect("write");
    assert_eq!(store.copy(&name("one"), &name("three")).expect("copy"), None);
    for gone in ["one", "three"] {
        assert_eq!(store.delete(&name(gone)).expect("delete"), None);
        assert!(matches!(store.delete(&name(gone)), Err(StoreError::NotFound)));
    }
    assert!(store.has_blob(&digest), "the damaged one may name it");
}

#[test]
fn a_damaged_upload_leaves_nothing() {
    let (_folder, store) = store();
    let mut upload = store.upload(Digest::of(b"right")).expect("start");
    upload.write(b"wrong").expect("write");
    assert!(matches!(upload.finish(), Err(UploadError::Mismatch { .. })));
    drop(store.upload(Digest::of(b"left")).expect("start"));
    assert_eq!(blobs(&store), 0);
}

#[test]
fn leftovers_of_a_killed_process_go_at_the_next_start() {
    let (folder, store) = store();
    fs::write(store.root.join("blobs/.upload-abc"), b"half").expect("write");
    drop(store);
    let store = Store::open(folder.path().to_owned()).expect("store");
    assert_eq!(blobs(&store), 0);
}

#[test]
fn half_a_file_makes_no_model_and_keeps_the_old_one() {
    let (_folder, store) = store();
    let whole = put(&store, &demo());
    store.create(&spec("demo", Source::Blob(whole))).expect("create");
    let before = store.list().expect("list").remove(0).digest;
    let half = put(&store, &demo()[..demo().len() / 2]);
    let error = store.create(&spec("demo", Source::Blob(half))).expect_err("refused");
    assert!(error.to_string().contains("truncated"), "{error}");
    assert_eq!(store.list().expect("list").remove(0).digest, before);
}

#[test]
fn a_manifest_of_garbage_is_left_out_of_the_list() {
    let (_folder, store) = store();
    let folder = store.root.join("manifests/registry.ollama.ai/library/bad");
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("latest"), b"{").expect("write");
    assert!(store.list().expect("list").is_empty());
    assert!(matches!(store.open_model(&name("bad")), Err(StoreError::Manifest { .. })));
}

#[test]
fn digests_are_read_in_both_spellings() {
    let hex = "a".repeat(64);
    assert!(Digest::parse(&format!("sha256:{hex}")).is_some());
    assert!(Digest::parse(&format!("sha256-{hex}")).is_some());
    for bad in [hex.clone(), format!("sha256:{}", &hex[1..]), format!("sha256:{}g", &hex[1..]), "sha256:../..".into()] {
        assert!(Digest::parse(&bad).is_none(), "{bad}");
    }
}
