//! Who is believed of whom, and whose time it is.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::raft::AppendEntriesRequest;

use ollamax_core::catalog::OnceKey;

use crate::Config;
use crate::alone::{Alone, CLUSTER};
use crate::peers::Peers;
use crate::raft::Vote;

use super::*;

fn setting() -> Command {
    Command::SetSetting { key: "k".into(), value: vec![1] }
}

fn entry(principal: &str, command: Command) -> Entry {
    Entry {
        least_version: 1,
        log_time: Timestamp(0),
        request: RequestId::default(),
        principal: principal.into(),
        namespace: String::new(),
        session: None,
        fence_term: None,
        once: None,
        command,
    }
}

fn proposal(principal: &str, command: Command, wait_ms: u64) -> Proposal {
    Proposal { envelope: envelope::encode(&entry(principal, command)), wait_ms }
}

/// What node 1 answers to a change that node 3 forwards.
async fn from_node_3(alone: &Alone, proposal: Proposal) -> Result<Reply, ServeError> {
    let body = wire::encode_request(CLUSTER, NodeId(1), Request::Propose(proposal));
    let answer = alone.handle.serve(NodeId(3), body).await?;
    Ok(wire::decode_reply(answer).expect("an answer").1)
}

#[test]
fn one_hint_is_followed_between_two_pauses() {
    let node = |id: u64| (id != 0).then_some(NodeId(id));
    let mut hints = Hints::default();
    for (asked, hint, expected) in [
        (1, 2, 2), // a hint is followed at once …
        (2, 1, 0), // … one that leads back is not …
        (1, 2, 2), // … before the pause is over.
        (2, 0, 0),
        (1, 1, 0), // Whoever was asked is not asked again at once.
        (0, 3, 3),
    ] {
        assert_eq!(hints.next(node(asked), node(hint)), node(expected), "{asked} says {hint}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_node_whose_key_was_proved() {
    let alone = Alone::cluster_of_one().await;
    assert_eq!(alone.last_entry().principal, "node/1");
    for (claimed, written) in [("admin", "node/3 for admin"), ("node/3", "node/3")] {
        let reply = from_node_3(&alone, proposal(claimed, setting(), 60_000)).await;
        assert!(matches!(reply, Ok(Reply::Committed(_))), "{reply:?}");
        assert_eq!(alone.last_entry().principal, written);
    }
    alone.handle.propose(RequestId::default(), "admin", setting()).await.expect("committed");
    assert_eq!(alone.last_entry().principal, "node/1 for admin");
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cannot_ask_in_the_name_of_another_node() {
    let alone = Alone::cluster_of_one().await;
    let before = alone.handle.0.log.state().last;
    let report = Command::ReportModels { node: NodeId(1), present: vec![], absent: vec!["m".into()], removed: vec![] };
    let impostor = Err(ServeError::Impostor { from: NodeId(3), claims: NodeId(1) });
    assert_eq!(from_node_3(&alone, proposal("node/1", setting(), 60_000)).await, impostor);
    assert_eq!(from_node_3(&alone, proposal("node/3", report, 60_000)).await, impostor);
    for text in ["", "node/1 for admin", "admin\nnode/1"] {
        let answer = from_node_3(&alone, proposal(text, setting(), 60_000)).await;
        assert!(matches!(answer, Err(ServeError::Unreadable(_))), "{text:?}: {answer:?}");
    }
    assert_eq!(alone.handle.0.log.state().last, before, "nothing was written");
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_time_is_over_is_not_written() {
    let alone = Alone::cluster_of_one().await;
    let before = alone.handle.0.log.state().last;
    let not_done = |reply: &Result<Reply, ServeError>| {
        matches!(reply, Ok(Reply::Failure { code: ErrorCode::NoQuorum, effects_possible: false, .. }))
    };
    let reply = from_node_3(&alone, proposal("admin", setting(), 0)).await;
    assert!(not_done(&reply), "{reply:?}");
    assert_eq!(alone.handle.0.log.state().last, before, "nothing was written");
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_key_has_effect_once_whichever_node_sends_it_again() {
    let alone = Alone::cluster_of_one().await;
    let once = OnceKey { key: [7; 32], digest: [8; 32] };
    let change = |once| Change { once: Some(once), ..Change::new(RequestId::default(), "admin", setting()) };
    let first = alone.handle.propose_change(change(once)).await.expect("committed");
    let sealed = envelope::encode(&Entry { once: Some(once), ..entry("admin", setting()) });
    let reply = from_node_3(&alone, Proposal { envelope: sealed, wait_ms: 60_000 }).await;
    assert_eq!(reply, Ok(Reply::Committed(first.clone())));
    assert!(alone.handle.0.log.state().last > Some(first.revision), "it came in an entry of its own");
    let again = alone.handle.propose_change(change(once)).await.expect("committed");
    assert_eq!(again, first);
    let other = change(OnceKey { digest: [9; 32], ..once });
    let refused = alone.handle.propose_change(other).await.expect("committed").answer;
    assert_eq!(refused, Answer::Refused(Refusal::OnceReused));
    alone.close().await;
}

#[test]
fn a_change_is_sent_again_only_where_the_state_remembers_it() {
    let once = Some(OnceKey { key: [7; 32], digest: [8; 32] });
    assert!(!has_effect_once(&entry("admin", setting())));
    assert!(has_effect_once(&Entry { session: Some((1, 1)), ..entry("admin", setting()) }));
    assert!(has_effect_once(&Entry { once, ..entry("admin", setting()) }));
}

/// A leader that is not there at first, and then refuses. Keeps what it was told of the time.
struct Reluctant {
    first: PeerError,
    /// The deadline of each call, and the time its message gives, milliseconds.
    calls: Mutex<Vec<(u64, u64)>>,
}

impl Peers for Reluctant {
    fn call(
        &self,
        _to: NodeId,
        lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let answer = match wire::decode_request(body).map(|addressed| addressed.request) {
            Ok(Request::Propose(proposal)) if lane == Lane::Forward => {
                let mut calls = self.calls.lock().expect("no holder of this lock can panic");
                calls.push((millis(deadline), proposal.wait_ms));
                let no = || PeerError::Refused { code: ErrorCode::BadRequest, message: "no".into() };
                if calls.len() == 1 { self.first.clone() } else { no() }
            }
            _ => PeerError::Unreachable("not for this".into()),
        };
        Box::pin(async move { Err(answer) })
    }

    fn send_snapshot(
        &self,
        _to: NodeId,
        _chunks: BoxStream<'static, Bytes>,
        _deadline_idle: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Box::pin(async { Err(PeerError::Unreachable("not for this".into())) })
    }
}

/// Proposes once on a follower of node 2, which answers `first` and then refuses.
async fn calls_after(first: PeerError) -> Vec<(u64, u64)> {
    // Nobody stands for election while this test runs, however slow the machine.
    let patient =
        Config { heartbeat_ms: 100_000, election_min_ms: 300_000, election_max_ms: 600_000, ..Config::default() };
    let peers = Arc::new(Reluctant { first, calls: Mutex::default() });
    let alone = Alone::open(1, patient, peers.clone()).await;
    let leads = AppendEntriesRequest {
        vote: Vote::new_committed(1, 2),
        prev_log_id: None,
        entries: vec![],
        leader_commit: None,
    };
    let request = Request::Append { append: leads, alarm: None };
    let body = wire::encode_request(CLUSTER, NodeId(1), request);
    alone.handle.serve(NodeId(2), body).await.expect("node 2 leads");
    let wait = alone.handle.0.raft.wait(None);
    wait.metrics(|metrics| metrics.current_leader == Some(2), "node 2 is known to lead").await.expect("known");

    let error = alone.handle.propose(RequestId::default(), "admin", setting()).await.expect_err("refused");
    let code = ErrorCode::BadRequest;
    assert_eq!(error, ProposeError::Leader { node: NodeId(2), code, message: "no".into() });
    alone.close().await;
    peers.calls.lock().expect("no holder of this lock can panic").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_gets_what_is_left_of_the_callers_time() {
    let not_ready = PeerError::Refused { code: ErrorCode::NotInitialised, message: "not ready".into() };
    for first in [PeerError::Unreachable("not yet".into()), not_ready] {
        let calls = calls_after(first).await;
        let [(first_deadline, first), (second_deadline, second)] = calls[..] else { panic!("two calls: {calls:?}") };
        assert!(first < first_deadline && first_deadline <= millis(PROPOSE_TIMEOUT), "{calls:?}");
        assert!(second < second_deadline, "the answer needs time to come back: {calls:?}");
        // A millisecond may get lost in rounding.
        assert!(second + millis(RETRY_PAUSE) - 1 <= first, "the pause between them is gone: {calls:?}");
    }
}

#[test]
fn after_an_attempt_without_an_answer_nothing_that_comes_later_says_that_nothing_happened() {
    let unknown = || ProposeError::OutcomeUnknown("lost".to_owned());
    let no_quorum = || ProposeError::NoQuorum("gone".to_owned());
    assert_eq!(last_word(unknown(), ProposeError::Overloaded), unknown());
    assert_eq!(last_word(unknown(), no_quorum()), unknown());
    assert_eq!(last_word(no_quorum(), ProposeError::Overloaded), ProposeError::Overloaded);
    let forgotten = [Refusal::SessionExpired(1), Refusal::SequenceTooOld { session: 1, sequence: 2, oldest: 3 }];
    for refusal in forgotten {
        assert!(is_forgotten(&refusal, &unknown()));
        assert!(!is_forgotten(&refusal, &no_quorum()), "it was sent for the first time");
    }
    assert!(!is_forgotten(&Refusal::LeaseNotFound(1), &unknown()), "a refusal of its own");
}
