//! Where models shall be and how a name came to a version: in records and in the commands that say so.
//!
//! Labels lie in the order of their keys. `None` says that a newer release wrote it.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Cordon, How, PlanKind, Want};
use ollamax_proto::disk;
use ollamax_types::NodeId;

pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Vec<disk::Label> {
    labels.iter().map(|(key, value)| disk::Label { key: key.clone(), value: value.clone() }).collect()
}

pub(crate) fn labels_of(stored: Vec<disk::Label>) -> BTreeMap<String, String> {
    stored.into_iter().map(|label| (label.key, label.value)).collect()
}

/// Nothing is written of a wish that takes any node.
pub(crate) fn want(want: &Want) -> Option<disk::Want> {
    (*want != Want::default()).then(|| disk::Want {
        labels: labels(&want.labels),
        gpu_memory_bytes_min: want.gpu_memory_bytes_min,
        avoid: want.avoid.iter().map(|node| node.0).collect(),
        disk_free_bytes_min: want.disk_free_bytes_min,
    })
}

pub(crate) fn want_of(stored: Option<disk::Want>) -> Want {
    let disk::Want { labels, gpu_memory_bytes_min, avoid, disk_free_bytes_min } = stored.unwrap_or_default();
    let (labels, avoid) = (labels_of(labels), avoid.into_iter().map(NodeId).collect());
    Want { labels, gpu_memory_bytes_min, avoid, disk_free_bytes_min }
}

pub(crate) const fn kind(kind: PlanKind) -> u32 {
    match kind {
        PlanKind::Asked => 0,
        PlanKind::Repair => 1,
        PlanKind::Rebalance => 2,
        PlanKind::Emptying => 3,
    }
}

pub(crate) const fn kind_of(stored: u32) -> Option<PlanKind> {
    Some(match stored {
        0 => PlanKind::Asked,
        1 => PlanKind::Repair,
        2 => PlanKind::Rebalance,
        3 => PlanKind::Emptying,
        _ => return None,
    })
}

pub(crate) const fn cordon(cordon: Cordon) -> u32 {
    match cordon {
        Cordon::Open => 0,
        Cordon::Cordoned => 1,
        Cordon::Emptying => 2,
    }
}

pub(crate) const fn cordon_of(stored: u32) -> Option<Cordon> {
    Some(match stored {
        0 => Cordon::Open,
        1 => Cordon::Cordoned,
        2 => Cordon::Emptying,
        _ => return None,
    })
}

/// Its number, and what belongs to it: the version that was gone back to, the full name that was given another one.
pub(crate) fn how(how: &How) -> (u32, u64, String) {
    match how {
        How::Found => (1, 0, String::new()),
        How::Pulled => (2, 0, String::new()),
        How::RolledBack { to } => (3, *to, String::new()),
        How::Tagged { from } => (4, 0, from.full()),
    }
}

pub(crate) fn how_of(stored: u32, to: u64, from: &str) -> Option<How> {
    Some(match stored {
        1 => How::Found,
        2 => How::Pulled,
        3 => How::RolledBack { to },
        4 => How::Tagged { from: from.parse().ok()? },
        _ => return None,
    })
}
