//! Requests with a key, row by row: once, again, with other content, after their time, and without room.

use super::*;
use crate::catalog::OnceKey;
use crate::catalog::record::{Counts, Due, Once};
use crate::catalog::txn::{Effect, Op, Txn};

const KEPT: u64 = ONCE_KEPT_FOR.as_secs() * 1_000;

/// One state, and requests at rising indexes, in term 7.
struct World {
    view: MemView,
    index: u64,
}

impl World {
    fn new() -> Self {
        Self { view: check_in_cluster(vec![]), index: 2 }
    }

    fn apply(&mut self, entry: &Entry) -> Applied {
        self.index += 1;
        let applied = apply(&self.view, self.index, 7, entry).expect("no fault");
        if matches!(applied.answer, Answer::Refused(_)) && entry.session.is_none() {
            assert_eq!(applied.mutations, vec![], "a refusal changes nothing");
        }
        let written: std::collections::BTreeSet<String> = applied
            .mutations
            .iter()
            .map(|mutation| match mutation {
                Mutation::Put(key, _) | Mutation::Delete(key) => key.to_string(),
            })
            .collect();
        assert_eq!(written.len(), applied.mutations.len(), "each record is written once: {entry:?}");
        self.view.write(&applied.mutations);
        applied
    }

    /// The answer, and the entry that had the effect where it was another one.
    fn ask(&mut self, log_time: u64, key: u8, digest: u8, command: Command) -> (Answer, Option<(u64, u64)>) {
        let applied = self.apply(&keyed(log_time, key, digest, command));
        (applied.answer, applied.before)
    }

    fn counted(&self) -> Counts {
        read::counts(&self.view).expect("readable")
    }

    fn value(&self) -> Option<u64> {
        read::value(&self.view, "", "user/a").expect("readable").map(|value| value.version)
    }
}

fn keyed(log_time: u64, key: u8, digest: u8, command: Command) -> Entry {
    let once = Some(OnceKey { key: [key; 32], digest: [digest; 32] });
    Entry { once, ..entry(log_time, command) }
}

/// Its effect is seen in the value's version.
fn add() -> Command {
    let put = Op::Put { key: "user/a".to_owned(), bytes: vec![1], lease: None };
    Command::Txn(Txn { then: vec![put], ..Txn::default() })
}

fn wrote(previous: u64) -> Answer {
    Answer::Txn { held: true, effects: vec![Effect::Put { previous }] }
}

#[test]
fn a_request_that_comes_again_has_one_effect_and_the_same_answer() {
    let mut world = World::new();
    assert_eq!(world.ask(1, 1, 1, add()), (wrote(0), None));
    let before = world.view.clone();
    // Another node sends it, in an entry of its own, and for somebody else.
    let again = Entry { principal: "node/9 for uid/0".to_owned(), ..keyed(2, 1, 1, add()) };
    let applied = world.apply(&again);
    assert_eq!(applied, Applied { mutations: vec![], answer: wrote(0), before: Some((3, 7)) });
    assert_eq!(world.view, before);
    assert_eq!(world.ask(3, 2, 1, add()), (wrote(3), None), "under another key it is another request");
    assert_eq!(world.value(), Some(2));
    let once = read::once(&world.view, &[1; 32]).expect("readable").expect("kept");
    let ends_at = Timestamp(1 + KEPT);
    assert_eq!(once, Once { digest: [1; 32], revision: 3, term: 7, answer: wrote(0), ends_at });
    assert_eq!(world.counted().once, 2);
}

#[test]
fn a_pin_that_comes_again_is_answered_with_the_version_of_the_first_time() {
    let mut world = World::new();
    world.apply(&entry(1, report(1, &[("m", 1)], &[])));
    let pin = |byte: u8| {
        let name = "m".parse().expect("a name");
        Command::PinModel { name, digest: Some(Digest([byte; 32])) }
    };
    let pinned = || Answer::Pinned { digest: Digest([1; 32]) };
    assert_eq!(world.ask(1, 1, 1, pin(1)), (pinned(), None));
    world.apply(&entry(2, report(1, &[("m", 2)], &[])));
    // Whoever sends it again has looked anew what the name stands for.
    assert_eq!(world.ask(2, 1, 1, pin(2)), (pinned(), Some((4, 7))));
    assert_eq!(world.ask(3, 2, 1, pin(2)).0, Answer::Pinned { digest: Digest([2; 32]) }, "it changes what is pinned");
    assert_eq!(world.ask(4, 3, 1, pin(2)).0, Answer::Pinned { digest: Digest([2; 32]) }, "it changes nothing");
    assert_eq!(world.apply(&entry(5, pin(2))).answer, Answer::Done, "nobody keeps it");
}

#[test]
fn another_request_under_the_same_key_is_refused() {
    let mut world = World::new();
    world.ask(1, 1, 1, add());
    assert_eq!(world.ask(2, 1, 2, add()), (refused(Refusal::OnceReused), None));
    assert_eq!((world.value(), world.counted().once), (Some(1), 1));
}

