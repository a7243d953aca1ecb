//! Copies that people have made anew, spread or moved: by what the leader would do anyway, only now.
//!
//! A plan goes on record as the leader's own do, and the leader goes on from there: who gets a copy fetches it, and a
//! copy that is too many goes behind that. So nothing is moved here, and a move that is cut off leaves one copy too
//! many at most.

use std::collections::BTreeSet;

use ollamax_core::catalog::{Member, PlanKind, Refusal, Replicas, Wish, models, read};
use ollamax_core::health::Health;
use ollamax_core::placement::{self, Site, Unfit};
use ollamax_proto::v1;
use ollamax_types::limits::WISH_TARGETS_MAX;
use ollamax_types::{ErrorCode, ModelName, NodeId, RequestId};

use super::daemon::AdminError;
use super::outlook::Planned;
use super::pulls::{Pulls, parse};
use super::registry::check_not_pinned;
use super::wishes::{Names, holders};

/// Most plans that one request makes. The leader's own bound on moves under way is smaller.
const PLANS_MAX: usize = 64;

/// A model that is to leave one node for another, and what is known of all three.
struct Moving<'a> {
    wish: &'a Wish,
    holders: &'a BTreeSet<NodeId>,
    from: &'a Member,
    to: &'a Member,
    is_from_heard: bool,
    /// The other node as a place.
    site: &'a Site,
    /// How full its disk may become.
    disk_percent_max: u64,
}

// === impl Pulls ===

impl Pulls {
    pub(super) async fn moves(&self, id: RequestId, asked: v1::OutlookRequest) -> Result<v1::OutlookReply, AdminError> {
        let is_meant = |planned: &Planned| match planned.kind {
            PlanKind::Rebalance => asked.rebalance,
            PlanKind::Repair | PlanKind::Emptying => !asked.rebalance,
            PlanKind::Asked => false,
        };
        let (mut reply, mut made) = (v1::OutlookReply::default(), Vec::new());
        for _ in 0..PLANS_MAX {
            let order = v1::OutlookOrder { at_once: !asked.rebalance, rebalance: asked.rebalance };
            let seen = self.0.daemon.outlook(order).await?;
            (reply.short, reply.impossible) = (seen.short, seen.impossible);
            let mut plans = seen.moves.iter().filter_map(Planned::from_wire).filter(is_meant);
            let Some(planned) = plans.find(|planned| !made.contains(planned)) else { break };
            reply.moves.push(self.move_shown(&planned)?);
            if asked.dry_run {
                break;
            }
            self.0.change_here(id.clone(), planned.command()).await?;
            made.push(planned);
        }
        Ok(reply)
    }

    pub(super) async fn move_copy(&self, id: RequestId, asked: v1::MoveRequest) -> Result<v1::MoveReply, AdminError> {
        let name = parse(&asked.name)?;
        // What is changed is chosen from a state that is not behind.
        self.0.fresh(asked.dry_run).await?;
        let (from, to) = (self.0.find(&asked.from)?, self.0.find(&asked.to)?);
        let planned = self.planned_move(&name, &from, &to)?;
        let shown = Some(self.move_shown(&planned)?);
        if !asked.dry_run {
            self.0.change_here(id, planned.command()).await?;
        }
        Ok(v1::MoveReply { shown })
    }

    fn planned_move(&self, name: &ModelName, from: &Member, to: &Member) -> Result<Planned, AdminError> {
        let engines = self.0.engines()?;
        let view = engines.metadata.view();
        let wish = read::wish(&*view, name)?.ok_or_else(|| Refusal::WishNotFound(name.clone()))?;
        check_not_pinned(name, models::pin_of(&*view, name)?)?;
        let peers = engines.scheduler.peers();
        let own = engines.scheduler.beat();
        let mut beats = peers.iter().map(|peer| &*peer.beat).chain([&own]);
        let beat = beats.find(|beat| beat.node == to.id);
        let held = holders(&*view, &wish)?;
        let site = Site::of(to, beat, engines.scheduler.health(to.id), to.id == own.node);
        let moving = Moving {
            wish: &wish,
            holders: &held,
            from,
            to,
            is_from_heard: engines.scheduler.health(from.id) == Health::Alive,
            site: &site,
            disk_percent_max: placement::knobs(&*view)?.disk_percent_max,
        };
        moving.plan()
    }

