//! The registry for machines that are no members: an Ollama that belongs to no cluster pulls from a node, plain and
//! over TLS, and whoever asks, the registry outside is asked for each byte once.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use ollamax_testkit::cluster::{Builder, clean_environment};
use ollamax_testkit::fake_ollama::Script;
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::http::HttpClient;
use ollamax_testkit::{FakeOllama, FakeRegistry, port, wait};

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{blob, is_whole, model, plan, start};
use crate::spread::{WEIGHTS_BYTES, all_seen_up, came_once};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Two pieces of a file.
const HELD_BYTES: u64 = 8 << 20;

/// A machine with an Ollama and a store that belong to no cluster.
struct Machine {
    store: TempDir,
    ollama: FakeOllama,
    http: HttpClient,
    /// It pulls by plain HTTP.
    is_plain: bool,
}

// === impl Machine ===

impl Machine {
    async fn new() -> Result<Self> {
        Self::trusting(None).await
    }

    /// One that pulls over TLS, if it trusts a root.
    async fn trusting(root: Option<&Path>) -> Result<Self> {
        let store = tempfile::tempdir().context("a store")?;
        for folder in ["blobs", "manifests"] {
            fs::create_dir(store.path().join(folder)).context("a folder of a store")?;
        }
        let (trusts, is_plain) = (root.map(Path::to_owned), root.is_none());
        let script = Script { store: Some(store.path().to_owned()), trusts, ..Script::default() };
        Ok(Self { ollama: FakeOllama::start(script).await?, store, http: HttpClient::new(), is_plain })
    }

    /// `ollama pull HOST/library/NAME`, by plain HTTP with `--insecure`, and its last word.
    async fn try_pull(&self, host: &str, name: &str) -> Result<Value> {
        let body = json!({ "model": format!("{host}/library/{name}"), "insecure": self.is_plain });
        let answer = self.http.post(&format!("{}/api/pull", self.ollama.url()), &body).await?;
        let (lines, _) = answer.lines().await;
        let last = lines.last().context("no line came")?;
        serde_json::from_str(&last.text).with_context(|| format!("no JSON: {}", last.text))
    }

    /// The same for a model that comes.
    async fn pull(&self, host: &str, name: &str, model: &FakeModel) -> Result<()> {
        let last = self.try_pull(host, name).await?;
        ensure!(last == json!({ "status": "success" }), "{last}");
        let names: Vec<String> = self.ollama.models().into_iter().map(|model| model.name).collect();
        ensure!(names.contains(&format!("{host}/library/{name}:latest")), "{names:?}");
        is_whole(self.store.path(), model)
    }
}

/// Nodes that each give models to whoever is on this machine, and where they do.
fn lending(test: &str, upstream: &FakeRegistry, nodes: usize) -> Result<(Builder, Vec<String>)> {
    let mut plan = plan(test, upstream, nodes);
    let mut hosts = Vec::new();
    for index in 0..nodes {
        let host = format!("127.0.0.1:{}", port::free()?);
        let told = ("registry.listen".to_owned(), host.clone());
        plan = plan.node(index, |node| node.settings.push(told));
        hosts.push(host);
    }
    Ok((plan, hosts))
}

