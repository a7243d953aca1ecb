//! What becomes of a state when it goes on under another cluster identity: after a restore, say.
//!
//! One new member leads alone, under an id well above all that the state knows of: others were given out after it. All
//! other members have departed; what they held, who may join, and client sessions go: nobody may believe that an answer
//! of the old cluster still holds. Values, leases and settings stay as they are. [`Sweep`] is taken step by step, so
//! that no batch grows with the state; [`found`] is the last step.

use ollamax_types::limits::MEMBERS_MAX;
use ollamax_types::{ClusterId, NodeId, Role, Timestamp};

use super::command::NewMember;
use super::read;
use super::record::{Cluster, Counts, Due, Key, KeyRange, Member, MemberState, Record};
use super::view::{Fault, Mutation, View};

/// Deadlines that one step looks at; each may be of a session with as many answers as its window.
const DEADLINES_PER_STEP: usize = 16;
/// Records of other kinds that one step removes.
const RECORDS_PER_STEP: usize = 256;

/// The identity that a state goes on under, and the one member that it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Verifies its membership credentials.
    pub public_key: [u8; 32],
    /// Who leads it alone.
    pub member: NewMember,
}

/// Where the removal of what does not go along stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Sessions { after: Option<Key> },
    Tokens,
    Locations,
    Over,
}

/// Removes what does not go along, in bounded steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep(Stage);

impl Default for Sweep {
    fn default() -> Self {
        Self(Stage::Sessions { after: None })
    }
}

// === impl Sweep ===

impl Sweep {
    /// The next step, to be written before the one after it is asked for; `None`: nothing is left to remove.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn step(&mut self, view: &dyn View) -> Result<Option<Vec<Mutation>>, Fault> {
        loop {
            let (mutations, next) = match &self.0 {
                Stage::Sessions { after } => sessions(view, after.as_ref())?,
                Stage::Tokens => tokens(view)?,
                Stage::Locations => locations(view)?,
                Stage::Over => return Ok(None),
            };
            self.0 = next;
            if !mutations.is_empty() {
                return Ok(Some(mutations));
            }
        }
    }
}

/// Every session has a deadline; those of leases stay.
fn sessions(view: &dyn View, after: Option<&Key>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Deadlines, after, DEADLINES_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == DEADLINES_PER_STEP => Stage::Sessions { after: Some(last.clone()) },
        _ => Stage::Tokens,
    };
    let mut mutations = Vec::new();
    for (key, _) in page {
        let Key::Deadline(_, Due::Session(id)) = key else { continue };
        mutations.push(Mutation::Delete(key));
        if let Some(session) = read::session(view, id)? {
            let oldest = session.highest.saturating_sub(u64::from(session.window.saturating_sub(1))).max(1);
            let answers = (oldest..=session.highest).map(|sequence| Key::SessionAnswer(id, sequence));
            mutations.extend(answers.chain([Key::Session(id)]).map(Mutation::Delete));
        }
    }
    Ok((mutations, next))
}

fn tokens(view: &dyn View) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Tokens, None, RECORDS_PER_STEP)?;
    let next = if page.is_empty() { Stage::Locations } else { Stage::Tokens };
    Ok((page.into_iter().map(|(key, _)| Mutation::Delete(key)).collect(), next))
}

/// The new member tells of its models by itself; the others' are gone with them.
fn locations(view: &dyn View) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Locations, None, RECORDS_PER_STEP)?;
    let next = if page.is_empty() { Stage::Over } else { Stage::Locations };
    let both = page.into_iter().flat_map(|(key, _)| {
        let other = match &key {
            Key::Location(model, node) => Some(Key::NodeModel(*node, model.clone())),
            _ => None,
        };
        [Some(key), other].into_iter().flatten()
    });
    Ok((both.map(Mutation::Delete).collect(), next))
}

/// The last step: the new identity, its one member, everybody else departed. `now` is the log time that the state
/// reaches. Returns the member as it is on record, too.
///
/// # Errors
/// When the state cannot be read, or is that of no cluster.
pub fn found(view: &dyn View, founder: &Founder, now: Timestamp) -> Result<(Member, Vec<Mutation>), Fault> {
    let cluster =
        read::cluster(view)?.ok_or_else(|| Fault::Invariant("there is no cluster in this state".to_owned()))?;
    let mut mutations = Vec::new();
    for member in read::members(view)?.into_iter().filter(Member::is_standing) {
        mutations.push(Mutation::Delete(Key::MemberByPeer(member.peer_id.clone())));
        let state = MemberState::Departed { at: now };
        mutations.push(Mutation::Put(Key::Member(member.id), Record::Member(Member { state, ..member })));
    }
    let NewMember { name, peer_id, incarnation, peer_addresses, p2p_addresses, api_addresses } = founder.member.clone();
    let member = Member {
        id: NodeId(cluster.next_node_id.saturating_add(MEMBERS_MAX as u64)),
        name,
        peer_id,
        incarnation,
        role: Role::Voter,
        state: MemberState::Active,
        peer_addresses,
        p2p_addresses,
        api_addresses,
        joined_at: now,
    };
    let counts = Counts { sessions: 0, ..read::counts(view)? };
    let next_node_id = member.id.0 + 1;
    let renamed = Cluster { id: founder.cluster, public_key: founder.public_key, next_node_id, ..cluster };
    mutations.extend([
        Mutation::Put(Key::Cluster, Record::Cluster(renamed)),
        Mutation::Put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)),
        Mutation::Put(Key::Member(member.id), Record::Member(member.clone())),
        Mutation::Put(Key::Counts, Record::Counts(counts)),
    ]);
    Ok((member, mutations))
}

