//! The byte form of the replicated state: one file per key family.
//!
//! A key is one prefix byte and the family's parts, in an order that equals the order of [`Key`]s within the family. A
//! value is a version byte and a protobuf message. Prefixes and versions are never used again for something else.
//! Whatever cannot be understood is an error that names the key: the caller halts.
//!
//! | prefix | family | file |
//! |---|---|---|
//! | 0x00 | how far the state is (no record of `core`) | `state/applied.rs` |
//! | 0x01 | cluster | `family/cluster.rs` |
//! | 0x02 | members by id | `family/member.rs` |
//! | 0x03 | members by key | `family/member_by_peer.rs` |
//! | 0x04 | join tokens | `family/token.rs` |
//! | 0x05 | locations by model | `family/location.rs` |
//! | 0x06 | locations by node | `family/node_model.rs` |
//! | 0x07 | settings | `family/setting.rs` |
//! | 0x08 | values | `family/value.rs` |
//! | 0x09 | what values take | `family/usage.rs` |
//! | 0x0a | leases | `family/lease.rs` |
//! | 0x0b | values by lease | `family/lease_value.rs` |
//! | 0x0c | client sessions | `family/session.rs` |
//! | 0x0d | what they were answered | `family/session_answer.rs` |
//! | 0x0e | deadlines | `family/deadline.rs` |
//! | 0x0f | counts | `family/counts.rs` |
//! | 0x10 | the ledger of migrations | `family/migration.rs` |
//! | 0x11 | what files of models must be | `family/blob.rs` |
//! | 0x12 | wishes for models | `family/wish.rs` |
//! | 0x13 | names of models | `family/model.rs` |
//! | 0x14 | versions of names | `family/version.rs` |
//! | 0x15 | tasks | `family/task.rs` |
//! | 0x16 | what requests with a key were answered | `family/once.rs` |
//! | 0x17 | keys of what clients carry | `family/state_keys.rs` |
//! | 0x19 | which tasks are not over, by whose they are | `family/open_task.rs` |

mod blob;
mod cluster;
mod counts;
mod deadline;
mod lease;
mod lease_value;
mod location;
mod member;
mod member_by_peer;
pub(crate) mod migration;
mod model;
mod node_model;
mod number;
mod once;
mod open_task;
pub(crate) mod placing;
mod present;
pub(crate) mod replicas;
mod role;
mod session;
mod session_answer;
mod setting;
mod state_keys;
pub(crate) mod task;
mod text;
mod token;
mod usage;
pub(crate) mod value;
mod version;
mod wish;

#[cfg(test)]
mod tests;

use ollamax_core::catalog::{Key, KeyRange, Record};

use crate::framing::Malformed;

/// First key of all records; what lies before are marks of the state itself.
pub(crate) const RECORDS_START: &[u8] = &[cluster::PREFIX];

pub(crate) fn encode_key(key: &Key) -> Vec<u8> {
    match key {
        Key::Cluster => cluster::encode_key(),
        Key::Member(node) => member::encode_key(*node),
        Key::MemberByPeer(peer) => member_by_peer::encode_key(peer),
        Key::Token(id) => token::encode_key(id),
        Key::Location(model, node) => location::encode_key(model, *node),
        Key::NodeModel(node, model) => node_model::encode_key(*node, model),
        Key::Setting(name) => setting::encode_key(name),
        Key::Value(namespace, key) => value::encode_key(namespace, key),
        Key::Usage(namespace, prefix) => usage::encode_key(namespace, prefix),
        Key::Lease(id) => lease::encode_key(*id),
        Key::LeaseValue(lease, namespace, key) => lease_value::encode_key(*lease, namespace, key),
        Key::Session(id) => session::encode_key(*id),
        Key::SessionAnswer(session, sequence) => session_answer::encode_key(*session, *sequence),
        Key::Deadline(at, due) => deadline::encode_key(*at, *due),
        Key::Counts => counts::encode_key(),
        Key::Migration(number) => migration::encode_key(*number),
        Key::Blob(sha256) => blob::encode_key(sha256),
        Key::Wish(model) => wish::encode_key(model),
        Key::Model(model) => model::encode_key(model),
        Key::Version(model, number) => version::encode_key(model, *number),
        Key::Task(id) => task::encode_key(id),
        Key::Once(key) => once::encode_key(key),
        Key::StateKeys => state_keys::encode_key(),
        Key::OpenTask(subject, id) => open_task::encode_key(subject, id),
    }
}

