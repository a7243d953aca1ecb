//! Looking at a directory: what is sound, how each damage shows, and that nothing changes by it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use ollamax_core::catalog::{Counts, Key, Lease, Mutation, Record, Usage, Value};
use ollamax_store::{VerifyError, verify};
use ollamax_types::{ErrorCode, Timestamp};

use crate::open::log_with_hole;
use crate::world::{append, commit, crash_copy, directory, high_water, identity, open, payload, put, with_rocks};

/// Log 4..=10 behind purged entries, two votes, and a state at 8 with two settings.
fn prepared() -> TempDir {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=10);
    store.log().save_vote(vec![1]).expect("vote");
    store.log().save_vote(vec![2]).expect("vote");
    store.log().save_committed(Some(vec![8])).expect("note");
    commit(&store.state(), 8, vec![put("a", b"1"), put("b", b"2")]);
    store.log().purge_upto(3, vec![3]).expect("purge");
    store.close().expect("close");
    dir
}

/// Every file with its content and time of change.
fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list").map(|entry| entry.expect("list")) {
        let meta = entry.metadata().expect("look");
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            let content = fs::read(entry.path()).expect("read");
            found.insert(entry.path(), (content, meta.modified().expect("a time")));
        }
    }
    found
}

#[test]
fn a_sound_directory_is_told_in_numbers_and_left_as_it_was() {
    let dir = prepared();
    let before = files(dir.path());
    let found = verify(dir.path()).expect("can be looked at");
    assert!(found.is_sound(), "{found:?}");
    assert!(before == files(dir.path()), "something changed on disk");
    assert_eq!(found.identity, Some(identity()));
    let log = &found.log;
    assert_eq!((log.first, log.last, log.purged, log.synced), (Some(4), Some(10), Some(3), Some(10)));
    assert_eq!((log.entries, log.surplus, log.votes), (7, 0, 2));
    assert!(log.bytes > 7 * payload(4).len() as u64, "{log:?}");
    let store = open(dir.path());
    assert_eq!((found.state.index, found.state.hash), (Some(8), store.state().state_hash()));
    assert_eq!((found.state.records, &found.state.families[..]), (2, &[("settings", 2)][..]));
}

#[test]
fn what_only_the_wal_holds_is_seen_too() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=5);
    commit(&store.state(), 5, vec![put("a", b"1")]);
    let copy = crash_copy(dir.path());
    let found = verify(copy.path()).expect("can be looked at");
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.log.entries, found.state.index), (5, None), "the state was never flushed");
}

/// A change below the store, and what must be told of it: a place and words of its problem.
fn check(change: impl FnOnce(&Path), place: &str, problem: &str) {
    let dir = prepared();
    change(dir.path());
    let before = files(dir.path());
    let found = verify(dir.path()).expect("can be looked at");
    assert!(before == files(dir.path()), "{place}: something changed on disk");
    let damage = found.damages.iter().find(|damage| damage.place == place && damage.problem.contains(problem));
    assert!(damage.is_some(), "{place}, {problem}: {found:?}");
    assert!(!found.is_sound() && found.damages.iter().all(|damage| damage.next.contains("ollamax node remove")));
}

/// Replaces one value of a family, or takes it away.
fn alter(dir: &Path, family: &str, key: &[u8], change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    with_rocks(dir, |rocks| {
        let family = rocks.cf_handle(family).expect("there");
        let value = rocks.get_cf(&family, key).expect("get").unwrap_or_default();
        match change(value) {
            Some(value) => rocks.put_cf(&family, key, value).expect("put"),
            None => rocks.delete_cf(&family, key).expect("delete"),
        }
    });
}

/// Turns one bit of the byte at this place from the end.
fn flip(mut value: Vec<u8>, from_end: usize) -> Option<Vec<u8>> {
    let at = value.len() - 1 - from_end;
    value[at] ^= 1;
    Some(value)
}

#[test]
fn a_damaged_log_is_told_with_its_entry() {
    let key = |index: u64| index.to_be_bytes();
    check(|dir| alter(dir, "log", &key(5), |value| flip(value, 0)), "log entry 5", "does not fit its checksum");
    check(|dir| alter(dir, "log", &key(5), |value| Some(value[..4].to_vec())), "log entry 5", "checksum");
    check(|dir| alter(dir, "log", &key(5), |_| Some(Vec::new())), "log entry 5", "is empty");
    check(|dir| alter(dir, "log", &key(6), |_| None), "log entry 6", "entries 6 to 6 are missing");
    check(|dir| alter(dir, "log", &key(4), |_| None), "log entry 4", "entries 4 to 4 are missing");
    check(|dir| alter(dir, "log", &key(10), |_| None), "log", "up to 10 were promised, and it ends at 9");
    check(|dir| alter(dir, "log", b"odd", |_| Some(vec![1])), "log", "is no index");
    let several = |dir: &Path| {
        alter(dir, "log", &key(5), |value| flip(value, 0));
        alter(dir, "log", &key(8), |value| flip(value, 0));
    };
    check(several, "log entry 5", "checksum");
    check(several, "log entry 8", "checksum");
}