/// How often the registry outside was asked for the manifest of a name.
fn asked(upstream: &FakeRegistry, name: &str) -> usize {
    upstream.record().count(&format!("/v2/library/{name}/manifests/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_no_member_pulls_from_a_node() -> Result<()> {
    let _turn = crate::turn().await;
    let upstream = FakeRegistry::start().await?;
    let (demo, known) = (model(140, WEIGHTS_BYTES), model(141, WEIGHTS_BYTES));
    upstream.push("demo", &demo);
    upstream.push("known", &known);
    let (plan, hosts) = lending("registry-for-the-lab", &upstream, 2)?;
    let cluster = start(plan).await?;
    all_seen_up(&cluster).await?;
    let machines = [Machine::new().await?, Machine::new().await?];

    // Nobody has it: the node that is asked makes it its own, and the second machine gets it from there.
    for machine in &machines {
        machine.pull(&hosts[0], "demo", &demo).await?;
        came_once(&upstream, &demo)?;
    }
    ensure!(asked(&upstream, "demo") == 1, "{} times", asked(&upstream, "demo"));
    cluster.model_known("demo", 1, PATIENCE).await?;
    is_whole(&cluster.node(0).store(), &demo)?;

    // What one node has another gets from it, without the registry outside.
    let told = cluster.pull(0, "known", &["--node", "n1"]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known("known", 1, PATIENCE).await?;
    cluster.converged(PATIENCE).await?;
    drop(upstream);
    machines[0].pull(&hosts[1], "known", &known).await?;
    machines[0].pull(&hosts[1], "demo", &demo).await?;
    is_whole(&cluster.node(1).store(), &known)?;

    let last = machines[0].try_pull(&hosts[0], "nobody-has-this").await?;
    ensure!(last["error"].as_str().is_some_and(|error| error.starts_with("pull model manifest")), "{last}");
    let told = cluster.node(0).ollamax(&["-o", "json", "doctor"], COMMAND_LIMIT).await?;
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let mut checks = page["checks"].as_array().into_iter().flatten();
    let check = checks.find(|check| check["id"] == "registry").context("the registry is not checked")?;
    ensure!(check["outcome"] == "ok", "{check}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_machines_that_ask_two_nodes_at_once_cost_one_download() -> Result<()> {
    let _turn = crate::turn().await;
    let upstream = FakeRegistry::start().await?;
    let demo = model(142, WEIGHTS_BYTES);
    upstream.push("demo", &demo);
    let hold = upstream.hold_after(demo.weights.sha256(), HELD_BYTES);
    let (plan, hosts) = lending("registry-at-once", &upstream, 2)?;
    let cluster = start(plan).await?;
    all_seen_up(&cluster).await?;
    let machines = [Machine::new().await?, Machine::new().await?, Machine::new().await?];
    let first = machines[0].pull(&hosts[0], "demo", &demo);
    let second = machines[1].pull(&hosts[0], "demo", &demo);
    let third = async {
        // The download is under way, and the other node has heard of it.
        timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
        cluster.converged(PATIENCE).await?;
        let pulled = machines[2].pull(&hosts[1], "demo", &demo);
        let released = async {
            wait::until("the other node to be asked", PATIENCE, || async {
                let open = cluster.metric(1, "ollamax_registry_connections").await?;
                ensure!(open.is_some_and(|open| open > 0.0), "{open:?} connections");
                anyhow::Ok(())
            })
            .await?;
            hold.release();
            anyhow::Ok(())
        };
        tokio::try_join!(pulled, released).map(drop)
    };
    tokio::try_join!(first, second, third)?;
    came_once(&upstream, &demo)?;
    ensure!(asked(&upstream, "demo") == 1, "{} times", asked(&upstream, "demo"));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_in_the_midst_goes_on_where_it_was() -> Result<()> {
    let _turn = crate::turn().await;
    let upstream = FakeRegistry::start().await?;
    let demo = model(143, WEIGHTS_BYTES);
    upstream.push("demo", &demo);
    let hold = upstream.hold_after(demo.weights.sha256(), HELD_BYTES);
    let (plan, hosts) = lending("registry-killed", &upstream, 1)?;
    let cluster = start(plan).await?;
    let machine = Machine::new().await?;
    let killed = async {
        timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
        cluster.kill(&[0]).await
    };
    let (last, killed) = tokio::join!(machine.try_pull(&hosts[0], "demo"), killed);
    killed?;
    ensure!(last.as_ref().is_ok_and(|last| last["error"].is_string()), "{last:?}");
    hold.release();
    cluster.restart(&[0]).await?;
    crate::model_owners::runtimes_up(&cluster, 1).await?;
    wait::until("the machine to get it", PATIENCE, || async { machine.pull(&hosts[0], "demo", &demo).await }).await?;
    let sent = upstream.sent(demo.weights.sha256());
    ensure!(sent <= WEIGHTS_BYTES + HELD_BYTES, "{sent} bytes were sent of {WEIGHTS_BYTES}");
    cluster.finish().await
}

/// What a client of its own asks for and gets over TLS, if there is one on this machine.
async fn by_curl(host: &str, root: &Path, demo: &FakeModel) -> Result<()> {
    if Command::new("curl").arg("--version").output().await.is_err() {
        return crate::say_left_out("registry_for_the_lab, by curl", "there is no curl on this machine");
    }
    let place = format!("https://{host}/v2/library/demo");
    let manifest = curl(root, &[&format!("{place}/manifests/latest")]).await?;
    let manifest: Value = serde_json::from_slice(&manifest).context("a manifest")?;
    let digest = format!("sha256:{}", demo.weights.sha256());
    let mut layers = manifest["layers"].as_array().into_iter().flatten();
    ensure!(layers.any(|layer| layer["digest"] == digest.as_str()), "{manifest}");
    // It follows to the other name, whose certificate it checks too.
    let url = format!("{place}/blobs/{digest}");
    let store = tempfile::tempdir()?;
    fs::create_dir(store.path().join("blobs"))?;
    let to = blob(store.path(), demo.weights.sha256());
    curl(root, &["--location", "--output", &to.display().to_string(), &url]).await?;
    is_whole(store.path(), demo)
}

/// `curl` with the root of these certificates; what it wrote.
async fn curl(root: &Path, words: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--cacert"]).arg(root).args(words);
    clean_environment(&mut command);
    let output = command.kill_on_drop(true).output().await.context("run curl")?;
    ensure!(output.status.success(), "curl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_given_over_tls_where_there_is_a_certificate() -> Result<()> {
    let _turn = crate::turn().await;
    let papers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/crates/gateway/tests/it/lab");
    let folder = tempfile::tempdir()?;
    let copied = |name: &str| -> Result<PathBuf> {
        let to = folder.path().join(name);
        fs::copy(papers.join(name), &to).with_context(|| format!("copy {name}"))?;
        fs::set_permissions(&to, Permissions::from_mode(0o600))?;
        Ok(to)
    };
    let (root, certificate, key) = (copied("ca.pem")?, copied("cert.pem")?, copied("key.pem")?);
    let upstream = FakeRegistry::start().await?;
    let demo = model(144, WEIGHTS_BYTES);
    upstream.push("demo", &demo);
    let (plan, hosts) = lending("registry-over-tls", &upstream, 1)?;
    let plan =
        plan.setting("registry.certificate_file", certificate.display()).setting("registry.key_file", key.display());
    let cluster = start(plan).await?;

    // An Ollama checks the certificate at both names, and goes away where somebody else vouches for it.
    Machine::trusting(Some(&root)).await?.pull(&hosts[0], "demo", &demo).await?;
    let stranger = Machine::trusting(Some(&certificate)).await?.try_pull(&hosts[0], "demo").await?;
    ensure!(stranger["error"].is_string(), "it trusts another root: {stranger}");
    by_curl(&hosts[0], &root, &demo).await?;
    came_once(&upstream, &demo)?;
    let plain = Machine::new().await?.try_pull(&hosts[0], "demo").await?;
    ensure!(plain["error"].is_string(), "who speaks plainly gets nothing: {plain}");
    cluster.finish().await
}
