//! The state half: batches, views, flushes, hash.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use ollamax_core::catalog::{Fault, Key, KeyRange, Mutation, Record, View};
use ollamax_store::{CommitError, Config, State};
use ollamax_types::NodeId;

use crate::world::{append, commit, crash_copy, delete, directory, indexes, meta, open, open_with, put, settings};

fn pairs(rows: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    rows.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()
}

#[test]
fn entries_of_one_batch_see_each_other_and_others_see_them_after_the_commit() {
    let dir = directory();
    let state = open(dir.path()).state();
    commit(&state, 1, vec![put("a", b"1"), put("c", b"3")]);
    let before = state.view();
    let mut batch = state.begin();
    batch.stage(vec![put("b", b"2"), delete("a")]).expect("stage");
    assert_eq!(settings(&batch), pairs(&[("b", b"2"), ("c", b"3")]));
    assert_eq!(batch.get(&Key::Setting("a".to_owned())), Ok(None));
    assert_eq!(settings(&state.view()), pairs(&[("a", b"1"), ("c", b"3")]));
    state.commit(batch, meta(2)).expect("commit");
    assert_eq!(settings(&state.view()), pairs(&[("b", b"2"), ("c", b"3")]));
    assert_eq!(settings(&before), pairs(&[("a", b"1"), ("c", b"3")]), "a view does not change");
    assert_eq!((before.applied(), state.applied()), (Some(&meta(1)), Some(meta(2))));
}

#[test]
fn a_record_of_another_family_is_a_fault_and_stages_nothing() {
    let dir = directory();
    let state = open(dir.path()).state();
    let mut batch = state.begin();
    let wrong = Mutation::Put(Key::Cluster, Record::NodeId(NodeId(1)));
    let found = batch.stage(vec![put("a", b"1"), wrong]);
    assert_eq!(found, Err(Fault::Mismatch { key: "cluster".to_owned() }));
    assert!(batch.is_empty());
}

#[test]
fn a_second_writer_and_a_step_back_are_refused() {
    let dir = directory();
    let state = open(dir.path()).state();
    let stale = state.begin();
    commit(&state, 5, vec![put("a", b"1")]);
    assert_eq!(state.commit(stale, meta(6)), Err(CommitError::Stale { began: None, now: Some(5) }));
    assert_eq!(state.commit(state.begin(), meta(5)), Err(CommitError::NotForward { index: 5, applied: 5 }));
    assert_eq!(state.applied(), Some(meta(5)));
}

#[test]
fn after_a_crash_the_state_stands_at_its_last_flush_and_the_log_leads_on() {
    let dir = directory();
    let store = open(dir.path());
    let (log, state) = (store.log(), store.state());
    append(&log, 1..=4);
    commit(&state, 1, vec![put("a", b"1")]);
    commit(&state, 2, vec![put("b", b"2")]);
    state.flush().expect("flush");
    assert_eq!(state.flushed_index(), Some(2));
    let flushed_hash = state.state_hash();
    commit(&state, 3, vec![put("a", b"9"), delete("b")]);
    let copy = crash_copy(dir.path());
    let store = open(copy.path());
    assert_eq!(store.state().applied_and_hash(), (Some(meta(2)), flushed_hash));
    assert_eq!(store.state().flushed_index(), Some(2));
    assert_eq!(settings(&store.state().view()), pairs(&[("a", b"1"), ("b", b"2")]));
    assert_eq!(indexes(&store.log()), vec![1, 2, 3, 4]);
}

#[test]
fn a_state_that_was_never_flushed_begins_anew_after_a_crash() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=2);
    commit(&store.state(), 2, vec![put("a", b"1")]);
    let copy = crash_copy(dir.path());
    let store = open(copy.path());
    assert_eq!(store.state().applied(), None);
    assert_eq!(store.state().state_hash(), [0; 16]);
    assert_eq!(settings(&store.state().view()), vec![]);
}

#[test]
fn enough_entries_are_flushed_without_being_asked() {
    let dir = directory();
    let state = open_with(dir.path(), Config { flush_entries_max: 10, ..Config::default() }).state();
    for index in 1..=25 {
        commit(&state, index, vec![put("a", &index.to_be_bytes())]);
    }
    let start = Instant::now();
    while state.flushed_index() < Some(10) && start.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    assert!(state.flushed_index() >= Some(10), "{:?}", state.flushed_index());
}

