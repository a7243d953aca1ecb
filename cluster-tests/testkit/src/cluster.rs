//! Clusters of real `ollamax-node` processes on this machine, formed through their admin sockets.
//!
//! Nodes are counted from 0 here; their ids are the cluster's own. Processes are ended by the ids they were started
//! with. A cluster that is dropped before [`Cluster::finish`] keeps its directory and prints where the logs are.

mod admin;
mod build;
mod daemon;
mod inference;
mod inside;
mod process;
mod pulls;
mod tools;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use tempfile::TempDir;

use ollamax_proto::v1;

pub use admin::{Ack, Admin, CallError, request_id};
pub use build::{Builder, NodePlan, Runtime};
pub use daemon::Daemon;
pub use inference::chat_body;
pub use inside::Answered;
pub use process::{
    Facts, Node, RuntimeFacts, abort, binary, children, clean_environment, cpu_time, idle_time, run_to_exit, shut_above,
};
pub use pulls::{copies, received_from};
pub use tools::Tools;

pub use values::{Changed, Found, Level, Once, Values, Watch};

use crate::FakeOllama;
use crate::http::HttpClient;
use crate::link::Links;
use crate::wait;

/// Longest wait for a cluster to form, elect or catch up on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    test: String,
    nodes: Vec<Node>,
    links: Links,
    http: HttpClient,
    directory: Option<TempDir>,
}

// === impl Cluster ===

impl Cluster {
    /// Plans a cluster. `test` names the directory and the output.
    #[must_use]
    pub fn builder(test: &str) -> Builder {
        Builder::new(test)
    }

    /// How many nodes were planned.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The fake runtime beside a node.
    ///
    /// # Errors
    /// When the plan gave it none.
    pub fn fake(&self, index: usize) -> Result<&FakeOllama> {
        self.nodes[index].fake().with_context(|| format!("node {index} has no fake runtime"))
    }

    /// The links between the nodes; they do something only in a cluster built [`Builder::with_links`].
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Where everything of this cluster lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Makes node 0 the first member and lets the others join, then waits until all agree. Seats beyond the third are
    /// given after the default time, or this one.
    pub(crate) async fn form(&self, roles: &[String], stabilization_ms: Option<&[u8]>) -> Result<()> {
        let first = self.nodes[0].admin()?;
        first.init(&self.test, self.nodes[0].name()).await.context("init")?;
        if let Some(time) = stabilization_ms {
            first.set("autopilot.stabilization_ms", time).await.context("set the autopilot's pace")?;
        }
        for (node, role) in self.nodes.iter().zip(roles).skip(1) {
            let token = first.create_token(role, 1).await.context("create a token")?;
            let seeds = vec![self.nodes[0].advertised()];
            node.admin()?.join(&token, seeds, node.name()).await.with_context(|| format!("join {}", node.name()))?;
        }
        self.settled(PATIENCE).await
    }

