//! The picture that `ollamax status` draws: consensus, members, runtimes, what needs attention.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ollamax_core::catalog::{
    Failure, Fault, Location, Member, MemberState, Model, Replicas, View, Wish, models, quotas, read,
};
use ollamax_core::health::Health;
use ollamax_core::placement::{self, Outlook, Shortage, Unfit};
use ollamax_core::voters;
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::node_view;
use ollamax_scheduler::PeerLoad;
use ollamax_types::limits::HEAR_TIMEOUT;
use ollamax_types::{Beat, Digest, ModelName, NodeId, RuntimeKind, RuntimeState, Timestamp};

use super::attention::{Beside, Copies, Ended, Failed, Few, Lasting, LeftOut};
use super::daemon::{AdminError, Facts, Path, Phase};
use super::wishes::labels;
use super::{Admin, attention, backup, cordon, wishes};
use crate::order;

/// How long a copy may wait to go before that is told.
const LASTING_MS: u64 = 3_600_000;

/// Models, each with what speaks against nodes for it.
type Reasons = Vec<(ModelName, Vec<(NodeId, Unfit)>)>;

/// What tells how wishes ended, read once for all of them.
struct Ends<'a> {
    view: &'a dyn View,
    impossible: BTreeMap<&'a ModelName, &'a [(NodeId, Unfit)]>,
    members: Vec<Member>,
    names: wishes::Names,
}

// === impl Admin ===

impl Admin {
    /// The picture; before there is a cluster, of this node alone.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn status_reply(&self) -> Result<v1::StatusReply, AdminError> {
        let facts = self.daemon.facts();
        let mut reply = of_facts(&facts);
        let Some(engines) = self.daemon.engines() else {
            let beside = Beside { api_open: facts.api_open, ..Beside::default() };
            reply.attention = attention::needs_attention(&reply, &beside);
            return Ok(reply);
        };
        let status = engines.metadata.status();
        let view = engines.metadata.view();
        if let Some(cluster) = read::cluster(&*view)? {
            reply.cluster = cluster.id.0.to_vec();
            reply.cluster_name = cluster.name;
        }
        let scheduler = &engines.scheduler;
        let (peers, own) = (scheduler.peers(), scheduler.beat());
        // The one walk over all models; it tells both how many each node holds and where versions differ.
        let copies = read::locations(&*view)?;
        let held = held_by_node(&copies);
        for member in read::members(&*view)? {
            let models = held.get(&member.id).copied().unwrap_or(0);
            let heard = peers.iter().find(|peer| peer.beat.node == member.id);
            let mut node = node_view(&member, &status, models);
            node.removed_in_ms = removed_in_ms(&status, member.id);
            if Some(member.id) == facts.node {
                node.set_health(node_view::Health::Alive);
                fill_from_beat(&mut node, &own);
                if let Some(runtime) = &mut node.runtime {
                    runtime.url.clone_from(&facts.runtime_url);
                    runtime.pid = facts.runtime_pid;
                }
            } else {
                fill_path(&mut node, facts.paths.get(&member.id).copied().unwrap_or_default());
                match heard {
                    Some(heard) => fill_from_peer(&mut node, heard),
                    None => fill_unheard(&mut node, scheduler.health(member.id), scheduler.silent_for(member.id)),
                }
            }
            reply.nodes.push(node);
        }
        let alive: Vec<u64> = reply.nodes.iter().filter(|node| is_alive(node)).map(|node| node.id).collect();
        reply.raft = Some(raft_view(&status, &alive));
        reply.view = Some(local_view(&status));
        reply.state_hash = status.state_hash.to_vec();
        reply.log_first_index = status.log_first_index;
        reply.snapshot_index = status.snapshot_index;
        let shortfall = self.daemon.shortfall()?;
        let few = few(&*view, &shortfall, &copies)?;
        let wished = read::wishes(&*view)?;
        let failed = failed(&*view, &shortfall, &wished)?;
        let impossible = without_told(shortfall.impossible, &shortfall.under);
        let models = read::models(&*view)?;
        let lasting = lasting(&models, &copies, engines.metadata.log_time());
        let pinned = not_held(models, &copies);
        let left_out = left_out(&wished, &copies, engines.metadata.log_time());
        let (conflicting, quotas) = (conflicting(copies), quotas(&*view, "")?);
        let is_member = facts.phase == Phase::Member;
        let backups =
            if is_member { backup::wanting(&*view, engines.metadata.log_time(), facts.backup_every_ms)? } else { None };
        let closed = engines.transfer.closed();
        let copies = Copies {
            few: &few,
            failed: &failed,
            impossible: &impossible,
            pinned: &pinned,
            lasting: &lasting,
            left_out: &left_out,
            repair_after: placement::knobs(&*view)?.repair_after,
        };
        let beside = Beside {
            copies,
            conflicting: &conflicting,
            quotas: &quotas,
            ballast: engines.metadata.released_ballast(),
            backups,
            closed: &closed,
            api_open: facts.api_open,
        };
        reply.attention = attention::needs_attention(&reply, &beside);
        Ok(reply)
    }
}

