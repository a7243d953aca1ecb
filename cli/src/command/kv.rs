//! `ollamax kv`: small values that the lab shares.
//!
//! Keys begin with `user/`; where it is missing, it is put before them. What is shown of a value is its bytes as they
//! are; in JSON a value that is no text stands as `valueBase64`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use ollamax_proto::v1::{
    GetQuotaRequest, KvCondition, KvEffect, KvHeader, KvOp, KvPut, KvValue, RangeRequest, ReadLevel, SetQuotaRequest,
    TxnReply, TxnRequest, WatchRequest, kv_condition, kv_effect, kv_op, read_level,
};
use ollamax_types::ErrorCode;
use ollamax_types::limits::VALUE_BYTES_MAX;

use crate::args::{Global, KvCommand, Output, Read, ReadArgs};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

mod lease;

/// What the keys begin with.
const PREFIX: &str = "user/";
/// Keys of one page.
const PAGE: u32 = 500;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: KvCommand) -> Result<(), Failure> {
    match command {
        KvCommand::Get { key, read } => get(global, whole(key), &read).await,
        KvCommand::Put { key, value, lease } => put(global, whole(key), value, lease).await,
        KvCommand::Cas { key, value, modified, absent: _, lease } => {
            cas(global, whole(key), value, (modified.unwrap_or(0), lease)).await
        }
        KvCommand::Delete { key, modified } => delete(global, whole(key), modified).await,
        KvCommand::List { prefix, keys, read } => list(global, whole(prefix), keys, &read).await,
        KvCommand::Watch { key, prefix, from } => {
            let prefix = prefix || key.is_empty();
            watch(global, WatchRequest { key: whole(key), prefix, from: from.unwrap_or(0), progress_ms: 0 }).await
        }
        KvCommand::Quota { set } => quota(global, set).await,
        KvCommand::Lease(command) => lease::run(global, command).await,
    }
}

fn whole(key: String) -> String {
    if key.starts_with(PREFIX) { key } else { format!("{PREFIX}{key}") }
}

/// The level, as the daemon is asked for it.
fn level(read: &ReadArgs) -> ReadLevel {
    let level = match read.read {
        Read::Linearizable => read_level::Level::Linearizable,
        Read::Lease => read_level::Level::Lease,
        Read::Stale => read_level::Level::Stale,
    };
    let max_age_ms = read.max_age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    ReadLevel { level: level.into(), max_age_ms, min_revision: 0 }
}

async fn get(global: &Global, key: String, read: &ReadArgs) -> Result<(), Failure> {
    let request = RangeRequest { key: key.clone(), read: Some(level(read)), ..RangeRequest::default() };
    let answer = client::connect_kv(global).await?.range(request).await?;
    let (id, found) = (request_id(answer.metadata()), answer.into_inner());
    let header = found.header.unwrap_or_default();
    let Some(value) = found.values.first() else {
        let why = format!("nobody has set it, or it was deleted, up to revision {}", header.revision);
        let next = format!("ollamax kv put {key} VALUE, or ollamax kv list");
        return Err(Failure::told(ErrorCode::KeyNotFound, &format!("there is no value {key:?}"), &why, &next)
            .with_request_id(&id));
    };
    if global.output == Output::Json {
        return output::json("KvValue", with_header(shown(value, false), &header));
    }
    say_age(global, &header);
    output::bytes_line(&value.value)
}

async fn put(global: &Global, key: String, value: String, lease: Option<u64>) -> Result<(), Failure> {
    let put = KvPut { key: key.clone(), value: given(value).await?, lease: lease.unwrap_or(0) };
    let request = TxnRequest { then: vec![op(kv_op::Op::Put(put))], ..TxnRequest::default() };
    let done = client::connect_kv(global).await?.txn(request).await?.into_inner();
    told(global, &key, &done, "set")
}

async fn cas(
    global: &Global,
    key: String,
    value: String,
    (modified, lease): (u64, Option<u64>),
) -> Result<(), Failure> {
    let put = KvPut { key: key.clone(), value: given(value).await?, lease: lease.unwrap_or(0) };
    let then = vec![op(kv_op::Op::Put(put))];
    changed_if(global, &key, modified, then, "set").await
}