#[test]
fn scans_stay_within_their_range_and_go_on_after_a_key() {
    let dir = directory();
    let state = open(dir.path()).state();
    commit(&state, 1, vec![put("x.a", b"1"), put("x.b", b"2"), put("x.c", b"3"), put("y", b"4")]);
    let view = state.view();
    let check = |start: &str, after: Option<&str>, limit: usize, expected: &[&str]| {
        let after = after.map(|key| Key::Setting(key.to_owned()));
        let range = KeyRange::Settings(start.to_owned());
        let expected: Vec<Key> = expected.iter().map(|key| Key::Setting((*key).to_owned())).collect();
        let keys = |found: Vec<(Key, Record)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(view.scan(&range, after.as_ref(), limit).expect("scan")), expected);
        assert_eq!(keys(state.begin().scan(&range, after.as_ref(), limit).expect("scan")), expected);
    };
    check("", None, 10, &["x.a", "x.b", "x.c", "y"]);
    check("x.", None, 10, &["x.a", "x.b", "x.c"]);
    check("x.", Some("x.a"), 10, &["x.b", "x.c"]);
    check("x.", Some("x.a"), 1, &["x.b"]);
    check("x.", Some("x.a"), 0, &[]);
    check("y", Some("a"), 10, &["y"]);
    check("z", None, 10, &[]);
}

type Change = (u8, Option<u8>);

fn apply(state: &State, changes: &[Change], batch_size: usize) {
    let mut index = 0;
    for chunk in changes.chunks(batch_size) {
        let mut batch = state.begin();
        for (key, value) in chunk {
            index += 1;
            let key = format!("k{key}");
            let mutation = value.map_or_else(|| delete(&key), |value| put(&key, &[value]));
            batch.stage(vec![mutation]).expect("stage");
        }
        state.commit(batch, meta(index)).expect("commit");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_hash_depends_on_the_state_alone_and_the_state_not_on_the_batching(
        changes in prop::collection::vec((0u8..8, prop::option::of(0u8..4)), 1..40),
        batch_size in 1usize..9,
    ) {
        let model: BTreeMap<String, Vec<u8>> = changes.iter().fold(BTreeMap::new(), |mut model, (key, value)| {
            match value {
                Some(value) => model.insert(format!("k{key}"), vec![*value]),
                None => model.remove(&format!("k{key}")),
            };
            model
        });
        let (one, many, fresh) = (directory(), directory(), directory());
        let (one, many, fresh) = (open(one.path()).state(), open(many.path()).state(), open(fresh.path()).state());
        apply(&one, &changes, 1);
        apply(&many, &changes, batch_size);
        let wanted: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(&settings(&one.view()), &wanted);
        prop_assert_eq!(&settings(&many.view()), &wanted);
        prop_assert_eq!(one.applied_and_hash(), many.applied_and_hash());
        commit(&fresh, 1, wanted.iter().rev().map(|(key, value)| put(key, value)).collect());
        prop_assert_eq!(fresh.state_hash(), one.state_hash(), "computed from scratch");
    }

    #[test]
    fn a_scan_through_a_batch_equals_a_scan_after_its_commit(
        base in prop::collection::vec((0u8..10, prop::option::of(0u8..4)), 1..20),
        over in prop::collection::vec((0u8..10, prop::option::of(0u8..4)), 0..20),
        after in prop::option::of(0u8..10),
        limit in 0usize..12,
    ) {
        let dir = directory();
        let state = open(dir.path()).state();
        apply(&state, &base, 5);
        let mut batch = state.begin();
        for (key, value) in &over {
            let key = format!("k{key}");
            batch.stage(vec![value.map_or_else(|| delete(&key), |value| put(&key, &[value]))]).expect("stage");
        }
        let after = after.map(|key| Key::Setting(format!("k{key}")));
        let range = KeyRange::Settings(String::new());
        let through = batch.scan(&range, after.as_ref(), limit).expect("scan");
        state.commit(batch, meta(1_000)).expect("commit");
        prop_assert_eq!(through, state.view().scan(&range, after.as_ref(), limit).expect("scan"));
    }
}
