//! Which nodes should hold which model.
//!
//! A node that cannot hold models, is being emptied, has no runtime or is dead is never chosen; one that is silent just
//! now is the last choice, and before it comes one whose model store is not there. Here is who pulls what somebody
//! asked for without naming a node; [`plan_pull`] decides for several copies, and [`plan_moves`] for all wishes of the
//! cluster while nodes come, go, fill up and are emptied.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use ollamax_types::{Beat, NodeId, Role, RuntimeState, SpareRule};

use crate::catalog::{Cordon, Member, MemberState};
use crate::health::Health;

mod fit;
mod knobs;
mod moves;
mod presence;
mod pull;

pub use fit::{Unfit, size_text};
pub use knobs::knobs;
pub use moves::{Facts, Move, Outlook, Shortage, Standing, plan_moves};
pub use presence::Presence;
pub use pull::{Planned, is_of_the_node, plan_pull};

/// A node as a place for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Which node.
    pub node: NodeId,
    /// Whether it is heard.
    pub health: Health,
    /// It is being emptied.
    pub drained: bool,
    /// It holds no models.
    pub gateway: bool,
    /// Its runtime answers.
    pub runtime_up: bool,
    /// What its disk has free; `None` where that is not known.
    pub disk_free_bytes: Option<u64>,
    /// It has the model: the version that is meant, or for [`choose_puller`] some version.
    pub holds: bool,
    /// It is the node that decides.
    pub is_self: bool,
    /// How much of the version it has on its way, permille; `None` where that is not known.
    pub progress_permille: Option<u16>,
    /// What people and the node itself say of it; what people say wins.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Memory of its largest GPU; 0 where there is none, or none is known.
    pub gpu_memory_bytes: u64,
    /// Whether it takes new copies, and keeps those it has.
    pub cordon: Cordon,
    /// The size of the disk on which its models lie; `None` where that is not known.
    pub disk_total_bytes: Option<u64>,
    /// Bytes of the models on their way to it that what is free lacks already; `None` where that is not known.
    pub aside_bytes: Option<u64>,
    /// What it keeps free beside a model that comes to it.
    pub spare: SpareRule,
    /// It has the files of the version that is meant, or may have them: under another name, or of before.
    pub at_hand: bool,
    /// Some of the files of its models are not what their names say.
    pub has_damage: bool,
    /// Where it looks for its model store, which is not there; `None` where there is one, or that is not known.
    pub no_store_at: Option<String>,
}

/// Who pulls a model: whoever has a version of it, else the node that was asked, else the one with the most free disk.
/// `None` when no node can.
#[must_use]
pub fn choose_puller(sites: &[Site]) -> Option<NodeId> {
    let fit = sites.iter().filter(|site| site.is_fit());
    fit.max_by_key(|site| site.rank()).map(|site| site.node)
}

// === impl Site ===

impl Site {
    /// The place that a member is, by its record and what it says of itself; it is said to hold nothing. What is not
    /// known speaks against it.
    #[must_use]
    pub fn of(member: &Member, beat: Option<&Beat>, health: Health, is_self: bool) -> Self {
        Self {
            node: member.id,
            health,
            drained: member.state != MemberState::Active || beat.is_some_and(|beat| beat.draining),
            gateway: member.role == Role::Gateway,
            runtime_up: beat.is_some_and(|beat| beat.runtime_state == RuntimeState::Up),
            // A node of an older release does not say where its models lie.
            disk_free_bytes: beat.and_then(|beat| beat.models_free_bytes.or(beat.disk_free_bytes)),
            holds: false,
            is_self,
            progress_permille: None,
            labels: Arc::new(labels_of(member)),
            gpu_memory_bytes: beat.map_or(0, largest_gpu_bytes),
            cordon: member.cordon,
            // What is free of the data directory's disk is no part of this one.
            disk_total_bytes: beat
                .filter(|beat| beat.models_free_bytes.is_some())
                .and_then(|beat| beat.models_total_bytes),
            aside_bytes: beat.filter(|beat| beat.models_free_bytes.is_some()).and_then(|beat| beat.models_aside_bytes),
            // A node of an older release does not say how it is set.
            spare: beat.and_then(|beat| beat.models_spare).unwrap_or_default(),
            at_hand: false,
            has_damage: beat.is_some_and(|beat| beat.suspect_files > 0),
            no_store_at: beat.and_then(|beat| beat.no_store_at.clone()),
        }
    }

