//! Snapshots: whole or not at all, and each part of one sent once.

use std::fs;
use std::path::Path;

use ollamax_store::{Check, Config, Export, ExportError, ImportError, SnapshotId, State};
use ollamax_types::limits::SNAPSHOT_CHUNK_BYTES_MAX;

use crate::world::{
    append, commit, crash_copy, delete, directory, indexes, meta, open, open_with, put, settings, with_rocks,
};

/// Fills a state with about 1.5 MiB, so that small chunks are many.
fn fill(state: &State) {
    for index in 1..=100u64 {
        let mutations = (0..5).map(|n| put(&format!("key {index:03} {n}"), &[n; 3_000])).collect();
        commit(state, index, mutations);
    }
    commit(state, 101, vec![delete("key 050 1"), put("key 001 0", b"changed")]);
}

fn stream(mut export: Export) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| export.next_chunk().expect("export")).collect()
}

fn small_chunks() -> Config {
    Config { snapshot_chunk_bytes: 128 << 10, ..Config::default() }
}

#[test]
fn an_imported_state_equals_the_exported_one_and_survives_a_crash_at_once() {
    let (from, to) = (directory(), directory());
    let source = open_with(from.path(), small_chunks()).state();
    fill(&source);
    let export = source.export().expect("export");
    assert_eq!((export.meta(), export.count(), export.state_hash()), (&meta(101), 499, source.state_hash()));
    commit(&source, 102, vec![put("later", b"unseen")]);
    let messages = stream(export);
    assert!(messages.len() > 10, "{} messages", messages.len());
    assert!(messages.iter().all(|message| message.len() <= 128 << 10));

    let store = open(to.path());
    let target = store.state();
    commit(&target, 7, vec![put("old", b"1")]);
    let old_view = target.view();
    let mut import = target.import().expect("import");
    assert_eq!(import.meta(), None);
    for message in &messages {
        import.add(message).expect("add");
    }
    assert_eq!(import.meta(), Some(&meta(101)));
    let mut look = Check::default();
    messages.iter().for_each(|message| look.add(message).expect("good"));
    look.verify().expect("good");
    assert_eq!((look.meta(), look.count(), look.families()["settings"]), (Some(&meta(101)), 499, 499));
    assert_eq!(settings(&target.view()).len(), 1, "the old state is in use until the end");
    import.finish(&meta(101)).expect("finish");

    let copy = crash_copy(to.path());
    let expected: Vec<_> = settings(&source.view()).into_iter().filter(|(key, _)| key != "later").collect();
    for state in [target.clone(), open(copy.path()).state()] {
        assert_eq!(state.applied(), Some(meta(101)));
        assert_eq!(state.flushed_index(), Some(101));
        assert_eq!(settings(&state.view()), expected);
        commit(&state, 102, vec![put("later", b"unseen")]);
        assert_eq!(state.applied_and_hash(), source.applied_and_hash());
        state.flush().expect("flush");
    }
    assert_eq!(settings(&old_view), vec![("old".to_owned(), b"1".to_vec())], "an old view outlives the switch");
    store.log().purge_upto(101, vec![1]).expect("an installed snapshot may be purged up to");
    append(&store.log(), 102..=103);
    drop((old_view, target, store));
    let store = open(to.path());
    assert_eq!(store.state().applied_and_hash(), source.applied_and_hash());
    assert_eq!(indexes(&store.log()), vec![102, 103]);
    assert!(!to.path().join("raft").join("incoming").exists(), "no files are left behind");
}

#[test]
fn an_empty_store_has_nothing_to_export_and_an_empty_state_travels() {
    let (from, to) = (directory(), directory());
    let source = open(from.path()).state();
    assert_eq!(source.export().expect_err("nothing applied"), ExportError::Empty);
    commit(&source, 3, vec![]);
    let target = open(to.path()).state();
    let mut import = target.import().expect("import");
    for message in stream(source.export().expect("export")) {
        import.add(&message).expect("add");
    }
    import.finish(&meta(3)).expect("finish");
    assert_eq!(target.applied_and_hash(), source.applied_and_hash());
}

