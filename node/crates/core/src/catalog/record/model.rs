//! What is kept of a name beside its copies and its wish: phase, pin, history, copies that shall go; and the words for
//! where a model and a node stand.
//!
//! Always holds: a name that somebody merely has needs no record here. A name with copies and no wish is *as found*:
//! nobody asked for it through the cluster, and nothing but a person or a rule touches it. The history of a name
//! counts from 1 without a number used twice, and keeps the newest `VERSIONS_MAX` and the pinned one; it goes with the
//! record, when nobody has had the name for long.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Digest, ModelName, NodeId, Timestamp};

/// What is kept of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Which, as it was written first.
    pub name: ModelName,
    /// Where it stands in its life.
    pub phase: Phase,
    /// The version that the name stands for, whatever is newer.
    pub pin: Option<Pin>,
    /// Number of the newest version; 0: none was noted.
    pub head: u64,
    /// Number of the oldest version that is kept; 0: none was noted.
    pub first: u64,
    /// Copies that shall go, by node. Each goes when its node tells that the copy is gone.
    pub drops: BTreeMap<NodeId, Drop>,
    /// The last day that somebody used it, in days since 1970; 0: not known.
    pub used_on: u32,
    /// Log time at which the newest version was noted, else at which this record was made.
    pub noted_at: Timestamp,
    /// Log time since which no node has it, nobody asks for it, and it is not pinned, as the leader noted it. Since
    /// cluster version 5; `None`: nobody looked yet, or somebody has it.
    pub unheld_since: Option<Timestamp>,
}

/// Where a model stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// In use.
    Active,
    /// Served still; who uses it is told to use another.
    Deprecated(Since),
    /// Not served, and not asked for anew.
    Disabled(Since),
    /// Its last copy was removed. It is active again as soon as somebody asks for it.
    Deleted(Since),
}

/// Since when, by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// Log time.
    pub at: Timestamp,
    /// Who, as in [`super::super::Entry::principal`].
    pub by: String,
    /// For people; at most `PHASE_NOTE_BYTES_MAX`.
    pub note: String,
}

/// The phases that somebody can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PhaseWord {
    /// As [`Phase::Active`].
    Active,
    /// As [`Phase::Deprecated`].
    Deprecated,
    /// As [`Phase::Disabled`].
    Disabled,
}

/// The version that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// Who pinned it, as in [`super::super::Entry::principal`].
    pub by: String,
    /// Log time.
    pub at: Timestamp,
}

/// A copy that shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// The version that the node had when it was asked to remove it. Another one is not meant.
    pub digest: Digest,
    /// Log time.
    pub at: Timestamp,
    /// Who asked for it, as in [`super::super::Entry::principal`].
    pub by: String,
    /// It goes although it is the last one: somebody insisted, or the whole model goes.
    pub insisted: bool,
}

/// One version in the history of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// From 1 on, in the order in which they were noted.
    pub number: u64,
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// Bytes of all its files; 0: not known.
    pub size_bytes: u64,
    /// Log time at which it was noted.
    pub at: Timestamp,
    /// How the name came to it.
    pub how: How,
    /// Who brought it, as in [`super::super::Entry::principal`]: the node that fetched it for all, whoever went
    /// back to it or tagged it, and of what was found the node that has it (from cluster version 5 on; before, the
    /// leader).
    pub by: String,
}

/// How a name came to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// A node has it, and nobody asked for it through the cluster.
    Found,
    /// A round of a wish fetched it.
    Pulled,
    /// Somebody went back to an earlier version.
    RolledBack {
        /// Its number.
        to: u64,
    },
    /// Somebody gave another name's version this name.
    Tagged {
        /// The other name.
        from: ModelName,
    },
}

/// Which nodes a wish prefers and which it leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Want {
    /// Labels that a node must carry, with their values.
    pub labels: BTreeMap<String, String>,
    /// GPU memory that a node must have; 0: none.
    pub gpu_memory_bytes_min: u64,
    /// Nodes that are not taken.
    pub avoid: BTreeSet<NodeId>,
    /// What of a node's disk stays free beside a copy that comes; 0: nothing is said. Since cluster version 5.
    pub disk_free_bytes_min: u64,
}

/// What a plan was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum PlanKind {
    /// Somebody asked for the model.
    #[default]
    Asked,
    /// Copies are missing.
    Repair,
    /// Disks shall be used more alike.
    Rebalance,
    /// A node shall be emptied.
    Emptying,
}

/// Whether a node takes new copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Cordon {
    /// It does.
    #[default]
    Open,
    /// It does not; what it has stays.
    Cordoned,
    /// It does not, and its copies go elsewhere.
    Emptying,
}

// === impl Model ===

impl Model {
    /// A record without anything in it.
    #[must_use]
    pub const fn new(name: ModelName, noted_at: Timestamp) -> Self {
        let drops = BTreeMap::new();
        let (phase, pin, unheld_since) = (Phase::Active, None, None);
        Self { name, phase, pin, head: 0, first: 0, drops, used_on: 0, noted_at, unheld_since }
    }

    /// The version that it is pinned at.
    #[must_use]
    pub fn pinned(&self) -> Option<Digest> {
        self.pin.as_ref().map(|pin| pin.digest)
    }

    /// Why the copy of this version on a node shall go; nothing where it stays.
    #[must_use]
    pub fn drop_of(&self, node: NodeId, digest: Digest) -> Option<&Drop> {
        self.drops.get(&node).filter(|dropped| dropped.digest == digest)
    }
}

// === impl Phase ===

impl Phase {
    /// The word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deprecated(_) => "deprecated",
            Self::Disabled(_) => "disabled",
            Self::Deleted(_) => "deleted",
        }
    }

    /// Since when and why; of an active one nothing is kept.
    #[must_use]
    pub const fn since(&self) -> Option<&Since> {
        match self {
            Self::Active => None,
            Self::Deprecated(since) | Self::Disabled(since) | Self::Deleted(since) => Some(since),
        }
    }
}

// === impl PlanKind ===

impl PlanKind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Repair => "repair",
            Self::Rebalance => "rebalance",
            Self::Emptying => "emptying",
        }
    }
}

// === impl Cordon ===

impl Cordon {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Emptying => "emptying",
        }
    }
}
