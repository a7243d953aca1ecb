//! Messages of consensus between members, version 1: our own encodings of what openraft exchanges, of proposals and
//! other wishes on their way to the leader, and of snapshots.
//!
//! Each request names the cluster and the receiver, and a receiver that is neither refuses it. A message of a newer
//! version, or with a body that this release does not know, is refused and changes nothing.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use prost::Message;

use ollamax_core::integrity::{Alarm, MARKS_TOLD_MAX, Mark};
use ollamax_proto::disk;
use ollamax_proto::disk::raft_append_reply::Result as WireAppendResult;
use ollamax_proto::disk::raft_hand_over_reply::Result as WireHandOverResult;
use ollamax_proto::disk::raft_reply::Body as WireReply;
use ollamax_proto::disk::raft_request::Body as WireRequest;
use ollamax_proto::disk::raft_transfer_reply::Result as WireTransferResult;
use ollamax_store::{AppliedMeta, SnapshotId, answer};
use ollamax_types::{ClusterId, ErrorCode, NodeId};

use crate::error::Declined;
use crate::handle::Committed;
use crate::raft::{Types, Vote};
use crate::record::{
    Applied, RecordError, decode_entry, encode_entry, log_id_from_disk, log_id_to_disk, stored_membership_from_disk,
    stored_membership_to_disk, vote_from_disk, vote_to_disk,
};

/// The version of these messages.
pub(crate) const VERSION: u32 = 1;

/// A request, read.
#[derive(Debug)]
pub(crate) enum Request {
    Append {
        append: AppendEntriesRequest<Types>,
        /// What the leader knows of states that differ; `None`: nothing was compared.
        alarm: Option<Alarm>,
    },
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    Propose(Proposal),
    ReadIndex {
        wait_ms: u64,
        trust: ReadTrust,
    },
    Snapshot(SnapshotPart),
    /// On whose word, and which: how much of it is there?
    SnapshotOffer {
        vote: Vote,
        id: SnapshotId,
    },
    /// Somebody else shall lead: `to`, or whoever is best placed.
    HandOver {
        to: Option<NodeId>,
        wait_ms: u64,
    },
}

/// On what a leader may answer a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadTrust {
    /// A majority confirms it after the question.
    Majority,
    /// A majority confirmed it within its lease.
    Lease,
}

/// A change on its way to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// An encoded envelope. Its principal is what the sender says; the leader writes what is proven, and the log time.
    pub(crate) envelope: Bytes,
    /// How long the leader may wait for its majority.
    pub(crate) wait_ms: u64,
}

