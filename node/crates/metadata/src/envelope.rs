//! The log entry on disk and on the wire: envelope version 1, and the record of one log index around it.
//!
//! Numbers of fields are never reused. A reader that meets a newer schema, a command that it does not know, or a
//! field of the wrong length gets an [`EnvelopeError`]; whoever applies it turns that into a fault that halts the
//! node. A new meaning of an old field needs a new schema number or a higher least version.

mod registry;
mod tasks;
mod txn;
mod wishes;

use bytes::Bytes;
use prost::Message;

use ollamax_core::catalog::Entry;
use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_proto::disk;
use ollamax_proto::disk::envelope::Command as Stored;
use ollamax_store::answer::{decode_role, encode_role};
use ollamax_types::{
    ClusterId, Digest, Incarnation, ModelName, ModelRecord, NodeId, PeerId, RequestId, SecretKey, Timestamp, TokenId,
};

/// The version that this release writes, and the newest that it reads.
pub(crate) const SCHEMA: u32 = 1;

/// Why an envelope cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("damaged envelope: {0}")]
    Damaged(String),
    #[error("envelope of schema {0}; this release reads up to {SCHEMA}")]
    NewerSchema(u32),
    #[error("needs cluster version {needed}; this release is {own}")]
    NewerVersion { needed: u32, own: u32 },
    #[error("a command that this release does not know")]
    UnknownCommand,
    #[error("field {0} has a value that this release does not know")]
    Field(&'static str),
}

/// Writes an entry.
pub(crate) fn encode(entry: &Entry) -> Bytes {
    disk::Envelope {
        schema: SCHEMA,
        least_version: entry.least_version,
        log_time_ms: entry.log_time.0,
        request: entry.request.0.clone(),
        principal: entry.principal.clone(),
        namespace: entry.namespace.clone(),
        session: entry.session.map(|(client, sequence)| disk::EnvelopeSession { client, sequence }),
        fence_term: entry.fence_term,
        once: entry.once.map(tasks::encode_once),
        command: Some(encode_command(&entry.command)),
    }
    .encode_to_vec()
    .into()
}

/// Reads an entry. `own_version` is the cluster version that this release implements.
pub(crate) fn decode(bytes: &[u8], own_version: u32) -> Result<Entry, EnvelopeError> {
    let stored = disk::Envelope::decode(bytes).map_err(|error| EnvelopeError::Damaged(error.to_string()))?;
    if stored.schema != SCHEMA {
        return Err(EnvelopeError::NewerSchema(stored.schema));
    }
    if stored.least_version > own_version {
        return Err(EnvelopeError::NewerVersion { needed: stored.least_version, own: own_version });
    }
    Ok(Entry {
        least_version: stored.least_version,
        log_time: Timestamp(stored.log_time_ms),
        request: RequestId(stored.request),
        principal: stored.principal,
        namespace: stored.namespace,
        session: stored.session.map(|session| (session.client, session.sequence)),
        fence_term: stored.fence_term,
        once: stored.once.as_ref().map(tasks::decode_once).transpose()?,
        command: decode_command(stored.command.ok_or(EnvelopeError::UnknownCommand)?)?,
    })
}

/// The log time alone; 0 when the bytes are no envelope (whoever applies them will say so).
pub(crate) fn log_time(bytes: &[u8]) -> Timestamp {
    /// Reads one field and skips the rest.
    #[derive(Clone, PartialEq, Message)]
    struct TimeOnly {
        #[prost(uint64, tag = "3")]
        log_time_ms: u64,
    }
    TimeOnly::decode(bytes).map_or(Timestamp(0), |envelope| Timestamp(envelope.log_time_ms))
}

