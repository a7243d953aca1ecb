//! Members: founded, admitted, moved, drained, removed.
//!
//! Ids come from `Cluster::next_node_id`, which only grows, so an id is never used again even when the record of a
//! departed member has been forgotten. `MemberByPeer` exists exactly for members that have not departed.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::limits::{DEPARTED_MEMBERS_MAX, LABEL_BYTES_MAX, MEMBERS_MAX};
use ollamax_types::{ClusterId, Incarnation, NodeId, Role, TokenId};

use super::limit::{check_addresses, check_identifier, check_label, cut};
use super::version::check_version;
use super::{Applied, Scene, Step, Stop, invalid, put, tokens};
use crate::catalog::command::{Answer, Entry, NewMember, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Cluster, Cordon, Key, Member, MemberState, Record};
use crate::catalog::view::{Fault, Mutation};

/// What a joiner shows at the door.
pub(super) struct Ticket<'a> {
    pub(super) token: &'a TokenId,
    pub(super) secret_sha256: &'a [u8; 32],
    pub(super) role: Role,
}

/// Where a member can be reached.
pub(super) struct Addresses<'a> {
    pub(super) peer: &'a [String],
    pub(super) p2p: &'a [String],
    pub(super) api: &'a [String],
}

impl<'a> Addresses<'a> {
    fn of(member: &'a NewMember) -> Self {
        Self { peer: &member.peer_addresses, p2p: &member.p2p_addresses, api: &member.api_addresses }
    }

    fn check(&self) -> Result<(), Stop> {
        check_addresses("peer addresses", self.peer)?;
        check_addresses("p2p addresses", self.p2p)?;
        check_addresses("api addresses", self.api)
    }

    fn write_to(&self, member: &mut Member) {
        member.peer_addresses = self.peer.to_vec();
        member.p2p_addresses = self.p2p.to_vec();
        member.api_addresses = self.api.to_vec();
    }
}

/// What `init` says of the cluster: id, name, public key, version to begin with.
pub(super) type Founding<'a> = (ClusterId, &'a str, [u8; 32], u32);

pub(super) fn init(entry: &Entry, (id, name, public_key, version): Founding<'_>, first: &NewMember) -> Step {
    check_version(version)?;
    check_label("the cluster's name", name)?;
    check_new(first)?;
    let node = NodeId(1);
    let cluster = Cluster {
        id,
        name: name.to_owned(),
        public_key,
        created_at: entry.log_time,
        next_node_id: node.0 + 1,
        version,
    };
    let member = fresh(entry, node, Role::Voter, first);
    Ok(admitted(cluster, member))
}

pub(super) fn add(scene: &Scene<'_>, ticket: &Ticket<'_>, new: &NewMember) -> Step {
    check_new(new)?;
    if let Some(node) = read::member_by_peer(scene.view, &new.peer_id)? {
        return again(scene, node, new);
    }
    let use_of_token = tokens::redeem(scene, ticket.token, ticket.secret_sha256, ticket.role)?;
    let members = read::members(scene.view)?;
    let taken: BTreeSet<String> =
        members.iter().filter(|member| member.is_standing()).map(|member| member.name.to_lowercase()).collect();
    if taken.len() >= MEMBERS_MAX {
        return Err(invalid(format!("the cluster has {MEMBERS_MAX} members, which is the limit")));
    }
    let node = NodeId(scene.cluster.next_node_id);
    let mut member = fresh(scene.entry, node, ticket.role, new);
    member.name = unique(&new.name, &taken);
    let cluster = Cluster { next_node_id: node.0 + 1, ..scene.cluster.clone() };
    let mut applied = admitted(cluster, member);
    applied.mutations.push(use_of_token);
    Ok(applied)
}

/// The same key comes again: the same data directory gets its old id, another one is refused.
fn again(scene: &Scene<'_>, node: NodeId, new: &NewMember) -> Step {
    let Some(member) = read::member(scene.view, node)? else {
        return Err(Fault::Invariant(format!("{} points to no member", Key::MemberByPeer(new.peer_id.clone()))).into());
    };
    if member.incarnation != new.incarnation {
        return Err(Refusal::IncarnationConflict { node }.into());
    }
    let answer = Answer::Member { node, name: member.name.clone(), already: true };
    Ok(Applied::new(with_addresses(member, &Addresses::of(new)), answer))
}

pub(super) fn set_addresses(scene: &Scene<'_>, node: NodeId, own: Incarnation, addresses: &Addresses<'_>) -> Step {
    addresses.check()?;
    let member = standing(scene, node)?;
    if member.incarnation != own {
        return Err(Refusal::IncarnationConflict { node }.into());
    }
    Ok(Applied::done(with_addresses(member, addresses)))
}

