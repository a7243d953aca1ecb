//! Transactions within an envelope.
//!
//! A condition, relation or operation that this release does not know is an error: a transaction is understood whole
//! or not at all.

use ollamax_core::catalog::Txn;
use ollamax_core::catalog::txn::{Condition, Op, Operand, Relation};
use ollamax_proto::disk;
use ollamax_proto::disk::txn_condition::Operand as StoredOperand;
use ollamax_proto::disk::txn_op::Op as StoredOp;

use super::EnvelopeError;

pub(super) fn encode(txn: Txn) -> disk::CommandTxn {
    let ops = |ops: Vec<Op>| ops.into_iter().map(encode_op).collect();
    disk::CommandTxn {
        conditions: txn.conditions.into_iter().map(encode_condition).collect(),
        then: ops(txn.then),
        otherwise: ops(txn.otherwise),
    }
}

pub(super) fn decode(stored: disk::CommandTxn) -> Result<Txn, EnvelopeError> {
    let ops = |ops: Vec<disk::TxnOp>| ops.into_iter().map(decode_op).collect::<Result<_, _>>();
    Ok(Txn {
        conditions: stored.conditions.into_iter().map(decode_condition).collect::<Result<_, _>>()?,
        then: ops(stored.then)?,
        otherwise: ops(stored.otherwise)?,
    })
}

fn encode_condition(condition: Condition) -> disk::TxnCondition {
    let operand = match condition.operand {
        Operand::Version(given) => StoredOperand::Version(given),
        Operand::Created(given) => StoredOperand::Created(given),
        Operand::Modified(given) => StoredOperand::Modified(given),
        Operand::Lease(given) => StoredOperand::Lease(given),
        Operand::Bytes(given) => StoredOperand::Value(given),
    };
    let relation = match condition.relation {
        Relation::Equal => disk::TxnRelation::Equal,
        Relation::NotEqual => disk::TxnRelation::NotEqual,
        Relation::Less => disk::TxnRelation::Less,
        Relation::Greater => disk::TxnRelation::Greater,
    };
    disk::TxnCondition { key: condition.key, relation: relation.into(), operand: Some(operand) }
}

fn decode_condition(stored: disk::TxnCondition) -> Result<Condition, EnvelopeError> {
    let operand = match stored.operand.ok_or(EnvelopeError::Field("operand"))? {
        StoredOperand::Version(given) => Operand::Version(given),
        StoredOperand::Created(given) => Operand::Created(given),
        StoredOperand::Modified(given) => Operand::Modified(given),
        StoredOperand::Lease(given) => Operand::Lease(given),
        StoredOperand::Value(given) => Operand::Bytes(given),
    };
    let relation = match disk::TxnRelation::try_from(stored.relation) {
        Ok(disk::TxnRelation::Equal) => Relation::Equal,
        Ok(disk::TxnRelation::NotEqual) => Relation::NotEqual,
        Ok(disk::TxnRelation::Less) => Relation::Less,
        Ok(disk::TxnRelation::Greater) => Relation::Greater,
        Ok(disk::TxnRelation::Unspecified) | Err(_) => return Err(EnvelopeError::Field("relation")),
    };
    Ok(Condition { key: stored.key, operand, relation })
}

fn encode_op(op: Op) -> disk::TxnOp {
    let op = match op {
        Op::Get { key } => StoredOp::Get(key),
        Op::Put { key, bytes, lease } => StoredOp::Put(disk::TxnPut { key, value: bytes, lease: lease.unwrap_or(0) }),
        Op::Delete { key } => StoredOp::Delete(key),
    };
    disk::TxnOp { op: Some(op) }
}

fn decode_op(stored: disk::TxnOp) -> Result<Op, EnvelopeError> {
    Ok(match stored.op.ok_or(EnvelopeError::Field("operation"))? {
        StoredOp::Get(key) => Op::Get { key },
        StoredOp::Put(put) => {
            Op::Put { key: put.key, bytes: put.value, lease: Some(put.lease).filter(|lease| *lease != 0) }
        }
        StoredOp::Delete(key) => Op::Delete { key },
    })
}