#[test]
fn a_refusal_is_not_remembered_and_neither_is_an_answer_that_goes_on() {
    let mut world = World::new();
    let delete = || Command::DeleteSetting { key: "k".to_owned() };
    let missing = || refused(Refusal::SettingNotFound("k".to_owned()));
    assert_eq!(world.ask(1, 1, 1, delete()), (missing(), None));
    world.apply(&entry(2, Command::SetSetting { key: "k".to_owned(), value: vec![] }));
    assert_eq!(world.ask(3, 1, 1, delete()), (Answer::Done, None));
    assert_eq!(world.ask(4, 1, 1, delete()), (Answer::Done, Some((5, 7))));
    world.apply(&entry(5, report(1, &[("a", 1), ("b", 1)], &[])));
    let forget = || Command::ForgetModels { node: NodeId(1), limit: 1 };
    assert_eq!(world.ask(6, 2, 1, forget()), (Answer::More, None));
    assert_eq!(world.ask(6, 2, 1, forget()), (Answer::Done, None));
    assert_eq!(world.ask(6, 2, 1, forget()), (Answer::Done, Some((9, 7))));
}

#[test]
fn an_answer_is_forgotten_after_its_time_and_whatever_comes_then_is_a_new_request() {
    let mut world = World::new();
    world.ask(1, 1, 1, add());
    world.ask(1, 2, 1, add());
    assert_eq!(world.ask(KEPT, 1, 1, add()).1, Some((3, 7)), "it is kept to the last millisecond");
    // Nobody has removed it yet.
    assert_eq!(world.ask(1 + KEPT, 1, 9, add()), (wrote(4), None));
    assert_eq!(world.counted().once, 2);
    world.apply(&entry(1 + KEPT, Command::Expire));
    assert_eq!(read::once(&world.view, &[2; 32]), Ok(None));
    assert_eq!(world.counted().once, 1);
    let left = vec![(Timestamp(1 + 2 * KEPT), Due::Once([1; 32]))];
    assert_eq!(read::deadlines(&world.view, 9), Ok(left));
}

#[test]
fn where_there_is_no_room_to_remember_there_is_no_effect() {
    let mut world = World::new();
    let counts = Counts { once: ONCE_MAX, ..world.counted() };
    world.view.write(&[put(Key::Counts, Record::Counts(counts))]);
    let (what, unit) = ("this cluster".to_owned(), "keys of requests".to_owned());
    let full = refused(Refusal::QuotaExceeded { what, needed: ONCE_MAX + 1, limit: ONCE_MAX, unit });
    assert_eq!(world.ask(1, 2, 1, add()), (full.clone(), None));
    assert_eq!(world.value(), None);
    // One that counts something itself.
    assert_eq!(world.ask(1, 2, 1, Command::GrantLease { ttl_ms: 1_000 }), (full, None));
    assert_eq!(world.counted().leases, 0);
}

#[test]
fn the_oldest_answer_makes_room_for_the_next() {
    let mut world = World::new();
    let counts = Counts { once: ONCE_MAX - 2, ..world.counted() };
    world.view.write(&[put(Key::Counts, Record::Counts(counts))]);
    for (log_time, key) in [(1, 3), (2, 1), (3, 2)] {
        let (answer, before) = world.ask(log_time, key, 1, add());
        assert!(before.is_none() && !matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    // One that counts something itself.
    world.ask(4, 4, 1, Command::GrantLease { ttl_ms: 100_000_000 });
    assert_eq!((world.counted().once, world.counted().leases), (ONCE_MAX, 1));
    let is_kept = |key: u8| read::once(&world.view, &[key; 32]).expect("readable").is_some();
    assert_eq!([3, 1, 2, 4].map(is_kept), [false, false, true, true]);
    let deadlines = read::deadlines(&world.view, 9).expect("readable");
    let left = deadlines.into_iter().filter(|(_, due)| matches!(due, Due::Once(_))).map(|(at, due)| (at.0, due));
    assert_eq!(left.collect::<Vec<_>>(), [(3 + KEPT, Due::Once([2; 32])), (4 + KEPT, Due::Once([4; 32]))]);
}

#[test]
fn a_command_that_counts_and_its_key_are_counted_in_one_record() {
    let mut world = World::new();
    world.ask(1, 1, 1, Command::GrantLease { ttl_ms: 1_000 });
    assert_eq!(world.counted(), Counts { leases: 1, once: 1, ..Counts::default() });
}

#[test]
fn a_key_holds_across_sessions_and_what_ends_by_itself_has_none() {
    let mut world = World::new();
    let open = || Command::OpenSession { ttl_ms: 60_000, window: 4 };
    let Answer::Session { session } = world.apply(&entry(1, open())).answer else { unreachable!("a session") };
    let Answer::Session { session: other } = world.apply(&entry(1, open())).answer else { unreachable!("a session") };
    let within = |session, sequence| Entry { session: Some((session, sequence)), ..keyed(1, 1, 1, add()) };
    assert_eq!(world.apply(&within(session, 1)).answer, wrote(0));
    let again = world.apply(&within(other, 1));
    assert_eq!((again.answer, again.before), (wrote(0), Some((5, 7))));
    let again = world.apply(&within(other, 1));
    assert_eq!((again.answer, again.before), (wrote(0), Some((5, 7))), "the session tells the same");
    assert_eq!(world.value(), Some(1));
    let expired = world.ask(1, 2, 1, Command::Expire).0;
    assert_eq!(expired, refused(Refusal::Invalid("what ends by itself ends without a key".to_owned())));
}
