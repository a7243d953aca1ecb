//! The byte form of what a command answered: kept for client sessions, and sent to whoever proposed it.
//!
//! Numbers of fields are never reused. An answer of a newer release that this one does not know is refused, never
//! guessed.

use std::collections::BTreeMap;

use ollamax_core::catalog::command::TokenProblem;
use ollamax_core::catalog::txn::Effect;
use ollamax_core::catalog::{Answer, Cordon, How, PlanKind, Refusal, Replicas, TaskOutcome, TaskProgress, Want};
use ollamax_proto::disk;
use ollamax_proto::disk::answer_refused::Refusal as StoredRefusal;
use ollamax_proto::disk::raft_committed::Answer as Stored;
use ollamax_proto::disk::txn_effect::Effect as StoredEffect;
use ollamax_types::{Digest, ModelName, NodeId, Role, TaskId, TokenId};

use crate::family::{migration, placing, replicas, task, value};

/// Bytes of something that this release does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} that this release does not know")]
pub struct Unknown(&'static str);

/// The stored form, with index and term of the entry that had this effect.
#[must_use]
pub fn encode(revision: u64, term: u64, answer: Answer) -> disk::RaftCommitted {
    let answer = match answer {
        Answer::Done => Stored::Done(disk::LogBlank {}),
        Answer::Member { node, name, already } => Stored::Member(disk::AnswerMember { node: node.0, name, already }),
        Answer::More => Stored::More(disk::LogBlank {}),
        Answer::Refused(refusal) => Stored::Refused(encode_refusal(refusal)),
        Answer::Txn { held, effects } => {
            Stored::Txn(disk::AnswerTxn { held, effects: effects.into_iter().map(encode_effect).collect() })
        }
        Answer::Session { session } => Stored::Session(session),
        Answer::Lease { lease, ttl_ms } => Stored::Lease(disk::AnswerLease { lease, ttl_ms }),
        Answer::Migration(row) => Stored::Migration(migration::message(&row)),
        Answer::Wish { round } => Stored::Wish(round),
        Answer::Pinned { digest } => Stored::Pinned(digest.0.to_vec()),
    };
    disk::RaftCommitted { revision, term, answer: Some(answer) }
}

/// Index, term and answer.
///
/// # Errors
/// When a newer release wrote it.
pub fn decode(stored: disk::RaftCommitted) -> Result<(u64, u64, Answer), Unknown> {
    let answer = match stored.answer.ok_or(Unknown("an answer"))? {
        Stored::Done(disk::LogBlank {}) => Answer::Done,
        Stored::Member(member) => {
            Answer::Member { node: NodeId(member.node), name: member.name, already: member.already }
        }
        Stored::More(disk::LogBlank {}) => Answer::More,
        Stored::Refused(refused) => Answer::Refused(decode_refusal(refused)?),
        Stored::Txn(txn) => {
            let effects = txn.effects.into_iter().map(decode_effect).collect::<Result<_, _>>()?;
            Answer::Txn { held: txn.held, effects }
        }
        Stored::Session(session) => Answer::Session { session },
        Stored::Lease(lease) => Answer::Lease { lease: lease.lease, ttl_ms: lease.ttl_ms },
        Stored::Migration(row) => {
            let row = migration::from_message(row).map_err(|_| Unknown("a migration"))?;
            Answer::Migration(Box::new(row))
        }
        Stored::Wish(round) => Answer::Wish { round },
        Stored::Pinned(digest) => Answer::Pinned { digest: decode_digest(digest)? },
    };
    Ok((stored.revision, stored.term, answer))
}

fn encode_effect(effect: Effect) -> disk::TxnEffect {
    let effect = match effect {
        Effect::Got(found) => StoredEffect::Got(disk::TxnGot { value: found.as_ref().map(value::message) }),
        Effect::Put { previous } => StoredEffect::Put(previous),
        Effect::Deleted { previous } => StoredEffect::Deleted(previous),
    };
    disk::TxnEffect { effect: Some(effect) }
}

fn decode_effect(stored: disk::TxnEffect) -> Result<Effect, Unknown> {
    Ok(match stored.effect.ok_or(Unknown("an effect"))? {
        StoredEffect::Got(got) => Effect::Got(got.value.map(value::from_message)),
        StoredEffect::Put(previous) => Effect::Put { previous },
        StoredEffect::Deleted(previous) => Effect::Deleted { previous },
    })
}

/// The number of a role in commands and answers.
#[must_use]
pub fn encode_role(role: Role) -> i32 {
    match role {
        Role::Voter => disk::CommandRole::Voter,
        Role::Learner => disk::CommandRole::Learner,
        Role::Gateway => disk::CommandRole::Gateway,
    }
    .into()
}

/// The role with a number.
///
/// # Errors
/// When there is none.
pub fn decode_role(stored: i32) -> Result<Role, Unknown> {
    match disk::CommandRole::try_from(stored) {
        Ok(disk::CommandRole::Voter) => Ok(Role::Voter),
        Ok(disk::CommandRole::Learner) => Ok(Role::Learner),
        Ok(disk::CommandRole::Gateway) => Ok(Role::Gateway),
        Ok(disk::CommandRole::Unspecified) | Err(_) => Err(Unknown("a role")),
    }
}

/// On which nodes a model shall be, in commands.
#[must_use]
pub fn encode_replicas(wanted: &Replicas) -> disk::Replicas {
    replicas::encode(wanted)
}

/// The replicas that were stored.
///
/// # Errors
/// When a newer release wrote them.
pub fn decode_replicas(stored: Option<disk::Replicas>) -> Result<Replicas, Unknown> {
    replicas::decode(stored).ok_or(Unknown("a number of replicas"))
}

/// Labels, in commands.
#[must_use]
pub fn encode_labels(labels: &BTreeMap<String, String>) -> Vec<disk::Label> {
    placing::labels(labels)
}

/// The labels that were stored.
#[must_use]
pub fn decode_labels(stored: Vec<disk::Label>) -> BTreeMap<String, String> {
    placing::labels_of(stored)
}

/// Which nodes come into question, in commands; `None`: any.
#[must_use]
pub fn encode_want(want: &Want) -> Option<disk::Want> {
    placing::want(want)
}

/// The nodes that come into question, as they were stored.
#[must_use]
pub fn decode_want(stored: Option<disk::Want>) -> Want {
    placing::want_of(stored)
}

/// What a plan is made for, in commands.
#[must_use]
pub const fn encode_kind(kind: PlanKind) -> u32 {
    placing::kind(kind)
}

/// What a plan was made for, as it was stored.
///
/// # Errors
/// When a newer release wrote it.
pub fn decode_kind(stored: u32) -> Result<PlanKind, Unknown> {
    placing::kind_of(stored).ok_or(Unknown("a kind of plan"))
}

/// Whether a node takes new copies, in commands.
#[must_use]
pub const fn encode_cordon(cordon: Cordon) -> u32 {
    placing::cordon(cordon)
}

/// The cordon that was stored.
///
/// # Errors
/// When a newer release wrote it.
pub fn decode_cordon(stored: u32) -> Result<Cordon, Unknown> {
    placing::cordon_of(stored).ok_or(Unknown("a cordon"))
}

/// How a name comes to a version, in commands: a number, the version that was gone back to, the name that had it.
#[must_use]
pub fn encode_how(how: &How) -> (u32, u64, String) {
    placing::how(how)
}

/// How a name came to a version, as it was stored.
///
/// # Errors
/// When a newer release wrote it.
pub fn decode_how(stored: u32, to: u64, from: &str) -> Result<How, Unknown> {
    placing::how_of(stored, to, from).ok_or(Unknown("a way to a version"))
}

/// How a task ended, in commands.
#[must_use]
pub fn encode_outcome(outcome: &TaskOutcome) -> disk::TaskOutcome {
    task::outcome(outcome)
}

/// How a task ended, as it was stored.
///
/// # Errors
/// When a newer release wrote it.
pub fn decode_outcome(stored: Option<disk::TaskOutcome>) -> Result<TaskOutcome, Unknown> {
    stored.and_then(task::outcome_of).ok_or(Unknown("an end of a task"))
}

/// How far a task is, in commands; `None`: nothing is told.
#[must_use]
pub fn encode_progress(progress: &TaskProgress) -> Option<disk::TaskProgress> {
    task::progress(progress)
}

/// How far a task is, as it was stored.
#[must_use]
pub fn decode_progress(stored: Option<disk::TaskProgress>) -> TaskProgress {
    task::progress_of(stored)
}

fn encode_refusal(refusal: Refusal) -> disk::AnswerRefused {
    let refusal = match refusal {
        Refusal::AlreadyInitialised => StoredRefusal::AlreadyInitialised(disk::LogBlank {}),
        Refusal::NotInitialised => StoredRefusal::NotInitialised(disk::LogBlank {}),
        Refusal::TokenInvalid(problem) => StoredRefusal::TokenInvalid(match problem {
            TokenProblem::Unknown => 1,
            TokenProblem::UsedUp => 2,
            TokenProblem::Revoked => 3,
            TokenProblem::Expired => 4,
        }),
        Refusal::TokenNotFound(id) => StoredRefusal::TokenNotFound(id.0),
        Refusal::RoleNotGranted { granted, asked } => StoredRefusal::RoleNotGranted(disk::RefusedRole {
            granted: encode_role(granted),
            asked: encode_role(asked),
        }),
        Refusal::IncarnationConflict { node } => StoredRefusal::IncarnationConflict(node.0),
        Refusal::NodeNotFound(node) => StoredRefusal::NodeNotFound(node.0),
        Refusal::LastVoter(node) => StoredRefusal::LastVoter(node.0),
        Refusal::ModelsRemain(node) => StoredRefusal::ModelsRemain(node.0),
        Refusal::SettingNotFound(key) => StoredRefusal::SettingNotFound(key),
        Refusal::Invalid(text) => StoredRefusal::Invalid(text),
        Refusal::Fenced { expected, actual } => StoredRefusal::Fenced(disk::RefusedTerm { expected, actual }),
        Refusal::VersionTooLow { needed, actual } => {
            StoredRefusal::VersionTooLow(disk::RefusedVersion { needed, actual })
        }
        Refusal::SessionExpired(session) => StoredRefusal::SessionExpired(session),
        Refusal::SequenceTooOld { session, sequence, oldest } => {
            StoredRefusal::SequenceTooOld(disk::RefusedSequence { session, sequence, oldest })
        }
        Refusal::LeaseNotFound(lease) => StoredRefusal::LeaseNotFound(lease),
        Refusal::QuotaExceeded { what, needed, limit, unit } => {
            StoredRefusal::QuotaExceeded(disk::RefusedQuota { what, needed, limit, unit })
        }
        Refusal::Migration(text) => StoredRefusal::Migration(text),
        Refusal::RootConflict { sha256 } => StoredRefusal::RootConflict(sha256.0.to_vec()),
        Refusal::RoundPassed { name, round } => {
            StoredRefusal::RoundPassed(disk::RefusedRound { name: name.full(), round })
        }
        Refusal::VersionMoved { name, wanted, found } => StoredRefusal::VersionMoved(disk::RefusedVersionOf {
            name: name.full(),
            wanted: wanted.0.to_vec(),
            found: found.0.to_vec(),
        }),
        Refusal::WishNotFound(name) => StoredRefusal::WishNotFound(name.full()),
        Refusal::NotPlanned { name, node } => {
            StoredRefusal::NotPlanned(disk::RefusedPart { name: name.full(), node: node.0 })
        }
        Refusal::VersionNotFound { name, version } => {
            StoredRefusal::VersionNotFound(disk::RefusedHistory { name: name.full(), version })
        }
        Refusal::Pinned { name, digest } => StoredRefusal::Pinned(refused_digest(&name, digest)),
        Refusal::LastCopy { name } => StoredRefusal::LastCopy(name.full()),
        Refusal::BelowWish { name, wanted, left } => {
            StoredRefusal::BelowWish(disk::RefusedWish { name: name.full(), wanted, left })
        }
        Refusal::Disabled(name) => StoredRefusal::Disabled(name.full()),
        Refusal::NameTaken { name, held } => StoredRefusal::NameTaken(refused_digest(&name, held)),
        Refusal::TaskNotFound(id) => StoredRefusal::TaskNotFound(id.0.to_vec()),
        Refusal::TaskMoved(id) => StoredRefusal::TaskMoved(id.0.to_vec()),
        Refusal::TaskStands { id, state } => StoredRefusal::TaskStands(disk::RefusedTask { id: id.0.to_vec(), state }),
        Refusal::OnceReused => StoredRefusal::OnceReused(disk::LogBlank {}),
    };
    disk::AnswerRefused { refusal: Some(refusal) }
}

fn decode_refusal(stored: disk::AnswerRefused) -> Result<Refusal, Unknown> {
    let unknown = Unknown("a refusal");
    Ok(match stored.refusal.ok_or(unknown)? {
        StoredRefusal::AlreadyInitialised(disk::LogBlank {}) => Refusal::AlreadyInitialised,
        StoredRefusal::NotInitialised(disk::LogBlank {}) => Refusal::NotInitialised,
        StoredRefusal::TokenInvalid(problem) => Refusal::TokenInvalid(match problem {
            1 => TokenProblem::Unknown,
            2 => TokenProblem::UsedUp,
            3 => TokenProblem::Revoked,
            4 => TokenProblem::Expired,
            _ => return Err(unknown),
        }),
        StoredRefusal::TokenNotFound(id) => Refusal::TokenNotFound(TokenId(id)),
        StoredRefusal::RoleNotGranted(roles) => {
            Refusal::RoleNotGranted { granted: decode_role(roles.granted)?, asked: decode_role(roles.asked)? }
        }
        StoredRefusal::IncarnationConflict(node) => Refusal::IncarnationConflict { node: NodeId(node) },
        StoredRefusal::NodeNotFound(node) => Refusal::NodeNotFound(NodeId(node)),
        StoredRefusal::LastVoter(node) => Refusal::LastVoter(NodeId(node)),
        StoredRefusal::ModelsRemain(node) => Refusal::ModelsRemain(NodeId(node)),
        StoredRefusal::SettingNotFound(key) => Refusal::SettingNotFound(key),
        StoredRefusal::Invalid(text) => Refusal::Invalid(text),
        StoredRefusal::Fenced(term) => Refusal::Fenced { expected: term.expected, actual: term.actual },
        StoredRefusal::VersionTooLow(version) => {
            Refusal::VersionTooLow { needed: version.needed, actual: version.actual }
        }
        StoredRefusal::SessionExpired(session) => Refusal::SessionExpired(session),
        StoredRefusal::SequenceTooOld(disk::RefusedSequence { session, sequence, oldest }) => {
            Refusal::SequenceTooOld { session, sequence, oldest }
        }
        StoredRefusal::LeaseNotFound(lease) => Refusal::LeaseNotFound(lease),
        StoredRefusal::QuotaExceeded(disk::RefusedQuota { what, needed, limit, unit }) => {
            Refusal::QuotaExceeded { what, needed, limit, unit }
        }
        StoredRefusal::Migration(text) => Refusal::Migration(text),
        StoredRefusal::RootConflict(sha256) => Refusal::RootConflict { sha256: decode_digest(sha256)? },
        StoredRefusal::RoundPassed(disk::RefusedRound { name, round }) => {
            Refusal::RoundPassed { name: decode_name(&name)?, round }
        }
        StoredRefusal::VersionMoved(disk::RefusedVersionOf { name, wanted, found }) => Refusal::VersionMoved {
            name: decode_name(&name)?,
            wanted: decode_digest(wanted)?,
            found: decode_digest(found)?,
        },
        StoredRefusal::WishNotFound(name) => Refusal::WishNotFound(decode_name(&name)?),
        StoredRefusal::NotPlanned(disk::RefusedPart { name, node }) => {
            Refusal::NotPlanned { name: decode_name(&name)?, node: NodeId(node) }
        }
        StoredRefusal::VersionNotFound(disk::RefusedHistory { name, version }) => {
            Refusal::VersionNotFound { name: decode_name(&name)?, version }
        }
        StoredRefusal::Pinned(disk::RefusedDigest { name, digest }) => {
            Refusal::Pinned { name: decode_name(&name)?, digest: decode_digest(digest)? }
        }
        StoredRefusal::LastCopy(name) => Refusal::LastCopy { name: decode_name(&name)? },
        StoredRefusal::BelowWish(disk::RefusedWish { name, wanted, left }) => {
            Refusal::BelowWish { name: decode_name(&name)?, wanted, left }
        }
        StoredRefusal::Disabled(name) => Refusal::Disabled(decode_name(&name)?),
        StoredRefusal::NameTaken(disk::RefusedDigest { name, digest }) => {
            Refusal::NameTaken { name: decode_name(&name)?, held: decode_digest(digest)? }
        }
        StoredRefusal::TaskNotFound(id) => Refusal::TaskNotFound(decode_task(id)?),
        StoredRefusal::TaskMoved(id) => Refusal::TaskMoved(decode_task(id)?),
        StoredRefusal::TaskStands(disk::RefusedTask { id, state }) => {
            Refusal::TaskStands { id: decode_task(id)?, state }
        }
        StoredRefusal::OnceReused(disk::LogBlank {}) => Refusal::OnceReused,
    })
}

fn refused_digest(name: &ModelName, digest: Digest) -> disk::RefusedDigest {
    disk::RefusedDigest { name: name.full(), digest: digest.0.to_vec() }
}

fn decode_name(text: &str) -> Result<ModelName, Unknown> {
    text.parse().map_err(|_| Unknown("a name of a model"))
}

fn decode_digest(bytes: Vec<u8>) -> Result<Digest, Unknown> {
    bytes.try_into().map(Digest).map_err(|_| Unknown("a digest"))
}

fn decode_task(bytes: Vec<u8>) -> Result<TaskId, Unknown> {
    bytes.try_into().map(TaskId).map_err(|_| Unknown("an id of a task"))
}
