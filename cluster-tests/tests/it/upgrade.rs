//! From one cluster version to the next: members restarted one after another while changes go on, the check before it,
//! and the migration behind it, which is done once although its leader dies on the way. All run one program, which is
//! held back first; `two_releases` does it with two.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use ollamax_proto::v1;
use ollamax_proto::v1::versions_client::VersionsClient;
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(3_600);
/// So many that a walk over them takes much longer than a kill.
const LEASES: usize = 3_000;
const AT_ONCE: usize = 50;
/// Deadlines of the nodes' own sessions, which the walk meets too.
const SESSIONS_MAX: u64 = 12;

/// What holds every member's cluster version; 0 lets it go.
pub(crate) fn hold_at(file: &Path, version: u32) -> Result<()> {
    std::fs::write(file, format!("[raft]\nversion_max = {version}\n")).context("write the configuration")
}

/// What a command of `ollamax` shows as JSON; its exit code is one of these.
pub(crate) async fn told(cluster: &Cluster, index: usize, words: &[&str], exits: &[i32]) -> Result<Value> {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let output = cluster.node(index).ollamax(&words, COMMAND_LIMIT).await?;
    ensure!(output.status.code().is_some_and(|exit| exits.contains(&exit)), "{words:?}: {output:?}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {output:?}"))
}

/// The ledger's row of the first migration, and the cluster version, as a node sees them.
async fn ledger(cluster: &Cluster, index: usize) -> Result<(Value, u64)> {
    let told = told(cluster, index, &["migrate", "status"], &[0]).await?;
    let version = told["clusterVersion"].as_u64().context("no cluster version")?;
    Ok((told["migrations"][0].clone(), version))
}

/// The verdict on one thing before an upgrade.
pub(crate) async fn verdict(cluster: &Cluster, index: usize, id: &str) -> Result<Value> {
    // What the disk of this machine has free decides which of them it is.
    let told = told(cluster, index, &["upgrade", "check"], &[0, 1, 10]).await?;
    let check = told["checks"].as_array().into_iter().flatten().find(|check| check["id"] == id).cloned();
    check.with_context(|| format!("no {id}: {told}"))
}

/// Grants leases through a node, and revokes every second one.
pub(crate) async fn leave_deadlines(cluster: &Cluster, index: usize, leases: usize) -> Result<()> {
    let door = cluster.node(index).values()?;
    let client = door.client();
    for _ in 0..leases / AT_ONCE {
        let granted = try_join_all((0..AT_ONCE).map(|_| door.grant(LEASE))).await?;
        let revoke = |id: u64| {
            let mut client = client.clone();
            async move { client.revoke_lease(v1::RevokeLeaseRequest { id }).await }
        };
        try_join_all(granted.into_iter().step_by(2).map(revoke)).await.context("revoke a lease")?;
    }
    Ok(())
}

/// Restarts all members, one after another. Changes go on meanwhile.
async fn roll(cluster: &Cluster) -> Result<()> {
    for index in 0..cluster.size() {
        let (_, version) = ledger(cluster, index).await?;
        ensure!(version == 2, "version {version} before the last member was upgraded");
        cluster.node(index).stop(PATIENCE).await?;
        let other = (index + 1) % cluster.size();
        wait::until("a change while one restarts", PATIENCE, || cluster.set(other, "during", b"an upgrade")).await?;
        cluster.restart(&[index]).await?;
        cluster.settled(PATIENCE).await?;
    }
    Ok(())
}

/// Begins the migration at a node, and kills the leader behind the first step.
async fn migrate_and_kill(cluster: &Cluster, index: usize, leader: usize) -> Result<()> {
    let socket = cluster.node(index).data_dir().join("admin.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name the admin socket")?;
    let mut client: VersionsClient<Channel> = VersionsClient::new(endpoint.connect_lazy());
    let mut replies = client.run_migrations(v1::RunMigrationsRequest::default()).await?.into_inner();
    let plan = replies.message().await?.context("no plan")?;
    ensure!(plan.planned == [1] && plan.waiting.is_empty(), "{plan:?}");
    let step = replies.message().await?.and_then(|reply| reply.migration).context("no step")?;
    ensure!(step.status() == v1::migration::Status::Applying, "{step:?}");
    cluster.kill(&[leader]).await?;
    loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => bail!("it was done before the leader died: no evidence"),
            Err(_) => return Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_to_the_next_version_one_by_one_and_migrate_once_although_the_leader_dies() -> Result<()> {
    let _turn = crate::turn().await;
    let folder = tempfile::tempdir().context("make a folder")?;
    let file = folder.path().join("node.toml");
    hold_at(&file, 2)?;
    let cluster = Cluster::builder("upgrade").setting("config", file.display()).start().await?;
    leave_deadlines(&cluster, 0, LEASES).await?;
    let run = told(&cluster, 1, &["migrate", "up"], &[0]).await?;
    ensure!(run["planned"] == Value::Array(vec![]) && run["waiting"][0] == 1, "{run}");
    let held = verdict(&cluster, 2, "way_back").await?;
    ensure!(held["found"].as_str().is_some_and(|found| found.contains("raft.version_max holds it")), "{held}");

    hold_at(&file, 0)?;
    roll(&cluster).await?;
    wait::until("the version to go up", PATIENCE, || async {
        let (row, version) = ledger(&cluster, 1).await?;
        ensure!(version == 5 && row["status"] == "pending", "version {version}: {row}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let pending = verdict(&cluster, 0, "migrations").await?;
    ensure!(pending["verdict"] == "warn", "{pending}");

    let leader = cluster.leader(PATIENCE).await?;
    let follower = (leader + 1) % cluster.size();
    let tried = told(&cluster, follower, &["migrate", "up", "--dry-run"], &[0]).await?;
    let would = tried["migrations"][0]["rehearsal"]["changed"].as_u64().context("no count")?;
    ensure!((LEASES as u64..=LEASES as u64 + SESSIONS_MAX).contains(&would), "{tried}");
    ensure!(ledger(&cluster, follower).await?.0["status"] == "pending", "a dry run changed something");
    migrate_and_kill(&cluster, follower, leader).await?;
    wait::until("the rest of it", PATIENCE, || told(&cluster, follower, &["migrate", "up"], &[0])).await?;
    let (row, _) = ledger(&cluster, follower).await?;
    let changed = row["changed"].as_u64().context("no count")?;
    ensure!(row["status"] == "applied" && row["finishedAtMs"].is_u64() && row["error"].is_null(), "{row}");
    ensure!((LEASES as u64..=LEASES as u64 + SESSIONS_MAX).contains(&changed), "not once: {row}");

    cluster.restart(&[leader]).await?;
    cluster.settled(PATIENCE).await?;
    for (words, status) in [(["migrate", "down"], "reverted"), (["migrate", "up"], "applied")] {
        let run = told(&cluster, leader, &words, &[0]).await?;
        ensure!(run["migrations"][0]["status"] == status, "{run}");
    }
    cluster.converged(PATIENCE).await?;
    let done = verdict(&cluster, leader, "migrations").await?;
    ensure!(done["found"] == "every migration is applied", "{done}");
    cluster.finish().await
}