// === impl Ends ===

impl<'a> Ends<'a> {
    fn of(view: &'a dyn View, shortfall: &'a Outlook) -> Result<Self, Fault> {
        let members = read::members(view)?;
        let names = wishes::Names::of_members(&members);
        let impossible = shortfall.impossible.iter().map(|(name, reasons)| (name, reasons.as_slice()));
        Ok(Self { view, impossible: impossible.collect(), members, names })
    }

    /// With what the wish for a model ended, and what asks for the same once more; `None` where it goes on.
    fn of_wish(&self, name: &ModelName) -> Result<Option<Ended>, Fault> {
        let Some(wish) = read::wish(self.view, name)? else { return Ok(None) };
        let reasons = self.impossible.get(name).copied();
        let failures = wishes::ended(&wish, &wishes::holders(self.view, &wish)?, reasons.unwrap_or_default());
        let are_named = matches!(wish.replicas, Replicas::Nodes(_));
        let are_by_hand = failures.iter().all(|(_, failure)| failure.by_hand);
        // What was removed by hand others may get, where none is named and there are such.
        if failures.is_empty() || (are_by_hand && !are_named && reasons.is_none()) {
            return Ok(None);
        }
        let told = failures.iter().map(|(node, failure)| wishes::told(&self.names.name(*node), failure));
        let why = told.collect::<Vec<_>>().join("; ");
        Ok(Some(Ended { why, again: self.again(&wish, are_by_hand) }))
    }

    /// The command that asks for the same once more. Who is no member any more is not named. What a person removed may
    /// come back where somebody says anew how many there shall be.
    fn again(&self, wish: &Wish, are_by_hand: bool) -> String {
        let places = match &wish.replicas {
            Replicas::Count(order::REPLICAS) if !are_by_hand => String::new(),
            Replicas::Count(count) => format!(" --replicas {count}"),
            Replicas::All => " --replicas all".to_owned(),
            Replicas::Nodes(nodes) => {
                let named = self.members.iter().filter(|member| member.is_standing() && nodes.contains(&member.id));
                let named: Vec<&str> = named.map(|member| member.name.as_str()).collect();
                format!(" --node {}", if named.is_empty() { "NODE".to_owned() } else { named.join(",") })
            }
        };
        let insecure = if wish.insecure { " --insecure" } else { "" };
        format!("ollamax model pull {}{places}{insecure}", wish.name)
    }
}

/// How many models each node holds.
fn held_by_node(copies: &[Location]) -> BTreeMap<NodeId, usize> {
    let mut held = BTreeMap::new();
    for copy in copies {
        *held.entry(copy.node).or_insert(0) += 1;
    }
    held
}

/// Models with too few copies, each with the nodes that have one and with what ended its wish.
fn few(view: &dyn View, shortfall: &Outlook, copies: &[Location]) -> Result<Vec<Few>, Fault> {
    let under = &shortfall.under;
    if under.is_empty() {
        return Ok(Vec::new());
    }
    let mut holders: BTreeMap<&ModelName, BTreeSet<NodeId>> =
        under.iter().map(|short| (&short.name, BTreeSet::new())).collect();
    for copy in copies {
        if let Some(held) = holders.get_mut(&copy.model.name) {
            held.insert(copy.node);
        }
    }
    let ends = Ends::of(view, shortfall)?;
    let few = under.iter().map(|Shortage { name, has, wants }| {
        let holders = holders.remove(name).unwrap_or_default();
        let is_named = read::wish(view, name)?.is_some_and(|wish| matches!(wish.replicas, Replicas::Nodes(_)));
        Ok(Few { name: name.clone(), has: *has, wants: *wants, holders, is_named, ended: ends.of_wish(name)? })
    });
    few.collect()
}

