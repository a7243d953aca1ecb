//! What is handed out, and what is not any more.

use std::fs;

use ollamax_types::CHUNK_BYTES;

use super::samples::Disk;
use super::*;

fn read(disk: &Disk, index: u32) -> Result<Vec<u8>, LibraryError> {
    let mut chunk = Vec::new();
    disk.library.read(disk.spec.sha256, index, &mut chunk).map(|()| chunk)
}

fn set(disk: &Disk) -> Option<Vec<u32>> {
    let held = disk.library.held(disk.spec.sha256)?;
    assert_eq!(held.size_bytes, disk.spec.size_bytes);
    Some(held.bits.runs().flatten().collect())
}

#[test]
fn of_a_part_the_chunks_are_handed_out_that_are_there_for_as_long_as_it_is_offered() {
    let disk = Disk::new(1, 3);
    let part = disk.part();
    disk.write(&part, 1);
    assert_eq!(set(&disk), None);
    assert!(matches!(read(&disk, 1), Err(LibraryError::Absent)), "it is not offered");
    let (first, second) = (disk.library.offer(part.clone()), disk.library.offer(part.clone()));
    assert_eq!(set(&disk), Some(vec![1]));
    assert_eq!(read(&disk, 1).expect("it is there"), disk.chunk(1));
    for index in [0, 3, u32::MAX] {
        assert!(matches!(read(&disk, index), Err(LibraryError::Absent)), "{index}");
    }
    assert_eq!(disk.library.tree(disk.spec.sha256), None, "chunks are missing");
    for index in [0, 2] {
        disk.write(&part, index);
    }
    assert_eq!(disk.library.tree(disk.spec.sha256), Some(disk.tree()));
    let (size_bytes, hashes) = disk.library.hashes(disk.spec.sha256).expect("all of it is there");
    assert_eq!((size_bytes, &hashes[..]), (disk.spec.size_bytes, disk.tree().hashes().as_flattened()));
    drop(first);
    assert_eq!(set(&disk), Some(vec![0, 1, 2]), "it was offered twice");
    drop(second);
    assert_eq!(set(&disk), None);
}

#[test]
fn a_file_that_is_published_and_withdrawn_between_two_looks_is_found_all_the_same() {
    let disk = Disk::new(10, 3);
    let part = disk.part();
    for index in 0..3 {
        disk.write(&part, index);
    }
    let offered = disk.library.offer(part);
    let (growing, tree) = disk.library.look(disk.spec.sha256, || {
        disk.publish();
        drop(offered);
    });
    assert!(growing.is_some_and(|(part, is_first)| part.have().is_full() && !is_first), "it was offered");
    assert_eq!(tree, Some(disk.tree()), "it lies in the store by now");
    let (growing, tree) = disk.library.look(disk.spec.sha256, || {});
    assert!(growing.is_none(), "nobody offers it any more");
    assert_eq!(tree, Some(disk.tree()));
}

#[test]
fn of_a_file_that_was_begun_anew_the_new_part_is_handed_out() {
    let disk = Disk::new(8, 2);
    let old = disk.part();
    disk.write(&old, 0);
    let first = disk.library.offer(old);
    disk.forget();
    let new = disk.part();
    disk.write(&new, 1);
    let second = disk.library.offer(new);
    assert_eq!(set(&disk), Some(vec![1]));
    assert_eq!(read(&disk, 1).expect("it is there"), disk.chunk(1));
    drop(first);
    assert_eq!(set(&disk), Some(vec![1]), "it is offered still");
    drop(second);
    assert_eq!(set(&disk), None);
}

#[test]
fn hashes_are_told_by_whoever_brings_the_file_and_of_chunks_that_are_there() {
    let disk = Disk::new(9, 3);
    let (part, sha256) = (disk.part(), disk.spec.sha256);
    disk.write(&part, 0);
    disk.write(&part, 1);
    let two = Extent { first: 0, count: 2 };
    let is_first = || disk.library.held(sha256).is_some_and(|held| held.is_first);
    assert_eq!(disk.library.first_hashes(sha256, two), None);
    let offered = disk.library.offer(part.clone());
    assert_eq!((disk.library.first_hashes(sha256, two), is_first()), (None, false), "it only hands on");
    let first = disk.library.offer_first(part.clone());
    assert_eq!(disk.library.first_hashes(sha256, two).expect("it brings it"), disk.tree().hashes()[..2]);
    assert_eq!(disk.library.first_hashes(sha256, Extent { first: 1, count: 2 }), None, "one is not there");
    assert!(is_first());
    drop(first);
    assert_eq!((disk.library.first_hashes(sha256, two), is_first()), (None, false));
    drop(offered);
}

#[test]
fn a_part_that_the_disk_damaged_gives_what_is_sound() {
    let disk = Disk::new(2, 2);
    let part = disk.part();
    let _offered = disk.library.offer(part.clone());
    disk.write(&part, 0);
    let mut other = disk.chunk(1).to_vec();
    other[0] ^= 1;
    // The bytes are not those of the hash.
    part.write(1, &other, disk.tree().hashes()[1]).expect("there is room");
    assert!(read(&disk, 0).is_ok());
    assert!(matches!(read(&disk, 1), Err(LibraryError::Damaged { index: 1 })));
    assert_eq!(set(&disk), Some(vec![0, 1]), "the owner finds it by itself");
}

