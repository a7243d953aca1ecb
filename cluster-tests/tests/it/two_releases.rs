//! Two releases in one cluster: members go from the daemon of the release before to this one's and back, one by one,
//! under clients whose every answer is judged, until the cluster version has gone up and there is no way back.
//!
//! It runs where `OLLAMAX_TEST_PREVIOUS_NODE` names the other daemon; `cargo xtask upgrade-test` builds and names it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use ollamax_proto::v1::RaftStatusRequest;
use ollamax_proto::v1::raft_admin_client::RaftAdminClient;
use ollamax_testkit::cluster::Daemon;
use ollamax_testkit::{Cluster, Seed, wait};

use crate::steady::Steady;
use crate::upgrade::{hold_at, leave_deadlines, told, verdict};

/// The `ollamax-node` of the release before.
const PREVIOUS_VARIABLE: &str = "OLLAMAX_TEST_PREVIOUS_NODE";
const PATIENCE: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const MEMBERS: [usize; 3] = [0, 1, 2];
/// Logs so short that a member which was away may need a snapshot of the other release.
const SHORT_LOGS: [(&str, u64); 2] = [("raft.snapshot_every", 300), ("raft.keep_log", 100)];
/// What must not fail while members go from one release to another.
const FITNESS: [&str; 6] = ["quorum", "tolerance", "members", "caught_up", "voters", "states"];
/// Leases that the release before leaves behind, half of them as deadlines of nothing; the first migration meets all.
const LEASES: usize = 200;
const NOTED_DEADLINES: u64 = 1;
/// A wish that says what stays free of disks: the release before has no place for it on record.
const KEEPING: &str = "[[model]]\nname = \"keeping\"\nreplicas = 1\ndisk_free_min = \"1GB\"\n";
const KEPT_BYTES: u64 = 1_000_000_000;

/// The daemon that is named, if one is.
async fn previous() -> Result<Option<Daemon>> {
    match std::env::var_os(PREVIOUS_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => Daemon::at(Path::new(&path)).await.context(PREVIOUS_VARIABLE).map(Some),
        None => Ok(None),
    }
}

/// The cluster version as a node knows it, and the highest that this node applies. Every release tells both.
async fn versions(cluster: &Cluster, index: usize) -> Result<(u32, u32)> {
    let socket = cluster.node(index).data_dir().join("admin.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name the admin socket")?;
    let mut client = RaftAdminClient::new(endpoint.connect_lazy());
    let told = timeout(COMMAND_LIMIT, client.get_raft_status(RaftStatusRequest::default())).await;
    let told = told.context("it does not answer")??.into_inner();
    Ok((told.cluster_version, told.release))
}

/// A member of this release finds nothing that an upgrade, there or back, would cost the cluster.
async fn is_fit(cluster: &Cluster, index: usize) -> Result<()> {
    wait::until("a cluster that is fit for the next member", PATIENCE, || async {
        // What the disk of this machine has free decides which of them it is.
        let told = told(cluster, index, &["upgrade", "check"], &[0, 1, 10]).await?;
        let checks = told["checks"].as_array().context("no checks")?;
        for id in FITNESS {
            let check = checks.iter().find(|check| check["id"] == id).with_context(|| format!("no {id}: {told}"))?;
            ensure!(check["verdict"] != "fail", "{check}");
        }
        anyhow::Ok(())
    })
    .await
}

