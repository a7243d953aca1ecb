//! What `dev up` and `dev down` print: a cluster of one scripted daemon, beside which a process waits to be ended.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use ollamax_proto::v1::{RaftView, StatusReply, runtime};

use crate::daemon::{Daemon, Script, told};
use crate::lab;
use crate::terminal::{command, compare, finish, page};

fn status() -> StatusReply {
    let mut reply = lab::status();
    reply.raft = Some(RaftView { term: 1, leader: 1, voters: vec![1], has_quorum: true, ..RaftView::default() });
    reply.nodes.truncate(1);
    let runtime = reply.nodes[0].runtime.as_mut().expect("there");
    runtime.set_kind(runtime::Kind::Engine);
    runtime.url = "http://127.0.0.1:20004".to_owned();
    runtime.pid = 4_712;
    reply
}

/// A process that is taken for the daemon of a data directory; it ends when it is asked to.
fn stand_in(data_dir: &Path) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read line", "sh"]).arg(data_dir).stdin(Stdio::piped());
    let child = command.spawn().expect("started");
    std::fs::write(data_dir.join("lock"), child.id().to_string()).expect("written");
    child
}

/// `ollamax` with the programs that it looks for beside it.
fn install(place: &Path) -> PathBuf {
    let (built, program) = (Path::new(env!("CARGO_BIN_EXE_ollamax")), place.join("ollamax"));
    if std::fs::hard_link(built, &program).is_err() {
        std::fs::copy(built, &program).expect("copied");
    }
    for sibling in ["ollamax-node", "ollamax-engine"] {
        std::fs::write(place.join(sibling), "").expect("written");
    }
    program
}

/// A root with one node, the program, and the daemon that answers for the node.
async fn one_node() -> (TempDir, PathBuf, Daemon) {
    let root = tempfile::Builder::new().prefix("ollamax-").tempdir().expect("a directory");
    let program = install(root.path());
    let data_dir = root.path().join("n1");
    std::fs::create_dir(&data_dir).expect("made");
    let node = json!({"name": "n1", "api": 20_001, "peer": 20_002, "p2p": 20_003, "runtime": 20_004, "ollama": null});
    std::fs::write(root.path().join("dev.json"), json!({"version": 1, "nodes": [node]}).to_string()).expect("written");
    let daemon = Daemon::start_at(&data_dir, Script::from([("Status", told(&status()))])).await;
    (root, program, daemon)
}

#[tokio::test]
async fn ctrl_c_returns_when_the_nodes_of_a_foreground_cluster_have_ended() {
    let (root, program, daemon) = one_node().await;
    let mut stand_in = stand_in(&daemon.data_dir);
    let mut child = command(&program, root.path(), &["dev", "up", "--nodes", "1"]).spawn().expect("started");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    while !lines.next_line().await.expect("read").expect("a line").contains("until Ctrl-C") {}
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("sent");
    let last = lines.next_line().await.expect("read");
    assert_eq!(last.as_deref(), Some("The cluster is stopped; its data stays."));
    assert_eq!(child.wait().await.expect("ended").code(), Some(0));
    assert!(!stand_in.wait().expect("ended").success(), "it was ended, not left");
}

#[tokio::test]
async fn a_development_cluster_is_shown_with_exactly_these_keys() {
    let (root, program, daemon) = one_node().await;
    let mut all = Vec::new();
    for form in ["table", "json"] {
        let mut stand_in = stand_in(&daemon.data_dir);
        for line in ["dev up --nodes 1 --detach", "dev down"] {
            let line = format!("{line} -o {form}");
            let mut said = finish(command(&program, root.path(), &line.split(' ').collect::<Vec<_>>()), &daemon).await;
            assert_eq!(said.exit, 0, "{line}: {said:?}");
            if line.contains("up") && form == "json" {
                has_the_keys_of_a_cluster(&said.stdout);
            }
            for text in [&mut said.stdout, &mut said.stderr] {
                *text = text.replace(&*root.path().to_string_lossy(), "ROOT").replace("DATA_DIR", "ROOT/n1");
            }
            all.push((line, said));
        }
        assert!(!stand_in.wait().expect("ended").success(), "it was ended, not left");
    }
    compare("dev", &page(&all));
}

/// Others read these names; none may go, and a new one is added here first.
fn has_the_keys_of_a_cluster(text: &str) {
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let cluster: Value = serde_json::from_str(text).expect("one object");
    assert_eq!(keys(&cluster), ["apiVersion", "kind", "nodes"]);
    assert_eq!((&cluster["apiVersion"], &cluster["kind"]), (&"ollamax/v1".into(), &"DevCluster".into()));
    let node = &cluster["nodes"][0];
    assert_eq!(keys(node), ["id", "name", "api", "peer", "p2p", "pid", "runtime", "data_dir", "leader"]);
    assert_eq!(keys(&node["runtime"]), ["kind", "url", "pid"]);
}
