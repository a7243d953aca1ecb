//! The ballast on a real disk: made for real, kept over a restart, released, made again, and given up.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ollamax_store::{Config, ReleasedBallast};

use crate::world::{directory, open_with};

const BYTES: u64 = 1 << 20;

/// A ballast where more than this is free.
fn beyond(ballast_release_bytes: u64) -> Config {
    Config { reserve_bytes: 0, ballast_bytes: BYTES, ballast_release_bytes, ..Config::default() }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("raft").join("ballast")
}

/// Its size, if there is one; all of it must lie on the disk.
fn held(dir: &Path) -> Option<u64> {
    let found = file(dir).metadata().ok()?;
    assert!(found.blocks() * 512 >= found.len(), "{} bytes, {} blocks", found.len(), found.blocks());
    Some(found.len())
}

#[test]
fn the_ballast_comes_with_room_and_goes_without() {
    let dir = directory();
    let store = open_with(dir.path(), beyond(0));
    assert_eq!(held(dir.path()), None, "opening makes none");
    store.tend_ballast();
    store.tend_ballast();
    assert_eq!((held(dir.path()), store.released_ballast()), (Some(BYTES), None));
    assert_eq!(store.metrics().ballast_bytes.get(), 1 << 20);
    drop(store);

    // No disk is so large.
    let store = open_with(dir.path(), beyond(u64::MAX));
    assert_eq!(held(dir.path()), Some(BYTES), "it outlives the process");
    store.tend_ballast();
    let (released_below_bytes, made_from_bytes) = (u64::MAX, u64::MAX);
    let released = Some(ReleasedBallast { bytes: BYTES, released_below_bytes, made_from_bytes });
    assert_eq!((held(dir.path()), store.released_ballast()), (None, released));
    let metrics = store.metrics();
    assert_eq!((metrics.ballast_bytes.get(), metrics.ballast_releases_total.get()), (0, 1));
    store.tend_ballast();
    assert_eq!((held(dir.path()), store.metrics().ballast_releases_total.get()), (None, 1));
    drop(store);

    let store = open_with(dir.path(), beyond(0));
    assert_eq!(store.released_ballast(), None);
    store.tend_ballast();
    assert_eq!(held(dir.path()), Some(BYTES), "made again");
}

#[test]
fn one_of_another_size_is_replaced_and_one_that_is_not_wanted_goes() {
    let dir = directory();
    let store = open_with(dir.path(), beyond(0));
    std::fs::write(file(dir.path()), [0_u8; 100]).expect("what a crash left");
    store.tend_ballast();
    store.tend_ballast();
    assert_eq!(held(dir.path()), Some(BYTES));
    drop(store);
    let store = open_with(dir.path(), Config { ballast_bytes: 0, ..Config::default() });
    store.tend_ballast();
    assert_eq!((held(dir.path()), store.released_ballast()), (None, None));
    store.tend_ballast();
    assert_eq!(store.metrics().ballast_releases_total.get(), 0);
}

#[test]
fn what_cannot_be_made_is_no_harm_to_the_store() {
    let dir = directory();
    let store = open_with(dir.path(), beyond(0));
    std::fs::create_dir(file(dir.path())).expect("something in its place");
    store.tend_ballast();
    assert_eq!(store.released_ballast(), None);
    store.close().expect("closes");
}
