//! Round trips of every message, and what a receiver must refuse.

use proptest::prelude::*;

use ollamax_core::catalog::command::TokenProblem;
use ollamax_core::catalog::txn::Effect;
use ollamax_core::catalog::{Answer, Key, Migration, MigrationStatus, Refusal, Value};
use ollamax_types::{Digest, ModelName, Role, TaskId, Timestamp, TokenId};

use super::*;
use crate::raft::{Entry, Membership, Payload, Sealed, StoredMembership, log_id};

const CLUSTER: ClusterId = ClusterId([3; 16]);

fn again(request: Request) -> Request {
    let bytes = encode_request(CLUSTER, NodeId(2), request);
    let addressed = decode_request(bytes).expect("own bytes");
    assert_eq!((addressed.cluster, addressed.to), (CLUSTER, NodeId(2)));
    addressed.request
}

fn append() -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: Vote::new_committed(4, 1),
        prev_log_id: Some(log_id(3, 9)),
        entries: vec![
            Entry { log_id: log_id(4, 10), payload: Payload::Blank },
            Entry { log_id: log_id(4, 11), payload: Payload::Normal(Sealed(Bytes::from_static(b"xyz"))) },
            Entry {
                log_id: log_id(4, 12),
                payload: Payload::Membership(Membership::new_with_defaults(vec![[1, 2].into()], [3])),
            },
        ],
        leader_commit: Some(log_id(3, 8)),
    }
}

fn sent(append: AppendEntriesRequest<Types>) -> Request {
    Request::Append { append, alarm: None }
}

#[test]
fn appends_read_back_with_their_indexes() {
    let Request::Append { append: read, .. } = again(sent(append())) else { unreachable!("an append went in") };
    assert_eq!(format!("{read:?}"), format!("{:?}", append()));

    let first = AppendEntriesRequest { prev_log_id: None, entries: vec![], leader_commit: None, ..append() };
    let Request::Append { append: read, .. } = again(sent(first.clone())) else { unreachable!("an append went in") };
    assert_eq!(format!("{read:?}"), format!("{first:?}"));
}

#[test]
fn an_append_carries_what_the_leader_knows_of_states_that_differ() {
    let raised = Alarm { index: 2_048, deviating: [NodeId(2), NodeId(3)].into(), undecided: true, change: 3 };
    for alarm in [None, Some(Alarm { index: 7, ..Alarm::default() }), Some(raised)] {
        let request = Request::Append { append: append(), alarm: alarm.clone() };
        let Request::Append { alarm: read, .. } = again(request) else { unreachable!("an append went in") };
        assert_eq!(read, alarm);
    }
}

#[test]
fn hashes_of_a_state_are_bounded_in_number_and_whole() {
    let mark = |index: u64| disk::RaftStateHash { index, hash: vec![7; 16] };
    let reply = |states: Vec<disk::RaftStateHash>| {
        let append = disk::RaftAppendReply { result: Some(WireAppendResult::Success(disk::LogBlank {})), states };
        disk::RaftReply { version: VERSION, release: 1, body: Some(WireReply::Append(append)) }.encode_to_vec()
    };
    let Ok((_, Reply::Append { marks, .. })) = decode_reply(reply((0..100).map(mark).collect()).into()) else {
        unreachable!("an answer to an append went in")
    };
    assert_eq!(marks.len(), MARKS_TOLD_MAX);
    assert_eq!(marks[0], Mark { index: 0, hash: [7; 16] });
    let short = disk::RaftStateHash { index: 1, hash: vec![7; 15] };
    assert!(decode_reply(reply(vec![short]).into()).is_err());
}

#[test]
fn an_append_whose_entries_do_not_follow_its_predecessor_is_refused() {
    let mut torn = append();
    torn.prev_log_id = Some(log_id(3, 7));
    assert!(decode_request(encode_request(CLUSTER, NodeId(2), sent(torn))).is_err());
}

#[test]
fn an_append_whose_indexes_would_overflow_is_refused() {
    let mut far = append();
    far.prev_log_id = Some(log_id(3, u64::MAX));
    far.entries.iter_mut().for_each(|entry| entry.log_id = log_id(4, u64::MAX));
    assert!(decode_request(encode_request(CLUSTER, NodeId(2), sent(far))).is_err());
}

#[test]
fn proposals_carry_their_envelope_and_the_time_that_is_left() {
    let proposal = Proposal { envelope: Bytes::from_static(b"anything"), wait_ms: 1_234 };
    let Request::Propose(read) = again(Request::Propose(proposal.clone())) else { unreachable!("a proposal went in") };
    assert_eq!(read, proposal);
}

#[test]
fn a_wish_for_another_leader_names_it_or_nobody() {
    for to in [None, Some(NodeId(3))] {
        let Request::HandOver { to: read, wait_ms } = again(Request::HandOver { to, wait_ms: 5_000 }) else {
            unreachable!("a wish went in")
        };
        assert_eq!((read, wait_ms), (to, 5_000));
    }
    let empty = disk::RaftHandOverReply { result: None };
    let body = Some(WireReply::HandOver(empty));
    let bytes = disk::RaftReply { version: VERSION, release: 1, body }.encode_to_vec();
    assert!(decode_reply(bytes.into()).is_err());
}

