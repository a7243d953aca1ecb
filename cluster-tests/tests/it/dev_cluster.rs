//! A cluster of `ollamax dev up`, driven through the command line alone. When it is down, nothing of it runs any more.
//!
//! One that is dropped before [`DevCluster::finish`] is stopped, and its directory kept.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use ollamax_testkit::cluster::{PATIENCE, binary, clean_environment};
use ollamax_testkit::http::HttpClient;
use ollamax_testkit::{Remembered, remembered, wait};

pub(crate) const NODES: usize = 3;
/// The nodes that a model is imported to.
pub(crate) const HOLDERS: [&str; 2] = ["n1", "n2"];
/// Longest time for one command, the whole conversation of a client among them.
const COMMAND_TIME: Duration = Duration::from_secs(120);
/// How long what a daemon has started may go on after `dev down` has seen that daemon end.
const END_TIME: Duration = Duration::from_secs(10);
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");

#[derive(Debug)]
pub(crate) struct DevCluster {
    directory: Option<TempDir>,
    place: PathBuf,
    /// Of each node in turn.
    pub(crate) urls: Vec<String>,
    /// Process ids of the daemons.
    daemons: Vec<u32>,
    /// Process ids of the engines that the daemons have started.
    engines: Vec<u32>,
}

// === impl DevCluster ===

impl DevCluster {
    /// Starts a node beside each of these runtimes; beside engines where none is named.
    pub(crate) async fn up(runtimes: &[String]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().context("make the test's directory")?;
        let place = directory.path().to_owned();
        eprintln!("dev cluster: in {}", place.display());
        let (urls, daemons, engines) = (Vec::new(), Vec::new(), Vec::new());
        let mut cluster = Self { directory: Some(directory), place, urls, daemons, engines };
        let nodes = NODES.to_string();
        let mut up = cluster.ollamax(&["dev", "up", "--nodes", &nodes, "--detach", "-o", "json"], &cluster.place)?;
        for url in runtimes {
            up.args(["--runtime-url", url]);
        }
        let told: Value = serde_json::from_str(&succeed(up).await?).context("read what dev up says")?;
        let number = |value: &Value| value.as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 1);
        for node in told["nodes"].as_array().context("dev up names no nodes")? {
            cluster.urls.extend(node["api"].as_str().map(str::to_owned));
            cluster.daemons.extend(number(&node["pid"]));
            cluster.engines.extend(number(&node["runtime"]["pid"]));
        }
        let engines = if runtimes.is_empty() { NODES } else { 0 };
        let counts = [cluster.urls.len(), cluster.daemons.len(), cluster.engines.len()];
        ensure!(counts == [NODES, NODES, engines], "dev up says {told}");
        Ok(cluster)
    }

    /// Imports the demo model to the holders and waits until every node lists it in their hands.
    pub(crate) async fn import_demo(&self, model: &str) -> Result<()> {
        let [first, second] = HOLDERS;
        let words = ["model", "import", DEMO, "--name", model, "--node", first, "--node", second];
        succeed(self.ollamax(&words, &self.place.join(first))?).await?;
        let (http, name) = (HttpClient::new(), format!("{model}:latest"));
        for url in &self.urls {
            wait::until(&format!("the model in the list of {url}"), PATIENCE, || async {
                let tags = http.get_json(&format!("{url}/api/tags")).await?;
                let row = tags["models"].as_array().into_iter().flatten().find(|row| row["name"] == name.as_str());
                let row = row.with_context(|| format!("no {name}: {tags}"))?;
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

    /// Every process of the cluster: the daemons, and all that they have started.
    pub(crate) fn processes(&self) -> Result<Vec<Remembered>> {
        let families: Vec<Vec<Remembered>> =
            self.daemons.iter().map(|daemon| remembered::family(*daemon)).collect::<Result<_>>()?;
        let all = families.concat();
        for engine in &self.engines {
            ensure!(all.iter().any(|process| process.pid() == *engine), "{engine}, an engine, is not of {all:?}");
        }
        Ok(all)
    }

    /// Stops it and sees to it that all of it has ended.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let processes = self.processes()?;
        let down = self.ollamax(&["dev", "down", "-o", "json"], &self.place)?;
        let told: Value = serde_json::from_str(&succeed(down).await?).context("read what dev down says")?;
        ensure!(told["stopped"] == NODES, "dev down says {told}");
        remembered::all_ended("all that dev up has started", &processes, END_TIME).await?;
        match self.directory.take() {
            Some(directory) => directory.close().context("remove the test's directory"),
            None => Ok(()),
        }
    }

    fn ollamax(&self, arguments: &[&str], data_dir: &Path) -> Result<Command> {
        let mut command = Command::new(binary("ollamax")?);
        command.args(arguments).arg("--data-dir").arg(data_dir).current_dir(&self.place);
        clean_environment(&mut command);
        Ok(command)
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        let kept = directory.keep();
        let down = self.ollamax(&["dev", "down"], &kept);
        let down = down.and_then(|mut command| Ok(command.as_std_mut().stdout(Stdio::null()).status()?));
        let down = down.map_or_else(|problem| format!("{problem:#}"), |status| status.to_string());
        eprintln!("dev cluster: failed; dev down: {down}; logs: {}", kept.join("n*/node.log").display());
    }
}

/// Runs a command to its end; anything but success is an error with all that it said.
pub(crate) async fn succeed(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let ended = timeout(COMMAND_TIME, command.output()).await;
    let output = ended.with_context(|| format!("{shown} still runs after {COMMAND_TIME:?}"))?;
    let Output { status, stdout, stderr } = output.with_context(|| format!("run {shown}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{shown} ended with {status}:\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}
