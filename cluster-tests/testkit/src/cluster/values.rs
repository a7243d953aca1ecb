//! A node's values over its admin socket: get, put, compare-and-swap, watch, leases and sessions, every call bounded.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use ollamax_proto::v1;
use ollamax_proto::v1::kv_client::KvClient;
use ollamax_proto::v1::{kv_condition, kv_effect, kv_op};

use super::admin::{CALL_TIME, CallError, bounded};
use crate::history::{self, Outcome};

/// How fresh a read must be.
pub use ollamax_proto::v1::read_level::Level;

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value; `None`: no such key.
    pub value: Option<v1::KvValue>,
    /// Up to which revision the answer is complete, who gave it, how old it may be.
    pub header: v1::KvHeader,
}

// === impl Found ===

impl Found {
    /// As a history has it; `number_of` reads the value.
    pub fn outcome(&self, number_of: impl FnOnce(&v1::KvValue) -> u64) -> Outcome {
        Outcome::Read {
            value: self.value.as_ref().map(number_of),
            modified: self.value.as_ref().map_or(0, |value| value.modified),
            at: self.header.revision,
            age_ms: self.header.age_ms,
        }
    }
}

impl From<history::Level> for Level {
    fn from(level: history::Level) -> Self {
        match level {
            history::Level::Linearizable => Self::Linearizable,
            history::Level::Lease => Self::Lease,
            history::Level::Stale => Self::Stale,
        }
    }
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Revision and term of the change.
    pub header: v1::KvHeader,
    /// Whether its conditions held.
    pub held: bool,
    /// Revision of what was there before; 0: nothing, or nothing was changed.
    pub previous: u64,
}

/// A client session and one of its sequences.
pub type Once = Option<(u64, u64)>;

/// A node's values. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Values {
    node: String,
    client: KvClient<Channel>,
}

// === impl Values ===

impl Values {
    /// Prepares a connection; it is made with the first call.
    ///
    /// # Errors
    /// When the path cannot be written as an address.
    pub fn connect(node: &str, socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name the admin socket")?;
        Ok(Self { node: node.to_owned(), client: KvClient::new(endpoint.connect_lazy()) })
    }

    /// The connection itself, for what has no word here.
    #[must_use]
    pub fn client(&self) -> KvClient<Channel> {
        self.client.clone()
    }

    /// Reads a key.
    ///
    /// # Errors
    /// With the node's code and message.
    pub async fn get(&self, key: &str, level: Level) -> Result<Found, CallError> {
        let read = Some(v1::ReadLevel { level: level.into(), ..v1::ReadLevel::default() });
        let request = v1::RangeRequest { key: key.to_owned(), read, ..v1::RangeRequest::default() };
        let reply = bounded(&self.node, CALL_TIME, self.client.clone().range(request)).await?;
        Ok(Found { value: reply.values.into_iter().next(), header: reply.header.unwrap_or_default() })
    }

    /// Reads the first values whose keys begin with `prefix`, at most `limit` of them.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn list(&self, prefix: &str, limit: u32, level: Level) -> Result<Vec<v1::KvValue>, CallError> {
        let read = Some(v1::ReadLevel { level: level.into(), ..v1::ReadLevel::default() });
        let key = prefix.to_owned();
        let request = v1::RangeRequest { key, prefix: true, limit, read, ..v1::RangeRequest::default() };
        Ok(bounded(&self.node, CALL_TIME, self.client.clone().range(request)).await?.values)
    }

    /// Puts a value, with a lease if that is not 0.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn put(&self, key: &str, value: &[u8], lease: u64, once: Once) -> Result<Changed, CallError> {
        let put = v1::KvPut { key: key.to_owned(), value: value.to_vec(), lease };
        self.change(Vec::new(), kv_op::Op::Put(put), once).await
    }

    /// Puts a value if `modified` is the revision that changed it last; 0: if it is not there.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn cas(&self, key: &str, modified: u64, value: &[u8], once: Once) -> Result<Changed, CallError> {
        let condition = v1::KvCondition {
            key: key.to_owned(),
            relation: kv_condition::Relation::Equal.into(),
            operand: Some(kv_condition::Operand::Modified(modified)),
        };
        let put = v1::KvPut { key: key.to_owned(), value: value.to_vec(), lease: 0 };
        self.change(vec![condition], kv_op::Op::Put(put), once).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn delete(&self, key: &str, once: Once) -> Result<Changed, CallError> {
        self.change(Vec::new(), kv_op::Op::Delete(key.to_owned()), once).await
    }

    async fn change(&self, conditions: Vec<v1::KvCondition>, op: kv_op::Op, once: Once) -> Result<Changed, CallError> {
        let session = once.map(|(id, sequence)| v1::KvSession { id, sequence });
        let then = vec![v1::KvOp { op: Some(op) }];
        let reply = self.txn(v1::TxnRequest { conditions, then, otherwise: Vec::new(), session }).await?;
        let previous = match reply.effects.first().and_then(|effect| effect.effect.as_ref()) {
            Some(kv_effect::Effect::Put(previous) | kv_effect::Effect::Deleted(previous)) => *previous,
            _ => 0,
        };
        Ok(Changed { header: reply.header.unwrap_or_default(), held: reply.held, previous })
    }

    /// A whole transaction.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn txn(&self, request: v1::TxnRequest) -> Result<v1::TxnReply, CallError> {
        bounded(&self.node, CALL_TIME, self.client.clone().txn(request)).await
    }

    /// Opens a client session.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn open_session(&self, ttl: Duration, window: u32) -> Result<u64, CallError> {
        let request = v1::OpenSessionRequest { ttl_ms: ttl.as_millis() as u64, window };
        Ok(bounded(&self.node, CALL_TIME, self.client.clone().open_session(request)).await?.id)
    }

    /// Grants a lease.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn grant(&self, ttl: Duration) -> Result<u64, CallError> {
        let request = v1::GrantLeaseRequest { ttl_ms: ttl.as_millis() as u64 };
        Ok(bounded(&self.node, CALL_TIME, self.client.clone().grant_lease(request)).await?.id)
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn renew(&self, id: u64) -> Result<(), CallError> {
        let request = v1::RenewLeaseRequest { id };
        bounded(&self.node, CALL_TIME, self.client.clone().renew_lease(request)).await.map(drop)
    }

    /// Watches all keys that begin with `prefix`, from a revision on; 0: what comes next.
    ///
    /// # Errors
    /// As [`Values::get`].
    pub async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, CallError> {
        let request = v1::WatchRequest { key: prefix.to_owned(), prefix: true, from, progress_ms: 500 };
        let replies = bounded(&self.node, CALL_TIME, self.client.clone().watch(request)).await?;
        Ok(Watch { node: self.node.clone(), replies })
    }
}

/// An open watch.
#[derive(Debug)]
pub struct Watch {
    node: String,
    replies: Streaming<v1::WatchReply>,
}

// === impl Watch ===

impl Watch {
    /// The next changes, or how far the watch is; each half second at the latest.
    ///
    /// # Errors
    /// With the node's code and message, or without a code when it fell silent or ended.
    pub async fn next(&mut self) -> Result<v1::WatchReply, CallError> {
        let ended = || Status::new(Code::Unavailable, "the watch ended");
        let next = async {
            let reply = self.replies.message().await?;
            reply.map(Response::new).ok_or_else(ended)
        };
        bounded(&self.node, CALL_TIME, next).await
    }
}