#[test]
fn a_stream_that_is_damaged_in_any_way_changes_nothing() {
    let (from, to) = (directory(), directory());
    let source = open_with(from.path(), small_chunks()).state();
    fill(&source);
    let good = stream(source.export().expect("export"));
    let target = open(to.path()).state();
    commit(&target, 7, vec![put("old", b"1")]);
    let before = target.applied_and_hash();
    let check = |what: &str, damage: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut messages = good.clone();
        damage(&mut messages);
        let mut import = target.import().expect("the last import is over");
        let outcome = messages.iter().try_for_each(|m| import.add(m)).and_then(|()| import.finish(&meta(101)));
        assert!(matches!(outcome, Err(ImportError::Invalid(_))), "{what}: {outcome:?}");
        assert_eq!(target.applied_and_hash(), before, "{what}");
        let mut looked = Check::default();
        let seen = messages.iter().try_for_each(|m| looked.add(m)).and_then(|()| looked.verify());
        assert!(matches!(seen, Err(ImportError::Invalid(_))), "a look at {what}: {seen:?}");
        assert_eq!(settings(&target.view()), vec![("old".to_owned(), b"1".to_vec())], "{what}");
    };
    check("a flipped bit", &|messages| {
        let middle = messages[3].len() / 2;
        messages[3][middle] ^= 1;
    });
    check("a missing chunk", &|messages| drop(messages.remove(2)));
    check("two chunks swapped", &|messages| messages.swap(2, 3));
    check("a chunk twice", &|messages| messages.insert(2, messages[2].clone()));
    check("no header", &|messages| drop(messages.remove(0)));
    check("two headers", &|messages| messages.insert(1, messages[0].clone()));
    check("no trailer", &|messages| drop(messages.pop()));
    check("no last chunk", &|messages| drop(messages.remove(messages.len() - 2)));
    check("nothing", &|messages| messages.clear());
    check("garbage", &|messages| messages[1] = vec![0xff; 10]);
}

#[test]
fn an_import_under_another_name_or_left_half_way_leaves_the_old_state() {
    let (from, to) = (directory(), directory());
    let source = open_with(from.path(), small_chunks()).state();
    fill(&source);
    let messages = stream(source.export().expect("export"));
    let target = open(to.path()).state();
    commit(&target, 7, vec![put("old", b"1")]);

    let mut import = target.import().expect("import");
    messages.iter().for_each(|message| import.add(message).expect("add"));
    let other = import.finish(&meta(100));
    assert_eq!(other, Err(ImportError::OtherMeta { found: 101, wanted: 100 }));

    let mut import = target.import().expect("import");
    import.add(&messages[0]).expect("add");
    import.add(&messages[1]).expect("add");
    assert_eq!(target.import().expect_err("one at a time"), ImportError::Busy);
    target.flush().expect("flush");
    let copy = crash_copy(to.path());
    drop(import);
    for state in [target.clone(), open(copy.path()).state()] {
        assert_eq!(state.applied(), Some(meta(7)));
        assert_eq!(settings(&state.view()), vec![("old".to_owned(), b"1".to_vec())]);
    }
    drop(target.import().expect("a new import may begin"));
}

#[test]
fn a_generation_that_a_crash_left_before_the_switch_is_dropped() {
    let dir = directory();
    let store = open(dir.path());
    commit(&store.state(), 7, vec![put("old", b"1")]);
    store.close().expect("close");
    drop(store);
    let path = dir.path().join("raft").join("db");
    let options = rocksdb::Options::default();
    let names = || rocksdb::DB::list_cf(&options, &path).expect("list");
    {
        let mut rocks = rocksdb::DB::open_cf(&options, &path, names()).expect("open");
        rocks.create_cf("sm-2", &options).expect("create");
        let family = rocks.cf_handle("sm-2").expect("made");
        rocks.put_cf(&family, b"half", b"way").expect("put");
    }
    let store = open(dir.path());
    assert_eq!(settings(&store.state().view()), vec![("old".to_owned(), b"1".to_vec())]);
    assert_eq!(store.state().applied(), Some(meta(7)));
    drop(store);
    assert!(!names().contains(&"sm-2".to_owned()));
}

#[test]
fn an_export_notices_that_the_disk_holds_something_else() {
    let dir = directory();
    let store = open(dir.path());
    commit(&store.state(), 7, vec![put("a", b"1"), put("b", b"2")]);
    store.close().expect("close");
    drop(store);
    with_rocks(dir.path(), |rocks| {
        let state = rocks.cf_handle("sm-1").expect("state");
        let b = rocks.get_cf(&state, b"\x07b").expect("get").expect("held");
        rocks.put_cf(&state, b"\x07a", b).expect("put");
    });
    let mut export = open(dir.path()).state().export().expect("export");
    let outcome = std::iter::from_fn(|| export.next_chunk().transpose()).collect::<Result<Vec<_>, _>>();
    assert!(matches!(outcome, Err(ExportError::Differs { .. })), "{outcome:?}");
}