#[test]
fn a_published_file_is_handed_out_when_its_tree_is_on_record() {
    let disk = Disk::new(3, 2);
    fs::write(disk.store.blob_path(disk.spec.sha256), &disk.bytes).expect("there is room");
    assert_eq!(set(&disk), None, "nobody has hashed it");
    assert!(matches!(read(&disk, 0), Err(LibraryError::Absent)));
    disk.index();
    assert_eq!(set(&disk), Some(vec![0, 1]));
    assert_eq!(read(&disk, 1).expect("it is there"), disk.chunk(1));
    assert!(matches!(read(&disk, 2), Err(LibraryError::Absent)), "it has no such chunk");
    assert_eq!(disk.library.tree(disk.spec.sha256), Some(disk.tree()));
    fs::remove_file(disk.store.blob_path(disk.spec.sha256)).expect("ours");
    assert_eq!(set(&disk), None);
    assert!(matches!(read(&disk, 0), Err(LibraryError::Absent)));
}

#[test]
fn a_damaged_file_becomes_suspect_and_is_not_offered_any_more() {
    let disk = Disk::new(4, 2);
    let mut damaged = disk.bytes.clone();
    damaged[usize::try_from(CHUNK_BYTES).expect("small")] ^= 1;
    disk.publish_as(&damaged);
    let mut news = disk.library.changes();
    assert_eq!(set(&disk), Some(vec![0, 1]), "nobody knows yet");
    assert_eq!(read(&disk, 0).expect("it is sound"), disk.chunk(0));
    assert!(matches!(read(&disk, 1), Err(LibraryError::Damaged { index: 1 })));
    assert!(news.has_changed().expect("it is there"));
    news.mark_unchanged();
    assert_eq!(set(&disk), None);
    assert!(matches!(read(&disk, 0), Err(LibraryError::Absent)));
    assert!(!news.has_changed().expect("it is there"), "it is told once");
    let file = disk.store.blob(disk.spec).expect("readable").expect("it is there");
    assert!(disk.trees.is_doubted(disk.spec.sha256, file.identity));
    assert_eq!(disk.trees.open().expect("ours").get(disk.spec.sha256).expect("readable"), None);
    // Even where somebody puts it back on record.
    disk.index();
    assert_eq!(set(&disk), None);
    disk.publish();
    assert_eq!(set(&disk), Some(vec![0, 1]), "another file lies there now");
}

#[test]
fn a_file_that_was_replaced_is_not_offered_before_it_is_hashed_again() {
    let disk = Disk::new(5, 2);
    disk.publish();
    assert_eq!(set(&disk), Some(vec![0, 1]));
    let mut news = disk.library.changes();
    let path = disk.store.blob_path(disk.spec.sha256);
    let other = path.with_extension("other");
    fs::write(&other, &disk.bytes).expect("there is room");
    fs::rename(&other, &path).expect("ours");
    assert!(matches!(read(&disk, 0), Err(LibraryError::Changed)));
    assert!(news.has_changed().expect("it is there"));
    news.mark_unchanged();
    assert_eq!(set(&disk), None);
    assert!(!news.has_changed().expect("it is there"), "it is told once");
    disk.index();
    assert_eq!(set(&disk), Some(vec![0, 1]));
}

#[test]
fn manifests_are_those_that_were_learned_and_no_more_than_so_many() {
    let disk = Disk::new(6, 1);
    let manifest = |size: usize| {
        let layer = format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":{size}}}"#, Digest([7; 32]));
        Manifest::read(format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#).as_bytes()).expect("a manifest")
    };
    let first = manifest(0);
    assert_eq!(disk.library.manifest(first.digest()), None);
    for size in 0..MANIFESTS_MAX {
        disk.library.learn(&manifest(size));
        disk.library.learn(&first);
    }
    assert_eq!(disk.library.manifest(first.digest()).as_deref(), Some(first.bytes()));
    let one_more = manifest(MANIFESTS_MAX);
    disk.library.learn(&one_more);
    assert_eq!(disk.library.manifest(one_more.digest()).as_deref(), Some(one_more.bytes()));
    assert_eq!(disk.library.manifest(first.digest()), None, "the oldest went");
}

#[test]
fn a_manifest_of_the_store_is_given_to_whoever_names_its_digest() {
    let disk = Disk::new(7, 1);
    let (kind, sha256, size) = ("application/vnd.ollama.image.model", disk.spec.sha256, disk.spec.size_bytes);
    let layer = format!(r#"{{"mediaType":"{kind}","digest":"sha256:{sha256}","size":{size}}}"#);
    let text = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
    let path = disk.store.root().join("manifests/registry.ollama.ai/library/llama3.2/latest");
    fs::create_dir_all(path.parent().expect("a folder")).expect("there is room");
    fs::write(&path, &text).expect("there is room");
    disk.publish();
    let digest = Manifest::read(text.as_bytes()).expect("a manifest").digest();
    assert_eq!(disk.library.manifest(digest), None, "nobody has looked yet");
    disk.look();
    assert_eq!(disk.library.manifest(digest).as_deref(), Some(text.as_bytes()));
    fs::write(&path, text.replace("{\"schemaVersion\"", "{ \"schemaVersion\"")).expect("there is room");
    assert_eq!(disk.library.manifest(digest), None, "it is another one now");
}
