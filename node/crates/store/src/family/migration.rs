//! The ledger of migrations.
//!
//! Key: `10`, number as 4 bytes big endian. Value: version 1, `MigrationRecord`. Replaced with each step, never
//! deleted.

use ollamax_core::catalog::{Key, Migration, MigrationStatus};
use ollamax_proto::disk;
use ollamax_proto::disk::MigrationStanding as Standing;
use ollamax_types::Timestamp;

use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x10;
const VERSION: u8 = 1;
const WHAT: &str = "migration record";

pub(super) fn encode_key(number: u32) -> Vec<u8> {
    let mut bytes = vec![PREFIX];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Migration(u32::from_be_bytes(fixed("migration key", rest)?)))
}

/// As it also travels in answers.
pub(crate) fn message(record: &Migration) -> disk::MigrationRecord {
    let status = match record.status {
        MigrationStatus::Applying => Standing::Applying,
        MigrationStatus::Applied => Standing::Applied,
        MigrationStatus::Reverting => Standing::Reverting,
        MigrationStatus::Reverted => Standing::Reverted,
        MigrationStatus::Failed => Standing::Failed,
    };
    disk::MigrationRecord {
        number: record.number,
        name: record.name.clone(),
        phase: record.phase,
        group: record.group.clone(),
        started_at_ms: record.started_at.0,
        finished_at_ms: record.finished_at.map(|at| at.0),
        actor: record.actor.clone(),
        duration_ms: record.duration_ms,
        status: status.into(),
        error: record.error.clone(),
        reverted_at_ms: record.reverted_at.map(|at| at.0),
        reverted_by: record.reverted_by.clone(),
        revert_duration_ms: record.revert_duration_ms,
        reversible: record.reversible,
        forced: record.forced,
        began_at_ms: record.began_at.0,
        cursor: record.cursor.as_ref().map(super::encode_key).unwrap_or_default(),
        looked_at: record.looked_at,
        changed: record.changed,
    }
}

pub(crate) fn from_message(message: disk::MigrationRecord) -> Result<Migration, Malformed> {
    let status = match message.status() {
        Standing::Applying => MigrationStatus::Applying,
        Standing::Applied => MigrationStatus::Applied,
        Standing::Reverting => MigrationStatus::Reverting,
        Standing::Reverted => MigrationStatus::Reverted,
        Standing::Failed => MigrationStatus::Failed,
        Standing::Unspecified => return Err(Malformed::new(WHAT, "of a status that this release does not know")),
    };
    let cursor = if message.cursor.is_empty() { None } else { Some(super::decode_key(&message.cursor)?) };
    Ok(Migration {
        number: message.number,
        name: message.name,
        phase: message.phase,
        group: message.group,
        started_at: Timestamp(message.started_at_ms),
        finished_at: message.finished_at_ms.map(Timestamp),
        actor: message.actor,
        duration_ms: message.duration_ms,
        status,
        error: message.error,
        reverted_at: message.reverted_at_ms.map(Timestamp),
        reverted_by: message.reverted_by,
        revert_duration_ms: message.revert_duration_ms,
        reversible: message.reversible,
        forced: message.forced,
        began_at: Timestamp(message.began_at_ms),
        cursor,
        looked_at: message.looked_at,
        changed: message.changed,
    })
}

pub(super) fn encode(record: &Migration) -> Vec<u8> {
    seal(VERSION, &message(record))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Migration, Malformed> {
    from_message(unseal(WHAT, VERSION, bytes)?)
}
