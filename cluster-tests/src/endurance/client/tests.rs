//! Whom a client asks next, and what it takes for a success.

use rand::SeedableRng;

use super::*;

fn client() -> Client {
    Client {
        number: 4,
        doors: Vec::new(),
        turn: Turn::beginning_at(4, 3),
        chance: StdRng::seed_from_u64(1),
        ledger: Ledger::default(),
        tallies: Tallies::default(),
        old_reads: Vec::new(),
    }
}

fn error(code: Option<ErrorCode>) -> CallError {
    CallError {
        node: "n1".to_owned(),
        code,
        message: String::new(),
        why: String::new(),
        next: String::new(),
        took: Duration::ZERO,
    }
}

#[test]
fn the_next_node_is_asked_and_after_a_whole_round_the_client_pauses() {
    let mut turn = Turn::beginning_at(4, 3);
    assert_eq!(turn.node, 1);
    let asked: Vec<(bool, usize)> = (0..4).map(|_| (turn.go_on(), turn.node)).collect();
    assert_eq!(asked, [(false, 2), (false, 0), (true, 1), (false, 2)]);
    turn.stay();
    assert_eq!(turn.node, 2, "it stays where it was answered");
    let asked: Vec<(bool, usize)> = (0..3).map(|_| (turn.go_on(), turn.node)).collect();
    assert_eq!(asked, [(false, 0), (false, 1), (true, 2)], "a success begins a new round");
}

#[test]
fn only_a_final_answer_ends_a_request_before_its_time() {
    let check = |code, expected: bool, told: &str| {
        let error = error(code);
        assert_eq!((may_go_on(&error), Failure::from_error(&error).reason), (expected, told));
    };
    check(None, true, "connection failed");
    check(Some(ErrorCode::NoQuorum), true, "no_quorum");
    check(Some(ErrorCode::Draining), true, "draining");
    check(Some(ErrorCode::Starting), true, "starting");
    check(Some(ErrorCode::Overloaded), true, "overloaded");
    check(Some(ErrorCode::OutcomeUnknown), true, "outcome_unknown");
    check(Some(ErrorCode::QuotaExceeded), false, "quota_exceeded");
    check(Some(ErrorCode::NotInitialised), false, "not_initialised");
    check(Some(ErrorCode::Internal), false, "internal");
}

#[test]
fn an_answer_is_a_success_when_it_is_what_was_asked_for() {
    let mut client = client();
    let number = client.ledger.fresh();
    let (put, read, list) = (Deed::Put { key: 7, number }, Deed::PointRead { key: 7 }, Deed::List { of: 0 });
    let mut check = |deed: Deed, answer: Answer, expected: Result<(), &str>| {
        assert_eq!(client.learn(deed, answer), expected, "{deed:?} {answer:?}");
    };
    check(put, Answer::Written(12), Ok(()));
    check(read, Answer::Read(12), Ok(()));
    check(read, Answer::Read(15), Ok(()));
    check(read, Answer::Read(11), Err(OLD));
    check(read, Answer::Read(0), Err(OLD));
    check(list, Answer::Rows(100), Ok(()));
    check(list, Answer::Rows(99), Err(NOT_ALL_ROWS));
    assert_eq!(client.old_reads.len(), 2);
    assert!(client.old_reads[0].starts_with("user/endurance/4/007 was read as of revision 11"), "{client:?}");
}

#[test]
fn an_attempt_without_a_certain_end_may_be_what_is_there_in_the_end() {
    let check = |failed: Option<Option<ErrorCode>>, may_be: bool| {
        let mut client = client();
        let first = client.ledger.fresh();
        let error = failed.map(error);
        client.leave_open(Deed::Put { key: 0, number: first }, error.as_ref());
        client.leave_open(Deed::PointRead { key: 1 }, error.as_ref());
        let second = client.ledger.fresh();
        client.ledger.acknowledged(0, second, 20);
        let fault = client.ledger.fault(0, Some(Stored { modified: 21, number: Some(first) }));
        assert_eq!(fault.is_none(), may_be, "{failed:?}: {fault:?}");
    };
    check(None, true);
    check(Some(None), true);
    check(Some(Some(ErrorCode::OutcomeUnknown)), true);
    check(Some(Some(ErrorCode::NoQuorum)), false);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_over_was_not_even_asked() {
    let mut client = client();
    let due = Instant::now();
    tokio::time::advance(REQUEST_TIME).await;
    let (_, result) = client.request(due).await;
    assert_eq!(result, Err(Failure::of(NOT_ASKED)));
}
