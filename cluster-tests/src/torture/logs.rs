//! The logs of nodes that are off, held against each other entry by entry.
//!
//! They are copied before the nodes start again and read when the round is over, so that nobody waits for it. Only what
//! a node had said to be committed is compared: what stands behind it may still be replaced.

use std::sync::Mutex;

use anyhow::{Context, Result};

use ollamax_testkit::{Cluster, KeptLog};

use crate::samples::Book;
use crate::traffic::held;

/// The log of a node as it was when it was off.
#[derive(Debug)]
pub(crate) struct OffLog {
    node: usize,
    /// Up to where the node had said it was committed.
    committed: u64,
    log: KeptLog,
}

/// Copies the logs of nodes that do not run.
pub(crate) fn copy(cluster: &Cluster, book: &Mutex<Book>, nodes: &[usize]) -> Result<Vec<OffLog>> {
    let one = |node: &usize| {
        let log = KeptLog::copy(&cluster.node(*node).data_dir())?;
        anyhow::Ok(OffLog { node: *node, committed: held(book).committed(*node), log })
    };
    nodes.iter().map(one).collect()
}

/// Reads copied logs into the book.
///
/// # Errors
/// When a log cannot be opened, which the node itself could.
pub(crate) async fn note(logs: Vec<OffLog>, book: &Mutex<Book>) -> Result<()> {
    for OffLog { node, committed, log } in logs {
        let entries = tokio::task::spawn_blocking(move || log.entries()).await.context("read a log")?;
        let entries = entries.with_context(|| format!("read the log of node {node}"))?;
        held(book).note_log(node, committed, &entries);
    }
    Ok(())
}