    fn is_fit(&self) -> bool {
        let keeps = match self.cordon {
            Cordon::Open => true,
            Cordon::Cordoned => self.holds,
            Cordon::Emptying => false,
        };
        keeps && self.unable().is_none()
    }

    /// Whether it is heard just now; a node hears itself.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.is_self || self.health == Health::Alive
    }

    /// Where there is no store, a copy waits until there is one.
    const fn has_store(&self) -> bool {
        self.no_store_at.is_none()
    }

    /// What is larger is better. Free room that is not known counts as the least.
    fn rank(&self) -> (bool, bool, bool, bool, Option<u64>, Reverse<NodeId>) {
        (self.is_heard(), self.has_store(), self.holds, self.is_self, self.disk_free_bytes, Reverse(self.node))
    }
}

/// What the node says of itself, and over it what people say of it.
fn labels_of(member: &Member) -> BTreeMap<String, String> {
    let mut labels = member.own_labels.clone();
    labels.extend(member.labels.clone());
    labels
}

fn largest_gpu_bytes(beat: &Beat) -> u64 {
    beat.gpus.iter().filter_map(|gpu| gpu.memory_total_bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that may have any model; it has none yet.
    pub(super) fn site(node: u64) -> Site {
        Site {
            node: NodeId(node),
            health: Health::Alive,
            drained: false,
            gateway: false,
            runtime_up: true,
            disk_free_bytes: Some(100),
            holds: false,
            is_self: false,
            progress_permille: None,
            labels: Arc::default(),
            gpu_memory_bytes: 0,
            cordon: Cordon::Open,
            disk_total_bytes: None,
            aside_bytes: None,
            spare: SpareRule::default(),
            at_hand: false,
            has_damage: false,
            no_store_at: None,
        }
    }

    #[test]
    fn who_pulls() {
        let check = |what: &str, sites: &[Site], expected: Option<u64>| {
            let mut turned = sites.to_vec();
            turned.reverse();
            assert_eq!(choose_puller(sites), expected.map(NodeId), "{what}");
            assert_eq!(choose_puller(&turned), expected.map(NodeId), "{what}, in another order");
        };
        let here = || Site { is_self: true, ..site(2) };
        let large = || Site { disk_free_bytes: Some(900), ..site(3) };
        check("nobody is there", &[], None);
        check("the node that was asked", &[site(1), here(), large()], Some(2));
        check("a holder before it", &[Site { holds: true, ..site(1) }, here(), large()], Some(1));
        check("it before other holders", &[Site { holds: true, ..site(1) }, Site { holds: true, ..here() }], Some(2));
        check("most free disk", &[site(1), large(), Site { gateway: true, ..here() }], Some(3));
        check("the lowest of equals", &[site(4), site(3), site(5)], Some(3));
        let unknown = Site { disk_free_bytes: None, ..site(1) };
        check("unknown is the least", &[unknown.clone(), Site { disk_free_bytes: Some(0), ..site(7) }], Some(7));
        check("and not none", &[unknown], Some(1));
        let silent = Site { health: Health::Suspect, holds: true, ..site(1) };
        check("a silent one is the last choice", &[silent.clone(), site(9)], Some(9));
        check("but a choice", &[silent], Some(1));
        let storeless = || Site { no_store_at: Some("/models".to_owned()), ..here() };
        check("one without a store comes behind the others", &[storeless(), site(9)], Some(9));
        check("and is a choice", &[storeless(), Site { gateway: true, ..site(9) }], Some(2));
        check("this node hears itself", &[Site { health: Health::Unknown, ..here() }, large()], Some(2));
        let unfit = [
            Site { health: Health::Dead, ..site(1) },
            Site { drained: true, ..here() },
            Site { gateway: true, ..site(3) },
            Site { runtime_up: false, holds: true, ..site(4) },
            Site { cordon: Cordon::Cordoned, ..site(5) },
            Site { cordon: Cordon::Emptying, holds: true, ..site(6) },
        ];
        check("nobody is fit", &unfit, None);
        let cordoned = Site { cordon: Cordon::Cordoned, holds: true, ..site(5) };
        check("what a cordoned node has it may renew", &[cordoned], Some(5));
    }
}
