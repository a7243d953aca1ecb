//! The registry of models and what is said of nodes for placement, within an envelope.
//!
//! Names are stored whole. A phase, a cordon or a way to a version that this release does not know is an error.

use ollamax_core::catalog::PhaseWord;
use ollamax_core::catalog::command::Command;
use ollamax_proto::disk;
use ollamax_proto::disk::envelope::Command as Stored;
use ollamax_store::answer::{
    decode_cordon, decode_how, decode_labels, decode_replicas, encode_cordon, encode_how, encode_labels,
    encode_replicas,
};
use ollamax_types::{Digest, NodeId, Timestamp};

use super::wishes::name;
use super::{EnvelopeError, array};

/// A command of the registry; `None`: it is another one.
pub(super) fn encode(command: &Command) -> Option<Stored> {
    Some(match command {
        Command::FixVersion { replicas, .. } => Stored::FixVersion(disk::CommandFixVersion {
            version: version(command),
            replicas: replicas.as_ref().map(encode_replicas),
        }),
        Command::NoteVersion { .. } => Stored::NoteVersion(version(command)?),
        Command::PinModel { name, digest } => Stored::PinModel(disk::CommandPinModel {
            name: name.full(),
            digest: digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        }),
        Command::SetPhase { name, phase, note } => Stored::SetPhase(disk::CommandSetPhase {
            name: name.full(),
            phase: encode_phase(*phase),
            note: note.clone(),
        }),
        Command::DropCopies { name, nodes, forget, force, unless_pinned } => {
            Stored::DropCopies(disk::CommandDropCopies {
                name: name.full(),
                nodes: nodes.iter().map(|node| node.0).collect(),
                forget: *forget,
                force: *force,
                unless_pinned: *unless_pinned,
            })
        }
        Command::NoteUse { node, day, names } => {
            Stored::NoteUse(disk::CommandNoteUse { node: node.0, day: *day, names: names.clone() })
        }
        Command::ForgetBlobs { before, after, limit } => Stored::ForgetBlobs(disk::CommandForgetBlobs {
            before_ms: before.0,
            after: after.map(|after| after.0.to_vec()).unwrap_or_default(),
            limit: *limit,
        }),
        Command::ForgetNames { before, names } => {
            Stored::ForgetNames(disk::CommandForgetNames { before_ms: before.0, names: names.clone() })
        }
        Command::SetLabels { node, own, set, unset } => Stored::SetLabels(disk::CommandSetLabels {
            node: node.0,
            own: *own,
            set: encode_labels(set),
            unset: unset.clone(),
        }),
        Command::SetCordon { node, cordon } => {
            Stored::SetCordon(disk::CommandSetCordon { node: node.0, cordon: encode_cordon(*cordon) })
        }
        _ => return None,
    })
}

/// The version that a command gives to a name.
fn version(command: &Command) -> Option<disk::CommandNoteVersion> {
    let (Command::FixVersion { name, digest, size_bytes, how, .. }
    | Command::NoteVersion { name, digest, size_bytes, how }) = command
    else {
        return None;
    };
    let (name, digest, size_bytes, (how, to, from)) = (name.full(), digest.0.to_vec(), *size_bytes, encode_how(how));
    Some(disk::CommandNoteVersion { name, digest, size_bytes, how, to, from })
}

pub(super) fn decode_fixed(stored: disk::CommandFixVersion) -> Result<Command, EnvelopeError> {
    let replicas = match stored.replicas {
        None => None,
        some => Some(decode_replicas(some).map_err(|_| EnvelopeError::Field("replicas"))?),
    };
    let version = stored.version.ok_or(EnvelopeError::Field("version"))?;
    let how = decode_how(version.how, version.to, &version.from).map_err(|_| EnvelopeError::Field("how"))?;
    let (name, digest) = (name(&version.name)?, Digest(array(&version.digest, "digest")?));
    Ok(Command::FixVersion { name, digest, size_bytes: version.size_bytes, replicas, how })
}

pub(super) fn decode_noted(stored: &disk::CommandNoteVersion) -> Result<Command, EnvelopeError> {
    let how = decode_how(stored.how, stored.to, &stored.from).map_err(|_| EnvelopeError::Field("how"))?;
    let (name, digest) = (name(&stored.name)?, Digest(array(&stored.digest, "digest")?));
    Ok(Command::NoteVersion { name, digest, size_bytes: stored.size_bytes, how })
}

pub(super) fn decode_pin(stored: &disk::CommandPinModel) -> Result<Command, EnvelopeError> {
    Ok(Command::PinModel { name: name(&stored.name)?, digest: digest(&stored.digest)? })
}

pub(super) fn decode_set_phase(stored: disk::CommandSetPhase) -> Result<Command, EnvelopeError> {
    let phase = match stored.phase {
        0 => PhaseWord::Active,
        1 => PhaseWord::Deprecated,
        2 => PhaseWord::Disabled,
        _ => return Err(EnvelopeError::Field("phase")),
    };
    Ok(Command::SetPhase { name: name(&stored.name)?, phase, note: stored.note })
}

const fn encode_phase(phase: PhaseWord) -> u32 {
    match phase {
        PhaseWord::Active => 0,
        PhaseWord::Deprecated => 1,
        PhaseWord::Disabled => 2,
    }
}

pub(super) fn decode_drops(stored: disk::CommandDropCopies) -> Result<Command, EnvelopeError> {
    let nodes = stored.nodes.into_iter().map(NodeId).collect();
    let disk::CommandDropCopies { forget, force, unless_pinned, .. } = stored;
    Ok(Command::DropCopies { name: name(&stored.name)?, nodes, forget, force, unless_pinned })
}

pub(super) fn decode_used(stored: disk::CommandNoteUse) -> Command {
    Command::NoteUse { node: NodeId(stored.node), day: stored.day, names: stored.names }
}

pub(super) fn decode_forgotten_blobs(stored: &disk::CommandForgetBlobs) -> Result<Command, EnvelopeError> {
    let (before, after) = (Timestamp(stored.before_ms), digest(&stored.after)?);
    Ok(Command::ForgetBlobs { before, after, limit: stored.limit })
}

pub(super) fn decode_forgotten_names(stored: disk::CommandForgetNames) -> Command {
    Command::ForgetNames { before: Timestamp(stored.before_ms), names: stored.names }
}

pub(super) fn decode_set_labels(stored: disk::CommandSetLabels) -> Command {
    let set = decode_labels(stored.set);
    Command::SetLabels { node: NodeId(stored.node), own: stored.own, set, unset: stored.unset }
}

pub(super) fn decode_set_cordon(stored: &disk::CommandSetCordon) -> Result<Command, EnvelopeError> {
    let cordon = decode_cordon(stored.cordon).map_err(|_| EnvelopeError::Field("cordon"))?;
    Ok(Command::SetCordon { node: NodeId(stored.node), cordon })
}

/// Empty: none.
fn digest(bytes: &[u8]) -> Result<Option<Digest>, EnvelopeError> {
    if bytes.is_empty() { Ok(None) } else { Ok(Some(Digest(array(bytes, "digest")?))) }
}
