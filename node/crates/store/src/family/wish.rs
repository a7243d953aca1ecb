//! Wishes for models, by model.
//!
//! Key: `12`, model key (open text). Value: version 1, `WishRecord`. Replaced by a new round and by what happens in a
//! round, deleted when nobody asks for the model any more. No node has the id 0, so an ingester of 0 says that nothing
//! is planned.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Failure, Key, Plan, Wish};
use ollamax_proto::disk;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Timestamp};

use super::{placing, replicas, text};
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x12;
const VERSION: u8 = 1;
const WHAT: &str = "wish record";

pub(super) fn encode_key(model: &str) -> Vec<u8> {
    text::prefixed(PREFIX, model)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Wish(text::read("wish key", rest)?))
}

pub(super) fn encode(record: &Wish) -> Vec<u8> {
    let plan = record.plan.as_ref();
    let message = disk::WishRecord {
        name: record.name.full(),
        round: record.round,
        insecure: record.insecure,
        replicas: Some(replicas::encode(&record.replicas)),
        digest: record.digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        size_bytes: record.size_bytes,
        ingester: plan.map_or(0, |plan| plan.ingester.0),
        targets: plan.into_iter().flat_map(|plan| &plan.targets).map(|node| node.0).collect(),
        failures: record.failures.iter().map(|(node, failure)| failed(*node, failure)).collect(),
        asked_at_ms: record.asked_at.0,
        asked_by: record.asked_by.clone(),
        planned_at_ms: plan.map_or(0, |plan| plan.made_at.0),
        want: placing::want(&record.want),
        declared: record.declared,
        surplus: record.surplus.iter().map(|node| node.0).collect(),
        shared: record.shared,
        plan_kind: plan.map_or(0, |plan| placing::kind(plan.kind)),
    };
    seal(VERSION, &message)
}

fn failed(node: NodeId, failure: &Failure) -> disk::WishFailure {
    let (code, text) = (failure.code.as_str().to_owned(), failure.text.clone());
    disk::WishFailure { node: node.0, code, text, at_ms: failure.at.0, by_hand: failure.by_hand }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Wish, Malformed> {
    let message: disk::WishRecord = unseal(WHAT, VERSION, bytes)?;
    let name: ModelName =
        message.name.parse().map_err(|_| Malformed::new(WHAT, format!("{:?} is not a model name", message.name)))?;
    let digest = if message.digest.is_empty() { None } else { Some(Digest(fixed(WHAT, &message.digest)?)) };
    let kind = placing::kind_of(message.plan_kind)
        .ok_or_else(|| Malformed::new(WHAT, format!("plan of kind {} is not known", message.plan_kind)))?;
    let plan = (message.ingester != 0).then(|| Plan {
        ingester: NodeId(message.ingester),
        targets: message.targets.into_iter().map(NodeId).collect(),
        made_at: Timestamp(message.planned_at_ms),
        kind,
    });
    Ok(Wish {
        name,
        round: message.round,
        insecure: message.insecure,
        replicas: replicas::decode(message.replicas)
            .ok_or_else(|| Malformed::new(WHAT, "its nodes are told in a way that this release does not know"))?,
        digest,
        size_bytes: message.size_bytes,
        plan,
        failures: message.failures.into_iter().map(failure).collect::<Result<BTreeMap<_, _>, _>>()?,
        asked_at: Timestamp(message.asked_at_ms),
        asked_by: message.asked_by,
        want: placing::want_of(message.want),
        declared: message.declared,
        surplus: message.surplus.into_iter().map(NodeId).collect(),
        shared: message.shared,
    })
}

fn failure(message: disk::WishFailure) -> Result<(NodeId, Failure), Malformed> {
    let code = ErrorCode::from_text(&message.code)
        .ok_or_else(|| Malformed::new(WHAT, format!("{:?} is no error code of this release", message.code)))?;
    let (text, at, by_hand) = (message.text, Timestamp(message.at_ms), message.by_hand);
    Ok((NodeId(message.node), Failure { code, text, at, by_hand }))
}
