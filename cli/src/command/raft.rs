//! `ollamax raft`: how consensus stands on this node, another leader, a snapshot, what the disk keeps.

use serde_json::{Value, json};

use ollamax_proto::v1::raft_status_reply::State;
use ollamax_proto::v1::{
    RaftMember, RaftStatusReply, RaftStatusRequest, TakeSnapshotReply, TakeSnapshotRequest, TransferLeadershipReply,
    TransferLeadershipRequest,
};

use super::offline;
use crate::args::{Global, Output, RaftCommand};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: RaftCommand) -> Result<(), Failure> {
    match command {
        RaftCommand::Status => status(global).await,
        RaftCommand::TransferLeader { node } => transfer(global, node.unwrap_or_default()).await,
        RaftCommand::Snapshot => snapshot(global).await,
        RaftCommand::Verify => offline::verify_dir(global).await,
    }
}

async fn status(global: &Global) -> Result<(), Failure> {
    let reply = client::connect_raft(global).await?.get_raft_status(RaftStatusRequest {}).await?.into_inner();
    if global.output == Output::Json {
        return output::json("RaftStatus", shown(&reply));
    }
    output::text(&page(&reply))
}

async fn transfer(global: &Global, to: String) -> Result<(), Failure> {
    let request = TransferLeadershipRequest { to: to.clone() };
    let done = client::connect_raft(global).await?.transfer_leadership(request).await?.into_inner();
    let TransferLeadershipReply { leader, leader_name, before, before_name, took_ms } = done;
    let took = text::span(took_ms);
    let (now, then) = (called(leader, &leader_name), called(before, &before_name));
    if !(to.is_empty() || to == leader_name || to == leader.to_string()) {
        let what = format!("{now} leads after {took}, not {to}");
        return Err(Failure::new(4, what, "it was faster", format!("ollamax raft transfer-leader {to}")));
    }
    if global.output == Output::Json {
        let fields = json!({
            "leader": {"id": leader, "name": leader_name},
            "before": {"id": before, "name": before_name},
            "tookMs": took_ms,
        });
        return output::json("RaftLeader", fields);
    }
    output::line(&format!("{now} leads after {took}; {then} led before."))
}

async fn snapshot(global: &Global) -> Result<(), Failure> {
    let taken = client::connect_raft(global).await?.take_snapshot(TakeSnapshotRequest {}).await?.into_inner();
    let TakeSnapshotReply { node_id, node_name, index, term, already, records } = taken;
    if global.output == Output::Json {
        let fields = json!({
            "node": {"id": node_id, "name": node_name},
            "index": index,
            "term": term,
            "already": already,
            "records": records,
        });
        return output::json("RaftSnapshot", fields);
    }
    let node = called(node_id, &node_name);
    let size = records.map_or_else(String::new, |count| {
        format!(", with {}", text::count(usize::try_from(count).unwrap_or(usize::MAX), "record"))
    });
    let how = if already { "has one already" } else { "has taken one" };
    output::line(&format!("{node} {how}: everything up to entry {index} of term {term}{size}."))
}

/// A node's name; its id where the name is not known.
fn called(id: u64, name: &str) -> String {
    if name.is_empty() { format!("node {id}") } else { name.to_owned() }
}

fn page(reply: &RaftStatusReply) -> String {
    let fsync = match reply.fsyncs {
        0 => "none since this node began".to_owned(),
        count => {
            let (median, slow) = (micros(reply.fsync_p50_us), micros(reply.fsync_p99_us));
            format!("half within {median}, 99 % within {slow}, {count} since this node began")
        }
    };
    let snapshot = match reply.snapshot_index {
        0 => "none since this node began".to_owned(),
        index => format!("up to {index}"),
    };
    let contact = reply.contact_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", text::span(ms)));
    let changing = if reply.voters_changing { "being changed" } else { "" };
    let rows = [
        ("state", state(reply).to_owned()),
        ("term", reply.term.to_string()),
        ("leader", leader(reply).unwrap_or_else(|| "not known".to_owned())),
        (if reply.state() == State::Leader { "majority heard" } else { "leader heard" }, contact),
        ("log", format!("{} to {}", reply.log_first_index, reply.last_log_index)),
        ("committed", reply.committed_index.to_string()),
        ("applied", reply.applied_index.to_string()),
        ("snapshot", snapshot),
        ("fsync", fsync),
        ("cluster version", format!("{}; this node applies up to {}", reply.cluster_version, reply.release)),
        ("state hash", format!("{} at {}", hex::encode(&reply.state_hash), reply.applied_index)),
        ("voters", changing.to_owned()),
    ];
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    let rows: String = rows.map(|(name, value)| format!("{name:<15}  {value}\n")).collect();
    format!("{}\n\n{rows}\n{}", sentence(reply), members(reply))
}

fn sentence(reply: &RaftStatusReply) -> String {
    let (own, term) = (called(reply.node_id, &reply.node_name), reply.term);
    match (reply.state(), leader(reply).filter(|_| reply.has_quorum)) {
        (State::Stopped, _) => format!("Consensus has stopped on {own}."),
        (State::Leader, Some(_)) => format!("{own} leads in term {term}."),
        (State::Leader, None) => format!("{own} leads in term {term} and does not hear a majority: changes wait."),
        (State::Candidate, _) => format!("{own} stands for election in term {term}."),
        (_, Some(leader)) => format!("{own} follows {leader} in term {term}."),
        (_, None) => format!("{own} hears no leader in term {term}: changes wait."),
    }
}