fn encode_command(command: &Command) -> Stored {
    match command.clone() {
        Command::InitCluster { .. } | Command::AddMember { .. } | Command::SetAddresses { .. } => {
            encode_member(command).expect("all three tell of a member")
        }
        Command::SetDrained { node, drained } => Stored::SetDrained(disk::CommandSetDrained { node: node.0, drained }),
        Command::RemoveMember { node } => Stored::RemoveMember(disk::CommandRemoveMember { node: node.0 }),
        Command::ForgetModels { node, limit } => {
            Stored::ForgetModels(disk::CommandForgetModels { node: node.0, limit })
        }
        Command::CreateToken { id, secret_sha256, role, uses, ttl_ms } => {
            Stored::CreateToken(disk::CommandCreateToken {
                id: id.0,
                secret_sha256: secret_sha256.to_vec(),
                role: encode_role(role),
                uses,
                ttl_ms,
            })
        }
        Command::RevokeToken { id } => Stored::RevokeToken(disk::CommandRevokeToken { id: id.0 }),
        Command::ReportModels { node, present, absent, removed } => Stored::ReportModels(disk::CommandReportModels {
            node: node.0,
            present: present.into_iter().map(encode_model).collect(),
            absent,
            removed,
        }),
        Command::SetSetting { key, value } => Stored::SetSetting(disk::CommandSetSetting { key, value }),
        Command::DeleteSetting { key } => Stored::DeleteSetting(disk::CommandDeleteSetting { key }),
        Command::Txn(txn) => Stored::Txn(txn::encode(txn)),
        Command::OpenSession { ttl_ms, window } => Stored::OpenSession(disk::CommandOpenSession { ttl_ms, window }),
        Command::CloseSession { session } => Stored::CloseSession(session),
        Command::GrantLease { ttl_ms } => Stored::GrantLease(disk::CommandGrantLease { ttl_ms }),
        Command::RenewLease { lease } => Stored::RenewLease(lease),
        Command::RevokeLease { lease } => Stored::RevokeLease(lease),
        Command::Expire => Stored::Expire(disk::LogBlank {}),
        Command::SetQuota { prefix, bytes_max } => Stored::SetQuota(disk::CommandSetQuota { prefix, bytes_max }),
        Command::RaiseVersion { version } => Stored::RaiseVersion(version),
        Command::Migrate { number, down, force } => Stored::Migrate(disk::CommandMigrate { number, down, force }),
        Command::BindBlobs { node, blobs } => wishes::encode_blobs(node, &blobs),
        Command::AskModel { .. } | Command::PlanPull { .. } => {
            wishes::encode_asked(command).expect("both are commands about a wish")
        }
        Command::ResolveWish { node, name, round, digest, size_bytes } => {
            wishes::encode_resolved(node, &name, round, digest, size_bytes)
        }
        Command::TellPull { node, name, round, code, text } => wishes::encode_told(node, &name, round, code, text),
        Command::ForgetWish { name, round } => wishes::encode_forgotten(&name, round),
        Command::NoteCopy { node, name, round, course } => wishes::encode_course(node, &name, round, *course),
        Command::FixVersion { .. }
        | Command::NoteVersion { .. }
        | Command::PinModel { .. }
        | Command::SetPhase { .. }
        | Command::DropCopies { .. }
        | Command::NoteUse { .. }
        | Command::ForgetBlobs { .. }
        | Command::ForgetNames { .. }
        | Command::SetLabels { .. }
        | Command::SetCordon { .. } => registry::encode(command).expect("all of these are its commands"),
        Command::OpenTask { .. }
        | Command::DecideTask { .. }
        | Command::AssignTask { .. }
        | Command::TellTasks { .. }
        | Command::EndTask { .. }
        | Command::CancelTask { .. }
        | Command::RetryTask { .. } => tasks::encode(command).expect("all of these are about tasks"),
        Command::AddStateKey { secret } => Stored::AddStateKey(secret.expose().to_vec()),
    }
}

