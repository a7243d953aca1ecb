//! Between the messages of the values' API and the words of the state.

use ollamax_core::catalog::txn::{Condition, Effect, Op, Operand, Relation, Txn};
use ollamax_core::catalog::{Lease, Value};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::kv_condition::Operand as Given;
use ollamax_proto::v1::kv_effect::Effect as Told;
use ollamax_proto::v1::kv_op::Op as Asked;
use ollamax_types::ErrorCode;

use crate::grpc::daemon::AdminError;

pub(super) fn value(key: String, value: Value, keys_only: bool) -> v1::KvValue {
    v1::KvValue {
        key,
        value: if keys_only { Vec::new() } else { value.bytes },
        created: value.created,
        modified: value.modified,
        version: value.version,
        lease: value.lease.unwrap_or(0),
    }
}

pub(super) fn lease(id: u64, lease: Lease) -> v1::KvLease {
    v1::KvLease { id, ttl_ms: lease.ttl_ms, ends_at_ms: lease.ends_at.0, values: lease.values }
}

pub(super) fn event(event: metadata::Event) -> v1::KvEvent {
    let metadata::Event { revision, key, value: now, .. } = event;
    let value = now.map(|now| value(key.clone(), now, false));
    v1::KvEvent { revision, key, value }
}

/// The key of what was got is the caller's own; it is not told again.
pub(super) fn effect(effect: Effect) -> v1::KvEffect {
    let effect = match effect {
        Effect::Got(found) => Told::Got(v1::KvGot { value: found.map(|found| value(String::new(), found, false)) }),
        Effect::Put { previous } => Told::Put(previous),
        Effect::Deleted { previous } => Told::Deleted(previous),
    };
    v1::KvEffect { effect: Some(effect) }
}

pub(super) fn txn(request: v1::TxnRequest) -> Result<Txn, AdminError> {
    let ops = |ops: Vec<v1::KvOp>| ops.into_iter().map(op).collect::<Result<_, _>>();
    Ok(Txn {
        conditions: request.conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        then: ops(request.then)?,
        otherwise: ops(request.otherwise)?,
    })
}

fn condition(given: v1::KvCondition) -> Result<Condition, AdminError> {
    let relation = match given.relation() {
        v1::kv_condition::Relation::Equal => Relation::Equal,
        v1::kv_condition::Relation::NotEqual => Relation::NotEqual,
        v1::kv_condition::Relation::Less => Relation::Less,
        v1::kv_condition::Relation::Greater => Relation::Greater,
        v1::kv_condition::Relation::Unspecified => return Err(missing("a condition has no relation")),
    };
    let operand = match given.operand.ok_or_else(|| missing("a condition has nothing to compare with"))? {
        Given::Version(given) => Operand::Version(given),
        Given::Created(given) => Operand::Created(given),
        Given::Modified(given) => Operand::Modified(given),
        Given::Lease(given) => Operand::Lease(given),
        Given::Value(given) => Operand::Bytes(given),
    };
    Ok(Condition { key: given.key, operand, relation })
}

fn op(asked: v1::KvOp) -> Result<Op, AdminError> {
    Ok(match asked.op.ok_or_else(|| missing("an operation says nothing"))? {
        Asked::Get(key) => Op::Get { key },
        Asked::Put(put) => {
            Op::Put { key: put.key, bytes: put.value, lease: Some(put.lease).filter(|lease| *lease != 0) }
        }
        Asked::Delete(key) => Op::Delete { key },
    })
}

fn missing(what: &str) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, what, "this release does not know it, or it was left out", "")
}
