//! Wishes for models, and the BLAKE3 of their files, within an envelope.
//!
//! Names are stored whole. A name, a code or a number of replicas that this release does not know is an error.

use ollamax_core::catalog::command::{BoundBlob, Command, CopyCourse};
use ollamax_proto::disk;
use ollamax_proto::disk::envelope::Command as Stored;
use ollamax_store::answer::{decode_kind, decode_replicas, decode_want, encode_kind, encode_replicas, encode_want};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Root};

use super::{EnvelopeError, array};

pub(super) fn encode_blobs(node: NodeId, blobs: &[BoundBlob]) -> Stored {
    let bound = |blob: &BoundBlob| disk::BoundBlob {
        sha256: blob.sha256.0.to_vec(),
        size_bytes: blob.size_bytes,
        root: blob.root.0.to_vec(),
    };
    Stored::BindBlobs(disk::CommandBindBlobs { node: node.0, blobs: blobs.iter().map(bound).collect() })
}

pub(super) fn decode_blobs(stored: disk::CommandBindBlobs) -> Result<Command, EnvelopeError> {
    let bound = |blob: disk::BoundBlob| -> Result<BoundBlob, EnvelopeError> {
        let (sha256, root) = (Digest(array(&blob.sha256, "sha256")?), Root(array(&blob.root, "root")?));
        Ok(BoundBlob { sha256, size_bytes: blob.size_bytes, root })
    };
    let blobs = stored.blobs.into_iter().map(bound).collect::<Result<_, _>>()?;
    Ok(Command::BindBlobs { node: NodeId(stored.node), blobs })
}

/// What somebody asked for, or the leader planned; `None`: it is another command.
pub(super) fn encode_asked(command: &Command) -> Option<Stored> {
    Some(match command {
        Command::AskModel { name, replicas, insecure, want, declared, unsaid, away } => {
            Stored::AskModel(disk::CommandAskModel {
                name: name.full(),
                replicas: Some(encode_replicas(replicas)),
                insecure: *insecure,
                want: encode_want(want),
                declared: *declared,
                unsaid: *unsaid,
                away: away.iter().map(|node| node.0).collect(),
            })
        }
        Command::PlanPull { name, round, ingester, targets, kind } => Stored::PlanPull(disk::CommandPlanPull {
            name: name.full(),
            round: *round,
            ingester: ingester.0,
            targets: targets.iter().map(|node| node.0).collect(),
            kind: encode_kind(*kind),
        }),
        _ => return None,
    })
}

pub(super) fn decode_ask(stored: disk::CommandAskModel) -> Result<Command, EnvelopeError> {
    let replicas = decode_replicas(stored.replicas).map_err(|_| EnvelopeError::Field("replicas"))?;
    let (name, want) = (name(&stored.name)?, decode_want(stored.want));
    let disk::CommandAskModel { insecure, declared, unsaid, away, .. } = stored;
    let away = away.into_iter().map(NodeId).collect();
    Ok(Command::AskModel { name, replicas, insecure, want, declared, unsaid, away })
}

pub(super) fn decode_plan(stored: disk::CommandPlanPull) -> Result<Command, EnvelopeError> {
    let kind = decode_kind(stored.kind).map_err(|_| EnvelopeError::Field("kind"))?;
    let targets = stored.targets.into_iter().map(NodeId).collect();
    let (name, ingester) = (name(&stored.name)?, NodeId(stored.ingester));
    Ok(Command::PlanPull { name, round: stored.round, ingester, targets, kind })
}

pub(super) fn encode_resolved(node: NodeId, name: &ModelName, round: u64, digest: Digest, size_bytes: u64) -> Stored {
    let (name, digest) = (name.full(), digest.0.to_vec());
    Stored::ResolveWish(disk::CommandResolveWish { node: node.0, name, round, digest, size_bytes })
}

pub(super) fn decode_resolved(stored: disk::CommandResolveWish) -> Result<Command, EnvelopeError> {
    Ok(Command::ResolveWish {
        node: NodeId(stored.node),
        name: name(&stored.name)?,
        round: stored.round,
        digest: Digest(array(&stored.digest, "digest")?),
        size_bytes: stored.size_bytes,
    })
}

pub(super) fn encode_told(node: NodeId, name: &ModelName, round: u64, code: ErrorCode, text: String) -> Stored {
    let (name, code) = (name.full(), code.as_str().to_owned());
    Stored::TellPull(disk::CommandTellPull { node: node.0, name, round, code, text })
}

pub(super) fn decode_told(stored: disk::CommandTellPull) -> Result<Command, EnvelopeError> {
    let code = ErrorCode::from_text(&stored.code).ok_or(EnvelopeError::Field("code"))?;
    let (node, name) = (NodeId(stored.node), name(&stored.name)?);
    Ok(Command::TellPull { node, name, round: stored.round, code, text: stored.text })
}

pub(super) fn encode_course(node: NodeId, name: &ModelName, round: u64, course: CopyCourse) -> Stored {
    let source = |(member, bytes): (NodeId, u64)| disk::CopySource { node: member.0, bytes };
    Stored::NoteCopy(disk::CommandNoteCopy {
        node: node.0,
        name: name.full(),
        round,
        is_whole: course.is_whole,
        verified_bytes: course.verified_bytes,
        size_bytes: course.size_bytes,
        took_ms: course.took_ms,
        bytes_per_second: course.bytes_per_second,
        origin_bytes: course.origin_bytes,
        here_bytes: course.here_bytes,
        members: course.members.into_iter().map(source).collect(),
        other_bytes: course.other_bytes,
    })
}

pub(super) fn decode_course(stored: disk::CommandNoteCopy) -> Result<Command, EnvelopeError> {
    let (node, name, round) = (NodeId(stored.node), name(&stored.name)?, stored.round);
    let course = CopyCourse {
        is_whole: stored.is_whole,
        verified_bytes: stored.verified_bytes,
        size_bytes: stored.size_bytes,
        took_ms: stored.took_ms,
        bytes_per_second: stored.bytes_per_second,
        origin_bytes: stored.origin_bytes,
        here_bytes: stored.here_bytes,
        members: stored.members.into_iter().map(|source| (NodeId(source.node), source.bytes)).collect(),
        other_bytes: stored.other_bytes,
    };
    Ok(Command::NoteCopy { node, name, round, course: Box::new(course) })
}

pub(super) fn encode_forgotten(name: &ModelName, round: Option<u64>) -> Stored {
    Stored::ForgetWish(disk::CommandForgetWish { name: name.full(), round: round.unwrap_or(0) })
}

pub(super) fn decode_forgotten(stored: &disk::CommandForgetWish) -> Result<Command, EnvelopeError> {
    let round = (stored.round != 0).then_some(stored.round);
    Ok(Command::ForgetWish { name: name(&stored.name)?, round })
}

pub(super) fn name(text: &str) -> Result<ModelName, EnvelopeError> {
    text.parse().map_err(|_| EnvelopeError::Field("model name"))
}
