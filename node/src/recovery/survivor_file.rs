//! What one survivor holds, as a small JSON file that travels to where the plan is made.
//!
//! Written by `recover plan --write`, read by `--with`. Format 1; fields are only ever added. A file that cannot be
//! read as such is refused, never guessed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ollamax_core::recover::{LogEnd, Survivor};
use ollamax_metadata::recover::Found;
use ollamax_types::{ClusterId, NodeId};

use crate::data_dir::Membership;
use crate::offline::{EXIT_FAILED, EXIT_USAGE, Failure, denied};

const FORMAT: u32 = 1;
const KIND: &str = "Survivor";
/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SurvivorFile {
    pub(crate) kind: String,
    pub(crate) format: u32,
    /// 32 hex digits.
    pub(crate) cluster: String,
    pub(crate) cluster_name: String,
    pub(crate) node: u64,
    pub(crate) name: String,
    /// The cluster that its own was recovered from, 32 hex digits.
    pub(crate) recovered_from: Option<String>,
    pub(crate) vote_term: u64,
    pub(crate) last_term: u64,
    pub(crate) last_index: u64,
    pub(crate) committed_index: u64,
    pub(crate) applied_index: u64,
    /// More than one set: a change of voters was under way.
    pub(crate) voters: Vec<Vec<u64>>,
    pub(crate) learners: Vec<u64>,
    /// Whether it is a member by its own state.
    pub(crate) standing: bool,
    /// Of the state with the whole log applied, hex.
    pub(crate) state_hash: String,
    /// Log time of the last change.
    pub(crate) log_time_ms: u64,
    pub(crate) members: usize,
    pub(crate) models: usize,
    pub(crate) values: u64,
    /// The last entries of which it does not know whether they were committed, oldest first.
    pub(crate) uncommitted: Vec<Uncommitted>,
    pub(crate) uncommitted_count: u64,
}

/// An entry of which a survivor does not know whether it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Uncommitted {
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// The command's name, `blank` or `membership`.
    pub(crate) word: String,
    pub(crate) principal: String,
}

// === impl SurvivorFile ===

impl SurvivorFile {
    /// Of this directory.
    #[must_use]
    pub(crate) fn of(membership: &Membership, found: Found) -> Self {
        let Survivor { cluster, node, vote_term, last, committed, configs, standing, .. } = found.survivor;
        let numbers = |nodes: BTreeSet<NodeId>| nodes.into_iter().map(|node| node.0).collect::<Vec<u64>>();
        let uncommitted = found.tail.into_iter().map(|entry| Uncommitted {
            term: entry.end.term,
            index: entry.end.index,
            word: entry.word,
            principal: entry.principal,
        });
        Self {
            kind: KIND.to_owned(),
            format: FORMAT,
            cluster: cluster.to_string(),
            cluster_name: found.cluster_name,
            node: node.0,
            name: membership.name.clone(),
            recovered_from: membership.recovered_from.clone(),
            vote_term,
            last_term: last.term,
            last_index: last.index,
            committed_index: committed,
            applied_index: found.applied,
            voters: configs.into_iter().map(numbers).collect(),
            learners: numbers(found.learners),
            standing,
            state_hash: hex::encode(found.state_hash),
            log_time_ms: found.log_time.0,
            members: found.members,
            models: found.models,
            values: found.values,
            uncommitted: uncommitted.collect(),
            uncommitted_count: found.tail_count,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| {
            let unreadable = || Failure::new(EXIT_FAILED, format!("read {shown}: {error}"), "name another with --with");
            denied(path, &error).unwrap_or_else(unreadable)
        })?;
        let other = |why: String| {
            let next = "make it on the survivor: ollamax recover plan --write FILE";
            Failure::new(EXIT_USAGE, format!("{shown} does not tell what a survivor holds: {why}"), next)
        };
        let file: Self = serde_json::from_str(&text).map_err(|error| other(error.to_string()))?;
        if file.kind != KIND || file.format != FORMAT {
            return Err(other(format!("it is of kind {:?} and format {}", file.kind, file.format)));
        }
        file.survivor().map_err(|error| other(error.to_string()))?;
        Ok(file)
    }

    /// What decides about it.
    ///
    /// # Errors
    /// When an id in it is none.
    pub(crate) fn survivor(&self) -> Result<Survivor, ollamax_types::id::ParseIdError> {
        let ids = |nodes: &Vec<u64>| nodes.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        Ok(Survivor {
            cluster: self.cluster.parse()?,
            node: NodeId(self.node),
            recovered_from: self.recovered_from.as_deref().map(str::parse::<ClusterId>).transpose()?,
            vote_term: self.vote_term,
            last: LogEnd { term: self.last_term, index: self.last_index },
            committed: self.committed_index,
            configs: self.voters.iter().map(ids).collect(),
            standing: self.standing,
        })
    }

    /// Whether it is the one voter of a cluster that was recovered.
    #[must_use]
    pub(crate) fn is_recovered_alone(&self) -> bool {
        self.recovered_from.is_some() && self.voters == [vec![self.node]]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Node 3 of three, with one entry of which it knows nothing.
    pub(crate) fn sample() -> SurvivorFile {
        SurvivorFile {
            kind: KIND.to_owned(),
            format: FORMAT,
            cluster: "01".repeat(16),
            cluster_name: "lab".to_owned(),
            node: 3,
            name: "n3".to_owned(),
            recovered_from: None,
            vote_term: 7,
            last_term: 7,
            last_index: 41,
            committed_index: 40,
            applied_index: 0,
            voters: vec![vec![1, 2, 3]],
            learners: vec![],
            standing: true,
            state_hash: "cd".repeat(16),
            log_time_ms: 1_767_323_045_000,
            members: 3,
            models: 5,
            values: 2,
            uncommitted: vec![Uncommitted {
                term: 7,
                index: 41,
                word: "txn".to_owned(),
                principal: "node/1 for admin".to_owned(),
            }],
            uncommitted_count: 1,
        }
    }

    #[test]
    fn a_file_comes_back_as_it_went_and_anything_else_is_refused() {
        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("n3.json");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let good = serde_json::to_string(&sample()).expect("plain fields serialise");
        write(&good);
        assert_eq!(SurvivorFile::read(&path).expect("read"), sample());
        let survivor = sample().survivor().expect("ids");
        assert_eq!((survivor.node, survivor.last), (NodeId(3), LogEnd { term: 7, index: 41 }));
        assert_eq!(survivor.configs, [BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])]);
        for bad in [
            "",
            "{}",
            &good.replace("\"format\":1", "\"format\":2"),
            &good.replace(KIND, "Status"),
            &good.replace(&"01".repeat(16), "no id"),
        ] {
            write(bad);
            let refused = SurvivorFile::read(&path).expect_err("refused");
            assert!(refused.exit == EXIT_USAGE && refused.text.contains("--write"), "{bad}: {}", refused.text);
        }
        let missing = SurvivorFile::read(&temp.path().join("missing")).expect_err("missing");
        assert_eq!(missing.exit, EXIT_FAILED);
    }
}
