//! Values, leases and client sessions, row by row.

use super::*;
use crate::catalog::record::{Counts, Lease, Usage, Value};
use crate::catalog::txn::{Condition, Effect, Op, Operand, Relation, Txn};

const MINUTE_MS: u64 = 60_000;

fn put_op(key: &str, bytes: &[u8], lease: Option<u64>) -> Op {
    Op::Put { key: key.to_owned(), bytes: bytes.to_vec(), lease }
}

fn get_op(key: &str) -> Op {
    Op::Get { key: key.to_owned() }
}

fn delete_op(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

fn all_of(then: Vec<Op>) -> Command {
    Command::Txn(Txn { then, ..Txn::default() })
}

fn put_value(key: &str, bytes: &[u8]) -> Command {
    all_of(vec![put_op(key, bytes, None)])
}

fn if_modified(key: &str, modified: u64, then: Vec<Op>, otherwise: Vec<Op>) -> Command {
    let operand = Operand::Modified(modified);
    let conditions = vec![Condition { key: key.to_owned(), operand, relation: Relation::Equal }];
    Command::Txn(Txn { conditions, then, otherwise })
}

fn did(held: bool, effects: Vec<Effect>) -> Answer {
    Answer::Txn { held, effects }
}

fn wrote(previous: u64) -> Answer {
    did(true, vec![Effect::Put { previous }])
}

fn value(bytes: &[u8], created: u64, modified: u64, version: u64, lease: Option<u64>) -> Value {
    Value { bytes: bytes.to_vec(), created, modified, version, lease }
}

/// After `init` at index 1, so that the first row has index 2.
fn check_from_two(rows: Vec<(u64, Command, Answer)>) -> MemView {
    check([vec![(0, init(), member_answer(1, "n1", false))], rows].concat())
}

fn usage_of(view: &MemView) -> Usage {
    read::usage(view, "", "user/").expect("readable").expect("there")
}

#[test]
fn a_value_tells_its_history_in_three_numbers() {
    let got = |value: Option<Value>| did(true, vec![Effect::Got(value)]);
    let view = check_from_two(vec![
        (0, put_value("user/a", b"1"), wrote(0)),
        (0, put_value("user/b", b"x"), wrote(0)),
        (0, put_value("user/a", b"22"), wrote(2)),
        (0, all_of(vec![get_op("user/a")]), got(Some(value(b"22", 2, 4, 2, None)))),
        (0, all_of(vec![delete_op("user/a")]), did(true, vec![Effect::Deleted { previous: 4 }])),
        (0, all_of(vec![delete_op("user/a")]), did(true, vec![Effect::Deleted { previous: 0 }])),
        (0, all_of(vec![get_op("user/a")]), got(None)),
        (0, put_value("user/a", b"3"), wrote(0)),
    ]);
    let found = read::value(&view, "", "user/a").expect("readable");
    assert_eq!(found, Some(value(b"3", 9, 9, 1, None)), "made anew");
    let pages = [(None, vec!["user/a", "user/b"]), (Some("user/a"), vec!["user/b"]), (Some("user/b"), vec![])];
    for (after, expected) in pages {
        let page = read::values(&view, "", "user/", after, 9).expect("readable");
        assert_eq!(page.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), expected, "{after:?}");
    }
    assert_eq!(read::values(&view, "other", "", None, 9), Ok(vec![]), "namespaces are apart");
}

#[test]
fn a_transaction_does_one_list_and_its_operations_see_those_before_them() {
    let then = || vec![put_op("user/a", b"new", None), get_op("user/a"), delete_op("user/b"), get_op("user/b")];
    let otherwise = || vec![get_op("user/a")];
    check_from_two(vec![
        (0, put_value("user/b", b"b"), wrote(0)),
        (
            0,
            if_modified("user/a", 0, then(), otherwise()),
            did(
                true,
                vec![
                    Effect::Put { previous: 0 },
                    Effect::Got(Some(value(b"new", 3, 3, 1, None))),
                    Effect::Deleted { previous: 2 },
                    Effect::Got(None),
                ],
            ),
        ),
        (
            0,
            if_modified("user/a", 0, then(), otherwise()),
            did(false, vec![Effect::Got(Some(value(b"new", 3, 3, 1, None)))]),
        ),
        (0, if_modified("user/a", 3, vec![put_op("user/a", b"4", None)], vec![]), wrote(3)),
    ]);
}