#[test]
fn votes_keep_the_flag_of_a_leadership_transfer() {
    let mut vote = VoteRequest::<Types>::new(Vote::new(5, 3), Some(log_id(4, 12)));
    vote.leadership_transfer = true;
    let Request::Vote(read) = again(Request::Vote(vote.clone())) else { unreachable!("a vote went in") };
    assert_eq!(read, vote);
    let Request::PreVote(read) = again(Request::PreVote(vote.clone())) else { unreachable!("a pre-vote went in") };
    assert_eq!(read, vote);
    let transfer = TransferLeaderRequest::<Types>::new(Vote::new_committed(5, 3), 2, None);
    let Request::Transfer(read) = again(Request::Transfer(transfer.clone())) else {
        unreachable!("a transfer went in")
    };
    assert_eq!(read, transfer);
}

#[test]
fn snapshot_headers_say_on_whose_word_and_how_far() {
    let applied = Applied {
        last: Some(log_id(2, 9)),
        membership: StoredMembership::new(Some(log_id(1, 0)), Membership::new_with_defaults(vec![[1].into()], [2])),
        log_time: Timestamp(5),
    };
    for after in [vec![], b"a key".to_vec()] {
        let vote = Vote::new_committed(2, 1);
        let header = SnapshotPart::Header { vote, applied: applied.clone(), after: after.clone() };
        let Request::Snapshot(SnapshotPart::Header { vote: word, applied: read, after: behind }) =
            again(Request::Snapshot(header))
        else {
            unreachable!("a header went in")
        };
        assert_eq!((word, &read, behind), (vote, &applied, after));
    }
}

#[test]
fn an_offer_names_the_state_and_must_name_it_whole() {
    let meta = AppliedMeta { index: 9, last_applied: vec![1], membership: vec![2, 3] };
    let offered = SnapshotId { meta, state_hash: [4; 16], count: 5 };
    let request = Request::SnapshotOffer { vote: Vote::new_committed(2, 1), id: offered.clone() };
    let Request::SnapshotOffer { vote, id } = again(request) else { unreachable!("an offer went in") };
    assert_eq!((vote, id), (Vote::new_committed(2, 1), offered));

    let short = disk::StateMark { state_hash: vec![4; 15], ..disk::StateMark::default() };
    for state in [Some(short), None] {
        assert!(decode_offer(disk::RaftSnapshotOffer { vote: Some(vote_to_disk(&vote)), state }).is_err());
    }
}

fn effects() -> Vec<Effect> {
    let value = Value { bytes: vec![0, 255], created: 1, modified: 2, version: 3, lease: Some(4) };
    let free = Value { lease: None, ..value.clone() };
    vec![
        Effect::Got(None),
        Effect::Got(Some(value)),
        Effect::Got(Some(free)),
        Effect::Put { previous: 0 },
        Effect::Put { previous: 9 },
        Effect::Deleted { previous: 9 },
    ]
}

fn row() -> Migration {
    Migration {
        number: 2,
        name: "n".into(),
        phase: 3,
        group: "g".into(),
        started_at: Timestamp(4),
        finished_at: Some(Timestamp(5)),
        actor: "a".into(),
        duration_ms: 6,
        status: MigrationStatus::Reverting,
        error: "e".into(),
        reverted_at: Some(Timestamp(7)),
        reverted_by: "b".into(),
        revert_duration_ms: 8,
        reversible: true,
        forced: true,
        began_at: Timestamp(9),
        cursor: Some(Key::Session(10)),
        looked_at: 11,
        changed: 12,
    }
}

