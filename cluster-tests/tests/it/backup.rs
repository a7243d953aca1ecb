//! Three nodes with values, a backup in a bucket, all three lost: the bucket and one key bring everything back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::cluster::Level;
use ollamax_testkit::fake_s3::Key;
use ollamax_testkit::{Cluster, FakeS3, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const VALUES: usize = 20;
/// How far a restored cluster goes on behind its backup.
const BUMP: u64 = 1_000_000_000;
/// How `ollamax` exits where the bucket refuses.
const EXIT_FAILED: i32 = 1;
/// The same where there is nothing of that name.
const EXIT_USAGE: i32 = 2;
/// The same where the state forbids it.
const EXIT_CONFLICT: i32 = 4;

/// A file that only its owner may read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context("write a secret")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("protect a secret")
}

/// What a command of `ollamax` at a node answers.
async fn told(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let output = cluster.node(index).ollamax(&words, COMMAND_LIMIT).await?;
    ensure!(output.status.success(), "{words:?}: {}: {}", output.status, said(&output));
    serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {}", said(&output)))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is left of a node's configuration: how the bucket is reached.
fn write_config(path: &Path, store: &FakeS3, secret: &Path) -> Result<()> {
    let (endpoint, secret) = (store.url(), secret.display());
    let keys = format!("endpoint = \"{endpoint}\"\naccess_key_id = \"lab\"\nsecret_file = \"{secret}\"\n");
    fs::write(path, format!("[backup.s3]\n{keys}")).context("write a configuration")
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key} in {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_all_its_nodes_comes_back_from_a_bucket() -> Result<()> {
    let _turn = crate::turn().await;
    let safe = tempfile::tempdir().context("a place away from the nodes")?;
    let (secret, key) = (safe.path().join("s3-secret"), safe.path().join("backup-key"));
    write_secret(&secret, "s3cret")?;
    let store = FakeS3::start("lab-backups", Key { id: "lab".to_owned(), secret: "s3cret".to_owned() }, 100).await?;
    let cluster = Cluster::builder("backup")
        .setting("backup.s3.endpoint", store.url())
        .setting("backup.s3.access_key_id", "lab")
        .setting("backup.s3.secret_file", secret.display())
        .start()
        .await?;

    let refused = cluster.node(0).ollamax(&["backup", "create"], COMMAND_LIMIT).await?;
    ensure!(said(&refused).contains("ollamax backup new-key"), "{}", said(&refused));
    let made = told(&cluster, 0, &["backup", "new-key"]).await?;
    write_secret(&key, text(&made, "secret")?)?;
    for number in 0..VALUES {
        cluster.node(0).values()?.put(&format!("user/{number:02}"), b"kept", 0, None).await?;
    }

    let created = told(&cluster, 1, &["backup", "create", "--to", "s3://lab-backups/lab"]).await?;
    let revision = created["revision"].as_u64().context("no revision")?;
    let listed = told(&cluster, 2, &["backup", "list", "--from", "s3://lab-backups/lab"]).await?;
    ensure!(listed["backups"][0]["revision"] == revision, "{listed}");
    let (config, key) = (safe.path().join("node.toml"), key.display().to_string());
    write_config(&config, &store, &secret)?;
    let (address, config) = (text(&created, "place")?, config.display().to_string());
    let verify = ["backup", "verify", address, "--config", &config, "--key-file", &key];
    let verified = told(&cluster, 0, &verify).await?;
    ensure!(verified["opened"] == true && verified["families"]["values"] == VALUES, "{verified}");
    refused_by_the_bucket(&cluster, &store, safe.path(), address).await?;

    let restore = ["backup", "restore", address, "--config", &config, "--key-file", &key];
    let refused = cluster.node(0).ollamax(&restore, COMMAND_LIMIT).await?;
    ensure!(refused.status.code() == Some(EXIT_CONFLICT), "a member's directory: {}", said(&refused));

    cluster.kill(&[0, 1, 2]).await?;
    for node in cluster.nodes() {
        fs::remove_dir_all(node.data_dir()).context("lose a machine")?;
    }
    store.cut_next(&[5_000, 0]);
    let restored = told(&cluster, 0, &restore).await?;
    ensure!(!cluster.node(0).data_dir().join("backups-waiting").exists(), "what was fetched is left");
    ensure!(restored["restoredAs"]["node"].as_u64() > Some(3), "ids are not used again: {restored}");

    cluster.restart(&[0]).await?;
    let values = cluster.node(0).values()?;
    for number in 0..VALUES {
        let name = format!("user/{number:02}");
        let found = wait::until("a leader", PATIENCE, || values.get(&name, Level::Linearizable)).await?;
        ensure!(found.value.is_some_and(|value| value.value == b"kept"), "{name} is gone");
        ensure!(found.header.revision >= revision + BUMP, "at {}", found.header.revision);
    }
    let changed = values.put("user/new", b"life", 0, None).await?;
    ensure!(changed.header.revision > revision + BUMP, "{changed:?}");

    cluster.restart(&[1]).await?;
    let token = cluster.node(0).admin()?.create_token("voter", 1).await?;
    let seeds = vec![cluster.node(0).advertised()];
    cluster.node(1).admin()?.join(&token, seeds, "again").await?;
    let values = cluster.node(1).values()?;
    let found = wait::until("the second node", PATIENCE, || values.get("user/new", Level::Linearizable)).await?;
    ensure!(found.value.is_some_and(|value| value.value == b"life"), "the second node does not have it");
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

/// What is wrong with a name, a bucket or a secret is told in the store's own words.
async fn refused_by_the_bucket(cluster: &Cluster, store: &FakeS3, safe: &Path, address: &str) -> Result<()> {
    let (config, secret) = (safe.join("other.toml"), safe.join("other-secret"));
    write_secret(&secret, "another")?;
    write_config(&config, store, &secret)?;
    let good = safe.join("node.toml");
    let (other, good) = (config.display().to_string(), good.display().to_string());
    let rows = [
        ("s3://lab-backups/lab/none.oxb.age", &good, EXIT_USAGE, "NoSuchKey"),
        ("s3://elsewhere/lab/none.oxb.age", &good, EXIT_USAGE, "NoSuchBucket"),
        (address, &other, EXIT_FAILED, "SignatureDoesNotMatch"),
    ];
    for (address, config, exit, word) in rows {
        let words = ["backup", "verify", address, "--config", config];
        let refused = cluster.node(0).ollamax(&words, COMMAND_LIMIT).await?;
        ensure!(refused.status.code() == Some(exit), "{address}: {} {}", refused.status, said(&refused));
        ensure!(said(&refused).contains(word), "{address}: {}", said(&refused));
        ensure!(!said(&refused).contains("X-Amz"), "an address is as good as a key: {}", said(&refused));
    }
    Ok(())
}
