//! Good and bad watches: every fault that a watch can have must be caught, and a good one must not be blamed.

use super::*;
use crate::traffic::LeaseSign;

fn operation(key: &str, call: Call, outcome: Outcome) -> Operation {
    Operation { client: 0, key: key.to_owned(), call, invoked_ns: 1, returned_ns: Some(2), outcome }
}

fn put(key: &str, value: u64, revision: u64) -> Operation {
    let outcome = Outcome::Written { revision, happened: true, observed_modified: None };
    operation(key, Call::Put { value }, outcome)
}

fn event(revision: u64, key: &str, value: Option<u64>) -> Event {
    Event { revision, key: key.to_owned(), value }
}

fn told(revision: u64, events: Vec<Event>) -> Told {
    Told { revision, seen_ns: revision * 1_000, events }
}

fn segment(asked: u64, begun: u64, told: Vec<Told>) -> Segment {
    Segment { node: 0, asked, begun, told }
}

/// a is 10, 12 deletes it, b is 11 by somebody who heard nothing, a pair is put at 13, a lease ends at 15.
fn world() -> (Vec<Operation>, Aside) {
    let history = vec![
        put("w/a", 1, 10),
        operation("w/b", Call::Put { value: 2 }, Outcome::Unknown),
        operation("w/a", Call::Delete, Outcome::Deleted { revision: 12, existed: true }),
        operation("w/c", Call::Put { value: 9 }, Outcome::Refused),
        operation("w/c", Call::Delete, Outcome::Deleted { revision: 14, existed: false }),
    ];
    let pair = SideWrite { keys: vec!["w/p".to_owned(), "w/q".to_owned()], value: 3, fate: Fate::At(13) };
    let lease = LeaseSign { key: "w/l".to_owned(), ttl_ms: 2_000, invoked_ns: 0, revision: 9 };
    (history, Aside { writes: vec![pair], leases: vec![lease], ..Aside::default() })
}

fn good() -> Vec<Told> {
    vec![
        told(10, vec![event(10, "w/a", Some(1))]),
        told(12, vec![event(11, "w/b", Some(2)), event(12, "w/a", None)]),
        told(12, vec![]),
        told(14, vec![event(13, "w/p", Some(3)), event(13, "w/q", Some(3))]),
        told(15, vec![event(15, "w/l", None)]),
    ]
}

fn judge(watchers: &[Vec<Segment>]) -> Verdict {
    let (history, aside) = world();
    check(watchers, "w/", &history, &aside)
}

#[test]
fn a_good_watch_is_not_blamed_also_when_it_goes_on_elsewhere() {
    let whole = vec![segment(0, 9, good())];
    let halves = vec![segment(0, 9, good()[..2].to_vec()), segment(13, 12, good()[2..].to_vec())];
    let gap = vec![segment(0, 9, good()[..1].to_vec()), segment(0, 12, good()[2..].to_vec())];
    let verdict = judge(&[whole, halves, gap]);
    assert_eq!(verdict.faults, Vec::<String>::new());
    assert_eq!((verdict.events, verdict.resumed, verdict.gaps), (16, 1, 1));
    let end = Ended { key: "w/l".to_owned(), revision: 15, seen_ns: 15_000 };
    assert_eq!(verdict.ends, [end.clone(), end.clone(), end]);
}

#[test]
fn every_fault_of_a_single_watch_is_caught() {
    let check = |what: &str, change: &dyn Fn(&mut Segment), named: &str| {
        let mut segment = segment(0, 9, good());
        change(&mut segment);
        let verdict = judge(&[vec![segment]]);
        let found = verdict.faults.iter().any(|fault| fault.contains(named));
        assert!(found, "{what}: wanted {named:?} in {:?}", verdict.faults);
    };
    check("an acknowledged change is left out", &|s| s.told[0].events.clear(), "left out w/a at 10");
    check("half of a revision", &|s| drop(s.told[3].events.pop()), "left out w/q at 13");
    check("another value", &|s| s.told[0].events[0].value = Some(7), "is told as Some(7), and was Some(1)");
    check("a refused value", &|s| s.told[4].events.push(event(15, "w/c", Some(9))), "nobody did that");
    check("a delete of nobody", &|s| s.told[4].events.push(event(15, "w/q", None)), "nobody did that");
    check("twice in a message", &|s| s.told[0].events.push(event(10, "w/a", Some(1))), "after Some");
    check("twice in two messages", &|s| s.told[1].events.insert(0, event(10, "w/a", Some(1))), "in pieces");
    check("out of order", &|s| s.told[1].events.swap(0, 1), "w/b at 11 after");
    check(
        "a revision in two pieces",
        &|s| {
            let second = s.told[3].events.pop().expect("two");
            s.told.insert(4, told(14, vec![second]));
        },
        "in pieces",
    );
    check("beyond what is complete", &|s| s.told[3].revision = 12, "late, early");
    check("back behind what was complete", &|s| s.told[4].revision = 13, "then up to 13");
    check("a foreign key", &|s| s.told[2].events.push(event(12, "other", Some(2))), "not asked for");
    check("put twice", &|s| s.told[4].events.push(event(15, "w/b", Some(2))), "put at 11 and again at 15");
}

#[test]
fn what_is_lost_or_told_again_where_a_watch_goes_on_is_caught() {
    let check = |second: Segment, named: &str| {
        let verdict = judge(&[vec![segment(0, 9, good()[..2].to_vec()), second]]);
        let found = verdict.faults.iter().any(|fault| fault.contains(named));
        assert!(found, "wanted {named:?} in {:?}", verdict.faults);
    };
    check(segment(14, 13, good()[4..].to_vec()), "goes on at 14");
    check(segment(13, 13, good()[4..].to_vec()), "asked for 13 on, it began after 13");
    check(segment(13, 12, good()[4..].to_vec()), "left out w/p at 13");
    check(segment(13, 12, good()[1..].to_vec()), "in pieces");
}

#[test]
fn two_watchers_that_contradict_each_other_are_caught() {
    let mut other = good();
    other[1].events[0].value = None;
    let verdict = judge(&[vec![segment(0, 9, good())], vec![segment(0, 9, other)]]);
    assert!(verdict.faults.iter().any(|fault| fault.contains("another watcher told")), "{:?}", verdict.faults);
}
