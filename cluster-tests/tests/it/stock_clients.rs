//! The stock Python clients `ollama` and `openai` at every node of `ollamax dev up --nodes 3`: they list, show, chat,
//! stream, generate, embed, and are refused, on a real model that two of the three nodes have.
//!
//! What they must see stands in `cluster-tests/clients/stock_clients.py`; `cargo xtask setup` installs them.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use ollamax_testkit::cluster::{PATIENCE, binary};
use ollamax_testkit::http::HttpClient;
use ollamax_testkit::wait;

const MODEL: &str = "demo";
const HOLDERS: [&str; 2] = ["n1", "n2"];
const NODES: usize = 3;
/// Longest time for one command, the whole conversation of the clients among them.
const COMMAND_TIME: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stock_python_clients_work_through_every_node() -> Result<()> {
    let _turn = crate::turn().await;
    let python = python()?;
    let cluster = DevCluster::up().await?;
    cluster.import_demo().await?;
    cluster.model_listed().await?;
    let mut clients = Command::new(python);
    // Nothing of the caller's environment decides, proxies least of all.
    clients.env_clear().arg("-I").arg(clients_folder().join("stock_clients.py"));
    clients.arg(MODEL).arg(HOLDERS.join(",")).args(&cluster.urls);
    println!("{}", succeed(clients).await?);
    cluster.finish().await
}

/// The Python that has the clients: in the target directory, above the test's own binary.
fn python() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the test's own binary")?;
    let found = own.ancestors().map(|folder| folder.join("python-clients/bin/python")).find(|path| path.is_file());
    found.with_context(|| format!("no Python clients above {}: run `cargo xtask setup`", own.display()))
}

fn clients_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"))
}

/// Runs a command to its end; anything but success is an error with all that it said.
async fn succeed(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let ended = timeout(COMMAND_TIME, command.output()).await;
    let output = ended.with_context(|| format!("{shown} still runs after {COMMAND_TIME:?}"))?;
    let Output { status, stdout, stderr } = output.with_context(|| format!("run {shown}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{shown} ended with {status}:\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}

/// A cluster of `ollamax dev up`. One that is dropped before [`DevCluster::finish`] is stopped, and its directory kept.
#[derive(Debug)]
struct DevCluster {
    directory: Option<TempDir>,
    place: PathBuf,
    /// Of each node in turn.
    urls: Vec<String>,
}

// === impl DevCluster ===

impl DevCluster {
    async fn up() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().context("make the test's directory")?;
        let place = directory.path().to_owned();
        eprintln!("stock clients: in {}", place.display());
        let mut cluster = Self { directory: Some(directory), place, urls: Vec::new() };
        let nodes = NODES.to_string();
        let up = cluster.ollamax(&["dev", "up", "--nodes", &nodes, "--detach", "-o", "json"], &cluster.place)?;
        let told: Value = serde_json::from_str(&succeed(up).await?).context("read what dev up says")?;
        let nodes = told["nodes"].as_array().context("dev up names no nodes")?;
        cluster.urls = nodes.iter().filter_map(|node| node["api"].as_str()).map(str::to_owned).collect();
        ensure!(cluster.urls.len() == NODES, "dev up says {told}");
        Ok(cluster)
    }

    fn ollamax(&self, arguments: &[&str], data_dir: &Path) -> Result<Command> {
        let mut command = Command::new(binary("ollamax")?);
        command.args(arguments).arg("--data-dir").arg(data_dir).current_dir(&self.place);
        Ok(command)
    }

    async fn import_demo(&self) -> Result<()> {
        let file = clients_folder().join("../../config/demo/demo.gguf");
        let file = file.to_str().context("the path of the demo model")?;
        let [first, second] = HOLDERS;
        let words = ["model", "import", file, "--name", MODEL, "--node", first, "--node", second];
        succeed(self.ollamax(&words, &self.place.join(first))?).await.map(drop)
    }

    /// Waits until every node lists the model, and in whose hands it is.
    async fn model_listed(&self) -> Result<()> {
        let http = HttpClient::new();
        for url in &self.urls {
            wait::until(&format!("the model in the list of {url}"), PATIENCE, || async {
                let tags = http.get_json(&format!("{url}/api/tags")).await?;
                let row = tags["models"].as_array().and_then(|models| models.first()).context("no model")?;
                let mut holders: Vec<&str> =
                    row["node"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
                holders.sort_unstable();
                ensure!(holders == HOLDERS, "{row}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        let down = self.ollamax(&["dev", "down", "-o", "json"], &self.place)?;
        let told: Value = serde_json::from_str(&succeed(down).await?).context("read what dev down says")?;
        ensure!(told["stopped"] == NODES, "dev down says {told}");
        match self.directory.take() {
            Some(directory) => directory.close().context("remove the test's directory"),
            None => Ok(()),
        }
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        let kept = directory.keep();
        let down = self.ollamax(&["dev", "down"], &kept);
        let down = down.and_then(|mut command| Ok(command.as_std_mut().stdout(Stdio::null()).status()?));
        let down = down.map_or_else(|problem| format!("{problem:#}"), |status| status.to_string());
        eprintln!("stock clients: failed; dev down: {down}; logs: {}", kept.join("n*/node.log").display());
    }
}
