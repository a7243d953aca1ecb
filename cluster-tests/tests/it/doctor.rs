//! `ollamax doctor` asks daemons that run: every check is there, what is well is ok, a node that is gone is named.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::fake_ollama::Script;
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::PATIENCE;

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Every check. What `disk`, `gpu` and `model_store` find depends on the machine.
const CHECKS: [&str; 12] = [
    "clock",
    "data_dir",
    "disk",
    "fsync",
    "gpu",
    "model_store",
    "ports",
    "quorum",
    "reach_back",
    "reachability",
    "registry",
    "runtime",
];

/// What was found, by check.
type Found = BTreeMap<String, Value>;

/// Runs all checks at a node. Whatever they find, their form and the exit code fit.
async fn doctor(cluster: &Cluster, index: usize) -> Result<Found> {
    let output = cluster.node(index).ollamax(&["-o", "json", "doctor"], COMMAND_LIMIT).await?;
    let told: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(told["kind"] == "Doctor" && output.stderr.is_empty(), "{output:?}");
    let checks = told["checks"].as_array().with_context(|| format!("no checks: {told}"))?;
    for check in checks {
        let is_wrong = ["warning", "failed"].iter().any(|outcome| check["outcome"] == *outcome);
        let has_advice = check["fix"].as_str().is_some_and(|fix| !fix.is_empty());
        let has_facts = check["found"].as_str().is_some_and(|found| !found.is_empty());
        ensure!(has_facts && is_wrong == has_advice, "{check}");
    }
    let failed = checks.iter().any(|check| check["outcome"] == "failed");
    ensure!(output.status.code() == Some(if failed { 10 } else { 0 }), "{}: {told}", output.status);
    let found = checks.iter().map(|check| (check["id"].as_str().unwrap_or_default().to_owned(), check.clone()));
    let found: Found = found.collect();
    ensure!(found.keys().eq(CHECKS.iter()) && checks.len() == CHECKS.len(), "checks: {:?}", found.keys());
    Ok(found)
}

fn check(found: &Found, id: &str, outcomes: &[&str]) -> Result<()> {
    let check = &found[id];
    ensure!(outcomes.iter().any(|outcome| check["outcome"] == *outcome), "not one of {outcomes:?}: {check}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_what_is_well_and_what_is_not() -> Result<()> {
    let _turn = crate::turn().await;
    // One loopback address alone is worth a warning: the first node has it. Without a port each gets the listener's.
    let told = ("peer.advertise".to_owned(), "127.0.0.1,localhost".to_owned());
    let cluster = Cluster::builder("doctor")
        .nodes(2)
        .fakes(&Script::default())
        .node(1, |plan| plan.settings.push(told))
        .unformed()
        .start()
        .await?;
    let alone = doctor(&cluster, 0).await.context("before it belongs to a cluster")?;
    for id in ["clock", "quorum", "reach_back", "reachability", "registry"] {
        check(&alone, id, &["skipped"])?;
    }

    let home = cluster.node(0).admin()?;
    home.init("lab", "n1").await?;
    let token = home.create_token("voter", 1).await?;
    cluster.node(1).admin()?.join(&token, vec![cluster.node(0).advertised()], "n2").await?;
    cluster.settled(PATIENCE).await?;
    for (index, ports) in [(0, "warning"), (1, "ok")] {
        let what = format!("node {index} to find that all is well");
        let found = wait::until(&what, PATIENCE, || async {
            let found = doctor(&cluster, index).await?;
            check(&found, "ports", &[ports])?;
            for id in ["clock", "quorum", "reach_back", "reachability", "runtime"] {
                check(&found, id, &["ok"])?;
            }
            // On a busy disk it is slow; that it works at all is what counts here.
            check(&found, "fsync", &["ok", "warning"])?;
            anyhow::Ok(found)
        })
        .await?;
        let advice = found["ports"]["fix"].as_str().unwrap_or_default();
        ensure!(advice.contains("peer.advertise") == (ports == "warning"), "{}", found["ports"]);
    }

    cluster.kill(&[1]).await?;
    let found = doctor(&cluster, 0).await.context("beside a node that is gone")?;
    check(&found, "reachability", &["failed"])?;
    let gone = &found["reachability"];
    ensure!(gone["found"].as_str().is_some_and(|found| found.contains("n2")), "{gone}");
    ensure!(gone["fix"].as_str().is_some_and(|fix| fix.contains("start ollamax-node on n2")), "{gone}");
    cluster.finish().await
}
