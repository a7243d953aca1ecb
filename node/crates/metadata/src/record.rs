//! The byte forms of what openraft keeps: records of the log, votes, log ids, memberships, marks.
//!
//! The same forms lie on disk and travel between nodes. The index of a record is its key and stands outside.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::vote::RaftLeaderId;
use prost::Message;

use ollamax_proto::disk;
use ollamax_proto::disk::log_record::Payload as StoredPayload;
use ollamax_types::Timestamp;

use crate::raft::{Entry, LogId, Membership, Payload, Sealed, StoredMembership, Vote, log_id, term_of};

/// The bytes are not what their place says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged {what}: {reason}")]
pub(crate) struct RecordError {
    /// What was expected.
    pub(crate) what: &'static str,
    /// Why it is not that.
    pub(crate) reason: String,
}

impl RecordError {
    pub(crate) fn new(what: &'static str, reason: impl ToString) -> Self {
        Self { what, reason: reason.to_string() }
    }
}

impl From<RecordError> for std::io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn parse<M: Message + Default>(what: &'static str, bytes: impl bytes::Buf) -> Result<M, RecordError> {
    M::decode(bytes).map_err(|error| RecordError::new(what, error))
}

// === log records ===

pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let payload = match &entry.payload {
        Payload::Blank => StoredPayload::Blank(disk::LogBlank {}),
        Payload::Normal(sealed) => StoredPayload::Envelope(sealed.0.clone()),
        Payload::Membership(membership) => StoredPayload::Membership(membership_to_disk(membership)),
    };
    disk::LogRecord { term: term_of(&entry.log_id), payload: Some(payload) }.encode_to_vec()
}

pub(crate) fn decode_entry(index: u64, bytes: Bytes) -> Result<Entry, RecordError> {
    let record: disk::LogRecord = parse("log record", bytes)?;
    let payload = match record.payload {
        Some(StoredPayload::Blank(disk::LogBlank {})) => Payload::Blank,
        Some(StoredPayload::Envelope(envelope)) => Payload::Normal(Sealed(envelope)),
        Some(StoredPayload::Membership(membership)) => Payload::Membership(membership_from_disk(membership)?),
        None => return Err(RecordError::new("log record", "a payload that this release does not know")),
    };
    Ok(Entry { log_id: log_id(record.term, index), payload })
}

// === votes and log ids ===

pub(crate) fn vote_to_disk(vote: &Vote) -> disk::RaftVote {
    let leader = vote.leader_id();
    disk::RaftVote { term: leader.term(), node: *leader.node_id(), committed: vote.is_committed() }
}

pub(crate) fn vote_from_disk(vote: disk::RaftVote) -> Vote {
    if vote.committed { Vote::new_committed(vote.term, vote.node) } else { Vote::new(vote.term, vote.node) }
}

pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_to_disk(vote).encode_to_vec()
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, RecordError> {
    parse("vote", bytes).map(vote_from_disk)
}

pub(crate) fn log_id_to_disk(id: &LogId) -> disk::LogId {
    disk::LogId { term: term_of(id), index: id.index }
}

pub(crate) fn log_id_from_disk(id: disk::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    log_id_to_disk(id).encode_to_vec()
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, RecordError> {
    parse("log id", bytes).map(log_id_from_disk)
}

// === membership ===

fn membership_to_disk(membership: &Membership) -> disk::LogMembership {
    let configs = membership.get_joint_config().iter();
    disk::LogMembership {
        configs: configs.map(|voters| disk::VoterSet { voters: voters.iter().copied().collect() }).collect(),
        nodes: membership.nodes().map(|(id, _)| *id).collect(),
    }
}

fn membership_from_disk(stored: disk::LogMembership) -> Result<Membership, RecordError> {
    if stored.configs.is_empty() && stored.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let configs: Vec<BTreeSet<u64>> = stored.configs.into_iter().map(|set| set.voters.into_iter().collect()).collect();
    let nodes = stored.nodes.into_iter().map(|id| (id, EmptyNode::new())).collect::<std::collections::BTreeMap<_, _>>();
    Membership::new(configs, nodes).map_err(|error| RecordError::new("membership", error))
}

pub(crate) fn stored_membership_to_disk(stored: &StoredMembership) -> disk::AppliedMembership {
    disk::AppliedMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_disk),
        membership: Some(membership_to_disk(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_disk(stored: disk::AppliedMembership) -> Result<StoredMembership, RecordError> {
    let membership = stored.membership.map(membership_from_disk).transpose()?.unwrap_or_default();
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_disk), membership))
}