#[test]
fn every_reply_reads_back_as_itself() {
    let vote = Vote::new(7, 2);
    let committed = |answer| Reply::Committed(Committed { revision: 9, term: 2, answer });
    let appended = |reply, marks| Reply::Append { reply, marks };
    let failure =
        |effects_possible| Reply::Failure { code: ErrorCode::NoQuorum, message: "m".into(), effects_possible };
    let replies = [
        appended(AppendEntriesResponse::Success, vec![Mark { index: 9, hash: [8; 16] }]),
        appended(AppendEntriesResponse::PartialSuccess(None), vec![]),
        appended(AppendEntriesResponse::PartialSuccess(Some(log_id(1, 2))), vec![]),
        appended(AppendEntriesResponse::Conflict, vec![]),
        appended(AppendEntriesResponse::HigherVote(vote), vec![]),
        Reply::Vote(VoteResponse::new(vote, Some(log_id(1, 2)), true)),
        Reply::Vote(VoteResponse::new(vote, None, false)),
        Reply::Transfer(Ok(())),
        Reply::Transfer(Err(TransferLeaderError::LogNotFlushed { expected: None, actual: Some(log_id(1, 2)) })),
        committed(Answer::Done),
        committed(Answer::More),
        committed(Answer::Session { session: 5 }),
        committed(Answer::Lease { lease: 5, ttl_ms: 6 }),
        committed(Answer::Migration(Box::new(row()))),
        committed(Answer::Wish { round: 5 }),
        committed(Answer::Pinned { digest: Digest([5; 32]) }),
        committed(Answer::Txn { held: true, effects: effects() }),
        committed(Answer::Member { node: NodeId(4), name: "n4".into(), already: true }),
        Reply::ReadIndex(77),
        Reply::Snapshot(vote),
        Reply::SnapshotFrom(vec![]),
        Reply::SnapshotFrom(b"a key".to_vec()),
        Reply::HandOver(Ok(NodeId(2))),
        Reply::HandOver(Err(Declined::LeadsAlready(NodeId(1)))),
        Reply::HandOver(Err(Declined::OnlyVoter(NodeId(1)))),
        Reply::HandOver(Err(Declined::NotVoter(NodeId(4)))),
        Reply::HandOver(Err(Declined::NotHeard(NodeId(3)))),
        Reply::HandOver(Err(Declined::NobodyHeard)),
        Reply::HandOver(Err(Declined::Behind { node: NodeId(3), entries: 2_000 })),
        Reply::HandOver(Err(Declined::NotTaken(NodeId(3)))),
        Reply::NotLeader { hint: None },
        Reply::NotLeader { hint: Some(NodeId(3)) },
        failure(true),
        failure(false),
    ];
    for reply in replies {
        assert_eq!(decode_reply(encode_reply(reply.clone(), 7)), Ok((7, reply)));
    }
}

#[test]
fn every_refusal_reads_back_as_itself() {
    let problems = [TokenProblem::Unknown, TokenProblem::UsedUp, TokenProblem::Revoked, TokenProblem::Expired];
    let mut refusals: Vec<Refusal> = problems.into_iter().map(Refusal::TokenInvalid).collect();
    let name = || "h:5/Me/Mine:Q4".parse::<ModelName>().expect("valid");
    refusals.extend([
        Refusal::AlreadyInitialised,
        Refusal::NotInitialised,
        Refusal::TokenNotFound(TokenId("t".into())),
        Refusal::RoleNotGranted { granted: Role::Voter, asked: Role::Gateway },
        Refusal::IncarnationConflict { node: NodeId(2) },
        Refusal::NodeNotFound(NodeId(0)),
        Refusal::LastVoter(NodeId(1)),
        Refusal::ModelsRemain(NodeId(1)),
        Refusal::SettingNotFound("k".into()),
        Refusal::Invalid("too long".into()),
        Refusal::Fenced { expected: 1, actual: 2 },
        Refusal::VersionTooLow { needed: 2, actual: 1 },
        Refusal::SessionExpired(4),
        Refusal::SequenceTooOld { session: 4, sequence: 5, oldest: 6 },
        Refusal::LeaseNotFound(4),
        Refusal::QuotaExceeded { what: "x".into(), needed: 2, limit: 1, unit: "bytes".into() },
        Refusal::Migration("first the other one".into()),
        Refusal::RootConflict { sha256: Digest([1; 32]) },
        Refusal::RoundPassed { name: name(), round: 5 },
        Refusal::VersionMoved { name: name(), wanted: Digest([1; 32]), found: Digest([2; 32]) },
        Refusal::WishNotFound(name()),
        Refusal::NotPlanned { name: name(), node: NodeId(3) },
        Refusal::VersionNotFound { name: name(), version: "7".into() },
        Refusal::Pinned { name: name(), digest: Digest([1; 32]) },
        Refusal::LastCopy { name: name() },
        Refusal::BelowWish { name: name(), wanted: 2, left: 1 },
        Refusal::Disabled(name()),
        Refusal::NameTaken { name: name(), held: Digest([2; 32]) },
        Refusal::TaskNotFound(TaskId([1; 16])),
        Refusal::TaskMoved(TaskId([2; 16])),
        Refusal::TaskStands { id: TaskId([3; 16]), state: "queued".into() },
        Refusal::OnceReused,
    ]);
    for refusal in refusals {
        let reply = Reply::Committed(Committed { revision: 1, term: 1, answer: Answer::Refused(refusal) });
        assert_eq!(decode_reply(encode_reply(reply.clone(), 7)), Ok((7, reply)));
    }
}

#[test]
fn messages_of_a_newer_version_or_of_unknown_kind_are_refused() {
    let newer = disk::RaftRequest { version: 2, cluster: CLUSTER.0.to_vec(), to: 1, body: None };
    let unknown = disk::RaftRequest { version: 1, ..newer.clone() };
    for message in [newer, unknown] {
        assert!(decode_request(message.encode_to_vec().into()).is_err());
    }
    assert!(decode_reply(disk::RaftReply { version: 1, release: 1, body: None }.encode_to_vec().into()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_receiver_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(decode_request(bytes.clone().into()));
        drop(decode_reply(bytes.into()));
    }
}
