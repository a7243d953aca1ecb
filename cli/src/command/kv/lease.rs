//! `ollamax kv lease`: times that end by themselves.

use std::time::Duration;

use serde_json::{Value, json};

use ollamax_proto::v1::{GrantLeaseRequest, KvLease, ListLeasesRequest, RenewLeaseRequest, RevokeLeaseRequest};

use super::{PAGE, with_header};
use crate::args::{Global, LeaseCommand, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Runs one of them.
pub(super) async fn run(global: &Global, command: LeaseCommand) -> Result<(), Failure> {
    match command {
        LeaseCommand::Grant { ttl } => grant(global, ttl).await,
        LeaseCommand::Renew { id } => renew(global, id).await,
        LeaseCommand::Revoke { id } => revoke(global, id).await,
        LeaseCommand::List => list(global).await,
    }
}

async fn grant(global: &Global, ttl: Duration) -> Result<(), Failure> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let granted = client::connect_kv(global).await?.grant_lease(GrantLeaseRequest { ttl_ms }).await?.into_inner();
    let header = granted.header.unwrap_or_default();
    if global.output == Output::Json {
        let fields = json!({"id": granted.id, "ttlMs": granted.ttl_ms});
        return output::json("KvLease", with_header(fields, &header));
    }
    output::line(&granted.id.to_string())?;
    let lives = text::span(granted.ttl_ms);
    let talk = format!("Ends in {lives}.\nNext: ollamax kv put KEY VALUE --lease {}", granted.id);
    output::talk(global.output, &talk);
    Ok(())
}

async fn renew(global: &Global, id: u64) -> Result<(), Failure> {
    let renewed = client::connect_kv(global).await?.renew_lease(RenewLeaseRequest { id }).await?.into_inner();
    let header = renewed.header.unwrap_or_default();
    if global.output == Output::Json {
        return output::json("KvLease", with_header(json!({"id": id, "ttlMs": renewed.ttl_ms}), &header));
    }
    output::line(&format!("Lease {id} ends in {}.", text::span(renewed.ttl_ms)))
}

async fn revoke(global: &Global, id: u64) -> Result<(), Failure> {
    let revoked = client::connect_kv(global).await?.revoke_lease(RevokeLeaseRequest { id }).await?.into_inner();
    let header = revoked.header.unwrap_or_default();
    if global.output == Output::Json {
        return output::json("KvLease", with_header(json!({"id": id, "ttlMs": 0}), &header));
    }
    output::line(&format!("Lease {id} has ended, with its values."))
}

async fn list(global: &Global) -> Result<(), Failure> {
    let mut kv = client::connect_kv(global).await?;
    let mut leases: Vec<KvLease> = Vec::new();
    let header = loop {
        let after = leases.last().map_or(0, |lease| lease.id);
        let page = kv.list_leases(ListLeasesRequest { after, limit: PAGE, read: None }).await?.into_inner();
        leases.extend(page.leases);
        if !page.more {
            break page.header.unwrap_or_default();
        }
    };
    if global.output == Output::Json {
        let shown = |lease: &KvLease| {
            let (ttl_ms, ends_at_ms) = (lease.ttl_ms, lease.ends_at_ms);
            json!({"id": lease.id, "ttlMs": ttl_ms, "endsAtMs": ends_at_ms, "values": lease.values})
        };
        let leases: Vec<Value> = leases.iter().map(shown).collect();
        return output::json("KvLeaseList", with_header(json!({"leases": leases}), &header));
    }
    let rows = leases.iter().map(|lease| {
        let (ttl, ends) = (text::span(lease.ttl_ms), text::time(lease.ends_at_ms));
        vec![lease.id.to_string(), ttl, ends, lease.values.to_string()]
    });
    output::text(&output::table(&["ID", "LIVES", "ENDS (CLUSTER TIME)", "VALUES"], rows.collect()))
}
