//! After the heal: what every node has, and whether all is there that was acknowledged.
//!
//! Each key is read at each node twice: from its own state, and as fresh as can be. Both go into the history; the first
//! are also judged by themselves, by a rule so simple that it needs no search.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};

use ollamax_testkit::history::{Call, Level, Operation, Outcome};
use ollamax_testkit::{Cluster, wait};

use crate::traffic::{KEYS, Traffic, number_of};

/// Longest wait for one read in a cluster that is well again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The client that reads at node 0; the other nodes follow.
const FIRST_CLIENT: u32 = 100;

/// What one node has of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Final {
    pub(crate) node: usize,
    pub(crate) key: String,
    pub(crate) value: Option<u64>,
    pub(crate) modified: u64,
    /// Up to which revision the node's answer is complete.
    pub(crate) at: u64,
}

/// Reads every key at every node, and notes it in the history.
///
/// # Errors
/// When a node does not answer in time.
pub(crate) async fn read(cluster: &Cluster, traffic: &Traffic<'_>) -> Result<Vec<Final>> {
    let mut finals = Vec::new();
    for node in cluster.nodes() {
        let door = node.values()?;
        let client = FIRST_CLIENT + u32::try_from(node.index()).unwrap_or(0);
        for key in (0..KEYS).map(|number| traffic.key(number)) {
            for level in [Level::Stale, Level::Linearizable] {
                let invoked_ns = traffic.run.now_ns();
                let found = wait::until("a last read", PATIENCE, || door.get(&key, level.into()));
                let found = found.await.with_context(|| format!("read {key} at {}", node.name()))?;
                let outcome = found.outcome(number_of);
                if let (Level::Stale, Outcome::Read { value, modified, at, .. }) = (level, outcome) {
                    finals.push(Final { node: node.index(), key: key.clone(), value, modified, at });
                }
                let (key, call, returned_ns) = (key.clone(), Call::Get { level }, Some(traffic.run.now_ns()));
                traffic.note(Operation { client, key, call, invoked_ns, returned_ns, outcome });
            }
        }
    }
    Ok(finals)
}

/// Finds acknowledged changes that a node does not have.
pub(crate) fn check(history: &[Operation], finals: &[Final]) -> Vec<String> {
    let mut last: BTreeMap<&str, (u64, Option<u64>)> = BTreeMap::new();
    let mut may_vanish: BTreeSet<&str> = BTreeSet::new();
    for Operation { key, call, outcome, .. } in history {
        let change = match (*call, *outcome) {
            (Call::Put { value } | Call::Cas { value, .. }, Outcome::Written { revision, happened: true, .. }) => {
                (revision, Some(value))
            }
            (Call::Delete, Outcome::Deleted { revision, existed: true }) => (revision, None),
            (Call::Delete, Outcome::Unknown) => {
                may_vanish.insert(key);
                continue;
            }
            _ => continue,
        };
        let newest = last.entry(key).or_insert(change);
        *newest = (*newest).max(change);
    }
    let mut faults = Vec::new();
    for Final { node, key, value, modified, at } in finals {
        let Some((revision, wanted)) = last.get(key.as_str()).copied() else { continue };
        let there = match value {
            // Something newer, of which the history knows or whose client was told nothing.
            Some(_) if *modified > revision => true,
            Some(_) => *value == wanted && *modified == revision,
            None => wanted.is_none() || may_vanish.contains(key.as_str()),
        };
        if !there || *at < revision {
            let has = format!("has {value:?} of {modified}, complete up to {at}");
            faults.push(format!("node {node}, key {key}: {wanted:?} was acknowledged at {revision}, and it {has}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(key: &str, call: Call, outcome: Outcome) -> Operation {
        Operation { client: 0, key: key.to_owned(), call, invoked_ns: 1, returned_ns: Some(2), outcome }
    }

    fn written(revision: u64) -> Outcome {
        Outcome::Written { revision, happened: true, observed_modified: None }
    }

    #[test]
    fn an_acknowledged_change_that_a_node_lacks_is_caught() {
        let deleted = |revision| Outcome::Deleted { revision, existed: true };
        let history = [
            operation("a", Call::Put { value: 2 }, written(12)),
            operation("a", Call::Put { value: 1 }, written(10)),
            operation("b", Call::Put { value: 3 }, written(11)),
            operation("b", Call::Delete, deleted(13)),
            operation("c", Call::Put { value: 4 }, written(14)),
            operation("c", Call::Delete, Outcome::Unknown),
            operation("d", Call::Put { value: 5 }, Outcome::Unknown),
        ];
        let check = |key: &str, value: Option<u64>, modified: u64, at: u64, faults: usize| {
            let last = Final { node: 1, key: key.to_owned(), value, modified, at };
            assert_eq!(check(&history, std::slice::from_ref(&last)).len(), faults, "{last:?}");
        };
        check("a", Some(2), 12, 20, 0);
        check("a", Some(9), 15, 20, 0);
        check("a", Some(1), 10, 20, 1);
        check("a", Some(1), 12, 20, 1);
        check("a", None, 0, 20, 1);
        check("a", Some(2), 12, 11, 1);
        check("b", None, 0, 20, 0);
        check("b", Some(3), 11, 20, 1);
        check("c", Some(4), 14, 20, 0);
        check("c", None, 0, 20, 0);
        check("d", None, 0, 20, 0);
        check("d", Some(5), 16, 20, 0);
    }
}