/// A member that founds the cluster, joins it, or tells where it is; `None`: it is another command.
fn encode_member(command: &Command) -> Option<Stored> {
    Some(match command.clone() {
        Command::InitCluster { cluster, name, public_key, first, version } => {
            Stored::InitCluster(disk::CommandInitCluster {
                cluster: cluster.0.to_vec(),
                name,
                public_key: public_key.to_vec(),
                first: Some(encode_new_member(first)),
                version,
            })
        }
        Command::AddMember { token, secret_sha256, role, member } => Stored::AddMember(disk::CommandAddMember {
            token: token.0,
            secret_sha256: secret_sha256.to_vec(),
            role: encode_role(role),
            member: Some(encode_new_member(member)),
        }),
        Command::SetAddresses { node, incarnation, peer_addresses, p2p_addresses, api_addresses } => {
            Stored::SetAddresses(disk::CommandSetAddresses {
                node: node.0,
                incarnation: incarnation.0.to_vec(),
                peer_addresses,
                p2p_addresses,
                api_addresses,
            })
        }
        _ => return None,
    })
}

fn decode_command(stored: Stored) -> Result<Command, EnvelopeError> {
    Ok(match stored {
        Stored::InitCluster(stored) => Command::InitCluster {
            cluster: ClusterId(array(&stored.cluster, "cluster")?),
            name: stored.name,
            public_key: array(&stored.public_key, "public_key")?,
            first: decode_new_member(stored.first, "first")?,
            version: stored.version.max(1),
        },
        Stored::AddMember(stored) => Command::AddMember {
            token: TokenId(stored.token),
            secret_sha256: array(&stored.secret_sha256, "secret_sha256")?,
            role: decode_role(stored.role).map_err(|_| EnvelopeError::Field("role"))?,
            member: decode_new_member(stored.member, "member")?,
        },
        Stored::SetAddresses(stored) => Command::SetAddresses {
            node: NodeId(stored.node),
            incarnation: Incarnation(array(&stored.incarnation, "incarnation")?),
            peer_addresses: stored.peer_addresses,
            p2p_addresses: stored.p2p_addresses,
            api_addresses: stored.api_addresses,
        },
        Stored::SetDrained(stored) => Command::SetDrained { node: NodeId(stored.node), drained: stored.drained },
        Stored::RemoveMember(stored) => Command::RemoveMember { node: NodeId(stored.node) },
        Stored::ForgetModels(stored) => Command::ForgetModels { node: NodeId(stored.node), limit: stored.limit },
        Stored::CreateToken(stored) => Command::CreateToken {
            id: TokenId(stored.id),
            secret_sha256: array(&stored.secret_sha256, "secret_sha256")?,
            role: decode_role(stored.role).map_err(|_| EnvelopeError::Field("role"))?,
            uses: stored.uses,
            ttl_ms: stored.ttl_ms,
        },
        Stored::RevokeToken(stored) => Command::RevokeToken { id: TokenId(stored.id) },
        Stored::ReportModels(stored) => Command::ReportModels {
            node: NodeId(stored.node),
            present: stored.present.into_iter().map(decode_model).collect::<Result<_, _>>()?,
            absent: stored.absent,
            removed: stored.removed,
        },
        Stored::SetSetting(stored) => Command::SetSetting { key: stored.key, value: stored.value },
        Stored::DeleteSetting(stored) => Command::DeleteSetting { key: stored.key },
        Stored::Txn(stored) => Command::Txn(txn::decode(stored)?),
        Stored::OpenSession(stored) => Command::OpenSession { ttl_ms: stored.ttl_ms, window: stored.window },
        Stored::CloseSession(session) => Command::CloseSession { session },
        Stored::GrantLease(stored) => Command::GrantLease { ttl_ms: stored.ttl_ms },
        Stored::RenewLease(lease) => Command::RenewLease { lease },
        Stored::RevokeLease(lease) => Command::RevokeLease { lease },
        Stored::Expire(disk::LogBlank {}) => Command::Expire,
        Stored::SetQuota(stored) => Command::SetQuota { prefix: stored.prefix, bytes_max: stored.bytes_max },
        Stored::RaiseVersion(version) => Command::RaiseVersion { version },
        Stored::Migrate(stored) => Command::Migrate { number: stored.number, down: stored.down, force: stored.force },
        Stored::BindBlobs(stored) => wishes::decode_blobs(stored)?,
        Stored::AskModel(stored) => wishes::decode_ask(stored)?,
        Stored::PlanPull(stored) => wishes::decode_plan(stored)?,
        Stored::ResolveWish(stored) => wishes::decode_resolved(stored)?,
        Stored::TellPull(stored) => wishes::decode_told(stored)?,
        Stored::ForgetWish(stored) => wishes::decode_forgotten(&stored)?,
        Stored::FixVersion(stored) => registry::decode_fixed(stored)?,
        Stored::NoteVersion(stored) => registry::decode_noted(&stored)?,
        Stored::PinModel(stored) => registry::decode_pin(&stored)?,
        Stored::SetPhase(stored) => registry::decode_set_phase(stored)?,
        Stored::DropCopies(stored) => registry::decode_drops(stored)?,
        Stored::NoteUse(stored) => registry::decode_used(stored),
        Stored::ForgetBlobs(stored) => registry::decode_forgotten_blobs(&stored)?,
        Stored::ForgetNames(stored) => registry::decode_forgotten_names(stored),
        Stored::SetLabels(stored) => registry::decode_set_labels(stored),
        Stored::SetCordon(stored) => registry::decode_set_cordon(&stored)?,
        Stored::NoteCopy(stored) => wishes::decode_course(stored)?,
        Stored::OpenTask(stored) => tasks::decode_open(stored)?,
        Stored::DecideTask(stored) => tasks::decode_decide(&stored)?,
        Stored::AssignTask(stored) => tasks::decode_assign(&stored)?,
        Stored::TellTasks(stored) => tasks::decode_tell(stored)?,
        Stored::EndTask(stored) => tasks::decode_end(stored)?,
        Stored::CancelTask(stored) => tasks::decode_cancel(&stored)?,
        Stored::RetryTask(stored) => tasks::decode_retry(stored)?,
        Stored::AddStateKey(stored) => Command::AddStateKey { secret: SecretKey::new(array(&stored, "secret")?) },
    })
}