#[test]
fn damaged_marks_are_told_by_name() {
    check(|dir| alter(dir, "meta", b"vote", |_| None), "mark vote", "vote number 2 was promised, and number 0");
    check(|dir| alter(dir, "meta", b"vote", |value| flip(value, 0)), "mark vote", "not the one that was promised");
    check(|dir| alter(dir, "meta", b"purged", |_| Some(vec![9])), "mark purged", "version 9");
    check(|dir| alter(dir, "meta", b"committed", |_| Some(vec![9])), "mark committed", "damaged");
    check(|dir| alter(dir, "meta", b"format", |_| None), "mark format", "missing");
    check(|dir| alter(dir, "meta", b"generation", |_| Some(vec![1, 0])), "mark generation", "bytes instead of 8");
    check(|dir| fs::remove_file(high_water(dir)).expect("remove"), "raft/high-water", "missing");
    let flipped = |dir: &Path| {
        let bytes = fs::read(high_water(dir)).expect("read");
        fs::write(high_water(dir), flip(bytes, 0).expect("not empty")).expect("write");
    };
    check(flipped, "raft/high-water", "checksum does not fit");
}

#[test]
fn a_damaged_state_is_told_by_hash_and_where_it_can_be_by_record() {
    let value_of_a = |change: fn(Vec<u8>) -> Option<Vec<u8>>| move |dir: &Path| alter(dir, "sm-1", b"\x07a", change);
    // The value is followed by the revision: tag and number.
    check(value_of_a(|value| flip(value, 2)), "state", "a record has changed");
    check(value_of_a(|_| Some(vec![9, 9])), "state record setting/a", "version 9");
    check(value_of_a(|_| None), "state", "2 records were written, and 1 are there");
    check(|dir| alter(dir, "sm-1", &[0xee, 1], |_| Some(vec![1])), "state key [ee, 01]", "0xee is not known");
    check(|dir| alter(dir, "sm-1", &[0], |_| None), "state", "the log was purged up to 3");
    check(|dir| alter(dir, "sm-1", &[0], |_| Some(vec![7])), "state mark", "version 7");
    let elsewhere = |dir: &Path| alter(dir, "meta", b"generation", |value| flip(value, 0));
    check(elsewhere, "state", "no column family sm-0");
}

#[test]
fn a_database_that_is_gone_or_cut_is_told() {
    let gone = |dir: &Path| fs::remove_dir_all(dir.join("raft").join("db")).expect("remove");
    check(gone, "raft/db", "there is no database");
    let dir = prepared();
    let tables = files(dir.path()).into_keys().filter(|path| path.extension().is_some_and(|end| end == "sst"));
    for table in tables {
        let bytes = fs::read(&table).expect("read");
        fs::write(&table, &bytes[..bytes.len() / 2]).expect("cut");
    }
    let found = verify(dir.path()).expect("can be looked at");
    assert!(!found.is_sound(), "{found:?}");
}

#[test]
fn a_hole_that_the_next_start_cuts_is_no_damage() {
    let dir = log_with_hole(4, 6);
    let found = verify(dir.path()).expect("can be looked at");
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.log.entries, found.log.last, found.log.surplus), (5, Some(5), 4));
}

#[test]
fn sums_that_do_not_fit_what_they_are_about_are_told() {
    let dir = directory();
    let store = open(dir.path());
    let value = Value { bytes: b"12".to_vec(), created: 1, modified: 1, version: 1, lease: Some(7) };
    let usage = Usage { keys: 1, bytes: 9, bytes_max: 100 };
    let lease = Lease { ttl_ms: 1_000, ends_at: Timestamp(9), values: 2, due_at: None };
    let (namespace, key) = (String::new(), "user/k".to_owned());
    let counts =
        Counts { sessions: 1, leases: 1, wishes: 2, blobs: 3, models: 0, tasks: 4, once: 5, tasks_changed_at: 0 };
    let mutations = vec![
        Mutation::Put(Key::Value(namespace.clone(), key.clone()), Record::Value(value)),
        Mutation::Put(Key::Usage(namespace.clone(), "user/".to_owned()), Record::Usage(usage)),
        Mutation::Put(Key::Lease(7), Record::Lease(lease)),
        Mutation::Put(Key::LeaseValue(7, namespace, key), Record::Present),
        Mutation::Put(Key::Counts, Record::Counts(counts)),
    ];
    commit(&store.state(), 1, mutations);
    store.close().expect("close");
    drop(store);
    let found = verify(dir.path()).expect("can be looked at");
    let told: Vec<_> = found.damages.iter().map(|damage| (&damage.place[..], &damage.problem[..])).collect();
    let expected = [
        ("state record usage//user/", "1 keys with 9 bytes are on record, and 1 keys with 8 bytes are there"),
        ("state record lease/7", "it counts 2 values, and 1 go with it"),
        ("state, sessions", "1 are on record, and 0 are there"),
        ("state, wishes", "2 are on record, and 0 are there"),
        ("state, blobs", "3 are on record, and 0 are there"),
        ("state, tasks", "4 are on record, and 0 are there"),
        ("state, keyed answers", "5 are on record, and 0 are there"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_directory_in_use_or_without_a_state_is_refused() {
    let dir = prepared();
    let store = open(dir.path());
    let error = verify(dir.path()).expect_err("in use");
    assert!(matches!(error, VerifyError::Locked { pid, .. } if pid == Some(std::process::id())), "{error}");
    assert!(error.next().contains("stop the daemon first"), "{error}");
    drop(store);
    verify(dir.path()).expect("free again");
    let empty = directory();
    let error = verify(empty.path()).expect_err("nothing there");
    assert_eq!(error, VerifyError::NothingThere { path: empty.path().join("raft") });
    assert_eq!(error.code(), ErrorCode::NotInitialised);
    assert!(files(empty.path()).is_empty(), "nothing was made");
}

#[test]
fn a_directory_of_a_later_release_is_refused() {
    let dir = prepared();
    alter(dir.path(), "meta", b"format", |_| Some(vec![2]));
    let error = verify(dir.path()).expect_err("later");
    assert!(matches!(error, VerifyError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}