#[cfg(test)]
mod tests {
    use ollamax_types::{Incarnation, PeerId, RequestId, TokenId};

    use super::*;
    use crate::catalog::command::{Command, Entry};
    use crate::catalog::mem::MemView;
    use crate::catalog::{Answer, CLUSTER_VERSION};

    const NOW: Timestamp = Timestamp(9_000);

    fn member(number: u8) -> NewMember {
        NewMember {
            name: format!("n{number}"),
            peer_id: PeerId(format!("p{number}")),
            incarnation: Incarnation([number; 16]),
            peer_addresses: vec![format!("10.0.0.{number}:11436")],
            p2p_addresses: vec![],
            api_addresses: vec![],
        }
    }

    /// Applies one command after the other, and wants none refused.
    struct World {
        view: MemView,
        index: u64,
    }

    impl World {
        fn apply(&mut self, session: Option<(u64, u64)>, command: Command) -> u64 {
            self.index += 1;
            let entry = Entry {
                least_version: 1,
                log_time: Timestamp(1_000 + self.index),
                request: RequestId::default(),
                principal: "node/1".to_owned(),
                namespace: String::new(),
                session,
                fence_term: None,
                command,
            };
            let answer = self.view.apply(self.index, 1, &entry).expect("no fault");
            assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
            self.index
        }
    }

    fn lived_in() -> World {
        let mut world = World { view: MemView::default(), index: 0 };
        let cluster = ClusterId([1; 16]);
        let (name, public_key) = ("lab".to_owned(), [2; 32]);
        let first = member(1);
        world.apply(None, Command::InitCluster { cluster, name, public_key, first, version: CLUSTER_VERSION });
        for number in 2..=3 {
            let (token, secret_sha256, role) = (TokenId(format!("t{number}")), [number; 32], Role::Voter);
            let create = Command::CreateToken { id: token.clone(), secret_sha256, role, uses: 2, ttl_ms: 60_000 };
            world.apply(None, create);
            world.apply(None, Command::AddMember { token, secret_sha256, role, member: member(number) });
        }
        for _ in 0..40 {
            let session = world.apply(None, Command::OpenSession { ttl_ms: 60_000, window: 4 });
            for sequence in 1..=6 {
                let set = Command::SetSetting { key: "b".to_owned(), value: b"2".to_vec() };
                world.apply(Some((session, sequence)), set);
            }
            world.apply(None, Command::GrantLease { ttl_ms: 60_000 });
        }
        world.apply(None, Command::SetSetting { key: "a".to_owned(), value: b"1".to_vec() });
        world
    }

    fn founder() -> Founder {
        Founder { cluster: ClusterId([9; 16]), public_key: [8; 32], member: member(9) }
    }

    #[test]
    fn one_new_member_leads_and_nothing_of_the_old_cluster_lets_anybody_in() {
        let World { mut view, .. } = lived_in();
        let (mut sweep, mut steps) = (Sweep::default(), 0);
        while let Some(mutations) = sweep.step(&view).expect("readable") {
            view.write(&mutations);
            steps += 1;
        }
        assert!(steps > 3, "{steps} steps");
        let (made, mutations) = found(&view, &founder(), NOW).expect("readable");
        view.write(&mutations);

        let cluster = read::cluster(&view).expect("readable").expect("there");
        assert_eq!((cluster.id, cluster.public_key, cluster.next_node_id), (ClusterId([9; 16]), [8; 32], 517));
        assert_eq!((cluster.name.as_str(), cluster.version), ("lab", CLUSTER_VERSION));
        assert_eq!((made.id, made.role, made.name.as_str()), (NodeId(516), Role::Voter, "n9"));
        let members = read::members(&view).expect("readable");
        let standing: Vec<NodeId> = members.iter().filter(|member| member.is_standing()).map(|m| m.id).collect();
        assert_eq!((members.len(), standing), (4, vec![NodeId(516)]));
        for (peer, expected) in [("p1", None), ("p2", None), ("p3", None), ("p9", Some(NodeId(516)))] {
            assert_eq!(read::member_by_peer(&view, &PeerId(peer.to_owned())), Ok(expected), "{peer}");
        }
        assert!(read::tokens(&view).expect("readable").is_empty());
        let counts = read::counts(&view).expect("readable");
        assert_eq!((counts.sessions, counts.leases), (0, 40));
        let families = |wanted: fn(&Key) -> bool| view.records().filter(|(key, _)| wanted(key)).count();
        assert_eq!(families(|key| matches!(key, Key::Session(_) | Key::SessionAnswer(..))), 0);
        assert_eq!(families(|key| matches!(key, Key::Lease(_) | Key::Deadline(..))), 80);
        assert_eq!(read::setting(&view, "a").expect("readable").expect("kept").value, b"1");
    }

    #[test]
    fn a_state_without_a_cluster_cannot_go_on() {
        let view = MemView::default();
        assert_eq!(Sweep::default().step(&view), Ok(None));
        assert!(matches!(found(&view, &founder(), NOW), Err(Fault::Invariant(_))));
    }
}