/// The check at a member of the release before. One that has no such check is told apart from one that fails.
async fn is_fit_by_the_release_before(cluster: &Cluster, index: usize) -> Result<()> {
    let output = cluster.node(index).ollamax(&["upgrade", "check"], COMMAND_LIMIT).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !said.contains("use ollamax and ollamax-node of one release") {
        return is_fit(cluster, index).await;
    }
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

/// The numbers of migrations that wait for a higher cluster version.
async fn waiting(cluster: &Cluster, index: usize) -> Result<Vec<Value>> {
    let tried = told(cluster, index, &["migrate", "up", "--dry-run"], &[0]).await?;
    tried["waiting"].as_array().cloned().with_context(|| format!("no list: {tried}"))
}

/// What waited for the version can be done now, is done, and is on record at every node.
async fn migrate(cluster: &Cluster, waited: &[Value]) -> Result<()> {
    ensure!(waiting(cluster, 0).await?.is_empty(), "the version is there, and something still waits for it");
    let run = told(cluster, 0, &["migrate", "up"], &[0]).await?;
    let planned = run["planned"].as_array().context("no list")?;
    ensure!(waited.iter().all(|number| planned.contains(number)), "{waited:?} in {run}");
    cluster.converged(PATIENCE).await?;
    for index in MEMBERS {
        let listed = told(cluster, index, &["migrate", "status"], &[0]).await?;
        let rows = listed["migrations"].as_array().into_iter().flatten();
        let rows: Vec<&Value> = rows.filter(|row| waited.contains(&row["number"])).collect();
        ensure!(rows.len() == waited.len(), "{waited:?} in {listed}");
        for row in rows {
            ensure!(row["status"] == "applied" && row["finishedAtMs"].is_u64() && row["error"].is_null(), "{row}");
            let met = row["number"] != NOTED_DEADLINES || row["changed"].as_u64() >= Some(LEASES as u64);
            ensure!(met, "it did not meet what the release before left: {row}");
        }
    }
    Ok(())
}

/// Has a file say what is wished for.
fn applied<'a>(file: &'a Path, text: &str) -> Result<[&'a str; 4]> {
    std::fs::write(file, text).context("write the file of wishes")?;
    Ok(["model", "apply", file.to_str().context("a path that is no text")?, "--yes"])
}

/// What the wish says is refused while the version is that of the release before, which would drop it.
async fn cannot_keep_free(cluster: &Cluster, file: &Path) -> Result<()> {
    let output = cluster.node(0).ollamax(&applied(file, KEEPING)?, COMMAND_LIMIT).await?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    Ok(())
}

/// It is taken, and every member has it, until nobody wishes for it any more.
async fn keep_free(cluster: &Cluster, file: &Path) -> Result<()> {
    told(cluster, 0, &applied(file, KEEPING)?, &[0]).await?;
    cluster.converged(PATIENCE).await?;
    for index in MEMBERS {
        let listed = told(cluster, index, &["model", "wishes"], &[0]).await?;
        let kept = &listed["wishes"][0]["diskFreeBytesMin"];
        ensure!(*kept == KEPT_BYTES, "as node {index} has it: {listed}");
    }
    told(cluster, 0, &applied(file, "")?, &[0]).await?;
    Ok(())
}

/// A cluster between two releases.
struct World {
    cluster: Cluster,
    previous: Daemon,
    /// The cluster version that the release before made it with.
    before: u32,
    seed: Seed,
}

// === impl World ===

impl World {
    /// Moves members to a daemon, one after another, under clients who are judged; `None`: the one of this release.
    async fn roll(&self, name: &str, members: &[usize], daemon: Option<&Daemon>) -> Result<()> {
        let steady = Steady::new(name);
        steady.during(&self.cluster, self.seed, Box::pin(self.change(&steady, members, daemon))).await
    }

    async fn change(&self, steady: &Steady, members: &[usize], daemon: Option<&Daemon>) -> Result<()> {
        for index in members {
            let node = self.cluster.node(*index);
            let ended = node.stop(PATIENCE).await?;
            ensure!(ended.success(), "{} ended with {ended}", node.name());
            steady.goes_on().await?;
            // Also while the last one that is older is away: it may come back as what it was.
            self.is_not_raised().await?;
            node.set_daemon(daemon.cloned());
            self.cluster.restart(&[*index]).await?;
            self.cluster.settled(PATIENCE).await?;
            steady.goes_on().await?;
            if daemon.is_none() {
                is_fit(&self.cluster, *index).await?;
            }
        }
        Ok(())
    }

    /// Every node that runs sees the version that the cluster began with.
    async fn is_not_raised(&self) -> Result<()> {
        for node in self.cluster.nodes().iter().filter(|node| node.is_running()) {
            let (version, _) = versions(&self.cluster, node.index()).await?;
            ensure!(version == self.before, "{} sees version {version}, not {}", node.name(), self.before);
        }
        Ok(())
    }

