//! One connection to one node of either system, and the five things that a load asks of it, in the same words.
//!
//! An answer that is not what was asked for (no value, a value of nobody) is a failure like any other.

use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};

use ollamax_proto::v1::kv_client::KvClient as OurClient;

use super::etcd::wire::kv_client::KvClient as EtcdClient;
use super::{etcd, ours};

/// Longest wait for one answer.
pub(crate) const CALL_TIME: Duration = Duration::from_secs(10);

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    Linearizable,
    /// The node's own state, however old.
    Stale,
}

/// A connection; clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    Ours(OurClient<Channel>),
    Etcd(EtcdClient<Channel>),
}

// === impl Door ===

impl Door {
    /// Puts a value, whatever was there.
    pub(crate) async fn put(&self, key: &str, value: &[u8]) -> Result<(), Status> {
        match self {
            Self::Ours(client) => bounded(client.clone().txn(ours::put(key, value))).await.map(drop),
            Self::Etcd(client) => bounded(client.clone().put(etcd::put(key, value))).await.map(drop),
        }
    }

    /// Puts a value if `modified` is the revision that changed it last. Its own revision; `None`: somebody was faster.
    pub(crate) async fn swap(&self, key: &str, modified: u64, value: &[u8]) -> Result<Option<u64>, Status> {
        match self {
            Self::Ours(client) => {
                let reply = bounded(client.clone().txn(ours::swap(key, modified, value))).await?;
                Ok(reply.header.filter(|_| reply.held).map(|header| header.revision))
            }
            Self::Etcd(client) => {
                let reply = bounded(client.clone().txn(etcd::swap(key, modified, value))).await?;
                Ok(reply.header.filter(|_| reply.succeeded).map(|header| header.revision.unsigned_abs()))
            }
        }
    }

    /// Reads a key that exists: the revision that changed it last.
    pub(crate) async fn get(&self, key: &str, fresh: Fresh) -> Result<u64, Status> {
        let found = match self {
            Self::Ours(client) => {
                let reply = bounded(client.clone().range(ours::get(key, fresh))).await?;
                reply.values.into_iter().next().map(|value| (value.value.len(), value.modified))
            }
            Self::Etcd(client) => {
                let reply = bounded(client.clone().range(etcd::get(key, fresh))).await?;
                reply.kvs.into_iter().next().map(|found| (found.value.len(), found.mod_revision.unsigned_abs()))
            }
        };
        let found = found.filter(|(bytes, _)| *bytes > 0);
        found.map(|(_, modified)| modified).ok_or_else(|| Status::not_found(format!("{key} has no value")))
    }

    /// Reads the first `rows` keys that begin with a text, all of which exist.
    pub(crate) async fn list(&self, prefix: &str, rows: u32) -> Result<(), Status> {
        let found = match self {
            Self::Ours(client) => bounded(client.clone().range(ours::list(prefix, rows))).await?.values.len(),
            Self::Etcd(client) => bounded(client.clone().range(etcd::list(prefix, rows))).await?.kvs.len(),
        };
        if found == rows as usize { Ok(()) } else { Err(Status::not_found(format!("{found} rows instead of {rows}"))) }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let answer = timeout(CALL_TIME, call).await;
    let answer = answer.map_err(|_| Status::deadline_exceeded(format!("no answer within {CALL_TIME:?}")))?;
    answer.map(Response::into_inner)
}