pub(crate) fn decode_key(bytes: &[u8]) -> Result<Key, Malformed> {
    let Some((prefix, rest)) = bytes.split_first() else {
        return Err(Malformed::new("key", "empty"));
    };
    match *prefix {
        cluster::PREFIX => cluster::decode_key(rest),
        member::PREFIX => member::decode_key(rest),
        member_by_peer::PREFIX => member_by_peer::decode_key(rest),
        token::PREFIX => token::decode_key(rest),
        location::PREFIX => location::decode_key(rest),
        node_model::PREFIX => node_model::decode_key(rest),
        setting::PREFIX => setting::decode_key(rest),
        value::PREFIX => value::decode_key(rest),
        usage::PREFIX => usage::decode_key(rest),
        lease::PREFIX => lease::decode_key(rest),
        lease_value::PREFIX => lease_value::decode_key(rest),
        session::PREFIX => session::decode_key(rest),
        session_answer::PREFIX => session_answer::decode_key(rest),
        deadline::PREFIX => deadline::decode_key(rest),
        counts::PREFIX => counts::decode_key(rest),
        migration::PREFIX => migration::decode_key(rest),
        blob::PREFIX => blob::decode_key(rest),
        wish::PREFIX => wish::decode_key(rest),
        model::PREFIX => model::decode_key(rest),
        version::PREFIX => version::decode_key(rest),
        task::PREFIX => task::decode_key(rest),
        once::PREFIX => once::decode_key(rest),
        state_keys::PREFIX => state_keys::decode_key(rest),
        open_task::PREFIX => open_task::decode_key(rest),
        other => Err(Malformed::new("key", format!("family {other:#04x} is not known to this release"))),
    }
}

/// The value for a key; an error when the record is of another family.
pub(crate) fn encode_record(key: &Key, record: &Record) -> Result<Vec<u8>, Malformed> {
    match (key, record) {
        (Key::Cluster, Record::Cluster(record)) => Ok(cluster::encode(record)),
        (Key::Member(_), Record::Member(record)) => Ok(member::encode(record)),
        (Key::MemberByPeer(_), Record::NodeId(node)) => Ok(member_by_peer::encode(*node)),
        (Key::Token(_), Record::Token(record)) => Ok(token::encode(record)),
        (Key::Location(..) | Key::NodeModel(..), Record::Location(record)) => Ok(location::encode(record)),
        (Key::Setting(_), Record::Setting(record)) => Ok(setting::encode(record)),
        (Key::Value(..), Record::Value(record)) => Ok(value::encode(record)),
        (Key::Usage(..), Record::Usage(record)) => Ok(usage::encode(*record)),
        (Key::Lease(_), Record::Lease(record)) => Ok(lease::encode(*record)),
        (Key::LeaseValue(..) | Key::Deadline(..) | Key::OpenTask(..), Record::Present) => Ok(present::encode()),
        (Key::Session(_), Record::Session(record)) => Ok(session::encode(record)),
        (Key::SessionAnswer(..), Record::Remembered(record)) => Ok(session_answer::encode(record)),
        (Key::Counts, Record::Counts(record)) => Ok(counts::encode(*record)),
        (Key::Migration(_), Record::Migration(record)) => Ok(migration::encode(record)),
        (Key::Blob(_), Record::Blob(record)) => Ok(blob::encode(record)),
        (Key::Wish(_), Record::Wish(record)) => Ok(wish::encode(record)),
        (Key::Model(_), Record::Model(record)) => Ok(model::encode(record)),
        (Key::Version(_, number), Record::Version(record)) if *number == record.number => Ok(version::encode(record)),
        (Key::Task(id), Record::Task(record)) if *id == record.id => Ok(task::encode(record)),
        (Key::Once(_), Record::Once(record)) => Ok(once::encode(record)),
        (Key::StateKeys, Record::StateKeys(record)) => Ok(state_keys::encode(record)),
        _ => Err(Malformed::new("record", format!("{key} cannot hold a record of another family"))),
    }
}