fn with_addresses(member: Member, addresses: &Addresses<'_>) -> Vec<Mutation> {
    let mut moved = member.clone();
    addresses.write_to(&mut moved);
    if moved == member { Vec::new() } else { vec![put(Key::Member(moved.id), Record::Member(moved))] }
}

pub(super) fn set_drained(scene: &Scene<'_>, node: NodeId, drained: bool) -> Step {
    let member = standing(scene, node)?;
    let state = if drained { MemberState::Drained } else { MemberState::Active };
    if member.state == state {
        return Ok(Applied::done(Vec::new()));
    }
    Ok(Applied::done(vec![put(Key::Member(node), Record::Member(Member { state, ..member }))]))
}

pub(super) fn remove(scene: &Scene<'_>, node: NodeId) -> Step {
    let member = standing(scene, node)?;
    let members = read::members(scene.view)?;
    // Learners and gateways cannot go on by themselves.
    if !members.iter().any(|other| other.id != node && other.role == Role::Voter && other.is_standing()) {
        return Err(Refusal::LastVoter(node).into());
    }
    if !read::some_models_of(scene.view, node, 1)?.is_empty() {
        return Err(Refusal::ModelsRemain(node).into());
    }
    let mut mutations = forget_longest_departed(&members);
    mutations.push(Mutation::Delete(Key::MemberByPeer(member.peer_id.clone())));
    let state = MemberState::Departed { at: scene.entry.log_time };
    mutations.push(put(Key::Member(node), Record::Member(Member { state, ..member })));
    Ok(Applied::done(mutations))
}

/// Keeps room for one more departed member.
fn forget_longest_departed(members: &[Member]) -> Vec<Mutation> {
    let departed = members.iter().filter_map(|member| match member.state {
        MemberState::Departed { at } => Some((at, member.id)),
        MemberState::Active | MemberState::Drained => None,
    });
    let departed: BTreeSet<_> = departed.collect();
    let surplus = (departed.len() + 1).saturating_sub(DEPARTED_MEMBERS_MAX);
    departed.into_iter().take(surplus).map(|(_, node)| Mutation::Delete(Key::Member(node))).collect()
}

/// The member, unless it is unknown or has departed.
pub(super) fn standing(scene: &Scene<'_>, node: NodeId) -> Result<Member, Stop> {
    let member = read::member(scene.view, node)?.filter(Member::is_standing);
    member.ok_or_else(|| Refusal::NodeNotFound(node).into())
}

/// The member, if it may hold models.
pub(super) fn holder(scene: &Scene<'_>, node: NodeId) -> Result<Member, Stop> {
    let member = standing(scene, node)?;
    if member.role == Role::Gateway {
        return Err(invalid(format!("node {node} is a gateway and holds no models")));
    }
    Ok(member)
}

fn check_new(new: &NewMember) -> Result<(), Stop> {
    check_label("the node's name", &new.name)?;
    check_identifier("the peer id", &new.peer_id.0)?;
    Addresses::of(new).check()
}

fn fresh(entry: &Entry, id: NodeId, role: Role, new: &NewMember) -> Member {
    Member {
        id,
        name: new.name.clone(),
        peer_id: new.peer_id.clone(),
        incarnation: new.incarnation,
        role,
        state: MemberState::Active,
        peer_addresses: new.peer_addresses.clone(),
        p2p_addresses: new.p2p_addresses.clone(),
        api_addresses: new.api_addresses.clone(),
        joined_at: entry.log_time,
        labels: BTreeMap::new(),
        own_labels: BTreeMap::new(),
        cordon: Cordon::Open,
    }
}

fn admitted(cluster: Cluster, member: Member) -> Applied {
    let answer = Answer::Member { node: member.id, name: member.name.clone(), already: false };
    let mutations = vec![
        put(Key::Cluster, Record::Cluster(cluster)),
        put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)),
        put(Key::Member(member.id), Record::Member(member)),
    ];
    Applied::new(mutations, answer)
}

/// The name itself, or the first of `name-2`, `name-3`, … that nobody has, cut to fit the limit.
fn unique(name: &str, taken: &BTreeSet<String>) -> String {
    if !taken.contains(&name.to_lowercase()) {
        return name.to_owned();
    }
    let numbered = |number: usize| {
        let suffix = format!("-{number}");
        format!("{}{suffix}", cut(name, LABEL_BYTES_MAX - suffix.len()))
    };
    let free = (2..=taken.len() + 2).map(numbered).find(|name| !taken.contains(&name.to_lowercase()));
    free.expect("one more candidate than taken names, all different")
}
