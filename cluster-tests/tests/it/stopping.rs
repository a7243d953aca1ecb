//! SIGTERM: answers that are under way end whole within the grace, nobody new is let in, leadership is handed over.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use tokio::net::TcpStream;
use tokio::time::Instant;

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::http::Answer;
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::{self, PATIENCE};

/// The node that is stopped.
const STOPPED: usize = 1;
const GRACE_S: u64 = 30;
/// An answer takes eight seconds: all of the way out fits in before its end.
const TOKENS: u64 = 320;
const TOKEN_US: u64 = 25_000;
/// An answer takes hours.
const TOKENS_WITHOUT_END: u64 = 1_000_000;
/// Grace, then connections and tasks.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// The same after a grace of one second. Shorter than a test's client would wait for a piece that never comes.
const CUT_LIMIT: Duration = Duration::from_secs(20);

/// Three nodes: the stopped one has the model `demo` and works on two requests at once, the third has `other`.
async fn start(test: &str, grace_s: u64, tokens: u64) -> Result<Cluster> {
    let fake = |model: &str| {
        let script = Script::with_models([ModelScript::named(model)]);
        Runtime::Fake(Box::new(Script { slots: 2, tokens, token_us: TOKEN_US, ..script }))
    };
    let cluster = Cluster::builder(test)
        .setting("shutdown.grace_s", grace_s)
        .setting("runtime.parallel", 2)
        .node(STOPPED, |plan| plan.runtime = fake("demo"))
        .node(2, |plan| plan.runtime = fake("other"))
        .start()
        .await?;
    for model in ["demo", "other"] {
        cluster.model_known(model, 1, PATIENCE).await?;
    }
    Ok(cluster)
}

/// Every kind of stream that a node has a part in, begun: of its own client, answered beside it and by another node,
/// and of another node's client, answered beside it.
async fn streams(cluster: &Cluster) -> Result<Vec<Answer>> {
    let mut begun = Vec::new();
    for (asked, model, owner) in [(STOPPED, "demo", "n2"), (STOPPED, "other", "n3"), (0, "demo", "n2")] {
        let mut answer = cluster.chat(asked, model, "a long story", true).await?;
        let (status, by) = (answer.status, answer.node());
        ensure!(status == 200 && by == owner, "{model} at node {asked}: {status} by {by}");
        answer.next_piece().await?.with_context(|| format!("{model} at node {asked}: no first line"))?;
        begun.push(answer);
    }
    Ok(begun)
}

/// Reads a stream to its end, which must be a good one, and says when that was.
async fn whole(stream: Answer) -> Result<Instant> {
    let (lines, end) = stream.lines().await;
    end.context("a stream was cut")?;
    ensure!(lines.last().is_some_and(|line| line.text.contains("\"done\":true")), "no proper end: {lines:?}");
    Ok(Instant::now())
}

/// Waits until nobody listens there any more, and says when that was.
async fn closed(address: &str) -> Result<Instant> {
    wait::until("new connections to be refused", PATIENCE, || async {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Instant::now()),
            answer => bail!("{answer:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_streams_end_whole_while_nobody_new_is_let_in() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = start("sigterm", GRACE_S, TOKENS).await?;
    model_owners::make_it_lead(&cluster, STOPPED).await?;
    let api = cluster.url(STOPPED, "")?;
    let address = api.strip_prefix("http://").context("a plain address")?;
    let streams = streams(&cluster).await?;

    let stopped = cluster.node(STOPPED).stop(STOP_LIMIT);
    let led = async { anyhow::Ok((cluster.leader_among(&[0, 2], PATIENCE).await?, Instant::now())) };
    let ended = try_join_all(streams.into_iter().map(whole));
    let (status, closed_at, (leader, led_at), ended) = futures::try_join!(stopped, closed(address), led, ended)?;
    ensure!(status.success(), "ended with {status}");
    let first_end = ended.into_iter().min().context("no stream")?;
    ensure!(closed_at < first_end, "new connections were taken until the streams had ended");
    ensure!(led_at < first_end, "node {leader} leads only since the streams have ended");
    cluster.set(0, "without", b"the stopped one").await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_longer_than_the_grace_are_cut_and_the_node_ends_well() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = start("short-grace", 1, TOKENS_WITHOUT_END).await?;
    let streams = streams(&cluster).await?;
    let begin = Instant::now();
    let stopped = cluster.node(STOPPED).stop(CUT_LIMIT);
    let (status, ended) = futures::join!(stopped, join_all(streams.into_iter().map(Answer::lines)));
    let (status, took) = (status?, begin.elapsed());
    ensure!(status.success(), "ended with {status}");
    ensure!(took <= CUT_LIMIT, "the last stream was cut after {took:?}");
    for (lines, end) in ended {
        let is_told = lines.last().is_some_and(|line| line.text.contains("\"error\""));
        ensure!(is_told || end.is_err(), "a cut stream has a good end: {lines:?}");
        ensure!(!lines.iter().any(|line| line.text.contains("\"done\":true")), "a cut stream says that it is done");
    }
    cluster.finish().await
}
