//! `node.json`: where the running daemon can be reached, for tools on the same machine. Kept current, removed at the
//! end; never read back by the daemon.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use ollamax_outbound::{Report, RuntimeHandle};
use ollamax_types::NodeId;

use crate::data_dir::replace_file;
use crate::slot::Slot;

/// What does not change while the process runs, except for the name.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Base URL of the `api` listener.
    pub(crate) api: String,
    /// `host:port` of the `peer` listener.
    pub(crate) peer: String,
    /// Multiaddress of the `p2p` listener.
    pub(crate) p2p: String,
    /// This node's name until it has one in a cluster.
    pub(crate) name: String,
}

/// Writes the file at each change until `stop`, then removes it.
pub(crate) async fn keep(root: PathBuf, ends: Ends, slot: Slot, runtime: RuntimeHandle, stop: CancellationToken) {
    let path = root.join("node.json");
    let (mut engines, mut reports) = (slot.subscribe(), runtime.report());
    // A node without a runtime has one report that never changes.
    let mut has_runtime = true;
    loop {
        let member = engines.borrow_and_update().clone();
        let member = member.as_ref().map(|engines| (engines.node, engines.name.as_str()));
        write(&path, &ends, member, &reports.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => break,
            _ = engines.changed() => {}
            changed = reports.changed(), if has_runtime => has_runtime = changed.is_ok(),
        }
    }
    drop(std::fs::remove_file(path));
}

fn write(path: &Path, ends: &Ends, member: Option<(NodeId, &str)>, report: &Report) {
    let text = serde_json::to_vec_pretty(&content(ends, member, report)).expect("plain values serialise");
    if let Err(error) = replace_file(path, &text, 0o644) {
        tracing::warn!(%error, path = %path.display(), "write node.json");
    }
}

/// A member is called what its cluster calls it.
fn content(ends: &Ends, member: Option<(NodeId, &str)>, report: &Report) -> Value {
    json!({
        "pid": std::process::id(),
        "api": ends.api,
        "peer": ends.peer,
        "p2p": ends.p2p,
        "name": member.map_or(ends.name.as_str(), |(_, name)| name),
        "node_id": member.map(|(node, _)| node.0),
        "runtime": { "kind": report.kind.as_str(), "url": report.url, "pid": report.pid.unwrap_or(0) },
    })
}

#[cfg(test)]
mod tests {
    use ollamax_types::RuntimeKind;

    use super::*;

    #[test]
    fn a_member_has_the_name_that_its_cluster_gave_it() {
        let text = |text: &str| text.to_owned();
        let ends = Ends { api: text("http://a"), peer: text("p:1"), p2p: text("/ip4"), name: text("gpu") };
        let report = Report::absent(RuntimeKind::Ollama);
        let alone = content(&ends, None, &report);
        assert_eq!((&alone["name"], &alone["node_id"]), (&json!("gpu"), &Value::Null));
        let member = content(&ends, Some((NodeId(4), "gpu-2")), &report);
        assert_eq!((&member["name"], &member["node_id"]), (&json!("gpu-2"), &json!(4)));
    }
}
