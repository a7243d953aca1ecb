//! `node.json`: where the running daemon can be reached, for tools on the same machine. Kept current, removed at the
//! end; never read back by the daemon.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use ollamax_outbound::{Report, RuntimeHandle};

use crate::data_dir::replace_file;
use crate::slot::Slot;

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Base URL of the `api` listener.
    pub(crate) api: String,
    /// `host:port` of the `peer` listener.
    pub(crate) peer: String,
    /// Multiaddress of the `p2p` listener.
    pub(crate) p2p: String,
    /// This node's name.
    pub(crate) name: String,
}

/// Writes the file at each change until `stop`, then removes it.
pub(crate) async fn keep(root: PathBuf, ends: Ends, slot: Slot, runtime: RuntimeHandle, stop: CancellationToken) {
    let path = root.join("node.json");
    let (mut engines, mut reports) = (slot.subscribe(), runtime.report());
    // A node without a runtime has one report that never changes.
    let mut has_runtime = true;
    loop {
        let node = engines.borrow_and_update().as_ref().map(|engines| engines.node.0);
        write(&path, &ends, node, &reports.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => break,
            _ = engines.changed() => {}
            changed = reports.changed(), if has_runtime => has_runtime = changed.is_ok(),
        }
    }
    drop(std::fs::remove_file(path));
}

fn write(path: &Path, ends: &Ends, node: Option<u64>, report: &Report) {
    let content = json!({
        "pid": std::process::id(),
        "api": ends.api,
        "peer": ends.peer,
        "p2p": ends.p2p,
        "name": ends.name,
        "node_id": node,
        "runtime": { "kind": report.kind.as_str(), "url": report.url, "pid": report.pid.unwrap_or(0) },
    });
    let text = serde_json::to_vec_pretty(&content).expect("plain values serialise");
    if let Err(error) = replace_file(path, &text, 0o644) {
        tracing::warn!(%error, path = %path.display(), "write node.json");
    }
}