/// A piece of a snapshot stream.
#[derive(Debug)]
pub(crate) enum SnapshotPart {
    /// First: on whose word, how far the snapshot reaches, and up to which key its records are left out.
    Header { vote: Vote, applied: Applied, after: Vec<u8> },
    /// Then: as the store exports it.
    Data(Bytes),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Append {
        reply: AppendEntriesResponse<Types>,
        /// Of the sender's state; empty where it says nothing of it.
        marks: Vec<Mark>,
    },
    Vote(VoteResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Committed(Committed),
    ReadIndex(u64),
    /// The receiver's vote after it installed the snapshot.
    Snapshot(Vote),
    /// The last key that is there of a snapshot that was offered; empty: none.
    SnapshotFrom(Vec<u8>),
    /// Who leads now.
    HandOver(Result<NodeId, Declined>),
    NotLeader {
        hint: Option<NodeId>,
    },
    Failure {
        code: ErrorCode,
        message: String,
        effects_possible: bool,
    },
}

/// A request with its address.
#[derive(Debug)]
pub(crate) struct Addressed {
    pub(crate) cluster: ClusterId,
    pub(crate) to: NodeId,
    pub(crate) request: Request,
}

// === requests ===

pub(crate) fn encode_request(cluster: ClusterId, to: NodeId, request: Request) -> Bytes {
    let body = match request {
        Request::Append { append, alarm } => WireRequest::Append(encode_append(&append, alarm)),
        Request::Vote(vote) => WireRequest::Vote(encode_vote_request(&vote)),
        Request::PreVote(vote) => WireRequest::PreVote(encode_vote_request(&vote)),
        Request::Transfer(transfer) => WireRequest::Transfer(disk::RaftTransfer {
            from: Some(vote_to_disk(transfer.from_leader())),
            to: *transfer.to_node_id(),
            last_log_id: transfer.last_log_id().map(log_id_to_disk),
        }),
        Request::Propose(Proposal { envelope, wait_ms }) => {
            WireRequest::Propose(disk::RaftPropose { envelope, wait_ms })
        }
        Request::ReadIndex { wait_ms, trust } => {
            WireRequest::ReadIndex(disk::RaftReadIndex { wait_ms, lease: trust == ReadTrust::Lease })
        }
        Request::Snapshot(part) => WireRequest::Snapshot(encode_snapshot_part(part)),
        Request::SnapshotOffer { vote, id } => WireRequest::SnapshotOffer(encode_offer(&vote, id)),
        Request::HandOver { to, wait_ms } => {
            WireRequest::HandOver(disk::RaftHandOver { to: to.map_or(0, |node| node.0), wait_ms })
        }
    };
    disk::RaftRequest { version: VERSION, cluster: cluster.0.to_vec(), to: to.0, body: Some(body) }
        .encode_to_vec()
        .into()
}

pub(crate) fn decode_request(bytes: Bytes) -> Result<Addressed, RecordError> {
    let wire = disk::RaftRequest::decode(bytes).map_err(|error| RecordError::new("request", error))?;
    check_version("request", wire.version)?;
    let cluster = wire.cluster.as_slice().try_into().map_err(|_| RecordError::new("request", "bad cluster id"))?;
    let request =
        match wire.body.ok_or_else(|| RecordError::new("request", "a body that this release does not know"))? {
            WireRequest::Append(mut append) => {
                let alarm = append.alarm.take().map(decode_alarm);
                Request::Append { append: decode_append(append)?, alarm }
            }
            WireRequest::Vote(vote) => Request::Vote(decode_vote_request(vote)?),
            WireRequest::PreVote(vote) => Request::PreVote(decode_vote_request(vote)?),
            WireRequest::Transfer(transfer) => Request::Transfer(TransferLeaderRequest::new(
                need_vote(transfer.from)?,
                transfer.to,
                transfer.last_log_id.map(log_id_from_disk),
            )),
            WireRequest::Propose(disk::RaftPropose { envelope, wait_ms }) => {
                Request::Propose(Proposal { envelope, wait_ms })
            }
            WireRequest::ReadIndex(read) => Request::ReadIndex {
                wait_ms: read.wait_ms,
                trust: if read.lease { ReadTrust::Lease } else { ReadTrust::Majority },
            },
            WireRequest::Snapshot(chunk) => Request::Snapshot(decode_snapshot_part(chunk)?),
            WireRequest::SnapshotOffer(offer) => decode_offer(offer)?,
            WireRequest::HandOver(disk::RaftHandOver { to, wait_ms }) => {
                Request::HandOver { to: Some(NodeId(to)).filter(|node| node.0 != 0), wait_ms }
            }
        };
    Ok(Addressed { cluster: ClusterId(cluster), to: NodeId(wire.to), request })
}

fn check_version(what: &'static str, version: u32) -> Result<(), RecordError> {
    if version == VERSION {
        return Ok(());
    }
    Err(RecordError::new(what, format!("version {version}; this release speaks {VERSION}")))
}

fn need_vote(vote: Option<disk::RaftVote>) -> Result<Vote, RecordError> {
    vote.map(vote_from_disk).ok_or_else(|| RecordError::new("message", "no vote"))
}

fn encode_append(append: &AppendEntriesRequest<Types>, alarm: Option<Alarm>) -> disk::RaftAppend {
    disk::RaftAppend {
        vote: Some(vote_to_disk(&append.vote)),
        prev: append.prev_log_id.as_ref().map(log_id_to_disk),
        leader_commit: append.leader_commit.as_ref().map(log_id_to_disk),
        first_index: append.entries.first().map_or(0, |entry| entry.log_id.index),
        records: append.entries.iter().map(|entry| encode_entry(entry).into()).collect(),
        alarm: alarm.map(|alarm| disk::RaftAlarm {
            index: alarm.index,
            deviating: alarm.deviating.into_iter().map(|node| node.0).collect(),
            undecided: alarm.undecided,
            change: alarm.change,
        }),
    }
}

fn decode_alarm(wire: disk::RaftAlarm) -> Alarm {
    let disk::RaftAlarm { index, deviating, undecided, change } = wire;
    Alarm { index, deviating: deviating.into_iter().map(NodeId).collect(), undecided, change }
}

fn decode_append(wire: disk::RaftAppend) -> Result<AppendEntriesRequest<Types>, RecordError> {
    let prev_log_id = wire.prev.map(log_id_from_disk);
    let expected_first = prev_log_id.as_ref().map_or(0, |prev| prev.index.saturating_add(1));
    if !wire.records.is_empty() && wire.first_index != expected_first {
        let reason = format!("entries from {} follow entry {prev_log_id:?}", wire.first_index);
        return Err(RecordError::new("append", reason));
    }
    if wire.first_index.checked_add(wire.records.len() as u64).is_none() {
        return Err(RecordError::new("append", format!("entries from {} reach beyond any log", wire.first_index)));
    }
    let records = (wire.first_index..).zip(wire.records);
    Ok(AppendEntriesRequest {
        vote: need_vote(wire.vote)?,
        prev_log_id,
        leader_commit: wire.leader_commit.map(log_id_from_disk),
        entries: records.map(|(index, record)| decode_entry(index, record)).collect::<Result<_, _>>()?,
    })
}

fn encode_vote_request(vote: &VoteRequest<Types>) -> disk::RaftVoteRequest {
    disk::RaftVoteRequest {
        vote: Some(vote_to_disk(&vote.vote)),
        last_log_id: vote.last_log_id.as_ref().map(log_id_to_disk),
        leadership_transfer: vote.leadership_transfer,
    }
}

fn decode_vote_request(wire: disk::RaftVoteRequest) -> Result<VoteRequest<Types>, RecordError> {
    let mut request = VoteRequest::<Types>::new(need_vote(wire.vote)?, wire.last_log_id.map(log_id_from_disk));
    request.leadership_transfer = wire.leadership_transfer;
    Ok(request)
}

fn encode_snapshot_part(part: SnapshotPart) -> disk::RaftSnapshotChunk {
    use disk::raft_snapshot_chunk::Part;
    let part = match part {
        SnapshotPart::Header { vote, applied, after } => Part::Header(disk::RaftSnapshotHeader {
            vote: Some(vote_to_disk(&vote)),
            applied: Some(disk::AppliedMark {
                last_applied: applied.last.as_ref().map(log_id_to_disk),
                log_time_ms: applied.log_time.0,
            }),
            membership: Some(stored_membership_to_disk(&applied.membership)),
            after,
        }),
        SnapshotPart::Data(data) => Part::Data(data),
    };
    disk::RaftSnapshotChunk { part: Some(part) }
}

fn decode_snapshot_part(wire: disk::RaftSnapshotChunk) -> Result<SnapshotPart, RecordError> {
    use disk::raft_snapshot_chunk::Part;
    match wire.part {
        Some(Part::Header(header)) => {
            let mark = header.applied.unwrap_or_default();
            Ok(SnapshotPart::Header {
                vote: need_vote(header.vote)?,
                applied: Applied {
                    last: mark.last_applied.map(log_id_from_disk),
                    membership: stored_membership_from_disk(header.membership.unwrap_or_default())?,
                    log_time: ollamax_types::Timestamp(mark.log_time_ms),
                },
                after: header.after,
            })
        }
        Some(Part::Data(data)) => Ok(SnapshotPart::Data(data)),
        None => Err(RecordError::new("snapshot chunk", "neither header nor data")),
    }
}

fn encode_offer(vote: &Vote, id: SnapshotId) -> disk::RaftSnapshotOffer {
    let SnapshotId { meta: AppliedMeta { index, last_applied, membership }, state_hash, count } = id;
    let state = disk::StateMark { index, last_applied, membership, state_hash: state_hash.to_vec(), count };
    disk::RaftSnapshotOffer { vote: Some(vote_to_disk(vote)), state: Some(state) }
}

fn decode_offer(wire: disk::RaftSnapshotOffer) -> Result<Request, RecordError> {
    let bad = |reason: &str| RecordError::new("snapshot offer", reason);
    let disk::StateMark { index, last_applied, membership, state_hash, count } =
        wire.state.ok_or_else(|| bad("of no state"))?;
    let state_hash = state_hash.as_slice().try_into().map_err(|_| bad("bad state hash"))?;
    let id = SnapshotId { meta: AppliedMeta { index, last_applied, membership }, state_hash, count };
    Ok(Request::SnapshotOffer { vote: need_vote(wire.vote)?, id })
}

// === replies ===

/// `release` is the highest cluster version that the sender applies.
pub(crate) fn encode_reply(reply: Reply, release: u32) -> Bytes {
    let body = match reply {
        Reply::Append { reply, marks } => WireReply::Append(encode_append_reply(reply, &marks)),
        Reply::Vote(vote) => WireReply::Vote(disk::RaftVoteReply {
            vote: Some(vote_to_disk(&vote.vote)),
            granted: vote.vote_granted,
            last_log_id: vote.last_log_id.as_ref().map(log_id_to_disk),
        }),
        Reply::Transfer(transfer) => WireReply::Transfer(encode_transfer_reply(transfer)),
        Reply::Committed(committed) => {
            WireReply::Committed(answer::encode(committed.revision, committed.term, committed.answer))
        }
        Reply::ReadIndex(index) => WireReply::ReadIndex(index),
        Reply::Snapshot(vote) => WireReply::Snapshot(vote_to_disk(&vote)),
        Reply::SnapshotFrom(last_key) => WireReply::SnapshotFrom(last_key),
        Reply::HandOver(result) => WireReply::HandOver(encode_hand_over_reply(result)),
        Reply::NotLeader { hint } => WireReply::NotLeader(disk::RaftNotLeader { hint: hint.map_or(0, |node| node.0) }),
        Reply::Failure { code, message, effects_possible } => {
            WireReply::Failure(disk::RaftFailure { code: code.as_str().to_owned(), message, effects_possible })
        }
    };
    disk::RaftReply { version: VERSION, release, body: Some(body) }.encode_to_vec().into()
}

/// The reply, and the highest cluster version that its sender applies.
pub(crate) fn decode_reply(bytes: Bytes) -> Result<(u32, Reply), RecordError> {
    let wire = disk::RaftReply::decode(bytes).map_err(|error| RecordError::new("reply", error))?;
    check_version("reply", wire.version)?;
    let release = wire.release.max(1);
    let reply = match wire.body.ok_or_else(|| RecordError::new("reply", "a body that this release does not know"))? {
        WireReply::Append(append) => {
            let marks = append.states.iter().take(MARKS_TOLD_MAX).map(decode_mark).collect::<Result<_, _>>()?;
            Reply::Append { reply: decode_append_reply(append)?, marks }
        }
        WireReply::Vote(vote) => {
            Reply::Vote(VoteResponse::new(need_vote(vote.vote)?, vote.last_log_id.map(log_id_from_disk), vote.granted))
        }
        WireReply::Transfer(transfer) => Reply::Transfer(decode_transfer_reply(transfer)?),
        WireReply::Committed(committed) => Reply::Committed(decode_committed(committed)?),
        WireReply::ReadIndex(index) => Reply::ReadIndex(index),
        WireReply::Snapshot(vote) => Reply::Snapshot(vote_from_disk(vote)),
        WireReply::SnapshotFrom(last_key) => Reply::SnapshotFrom(last_key),
        WireReply::HandOver(reply) => Reply::HandOver(decode_hand_over_reply(reply)?),
        WireReply::NotLeader(not_leader) => {
            Reply::NotLeader { hint: Some(NodeId(not_leader.hint)).filter(|node| node.0 != 0) }
        }
        WireReply::Failure(failure) => Reply::Failure {
            code: ErrorCode::from_text(&failure.code).unwrap_or(ErrorCode::StorageFailed),
            message: failure.message,
            effects_possible: failure.effects_possible,
        },
    };
    Ok((release, reply))
}

fn encode_append_reply(reply: AppendEntriesResponse<Types>, marks: &[Mark]) -> disk::RaftAppendReply {
    let result = match reply {
        AppendEntriesResponse::Success => WireAppendResult::Success(disk::LogBlank {}),
        AppendEntriesResponse::PartialSuccess(last) => {
            WireAppendResult::Partial(disk::RaftMatched { last: last.as_ref().map(log_id_to_disk) })
        }
        AppendEntriesResponse::Conflict => WireAppendResult::Conflict(disk::LogBlank {}),
        AppendEntriesResponse::HigherVote(vote) => WireAppendResult::HigherVote(vote_to_disk(&vote)),
    };
    let states = marks.iter().map(|mark| disk::RaftStateHash { index: mark.index, hash: mark.hash.to_vec() });
    disk::RaftAppendReply { result: Some(result), states: states.collect() }
}

fn decode_mark(wire: &disk::RaftStateHash) -> Result<Mark, RecordError> {
    let hash = wire.hash.as_slice().try_into().map_err(|_| RecordError::new("state hash", "not 16 bytes"))?;
    Ok(Mark { index: wire.index, hash })
}

fn decode_append_reply(wire: disk::RaftAppendReply) -> Result<AppendEntriesResponse<Types>, RecordError> {
    match wire.result {
        Some(WireAppendResult::Success(disk::LogBlank {})) => Ok(AppendEntriesResponse::Success),
        Some(WireAppendResult::Partial(matched)) => {
            Ok(AppendEntriesResponse::PartialSuccess(matched.last.map(log_id_from_disk)))
        }
        Some(WireAppendResult::Conflict(disk::LogBlank {})) => Ok(AppendEntriesResponse::Conflict),
        Some(WireAppendResult::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote_from_disk(vote))),
        None => Err(RecordError::new("append reply", "no result")),
    }
}