/// Wishes that ended, and that no missing copy and no missing place tells of. What a person removed is told as that.
fn failed(view: &dyn View, shortfall: &Outlook, wishes: &[Wish]) -> Result<Vec<Failed>, Fault> {
    let impossible = shortfall.impossible.iter().map(|(name, _)| name);
    let told: BTreeSet<&ModelName> = shortfall.under.iter().map(|short| &short.name).chain(impossible).collect();
    let has_failed = |wish: &&Wish| wish.failures.values().any(|failure| !failure.by_hand);
    let silent: Vec<&Wish> = wishes.iter().filter(has_failed).filter(|wish| !told.contains(&wish.name)).collect();
    if silent.is_empty() {
        return Ok(Vec::new());
    }
    let (ends, mut failed) = (Ends::of(view, shortfall)?, Vec::new());
    for wish in silent {
        if let Some(ended) = ends.of_wish(&wish.name)? {
            failed.push(Failed { name: wish.name.clone(), ended });
        }
    }
    Ok(failed)
}

/// Those of which the nodes themselves are the reason, and those that no shortage tells of: one that has only failed is
/// told for its copies that are missing, where such are told.
fn without_told(mut impossible: Reasons, under: &[Shortage]) -> Reasons {
    let short: BTreeSet<&ModelName> = under.iter().map(|short| &short.name).collect();
    impossible.retain(|(name, reasons)| !wishes::are_failures(reasons) || !short.contains(name));
    impossible
}

/// Copies that were told to go so long ago that something must keep them.
fn lasting(models: &[Model], copies: &[Location], now: Timestamp) -> Vec<Lasting> {
    let dropping = models.iter().filter(|model| !model.drops.is_empty());
    let dropping: BTreeMap<String, &Model> = dropping.map(|model| (model.name.key(), model)).collect();
    if dropping.is_empty() {
        return Vec::new();
    }
    let waits = |copy: &Location| {
        let model = dropping.get(&copy.model.name.key())?;
        let dropped = model.drop_of(copy.node, copy.model.digest)?;
        let waits_ms = now.ms_since(dropped.at);
        (waits_ms >= LASTING_MS).then(|| Lasting { name: model.name.clone(), node: copy.node, waits_ms })
    };
    copies.iter().filter_map(waits).collect()
}

/// Models that are pinned to a version that nobody has.
fn not_held(models: Vec<Model>, copies: &[Location]) -> Vec<ModelName> {
    let is_held = |model: &Model, digest: Digest| {
        copies.iter().any(|copy| copy.model.digest == digest && copy.model.name == model.name)
    };
    let missed = models.into_iter().filter(|model| model.pinned().is_some_and(|digest| !is_held(model, digest)));
    missed.map(|model| model.name).collect()
}

/// Copies that a person removed and nobody brought back: what is wanted does not come to their nodes by itself. Where
/// somebody said since that it is to be kept away from there, that is no news.
fn left_out(wishes: &[Wish], copies: &[Location], now: Timestamp) -> Vec<LeftOut> {
    let mut left_out = Vec::new();
    for wish in wishes {
        let by_hand = wish.failures.iter().filter(|(node, failure)| failure.by_hand && !wish.want.avoid.contains(node));
        let by_hand: Vec<(NodeId, &Failure)> = by_hand.map(|(node, failure)| (*node, failure)).collect();
        if by_hand.is_empty() {
            continue;
        }
        let holders = copies.iter().filter(|copy| copy.model.name == wish.name).map(|copy| copy.node);
        let holders: BTreeSet<NodeId> = holders.collect();
        for (node, failure) in by_hand.into_iter().filter(|(node, _)| !holders.contains(node)) {
            let named = match &wish.replicas {
                Replicas::All | Replicas::Count(_) => None,
                Replicas::Nodes(nodes) => Some(nodes.iter().copied().chain([node]).collect()),
            };
            left_out.push(LeftOut { name: wish.name.clone(), node, since_ms: now.ms_since(failure.at), named });
        }
    }
    left_out
}

/// The names of which nodes hold different versions, in order.
fn conflicting(copies: Vec<Location>) -> Vec<String> {
    let differing = models::listing(copies, &BTreeMap::new()).into_iter().filter(|listed| listed.conflict.is_some());
    let mut names: Vec<String> = differing.map(|listed| listed.model.name.to_string()).collect();
    names.sort_unstable();
    names
}