    fn move_shown(&self, planned: &Planned) -> Result<v1::MoveView, AdminError> {
        let view = self.0.metadata()?.view();
        let (names, wish) = (Names::of(&*view)?, read::wish(&*view, &planned.name)?);
        let held = wish.as_ref().map_or_else(|| Ok(BTreeSet::new()), |wish| holders(&*view, wish))?;
        let size_bytes = wish.map_or(0, |wish| wish.size_bytes);
        Ok(planned.shown(&held, size_bytes, &|node| names.name(node)))
    }
}

// === impl Moving ===

impl Moving<'_> {
    /// One target more, and the one that may lose the model behind all others.
    fn plan(&self) -> Result<Planned, AdminError> {
        let Self { wish, from, to, .. } = self;
        self.check()?;
        self.check_target()?;
        let Some(plan) = wish.plan.as_ref().filter(|plan| plan.targets.iter().all(|node| self.holds(*node))) else {
            let why = "one thing after the other: first it comes to where it is wanted";
            return Err(forbidden(format!("{} is on its way", wish.name), why, "ollamax model wishes"));
        };
        let others: Vec<NodeId> = plan.targets.iter().copied().filter(|target| *target != from.id).collect();
        if matches!(wish.replicas, Replicas::Count(count) if others.len() >= count as usize) {
            let what = format!("{} has copies enough without {}", wish.name, from.name);
            let next = format!("ollamax model rm {} --node {}", wish.name, from.name);
            return Err(forbidden(what, "one that is too many goes, and is not moved", next));
        }
        let targets: Vec<NodeId> = others.into_iter().chain([to.id, from.id]).collect();
        if targets.len() > WISH_TARGETS_MAX {
            let what = format!("{} is on {} nodes", wish.name, plan.targets.len());
            return Err(forbidden(what, "a plan has no room for one more", "ollamax model wishes"));
        }
        let (name, round, kind) = (wish.name.clone(), wish.round, PlanKind::Rebalance);
        Ok(Planned { name, round, ingester: from.id, targets, kind })
    }

    fn holds(&self, node: NodeId) -> bool {
        self.wish.digest.is_some() && self.holders.contains(&node)
    }

    /// What speaks against a copy that leaves.
    fn check(&self) -> Result<(), AdminError> {
        let Self { wish, from, to, .. } = self;
        let name = &wish.name;
        let again = match &wish.replicas {
            Replicas::Count(_) => None,
            Replicas::All => Some(("all nodes", format!("ollamax model pull {name} --replicas 2"))),
            Replicas::Nodes(_) => {
                Some(("nodes by their names", format!("ollamax model pull {name} --node {}", to.name)))
            }
        };
        if let Some((places, next)) = again {
            let why = "a move leaves what is wished for as it is";
            return Err(forbidden(format!("{name} is wanted on {places}"), why, next));
        }
        if !self.holds(from.id) {
            let (what, next) = (format!("{} does not have {name}", from.name), "ollamax model wishes");
            return Err(AdminError::new(ErrorCode::ModelNotFound, what, "only what is there can leave", next));
        }
        if !self.is_from_heard {
            let why = "its copy cannot be removed; when it is away for long, others get one";
            return Err(forbidden(format!("{} is not heard", from.name), why, "ollamax model repair"));
        }
        Ok(())
    }

    /// What speaks against a copy that comes.
    fn check_target(&self) -> Result<(), AdminError> {
        let Self { wish, from, to, .. } = self;
        if self.holds(to.id) {
            let next = format!("ollamax model rm {} --node {}", wish.name, from.name);
            let why = "a move makes one copy there and takes one away here";
            return Err(forbidden(format!("{} has {} already", to.name, wish.name), why, next));
        }
        let Some(unfit) = self.site.unfit_for(&wish.want, wish.size_bytes, self.disk_percent_max) else {
            return Ok(());
        };
        let next = match &unfit {
            Unfit::Cordoned => format!("ollamax node uncordon {}", to.name),
            Unfit::Label { key, wanted } => format!("ollamax node label {} {key}={wanted}", to.name),
            _ => "ollamax node list".to_owned(),
        };
        Err(forbidden(unfit.of(&to.name), "nothing was changed", next))
    }
}

