//! Models pulled through the command line of a cluster's nodes, and what it shows of them.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::wait;

/// Longest wait for `ollamax model pull --wait`, and for all other commands.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

impl Cluster {
    /// `ollamax model pull NAME --wait` at a node, in JSON and with more words if there are any. A registry without TLS
    /// will do.
    ///
    /// # Errors
    /// When it still runs after a minute; a pull that failed is told by its exit code.
    pub async fn pull(&self, index: usize, name: &str, words: &[&str]) -> Result<Output> {
        let words: Vec<&str> = ["--wait"].iter().chain(words).copied().collect();
        self.begin_pull(index, name, &words).await
    }

    /// The same without waiting for its end.
    ///
    /// # Errors
    /// As [`Cluster::pull`].
    pub async fn begin_pull(&self, index: usize, name: &str, words: &[&str]) -> Result<Output> {
        let mut all = vec!["-o", "json", "model", "pull", name, "--insecure"];
        all.extend(words);
        self.node(index).ollamax(&all, COMMAND_LIMIT).await
    }

    /// What a node pulls.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn pulls(&self, index: usize) -> Result<Vec<Value>> {
        let told = self.node(index).ollamax(&["-o", "json", "model", "pulls"], COMMAND_LIMIT).await?;
        let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
        page["pulls"].as_array().cloned().with_context(|| format!("no pulls: {page}"))
    }

    /// Waits until a node has verified so many bytes of a model and is not through, and returns how many they are.
    ///
    /// # Errors
    /// At the deadline, and when it was through before anybody looked.
    pub async fn pulled_up_to(&self, index: usize, name: &str, bytes: u64, deadline: Duration) -> Result<u64> {
        wait::until(&format!("{bytes} bytes of {name} to be there"), deadline, || async {
            let pulls = self.pulls(index).await?;
            let pull = pulls.iter().find(|pull| pull["name"].as_str().is_some_and(|full| full.starts_with(name)));
            let pull = pull.with_context(|| format!("it does not pull {name}: {pulls:?}"))?;
            let verified = pull["verifiedBytes"].as_u64().filter(|verified| *verified >= bytes);
            let verified = verified.with_context(|| format!("not so many: {pull}"))?;
            ensure!(pull["totalBytes"].as_u64().is_some_and(|total| verified < total), "it has all of them: {pull}");
            Ok(verified)
        })
        .await
    }
}

/// The copies that `ollamax model pull` told of, by the names of their nodes.
///
/// # Errors
/// When it told nothing.
pub fn copies(told: &Output) -> Result<Vec<(String, Value)>> {
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let copies = page["copies"].as_array().with_context(|| format!("no copies: {page}"))?;
    let named = copies.iter().filter_map(|copy| Some((copy["node"].as_str()?.to_owned(), copy.clone())));
    Ok(named.collect())
}

/// How many bytes a copy got from a source whose name begins so: `origin`, `here`, `node/`, `node/1`.
#[must_use]
pub fn received_from(copy: &Value, source: &str) -> u64 {
    let sources = copy["sources"].as_array().into_iter().flatten();
    let of_it = sources.filter(|from| from["source"].as_str().is_some_and(|name| name.starts_with(source)));
    of_it.filter_map(|from| from["bytes"].as_u64()).sum()
}
