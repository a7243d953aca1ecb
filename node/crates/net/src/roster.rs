//! Who is a member, where it can be dialled, and who this node says it is.
//!
//! The table comes from the applied catalog and is replaced whole. A key that is not in it counts as a member only if
//! it showed a credential of this cluster for a node id at or above the next free id that this node knows: ids are
//! given out in order and never again, so a lower id that is missing from the table has departed. Before that floor is
//! known, no credential counts. Addresses found by discovery stand behind those of the catalog.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use ollamax_security::Credential;
use ollamax_types::{NodeId, PeerId};

use crate::peer::{Discovered, PeerEntry};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The key that TLS proved.
    pub(crate) peer_id: PeerId,
    /// The node id that a verified credential gives this key.
    pub(crate) vouched: Option<NodeId>,
}

/// A member, as the `p2p` part needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) peer_id: PeerId,
    /// As the member told them: not checked.
    pub(crate) p2p_addresses: Vec<String>,
}

/// The shared table.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    state: RwLock<State>,
    /// Shows the generation to whoever waits for a change.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    by_node: BTreeMap<NodeId, PeerEntry>,
    by_peer: HashMap<PeerId, NodeId>,
    discovered: HashMap<PeerId, Vec<String>>,
    /// The smallest id that may belong to a member that this node has not heard of.
    floor: Option<NodeId>,
    credential: Vec<u8>,
    cluster_public_key: Option<[u8; 32]>,
    /// Counts changes, so that what was learnt from an older table can be told.
    generation: u64,
}

// === impl Roster ===

impl Roster {
    pub(crate) fn set_members(&self, members: Vec<PeerEntry>) {
        let mut state = self.write();
        state.by_peer = members.iter().map(|entry| (entry.peer_id.clone(), entry.node)).collect();
        let next = members.iter().map(|entry| NodeId(entry.node.0.saturating_add(1))).max();
        // The table alone cannot open the door for credentials, but it can close it further.
        state.floor = state.floor.map(|floor| next.map_or(floor, |next| floor.max(next)));
        let table: BTreeMap<NodeId, PeerEntry> = members.into_iter().map(|entry| (entry.node, entry)).collect();
        if state.by_node != table {
            state.by_node = table;
            self.count_change(state);
        }
    }

    pub(crate) fn set_next_node_id(&self, next: NodeId) {
        let mut state = self.write();
        state.floor = Some(state.floor.map_or(next, |floor| floor.max(next)));
    }

    pub(crate) fn set_credential(&self, credential: Vec<u8>, cluster_public_key: [u8; 32]) {
        let mut state = self.write();
        state.credential = credential;
        state.cluster_public_key = Some(cluster_public_key);
    }

    pub(crate) fn set_discovered(&self, found: &[Discovered]) {
        let mut state = self.write();
        let discovered = found.iter().map(|peer| (peer.peer_id.clone(), peer.addresses.clone())).collect();
        if state.discovered != discovered {
            state.discovered = discovered;
            self.count_change(state);
        }
    }

    /// The lock is given back before anybody is woken.
    fn count_change(&self, mut state: RwLockWriteGuard<'_, State>) {
        state.generation += 1;
        let generation = state.generation;
        drop(state);
        self.changes.send_if_modified(|shown| {
            let is_newer = *shown < generation;
            *shown = generation.max(*shown);
            is_newer
        });
    }

    /// This node's own credential, empty before it has one.
    pub(crate) fn credential(&self) -> Vec<u8> {
        self.read().credential.clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// The generation, told anew after each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        self.read().by_node.contains_key(&node)
    }