#[test]
fn the_default_chunk_fits_a_message() {
    let dir = directory();
    let state = open(dir.path()).state();
    fill(&state);
    let longest = stream(state.export().expect("export")).iter().map(Vec::len).max().unwrap_or_default();
    assert!(longest <= SNAPSHOT_CHUNK_BYTES_MAX, "{longest}");
    assert!(longest > SNAPSHOT_CHUNK_BYTES_MAX / 2, "chunks are filled: {longest}");
}

/// A state of about 6 MiB, of which a receiver with small chunks makes several files, and a snapshot of it.
fn several_files(dir: &Path) -> (State, Export) {
    let state = open_with(dir, small_chunks()).state();
    for index in 1..=400u64 {
        let mutations = (0..5).map(|n| put(&format!("key {index:03} {n}"), &[n; 3_000])).collect();
        commit(&state, index, mutations);
    }
    let export = state.export().expect("export");
    (state, export)
}

/// Begins or goes on with an import, hands it messages, and drops it.
fn cut(state: &State, id: &SnapshotId, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut import = state.resume_import(id).expect("import");
    messages.iter().for_each(|message| import.add(message).expect("add"));
    import.last_key().to_vec()
}

#[test]
fn a_snapshot_that_was_cut_goes_on_behind_its_whole_files_and_so_it_does_after_a_crash() {
    let (from, to) = (directory(), directory());
    let (source, export) = several_files(from.path());
    let (id, again) = (export.id(), export.again());
    commit(&source, 401, vec![put("later", b"unseen")]);
    let messages = stream(export);
    let half = messages.len() / 2;
    assert!(half > 20, "{} messages", messages.len());

    let target = open_with(to.path(), small_chunks()).state();
    commit(&target, 7, vec![put("old", b"1")]);
    let reached = cut(&target, &id, &messages[..half]);
    let copy = crash_copy(to.path());
    assert_eq!(settings(&target.view()).len(), 1, "the old state is in use");
    for (dir, state) in [(&to, target), (&copy, open_with(copy.path(), small_chunks()).state())] {
        let mut import = state.resume_import(&id).expect("goes on");
        let last = import.last_key().to_vec();
        assert!(!last.is_empty() && last <= reached, "goes on behind {last:?}, had come to {reached:?}");
        // At most one file was not whole yet: of its chunks and of those that never came the rest is made.
        let rest = stream(again.again().behind(&last));
        assert!(rest.len() + 16 <= messages.len(), "{} of {} messages once more", rest.len(), messages.len());
        rest.iter().for_each(|message| import.add(message).expect("add"));
        import.verify().expect("whole");
        import.finish(&meta(400)).expect("finish");
        assert_eq!(state.applied_and_hash(), (Some(meta(400)), id.state_hash));
        assert_eq!(settings(&state.view()), settings(again.view()));
        assert!(!dir.path().join("raft").join("incoming").exists(), "no files are left behind");
    }
}

#[test]
fn a_second_cut_keeps_what_the_first_had_kept() {
    let (from, to) = (directory(), directory());
    let (source, export) = several_files(from.path());
    let (id, again) = (export.id(), export.again());
    let messages = stream(export);
    let target = open_with(to.path(), small_chunks()).state();
    cut(&target, &id, &messages[..messages.len() / 3]);
    let first = cut(&target, &id, &[]);
    let rest = stream(again.again().behind(&first));
    cut(&target, &id, &rest[..rest.len() / 2]);
    let second = cut(&target, &id, &[]);
    assert!(second > first, "{second:?} after {first:?}");
    let mut import = target.resume_import(&id).expect("goes on");
    for message in stream(again.behind(&second)) {
        import.add(&message).expect("add");
    }
    import.finish(&meta(400)).expect("finish");
    assert_eq!(target.applied_and_hash(), source.applied_and_hash());
}