/// The sender knows what it expected; only what the receiver has travels back.
fn encode_transfer_reply(reply: TransferLeaderResponse<Types>) -> disk::RaftTransferReply {
    let result = match reply {
        Ok(()) => WireTransferResult::Accepted(disk::LogBlank {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => WireTransferResult::VoteChanged(vote_to_disk(&actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            WireTransferResult::LogBehind(disk::RaftMatched { last: actual.as_ref().map(log_id_to_disk) })
        }
    };
    disk::RaftTransferReply { result: Some(result) }
}

fn decode_transfer_reply(wire: disk::RaftTransferReply) -> Result<TransferLeaderResponse<Types>, RecordError> {
    match wire.result {
        Some(WireTransferResult::Accepted(disk::LogBlank {})) => Ok(Ok(())),
        Some(WireTransferResult::VoteChanged(vote)) => {
            let actual = vote_from_disk(vote);
            Ok(Err(TransferLeaderError::VoteChanged { expected: actual, actual }))
        }
        Some(WireTransferResult::LogBehind(matched)) => {
            let actual = matched.last.map(log_id_from_disk);
            Ok(Err(TransferLeaderError::LogNotFlushed { expected: None, actual }))
        }
        None => Err(RecordError::new("transfer reply", "no result")),
    }
}

fn encode_hand_over_reply(reply: Result<NodeId, Declined>) -> disk::RaftHandOverReply {
    let result = match reply {
        Ok(leader) => WireHandOverResult::Leads(leader.0),
        Err(Declined::LeadsAlready(node)) => WireHandOverResult::LeadsAlready(node.0),
        Err(Declined::OnlyVoter(node)) => WireHandOverResult::OnlyVoter(node.0),
        Err(Declined::NotVoter(node)) => WireHandOverResult::NotVoter(node.0),
        Err(Declined::NotHeard(node)) => WireHandOverResult::NotHeard(node.0),
        Err(Declined::NobodyHeard) => WireHandOverResult::NobodyHeard(disk::LogBlank {}),
        Err(Declined::Behind { node, entries }) => {
            WireHandOverResult::Behind(disk::RaftBehind { node: node.0, entries })
        }
        Err(Declined::NotTaken(node)) => WireHandOverResult::NotTaken(node.0),
    };
    disk::RaftHandOverReply { result: Some(result) }
}

fn decode_hand_over_reply(wire: disk::RaftHandOverReply) -> Result<Result<NodeId, Declined>, RecordError> {
    let result = wire.result.ok_or_else(|| RecordError::new("hand-over reply", "no result"))?;
    Ok(Err(match result {
        WireHandOverResult::Leads(leader) => return Ok(Ok(NodeId(leader))),
        WireHandOverResult::LeadsAlready(node) => Declined::LeadsAlready(NodeId(node)),
        WireHandOverResult::OnlyVoter(node) => Declined::OnlyVoter(NodeId(node)),
        WireHandOverResult::NotVoter(node) => Declined::NotVoter(NodeId(node)),
        WireHandOverResult::NotHeard(node) => Declined::NotHeard(NodeId(node)),
        WireHandOverResult::NobodyHeard(disk::LogBlank {}) => Declined::NobodyHeard,
        WireHandOverResult::Behind(disk::RaftBehind { node, entries }) => {
            Declined::Behind { node: NodeId(node), entries }
        }
        WireHandOverResult::NotTaken(node) => Declined::NotTaken(NodeId(node)),
    }))
}

fn decode_committed(wire: disk::RaftCommitted) -> Result<Committed, RecordError> {
    let (revision, term, answer) = answer::decode(wire).map_err(|unknown| RecordError::new("answer", unknown))?;
    Ok(Committed { revision, term, answer })
}

#[cfg(test)]
mod tests;