async fn delete(global: &Global, key: String, modified: Option<u64>) -> Result<(), Failure> {
    let then = vec![op(kv_op::Op::Delete(key.clone()))];
    if let Some(modified) = modified {
        return changed_if(global, &key, modified, then, "deleted").await;
    }
    let request = TxnRequest { then, ..TxnRequest::default() };
    let done = client::connect_kv(global).await?.txn(request).await?.into_inner();
    if previous(&done) == 0 {
        let next = "ollamax kv list";
        return Err(Failure::told(ErrorCode::KeyNotFound, &format!("there is no value {key:?}"), "", next));
    }
    told(global, &key, &done, "deleted")
}

/// Does it only if this revision changed the key last; 0: if it is not there.
async fn changed_if(global: &Global, key: &str, modified: u64, then: Vec<KvOp>, verb: &str) -> Result<(), Failure> {
    let condition = KvCondition {
        key: key.to_owned(),
        relation: kv_condition::Relation::Equal.into(),
        operand: Some(kv_condition::Operand::Modified(modified)),
    };
    // A large value is not needed to tell that somebody was faster, so nothing is read in the other case.
    let request = TxnRequest { conditions: vec![condition], then, ..TxnRequest::default() };
    let answer = client::connect_kv(global).await?.txn(request).await?;
    let (id, done) = (request_id(answer.metadata()), answer.into_inner());
    if done.held {
        return told(global, key, &done, verb);
    }
    let what = match modified {
        0 => format!("{key:?} is there already"),
        modified => format!("revision {modified} is not the last that changed {key:?}"),
    };
    let next = format!("ollamax kv get {key} -o json, then again with --modified");
    let why = "somebody else was faster; nothing was changed";
    Err(Failure::told(ErrorCode::PreconditionFailed, &what, why, &next).with_request_id(&id))
}

async fn list(global: &Global, prefix: String, keys: bool, read: &ReadArgs) -> Result<(), Failure> {
    let mut kv = client::connect_kv(global).await?;
    let (mut values, mut after) = (Vec::new(), String::new());
    let mut read = level(read);
    let header = loop {
        let request = RangeRequest {
            key: prefix.clone(),
            prefix: true,
            after: after.clone(),
            limit: PAGE,
            keys_only: keys,
            read: Some(read),
        };
        let page = kv.range(request).await?.into_inner();
        values.extend(page.values);
        after = values.last().map(|value| value.key.clone()).unwrap_or_default();
        let header = page.header.unwrap_or_default();
        if !page.more {
            break header;
        }
        read.min_revision = header.revision; // No page is older than the one before.
    };
    if global.output == Output::Json {
        let values: Vec<Value> = values.iter().map(|value| shown(value, keys)).collect();
        return output::json("KvValueList", with_header(json!({"values": values}), &header));
    }
    say_age(global, &header);
    let rows = values.iter().map(|value| {
        let row = [value.key.clone(), value.modified.to_string(), value.version.to_string()];
        let last = if keys { None } else { Some(text::in_one_line(&value.value)) };
        row.into_iter().chain(last).collect()
    });
    let columns = ["KEY", "MODIFIED", "VERSION", "VALUE"];
    output::text(&output::table(&columns[..if keys { 3 } else { 4 }], rows.collect()))
}

async fn watch(global: &Global, request: WatchRequest) -> Result<(), Failure> {
    let answer = client::connect_kv(global).await?.watch(request).await?;
    let (id, mut changes) = (request_id(answer.metadata()), answer.into_inner());
    while let Some(reply) = changes.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        let header = reply.header.unwrap_or_default();
        if global.output == Output::Json && reply.events.is_empty() {
            output::json_line("KvProgress", with_header(json!({}), &header))?;
        }
        for event in reply.events {
            let value = event.value.as_ref();
            if global.output == Output::Json {
                let change = if value.is_some() { "put" } else { "delete" };
                let mut fields = value.map_or_else(|| json!({"key": event.key}), |value| shown(value, false));
                fields["change"] = change.into();
                fields["revision"] = event.revision.into();
                output::json_line("KvEvent", fields)?;
            } else {
                let now = value.map_or_else(|| "deleted".to_owned(), |value| text::in_one_line(&value.value));
                output::line(&format!("{} {} {now}", event.revision, event.key))?;
            }
        }
    }
    let next = "watch again with --from REVISION, behind the last that you saw";
    Err(Failure::new(7, "the daemon ended the watch", "it is stopping", next).with_request_id(&id))
}

