//! Draining and removing members, and handing leadership over: what an administrator does to a cluster at work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use ollamax_proto::v1;
use ollamax_proto::v1::node_view::{Health, State};
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::{self, PATIENCE, asked};

/// Election timeouts so long that no election ends within a test: only a hand-over can make a new leader.
const ELECTION_MS: [(&str, u64); 2] = [("raft.election_min_ms", 20_000), ("raft.election_max_ms", 40_000)];
/// Longest time in which no change goes through while leadership is handed over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Waits until a node sees another one like this.
async fn seen(cluster: &Cluster, from: usize, name: &str, wanted: impl Fn(&v1::NodeView) -> bool) -> Result<()> {
    wait::until(&format!("{name} as seen by node {from}"), PATIENCE, || async {
        let status = cluster.status(from).await?;
        let node = status.nodes.into_iter().find(|node| node.name == name).context("not on record")?;
        ensure!(wanted(&node), "{node:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_finishes_its_streams_and_gets_nothing_new() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("drain", |_| {}).await?;
    model_owners::make_resident(&cluster, 1).await?;
    let (drained, other) = (model_owners::label(&cluster, 1).await?, model_owners::label(&cluster, 2).await?);
    // Four seconds: long enough to be running while all of the below happens.
    cluster.fake(1)?.change(|script| (script.tokens, script.token_us) = (160, 25_000));
    let mut running = cluster.chat(0, "demo", "a long story", true).await?;
    ensure!(running.status == 200 && running.node() == drained, "{} by {}", running.status, running.node());
    running.next_piece().await?.context("no first line")?;

    let admin = cluster.node(0).admin()?;
    admin.drain(cluster.node(1).name(), false).await?;
    for index in 0..cluster.size() {
        seen(&cluster, index, "n2", |node| node.state() == State::Drained).await?;
    }
    let before = asked(&cluster, 1)?;
    for number in 0..6 {
        // The drained node passes on what clients ask it, too.
        let answer = cluster.chat(number % 2, "demo", "something new", false).await?;
        ensure!(answer.status == 200 && answer.node() == other, "{} by {}", answer.status, answer.node());
        running.next_piece().await?.context("the running stream ended")?;
    }
    ensure!(asked(&cluster, 1)? == before, "the drained node's runtime got something new");
    let (lines, end) = running.lines().await;
    end.context("the running stream was cut")?;
    ensure!(lines.last().is_some_and(|line| line.text.contains("\"done\":true")), "no proper end: {lines:?}");

    admin.drain(cluster.node(2).name(), false).await?;
    seen(&cluster, 0, "n3", |node| node.state() == State::Drained).await?;
    let answer = cluster.chat(0, "demo", "anybody?", false).await?;
    ensure!(answer.status == 503 && answer.header("x-ollamamax-error") == "draining", "{}", answer.status);
    let text = answer.text().await?;
    ensure!(text.contains("\"error\"") && text.contains("drain"), "{text}");

    cluster.fake(1)?.change(|script| (script.tokens, script.token_us) = (4, 0));
    admin.drain(cluster.node(1).name(), true).await?;
    seen(&cluster, 0, "n2", |node| node.state() == State::Active).await?;
    wait::until("the undrained node to be asked again", PATIENCE, || async {
        let answer = cluster.chat(0, "demo", "back again?", false).await?;
        ensure!(answer.status == 200 && answer.node() == drained, "{} by {}", answer.status, answer.node());
        Ok(())
    })
    .await?;
    cluster.finish().await
}

/// Waits until exactly these nodes vote, as one of them sees it.
async fn voters(cluster: &Cluster, from: usize, wanted: &[u64]) -> Result<()> {
    wait::until(&format!("voters {wanted:?}"), PATIENCE, || async {
        let raft = cluster.status(from).await?.raft.context("no raft view")?;
        ensure!(raft.voters == wanted && raft.learners.is_empty(), "{:?} and {:?}", raft.voters, raft.learners);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_running_members_are_removed_for_good() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("remove").start().await?;
    let admin = cluster.node(0).admin()?;

    // One that is gone.
    cluster.kill(&[2]).await?;
    seen(&cluster, 0, "n3", |node| node.health() != Health::Alive).await?;
    admin.remove("n3", false).await.context("remove a stopped member")?;
    seen(&cluster, 0, "n3", |node| node.state() == State::Departed).await?;
    voters(&cluster, 0, &[1, 2]).await?;
    cluster.set(1, "two", b"go on").await?;

    // It comes back and is a peer that is no member: it reaches nobody and disturbs nobody.
    let before = cluster.status(0).await?.raft.context("no raft view")?;
    cluster.restart(&[2]).await?;
    let answer = wait::until("it to have started", PATIENCE, || async {
        match cluster.set(2, "from", b"outside").await {
            Err(error) if error.code == Some(ErrorCode::Starting) => Err(error),
            answer => Ok(answer),
        }
    })
    .await?;
    let error = answer.err().context("a removed member changed something")?;
    // What it says depends on whether somebody has told it yet.
    ensure!(matches!(error.code, Some(ErrorCode::NoQuorum | ErrorCode::NotMember)), "{error}");
    let after = cluster.status(0).await?.raft.context("no raft view")?;
    ensure!((after.term, after.leader) == (before.term, before.leader), "it disturbed the others: {after:?}");
    ensure!(cluster.get(0, "from", false).await?.is_none(), "its change arrived");

    // One that runs.
    let refusal = admin.remove("n2", false).await.err().context("a living member was removed without force")?;
    ensure!(refusal.code == Some(ErrorCode::PreconditionFailed) && refusal.message.contains("alive"), "{refusal}");
    admin.remove("n2", true).await.context("remove a running member")?;
    voters(&cluster, 0, &[1]).await?;
    cluster.set(0, "one", b"goes on").await?;
    wait::until("the removed node to know it", PATIENCE, || async {
        let status = cluster.status(1).await?;
        ensure!(status.phase() == v1::status_reply::Phase::Removed, "{:?}", status.phase());
        ensure!(status.attention.iter().any(|entry| entry.id == "removed"), "{:?}", status.attention);
        Ok(())
    })
    .await?;
    let last = admin.remove("n1", true).await.err().context("the last member was removed")?;
    ensure!(last.code == Some(ErrorCode::PreconditionFailed), "{last}");
    // Its id and its directory are spent, whatever token it has.
    let token = admin.create_token("voter", 1).await?;
    let seeds = vec![cluster.node(0).advertised()];
    let answer = cluster.node(1).admin()?.join(&token, seeds, "n2").await;
    ensure!(answer.as_ref().map_or(true, |reply| reply.already), "a removed member was let in again: {answer:?}");
    let present = cluster.status(0).await?.nodes.into_iter().filter(|node| node.state() != State::Departed).count();
    ensure!(present == 1, "{present} members");
    cluster.finish().await
}

/// Sets a key through one node, again and again, until `change` is over and one more change went through. None may
/// fail. Returns the longest time without one.
async fn longest_gap(cluster: &Cluster, through: usize, change: impl Future<Output = Result<()>>) -> Result<Duration> {
    let over = AtomicBool::new(false);
    let writing = async {
        let (mut last, mut longest, mut number) = (Instant::now(), Duration::ZERO, 0_u64);
        loop {
            let is_last = over.load(Ordering::SeqCst);
            let written = cluster.set(through, "steady", &number.to_be_bytes()).await;
            written.with_context(|| format!("change {number} failed"))?;
            longest = longest.max(last.elapsed());
            if is_last {
                return anyhow::Ok(longest);
            }
            (last, number) = (Instant::now(), number + 1);
        }
    };
    let changing = async {
        let changed = change.await;
        over.store(true, Ordering::SeqCst);
        changed
    };
    let (longest, changed) = futures::join!(writing, changing);
    changed?;
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_an_election_timeout() -> Result<()> {
    let _turn = crate::turn().await;
    let [least, most] = ELECTION_MS;
    let cluster = Cluster::builder("hand-over").setting(least.0, least.1).setting(most.0, most.1).start().await?;
    let old = cluster.leader(PATIENCE).await?;
    let (new, through) = ((old + 1) % cluster.size(), (old + 2) % cluster.size());

    let id = cluster.status(new).await?.node_id;
    // Asked of a node that neither leads nor shall lead.
    let command = async { Ok(cluster.node(through).admin()?.transfer_leader(id).await?) };
    let gap = Box::pin(longest_gap(&cluster, through, command)).await.context("by command")?;
    ensure!(gap <= HAND_OVER_LIMIT, "by command: no change went through for {gap:?}");
    ensure!(cluster.leader(HAND_OVER_LIMIT).await? == new, "somebody else leads");

    // A drained leader gives leadership away by itself.
    let drain = async {
        cluster.node(new).admin()?.drain(cluster.node(new).name(), false).await?;
        wait::until("a drained leader to be relieved", PATIENCE, || async {
            ensure!(cluster.leader(HAND_OVER_LIMIT).await? != new, "it still leads");
            Ok(())
        })
        .await
    };
    let gap = Box::pin(longest_gap(&cluster, through, drain)).await.context("by drain")?;
    ensure!(gap <= HAND_OVER_LIMIT, "by drain: no change went through for {gap:?}");
    cluster.node(new).admin()?.drain(cluster.node(new).name(), true).await?;
    model_owners::make_it_lead(&cluster, new).await?;

    let stop = async {
        let status = cluster.node(new).stop(STOP_LIMIT).await?;
        ensure!(status.success(), "ended with {status}");
        Ok(())
    };
    let gap = Box::pin(longest_gap(&cluster, through, stop)).await.context("by SIGTERM")?;
    ensure!(gap <= HAND_OVER_LIMIT, "by SIGTERM: no change went through for {gap:?}");
    cluster.leader_among(&[old, through], HAND_OVER_LIMIT).await?;
    cluster.restart(&[new]).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}