    async fn is_raised(&self, to: u32) -> Result<()> {
        wait::until("the version to go up", PATIENCE, || async {
            for index in MEMBERS {
                let (version, _) = versions(&self.cluster, index).await?;
                ensure!(version == to, "node {index} sees version {version}");
            }
            anyhow::Ok(())
        })
        .await
    }

    /// The release before ends at its start, names both versions and harms nothing: this release goes on there.
    async fn is_refused(&self, index: usize, version: u32) -> Result<()> {
        let steady = Steady::new("refused");
        let story = async {
            let node = self.cluster.node(index);
            node.stop(PATIENCE).await?;
            node.set_daemon(Some(self.previous.clone()));
            match self.cluster.restart(&[index]).await {
                // It may listen for a moment before it looks at its state.
                Ok(()) => {
                    let ended = node.ended(PATIENCE).await?;
                    ensure!(ended.code() == Some(1), "{} ended with {ended}", node.name());
                }
                Err(error) => ensure!(format!("{error:#}").contains("exit status: 1"), "{error:#}"),
            }
            let reason = format!("this cluster runs version {version}, and this node applies up to {}", self.before);
            let last = node.log_tail();
            ensure!(last.contains(&reason), "it does not say why:\n{last}");
            steady.goes_on().await?;
            node.set_daemon(None);
            self.cluster.restart(&[index]).await?;
            self.cluster.settled(PATIENCE).await?;
            steady.goes_on().await
        };
        steady.during(&self.cluster, self.seed, Box::pin(story)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_from_the_release_before_to_this_one_and_back_until_the_version_goes_up() -> Result<()> {
    let _turn = crate::turn().await;
    let Some(previous) = previous().await? else {
        let why = format!("{PREVIOUS_VARIABLE} names no daemon of the release before; see docs/development/README.md");
        return crate::say_left_out("two_releases", &why);
    };
    let seed = Seed::choose("two_releases", 20_261_127);
    let folder = tempfile::tempdir().context("make a folder")?;
    let file = folder.path().join("node.toml");
    hold_at(&file, 0)?;
    let mut builder = Cluster::builder("two-releases").daemon(&previous).setting("config", file.display());
    for (key, value) in SHORT_LOGS {
        builder = builder.setting(key, value);
    }
    let cluster = builder.start().await?;
    let (before, _) = versions(&cluster, 0).await?;
    let world = World { cluster, previous, before, seed };
    leave_deadlines(&world.cluster, 0, LEASES).await?;
    is_fit_by_the_release_before(&world.cluster, 0).await?;

    // The one that stays behind holds the version, so the others can go back.
    world.roll("two_forth", &MEMBERS[..2], None).await?;
    world.is_not_raised().await?;
    let (_, after) = versions(&world.cluster, 0).await?;
    ensure!(after > before, "{PREVIOUS_VARIABLE} names no release before: both apply version {after}");
    let waited = waiting(&world.cluster, 1).await?;
    world.roll("two_back", &MEMBERS[..2], Some(&world.previous)).await?;
    world.is_not_raised().await?;

    // All of them can, while the configuration holds it.
    hold_at(&file, before)?;
    world.roll("held_forth", &MEMBERS, None).await?;
    world.is_not_raised().await?;
    let held = verdict(&world.cluster, 2, "way_back").await?;
    ensure!(held["found"].as_str().is_some_and(|found| found.contains("raft.version_max holds it")), "{held}");
    let wishes = folder.path().join("wishes.toml");
    cannot_keep_free(&world.cluster, &wishes).await?;
    world.roll("held_back", &MEMBERS, Some(&world.previous)).await?;
    world.is_not_raised().await?;

    hold_at(&file, 0)?;
    world.roll("forth", &MEMBERS, None).await?;
    world.is_raised(after).await?;
    migrate(&world.cluster, &waited).await?;
    keep_free(&world.cluster, &wishes).await?;
    world.is_refused(1, after).await?;
    world.cluster.finish().await
}
