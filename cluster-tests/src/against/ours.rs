//! Our side: three daemons with their defaults, asked over the gRPC service `Kv` on the admin socket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1;
use ollamax_proto::v1::read_level::Level;
use ollamax_proto::v1::{kv_condition, kv_op};
use ollamax_testkit::Cluster;

use super::door::{Door, Fresh};
use super::plan::Pace;
use super::syncs::Counts;
use crate::metadata;

const PATIENCE: Duration = Duration::from_secs(30);
/// With these a follower stands for election after 1.0 to 1.6 s: the lease, and between the least and the most wait.
const ONE_SECOND: [(&str, u64); 3] =
    [("raft.heartbeat_ms", 100), ("raft.election_min_ms", 200), ("raft.election_max_ms", 800)];

/// What the nodes count: syncs of their logs, and the entries that these made durable.
const GROUPS: &str = "ollamax_store_syncs_total";
const GROUPED: &str = "ollamax_store_appended_entries_total";

/// A running cluster of ours.
#[derive(Debug)]
pub(crate) struct Ours {
    cluster: Cluster,
}

// === impl Ours ===

impl Ours {
    pub(crate) async fn start(pace: Pace) -> Result<Self> {
        let mut plan = Cluster::builder("bench-against-etcd").unhurried();
        if pace == Pace::OneSecond {
            for (key, value) in ONE_SECOND {
                plan = plan.setting(key, value);
            }
        }
        Ok(Self { cluster: Box::pin(plan.start()).await? })
    }

    pub(crate) async fn version(&self) -> Result<String> {
        Ok(self.cluster.status(0).await?.daemon_version)
    }

    pub(crate) async fn leader(&self) -> Result<usize> {
        self.cluster.leader(PATIENCE).await
    }

    /// Waits until all nodes run, agree on a leader and have applied the same.
    pub(crate) async fn whole(&self) -> Result<()> {
        self.cluster.converged(PATIENCE).await.map(drop)
    }

    pub(crate) fn door(&self, node: usize) -> Result<Door> {
        Ok(Door::Ours(self.cluster.node(node).values()?.client()))
    }

    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        let running = self.cluster.nodes().iter().filter(|node| node.is_running());
        running.map(|node| Ok(node.facts()?.pid)).collect()
    }

    pub(crate) async fn kill(&self, node: usize) -> Result<()> {
        self.cluster.kill(&[node]).await
    }

    pub(crate) async fn stop(&self, node: usize) -> Result<()> {
        let status = self.cluster.node(node).stop(PATIENCE).await?;
        ensure!(status.success(), "{} ended with {status}", self.cluster.node(node).name());
        Ok(())
    }

    pub(crate) async fn hand_over(&self, from: usize, to: usize) -> Result<()> {
        let id = self.cluster.status(to).await?.node_id;
        self.cluster.node(from).admin()?.transfer_leader(id).await.context("hand leadership over")
    }

    pub(crate) async fn restart(&self, node: usize) -> Result<()> {
        self.cluster.restart(&[node]).await
    }

    /// What the nodes have counted themselves.
    pub(crate) async fn counts(&self) -> Result<Vec<Counts>> {
        let fsyncs = metadata::fsyncs(&self.cluster).await?;
        let mut counts = Vec::new();
        for (index, fsyncs) in fsyncs.into_iter().enumerate() {
            let groups = self.cluster.metric(index, GROUPS).await?;
            let grouped = self.cluster.metric(index, GROUPED).await?;
            let fsyncs = fsyncs.with_context(|| format!("node {index} does not count its fsyncs"))?;
            counts.push(Counts { fsyncs, groups, grouped });
        }
        Ok(counts)
    }

    pub(crate) async fn finish(self) -> Result<()> {
        self.cluster.finish().await
    }
}

/// A put is a transaction without a condition.
pub(crate) fn put(key: &str, value: &[u8]) -> v1::TxnRequest {
    changed(Vec::new(), key, value)
}

pub(crate) fn swap(key: &str, modified: u64, value: &[u8]) -> v1::TxnRequest {
    let condition = v1::KvCondition {
        key: key.to_owned(),
        relation: kv_condition::Relation::Equal.into(),
        operand: Some(kv_condition::Operand::Modified(modified)),
    };
    changed(vec![condition], key, value)
}

/// Without a session of the caller the node uses its own: the change has effect once, however often it is sent.
fn changed(conditions: Vec<v1::KvCondition>, key: &str, value: &[u8]) -> v1::TxnRequest {
    let put = v1::KvPut { key: key.to_owned(), value: value.to_vec(), lease: 0 };
    let then = vec![v1::KvOp { op: Some(kv_op::Op::Put(put)) }];
    v1::TxnRequest { conditions, then, otherwise: Vec::new(), session: None }
}

pub(crate) fn get(key: &str, fresh: Fresh) -> v1::RangeRequest {
    let level = match fresh {
        Fresh::Linearizable => Level::Linearizable,
        Fresh::Stale => Level::Stale,
    };
    let read = Some(v1::ReadLevel { level: level.into(), ..v1::ReadLevel::default() });
    v1::RangeRequest { key: key.to_owned(), read, ..v1::RangeRequest::default() }
}

pub(crate) fn list(prefix: &str, rows: u32) -> v1::RangeRequest {
    v1::RangeRequest { prefix: true, limit: rows, ..get(prefix, Fresh::Linearizable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_a_put_with_a_condition() {
        let (put, swap) = (put("user/001", b"v"), swap("user/001", 42, b"v"));
        assert_eq!(put.then, swap.then);
        assert!(put.conditions.is_empty() && put.session.is_none());
        assert_eq!(swap.conditions[0].operand, Some(kv_condition::Operand::Modified(42)));
        assert_eq!(swap.conditions[0].relation(), kv_condition::Relation::Equal);
    }

    #[test]
    fn reads_say_how_fresh_they_are() {
        let level = |request: v1::RangeRequest| request.read.map(|read| read.level());
        assert_eq!(level(get("user/001", Fresh::Stale)), Some(Level::Stale));
        assert_eq!(level(list("user/0", 100)), Some(Level::Linearizable));
        assert!(list("user/0", 100).prefix && !get("user/001", Fresh::Linearizable).prefix);
    }
}
