//! Values: read and changed by transactions, bounded by quotas, bound to leases.
//!
//! Always holds: [`Usage`] equals the sum over the values that it is about; `LeaseValue` exists exactly for values that
//! go with a lease, and [`crate::catalog::Lease::values`] counts them; deletes are never refused for want of room.

use std::collections::BTreeSet;

use ollamax_types::limits::{
    LEASE_VALUES_MAX, QUOTA_BYTES_MAX, TXN_ANSWER_BYTES_MAX, TXN_OPS_MAX, USER_BYTES_MAX_DEFAULT, VALUE_BYTES_MAX,
    VALUE_KEY_BYTES_MAX,
};

use super::draft::Draft;
use super::limit::{check_bytes, check_count, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, leases};
use crate::catalog::command::Answer;
use crate::catalog::read;
use crate::catalog::record::{Key, Record, Usage, Value};
use crate::catalog::txn::{Effect, Op, Txn};
use crate::catalog::view::{Fault, View};

/// What the keys of values may begin with, and the bytes that they may take where nothing else was set.
const PREFIXES: [(&str, u64); 1] = [("user/", USER_BYTES_MAX_DEFAULT)];

/// What the keys of values may begin with, for people.
#[must_use]
pub fn prefixes() -> String {
    PREFIXES.map(|(prefix, _)| prefix).join(", ")
}

/// The bytes that the values under a prefix may take where nothing else was set; `None`: no values lie there.
#[must_use]
pub fn bytes_max_of(prefix: &str) -> Option<u64> {
    PREFIXES.into_iter().find(|(known, _)| *known == prefix).map(|(_, bytes_max)| bytes_max)
}

/// What the values of a namespace take, and may take, for each prefix that they may have.
///
/// # Errors
/// When the state cannot be read.
pub fn quotas(view: &dyn View, namespace: &str) -> Result<Vec<(&'static str, Usage)>, Fault> {
    let usage_of = |(prefix, bytes_max): (&'static str, u64)| {
        let usage = read::usage(view, namespace, prefix)?;
        Ok::<_, Fault>((prefix, usage.unwrap_or(Usage { keys: 0, bytes: 0, bytes_max })))
    };
    PREFIXES.into_iter().map(usage_of).collect()
}

/// The known prefix under which a value's key lies; its usage is counted there.
#[must_use]
pub fn value_prefix(key: &str) -> Option<&'static str> {
    prefix_of(key).map(|(prefix, _)| prefix)
}

/// The prefix under which a key lies.
fn prefix_of(key: &str) -> Option<(&'static str, u64)> {
    PREFIXES.into_iter().find(|(prefix, _)| key.starts_with(prefix))
}

pub(super) fn txn(scene: &Scene<'_>, txn: &Txn) -> Step {
    check(txn)?;
    let draft = Draft::new(scene.view);
    let namespace = &scene.entry.namespace;
    let mut held = true;
    for condition in &txn.conditions {
        held = held && condition.holds(read::value(&draft, namespace, &condition.key)?.as_ref());
    }
    let mut room = TXN_ANSWER_BYTES_MAX;
    let mut effects = Vec::new();
    for op in if held { &txn.then } else { &txn.otherwise } {
        effects.push(match op {
            Op::Get { key } => Effect::Got(got(&draft, namespace, key, &mut room)?),
            Op::Put { key, bytes, lease } => Effect::Put { previous: put(scene, &draft, key, bytes, *lease)? },
            Op::Delete { key } => Effect::Deleted { previous: delete(&draft, namespace, key)? },
        });
    }
    Ok(Applied::new(draft.into_mutations(), Answer::Txn { held, effects }))
}

fn check(txn: &Txn) -> Result<(), Stop> {
    let lists = [("conditions", txn.conditions.len()), ("then", txn.then.len()), ("else", txn.otherwise.len())];
    lists.into_iter().try_for_each(|(field, count)| check_count(field, count, TXN_OPS_MAX))?;
    txn.conditions.iter().try_for_each(|condition| check_key(&condition.key))?;
    for ops in [&txn.then, &txn.otherwise] {
        let mut written = BTreeSet::new();
        for op in ops {
            check_key(op.key())?;
            if op.writes() && !written.insert(op.key()) {
                return Err(invalid(format!("key {:?} is written twice in one transaction", op.key())));
            }
            if let Op::Put { bytes, .. } = op
                && bytes.len() > VALUE_BYTES_MAX
            {
                return Err(invalid(format!("the value has {} bytes; the limit is {VALUE_BYTES_MAX}", bytes.len())));
            }
        }
    }
    Ok(())
}

/// A prefix that values may have, and something behind it.
fn check_key(key: &str) -> Result<(), Stop> {
    check_bytes("the key", key, VALUE_KEY_BYTES_MAX)?;
    if key.chars().any(char::is_control) {
        return Err(invalid(format!("key {key:?} holds a control character")));
    }
    match prefix_of(key) {
        Some((prefix, _)) if key.len() > prefix.len() => Ok(()),
        Some((prefix, _)) => Err(invalid(format!("key {key:?} has nothing behind {prefix}"))),
        None => Err(invalid(format!("key {key:?} does not begin with {}", prefixes()))),
    }
}

