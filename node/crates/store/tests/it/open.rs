//! What is refused when a directory is opened, and what is mended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use ollamax_store::{Config, OpenError, Store, StoreIdentity};
use ollamax_types::{ClusterId, ErrorCode, Incarnation, NodeId};

use crate::world::{
    append, commit, copy_tree, crash_copy, directory, high_water, identity, indexes, meta, open, put, settings,
    with_rocks,
};

fn refusal(dir: &Path, identity: Option<StoreIdentity>) -> OpenError {
    Store::open(dir, identity, Config::default()).expect_err("this must be refused")
}

#[test]
fn a_directory_of_another_cluster_node_or_incarnation_is_refused_and_left_as_it_was() {
    let dir = directory();
    append(&open(dir.path()).log(), 1..=2);
    for other in [
        StoreIdentity { cluster: ClusterId([9; 16]), ..identity() },
        StoreIdentity { node: NodeId(9), ..identity() },
        StoreIdentity { incarnation: Incarnation([9; 16]), ..identity() },
    ] {
        let error = refusal(dir.path(), Some(other));
        assert!(matches!(error, OpenError::OtherIdentity { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::IdentityConflict);
    }
    let store = Store::open(dir.path(), None, Config::default()).expect("without an identity it is what it is");
    assert_eq!(store.identity(), Some(identity()));
    assert_eq!(indexes(&store.log()), vec![1, 2]);
}

#[test]
fn an_unbound_directory_is_bound_once() {
    let dir = directory();
    let store = Store::open(dir.path(), None, Config::default()).expect("open");
    assert_eq!(store.identity(), None);
    drop(store);
    assert_eq!(open(dir.path()).identity(), Some(identity()));
    let error = refusal(dir.path(), Some(StoreIdentity { node: NodeId(2), ..identity() }));
    assert!(matches!(error, OpenError::OtherIdentity { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = directory();
    drop(open(dir.path()));
    with_rocks(dir.path(), |rocks| {
        let meta = rocks.cf_handle("meta").expect("meta");
        rocks.put_cf(&meta, "format", [2]).expect("put");
    });
    let error = refusal(dir.path(), Some(identity()));
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn bad_numbers_are_refused_before_the_disk_is_touched() {
    let dir = directory();
    let config = Config { sync_queue_max: 0, ..Config::default() };
    let error = Store::open(&dir.path().join("new"), None, config).expect_err("refused");
    assert!(matches!(error, OpenError::Config(_)), "{error}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn a_second_opening_in_the_same_process_is_refused_until_the_last_handle_is_gone() {
    let dir = directory();
    let store = open(dir.path());
    let view = store.state().view();
    drop(store);
    assert!(matches!(refusal(dir.path(), None), OpenError::Locked { .. }));
    drop(view);
    drop(open(dir.path()));
}

const HOLD: &str = "OLLAMAX_STORE_TEST_HOLD";

/// Not a test of its own: what the child process of the next one runs.
#[test]
fn child_holds_a_directory() {
    let Ok(dir) = std::env::var(HOLD) else { return };
    let _store = open(Path::new(&dir));
    let mut out = std::io::stdout();
    writeln!(out, "\nheld").and_then(|()| out.flush()).expect("tell");
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_directory_that_another_process_has_is_refused_with_its_pid() {
    let dir = directory();
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "open::child_holds_a_directory", "--nocapture"])
        .env(HOLD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a child");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    assert!(output.lines().map_while(Result::ok).any(|line| line == "held"), "the child took the directory");
    let error = refusal(dir.path(), Some(identity()));
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(matches!(error, OpenError::Locked { pid, .. } if pid == Some(child.id())), "{error}");
    assert!(error.to_string().contains("stop that process"), "{error}");
    drop(open(dir.path()));
}

/// A log 1..=10 whose high-water mark stands at `promised`, with entry `hole` gone.
pub(crate) fn log_with_hole(promised: u64, hole: u64) -> TempDir {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=promised);
    store.close().expect("close");
    drop(store);
    let mark = fs::read(high_water(dir.path())).expect("read the mark");
    if promised < 10 {
        append(&open(dir.path()).log(), promised + 1..=10);
    }
    fs::write(high_water(dir.path()), mark).expect("the mark of before");
    with_rocks(dir.path(), |rocks| {
        let log = rocks.cf_handle("log").expect("log");
        rocks.delete_cf(&log, hole.to_be_bytes()).expect("delete");
    });
    dir
}

#[test]
fn a_hole_behind_the_high_water_mark_is_cut() {
    let dir = log_with_hole(4, 6);
    let log = open(dir.path()).log();
    assert_eq!(indexes(&log), vec![1, 2, 3, 4, 5]);
    append(&log, 6..=7);
    drop(log);
    assert_eq!(indexes(&open(dir.path()).log()), vec![1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_hole_below_the_high_water_mark_is_refused_and_left_as_it_was() {
    for _ in 0..2 {
        let dir = log_with_hole(10, 6);
        for _ in 0..2 {
            let error = refusal(dir.path(), Some(identity()));
            assert!(matches!(error, OpenError::LogGap { from: 6, to: 6, synced: 10, .. }), "{error}");
            assert!(error.to_string().contains("join again"), "{error}");
            assert_eq!(error.code(), ErrorCode::StorageCorrupt);
        }
    }
}

#[test]
fn a_damaged_entry_below_the_mark_is_refused() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=5);
    store.close().expect("close");
    drop(store);
    with_rocks(dir.path(), |rocks| {
        let log = rocks.cf_handle("log").expect("log");
        let mut value = rocks.get_cf(&log, 3u64.to_be_bytes()).expect("get").expect("held");
        *value.last_mut().expect("not empty") ^= 1;
        rocks.put_cf(&log, 3u64.to_be_bytes(), value).expect("put");
    });
    let error = refusal(dir.path(), Some(identity()));
    assert!(matches!(error, OpenError::LogGap { from: 3, .. }), "{error}");
}

#[test]
fn a_database_older_than_its_marks_is_refused() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=5);
    store.log().save_vote(vec![1]).expect("vote");
    let old = crash_copy(dir.path());
    let check = |change: &dyn Fn(&Store)| {
        let (new, restored) = (directory(), directory());
        copy_tree(old.path(), new.path());
        copy_tree(old.path(), restored.path());
        let store = open(new.path());
        change(&store);
        store.close().expect("close");
        drop(store);
        fs::copy(high_water(new.path()), high_water(restored.path())).expect("the newer mark");
        let error = refusal(restored.path(), Some(identity()));
        assert!(matches!(error, OpenError::BehindHighWater { .. }), "{error}");
    };
    check(&|store| append(&store.log(), 6..=6));
    check(&|store| store.log().save_vote(vec![2]).expect("vote"));
}

#[test]
fn a_lost_database_and_a_lost_or_damaged_mark_are_refused() {
    let prepared = || {
        let dir = directory();
        let store = open(dir.path());
        append(&store.log(), 1..=5);
        store.close().expect("close");
        dir
    };
    let dir = prepared();
    fs::remove_dir_all(dir.path().join("raft").join("db")).expect("lose the database");
    assert!(matches!(refusal(dir.path(), Some(identity())), OpenError::BehindHighWater { .. }));
    assert!(!dir.path().join("raft").join("db").exists(), "nothing was made in its place");

    let dir = prepared();
    fs::remove_file(high_water(dir.path())).expect("lose the mark");
    assert!(matches!(refusal(dir.path(), Some(identity())), OpenError::HighWater { .. }));

    let dir = prepared();
    let bytes = fs::read(high_water(dir.path())).expect("read");
    fs::write(high_water(dir.path()), &bytes[..bytes.len() - 1]).expect("cut");
    assert!(matches!(refusal(dir.path(), Some(identity())), OpenError::HighWater { .. }));
}

/// What a crash leaves of a log 1..=200, with its WAL changed.
fn crashed_with_wal(change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let dir = directory();
    let store = open(dir.path());
    for index in 1..=200 {
        append(&store.log(), index..=index);
    }
    let copy = crash_copy(dir.path());
    let wal = fs::read_dir(copy.path().join("raft").join("db"))
        .expect("list")
        .map(|entry| entry.expect("list").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max_by_key(|path| fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default())
        .expect("a WAL");
    let mut bytes = fs::read(&wal).expect("read");
    change(&mut bytes);
    fs::write(&wal, bytes).expect("write");
    copy
}

#[test]
fn a_damaged_wal_in_the_middle_is_refused() {
    let crashed = crashed_with_wal(|bytes| {
        let middle = bytes.windows(7).position(|window| window == b"entry 9").expect("an early entry is in the WAL");
        bytes[middle] ^= 0xff;
    });
    for _ in 0..2 {
        let error = refusal(crashed.path(), Some(identity()));
        assert_eq!(error.code(), ErrorCode::StorageCorrupt, "{error}");
    }
}

#[test]
fn bytes_of_the_wal_that_were_never_synced_may_come_back_as_anything() {
    let tails: [&[u8]; 3] = [&[0; 70_000], &[0xa5; 70_000], b"\x12\x34\x56\x78\x05\x00\x01tail!"];
    for tail in tails {
        let crashed = crashed_with_wal(|bytes| bytes.extend_from_slice(tail));
        let log = open(crashed.path()).log();
        assert_eq!(indexes(&log), (1..=200).collect::<Vec<_>>());
        append(&log, 201..=202);
        drop(log);
        assert_eq!(indexes(&open(crashed.path()).log()).last(), Some(&202));
    }
}

#[test]
fn a_garbled_tail_that_was_synced_is_refused() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=5);
    let old = crash_copy(dir.path());
    store.close().expect("close");
    drop(store);
    fs::copy(high_water(dir.path()), high_water(old.path())).expect("the mark of after");
    let wals = fs::read_dir(old.path().join("raft").join("db")).expect("list").map(|entry| entry.expect("list").path());
    for wal in wals.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        let mut bytes = fs::read(&wal).expect("read");
        if let Some(at) = bytes.windows(7).position(|window| window == b"entry 1") {
            bytes[at..].fill(0xa5);
            fs::write(&wal, bytes).expect("write");
        }
    }
    let damaged = files(old.path());
    for _ in 0..2 {
        let error = refusal(old.path(), Some(identity()));
        assert!(matches!(error, OpenError::BehindHighWater { .. }), "{error}");
        assert_eq!(files(old.path()), damaged, "what was refused is as it was found");
    }
}

/// The files of the database that hold records, with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = fs::read_dir(dir.join("raft").join("db")).expect("list").map(|entry| entry.expect("list").path());
    let is_of_records = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        path.extension().is_some_and(|kind| kind == "log" || kind == "sst") || name.starts_with("MANIFEST-")
    };
    all.filter(is_of_records).map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

#[test]
fn a_state_that_ends_below_the_purged_log_is_refused() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=10);
    commit(&store.state(), 8, vec![put("a", b"1")]);
    store.log().purge_upto(8, vec![1]).expect("purge");
    store.close().expect("close");
    drop(store);
    with_rocks(dir.path(), |rocks| {
        let state = rocks.cf_handle("sm-1").expect("state");
        rocks.delete_cf(&state, [0]).expect("delete");
    });
    let error = refusal(dir.path(), Some(identity()));
    assert!(matches!(error, OpenError::LogGap { from: 0, to: 8, .. }), "{error}");
}