/// How old this node's own state may be.
pub(super) fn local_view(status: &metadata::Status) -> v1::LocalView {
    let leads = status.leader == Some(status.node);
    let age_ms = age_ms(leads && status.has_quorum, status.last_leader_contact_ms);
    v1::LocalView { applied_index: status.applied, age_ms }
}

/// A leader that has lost its majority is as old as the majority's last word.
fn age_ms(leads_a_majority: bool, contact_ms: Option<u64>) -> u64 {
    if leads_a_majority { 0 } else { contact_ms.unwrap_or(u64::MAX) }
}

fn of_facts(facts: &Facts) -> v1::StatusReply {
    let mut reply = v1::StatusReply {
        daemon_version: facts.version.to_owned(),
        data_dir: facts.data_dir.display().to_string(),
        node_id: facts.node.unwrap_or_default().0,
        node_name: facts.name.clone(),
        peer_id: facts.peer_id.to_string(),
        pid: u64::from(facts.pid),
        api_url: facts.api_url.clone(),
        ..v1::StatusReply::default()
    };
    reply.set_phase(match facts.phase {
        Phase::Waiting => v1::status_reply::Phase::Waiting,
        Phase::Joining => v1::status_reply::Phase::Joining,
        Phase::Member => v1::status_reply::Phase::Member,
        Phase::Stopping => v1::status_reply::Phase::Stopping,
        Phase::Removed => v1::status_reply::Phase::Removed,
    });
    reply
}

/// Members that take part and are heard here, this node among them.
fn is_alive(node: &v1::NodeView) -> bool {
    node.health() == node_view::Health::Alive && node.state() != node_view::State::Departed
}

