//! What is handed out, and what is not any more.

use std::fs;

use ollamax_types::CHUNK_BYTES;

use super::samples::Shelf;
use super::*;

fn read(shelf: &Shelf, index: u32) -> Result<Vec<u8>, LibraryError> {
    let mut chunk = Vec::new();
    shelf.library.read(shelf.spec.sha256, index, &mut chunk).map(|()| chunk)
}

fn set(shelf: &Shelf) -> Option<Vec<u32>> {
    let (size_bytes, bits) = shelf.library.have(shelf.spec.sha256)?;
    assert_eq!(size_bytes, shelf.spec.size_bytes);
    Some(bits.runs().flatten().collect())
}

#[test]
fn of_a_part_the_chunks_are_handed_out_that_are_there_for_as_long_as_it_is_offered() {
    let shelf = Shelf::new(1, 3);
    let part = shelf.part();
    shelf.write(&part, 1);
    assert_eq!(set(&shelf), None);
    assert!(matches!(read(&shelf, 1), Err(LibraryError::Absent)), "it is not offered");
    let (first, second) = (shelf.library.offer(part.clone()), shelf.library.offer(part.clone()));
    assert_eq!(set(&shelf), Some(vec![1]));
    assert_eq!(read(&shelf, 1).expect("it is there"), shelf.chunk(1));
    for index in [0, 3, u32::MAX] {
        assert!(matches!(read(&shelf, index), Err(LibraryError::Absent)), "{index}");
    }
    assert_eq!(shelf.library.tree(shelf.spec.sha256), None, "chunks are missing");
    for index in [0, 2] {
        shelf.write(&part, index);
    }
    assert_eq!(shelf.library.tree(shelf.spec.sha256), Some(shelf.tree()));
    let (size_bytes, hashes) = shelf.library.hashes(shelf.spec.sha256).expect("all of it is there");
    assert_eq!((size_bytes, &hashes[..]), (shelf.spec.size_bytes, shelf.tree().hashes().as_flattened()));
    drop(first);
    assert_eq!(set(&shelf), Some(vec![0, 1, 2]), "it was offered twice");
    drop(second);
    assert_eq!(set(&shelf), None);
}

#[test]
fn a_part_that_the_disk_damaged_gives_what_is_sound() {
    let shelf = Shelf::new(2, 2);
    let part = shelf.part();
    let _offered = shelf.library.offer(part.clone());
    shelf.write(&part, 0);
    let mut other = shelf.chunk(1).to_vec();
    other[0] ^= 1;
    // The bytes are not those of the hash.
    part.write(1, &other, shelf.tree().hashes()[1]).expect("there is room");
    assert!(read(&shelf, 0).is_ok());
    assert!(matches!(read(&shelf, 1), Err(LibraryError::Damaged { index: 1 })));
    assert_eq!(set(&shelf), Some(vec![0, 1]), "the owner finds it by itself");
}

#[test]
fn a_published_file_is_handed_out_when_its_tree_is_on_record() {
    let shelf = Shelf::new(3, 2);
    fs::write(shelf.store.blob_path(shelf.spec.sha256), &shelf.bytes).expect("there is room");
    assert_eq!(set(&shelf), None, "nobody has hashed it");
    assert!(matches!(read(&shelf, 0), Err(LibraryError::Absent)));
    shelf.index();
    assert_eq!(set(&shelf), Some(vec![0, 1]));
    assert_eq!(read(&shelf, 1).expect("it is there"), shelf.chunk(1));
    assert!(matches!(read(&shelf, 2), Err(LibraryError::Absent)), "it has no such chunk");
    assert_eq!(shelf.library.tree(shelf.spec.sha256), Some(shelf.tree()));
    fs::remove_file(shelf.store.blob_path(shelf.spec.sha256)).expect("ours");
    assert_eq!(set(&shelf), None);
    assert!(matches!(read(&shelf, 0), Err(LibraryError::Absent)));
}