/// Every file with its content, without locks and RocksDB's own text log.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list").map(|entry| entry.expect("list")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            files.extend(content(&entry.path()));
        } else if !name.to_lowercase().starts_with("lo") {
            files.insert(entry.path(), fs::read(entry.path()).expect("read"));
        }
    }
    files
}

#[test]
fn what_is_opened_to_be_read_is_as_a_crash_left_it_and_stays_so() {
    let dir = directory();
    let original = open(dir.path());
    append(&original.log(), 1..=5);
    commit(&original.state(), 3, vec![put("a", b"1")]);
    original.state().flush().expect("flush");
    commit(&original.state(), 5, vec![put("b", b"2")]);
    let copy = crash_copy(dir.path());
    let before = content(copy.path());
    for _ in 0..2 {
        let store = Store::open_read_only(copy.path(), Config::default()).expect("open");
        assert_eq!(store.identity(), Some(identity()));
        assert_eq!(indexes(&store.log()), vec![1, 2, 3, 4, 5]);
        assert_eq!(store.state().applied(), Some(meta(3)), "as it was flushed");
        let mut batch = store.state().begin();
        batch.stage(vec![put("b", b"2")]).expect("stage");
        assert_eq!(settings(&batch).len(), 2);
        assert_eq!(batch.state_hash().expect("readable"), original.state().state_hash());
        assert!(matches!(refusal(copy.path(), None), OpenError::Locked { .. }));
        store.log().save_vote(vec![1]).expect_err("nothing can be written");
    }
    assert_eq!(content(copy.path()), before);
    let store = open(copy.path());
    assert_eq!(indexes(&store.log()), vec![1, 2, 3, 4, 5]);
    assert_eq!(store.log().vote(), None);
}

#[test]
fn nothing_is_made_where_nothing_can_be_read_and_damage_is_refused_as_ever() {
    let dir = directory();
    let error = Store::open_read_only(dir.path(), Config::default()).expect_err("nothing there");
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    assert!(!dir.path().join("raft").exists());

    let dir = log_with_hole(10, 6);
    let before = content(dir.path());
    let error = Store::open_read_only(dir.path(), Config::default()).expect_err("a hole");
    assert!(matches!(error, OpenError::LogGap { from: 6, .. }), "{error}");
    assert_eq!(content(dir.path()), before);
}