/// When a silent member will be removed by itself, as the leader knows.
fn removed_in_ms(status: &metadata::Status, node: NodeId) -> Option<u64> {
    let left = status.outlook.as_ref()?.removals.get(&node)?;
    Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

/// `alive` are the nodes that this one hears; the leader of a majority knows better.
fn raft_view(status: &metadata::Status, alive: &[u64]) -> v1::RaftView {
    let heard = status.voters.iter().filter(|voter| alive.contains(&voter.0)).count();
    let seen = (alive.len(), voters::tolerance(heard, status.voters.len()));
    let known = status.outlook.as_ref().map(|outlook| (outlook.healthy, outlook.tolerance));
    let (healthy, tolerance) = known.unwrap_or(seen);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    v1::RaftView {
        term: status.term,
        leader: status.leader.unwrap_or_default().0,
        last_log_index: status.last_log_index,
        committed_index: status.committed,
        voters: numbers(&status.voters),
        learners: numbers(&status.learners),
        has_quorum: status.has_quorum,
        healthy_nodes: count(healthy),
        failure_tolerance: count(tolerance),
        deviating: status.alarm.deviating.iter().map(|node| node.0).collect(),
        states_undecided: status.alarm.undecided,
        compared_index: status.alarm.index,
    }
}

fn node_view(member: &Member, status: &metadata::Status, models: usize) -> v1::NodeView {
    let mut node = v1::NodeView {
        id: member.id.0,
        name: member.name.clone(),
        role: member.role.to_string(),
        peer_id: member.peer_id.to_string(),
        api_addresses: member.api_addresses.clone(),
        peer_addresses: member.peer_addresses.clone(),
        p2p_addresses: member.p2p_addresses.clone(),
        models: u32::try_from(models).unwrap_or(u32::MAX),
        joined_at_ms: member.joined_at.0,
        leader: status.leader == Some(member.id),
        voter: status.voters.contains(&member.id),
        labels: labels(&member.labels),
        own_labels: labels(&member.own_labels),
        cordon: cordon::to_wire(member.cordon).into(),
        ..v1::NodeView::default()
    };
    node.set_state(match member.state {
        MemberState::Active => node_view::State::Active,
        MemberState::Drained => node_view::State::Drained,
        MemberState::Departed { .. } => node_view::State::Departed,
    });
    if let MemberState::Departed { at } = member.state {
        node.departed_at_ms = at.0;
    }
    node
}

fn fill_path(node: &mut v1::NodeView, path: Path) {
    path.way.clone_into(&mut node.way);
    node.rtt_us = path.rtt.map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
}

/// Of a member that was never heard nothing is known; one that was waited for long enough is silent.
fn fill_unheard(node: &mut v1::NodeView, health: Health, silence: Duration) {
    if silence >= HEAR_TIMEOUT {
        node.set_health(health_of(health));
        node.silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        node.never_heard = true;
    }
}

const fn health_of(health: Health) -> node_view::Health {
    match health {
        Health::Alive => node_view::Health::Alive,
        Health::Suspect => node_view::Health::Suspect,
        Health::Dead => node_view::Health::Dead,
        Health::Unknown => node_view::Health::Unspecified,
    }
}

fn fill_from_peer(node: &mut v1::NodeView, heard: &PeerLoad) {
    node.set_health(health_of(heard.health));
    node.silent_ms = heard.silent_ms;
    node.clock_skew_ms = heard.clock_skew_ms;
    fill_from_beat(node, &heard.beat);
}

fn fill_from_beat(node: &mut v1::NodeView, beat: &Beat) {
    node.runtime = Some(runtime(beat));
    node.resident = beat.resident.iter().map(resident).collect();
    node.runners = beat.runners.iter().map(runner).collect();
    node.applied_index = beat.applied_index;
    node.daemon_version.clone_from(&beat.daemon_version);
    node.applies_up_to = beat.applies.up_to;
    node.applies_known = beat.applies.known;
    node.memory_used_bytes = beat.memory_used_bytes;
    node.memory_total_bytes = beat.memory_total_bytes;
    node.disk_free_bytes = beat.disk_free_bytes;
    node.models_free_bytes = beat.models_free_bytes;
    node.cpu_permille = beat.cpu_permille;
    node.gpus = beat.gpus.iter().map(gpu).collect();
    node.quarantined = beat.quarantined.iter().map(quarantine).collect();
    node.suspect_files = beat.suspect_files.saturating_add(beat.damaged_manifests);
    node.no_store_at.clone_from(&beat.no_store_at);
}

/// A beat's runtime in wire form.
#[must_use]
pub fn runtime(beat: &Beat) -> v1::Runtime {
    let mut runtime = v1::Runtime { version: beat.runtime_version.clone(), ..v1::Runtime::default() };
    runtime.set_kind(match beat.runtime_kind {
        RuntimeKind::Ollama => v1::runtime::Kind::Ollama,
        RuntimeKind::Engine => v1::runtime::Kind::Engine,
    });
    runtime.set_state(match &beat.runtime_state {
        RuntimeState::Absent => v1::runtime::State::Absent,
        RuntimeState::Up => v1::runtime::State::Up,
        RuntimeState::Down(_) => v1::runtime::State::Down,
    });
    if let RuntimeState::Down(reason) = &beat.runtime_state {
        runtime.reason.clone_from(reason);
    }
    runtime
}

/// A resident model in wire form.
#[must_use]
pub fn resident(model: &ollamax_types::Residency) -> v1::Resident {
    v1::Resident {
        name: model.name.to_string(),
        digest: model.digest.0.to_vec(),
        weights: model.weights.0.to_vec(),
        size_bytes: model.size_bytes,
        size_vram_bytes: model.size_vram_bytes,
        context_length: model.context_length,
        expires_at: model.expires_at.clone(),
        details_json: model.details_json.clone(),
    }
}

/// A GPU in wire form.
#[must_use]
pub fn gpu(gpu: &ollamax_types::Gpu) -> v1::Gpu {
    v1::Gpu {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        memory_total_bytes: gpu.memory_total_bytes,
        memory_used_bytes: gpu.memory_used_bytes,
        use_permille: gpu.use_permille,
    }
}

/// A node that is asked for no files, in wire form.
#[must_use]
pub const fn quarantine(quarantine: &ollamax_types::Quarantine) -> v1::Quarantine {
    let ollamax_types::Quarantine { node, until, strikes } = *quarantine;
    v1::Quarantine { node: node.0, until_ms: until.0, strikes }
}

/// A runner's counts in wire form.
#[must_use]
pub fn runner(load: &ollamax_types::RunnerLoad) -> v1::Runner {
    v1::Runner {
        weights: load.weights.0.to_vec(),
        running: load.running,
        waiting: load.waiting,
        slots: load.slots,
        service_ms: load.service_ms,
        load_ms: load.load_ms,
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Drop, Key, Mutation, Phase as ModelPhase, Pin, Plan, PlanKind, Record, Want};
    use ollamax_types::{ErrorCode, ModelRecord};

    use super::*;
    use crate::samples;

    #[test]
    fn the_age_of_a_view_counts_from_the_last_word_of_a_leader_or_of_a_leaders_majority() {
        assert_eq!(age_ms(true, Some(40)), 0);
        assert_eq!(age_ms(false, Some(12_000)), 12_000);
        assert_eq!(age_ms(false, None), u64::MAX);
    }

    #[test]
    fn the_path_to_a_node_is_told_and_an_unmeasured_one_is_no_quick_one() {
        let mut node = v1::NodeView::default();
        fill_path(&mut node, Path::default());
        assert_eq!((node.way.as_str(), node.rtt_us), ("", None));
        fill_path(&mut node, Path { way: "relayed", rtt: Some(Duration::from_micros(1_500)) });
        assert_eq!((node.way.as_str(), node.rtt_us), ("relayed", Some(1_500)));
        fill_path(&mut node, Path { way: "tcp", rtt: Some(Duration::from_secs(9_000)) });
        assert_eq!(node.rtt_us, Some(u32::MAX));
    }

    #[test]
    fn a_damaged_manifest_is_shown_among_the_damaged_files() {
        let mut node = v1::NodeView::default();
        fill_from_beat(&mut node, &Beat { suspect_files: 1, damaged_manifests: 2, ..samples::beat(1) });
        assert_eq!(node.suspect_files, 3);
    }

    #[test]
    fn both_disks_of_a_node_are_told_apart() {
        let (disk_free_bytes, models_free_bytes) = (Some(74), Some(48));
        let (mut node, beat) =
            (v1::NodeView::default(), Beat { disk_free_bytes, models_free_bytes, ..samples::beat(1) });
        fill_from_beat(&mut node, &beat);
        assert_eq!((node.disk_free_bytes, node.models_free_bytes), (disk_free_bytes, models_free_bytes));
    }

    #[test]
    fn a_member_that_was_never_heard_is_silent_when_it_was_waited_for_long_enough() {
        let check = |health: Health, silence: Duration, expected: (node_view::Health, u64, bool)| {
            let mut node = v1::NodeView::default();
            fill_unheard(&mut node, health, silence);
            assert_eq!((node.health(), node.silent_ms, node.never_heard), expected, "{health:?} {silence:?}");
        };
        let nothing = (node_view::Health::Unspecified, 0, false);
        check(Health::Unknown, Duration::ZERO, nothing);
        check(Health::Suspect, HEAR_TIMEOUT - Duration::from_millis(1), nothing);
        check(Health::Suspect, HEAR_TIMEOUT, (node_view::Health::Suspect, 5_000, true));
        check(Health::Dead, Duration::from_secs(120), (node_view::Health::Dead, 120_000, true));
    }

    fn copy(node: u64, name: &str, digest: u8) -> Location {
        Location {
            node: NodeId(node),
            model: ModelRecord {
                name: name.parse().expect("a name"),
                digest: Digest([digest; 32]),
                weights: Digest([digest; 32]),
                size_bytes: 1,
                modified_at: Timestamp(1),
                details_json: "{}".to_owned(),
                capabilities: Vec::new(),
            },
        }
    }

    #[test]
    fn copies_that_people_removed_are_told_until_they_are_back_or_are_to_be_kept_away() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<NodeId>>();
        let failure = |by_hand| {
            let (code, text) = (ErrorCode::PullCancelled, "it was removed there by hand".to_owned());
            Failure { code, text, at: Timestamp(5), by_hand }
        };
        let wish = |replicas: Replicas, avoid: &[u64]| Wish {
            name: "m".parse().expect("a name"),
            round: 7,
            insecure: false,
            replicas,
            digest: Some(Digest([1; 32])),
            size_bytes: 1,
            plan: None,
            failures: BTreeMap::from([(NodeId(2), failure(true)), (NodeId(3), failure(false))]),
            asked_at: Timestamp(0),
            asked_by: "test".to_owned(),
            want: Want { avoid: nodes(avoid), ..Want::default() },
            declared: false,
            surplus: BTreeSet::new(),
            shared: false,
        };
        let check = |wish: Wish, copies: &[Location], expected: Option<Option<&[u64]>>| {
            let expected = expected.map(|named| LeftOut {
                name: wish.name.clone(),
                node: NodeId(2),
                since_ms: 95,
                named: named.map(nodes),
            });
            let found = left_out(std::slice::from_ref(&wish), copies, Timestamp(100));
            assert_eq!(found, Vec::from_iter(expected), "{wish:?} {copies:?}");
        };
        let copies = [copy(1, "m", 1), copy(2, "other", 1)];
        check(wish(Replicas::Count(2), &[]), &copies, Some(None));
        check(wish(Replicas::Nodes(vec![NodeId(2), NodeId(4)]), &[]), &copies, Some(Some(&[2, 4])));
        check(wish(Replicas::All, &[]), &copies, Some(None));
        check(wish(Replicas::Count(2), &[2]), &copies, None);
        check(wish(Replicas::Count(2), &[]), &[copy(1, "m", 1), copy(2, "M", 9)], None);
        check(wish(Replicas::Count(2), &[]), &[], Some(None));
    }

    #[test]
    fn a_wish_that_ended_is_told_with_its_own_failure_and_what_asks_for_it_again() {
        let failure = |by_hand| {
            let (code, text) = (ErrorCode::DigestMismatch, "the file is another".to_owned());
            Failure { code, text, at: Timestamp(5), by_hand }
        };
        let wish = |replicas: Replicas, failed: &[u64], by_hand: bool| Wish {
            name: "m".parse().expect("a name"),
            round: 7,
            insecure: false,
            replicas,
            digest: None,
            size_bytes: 1,
            plan: Some(Plan {
                ingester: NodeId(1),
                targets: vec![NodeId(1), NodeId(2)],
                made_at: Timestamp(0),
                kind: PlanKind::Asked,
            }),
            failures: failed.iter().map(|node| (NodeId(*node), failure(by_hand))).collect(),
            asked_at: Timestamp(0),
            asked_by: "test".to_owned(),
            want: Want::default(),
            declared: false,
            surplus: BTreeSet::new(),
            shared: false,
        };
        let seen = |wish: &Wish| {
            let mut view = MemView::default();
            let left = Member { state: MemberState::Departed { at: Timestamp(1) }, ..samples::member(3) };
            let members = [samples::member(1), samples::member(2), left];
            view.write(&members.map(|member| Mutation::Put(Key::Member(member.id), Record::Member(member))));
            view.write(&[Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish.clone())))]);
            view
        };
        let end = |wish: &Wish, is_impossible: bool| {
            let view = seen(wish);
            let reasons = vec![(NodeId(1), Unfit::Told(ErrorCode::DigestMismatch))];
            let impossible = if is_impossible { vec![(wish.name.clone(), reasons)] } else { Vec::new() };
            let shortfall = Outlook { impossible, ..Outlook::default() };
            Ends::of(&view, &shortfall).and_then(|ends| ends.of_wish(&wish.name)).expect("readable")
        };
        let check = |wish: Wish, expected: Option<(&str, &str)>| {
            let found = end(&wish, true);
            let found = found.as_ref().map(|ended| (ended.why.as_str(), ended.again.as_str()));
            assert_eq!(found, expected, "{wish:?}");
        };
        let named = |nodes: &[u64]| Replicas::Nodes(nodes.iter().copied().map(NodeId).collect());
        let why = "n1: the file is another";
        check(wish(Replicas::Count(2), &[], false), None);
        check(wish(Replicas::Count(2), &[2], false), None);
        check(wish(Replicas::Count(2), &[1], false), Some((why, "ollamax model pull m:latest")));
        check(wish(Replicas::Count(3), &[1], false), Some((why, "ollamax model pull m:latest --replicas 3")));
        check(wish(Replicas::All, &[1], false), Some((why, "ollamax model pull m:latest --replicas all")));
        check(wish(named(&[1, 2, 3]), &[1], false), Some((why, "ollamax model pull m:latest --node n1,n2")));
        check(wish(named(&[3]), &[1], false), Some((why, "ollamax model pull m:latest --node NODE")));
        let insecure = Wish { insecure: true, ..wish(Replicas::Count(2), &[1], false) };
        check(insecure, Some((why, "ollamax model pull m:latest --insecure")));
        check(wish(named(&[1]), &[1], true), Some((why, "ollamax model pull m:latest --node n1")));
        // Nobody else can have what a person removed there, so nothing comes by itself.
        check(wish(Replicas::Count(2), &[1], true), Some((why, "ollamax model pull m:latest --replicas 2")));
        check(wish(Replicas::Count(3), &[1], true), Some((why, "ollamax model pull m:latest --replicas 3")));
        assert_eq!(end(&wish(Replicas::Count(2), &[1], true), false), None, "others may get it");
        assert!(end(&wish(named(&[1]), &[1], true), false).is_some(), "no others are named");
        assert!(end(&wish(Replicas::Count(2), &[1], false), false).is_some(), "it failed");
        let told = |wish: &Wish, shortfall: &Outlook| {
            let failed = failed(&seen(wish), shortfall, std::slice::from_ref(wish)).expect("readable");
            failed.into_iter().map(|failed| failed.ended.why).collect::<Vec<_>>()
        };
        let (unsaid, ended) = (Outlook::default(), wish(Replicas::Count(2), &[1], false));
        assert_eq!(told(&ended, &unsaid), [why], "it has room, and is nowhere");
        assert!(told(&wish(Replicas::Count(2), &[2], false), &unsaid).is_empty(), "it goes on");
        assert!(told(&wish(named(&[1]), &[1], true), &unsaid).is_empty(), "a person removed it");
        let short = Shortage { name: ended.name.clone(), has: 0, wants: 2 };
        assert!(told(&ended, &Outlook { under: vec![short], ..Outlook::default() }).is_empty(), "it is told already");
    }

    #[test]
    fn what_only_failed_is_told_for_its_missing_copies_or_else_by_itself() {
        let name = |name: &str| name.parse::<ModelName>().expect("a name");
        let failed = (NodeId(3), Unfit::Told(ErrorCode::DiskFull));
        let check = |reasons: &[(NodeId, Unfit)], short: &[&str], stays: bool| {
            let short = short.iter().map(|short| Shortage { name: name(short), has: 1, wants: 2 });
            let (short, all): (Vec<Shortage>, _) = (short.collect(), vec![(name("m"), reasons.to_vec())]);
            let expected = if stays { all.clone() } else { Vec::new() };
            assert_eq!(without_told(all, &short), expected, "{reasons:?} {short:?}");
        };
        let failures = [failed.clone()];
        check(&failures, &["m"], false);
        check(&failures, &["a", "M", "z"], false);
        // A node that is being emptied has its copy yet, or nothing is planned: no copy is told as missing.
        check(&failures, &[], true);
        check(&failures, &["other"], true);
        check(&[failed, (NodeId(2), Unfit::Gateway)], &["m"], true);
    }

    #[test]
    fn one_walk_tells_how_many_models_each_node_holds_and_which_differ() {
        let copies = vec![copy(1, "z", 1), copy(2, "z", 2), copy(1, "b", 3), copy(2, "b", 4), copy(1, "same", 5)];
        assert_eq!(held_by_node(&copies), BTreeMap::from([(NodeId(1), 3), (NodeId(2), 2)]));
        let short = Shortage { name: "z".parse().expect("a name"), has: 2, wants: 3 };
        let holders = BTreeSet::from([NodeId(1), NodeId(2)]);
        let expected = Few { name: short.name.clone(), has: 2, wants: 3, holders, is_named: false, ended: None };
        let shortfall = Outlook { under: vec![short], ..Outlook::default() };
        assert_eq!(few(&MemView::default(), &shortfall, &copies), Ok(vec![expected]));
        let pinned = |name: &str, digest: Option<u8>| Model {
            name: name.parse().expect("a name"),
            phase: ModelPhase::Active,
            pin: digest.map(|byte| Pin { digest: Digest([byte; 32]), by: "test".to_owned(), at: Timestamp(1) }),
            head: 0,
            first: 0,
            drops: BTreeMap::new(),
            used_on: 0,
            noted_at: Timestamp(1),
            unheld_since: None,
        };
        let models = vec![pinned("z", Some(2)), pinned("b", Some(1)), pinned("same", None), pinned("gone", Some(5))];
        let told = |at: u64, byte: u8| {
            let (digest, by) = (Digest([byte; 32]), "test".to_owned());
            (NodeId(2), Drop { digest, at: Timestamp(at), by, insisted: false })
        };
        let dropping = |name: &str, drop| Model { drops: BTreeMap::from([drop]), ..pinned(name, None) };
        let waiting = [dropping("z", told(5, 2)), dropping("b", told(5, 9)), dropping("gone", told(5, 1))];
        let lasts = |waits_ms: u64| Lasting { name: waiting[0].name.clone(), node: NodeId(2), waits_ms };
        assert!(lasting(&waiting, &copies, Timestamp(4 + LASTING_MS)).is_empty());
        assert_eq!(lasting(&waiting, &copies, Timestamp(5 + LASTING_MS)), [lasts(LASTING_MS)]);
        let names: Vec<String> = not_held(models, &copies).iter().map(ModelName::to_string).collect();
        assert_eq!(names, ["b:latest", "gone:latest"]);
        assert_eq!(conflicting(copies), ["b:latest", "z:latest"]);
    }
}
