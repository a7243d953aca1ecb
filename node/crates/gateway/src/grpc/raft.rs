//! The consensus of this node as an administrator sees and steers it: how it stands, another leader, a snapshot.
//!
//! How it stands comes from this node's own state and needs no leader. Another leader may be asked for at any node; the
//! one that leads is asked in turn. A snapshot is this node's own.

use std::collections::BTreeMap;

use tonic::Request;

use ollamax_core::catalog::read;
use ollamax_metadata as metadata;
use ollamax_metadata::{Declined, HandOverError, HandedOver, Part, SnapshotError};
use ollamax_proto::v1;
use ollamax_proto::v1::raft_admin_server::RaftAdmin;
use ollamax_proto::v1::raft_status_reply::State;
use ollamax_types::NodeId;

use super::daemon::AdminError;
use super::{Admin, Reply, reply};

/// The consensus of one node.
#[derive(Clone)]
pub(super) struct Consensus {
    admin: Admin,
}

/// Which versions of the cluster's commands are in use, and possible here.
#[derive(Debug, Clone, Copy)]
struct Versions {
    cluster: u32,
    release: u32,
}

// === impl Consensus ===

impl Consensus {
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin }
    }

    fn status(&self) -> Result<v1::RaftStatusReply, AdminError> {
        let metadata = self.admin.metadata()?;
        let view = metadata.view();
        let cluster = read::cluster(&*view)?.map_or(0, |cluster| cluster.version);
        let names = read::members(&*view)?.into_iter().map(|member| (member.id, member.name)).collect();
        Ok(shown(&metadata.status(), &names, Versions { cluster, release: metadata.release() }))
    }

    async fn transfer(&self, to: &str) -> Result<v1::TransferLeadershipReply, AdminError> {
        let metadata = self.admin.metadata()?;
        let to = if to.is_empty() { None } else { Some(self.admin.find(to)?.id) };
        let HandedOver { before, leader, took } = hand_over(&metadata, to).await?;
        Ok(v1::TransferLeadershipReply {
            leader: leader.0,
            leader_name: name_of(&metadata, leader),
            before: before.0,
            before_name: name_of(&metadata, before),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn snapshot(&self) -> Result<v1::TakeSnapshotReply, AdminError> {
        let metadata = self.admin.metadata()?;
        let taken = Box::pin(metadata.take_snapshot()).await.map_err(no_snapshot)?;
        Ok(v1::TakeSnapshotReply {
            node_id: metadata.node().0,
            node_name: name_of(&metadata, metadata.node()),
            index: taken.index,
            term: taken.term,
            already: taken.already,
            records: taken.records,
        })
    }
}

/// Has somebody else lead, whichever node this is.
pub(super) async fn hand_over(metadata: &metadata::Handle, to: Option<NodeId>) -> Result<HandedOver, AdminError> {
    let done = Box::pin(metadata.hand_over(to)).await;
    done.map_err(|error| {
        not_handed_over(error, |node| {
            let name = name_of(metadata, node);
            if name.is_empty() { format!("node {node}") } else { format!("node {node} ({name})") }
        })
    })
}

/// The name of a member; empty where it is not on record here.
fn name_of(metadata: &metadata::Handle, node: NodeId) -> String {
    let member = read::member(&*metadata.view(), node).ok().flatten();
    member.map(|member| member.name).unwrap_or_default()
}

fn not_handed_over(error: HandOverError, name: impl Fn(NodeId) -> String) -> AdminError {
    let code = error.code();
    let (what, why, next) = match error {
        HandOverError::Declined(declined) => {
            let (what, why, next) = kept(&declined, name);
            (what, why.to_owned(), next)
        }
        HandOverError::NoQuorum(reason) => (
            "no quorum: nobody leads who could give leadership away".to_owned(),
            reason,
            "ollamax status shows which members are missing; bring a majority of voters back",
        ),
        HandOverError::OutcomeUnknown(reason) => (
            "the leader was asked, but its answer did not come back".to_owned(),
            reason,
            "ollamax raft status shows who leads",
        ),
        HandOverError::Leader { node, message, .. } => {
            (format!("{} refused", name(node)), message, "on that node: ollamax raft transfer-leader")
        }
        HandOverError::Fatal(reason) => {
            ("consensus has stopped on this node".to_owned(), reason, "ollamax logs --level error")
        }
    };
    AdminError::new(code, what, why, next)
}

/// What happened, why, and what to do, when a leader kept leadership.
fn kept(declined: &Declined, name: impl Fn(NodeId) -> String) -> (String, &'static str, &'static str) {
    let answers = "leadership goes only to a voter that answers";
    match declined {
        Declined::LeadsAlready(node) => (format!("{} leads already", name(*node)), "", "ollamax raft status"),
        Declined::OnlyVoter(node) => (
            format!("{} is the only voter", name(*node)),
            "leadership can only go to another voter",
            "join another voter first: ollamax token create",
        ),
        Declined::NotVoter(node) => {
            (format!("{} does not vote", name(*node)), "only a voter can lead", "ollamax raft status shows who votes")
        }
        Declined::NotHeard(node) => (
            format!("{} was not heard within the leader's lease", name(*node)),
            answers,
            "start it, or name another voter: ollamax raft status",
        ),
        Declined::NobodyHeard => (
            "no other voter was heard within the leader's lease".to_owned(),
            answers,
            "start another voter: ollamax node list",
        ),
        Declined::Behind { node, entries } => (
            format!("{} lies {entries} entries behind", name(*node)),
            "nothing could be written until it had caught up",
            "wait until it has, or name another voter: ollamax raft status, on the leader",
        ),
        Declined::NotTaken(node) => (
            format!("{} was told to take over, and did not in time", name(*node)),
            "it still may, or another voter stands for election",
            "ollamax raft status shows who leads",
        ),
    }
}

fn no_snapshot(error: SnapshotError) -> AdminError {
    let code = error.code();
    let (what, why, next) = match error {
        SnapshotError::Empty => {
            let next = "wait until this node has the state of its cluster: ollamax wait --for caught-up";
            ("nothing was applied on this node yet", String::new(), next)
        }
        SnapshotError::Late => {
            let why = "the disk takes long, or is very busy".to_owned();
            ("the snapshot was not done in time, and may still come", why, "ollamax raft status shows the last one")
        }
        SnapshotError::Fatal(reason) => ("consensus has stopped on this node", reason, "ollamax logs --level error"),
    };
    AdminError::new(code, what, why, next)
}

fn shown(status: &metadata::Status, names: &BTreeMap<NodeId, String>, versions: Versions) -> v1::RaftStatusReply {
    let name = |node: NodeId| names.get(&node).cloned().unwrap_or_default();
    let member = |node: NodeId, voter: bool| {
        let following = status.followers.iter().find(|follower| follower.node == node);
        v1::RaftMember {
            id: node.0,
            name: name(node),
            voter,
            behind: following.map(|follower| follower.behind),
            silent_ms: following.and_then(|follower| follower.silent_ms),
        }
    };
    let voters = status.voters.iter().map(|node| member(*node, true));
    let mut members: Vec<_> = voters.chain(status.learners.iter().map(|node| member(*node, false))).collect();
    members.sort_unstable_by_key(|member| member.id);
    v1::RaftStatusReply {
        node_id: status.node.0,
        node_name: name(status.node),
        state: state(status.part).into(),
        term: status.term,
        leader: status.leader.unwrap_or_default().0,
        has_quorum: status.has_quorum,
        contact_ms: status.last_leader_contact_ms,
        last_log_index: status.last_log_index,
        committed_index: status.committed,
        applied_index: status.applied,
        log_first_index: status.log_first_index,
        snapshot_index: status.snapshot_index,
        members,
        voters_changing: status.voters_changing,
        fsync_p50_us: status.fsync_p50_us,
        fsync_p99_us: status.fsync_p99_us,
        fsyncs: status.fsyncs,
        cluster_version: versions.cluster,
        release: versions.release,
        state_hash: status.state_hash.to_vec(),
    }
}

const fn state(part: Part) -> State {
    match part {
        Part::Leader => State::Leader,
        Part::Candidate => State::Candidate,
        Part::Follower => State::Follower,
        Part::Learner => State::Learner,
        Part::Stopped => State::Stopped,
    }
}

#[tonic::async_trait]
impl RaftAdmin for Consensus {
    async fn get_raft_status(&self, _request: Request<v1::RaftStatusRequest>) -> Reply<v1::RaftStatusReply> {
        reply(self.status())
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Reply<v1::TransferLeadershipReply> {
        reply(self.transfer(&request.get_ref().to).await)
    }

    async fn take_snapshot(&self, _request: Request<v1::TakeSnapshotRequest>) -> Reply<v1::TakeSnapshotReply> {
        reply(self.snapshot().await)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_metadata::{Following, Status};
    use ollamax_types::ErrorCode;

    use super::*;

    fn named(node: NodeId) -> String {
        format!("node {node} (n{node})")
    }

    #[test]
    fn whoever_keeps_leadership_says_who_why_and_what_to_do() {
        let node = NodeId(3);
        let rows = [
            (Declined::LeadsAlready(node), ErrorCode::PreconditionFailed, "node 3 (n3) leads already"),
            (Declined::OnlyVoter(node), ErrorCode::PreconditionFailed, "node 3 (n3) is the only voter"),
            (Declined::NotVoter(node), ErrorCode::PreconditionFailed, "node 3 (n3) does not vote"),
            (
                Declined::NotHeard(node),
                ErrorCode::PreconditionFailed,
                "node 3 (n3) was not heard within the leader's lease",
            ),
            (
                Declined::NobodyHeard,
                ErrorCode::PreconditionFailed,
                "no other voter was heard within the leader's lease",
            ),
            (
                Declined::Behind { node, entries: 2_000 },
                ErrorCode::PreconditionFailed,
                "node 3 (n3) lies 2000 entries behind",
            ),
            (
                Declined::NotTaken(node),
                ErrorCode::OutcomeUnknown,
                "node 3 (n3) was told to take over, and did not in time",
            ),
        ];
        for (declined, code, what) in rows {
            let error = not_handed_over(declined.into(), named);
            assert_eq!((error.code, error.what.as_str()), (code, what));
            assert!(error.next.contains("ollamax "), "{error:?}");
        }
        let refused = HandOverError::Leader { node, code: ErrorCode::BadRequest, message: "unreadable".into() };
        let error = not_handed_over(refused, named);
        let expected = "on that node: ollamax raft transfer-leader";
        assert_eq!(error, AdminError::new(ErrorCode::BadRequest, "node 3 (n3) refused", "unreadable", expected));
        for error in [HandOverError::NoQuorum("x".into()), HandOverError::OutcomeUnknown("x".into())] {
            let code = error.code();
            let told = not_handed_over(error, named);
            assert_eq!((told.code, told.why.as_str()), (code, "x"), "{told:?}");
        }
    }

    #[test]
    fn every_member_is_shown_once_and_the_lag_only_where_it_is_known() {
        let status = Status {
            node: NodeId(1),
            term: 2,
            leader: Some(NodeId(1)),
            last_log_index: 41,
            committed: 40,
            applied: 40,
            log_first_index: 1,
            snapshot_index: 0,
            voters: vec![NodeId(1), NodeId(3)],
            voters_changing: false,
            learners: vec![NodeId(2)],
            has_quorum: true,
            last_leader_contact_ms: Some(12),
            state_hash: [7; 16],
            fsync_p50_us: 2_000,
            fsync_p99_us: 8_000,
            fsyncs: 130,
            part: Part::Leader,
            followers: vec![
                Following { node: NodeId(2), behind: 5, silent_ms: None },
                Following { node: NodeId(3), behind: 0, silent_ms: Some(90) },
            ],
        };
        let names = [(NodeId(1), "a".to_owned()), (NodeId(3), "c".to_owned())].into();
        let reply = shown(&status, &names, Versions { cluster: 2, release: 3 });
        let member = |id: u64, name: &str, voter: bool, behind: Option<u64>, silent_ms: Option<u64>| v1::RaftMember {
            id,
            name: name.to_owned(),
            voter,
            behind,
            silent_ms,
        };
        let expected = [
            member(1, "a", true, None, None),
            member(2, "", false, Some(5), None),
            member(3, "c", true, Some(0), Some(90)),
        ];
        assert_eq!(reply.members, expected);
        assert_eq!((reply.state(), reply.leader, reply.node_name.as_str()), (State::Leader, 1, "a"));
        assert_eq!((reply.cluster_version, reply.release, reply.contact_ms), (2, 3, Some(12)));
        let nobody =
            shown(&Status { leader: None, part: Part::Stopped, ..status }, &names, Versions { cluster: 0, release: 3 });
        assert_eq!((nobody.leader, nobody.state()), (0, State::Stopped));
    }
}