#[test]
fn a_damaged_file_becomes_suspect_and_is_not_offered_any_more() {
    let shelf = Shelf::new(4, 2);
    let mut damaged = shelf.bytes.clone();
    damaged[usize::try_from(CHUNK_BYTES).expect("small")] ^= 1;
    shelf.publish_as(&damaged);
    let mut news = shelf.library.changes();
    assert_eq!(set(&shelf), Some(vec![0, 1]), "nobody knows yet");
    assert_eq!(read(&shelf, 0).expect("it is sound"), shelf.chunk(0));
    assert!(matches!(read(&shelf, 1), Err(LibraryError::Damaged { index: 1 })));
    assert!(news.has_changed().expect("it is there"));
    news.mark_unchanged();
    assert_eq!(set(&shelf), None);
    assert!(matches!(read(&shelf, 0), Err(LibraryError::Absent)));
    assert!(!news.has_changed().expect("it is there"), "it is told once");
    let file = shelf.store.blob(shelf.spec).expect("readable").expect("it is there");
    assert!(shelf.trees.is_doubted(shelf.spec.sha256, file.identity));
    assert_eq!(shelf.trees.open().expect("ours").get(shelf.spec.sha256).expect("readable"), None);
    // Even where somebody puts it back on record.
    shelf.index();
    assert_eq!(set(&shelf), None);
    shelf.publish();
    assert_eq!(set(&shelf), Some(vec![0, 1]), "another file lies there now");
}

#[test]
fn a_file_that_was_replaced_is_not_offered_before_it_is_hashed_again() {
    let shelf = Shelf::new(5, 2);
    shelf.publish();
    assert_eq!(set(&shelf), Some(vec![0, 1]));
    let mut news = shelf.library.changes();
    let path = shelf.store.blob_path(shelf.spec.sha256);
    let other = path.with_extension("other");
    fs::write(&other, &shelf.bytes).expect("there is room");
    fs::rename(&other, &path).expect("ours");
    assert!(matches!(read(&shelf, 0), Err(LibraryError::Changed)));
    assert!(news.has_changed().expect("it is there"));
    news.mark_unchanged();
    assert_eq!(set(&shelf), None);
    assert!(!news.has_changed().expect("it is there"), "it is told once");
    shelf.index();
    assert_eq!(set(&shelf), Some(vec![0, 1]));
}

#[test]
fn manifests_are_those_that_were_learned_and_no_more_than_so_many() {
    let shelf = Shelf::new(6, 1);
    let manifest = |size: usize| {
        let layer = format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":{size}}}"#, Digest([7; 32]));
        Manifest::read(format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#).as_bytes()).expect("a manifest")
    };
    let first = manifest(0);
    assert_eq!(shelf.library.manifest(first.digest()), None);
    for size in 0..MANIFESTS_MAX {
        shelf.library.learn(&manifest(size));
        shelf.library.learn(&first);
    }
    assert_eq!(shelf.library.manifest(first.digest()).as_deref(), Some(first.bytes()));
    let one_more = manifest(MANIFESTS_MAX);
    shelf.library.learn(&one_more);
    assert_eq!(shelf.library.manifest(one_more.digest()).as_deref(), Some(one_more.bytes()));
    assert_eq!(shelf.library.manifest(first.digest()), None, "the oldest went");
}

#[test]
fn a_manifest_of_the_store_is_given_to_whoever_names_its_digest() {
    let shelf = Shelf::new(7, 1);
    let (kind, sha256, size) = ("application/vnd.ollama.image.model", shelf.spec.sha256, shelf.spec.size_bytes);
    let layer = format!(r#"{{"mediaType":"{kind}","digest":"sha256:{sha256}","size":{size}}}"#);
    let text = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
    let path = shelf.store.root().join("manifests/registry.ollama.ai/library/llama3.2/latest");
    fs::create_dir_all(path.parent().expect("a folder")).expect("there is room");
    fs::write(&path, &text).expect("there is room");
    shelf.publish();
    let digest = Manifest::read(text.as_bytes()).expect("a manifest").digest();
    assert_eq!(shelf.library.manifest(digest), None, "nobody has looked yet");
    shelf.look();
    assert_eq!(shelf.library.manifest(digest).as_deref(), Some(text.as_bytes()));
    fs::write(&path, text.replace("{\"schemaVersion\"", "{ \"schemaVersion\"")).expect("there is room");
    assert_eq!(shelf.library.manifest(digest), None, "it is another one now");
}
