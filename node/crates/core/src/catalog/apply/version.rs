//! The cluster version: what new commands wait for.
//!
//! It never goes back. Before it goes up, every member has said that it knows the version; one that does not halts
//! here rather than go on without what the others do.

use super::{Applied, CLUSTER_VERSION, Scene, Step, Stop, invalid, put};
use crate::catalog::record::{Cluster, Key, Record};
use crate::catalog::view::Fault;

pub(super) fn raise(scene: &Scene<'_>, version: u32) -> Step {
    check_version(version)?;
    if version <= scene.cluster.version {
        return Ok(Applied::done(Vec::new()));
    }
    let cluster = Cluster { version, ..scene.cluster.clone() };
    Ok(Applied::done(vec![put(Key::Cluster, Record::Cluster(cluster))]))
}

/// A version that this release can apply.
pub(super) fn check_version(version: u32) -> Result<(), Stop> {
    match version {
        0 => Err(invalid("cluster versions begin with 1")),
        1..=CLUSTER_VERSION => Ok(()),
        _ => {
            let what = format!("the cluster goes to version {version}, and this release knows {CLUSTER_VERSION}");
            Err(Fault::Invariant(what).into())
        }
    }
}
