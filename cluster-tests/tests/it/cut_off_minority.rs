//! Whoever is cut off from the majority says "no quorum" soon, shows what it knows, and never an old value as new.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;

use ollamax_testkit::cluster::CallError;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::link::Mode;
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const ASKED_AT_ONCE: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_answers_no_quorum_and_keeps_serving() -> Result<()> {
    let _turn = crate::turn().await;
    let script = Script::with_models([ModelScript::named("demo")]);
    let cluster = Cluster::builder("cut-off-leader").fakes(&script).with_links().start().await?;
    cluster.model_known("demo", 3, PATIENCE).await?;
    for mode in [Mode::Silent, Mode::Cut] {
        cut_off(&cluster, mode).await.with_context(|| format!("{mode:?}"))?;
    }
    cluster.finish().await
}

async fn cut_off(cluster: &Cluster, mode: Mode) -> Result<()> {
    let old = cluster.leader(PATIENCE).await?;
    let others: Vec<usize> = (0..cluster.size()).filter(|index| *index != old).collect();
    cluster.set(old, "x", b"before").await?;
    cluster.links().divide(&[old], &others, mode);

    // In its lease it may still believe that it leads: the change goes out and its fate is unknown.
    let first = cluster.set(old, "y", b"lost").await.err().context("a cut-off leader acknowledged a change")?;
    check_refusal(&first, &[ErrorCode::NoQuorum, ErrorCode::OutcomeUnknown])?;
    let new = cluster.leader_among(&others, PATIENCE).await?;
    cluster.set(new, "x", b"after").await?;

    // Each takes its whole time to give up, so they are asked together.
    let reads = join_all((0..ASKED_AT_ONCE).map(|_| cluster.get(old, "x", false)));
    let writes = join_all((0..ASKED_AT_ONCE).map(|_| cluster.set(old, "x", b"mine")));
    let (reads, writes) = futures::join!(reads, writes);
    for read in reads {
        check_refusal(&read.err().context("a cut-off node read as if it knew")?, &[ErrorCode::NoQuorum])?;
    }
    for write in writes {
        check_refusal(&write.err().context("a cut-off node acknowledged a change")?, &[ErrorCode::NoQuorum])?;
    }
    ensure!(cluster.get(old, "x", true).await?.as_deref() == Some(b"before"), "its own state is as it was");
    let models = cluster.get_json(old, "/api/tags").await?;
    ensure!(models["models"][0]["name"] == "demo:latest", "listing goes on: {models}");
    let answer = cluster.chat(old, "demo", "are you there?", false).await?;
    ensure!(answer.status == 200, "inference goes on: {}", answer.text().await?);

    cluster.links().heal();
    wait::until("the healed node to read the new value", PATIENCE, || async {
        let value = cluster.get(old, "x", false).await?;
        ensure!(value.as_deref() == Some(b"after"), "read {value:?}");
        Ok(())
    })
    .await?;
    cluster.converged(PATIENCE).await?;
    let kept = cluster.get(old, "x", true).await?;
    ensure!(kept.as_deref() == Some(b"after"), "what was refused happened later: {kept:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_not_heard_answers_no_quorum() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("half-open").with_links().start().await?;
    let leader = cluster.leader(PATIENCE).await?;
    let deaf = (leader + 1) % cluster.size();
    cluster.set(leader, "x", b"before").await?;
    for other in (0..cluster.size()).filter(|index| *index != deaf) {
        cluster.links().set(deaf, other, Mode::CallerUnheard);
        cluster.links().set(other, deaf, Mode::CalledUnheard);
    }
    let read = cluster.get(deaf, "x", false).await.err().context("nobody hears it, yet it read")?;
    check_refusal(&read, &[ErrorCode::NoQuorum])?;
    cluster.set(leader, "x", b"after").await.context("the others go on")?;
    cluster.links().heal();
    cluster.converged(PATIENCE).await?;
    ensure!(cluster.get(deaf, "x", false).await?.as_deref() == Some(b"after"), "healed");
    cluster.finish().await
}

fn check_refusal(error: &CallError, codes: &[ErrorCode]) -> Result<()> {
    ensure!(error.code.is_some_and(|code| codes.contains(&code)), "wanted one of {codes:?}: {error}");
    ensure!(error.took <= ANSWER_LIMIT, "took too long: {error}");
    Ok(())
}
