//! What fails before the first byte is tried elsewhere; what fails after it, never; a crash, once.

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1;
use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{Fault, FaultRule, ModelScript, On, Script};
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::{self, PATIENCE, asked};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_before_the_first_byte_moves_the_request() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("retries", |_| {}).await?;
    let third = model_owners::label(&cluster, 2).await?;
    for fault in [Fault::Busy, Fault::Reset] {
        model_owners::make_resident(&cluster, 1).await?;
        let before = asked(&cluster, 1)?;
        cluster.fake(1)?.inject(FaultRule::always(On::Inference, fault.clone()));
        moved(&cluster, &third, &format!("{fault:?}")).await?;
        ensure!(asked(&cluster, 1)? > before, "{fault:?}: the faulty runtime was never asked");
        cluster.fake(1)?.heal();
    }

    model_owners::make_resident(&cluster, 1).await?;
    let demo = cluster.fake(1)?.models();
    cluster.fake(1)?.change(|script| script.models.clear());
    moved(&cluster, &third, "stale placement").await?;
    cluster.fake(1)?.change(|script| script.models = demo);
    cluster.model_known("demo", 2, PATIENCE).await?;

    model_owners::make_resident(&cluster, 1).await?;
    cluster.fake(1)?.stop();
    moved(&cluster, &third, "connection refused").await?;
    cluster.finish().await
}

async fn moved(cluster: &Cluster, to: &str, why: &str) -> Result<()> {
    for stream in [true, false] {
        let answer = cluster.chat(0, "demo", why, stream).await?;
        let (status, node) = (answer.status, answer.node());
        let text = answer.text().await?;
        ensure!(status == 200 && node == to, "{why}, stream {stream}: {status} by {node}: {text}");
        ensure!(!text.contains("error"), "{why}, stream {stream}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_after_the_first_byte_is_told_and_never_retried() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("no-retry", |script| {
        script.tokens = 20;
        script.token_us = 5_000;
    })
    .await?;
    for (fault, stream) in [(Fault::CutAfterLines(3), true), (Fault::ErrorAfterLines(3), true)] {
        let before = asked(&cluster, 1)? + asked(&cluster, 2)?;
        for index in [1, 2] {
            cluster.fake(index)?.inject(FaultRule::always(On::Inference, fault.clone()));
        }
        let answer = cluster.chat(0, "demo", "go on", stream).await?;
        ensure!(answer.status == 200, "{fault:?}: {}", answer.status);
        let (lines, end) = answer.lines().await;
        let told = lines.last().is_some_and(|line| line.text.contains("\"error\""));
        ensure!(told || end.is_err(), "{fault:?} looks like a good end: {lines:?}");
        let done = lines.iter().any(|line| line.text.contains("\"done\":true"));
        ensure!(!done, "{fault:?}: a broken stream says that it is done");
        ensure!(lines.len() >= 3, "{fault:?}: the lines before the break are missing: {lines:?}");
        let after = asked(&cluster, 1)? + asked(&cluster, 2)?;
        ensure!(after == before + 1, "{fault:?}: asked {} times", after - before);
        for index in [1, 2] {
            cluster.fake(index)?.heal();
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_crashes_runners_meets_two_at_most() -> Result<()> {
    let _turn = crate::turn().await;
    let script = Script {
        faults: vec![FaultRule::always(On::Inference, Fault::RunnerCrash)],
        ..Script::with_models([ModelScript::named("demo")])
    };
    let fake = || Runtime::Fake(Box::new(script.clone()));
    let cluster = Cluster::builder("poison")
        .nodes(4)
        .node(1, |plan| plan.runtime = fake())
        .node(2, |plan| plan.runtime = fake())
        .node(3, |plan| plan.runtime = fake())
        .start()
        .await?;
    cluster.model_known("demo", 3, PATIENCE).await?;
    let answer = cluster.chat(0, "demo", "poison", false).await?;
    let status = answer.status;
    let text = answer.text().await?;
    ensure!(status >= 500, "{status}: {text}");
    ensure!(text.contains("runner"), "the client hears what happened: {text}");
    let total: u64 = (1..4).map(|index| asked(&cluster, index)).sum::<Result<u64>>()?;
    ensure!(total == 2, "{total} runners were crashed");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_slots_wait_at_the_owner_not_in_the_runtime() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("slots", |script| {
        script.slots = 4;
        script.first_byte_ms = 100;
    })
    .await?;
    let asks = (0..12).map(|number| {
        let cluster = &cluster;
        async move { cluster.chat(0, "demo", &format!("question {number}"), false).await }
    });
    for answer in futures::future::try_join_all(asks).await? {
        ensure!(answer.status == 200, "{}", answer.status);
    }
    for index in [1, 2] {
        let most = cluster.fake(index)?.read(|record| record.running_most);
        ensure!(most <= 1, "runtime.parallel is 1, yet the runtime of node {index} worked on {most}");
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_hangs_takes_its_node_out_of_routing_not_down() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("hanging", |_| {}).await?;
    let other = model_owners::label(&cluster, 2).await?;
    cluster.fake(1)?.inject(FaultRule::always(On::Everything, Fault::Hang));
    let named = |status: &v1::StatusReply| status.nodes.iter().find(|node| node.name == "n2").cloned();
    wait::until("the hanging runtime to be noticed", PATIENCE, || async {
        let node = named(&cluster.status(0).await?).context("n2 is gone")?;
        let state = node.runtime.map_or(0, |runtime| runtime.state);
        ensure!(state == v1::runtime::State::Down as i32, "runtime state {state}");
        ensure!(node.health == v1::node_view::Health::Alive as i32, "the node itself lives");
        Ok(())
    })
    .await?;
    for _ in 0..5 {
        let answer = cluster.chat(0, "demo", "a hanging runtime is left out", false).await?;
        ensure!(answer.status == 200 && answer.node() == other, "{} by {}", answer.status, answer.node());
    }
    cluster.fake(1)?.heal();
    wait::until("the runtime to be used again", PATIENCE, || async {
        let node = named(&cluster.status(0).await?).context("n2 is gone")?;
        let state = node.runtime.map_or(0, |runtime| runtime.state);
        ensure!(state == v1::runtime::State::Up as i32, "runtime state {state}");
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_at_a_runtime_that_hangs_are_answered_by_another_node() -> Result<()> {
    let _turn = crate::turn().await;
    let fake = || Runtime::Fake(Box::new(Script::with_models([ModelScript::named("demo")])));
    let cluster = Cluster::builder("taken-back")
        .setting("runtime.hang_after_ms", 1_000)
        .node(1, |plan| plan.runtime = fake())
        .node(2, |plan| plan.runtime = fake())
        .start()
        .await?;
    cluster.model_known("demo", 2, PATIENCE).await?;
    let other = model_owners::label(&cluster, 2).await?;
    model_owners::make_resident(&cluster, 1).await?;
    let before = asked(&cluster, 1)?;
    cluster.fake(1)?.inject(FaultRule::always(On::Everything, Fault::Hang));
    let asks = (0..3).map(|number| {
        let cluster = &cluster;
        async move { cluster.chat(0, "demo", &format!("question {number}"), true).await }
    });
    for answer in futures::future::try_join_all(asks).await? {
        ensure!(answer.status == 200 && answer.node() == other, "{} by {}", answer.status, answer.node());
        let text = answer.text().await?;
        ensure!(text.contains("\"done\":true"), "{text}");
    }
    ensure!(asked(&cluster, 1)? > before, "the hanging runtime was never asked");
    cluster.finish().await
}
