//! The demo's cluster, seen through the command line: started, filled, and asked who leads.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::workspace::shown;

/// One node, as `ollamax dev up` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) name: String,
    /// Base address of its client door.
    pub(super) api: String,
    pub(super) pid: u64,
    pub(super) runtime_kind: String,
    /// Base address of the runtime beside it.
    pub(super) runtime_url: String,
    pub(super) data_dir: String,
    /// Whether it led when the cluster was ready.
    pub(super) leader: bool,
}

/// A running cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The command line that drives it.
    pub(super) program: PathBuf,
    pub(super) nodes: Vec<Node>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts three nodes and waits until all are ready.
    pub(super) fn up(program: &Path, folder: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["dev", "up", "--nodes", "3", "--detach", "-o", "json", "--data-dir"]).arg(folder);
        let (text, ok) = output(command)?;
        ensure!(ok, "the cluster did not start");
        let nodes = nodes(&text).with_context(|| format!("read what `ollamax dev up` printed: {text}"))?;
        ensure!(nodes.len() == 3, "three nodes were wanted, {} came", nodes.len());
        Ok(Self { program: program.to_owned(), nodes })
    }

    /// Creates a model in the runtime of one node.
    pub(super) fn import(&self, file: &Path, name: &str, node: &Node) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["model", "import"]).arg(file).args(["--name", name, "--node", &node.name]);
        command.args(["--data-dir", &node.data_dir]);
        let (text, ok) = output(command)?;
        ensure!(ok, "the model could not be imported");
        print!("{text}");
        Ok(())
    }

    /// Waits until all of these nodes have a model that one of them has: the others get it from there.
    pub(super) fn spread(&self, name: &str, nodes: &[Node]) -> Result<()> {
        let asked = nodes.first().context("no node to spread to")?;
        let mut command = Command::new(&self.program);
        command.args(["model", "pull", name, "--wait", "--data-dir", &asked.data_dir]);
        for node in nodes {
            command.args(["--node", &node.name]);
        }
        println!("\n{}", shown(&command));
        let (text, ok) = output(command)?;
        ensure!(ok, "the model could not be spread");
        print!("{text}");
        Ok(())
    }

    /// The node of this name or number, as the answer's header names it.
    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name == name || node.id.to_string() == name);
        found.with_context(|| format!("`{name}` is none of the demo's nodes"))
    }

    /// Who leads, in the view of one node; `None` while nobody is known to lead.
    pub(super) fn leader(&self, seen_by: &Node) -> Result<Option<u64>> {
        let mut command = Command::new(&self.program);
        command.args(["status", "-o", "json", "--data-dir", &seen_by.data_dir]).stderr(Stdio::null());
        // A degraded cluster has an exit code of its own; what was printed counts.
        let (text, _) = output(command)?;
        let status: Value = serde_json::from_str(&text).context("read what `ollamax status` printed")?;
        Ok(leader(&status))
    }
}

/// Standard output, and whether the exit code was 0. Complaints go to the terminal.
fn output(mut command: Command) -> Result<(String, bool)> {
    let shown = shown(&command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("start `{shown}`"))?;
    let text = String::from_utf8(output.stdout).with_context(|| format!("read what `{shown}` printed"))?;
    Ok((text, output.status.success()))
}

fn nodes(text: &str) -> Result<Vec<Node>> {
    let cluster: Value = serde_json::from_str(text).context("it is no JSON")?;
    if cluster.get("kind").and_then(Value::as_str) != Some("DevCluster") {
        bail!("its kind is not DevCluster");
    }
    cluster.get("nodes").and_then(Value::as_array).context("it has no nodes")?.iter().map(node).collect()
}

fn node(value: &Value) -> Result<Node> {
    let text = |path: &str| {
        let found = value.pointer(path).and_then(Value::as_str);
        found.map(str::to_owned).with_context(|| format!("a node has no `{path}`"))
    };
    let number =
        |path: &str| value.pointer(path).and_then(Value::as_u64).with_context(|| format!("a node has no `{path}`"));
    Ok(Node {
        id: number("/id")?,
        name: text("/name")?,
        api: text("/api")?.trim_end_matches('/').to_owned(),
        pid: number("/pid")?,
        runtime_kind: text("/runtime/kind")?,
        runtime_url: text("/runtime/url")?.trim_end_matches('/').to_owned(),
        data_dir: text("/data_dir")?,
        leader: value.get("leader").and_then(Value::as_bool).unwrap_or_default(),
    })
}

/// The leader's number: `raft.leader` of the status, where 0 or null means that none is known.
fn leader(status: &Value) -> Option<u64> {
    status.pointer("/raft/leader").and_then(Value::as_u64).filter(|leader| *leader != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_dev_up_prints_is_understood_or_refused() {
        let text = "{\"apiVersion\":\"ollamax/v1\",\"kind\":\"DevCluster\",\"nodes\":[{\"id\":1,\"name\":\"n1\",\
                    \"api\":\"http://127.0.0.1:21001\",\"peer\":\"p\",\"p2p\":\"q\",\"pid\":7,\"runtime\":{\"kind\":\"engine\",\
                    \"url\":\"http://127.0.0.1:21002/\",\"pid\":8},\"data_dir\":\"/d/n1\",\"leader\":true}]}";
        let nodes = nodes(text).expect("the contract's sample");
        let node = &nodes[0];
        assert_eq!((node.id, node.pid, node.leader), (1, 7, true));
        assert_eq!(
            (node.api.as_str(), node.runtime_url.as_str()),
            ("http://127.0.0.1:21001", "http://127.0.0.1:21002")
        );
        let refused = |text: &str| assert!(super::nodes(text).is_err(), "{text}");
        refused("");
        refused("{\"kind\":\"Status\",\"nodes\":[]}");
        refused("{\"kind\":\"DevCluster\",\"nodes\":[{\"id\":1}]}");
    }

    #[test]
    fn a_leader_is_known_by_its_number_or_not_at_all() {
        let check = |status: Value, expected: Option<u64>| assert_eq!(leader(&status), expected, "{status}");
        check(json!({ "raft": { "leader": 2 } }), Some(2));
        check(json!({ "raft": { "leader": 0 } }), None);
        check(json!({ "raft": { "leader": null } }), None);
        check(json!({}), None);
    }
}