// === what the state machine keeps ===

/// How far the state machine is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// The last entry.
    pub(crate) last: Option<LogId>,
    /// The last membership.
    pub(crate) membership: StoredMembership,
    /// Log time of the last envelope.
    pub(crate) log_time: Timestamp,
}

impl Applied {
    /// As the store keeps it. `None` before the first entry.
    pub(crate) fn to_store(&self) -> Option<ollamax_store::AppliedMeta> {
        let last = self.last.as_ref()?;
        let mark = disk::AppliedMark { last_applied: Some(log_id_to_disk(last)), log_time_ms: self.log_time.0 };
        Some(ollamax_store::AppliedMeta {
            index: last.index,
            last_applied: mark.encode_to_vec(),
            membership: stored_membership_to_disk(&self.membership).encode_to_vec(),
        })
    }

    pub(crate) fn from_store(meta: &ollamax_store::AppliedMeta) -> Result<Self, RecordError> {
        let mark: disk::AppliedMark = parse("applied mark", meta.last_applied.as_slice())?;
        let last = mark.last_applied.map(log_id_from_disk);
        if last.as_ref().map(|id| id.index) != Some(meta.index) {
            return Err(RecordError::new("applied mark", format!("{last:?} stands at index {}", meta.index)));
        }
        let membership = stored_membership_from_disk(parse("applied membership", meta.membership.as_slice())?)?;
        Ok(Self { last, membership, log_time: Timestamp(mark.log_time_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_kind_read_back_as_themselves() {
        let membership = Membership::new_with_defaults(vec![[1, 2].into(), [2, 3].into()], [4]);
        let payloads =
            [Payload::Blank, Payload::Normal(Sealed(Bytes::from_static(b"anything"))), Payload::Membership(membership)];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, 7), payload };
            let bytes = encode_entry(&entry);
            assert_eq!(decode_entry(7, bytes.into()), Ok(entry));
        }
    }

    #[test]
    fn golden_samples_of_what_lies_on_disk() {
        let entry = Entry { log_id: log_id(3, 7), payload: Payload::Normal(Sealed(Bytes::from_static(b"ab"))) };
        assert_eq!(hex::encode(encode_entry(&entry)), "08031a026162");
        assert_eq!(hex::encode(encode_vote(&Vote::new_committed(5, 2))), "080510021801");
        assert_eq!(hex::encode(encode_log_id(&log_id(5, 300))), "080510ac02");
    }

    #[test]
    fn a_record_with_an_unknown_payload_is_damaged_not_blank() {
        assert!(decode_entry(1, Bytes::from_static(&[0x08, 0x01, 0x4a, 0x00])).is_err());
        assert!(decode_entry(1, Bytes::from_static(&[0xff])).is_err());
    }

    #[test]
    fn applied_marks_must_agree_with_their_index() {
        let applied = Applied {
            last: Some(log_id(2, 9)),
            membership: StoredMembership::new(Some(log_id(1, 0)), Membership::new_with_defaults(vec![[1].into()], [2])),
            log_time: Timestamp(77),
        };
        let mut meta = applied.to_store().expect("something is applied");
        assert_eq!(Applied::from_store(&meta), Ok(applied));
        meta.index = 10;
        assert!(Applied::from_store(&meta).is_err());
    }
}