pub(crate) fn decode_record(key: &Key, bytes: &[u8]) -> Result<Record, Malformed> {
    Ok(match key {
        Key::Cluster => Record::Cluster(cluster::decode(bytes)?),
        Key::Member(_) => Record::Member(member::decode(bytes)?),
        Key::MemberByPeer(_) => Record::NodeId(member_by_peer::decode(bytes)?),
        Key::Token(_) => Record::Token(token::decode(bytes)?),
        Key::Location(..) | Key::NodeModel(..) => Record::Location(location::decode(bytes)?),
        Key::Setting(_) => Record::Setting(setting::decode(bytes)?),
        Key::Value(..) => Record::Value(value::decode(bytes)?),
        Key::Usage(..) => Record::Usage(usage::decode(bytes)?),
        Key::Lease(_) => Record::Lease(lease::decode(bytes)?),
        Key::LeaseValue(..) | Key::Deadline(..) | Key::OpenTask(..) => {
            present::decode(bytes)?;
            Record::Present
        }
        Key::Session(_) => Record::Session(session::decode(bytes)?),
        Key::SessionAnswer(..) => Record::Remembered(session_answer::decode(bytes)?),
        Key::Counts => Record::Counts(counts::decode(bytes)?),
        Key::Migration(_) => Record::Migration(Box::new(migration::decode(bytes)?)),
        Key::Blob(_) => Record::Blob(blob::decode(bytes)?),
        Key::Wish(_) => Record::Wish(Box::new(wish::decode(bytes)?)),
        Key::Model(_) => Record::Model(Box::new(model::decode(bytes)?)),
        Key::Version(_, number) => Record::Version(Box::new(version::decode(*number, bytes)?)),
        Key::Task(id) => Record::Task(Box::new(task::decode(*id, bytes)?)),
        Key::Once(_) => Record::Once(once::decode(bytes)?),
        Key::StateKeys => Record::StateKeys(state_keys::decode(bytes)?),
    })
}

/// What all keys of a range begin with, and no others.
pub(crate) fn range_prefix(range: &KeyRange) -> Vec<u8> {
    match range {
        KeyRange::Members => vec![member::PREFIX],
        KeyRange::Tokens => vec![token::PREFIX],
        KeyRange::Locations => vec![location::PREFIX],
        KeyRange::LocationsOf(model) => location::prefix_of_model(model),
        KeyRange::ModelsOf(node) => node_model::prefix_of_node(*node),
        KeyRange::Settings(start) => setting::prefix_of(start),
        KeyRange::Values(namespace, start) => value::encode_key(namespace, start),
        KeyRange::Leases => vec![lease::PREFIX],
        KeyRange::LeaseValues(lease) => lease_value::prefix_of_lease(*lease),
        KeyRange::SessionAnswers(session) => session_answer::prefix_of_session(*session),
        KeyRange::Sessions => vec![session::PREFIX],
        KeyRange::Deadlines => vec![deadline::PREFIX],
        KeyRange::Migrations => vec![migration::PREFIX],
        KeyRange::Blobs => vec![blob::PREFIX],
        KeyRange::Wishes => vec![wish::PREFIX],
        KeyRange::Models => vec![model::PREFIX],
        KeyRange::VersionsOf(model) => version::prefix_of_model(model),
        KeyRange::Tasks => vec![task::PREFIX],
        KeyRange::OpenTasks => vec![open_task::PREFIX],
        KeyRange::OpenTasksOf(subject) => open_task::prefix_of_subject(subject),
    }
}

/// What people call the family of a stored key; `None` when this release does not know it.
pub(crate) fn name_of(key: &[u8]) -> Option<&'static str> {
    let name = match *key.first()? {
        cluster::PREFIX => "cluster",
        member::PREFIX => "members",
        member_by_peer::PREFIX => "members by key",
        token::PREFIX => "tokens",
        location::PREFIX => "locations",
        node_model::PREFIX => "models by node",
        setting::PREFIX => "settings",
        value::PREFIX => "values",
        usage::PREFIX => "usage",
        lease::PREFIX => "leases",
        lease_value::PREFIX => "values by lease",
        session::PREFIX => "sessions",
        session_answer::PREFIX => "session answers",
        deadline::PREFIX => "deadlines",
        counts::PREFIX => "counts",
        migration::PREFIX => "migrations",
        blob::PREFIX => "blobs",
        wish::PREFIX => "wishes",
        model::PREFIX => "names",
        version::PREFIX => "versions",
        task::PREFIX => "tasks",
        once::PREFIX => "keyed answers",
        state_keys::PREFIX => "state keys",
        open_task::PREFIX => "open tasks",
        _ => return None,
    };
    Some(name)
}

/// The least key that is greater than every key with this prefix; `None` when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}
