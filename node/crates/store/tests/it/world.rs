//! What the tests share: directories, crashes, sample changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::SystemTime;

use tempfile::TempDir;

use ollamax_core::catalog::{Key, KeyRange, Mutation, Record, Setting, View};
use ollamax_store::{AppliedMeta, Config, Log, State, Store, StoreIdentity};
use ollamax_types::{ClusterId, Incarnation, NodeId};

/// Copies that are begun before a test gives up.
const COPIES_MAX: usize = 200;

pub(crate) fn identity() -> StoreIdentity {
    StoreIdentity { cluster: ClusterId([1; 16]), node: NodeId(1), incarnation: Incarnation([2; 16]) }
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

pub(crate) fn open(dir: &Path) -> Store {
    open_with(dir, Config::default())
}

pub(crate) fn open_with(dir: &Path, config: Config) -> Store {
    Store::open(dir, Some(identity()), config).expect("the store opens")
}

/// What kill -9 at this moment would leave: the files as the system has them, without what is in memory.
pub(crate) fn crash_copy(dir: &Path) -> TempDir {
    let copy = directory();
    // A crash stops everything at one moment; a copy made while the store works in the background does not.
    for attempt in 1.. {
        assert!(attempt <= COPIES_MAX, "the store never stood still");
        let before = listing(dir);
        copy_tree(dir, copy.path());
        if listing(dir) == before {
            break;
        }
        fs::remove_dir_all(copy.path()).expect("empty the copy");
    }
    copy
}

/// Every file with its length and time of change.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list a directory").map(|entry| entry.expect("list a directory")) {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => files.extend(listing(&entry.path())),
            Ok(meta) => drop(files.insert(entry.path(), (meta.len(), meta.modified().ok()))),
            Err(_) => drop(files.insert(entry.path(), (u64::MAX, None))),
        }
    }
    files
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("list a directory") {
        let entry = entry.expect("list a directory");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("ask for a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            match fs::copy(entry.path(), target) {
                // Replaced or dropped by the open store since it was listed; a crash copy is then made again.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied.expect("copy a file")),
            }
        }
    }
}

pub(crate) fn high_water(dir: &Path) -> PathBuf {
    dir.join("raft").join("high-water")
}

pub(crate) fn payload(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

/// Appends a run of entries and waits until they are durable.
pub(crate) fn append(log: &Log, range: std::ops::RangeInclusive<u64>) {
    let (tell, hear) = sync_channel(1);
    let entries = range.map(|index| (index, payload(index))).collect();
    log.append(entries, Box::new(move |outcome| tell.send(outcome).expect("the test listens"))).expect("append");
    hear.recv().expect("the callback comes").expect("the sync works");
}

pub(crate) fn indexes(log: &Log) -> Vec<u64> {
    log.read(0..u64::MAX, usize::MAX).expect("read").into_iter().map(|(index, _)| index).collect()
}

pub(crate) fn meta(index: u64) -> AppliedMeta {
    AppliedMeta { index, last_applied: index.to_be_bytes().to_vec(), membership: vec![7] }
}

pub(crate) fn put(key: &str, value: &[u8]) -> Mutation {
    Mutation::Put(Key::Setting(key.to_owned()), Record::Setting(Setting { value: value.to_vec(), revision: 1 }))
}

pub(crate) fn delete(key: &str) -> Mutation {
    Mutation::Delete(Key::Setting(key.to_owned()))
}

pub(crate) fn commit(state: &State, index: u64, mutations: Vec<Mutation>) {
    let mut batch = state.begin();
    batch.stage(mutations).expect("stage");
    state.commit(batch, meta(index)).expect("commit");
}

pub(crate) fn settings(view: &impl View) -> Vec<(String, Vec<u8>)> {
    let found = view.scan(&KeyRange::Settings(String::new()), None, usize::MAX).expect("scan");
    found
        .into_iter()
        .map(|pair| match pair {
            (Key::Setting(key), Record::Setting(setting)) => (key, setting.value),
            other => unreachable!("not a setting: {other:?}"),
        })
        .collect()
}

/// Opens the database below the store, to damage it.
pub(crate) fn with_rocks(dir: &Path, change: impl FnOnce(&rocksdb::DB)) {
    let path = dir.join("raft").join("db");
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, &path).expect("list");
    let database = rocksdb::DB::open_cf(&options, &path, names).expect("open below the store");
    change(&database);
}