    /// Every member.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        self.read().by_node.keys().copied().collect()
    }

    /// Every member with its `p2p` addresses.
    pub(crate) fn contacts(&self) -> Vec<Contact> {
        let state = self.read();
        let contact =
            |entry: &PeerEntry| Contact { peer_id: entry.peer_id.clone(), p2p_addresses: entry.p2p_addresses.clone() };
        state.by_node.values().map(contact).collect()
    }

    /// Whether a key belongs to a member of the table; no credential counts here.
    pub(crate) fn is_member_key(&self, key: &PeerId) -> bool {
        self.read().by_peer.contains_key(key)
    }

    /// The member of the table that has this key.
    pub(crate) fn node_of_key(&self, key: &PeerId) -> Option<NodeId> {
        self.read().by_peer.get(key).copied()
    }

    /// A member's key, and every address to try: the catalog's first, then discovered ones.
    pub(crate) fn member(&self, node: NodeId) -> Option<(PeerId, Vec<String>)> {
        let state = self.read();
        let entry = state.by_node.get(&node)?;
        let discovered = state.discovered.get(&entry.peer_id);
        let mut seen = HashSet::new();
        let all = entry.addresses.iter().chain(discovered.into_iter().flatten());
        let addresses = all.filter(|address| seen.insert(*address)).cloned().collect();
        Some((entry.peer_id.clone(), addresses))
    }

    /// The node id that a credential gives the key that showed it; `None` when it gives none.
    pub(crate) fn vouched(&self, credential: &[u8], proved: &PeerId) -> Option<NodeId> {
        let key = self.read().cluster_public_key?;
        let credential = Credential::verify(credential, &key).ok()?;
        (credential.peer_id == *proved).then_some(credential.node)
    }

    /// The member at the other end, as of now.
    pub(crate) fn node_of(&self, link: &Link) -> Option<NodeId> {
        let state = self.read();
        let by_credential = || link.vouched.filter(|node| state.floor.is_some_and(|floor| *node >= floor));
        state.by_peer.get(&link.peer_id).copied().or_else(by_credential)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_security::{ClusterKey, NodeKey};
    use ollamax_types::{ClusterId, Incarnation, Role};

    use super::*;

    fn entry(node: u64, peer_id: &PeerId, address: &str) -> PeerEntry {
        let p2p_addresses = vec![format!("/dns/{address}/tcp/2")];
        PeerEntry { node: NodeId(node), peer_id: peer_id.clone(), addresses: vec![address.to_owned()], p2p_addresses }
    }

    fn credential(node: u64, peer_id: &PeerId, key: &ClusterKey) -> Vec<u8> {
        let credential = Credential {
            cluster: ClusterId([1; 16]),
            node: NodeId(node),
            peer_id: peer_id.clone(),
            role: Role::Voter,
            incarnation: Incarnation([2; 16]),
        };
        credential.sign(key).unwrap()
    }

    #[test]
    fn a_credential_counts_only_for_ids_that_are_not_given_out_yet() {
        let (ours, theirs) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
        let key = ClusterKey::generate().unwrap();
        let roster = Roster::default();
        let shown = credential(4, theirs.peer_id(), &key);
        assert_eq!(roster.vouched(&shown, theirs.peer_id()), None, "no cluster key yet");
        roster.set_credential(Vec::new(), key.public_key());
        let vouched = roster.vouched(&shown, theirs.peer_id());
        assert_eq!(vouched, Some(NodeId(4)));
        assert_eq!(roster.vouched(&shown, ours.peer_id()), None, "another key shows it");
        let foreign = credential(4, theirs.peer_id(), &ClusterKey::generate().unwrap());
        assert_eq!(roster.vouched(&foreign, theirs.peer_id()), None);

        let link = Link { peer_id: theirs.peer_id().clone(), vouched };
        roster.set_members(vec![entry(1, ours.peer_id(), "a:1")]);
        assert_eq!(roster.node_of(&link), None, "no floor yet");
        roster.set_next_node_id(NodeId(4));
        assert_eq!(roster.node_of(&link), Some(NodeId(4)), "id 4 may be news");
        roster.set_members(vec![entry(1, ours.peer_id(), "a:1"), entry(4, theirs.peer_id(), "b:1")]);
        assert_eq!(roster.node_of(&link), Some(NodeId(4)), "in the table");
        roster.set_members(vec![entry(1, ours.peer_id(), "a:1")]);
        assert_eq!(roster.node_of(&link), None, "departed");
        roster.set_next_node_id(NodeId(2));
        assert_eq!(roster.node_of(&link), None, "the floor never sinks");
    }

    #[test]
    fn only_keys_of_the_table_are_members_keys_and_each_change_is_told() {
        let (in_table, vouched) = (NodeKey::ephemeral().unwrap(), NodeKey::ephemeral().unwrap());
        let key = ClusterKey::generate().unwrap();
        let roster = Roster::default();
        let mut changes = roster.changes();
        roster.set_credential(Vec::new(), key.public_key());
        roster.set_next_node_id(NodeId(2));
        assert!(!changes.has_changed().unwrap(), "the table is as it was");
        roster.set_members(vec![entry(1, in_table.peer_id(), "a")]);
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), roster.generation());
        roster.set_members(vec![entry(1, in_table.peer_id(), "a")]);
        assert!(!changes.has_changed().unwrap(), "the same table again");

        let shown = credential(4, vouched.peer_id(), &key);
        let link = Link { vouched: roster.vouched(&shown, vouched.peer_id()), peer_id: vouched.peer_id().clone() };
        assert_eq!(roster.node_of(&link), Some(NodeId(4)), "its credential counts where it is shown");
        assert!(!roster.is_member_key(vouched.peer_id()) && roster.is_member_key(in_table.peer_id()));
        assert_eq!(roster.node_of_key(in_table.peer_id()), Some(NodeId(1)));
        let contact = Contact { peer_id: in_table.peer_id().clone(), p2p_addresses: vec!["/dns/a/tcp/2".to_owned()] };
        assert_eq!(roster.contacts(), [contact]);
    }

    #[test]
    fn discovered_addresses_stand_behind_the_catalogs() {
        let key = NodeKey::ephemeral().unwrap();
        let roster = Roster::default();
        roster.set_members(vec![entry(2, key.peer_id(), "a:1")]);
        let before = roster.generation();
        let found = Discovered {
            peer_id: key.peer_id().clone(),
            cluster: None,
            addresses: vec!["b:1".to_owned(), "a:1".to_owned()],
        };
        roster.set_discovered(std::slice::from_ref(&found));
        let (_, addresses) = roster.member(NodeId(2)).unwrap();
        assert_eq!(addresses, ["a:1", "b:1"]);
        assert!(roster.generation() > before);
        let before = roster.generation();
        roster.set_discovered(&[found]);
        assert_eq!(roster.generation(), before, "nothing new");
        assert_eq!(roster.member(NodeId(3)), None);
    }
}
