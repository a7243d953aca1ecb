//! The log half: order, durability, truncation, purge.

use std::sync::{Arc, Mutex};

use ollamax_store::{Config, PurgeError, WriteError};

use crate::world::{append, commit, crash_copy, directory, indexes, open, open_with, payload, put};

#[test]
fn what_is_appended_is_readable_at_once_and_after_reopening() {
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    log.append(vec![(0, payload(0)), (1, payload(1))], Box::new(|_| {})).expect("append");
    assert_eq!(log.read(0..2, usize::MAX).expect("read"), vec![(0, payload(0)), (1, payload(1))]);
    append(&log, 2..=5);
    drop((log, store));
    let log = open(dir.path()).log();
    assert_eq!(indexes(&log), vec![0, 1, 2, 3, 4, 5]);
    assert_eq!(log.read(3..4, usize::MAX).expect("read"), vec![(3, payload(3))]);
    assert_eq!((log.state().first, log.state().last, log.state().purged), (Some(0), Some(5), None));
}

#[test]
fn a_read_is_clipped_to_what_is_held_and_to_the_bytes_wanted() {
    let dir = directory();
    let log = open(dir.path()).log();
    append(&log, 3..=9);
    let check = |range: std::ops::Range<u64>, bytes_max: usize, expected: &[u64]| {
        let found: Vec<u64> = log.read(range, bytes_max).expect("read").into_iter().map(|(i, _)| i).collect();
        assert_eq!(found, expected);
    };
    check(0..100, usize::MAX, &[3, 4, 5, 6, 7, 8, 9]);
    check(5..7, usize::MAX, &[5, 6]);
    check(5..5, usize::MAX, &[]);
    check(20..30, usize::MAX, &[]);
    check(0..2, usize::MAX, &[]);
    check(4..9, 0, &[4]);
    check(4..9, payload(4).len() * 2, &[4, 5]);
}

#[test]
fn an_append_that_would_leave_a_hole_or_overwrite_is_refused_and_writes_nothing() {
    let dir = directory();
    let log = open(dir.path()).log();
    append(&log, 1..=3);
    for bad in [vec![(5, payload(5))], vec![(3, payload(3))], vec![(4, payload(4)), (6, payload(6))]] {
        let found = log.append(bad, Box::new(|_| unreachable!("never called")));
        assert!(matches!(found, Err(WriteError::NotConsecutive { .. })), "{found:?}");
    }
    assert_eq!(indexes(&log), vec![1, 2, 3]);
}

#[test]
fn many_appends_share_few_syncs_and_callbacks_come_in_order_after_them() {
    const APPENDS: u64 = 400;
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    let heard = Arc::new(Mutex::new(Vec::new()));
    for index in 0..APPENDS {
        let (heard, metrics) = (Arc::clone(&heard), store.metrics().clone());
        let done = move |outcome: Result<(), _>| {
            heard.lock().expect("no panic").push((index, outcome.is_ok(), metrics.syncs_total.get()));
        };
        log.append(vec![(index, payload(index))], Box::new(done)).expect("append");
    }
    append(&log, APPENDS..=APPENDS);
    let heard = heard.lock().expect("no panic");
    assert_eq!(heard.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), (0..APPENDS).collect::<Vec<_>>());
    assert!(heard.iter().all(|(_, ok, syncs)| *ok && *syncs > 0), "a callback came before a sync");
    let syncs = store.metrics().syncs_total.get();
    assert!(syncs < APPENDS / 2, "{syncs} syncs for {APPENDS} appends");
    assert_eq!(store.metrics().sync_group_size.get_sample_sum(), (APPENDS + 1) as f64);
}

#[test]
fn the_vote_the_committed_note_and_synced_entries_survive_a_crash() {
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    assert_eq!(log.vote(), None);
    append(&log, 1..=4);
    log.save_committed(Some(vec![9])).expect("note");
    log.save_vote(vec![1, 2]).expect("vote");
    log.save_vote(vec![3]).expect("vote");
    let copy = crash_copy(dir.path());
    let log = open(copy.path()).log();
    assert_eq!(log.vote(), Some(vec![3]));
    assert_eq!(log.committed().expect("read"), Some(vec![9]));
    assert_eq!(indexes(&log), vec![1, 2, 3, 4]);
}