fn encode_new_member(member: NewMember) -> disk::CommandNewMember {
    disk::CommandNewMember {
        name: member.name,
        peer_id: member.peer_id.0,
        incarnation: member.incarnation.0.to_vec(),
        peer_addresses: member.peer_addresses,
        p2p_addresses: member.p2p_addresses,
        api_addresses: member.api_addresses,
    }
}

fn decode_new_member(stored: Option<disk::CommandNewMember>, field: &'static str) -> Result<NewMember, EnvelopeError> {
    let stored = stored.ok_or(EnvelopeError::Field(field))?;
    Ok(NewMember {
        name: stored.name,
        peer_id: PeerId(stored.peer_id),
        incarnation: Incarnation(array(&stored.incarnation, "incarnation")?),
        peer_addresses: stored.peer_addresses,
        p2p_addresses: stored.p2p_addresses,
        api_addresses: stored.api_addresses,
    })
}

fn encode_model(model: ModelRecord) -> disk::CommandModel {
    disk::CommandModel {
        name: model.name.full(),
        digest: model.digest.0.to_vec(),
        weights: model.known_weights().map(|weights| weights.0.to_vec()).unwrap_or_default(),
        size_bytes: model.size_bytes,
        modified_at_ms: model.modified_at.0,
        details_json: model.details_json,
        capabilities: model.capabilities,
    }
}

fn decode_model(stored: disk::CommandModel) -> Result<ModelRecord, EnvelopeError> {
    let digest = Digest(array(&stored.digest, "digest")?);
    let weights = if stored.weights.is_empty() { digest } else { Digest(array(&stored.weights, "weights")?) };
    Ok(ModelRecord {
        name: stored.name.parse::<ModelName>().map_err(|_| EnvelopeError::Field("model name"))?,
        digest,
        weights,
        size_bytes: stored.size_bytes,
        modified_at: Timestamp(stored.modified_at_ms),
        details_json: stored.details_json,
        capabilities: stored.capabilities,
    })
}

fn array<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], EnvelopeError> {
    bytes.try_into().map_err(|_| EnvelopeError::Field(field))
}

#[cfg(test)]
mod tests;