async fn quota(global: &Global, set: Option<u64>) -> Result<(), Failure> {
    let mut kv = client::connect_kv(global).await?;
    if let Some(bytes_max) = set {
        kv.set_quota(SetQuotaRequest { prefix: PREFIX.to_owned(), bytes_max }).await?;
    }
    let quota = kv.get_quota(GetQuotaRequest { prefix: PREFIX.to_owned(), read: None }).await?.into_inner();
    if global.output == Output::Json {
        let fields = json!({
            "prefix": PREFIX,
            "keys": quota.keys,
            "bytes": quota.bytes,
            "bytesMax": quota.bytes_max,
        });
        return output::json("KvQuota", with_header(fields, &quota.header.unwrap_or_default()));
    }
    let keys = text::count(usize::try_from(quota.keys).unwrap_or(usize::MAX), "value");
    let (used, most) = (text::bytes(quota.bytes), text::bytes(quota.bytes_max));
    output::line(&format!("{keys} under {PREFIX}, {used} of {most}."))
}

/// A value from the command line, or from standard input.
async fn given(value: String) -> Result<Vec<u8>, Failure> {
    if value != "-" {
        return Ok(value.into_bytes());
    }
    let mut bytes = Vec::new();
    let room = VALUE_BYTES_MAX as u64 + 1;
    let read = tokio::io::stdin().take(room).read_to_end(&mut bytes).await;
    read.map_err(|error| Failure::usage(format!("standard input: {error}"), "ollamax kv put KEY - < FILE"))?;
    if bytes.len() > VALUE_BYTES_MAX {
        let what = format!("standard input has more than {VALUE_BYTES_MAX} bytes, which is the limit of a value");
        return Err(Failure::usage(what, "large files do not belong here; keep their address"));
    }
    Ok(bytes)
}

fn op(op: kv_op::Op) -> KvOp {
    KvOp { op: Some(op) }
}

/// The revision of what a key held before.
fn previous(done: &TxnReply) -> u64 {
    match done.effects.first() {
        Some(KvEffect { effect: Some(kv_effect::Effect::Put(previous) | kv_effect::Effect::Deleted(previous)) }) => {
            *previous
        }
        _ => 0,
    }
}

fn told(global: &Global, key: &str, done: &TxnReply, verb: &str) -> Result<(), Failure> {
    let header = done.header.unwrap_or_default();
    if global.output == Output::Json {
        let fields = json!({"key": key, "change": verb, "previous": previous(done)});
        return output::json("KvChange", with_header(fields, &header));
    }
    output::line(&format!("{key} is {verb} at revision {}.", header.revision))
}

fn say_age(global: &Global, header: &KvHeader) {
    if let Some(age) = header.age_ms.filter(|age| *age > 0) {
        let line = format!("As node {} has it, up to {} old.", header.node_id, text::span(age));
        output::talk(global.output, &line);
    }
}

fn with_header(mut fields: Value, header: &KvHeader) -> Value {
    fields["revision"] = header.revision.into();
    fields["term"] = header.term.into();
    fields["node"] = header.node_id.into();
    fields["ageMs"] = header.age_ms.into();
    fields
}

fn shown(value: &KvValue, keys_only: bool) -> Value {
    let mut fields = json!({
        "key": value.key,
        "created": value.created,
        "modified": value.modified,
        "version": value.version,
        "lease": (value.lease != 0).then_some(value.lease),
    });
    if keys_only {
        return fields;
    }
    match std::str::from_utf8(&value.value) {
        Ok(text) => fields["value"] = text.into(),
        Err(_) => fields["valueBase64"] = STANDARD.encode(&value.value).into(),
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_under_user() {
        for (given, expected) in [("a", "user/a"), ("user/a", "user/a"), ("", "user/"), ("users/a", "user/users/a")] {
            assert_eq!(whole(given.to_owned()), expected);
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_told_in_base64() {
        let value = KvValue { key: "user/a".into(), value: vec![0xff], modified: 3, lease: 9, ..KvValue::default() };
        let fields = shown(&value, false);
        assert_eq!((&fields["valueBase64"], &fields["lease"]), (&json!("/w=="), &json!(9)));
        assert!(fields.get("value").is_none());
        let text = KvValue { value: b"hi".to_vec(), lease: 0, ..value };
        assert_eq!((&shown(&text, false)["value"], &shown(&text, false)["lease"]), (&json!("hi"), &Value::Null));
        assert!(shown(&text, true).get("value").is_none());
    }
}
