//! Snapshots: whole or not at all.

use ollamax_store::{Check, Config, Export, ExportError, ImportError, State};
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
