//! Writers that remember what was acknowledged to them, and the look whether all of it is still there.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use futures::future::try_join_all;

use ollamax_testkit::{Cluster, wait};

/// Writes that were acknowledged, by key.
#[derive(Default)]
pub(crate) struct Acknowledged {
    pub(crate) writes: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) count: AtomicUsize,
    pub(crate) enough: AtomicBool,
}

/// Writes one key after the other through changing nodes until enough was acknowledged. A write that fails is not
/// repeated: whether it happened is unknown, and nobody was promised it.
pub(crate) async fn write(cluster: &Cluster, prefix: &str, writer: usize, acknowledged: &Acknowledged) {
    let mut number = 0;
    while !acknowledged.enough.load(Ordering::SeqCst) {
        let key = format!("{prefix}{writer:02}/{number:05}");
        let value = format!("value of {key}").into_bytes();
        match cluster.set((writer + number) % cluster.size(), &key, &value).await {
            Ok(_) => {
                acknowledged.writes.lock().expect("no writer panics").insert(key, value);
                acknowledged.count.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => wait::pause(wait::POLL_INTERVAL).await,
        }
        number += 1;
    }
}

/// Every acknowledged write must be in the state of every node, with its value.
pub(crate) async fn read_back(cluster: &Cluster, prefix: &str, written: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let read = cluster.nodes().iter().map(|node| async move {
        let found = node.admin()?.settings(prefix, true).await?;
        let found: BTreeMap<String, Vec<u8>> = found.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let lost: Vec<&String> =
            written.iter().filter(|(key, value)| found.get(*key) != Some(value)).map(|(key, _)| key).collect();
        ensure!(lost.is_empty(), "{} lost {} acknowledged writes: {lost:?}", node.name(), lost.len());
        Ok(())
    });
    try_join_all(read).await.map(|_| ())
}