#[test]
fn truncation_removes_from_the_end_and_the_shorter_log_opens_again() {
    for (keep, left) in [(Some(5), 5), (Some(3_000), 3_000), (None, 0), (Some(0), 0), (Some(9_999), 3_000)] {
        let dir = directory();
        let store = open(dir.path());
        let log = store.log();
        append(&log, 1..=3_000);
        log.truncate_after(keep).expect("truncate");
        let expected: Vec<u64> = (1..=left).collect();
        assert_eq!(indexes(&log), expected, "after {keep:?}");
        drop((log, store));
        let log = open(dir.path()).log();
        assert_eq!(indexes(&log), expected, "reopened after {keep:?}");
        append(&log, left + 1..=left + 2);
        assert_eq!(log.state().last, Some(left + 2));
    }
}

#[test]
fn a_purge_keeps_its_mark_and_the_rest_of_the_log() {
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    append(&log, 1..=3_000);
    commit(&store.state(), 2_500, vec![put("a", b"1")]);
    log.purge_upto(2_500, vec![5]).expect("purge");
    log.purge_upto(100, vec![1]).expect("an older purge changes nothing");
    let state = log.state();
    assert_eq!((state.first, state.last, state.purged.clone()), (Some(2_501), Some(3_000), Some((2_500, vec![5]))));
    assert_eq!(indexes(&log), (2_501..=3_000).collect::<Vec<_>>());
    drop((log, store));
    let log = open(dir.path()).log();
    assert_eq!(log.state(), state);
}

#[test]
fn the_log_is_never_purged_above_the_flushed_state() {
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    append(&log, 1..=10);
    let refused = Err(PurgeError::AboveFlushed { index: 4, flushed: None });
    assert_eq!(log.purge_upto(4, vec![]), refused);
    commit(&store.state(), 6, vec![put("a", b"1")]);
    assert_eq!(store.state().flushed_index(), None);
    log.purge_upto(4, vec![]).expect("flushes first");
    assert_eq!(store.state().flushed_index(), Some(6));
    assert_eq!(log.purge_upto(8, vec![]), Err(PurgeError::AboveFlushed { index: 8, flushed: Some(6) }));
    let copy = crash_copy(dir.path());
    let store = open(copy.path());
    assert_eq!(store.state().applied().map(|meta| meta.index), Some(6));
    assert_eq!(indexes(&store.log()), vec![5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_purge_beyond_the_log_empties_it_and_the_next_entry_follows_the_mark() {
    let dir = directory();
    let store = open_with(dir.path(), Config { purge_only_flushed: false, ..Config::default() });
    let log = store.log();
    append(&log, 1..=3);
    log.purge_upto(20, vec![2]).expect("purge");
    assert_eq!((log.state().first, log.state().last), (None, None));
    let gap = log.append(vec![(4, payload(4))], Box::new(|_| {}));
    assert_eq!(gap, Err(WriteError::NotConsecutive { expected: 21, found: 4 }));
    append(&log, 21..=22);
    assert_eq!(indexes(&log), vec![21, 22]);
}

#[test]
fn a_purge_after_a_flush_survives_a_crash_at_once() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=50);
    commit(&store.state(), 50, vec![put("a", b"1")]);
    store.log().purge_upto(40, vec![4]).expect("purge");
    let copy = crash_copy(dir.path());
    assert_eq!(indexes(&open(copy.path()).log()), (41..=50).collect::<Vec<_>>());
}

#[test]
fn a_write_that_fails_ends_the_store_for_good() {
    let dir = directory();
    let store = open(dir.path());
    let log = store.log();
    append(&log, 1..=1);
    log.save_vote(vec![1]).expect("the disk works");
    let blocker = dir.path().join("raft").join("high-water.tmp");
    std::fs::create_dir(&blocker).expect("stand in the way");
    assert!(matches!(log.save_vote(vec![2]), Err(WriteError::Stopped(_))));
    assert!(store.fatal().borrow().is_some());
    std::fs::remove_dir(&blocker).expect("out of the way");
    assert!(matches!(log.append(vec![(2, payload(2))], Box::new(|_| {})), Err(WriteError::Stopped(_))));
    assert!(matches!(log.save_vote(vec![3]), Err(WriteError::Stopped(_))));
}

#[test]
fn a_closed_store_takes_no_writes_and_has_lost_nothing() {
    let dir = directory();
    let store = open(dir.path());
    append(&store.log(), 1..=2);
    commit(&store.state(), 2, vec![put("a", b"1")]);
    store.close().expect("close");
    store.close().expect("twice is once");
    assert_eq!(store.log().append(vec![(3, payload(3))], Box::new(|_| {})), Err(WriteError::Closed));
    let copy = crash_copy(dir.path());
    let store = open(copy.path());
    assert_eq!(store.state().applied().map(|meta| meta.index), Some(2));
    assert_eq!(indexes(&store.log()), vec![1, 2]);
}
