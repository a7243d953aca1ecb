//! The feed by itself: what a watcher is handed in every case.

use proptest::prelude::*;

use ollamax_core::integrity::Alarm;
use ollamax_types::{NodeId, Timestamp};

use super::*;
use crate::integrity::Integrity;

fn event(revision: u64, key: &str, bytes: usize) -> Event {
    let value = Value { bytes: vec![1; bytes], created: revision, modified: revision, version: 1, lease: None };
    Event { revision, namespace: String::new(), key: key.to_owned(), value: Some(value) }
}

fn all() -> Filter {
    Filter { namespace: String::new(), key: "user/".to_owned(), prefix: true }
}

fn feed(applied: u64) -> Feed {
    let feed = Feed::default();
    feed.restart(applied);
    feed
}

/// Nothing is known against this node.
fn agreement() -> Agreement {
    Integrity::default().agreement(NodeId(1))
}

fn so_far(revision: u64) -> Batch {
    Batch { events: vec![], revision }
}

fn revisions(found: &[Event]) -> Vec<u64> {
    found.iter().map(|event| event.revision).collect()
}

#[test]
fn begins_after_what_was_applied_when_it_began() {
    let feed = feed(7);
    assert_eq!(feed.look(&all(), 7), Err(WatchError::Compacted { oldest: 8 }));
    assert_eq!(feed.look(&all(), 8), Ok((vec![], 7)));
    feed.add(vec![event(9, "user/a", 1)], 10);
    assert_eq!(feed.look(&all(), 8), Ok((vec![event(9, "user/a", 1)], 10)));
    assert_eq!(feed.look(&all(), 10), Ok((vec![], 10)));
}

#[test]
fn a_filter_takes_a_key_or_what_begins_with_it_in_its_namespace() {
    let check = |key: &str, prefix: bool, expected: &[u64]| {
        let feed = feed(0);
        let other = Event { namespace: "other".to_owned(), ..event(4, "user/a", 1) };
        feed.add(vec![event(1, "user/a", 1), event(2, "user/ab", 1), event(3, "user/b", 1), other], 4);
        let filter = Filter { namespace: String::new(), key: key.to_owned(), prefix };
        let (found, _) = feed.look(&filter, 1).expect("kept");
        assert_eq!(revisions(&found), expected, "{key} {prefix}");
    };
    check("user/a", false, &[1]);
    check("user/a", true, &[1, 2]);
    check("user/", true, &[1, 2, 3]);
    check("user/", false, &[]);
}

#[test]
fn what_is_too_much_goes_with_its_whole_revision() {
    let feed = feed(0);
    let many = CHANGES_MAX as u64;
    feed.add(
        (1..=many).flat_map(|revision| [event(revision, "user/a", 0), event(revision, "user/b", 0)]).collect(),
        many,
    );
    assert_eq!(feed.look(&all(), many / 2), Err(WatchError::Compacted { oldest: many / 2 + 1 }));
    feed.add(vec![event(many + 1, "user/a", 0)], many + 1);
    let oldest = many / 2 + 2;
    assert_eq!(feed.look(&all(), oldest - 1), Err(WatchError::Compacted { oldest }), "half a revision is none");
    let (found, _) = feed.look(&all(), oldest).expect("kept");
    assert_eq!(revisions(&found)[..2], [oldest, oldest]);
}

#[test]
fn bytes_are_bounded_too() {
    let feed = feed(0);
    for revision in 1..=40 {
        feed.add(vec![event(revision, "user/a", 1 << 20)], revision);
    }
    let oldest = feed.ring().oldest;
    assert!((9..=11).contains(&oldest), "{oldest}");
}

#[test]
fn a_snapshot_begins_anew() {
    let feed = feed(0);
    feed.add(vec![event(1, "user/a", 1)], 1);
    feed.restart(50);
    assert_eq!(feed.look(&all(), 2), Err(WatchError::Compacted { oldest: 51 }));
    assert_eq!(feed.look(&all(), 51), Ok((vec![], 50)));
}