fn leader(reply: &RaftStatusReply) -> Option<String> {
    let name = |id: u64| reply.members.iter().find(|member| member.id == id).map_or("", |member| member.name.as_str());
    (reply.leader != 0).then(|| called(reply.leader, name(reply.leader)))
}

/// The members; on the leader also how far they are and when they answered.
fn members(reply: &RaftStatusReply) -> String {
    let part = |member: &RaftMember| match member {
        member if member.id == reply.leader => "leader",
        member if member.voter => "voter",
        _ => "learner",
    };
    let known = reply.state() == State::Leader;
    let rows = reply.members.iter().map(|member| {
        let row = [member.id.to_string(), member.name.clone(), part(member).to_owned()];
        let others = known && member.id != reply.node_id;
        let heard = member.silent_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", text::span(ms)));
        let far = others.then(|| [member.behind.unwrap_or_default().to_string(), heard]);
        row.into_iter().chain(far.into_iter().flatten()).collect()
    });
    let columns = ["ID", "NAME", "PART", "BEHIND", "ANSWERED"];
    output::table(&columns[..if known { 5 } else { 3 }], rows.collect())
}

/// Microseconds with a unit. What lies beyond the last bucket that is counted has no number.
fn micros(us: u64) -> String {
    match us {
        u64::MAX => "more than is measured".to_owned(),
        us if us < 1_000 => format!("{us} µs"),
        us if us < 1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        us => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

fn state(reply: &RaftStatusReply) -> &'static str {
    match reply.state() {
        State::Leader => "leader",
        State::Candidate => "candidate",
        State::Follower => "follower",
        State::Learner => "learner",
        State::Stopped => "stopped",
        State::Unspecified => "unknown",
    }
}

fn shown(reply: &RaftStatusReply) -> Value {
    let ids = |voter: bool| reply.members.iter().filter(move |member| member.voter == voter).map(|member| member.id);
    let members: Vec<Value> = reply
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.id,
                "name": member.name,
                "voter": member.voter,
                "behind": member.behind,
                "silentMs": member.silent_ms,
            })
        })
        .collect();
    let measured = |us: u64| (us != u64::MAX).then_some(us);
    json!({
        "node": {"id": reply.node_id, "name": reply.node_name},
        "state": state(reply),
        "term": reply.term,
        "leader": (reply.leader != 0).then_some(reply.leader),
        "hasQuorum": reply.has_quorum,
        "contactMs": reply.contact_ms,
        "lastLogIndex": reply.last_log_index,
        "committedIndex": reply.committed_index,
        "appliedIndex": reply.applied_index,
        "logFirstIndex": reply.log_first_index,
        "snapshotIndex": reply.snapshot_index,
        "voters": ids(true).collect::<Vec<_>>(),
        "learners": ids(false).collect::<Vec<_>>(),
        "votersChanging": reply.voters_changing,
        "members": members,
        "fsyncP50Us": measured(reply.fsync_p50_us),
        "fsyncP99Us": measured(reply.fsync_p99_us),
        "fsyncs": reply.fsyncs,
        "clusterVersion": reply.cluster_version,
        "release": reply.release,
        "stateHash": hex::encode(&reply.state_hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(state: State, leader: u64, has_quorum: bool) -> RaftStatusReply {
        let member =
            |id: u64, name: &str, voter: bool| RaftMember { id, name: name.to_owned(), voter, ..RaftMember::default() };
        RaftStatusReply {
            node_id: 1,
            node_name: "a".to_owned(),
            state: state.into(),
            term: 7,
            leader,
            has_quorum,
            members: vec![member(1, "a", true), member(2, "b", true), member(3, "", false)],
            ..RaftStatusReply::default()
        }
    }

    #[test]
    fn one_sentence_says_how_it_stands() {
        let check = |state: State, leader: u64, has_quorum: bool, expected: &str| {
            assert_eq!(sentence(&reply(state, leader, has_quorum)), expected);
        };
        check(State::Leader, 1, true, "a leads in term 7.");
        check(State::Leader, 1, false, "a leads in term 7 and does not hear a majority: changes wait.");
        check(State::Follower, 2, true, "a follows b in term 7.");
        check(State::Learner, 3, true, "a follows node 3 in term 7.");
        check(State::Follower, 2, false, "a hears no leader in term 7: changes wait.");
        check(State::Follower, 0, true, "a hears no leader in term 7: changes wait.");
        check(State::Candidate, 0, false, "a stands for election in term 7.");
        check(State::Stopped, 2, false, "Consensus has stopped on a.");
    }

    #[test]
    fn a_follower_does_not_say_how_far_the_others_are() {
        let table = members(&reply(State::Follower, 2, true));
        assert_eq!(table, "ID  NAME  PART\n1   a     voter\n2   b     leader\n3         learner\n");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let rows = [(0, "0 µs"), (999, "999 µs"), (2_040, "2.0 ms"), (1_500_000, "1.5 s")];
        for (us, expected) in rows {
            assert_eq!(micros(us), expected);
        }
        assert_eq!(micros(u64::MAX), "more than is measured");
    }
}
