//! A cluster that has lost its majority for good: which survivor goes on.
//!
//! [`plan`] compares what the survivors hold. The safest is the one with the highest term and index at the end of its
//! log: it has every entry that any survivor acknowledged. Where a majority survives there is nothing to recover.
//! What the state of the survivor becomes is [`crate::catalog::lineage`]. Both decide and do nothing; who does it is
//! `ollamax_metadata::recover`.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use ollamax_types::{ClusterId, NodeId};

/// The end of a log: a later term wins, then a higher index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What one survivor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id there.
    pub node: NodeId,
    /// The cluster that it was recovered from, if it was.
    pub recovered_from: Option<ClusterId>,
    /// The term of its last vote.
    pub vote_term: u64,
    /// Where its log ends.
    pub last: LogEnd,
    /// Index up to which it knows entries to be committed; may be older than the truth.
    pub committed: u64,
    /// Who votes by the last membership in its log. More than one set: a change was under way, and each needs its own
    /// majority.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// Whether it is a member by its own state, its whole log applied.
    pub standing: bool,
}

/// What to do with the survivors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whether a recovery is needed. Where it is not, a majority of the voters is here and only has to be started.
    pub needed: bool,
    /// The survivor that goes on.
    pub safest: NodeId,
    /// The voters by its log.
    pub voters: BTreeSet<NodeId>,
    /// Those of them that are not among the survivors.
    pub missing: BTreeSet<NodeId>,
    /// Whether changes may have been acknowledged of which no survivor knows.
    pub may_lose: bool,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None was given.
    #[error("no survivor was named")]
    Nobody,
    /// Two of them are of different clusters.
    #[error("node {one} is of cluster {its_cluster}, and node {other} of cluster {other_cluster}")]
    OtherCluster {
        /// One of them.
        one: NodeId,
        /// Its cluster.
        its_cluster: ClusterId,
        /// Another one.
        other: NodeId,
        /// That one's cluster.
        other_cluster: ClusterId,
    },
    /// One of them was recovered out of the cluster of the others.
    #[error(
        "node {node} was recovered already: it is the beginning of cluster {cluster}, and the others are of the old one"
    )]
    Recovered {
        /// Which node.
        node: NodeId,
        /// What it is now.
        cluster: ClusterId,
    },
    /// Two directories of one node.
    #[error("node {0} was given twice, with different content: one of the two is an old copy")]
    Twice(NodeId),
    /// By their own states all of them were removed.
    #[error("every one of the survivors was removed from the cluster before")]
    Departed,
}

/// Compares the survivors.
///
/// # Errors
/// When they do not belong together, or none of them may go on.
pub fn plan(survivors: &[Survivor]) -> Result<Plan, Refusal> {
    let survivors = distinct(survivors)?;
    check_one_cluster(&survivors)?;
    let candidates = survivors.iter().copied().filter(|survivor| survivor.standing);
    let safest = candidates.max_by_key(|survivor| rank(survivor)).ok_or(Refusal::Departed)?;
    let here: BTreeSet<NodeId> = survivors.iter().map(|survivor| survivor.node).collect();
    let voters: BTreeSet<NodeId> = safest.configs.iter().flatten().copied().collect();
    let missing: BTreeSet<NodeId> = voters.difference(&here).copied().collect();
    let needed = !survivors.iter().any(|survivor| can_be_elected(survivor, &survivors));
    let may_lose = needed && has_majority(&safest.configs, &missing);
    Ok(Plan { needed, safest: safest.node, voters, missing, may_lose })
}

/// Each survivor once.
fn distinct(survivors: &[Survivor]) -> Result<Vec<&Survivor>, Refusal> {
    let mut found: Vec<&Survivor> = Vec::new();
    for survivor in survivors {
        let same = |other: &&&Survivor| other.node == survivor.node && other.cluster == survivor.cluster;
        let known = found.iter().find(same).copied();
        match known {
            Some(other) if other == survivor => {}
            Some(_) => return Err(Refusal::Twice(survivor.node)),
            None => found.push(survivor),
        }
    }
    Ok(found)
}

fn check_one_cluster(survivors: &[&Survivor]) -> Result<(), Refusal> {
    let (first, others) = survivors.split_first().ok_or(Refusal::Nobody)?;
    for survivor in survivors {
        let is_of = |other: &&Survivor| survivor.recovered_from == Some(other.cluster);
        if survivors.iter().any(is_of) {
            return Err(Refusal::Recovered { node: survivor.node, cluster: survivor.cluster });
        }
    }
    match others.iter().find(|other| other.cluster != first.cluster) {
        None => Ok(()),
        Some(other) => Err(Refusal::OtherCluster {
            one: first.node,
            its_cluster: first.cluster,
            other: other.node,
            other_cluster: other.cluster,
        }),
    }
}

/// The highest goes on: the end of the log first; among equals a voter, then who knows most to be committed, then the
/// least id.
fn rank(survivor: &Survivor) -> (LogEnd, bool, u64, Reverse<NodeId>) {
    (survivor.last, votes(survivor), survivor.committed, Reverse(survivor.node))
}

fn votes(survivor: &Survivor) -> bool {
    survivor.configs.iter().any(|voters| voters.contains(&survivor.node))
}

/// Whether it would get a majority by its own membership. Nobody votes for a log that ends before its own.
fn can_be_elected(survivor: &Survivor, survivors: &[&Survivor]) -> bool {
    let willing = survivors.iter().filter(|other| other.last <= survivor.last).map(|other| other.node).collect();
    survivor.standing && votes(survivor) && has_majority(&survivor.configs, &willing)
}

/// Whether these nodes are a majority of every set of voters.
fn has_majority(configs: &[BTreeSet<NodeId>], nodes: &BTreeSet<NodeId>) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| voters.intersection(nodes).count() > voters.len() / 2;
    !configs.is_empty() && configs.iter().all(majority)
}

#[cfg(test)]
mod tests;
