//! The members of the cluster as places for models: from their records and their newest beats.
//!
//! What is not known of a node speaks against it. Whether that may still change, because a node was not heard yet, is
//! told beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ollamax_core::catalog::{Fault, Member, MemberState, View, read};
use ollamax_core::health::Health;
use ollamax_core::placement::Site;
use ollamax_scheduler as scheduler;
use ollamax_types::{Beat, NodeId};

/// The members that are there, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sites {
    sites: Vec<Site>,
    /// Every one of them was heard and takes what its record says, or is known to be dead.
    pub(crate) are_clear: bool,
    /// One that is heard takes nothing just now although its record says otherwise, or this node has not seen its own
    /// record: they start or stop, and soon say more.
    pub(crate) are_changing: bool,
}

// === impl Sites ===

impl Sites {
    /// As this node sees them now.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn now(view: &dyn View, scheduler: &scheduler::Handle) -> Result<Self, Fault> {
        let own = scheduler.node();
        let peers = scheduler.peers().into_iter().map(|peer| (peer.beat.node, peer.beat));
        let beats: BTreeMap<NodeId, Arc<Beat>> = peers.chain([(own, Arc::new(scheduler.beat()))]).collect();
        let members: Vec<Member> = read::members(view)?.into_iter().filter(Member::is_standing).collect();
        // A node that has just joined says that it takes nothing until it has seen its own record.
        let is_clear = |member: &Member| {
            let beat = beats.get(&member.id);
            let says_so = |beat: &Arc<Beat>| !beat.draining || member.state == MemberState::Drained;
            scheduler.health(member.id) == Health::Dead || beat.is_some_and(says_so)
        };
        let is_changing =
            |member: &Member| member.id != own && scheduler.health(member.id) == Health::Alive && !is_clear(member);
        let is_known = members.iter().any(|member| member.id == own);
        let are_clear = is_known && members.iter().all(is_clear);
        let are_changing = !is_known || members.iter().any(is_changing);
        let sites = members.iter().map(|member| {
            let (health, is_self) = (scheduler.health(member.id), member.id == own);
            Site::of(member, beats.get(&member.id).map(AsRef::as_ref), health, is_self)
        });
        Ok(Self { sites: sites.collect(), are_clear, are_changing })
    }

    /// These, all of them known.
    #[cfg(test)]
    pub(crate) const fn of(sites: Vec<Site>) -> Self {
        Self { sites, are_clear: true, are_changing: false }
    }

    /// The same, where it is known how much nodes have of a model on its way, permille.
    pub(crate) fn with_progress(mut self, permille: &BTreeMap<NodeId, u16>) -> Self {
        for site in &mut self.sites {
            site.progress_permille = permille.get(&site.node).copied();
        }
        self
    }

    /// The same, where a member that was never heard and is lost counts as dead: nobody waits for it any more.
    pub(crate) fn with_lost(mut self, is_lost: &dyn Fn(NodeId) -> bool) -> Self {
        let unheard = self.sites.iter_mut().filter(|site| site.health == Health::Unknown && !site.is_self);
        for site in unheard.filter(|site| is_lost(site.node)) {
            site.health = Health::Dead;
        }
        self
    }

    /// All of them; none is said to hold anything.
    pub(crate) fn all(&self) -> &[Site] {
        &self.sites
    }

    /// Those of some nodes that are heard just now.
    pub(crate) fn heard_of(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let heard = self.sites.iter().filter(|site| site.is_heard()).map(|site| site.node);
        heard.filter(|node| nodes.contains(node)).collect()
    }

    /// As places for a model that these nodes hold.
    pub(crate) fn with_holders(&self, holders: &BTreeSet<NodeId>) -> Vec<Site> {
        let sites = self.sites.iter().cloned();
        sites.map(|site| Site { holds: holders.contains(&site.node), ..site }).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, Mutation, Record};
    use ollamax_scheduler::mem::{MemPlacements, MemRemote, MemRuntime};
    use ollamax_types::{Applies, Clock, Role, RuntimeState, SpareRule, Timestamp};

    use super::*;

    fn member(id: u64, role: Role, state: MemberState) -> Mutation {
        let member = Member { role, state, ..mem::member(id) };
        Mutation::Put(Key::Member(member.id), Record::Member(member))
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_a_place_by_its_record_and_its_beat_and_what_is_not_known_speaks_against_it() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = scheduler::Parts {
            node: NodeId(1),
            clock: Clock::manual(Timestamp(0)),
            daemon_version: "0".to_owned(),
            applies: Applies::default(),
            seed: 1,
            runtime: Arc::new(MemRuntime::default()),
            remote: Arc::new(MemRemote::default()),
            placements: Arc::new(MemPlacements::default()),
            metrics: scheduler::Metrics::default(),
        };
        let scheduler = scheduler::Handle::start(scheduler::Config::default(), parts, &tasks, stop.clone());
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        scheduler.set_members(&nodes);
        let mut view = MemView::default();
        view.write(&[
            member(1, Role::Voter, MemberState::Active),
            member(2, Role::Voter, MemberState::Active),
            member(3, Role::Gateway, MemberState::Active),
            member(4, Role::Voter, MemberState::Drained),
            member(5, Role::Voter, MemberState::Departed { at: Timestamp(1) }),
        ]);
        let beat = |node, models_free_bytes: Option<u64>| Beat {
            node: NodeId(node),
            sequence: 1,
            draining: false,
            runtime_state: RuntimeState::Up,
            disk_free_bytes: Some(9),
            models_free_bytes,
            models_total_bytes: Some(20),
            models_aside_bytes: Some(5),
            models_spare: (node == 2).then_some(SpareRule { percent: 20, bytes_min: 0 }),
            suspect_files: u32::from(node == 3),
            damaged_manifests: u32::from(node == 2),
            ..scheduler.beat()
        };
        scheduler.observe(beat(2, Some(7)));
        scheduler.observe(beat(3, None));
        let sites = Sites::now(&view, &scheduler).expect("readable");
        assert!(!sites.are_clear && !sites.are_changing, "node 4 was not heard yet");
        let told: Vec<_> = sites
            .with_holders(&BTreeSet::from([NodeId(2)]))
            .into_iter()
            .map(|site| {
                let fit = (site.gateway, site.drained, site.runtime_up);
                let disk = (site.disk_free_bytes, site.disk_total_bytes, site.aside_bytes, site.has_damage);
                (site.node.0, site.health, fit, disk, site.holds, site.is_self)
            })
            .collect();
        assert_eq!(
            told,
            [
                (1, Health::Alive, (false, false, false), (None, None, None, false), false, true),
                (2, Health::Alive, (false, false, true), (Some(7), Some(20), Some(5), false), true, false),
                (3, Health::Alive, (true, false, true), (Some(9), None, None, true), false, false),
                (4, Health::Unknown, (false, true, false), (None, None, None, false), false, false),
            ]
        );
        let percents: Vec<u32> = sites.all().iter().map(|site| site.spare.percent).collect();
        assert_eq!(percents, [5, 20, 5, 5], "who does not say what it keeps free keeps what is kept where nobody says");
        let lost = sites.with_lost(&|node| node != NodeId(3));
        let health: Vec<Health> = lost.all().iter().map(|site| site.health).collect();
        assert_eq!(health, [Health::Alive, Health::Alive, Health::Alive, Health::Dead], "only who was never heard");
        scheduler.observe(beat(4, None));
        assert!(Sites::now(&view, &scheduler).expect("readable").are_clear);
        scheduler.observe(Beat { draining: true, sequence: 2, ..beat(2, Some(7)) });
        let sites = Sites::now(&view, &scheduler).expect("readable");
        assert!(!sites.are_clear && sites.are_changing, "node 2 may not have seen its own record yet");
        let sites = Sites::now(&MemView::default(), &scheduler).expect("readable");
        assert!(!sites.are_clear && sites.are_changing, "nor has this one");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