#[test]
fn what_happened_in_the_cluster_is_kept_apart_and_handed_out_without_waiting() {
    let told = |revision, kind| ClusterEvent {
        revision,
        at: Timestamp(1),
        kind,
        subject: "node/1".to_owned(),
        text: "n1".to_owned(),
    };
    let (joined, left) = (told(1, EventKind::MemberJoined), told(3, EventKind::MemberLeft));
    let feeds = Feeds::default();
    feeds.restart(0);
    let cluster = vec![joined.clone(), left.clone()];
    feeds.add(News { values: vec![event(2, "user/a", 1)], cluster }, 4);
    let check = |kinds: &[EventKind], from: Option<u64>, expected: &[ClusterEvent]| {
        let mut watcher = Watcher::new(feeds.cluster.clone(), watch::channel(4).1, agreement(), kinds.to_vec(), from);
        let found = watcher.next_kept().expect("kept").map_or_else(Vec::new, |batch| batch.events);
        assert_eq!(found, expected, "{kinds:?} from {from:?}");
        assert_eq!(watcher.next_kept(), Ok(None), "once");
        assert_eq!(watcher.so_far().map(|batch| batch.revision), Ok(4));
    };
    check(&[], Some(1), &[joined, left.clone()]);
    check(&[EventKind::MemberLeft, EventKind::Expired], Some(1), std::slice::from_ref(&left));
    check(&[], Some(2), &[left]);
    check(&[EventKind::MemberJoined], Some(2), &[]);
    check(&[], None, &[]);
    for revision in 5..=5 + CHANGES_MAX as u64 {
        feeds.add(News { values: vec![event(revision, "user/a", 1)], cluster: Vec::new() }, revision);
    }
    assert_eq!((feeds.values.oldest(), feeds.cluster.oldest()), (6, 1), "busy values push out values only");
}

#[tokio::test]
async fn a_watcher_waits_and_is_told_when_the_node_stops() {
    let (sender, changes) = watch::channel(0);
    let feed = feed(0);
    let mut watcher = Watcher::new(feed.clone(), changes, agreement(), all(), None);
    let mut waiting = Box::pin(watcher.next());
    assert!(futures::poll!(&mut waiting).is_pending());
    feed.add(vec![event(3, "user/a", 1)], 4);
    sender.send_replace(4);
    assert_eq!(waiting.await, Ok(Batch { events: vec![event(3, "user/a", 1)], revision: 4 }));
    assert_eq!(watcher.so_far(), Ok(so_far(4)));
    drop(sender);
    assert_eq!(watcher.next().await, Err(WatchError::Stopped));
}

#[tokio::test]
async fn nobody_is_told_anything_while_the_state_differs_from_that_of_the_majority() {
    let (_sender, changes) = watch::channel(0);
    let (feed, integrity) = (feed(0), Integrity::default());
    let mut watcher = Watcher::new(feed.clone(), changes, integrity.agreement(NodeId(3)), all(), None);
    let alarm = |nodes: &[u64]| {
        let deviating = nodes.iter().copied().map(NodeId).collect();
        integrity.stand(1, Alarm { index: 4, deviating, ..Alarm::default() });
    };
    feed.add(vec![event(3, "user/a", 1)], 4);
    alarm(&[2]);
    assert_eq!(watcher.so_far(), Ok(so_far(0)), "another node's");
    alarm(&[2, 3]);
    assert_eq!(watcher.so_far(), Err(WatchError::Deviates));
    assert_eq!(watcher.next_kept(), Err(WatchError::Deviates));
    assert_eq!(watcher.next().await, Err(WatchError::Deviates));
    assert_eq!(WatchError::Deviates.to_string(), ReadError::Deviates.to_string(), "as a read is refused");
    alarm(&[]);
    let told = Batch { events: vec![event(3, "user/a", 1)], revision: 4 };
    assert_eq!(watcher.next_kept(), Ok(Some(told)), "it goes on where it was");
}

proptest! {
    #[test]
    fn looks_of_any_size_hand_out_each_change_once_and_revisions_whole(
        sizes in prop::collection::vec((1_usize..4, 0_usize..200_000), 1..60),
    ) {
        let feed = feed(0);
        let mut told = Vec::new();
        for (revision, (count, bytes)) in (1..).zip(&sizes) {
            let events: Vec<_> = (0..*count).map(|number| event(revision, &format!("user/{number}"), *bytes)).collect();
            told.extend(events.clone());
            feed.add(events, revision);
        }
        let (mut seen, mut from) = (Vec::new(), 1);
        while from <= sizes.len() as u64 {
            let (events, revision) = feed.look(&all(), from).expect("kept");
            prop_assert!(events.iter().all(|event| (from..=revision).contains(&event.revision)));
            seen.extend(events);
            from = revision + 1;
        }
        prop_assert_eq!(revisions(&seen), revisions(&told));
    }
}