#[test]
fn what_a_transaction_may_not_hold_is_named() {
    let view = check_from_two(vec![(0, put_value("user/big", &vec![7; TXN_ANSWER_BYTES_MAX]), wrote(0))]);
    let rows = [
        (put_value("", b""), "the key is empty"),
        (put_value("admin/a", b""), "does not begin with user/"),
        (put_value("user/", b""), "nothing behind user/"),
        (put_value("user/a\n", b""), "control character"),
        (put_value(&format!("user/{}", "x".repeat(VALUE_KEY_BYTES_MAX)), b""), "the limit is 512"),
        (put_value("user/a", &vec![0; VALUE_BYTES_MAX + 1]), "the value has 1048577 bytes"),
        (all_of(vec![put_op("user/a", b"", None), delete_op("user/a")]), "written twice"),
        (all_of(vec![get_op("user/a"); TXN_OPS_MAX + 1]), "then has 129 items"),
        (all_of(vec![get_op("user/big"), get_op("user/big")]), "read \"user/big\" alone"),
        (if_modified("other", 0, vec![], vec![]), "does not begin with user/"),
    ];
    for (command, expected) in rows {
        let text = invalid_text(&view, command);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn the_quota_stops_what_grows_and_never_a_delete() {
    let set = |bytes_max: u64| Command::SetQuota { prefix: "user/".to_owned(), bytes_max };
    let full = |needed| {
        refused(Refusal::QuotaExceeded {
            what: "what lies under user/".to_owned(),
            needed,
            limit: 20,
            unit: "bytes".to_owned(),
        })
    };
    let view = check_from_two(vec![
        (0, set(20), Answer::Done),
        (0, put_value("user/a", b"0123"), wrote(0)),
        (0, put_value("user/b", b"0123"), wrote(0)),
        (0, put_value("user/c", b""), full(26)),
        (0, put_value("user/a", b"01234"), full(21)),
        (0, put_value("user/a", b"9"), wrote(3)),
        // What happens at once counts at once.
        (
            0,
            all_of(vec![delete_op("user/b"), put_op("user/c", b"0123", None)]),
            did(true, vec![Effect::Deleted { previous: 4 }, Effect::Put { previous: 0 }]),
        ),
    ]);
    assert_eq!(usage_of(&view), Usage { keys: 2, bytes: 17, bytes_max: 20 });
    assert_eq!(quotas(&view, ""), Ok(vec![("user/", usage_of(&view))]));
    let untouched = Usage { keys: 0, bytes: 0, bytes_max: USER_BYTES_MAX_DEFAULT };
    assert_eq!(quotas(&view, "other"), Ok(vec![("user/", untouched)]), "as it is before the first value");
    let text = invalid_text(&view, Command::SetQuota { prefix: "x/".to_owned(), bytes_max: 1 });
    assert!(text.contains("there is one for user/"), "{text}");

    // A quota below what is there lets it shrink.
    let mut view = view;
    let mut next = 100;
    let mut ask = |command| {
        next += 1;
        view.apply(next, 1, &entry(0, command)).expect("no fault")
    };
    assert_eq!(ask(set(5)), Answer::Done);
    assert!(matches!(ask(put_value("user/c", b"01234")), Answer::Refused(Refusal::QuotaExceeded { .. })));
    assert_eq!(ask(put_value("user/c", b"0")), wrote(8));
    assert_eq!(ask(all_of(vec![delete_op("user/a")])), did(true, vec![Effect::Deleted { previous: 7 }]));
}

#[test]
fn a_lease_ends_with_its_values_once_its_time_has_passed_in_log_time() {
    let put_with = |key: &str, lease| all_of(vec![put_op(key, b"v", Some(lease))]);
    let granted = |lease| Answer::Lease { lease, ttl_ms: MINUTE_MS };
    let grant = || Command::GrantLease { ttl_ms: MINUTE_MS };
    let view = check_from_two(vec![
        (0, grant(), granted(2)),
        (0, grant(), granted(3)),
        (0, put_with("user/a", 2), wrote(0)),
        (0, put_with("user/b", 2), wrote(0)),
        (0, put_with("user/c", 3), wrote(0)),
        (0, put_value("user/b", b"free"), wrote(5)),
        (0, put_with("user/x", 9), refused(Refusal::LeaseNotFound(9))),
        (30_000, Command::RenewLease { lease: 3 }, granted(3)),
        (MINUTE_MS - 1, Command::Expire, Answer::Done),
        (MINUTE_MS, put_with("user/d", 2), refused(Refusal::LeaseNotFound(2))),
        (MINUTE_MS, put_with("user/a", 2), refused(Refusal::LeaseNotFound(2))),
        (MINUTE_MS, Command::RenewLease { lease: 2 }, refused(Refusal::LeaseNotFound(2))),
        (MINUTE_MS, Command::Expire, Answer::Done),
    ]);
    assert_eq!(read::value(&view, "", "user/a"), Ok(None), "gone with its lease");
    assert_eq!(read::value(&view, "", "user/b").expect("readable"), Some(value(b"free", 5, 7, 2, None)));
    assert_eq!(read::lease(&view, 2), Ok(None));
    let ends_at = Timestamp(90_000);
    let lease = Lease { ttl_ms: MINUTE_MS, ends_at, values: 1, due_at: Some(ends_at) };
    assert_eq!(read::leases(&view, None, 9), Ok(vec![(3, lease)]));
    assert_eq!(read::deadlines(&view, 9).expect("readable").len(), 1, "moved to where lease 3 ends");
    assert_eq!(read::counts(&view), Ok(Counts { leases: 1, ..Counts::default() }));

    let mut view = view;
    let answer = view.apply(50, 1, &entry(MINUTE_MS, Command::RevokeLease { lease: 3 }));
    assert_eq!(answer, Ok(Answer::Done));
    assert_eq!(read::value(&view, "", "user/c"), Ok(None));
    assert_eq!(view.apply(51, 1, &entry(2 * MINUTE_MS, Command::Expire)), Ok(Answer::Done));
    assert_eq!(read::deadlines(&view, 9), Ok(vec![]));
    assert_eq!((usage_of(&view).keys, read::counts(&view)), (1, Ok(Counts::default())));
}

#[test]
fn many_that_end_at_once_go_in_steps() {
    let count = EXPIRE_ITEMS_MAX as u64 + 3;
    let rows = (2..2 + count).map(|index| {
        let answer = Answer::Lease { lease: index, ttl_ms: 1_000 };
        (0, Command::GrantLease { ttl_ms: 1_000 }, answer)
    });
    let mut view = check_from_two(rows.collect());
    let mut expire = |index| view.apply(index, 1, &entry(5_000, Command::Expire)).expect("no fault");
    assert_eq!((expire(90), expire(91), expire(92)), (Answer::More, Answer::Done, Answer::Done));
    assert_eq!(read::counts(&view), Ok(Counts::default()));
}

#[test]
fn leases_full_of_values_end_within_what_a_command_may_read() {
    let mut rows = vec![];
    let mut index = 2;
    for lease in 0..3_u64 {
        let id = index;
        rows.push((0, Command::GrantLease { ttl_ms: 1_000 }, Answer::Lease { lease: id, ttl_ms: 1_000 }));
        index += 1;
        for half in 0..u64::from(LEASE_VALUES_MAX) / 64 {
            let ops = (0..64).map(|number| put_op(&format!("user/{lease}/{half}/{number}"), b"v", Some(id)));
            rows.push((0, all_of(ops.collect()), did(true, vec![Effect::Put { previous: 0 }; 64])));
            index += 1;
        }
        let limit = u64::from(LEASE_VALUES_MAX);
        let (what, unit) = (format!("lease {id}"), "values".to_owned());
        let full = Refusal::QuotaExceeded { what, needed: limit + 1, limit, unit };
        rows.push((0, all_of(vec![put_op("user/more", b"", Some(id))]), refused(full)));
        index += 1;
    }
    let mut view = check_from_two(rows);
    let mut expire = |index| view.apply(index, 1, &entry(5_000, Command::Expire)).expect("no fault");
    assert_eq!((expire(90), expire(91), expire(92)), (Answer::More, Answer::More, Answer::Done));
    assert_eq!((usage_of(&view).keys, usage_of(&view).bytes), (0, 0));
}

/// One state, and commands within a session at rising indexes.
struct Client {
    view: MemView,
    index: u64,
}

impl Client {
    fn new(window: u32) -> Self {
        let view = check_from_two(vec![(
            0,
            Command::OpenSession { ttl_ms: MINUTE_MS, window },
            Answer::Session { session: 2 },
        )]);
        Self { view, index: 2 }
    }

    fn ask(&mut self, log_time: u64, sequence: u64, command: Command) -> (Answer, Option<(u64, u64)>) {
        self.index += 1;
        let entry = Entry { session: Some((2, sequence)), ..entry(log_time, command) };
        let applied = apply(&self.view, self.index, 7, &entry).expect("no fault");
        self.view.write(&applied.mutations);
        (applied.answer, applied.before)
    }
}

#[test]
fn a_command_that_comes_again_has_one_effect_and_the_same_answer() {
    let mut client = Client::new(4);
    let add = || put_value("user/a", b"1");
    assert_eq!(client.ask(0, 1, add()), (wrote(0), None));
    assert_eq!(client.ask(0, 2, add()), (wrote(3), None));
    let before = client.view.clone();
    assert_eq!(client.ask(0, 1, add()), (wrote(0), Some((3, 7))), "the answer of its first time");
    assert_eq!(client.view, before);
    // A refusal is remembered like every other answer.
    let gone = Command::RevokeLease { lease: 9 };
    assert_eq!(client.ask(0, 3, gone.clone()).0, refused(Refusal::LeaseNotFound(9)));
    assert_eq!(client.ask(0, 3, gone), (refused(Refusal::LeaseNotFound(9)), Some((6, 7))));
    // They may come in any order within the window.
    assert_eq!(client.ask(0, 6, add()), (wrote(4), None));
    assert_eq!(client.ask(0, 5, add()), (wrote(8), None));
    assert_eq!(client.ask(0, 5, add()), (wrote(8), Some((9, 7))));
}

#[test]
fn what_lies_below_the_window_is_never_executed_and_sequences_may_be_left_out() {
    let mut client = Client::new(4);
    for sequence in [1, 2, 5] {
        client.ask(0, sequence, put_value("user/a", b"1"));
    }
    let before = client.view.clone();
    let too_old = |sequence| refused(Refusal::SequenceTooOld { session: 2, sequence, oldest: 2 });
    assert_eq!(client.ask(0, 1, put_value("user/a", b"2")).0, too_old(1));
    assert_eq!(client.ask(0, 0, put_value("user/a", b"2")).0, too_old(0));
    let own = Command::CloseSession { session: 2 };
    assert!(matches!(client.ask(0, 6, own).0, Answer::Refused(Refusal::Invalid(_))));
    assert_eq!(client.view, before);
    let kept = |client: &Client| client.view.records().filter(|(key, _)| matches!(key, Key::SessionAnswer(..))).count();
    assert_eq!(client.ask(0, 7, put_value("user/a", b"3")), (wrote(5), None));
    assert_eq!(kept(&client), 2, "of 4 to 7 only 5 and 7 were executed");
    let index = client.index;
    assert_eq!(client.ask(0, 5_000, put_value("user/a", b"4")), (wrote(index), None));
    assert_eq!(client.ask(0, u64::MAX, put_value("user/a", b"5")), (wrote(index + 1), None));
    assert_eq!(kept(&client), 1, "a jump forgets what lies below");
    assert_eq!(client.view.apply(90, 1, &entry(0, Command::CloseSession { session: 2 })), Ok(Answer::Done));
    assert_eq!(kept(&client), 0);
}

#[test]
fn a_session_ends_after_its_time_without_a_command() {
    let mut client = Client::new(4);
    client.ask(MINUTE_MS - 1, 1, put_value("user/a", b"1"));
    assert_eq!(client.view.apply(50, 1, &entry(MINUTE_MS, Command::Expire)), Ok(Answer::Done));
    assert_eq!(client.ask(MINUTE_MS, 2, put_value("user/a", b"2")), (wrote(3), None), "it was renewed");
    let ended = 2 * MINUTE_MS;
    for sequence in [2, 3] {
        let answer = client.ask(ended, sequence, put_value("user/a", b"3")).0;
        assert_eq!(answer, refused(Refusal::SessionExpired(2)), "not swept yet, and ended");
    }
    for index in [60, 61] {
        client.view.apply(index, 1, &entry(ended, Command::Expire)).expect("no fault");
    }
    assert_eq!(read::session(&client.view, 2), Ok(None));
    let left = client.view.records().filter(|(key, _)| matches!(key, Key::SessionAnswer(..) | Key::Deadline(..)));
    assert_eq!((left.count(), read::counts(&client.view)), (0, Ok(Counts::default())));
}

#[test]
fn a_closed_session_leaves_nothing() {
    let mut client = Client::new(2);
    client.ask(0, 1, put_value("user/a", b"1"));
    let close = || entry(0, Command::CloseSession { session: 2 });
    assert_eq!(client.view.apply(50, 1, &close()), Ok(Answer::Done));
    assert_eq!(client.view.apply(51, 1, &close()), Ok(Answer::Done), "once more changes nothing");
    assert_eq!(client.ask(0, 2, put_value("user/a", b"2")).0, refused(Refusal::SessionExpired(2)));
    assert_eq!(read::counts(&client.view), Ok(Counts::default()));
    assert_eq!(read::deadlines(&client.view, 9), Ok(vec![]));
}

#[test]
fn lives_and_windows_have_bounds() {
    let view = check_from_two(vec![]);
    let rows = [
        (Command::GrantLease { ttl_ms: 999 }, "a lease lives 1 to"),
        (Command::GrantLease { ttl_ms: u64::MAX }, "a lease lives 1 to"),
        (Command::OpenSession { ttl_ms: 9_999, window: 1 }, "a session lives 10 to"),
        (Command::OpenSession { ttl_ms: 10_000, window: 0 }, "the window of a session is 1 to 1024"),
        (Command::OpenSession { ttl_ms: 10_000, window: 1_025 }, "the window of a session is 1 to 1024"),
    ];
    for (command, expected) in rows {
        let text = invalid_text(&view, command);
        assert!(text.contains(expected), "{text}");
    }
    let mut full = view;
    let counts = Counts { sessions: SESSIONS_MAX, leases: LEASES_MAX, ..Counts::default() };
    full.write(&[put(Key::Counts, Record::Counts(counts))]);
    for command in [Command::GrantLease { ttl_ms: 1_000 }, Command::OpenSession { ttl_ms: 10_000, window: 1 }] {
        let answer = full.apply(9, 1, &entry(0, command)).expect("no fault");
        assert!(matches!(answer, Answer::Refused(Refusal::QuotaExceeded { .. })), "{answer:?}");
    }
}

#[test]
fn an_older_cluster_takes_none_of_this_until_its_version_goes_up() {
    let Command::InitCluster { cluster, name, public_key, first, .. } = init() else { unreachable!("init is one") };
    let old = Command::InitCluster { cluster, name, public_key, first, version: 1 };
    let too_low = || refused(Refusal::VersionTooLow { needed: 2, actual: 1 });
    let view = check(vec![
        (0, old, member_answer(1, "n1", false)),
        (0, put_value("user/a", b""), too_low()),
        (0, Command::OpenSession { ttl_ms: MINUTE_MS, window: 1 }, too_low()),
        (0, Command::Expire, too_low()),
        (
            0,
            Command::RaiseVersion { version: 0 },
            refused(Refusal::Invalid("cluster versions begin with 1".to_owned())),
        ),
        (0, Command::RaiseVersion { version: 2 }, Answer::Done),
        (0, put_value("user/a", b""), wrote(0)),
        (0, Command::RaiseVersion { version: 1 }, Answer::Done),
    ]);
    assert_eq!(read::cluster(&view).expect("readable").map(|cluster| cluster.version), Some(2), "it never goes back");
    let beyond = entry(0, Command::RaiseVersion { version: CLUSTER_VERSION + 1 });
    assert!(matches!(apply(&view, 9, 1, &beyond), Err(Fault::Invariant(_))), "the node halts");
}