fn forbidden(what: String, why: &str, next: impl Into<String>) -> AdminError {
    AdminError::new(ErrorCode::PreconditionFailed, what, why, next)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ollamax_core::catalog::{Cordon, Plan, Want, mem};
    use ollamax_types::{Beat, Digest, Role, RuntimeState, Timestamp};

    use super::*;
    use crate::samples::{beat, member};

    /// On nodes 1 and 2, which have it.
    fn wish() -> Wish {
        Wish {
            digest: Some(Digest([1; 32])),
            size_bytes: 100,
            plan: Some(Plan {
                ingester: NodeId(1),
                targets: vec![NodeId(1), NodeId(2)],
                made_at: Timestamp(1),
                kind: PlanKind::Asked,
            }),
            ..mem::wish("m".parse().expect("a name"))
        }
    }

    /// From node 1 to this one.
    fn planned(wish: &Wish, holders: &[u64], to: &Member, free_bytes: Option<u64>) -> Result<Planned, AdminError> {
        planned_with(wish, holders, to, &Beat { models_free_bytes: free_bytes, ..beat(to.id.0) })
    }

    /// The same, by what that one says of itself.
    fn planned_with(wish: &Wish, holders: &[u64], to: &Member, said: &Beat) -> Result<Planned, AdminError> {
        let (holders, from) = (holders.iter().copied().map(NodeId).collect(), member(1));
        let site = &Site::of(to, Some(said), Health::Alive, false);
        Moving { wish, holders: &holders, from: &from, to, is_from_heard: true, site, disk_percent_max: 90 }.plan()
    }

    #[test]
    fn a_move_is_one_target_more_and_the_one_that_loses_its_copy_comes_last() {
        let planned = planned(&wish(), &[1, 2], &member(3), Some(2 << 30)).expect("possible");
        let targets = [2, 3, 1].map(NodeId).to_vec();
        let name = "m".parse().expect("a name");
        let expected = Planned { name, round: 7, ingester: NodeId(1), targets, kind: PlanKind::Rebalance };
        assert_eq!(planned, expected);
    }

    #[test]
    fn what_cannot_move_says_why_and_what_to_do() {
        let refused = |wish: &Wish, holders: &[u64], to: &Member, free: Option<u64>| {
            let error = planned(wish, holders, to, free).expect_err("refused");
            (error.what, error.next)
        };
        let check = |found: (String, String), what: &str, next: &str| {
            assert_eq!((found.0.as_str(), found.1.as_str()), (what, next));
        };
        let both: &[u64] = &[1, 2];
        let all = Wish { replicas: Replicas::All, ..wish() };
        let again = "ollamax model pull m:latest --replicas 2";
        check(refused(&all, both, &member(3), None), "m:latest is wanted on all nodes", again);
        let named = Wish { replicas: Replicas::Nodes(vec![NodeId(1)]), ..wish() };
        let again = "ollamax model pull m:latest --node n3";
        check(refused(&named, both, &member(3), None), "m:latest is wanted on nodes by their names", again);
        check(refused(&wish(), &[2], &member(3), None), "n1 does not have m:latest", "ollamax model wishes");
        check(refused(&wish(), &[1], &member(3), None), "m:latest is on its way", "ollamax model wishes");
        let rm = "ollamax model rm m:latest --node n1";
        check(refused(&wish(), both, &member(2), None), "n2 has m:latest already", rm);
        let elsewhere = Plan {
            ingester: NodeId(2),
            targets: [2, 3].map(NodeId).to_vec(),
            made_at: Timestamp(1),
            kind: PlanKind::Asked,
        };
        let found = Wish { plan: Some(elsewhere), ..wish() };
        check(refused(&found, &[1, 2, 3], &member(4), None), "m:latest has copies enough without n1", rm);
        let cordoned = Member { cordon: Cordon::Cordoned, ..member(3) };
        check(refused(&wish(), both, &cordoned, None), "n3 takes no new models", "ollamax node uncordon n3");
        let gateway = Member { role: Role::Gateway, ..member(3) };
        check(refused(&wish(), both, &gateway, None), "n3 is a gateway", "ollamax node list");
        check(refused(&wish(), both, &member(3), Some(99)), "n3: 1.0 GB needed, 99 B free", "ollamax node list");
        let keeping = Wish { want: Want { disk_free_bytes_min: 2 << 30, ..Want::default() }, ..wish() };
        let disk = "n3: 2.1 GB of its disk to stay free, 2.1 GB would be";
        check(refused(&keeping, both, &member(3), Some((2 << 30) + 99)), disk, "ollamax node list");
        assert!(planned(&keeping, both, &member(3), Some((2 << 30) + 100)).is_ok());
        let avoid = Wish { want: Want { avoid: [NodeId(3)].into(), ..Want::default() }, ..wish() };
        check(refused(&avoid, both, &member(3), None), "n3 is to be avoided", "ollamax node list");
        let labels = BTreeMap::from([("room".to_owned(), "a".to_owned())]);
        let labelled = Wish { want: Want { labels: labels.clone(), ..Want::default() }, ..wish() };
        let label = "ollamax node label n3 room=a";
        check(refused(&labelled, both, &member(3), None), "n3 is not labelled room=a", label);
        let fit = Member { own_labels: labels, ..member(3) };
        assert!(planned(&labelled, both, &fit, None).is_ok());
    }

    #[test]
    fn a_move_goes_only_where_a_plan_would_go() {
        let refused = |want: Want, said: Beat| {
            let planned = planned_with(&Wish { want, ..wish() }, &[1, 2], &member(3), &said);
            planned.expect_err("refused").what
        };
        let gpu = Want { gpu_memory_bytes_min: 24, ..Want::default() };
        assert_eq!(refused(gpu, beat(3)), "n3: 24 B of GPU memory needed, none known");
        let down = Beat { runtime_state: RuntimeState::Down("hung".to_owned()), ..beat(3) };
        assert_eq!(refused(Want::default(), down), "n3 has no runtime that answers");
        let (models_free_bytes, models_total_bytes) = (Some(2 << 30), Some(100 << 30));
        let full = Beat { models_free_bytes, models_total_bytes, ..beat(3) };
        assert_eq!(refused(Want::default(), full), "n3: its disk would be more than 90 % full");
    }

    #[test]
    fn what_lies_on_a_node_that_is_not_heard_stays_there_and_nothing_goes_to_one() {
        let (wish, holders) = (wish(), [1, 2].map(NodeId).into());
        let (from, to) = (member(1), member(3));
        let check = |is_from_heard: bool, is_to_dead: bool, expected: &str| {
            let health = if is_to_dead { Health::Dead } else { Health::Alive };
            let site = &Site::of(&to, Some(&beat(3)), health, false);
            let (wish, holders, from, to) = (&wish, &holders, &from, &to);
            let silent = Moving { wish, holders, from, to, is_from_heard, site, disk_percent_max: 90 };
            assert_eq!(silent.plan().map_err(|error| error.what), Err(expected.to_owned()));
        };
        check(false, false, "n1 is not heard");
        check(true, true, "n3 is not heard");
    }
}