fn got(draft: &Draft<'_>, namespace: &str, key: &str, room: &mut usize) -> Result<Option<Value>, Stop> {
    let value = read::value(draft, namespace, key)?;
    let bytes = value.as_ref().map_or(0, |value| value.bytes.len());
    *room = room.checked_sub(bytes).ok_or_else(|| {
        invalid(format!(
            "the transaction would answer more than {TXN_ANSWER_BYTES_MAX} bytes of values; read {key:?} alone"
        ))
    })?;
    Ok(value)
}

fn put(scene: &Scene<'_>, draft: &Draft<'_>, key: &str, bytes: &[u8], lease: Option<u64>) -> Result<u64, Stop> {
    let namespace = &scene.entry.namespace;
    let old = read::value(draft, namespace, key)?;
    account(draft, namespace, key, old.as_ref().map(|old| size(key, &old.bytes)), Some(size(key, bytes)))?;
    let held_by = old.as_ref().and_then(|value| value.lease);
    if held_by != lease {
        if let Some(lease) = lease {
            attach(scene, draft, lease, key)?;
        }
        if let Some(lease) = held_by {
            detach(draft, lease, namespace, key)?;
        }
    } else if let Some(lease) = lease {
        leases::running(draft, lease, scene.entry.log_time)?;
    }
    let value = Value {
        bytes: bytes.to_vec(),
        created: old.as_ref().map_or(scene.index, |old| old.created),
        modified: scene.index,
        version: old.as_ref().map_or(1, |old| old.version + 1),
        lease,
    };
    draft.put(Key::Value(namespace.clone(), key.to_owned()), Record::Value(value));
    Ok(old.map_or(0, |old| old.modified))
}

/// Removes a value, its bytes from the usage, and it from its lease.
pub(super) fn delete(draft: &Draft<'_>, namespace: &str, key: &str) -> Result<u64, Stop> {
    let Some(old) = read::value(draft, namespace, key)? else { return Ok(0) };
    account(draft, namespace, key, Some(size(key, &old.bytes)), None)?;
    if let Some(lease) = old.lease {
        detach(draft, lease, namespace, key)?;
    }
    draft.delete(Key::Value(namespace.to_owned(), key.to_owned()));
    Ok(old.modified)
}

fn size(key: &str, bytes: &[u8]) -> u64 {
    key.len() as u64 + bytes.len() as u64
}

/// Counts one value's bytes: before and after. Refuses what would grow beyond the quota.
fn account(draft: &Draft<'_>, namespace: &str, key: &str, old: Option<u64>, new: Option<u64>) -> Result<(), Stop> {
    let broken = |what: &str| Fault::Invariant(format!("usage does not count {what} {key:?}"));
    let (prefix, bytes_max) = prefix_of(key).ok_or_else(|| broken("the prefix of"))?;
    let usage = read::usage(draft, namespace, prefix)?.unwrap_or(Usage { keys: 0, bytes: 0, bytes_max });
    let without = usage.bytes.checked_sub(old.unwrap_or(0)).ok_or_else(|| broken("the bytes of"))?;
    let keys = (usage.keys + u64::from(new.is_some())).checked_sub(u64::from(old.is_some()));
    let bytes = without + new.unwrap_or(0);
    if bytes > usage.bytes.max(usage.bytes_max) {
        return Err(exceeded(format!("what lies under {prefix}"), bytes, usage.bytes_max, "bytes"));
    }
    let usage = Usage { keys: keys.ok_or_else(|| broken("the key"))?, bytes, ..usage };
    draft.put(Key::Usage(namespace.to_owned(), prefix.to_owned()), Record::Usage(usage));
    Ok(())
}

fn attach(scene: &Scene<'_>, draft: &Draft<'_>, id: u64, key: &str) -> Result<(), Stop> {
    let mut lease = leases::running(draft, id, scene.entry.log_time)?;
    if lease.values >= LEASE_VALUES_MAX {
        let limit = u64::from(LEASE_VALUES_MAX);
        return Err(exceeded(format!("lease {id}"), limit + 1, limit, "values"));
    }
    lease.values += 1;
    draft.put(Key::Lease(id), Record::Lease(lease));
    draft.put(Key::LeaseValue(id, scene.entry.namespace.clone(), key.to_owned()), Record::Present);
    Ok(())
}

fn detach(draft: &Draft<'_>, id: u64, namespace: &str, key: &str) -> Result<(), Stop> {
    let broken = || Fault::Invariant(format!("lease {id} does not hold {key:?}"));
    let mut lease = read::lease(draft, id)?.ok_or_else(broken)?;
    lease.values = lease.values.checked_sub(1).ok_or_else(broken)?;
    draft.put(Key::Lease(id), Record::Lease(lease));
    draft.delete(Key::LeaseValue(id, namespace.to_owned(), key.to_owned()));
    Ok(())
}

pub(super) fn set_quota(scene: &Scene<'_>, prefix: &str, bytes_max: u64) -> Step {
    if bytes_max_of(prefix).is_none() {
        return Err(invalid(format!("there is no quota for {prefix:?}; there is one for {}", prefixes())));
    }
    if bytes_max > QUOTA_BYTES_MAX {
        return Err(invalid(format!("a quota of {bytes_max} bytes; the limit is {QUOTA_BYTES_MAX}")));
    }
    let namespace = &scene.entry.namespace;
    let usage = read::usage(scene.view, namespace, prefix)?.unwrap_or(Usage { keys: 0, bytes: 0, bytes_max });
    let key = Key::Usage(namespace.clone(), prefix.to_owned());
    Ok(Applied::done(vec![super::put(key, Record::Usage(Usage { bytes_max, ..usage }))]))
}