#[test]
fn what_is_there_of_another_snapshot_or_damaged_is_deleted_and_the_import_begins_anew() {
    let (from, to) = (directory(), directory());
    let (source, export) = several_files(from.path());
    let id = export.id();
    let messages = stream(export);
    let target = open_with(to.path(), small_chunks()).state();
    let incoming = to.path().join("raft").join("incoming");
    let check = |what: &str, wanted: &SnapshotId, damage: &dyn Fn(&Path), goes_on: bool| {
        cut(&target, &id, &messages[..messages.len() / 2]);
        assert!(incoming.join("1.sst").exists(), "{what}: two files are whole");
        damage(&incoming);
        let import = target.resume_import(wanted).expect("import");
        assert_eq!(!import.last_key().is_empty(), goes_on, "{what}");
        assert_eq!(incoming.join("1.sst").exists(), goes_on, "{what}");
        import.discard();
        assert!(!incoming.exists(), "{what}: nothing is left");
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("write");
    };
    check("the same, unharmed", &id, &|_| {}, true);
    check("a file with a flipped bit", &id, &|incoming| flip(&incoming.join("0.sst")), false);
    check("a file is missing", &id, &|incoming| fs::remove_file(incoming.join("0.sst")).expect("removed"), false);
    check("a damaged mark", &id, &|incoming| flip(&incoming.join("mark")), false);
    check("no mark", &id, &|incoming| fs::remove_file(incoming.join("mark")).expect("removed"), false);
    commit(&source, 401, vec![put("later", b"1")]);
    let later = source.export().expect("export").id();
    check("a later state", &later, &|_| {}, false);
}

#[test]
fn a_stream_that_does_not_fit_what_is_there_leaves_nothing() {
    let (from, to) = (directory(), directory());
    let (source, export) = several_files(from.path());
    let (id, again) = (export.id(), export.again());
    let messages = stream(export);
    commit(&source, 401, vec![put("later", b"1")]);
    let later = source.export().expect("export");
    let target = open_with(to.path(), small_chunks()).state();
    let half = messages.len() / 2;
    let check = |what: &str, make: &dyn Fn(&[u8]) -> Vec<Vec<u8>>| {
        cut(&target, &id, &messages[..half]);
        let mut import = target.resume_import(&id).expect("goes on");
        let stream = make(import.last_key());
        let outcome = stream.iter().try_for_each(|message| import.add(message)).and_then(|()| import.verify());
        assert!(matches!(outcome, Err(ImportError::Invalid(_))), "{what}: {outcome:?}");
        drop(import);
        assert!(!to.path().join("raft").join("incoming").exists(), "{what}");
    };
    check("of another state", &|last| stream(later.again().behind(last)));
    check("from the beginning", &|_| messages.clone());
    check("with a hole", &|_| stream(again.again().behind(b"\x07key 350 0")));
    check("with a chunk missing", &|last| {
        let mut rest = stream(again.again().behind(last));
        rest.remove(1);
        rest
    });
    assert_eq!(target.applied(), None);
}

#[test]
fn what_is_there_of_a_snapshot_goes_when_the_state_has_come_as_far() {
    let (from, to) = (directory(), directory());
    let (_source, export) = several_files(from.path());
    let (id, messages) = (export.id(), stream(export));
    let target = open_with(to.path(), small_chunks()).state();
    let incoming = to.path().join("raft").join("incoming");
    cut(&target, &id, &messages[..messages.len() / 2]);
    commit(&target, 399, vec![put("old", b"1")]);
    target.flush().expect("flush");
    assert!(incoming.exists(), "it would lead further");
    commit(&target, 400, vec![put("old", b"2")]);
    target.flush().expect("flush");
    assert!(!incoming.exists(), "it would not");
}

#[test]
fn what_is_there_of_a_snapshot_goes_where_the_disk_needs_the_room_but_not_under_an_import() {
    let (from, to) = (directory(), directory());
    let (_source, export) = several_files(from.path());
    let (id, messages) = (export.id(), stream(export));
    let target = open_with(to.path(), small_chunks()).state();
    let incoming = to.path().join("raft").join("incoming");
    target.discard_incoming();
    cut(&target, &id, &messages[..messages.len() / 2]);
    let import = target.resume_import(&id).expect("goes on");
    target.discard_incoming();
    assert!(incoming.join("0.sst").exists(), "it is in use");
    drop(import);
    assert!(incoming.join("0.sst").exists(), "it may be gone on with");
    target.discard_incoming();
    assert!(!incoming.exists());
    let import = target.resume_import(&id).expect("begins anew");
    assert_eq!(import.last_key(), b"");
}