    /// Waits until every running node knows all members and a leader, and as many vote as the size wants.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn settled(&self, deadline: Duration) -> Result<()> {
        wait::until("members, leader and voters to settle", deadline, || async {
            let statuses = self.statuses().await?;
            let members: usize = self.nodes.len();
            for (index, status) in &statuses {
                let raft = status.raft.as_ref().context("no raft view")?;
                let departed = v1::node_view::State::Departed as i32;
                let active: Vec<_> = status.nodes.iter().filter(|node| node.state != departed).collect();
                ensure!(active.len() == members, "node {index} knows {} of {members} members", active.len());
                ensure!(raft.leader != 0, "node {index} knows no leader");
                let candidates = active.iter().filter(|node| node.role == "voter").count();
                let wanted = voters_wanted(candidates);
                ensure!(raft.voters.len() == wanted, "node {index} sees voters {:?}, wanted {wanted}", raft.voters);
            }
            anyhow::Ok(())
        })
        .await
    }

    /// The status of every running node.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn statuses(&self) -> Result<Vec<(usize, v1::StatusReply)>> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        try_join_all(running.map(|node| async move { Ok((node.index(), node.admin()?.status().await?)) })).await
    }

    /// Status of one node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, index: usize) -> Result<v1::StatusReply> {
        Ok(self.nodes[index].admin()?.status().await?)
    }

    /// Sets a configuration key through a node.
    ///
    /// # Errors
    /// With the node's code and message.
    pub async fn set(&self, index: usize, key: &str, value: &[u8]) -> Result<Ack, CallError> {
        self.nodes[index].admin()?.set(key, value).await
    }

    /// Reads a configuration key: linearizable, or the node's own state when `local`. `None`: there is no such key.
    ///
    /// # Errors
    /// With the node's code and message.
    pub async fn get(&self, index: usize, key: &str, local: bool) -> Result<Option<Vec<u8>>, CallError> {
        self.nodes[index].admin()?.get(key, local).await
    }

    /// Index of the leader on which all running nodes agree.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn leader(&self, deadline: Duration) -> Result<usize> {
        self.leader_among(&(0..self.nodes.len()).collect::<Vec<_>>(), deadline).await
    }

    /// Hands leadership to a node, where it does not lead.
    ///
    /// # Errors
    /// When the leader refuses, when another node leads afterwards, and when nobody leads at the deadline.
    pub async fn make_lead(&self, index: usize, deadline: Duration) -> Result<()> {
        let leader = self.leader(deadline).await?;
        if leader != index {
            let id = self.status(index).await?.node_id;
            self.nodes[leader].admin()?.transfer_leader(id).await?;
        }
        ensure!(self.leader(deadline).await? == index, "it does not lead");
        Ok(())
    }

    /// As [`Cluster::leader`], asking only some nodes; the leader must be one of them.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn leader_among(&self, group: &[usize], deadline: Duration) -> Result<usize> {
        wait::until("one leader", deadline, || async {
            let running = group.iter().map(|index| &self.nodes[*index]).filter(|node| node.is_running());
            let answers = join_all(running.map(|node| async move { node.admin()?.status().await })).await;
            let (mut leaders, mut own) = (Vec::new(), Vec::new());
            for answer in answers {
                let status = answer?;
                let raft = status.raft.context("no raft view")?;
                leaders.push((raft.term, raft.leader));
                own.push(status.node_id);
            }
            leaders.dedup();
            let [(_, leader)] = leaders[..] else { bail!("terms and leaders: {leaders:?}") };
            let position = own.iter().position(|id| *id == leader).context("the leader is not running")?;
            let index = group.iter().copied().filter(|index| self.nodes[*index].is_running()).nth(position);
            index.context("the leader stopped meanwhile")
        })
        .await
    }

    /// Waits until all running nodes have applied the same index, and checks that their states are equal there.
    /// Returns that index.
    ///
    /// # Errors
    /// At the deadline, and at once when two states differ at one index.
    pub async fn converged(&self, deadline: Duration) -> Result<u64> {
        let statuses = wait::until("equal indexes", deadline, || async {
            let statuses = self.statuses().await?;
            let applied: Vec<u64> = statuses.iter().map(|(_, status)| applied_index(status)).collect();
            ensure!(applied.windows(2).all(|pair| pair[0] == pair[1]), "applied: {applied:?}");
            // Nodes that start have not read their state yet.
            ensure!(statuses.iter().all(|(_, status)| !status.state_hash.is_empty()), "a node says no state hash");
            Ok(statuses)
        });
        let statuses = statuses.await?;
        let hashes: Vec<String> = statuses.iter().map(|(_, status)| hex::encode(&status.state_hash)).collect();
        ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "states differ at one index: {hashes:?}");
        Ok(statuses.first().map_or(0, |(_, status)| applied_index(status)))
    }

    /// SIGKILL to some nodes, at the same moment as far as a machine can.
    ///
    /// # Errors
    /// When one was not running.
    pub async fn kill(&self, indexes: &[usize]) -> Result<()> {
        for index in indexes {
            self.nodes[*index].signal_kill()?;
        }
        for index in indexes {
            self.nodes[*index].reap().await?;
        }
        Ok(())
    }

    /// Starts nodes again on their data directories and waits until they listen.
    ///
    /// # Errors
    /// When one exits or does not listen in time.
    pub async fn restart(&self, indexes: &[usize]) -> Result<()> {
        try_join_all(indexes.iter().map(|index| self.nodes[*index].start(&self.links))).await.map(|_| ())
    }

    /// The files in which the nodes' logs are.
    #[must_use]
    pub fn logs(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.log_path().to_owned()).collect()
    }

    /// Ends the nodes and removes the directory. The test has passed.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub async fn finish(mut self) -> Result<()> {
        for node in &self.nodes {
            node.end().await;
        }
        match self.directory.take() {
            Some(directory) => directory.close().context("remove the test's directory"),
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.end_at_once();
        }
        if let Some(directory) = self.directory.take() {
            let kept = directory.keep();
            eprintln!("{}: failed; kept {}; logs:", self.test, kept.display());
            for log in self.logs() {
                eprintln!("  {}", log.display());
            }
        }
    }
}

/// The index that a node says it has applied.
#[must_use]
pub fn applied_index(status: &v1::StatusReply) -> u64 {
    status.view.as_ref().map_or(0, |view| view.applied_index)
}

/// How many vote among this many candidates.
#[must_use]
pub const fn voters_wanted(candidates: usize) -> usize {
    match candidates {
        0..=2 => candidates,
        3 | 4 => 3,
        _ => 5,
    }
}
