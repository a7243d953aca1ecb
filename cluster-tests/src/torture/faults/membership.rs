//! Faults of the membership: leadership that is handed over, and a member that leaves, or is lost, and joins anew.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use ollamax_proto::v1::node_view::State;
use ollamax_testkit::wait;

use crate::faults::{Done, PATIENCE, Stage, proof};
use crate::plan::Whom;

const HAND_OVER_TIME: Duration = Duration::from_secs(10);
/// How often the token of a replaced member may be used: a join that was cut short is asked for again.
const TOKEN_USES: u32 = 5;

impl Stage<'_> {
    pub(super) async fn transfer(&mut self) -> Result<Done> {
        let old = self.leader().await?;
        let followers = self.others(old);
        let new = self.one_of(&followers)?;
        let id = self.cluster.status(new).await?.node_id;
        let before = self.cluster.status(old).await?.raft.context("no raft view")?.term;
        // A node that is behind at this moment, or silent on a busy machine, does not get it: it is asked for again.
        let handed = wait::until("leadership to be handed over", HAND_OVER_TIME, || async {
            let asked = self.cluster.node(old).admin()?.transfer_leader(id).await;
            let raft = self.cluster.status(old).await?.raft.context("no raft view")?;
            let refused = asked.err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(raft.leader != 0 && raft.term > before, "leader {} of term {}; {refused}", raft.leader, raft.term);
            anyhow::Ok((raft.leader, raft.term))
        });
        let (leader, term) = handed.await?;
        self.last().await;
        Ok(Done::now(proof(true, format!("node {old} handed over in term {before}; id {leader} led in term {term}"))))
    }

    /// Lets this node lead, whoever does so now.
    pub(super) async fn lead_with(&self, index: usize) -> Result<()> {
        wait::until("this node to lead", HAND_OVER_TIME, || async {
            let status = self.cluster.status(index).await?;
            let (id, raft) = (status.node_id, status.raft.context("no raft view")?);
            // 0 would mean whoever is there.
            ensure!(id != 0, "it takes no part yet");
            if raft.leader == id {
                return anyhow::Ok(());
            }
            let old = self.leader().await?;
            let refused = self.cluster.node(old).admin()?.transfer_leader(id).await.err();
            bail!("node {old} led; {}", refused.map(|error| error.to_string()).unwrap_or_default())
        })
        .await
    }

    /// `leave`, a start, `join`: it comes back under another id, with nothing, and has a vote again at the end.
    pub(super) async fn replace(&mut self, whom: Whom) -> Result<Done> {
        let victims = self.who(whom).await?;
        let victim = *victims.first().context("nobody is meant")?;
        let cluster = self.cluster;
        let node = cluster.node(victim);
        let old = cluster.status(victim).await?.node_id;
        let leave = wait::until("the member to leave", PATIENCE, || async { node.admin()?.leave().await });
        leave.await?;
        node.ended(PATIENCE).await.context("after it left")?;
        self.last().await;
        cluster.restart(&[victim]).await.context("start what has left")?;
        let new = Box::pin(self.join_anew(victim)).await?;
        Ok(Done::now(proof(new > old, format!("the member with id {old} left and is {new} now"))))
    }

    /// What the product asks for when the state of a member is lost: it is removed, its directory emptied, and it joins
    /// as another. Returns its id.
    pub(super) async fn replace_lost(&mut self, victim: usize, old: u64) -> Result<u64> {
        let (cluster, others) = (self.cluster, self.others(victim));
        let host = self.one_of(&others)?;
        let removed = wait::until("the lost member to be removed", PATIENCE, || async {
            // An answer that was lost is asked for again, and then there is nobody to be removed.
            let refused = cluster.node(host).admin()?.remove(&old.to_string(), true).await.err();
            let nodes = cluster.status(host).await?.nodes;
            let gone = nodes.iter().all(|node| node.id != old || node.state() == State::Departed);
            ensure!(gone, "it is still there: {}", refused.map(|error| error.to_string()).unwrap_or_default());
            anyhow::Ok(())
        });
        removed.await?;
        let directory = cluster.node(victim).data_dir();
        std::fs::remove_dir_all(&directory).with_context(|| format!("empty {}", directory.display()))?;
        cluster.restart(&[victim]).await.context("start with nothing")?;
        Box::pin(self.join_anew(victim)).await
    }

    /// Lets a node that runs and belongs to nobody join, and gives it a disk that can fail. Returns its id.
    async fn join_anew(&mut self, victim: usize) -> Result<u64> {
        let (cluster, others) = (self.cluster, self.others(victim));
        let (node, host) = (cluster.node(victim), cluster.node(self.one_of(&others)?));
        let token =
            wait::until("a token", PATIENCE, || async { host.admin()?.create_token("voter", TOKEN_USES).await });
        let token = token.await?;
        // Connections of the old member that are being closed at this moment may cut the new one's too.
        let join = wait::until("the node to join anew", PATIENCE, || async {
            node.admin()?.join(&token, vec![host.advertised()], node.name()).await
        });
        join.await?;
        cluster.settled(PATIENCE).await.context("after it joined anew")?;
        let new = cluster.status(victim).await?.node_id;
        if let Some(disks) = self.disks.as_deref_mut() {
            cluster.kill(&[victim]).await?;
            disks.renew(cluster, victim)?;
            cluster.restart(&[victim]).await.context("start the new member on a disk that can fail")?;
        }
        Ok(new)
    }
}
