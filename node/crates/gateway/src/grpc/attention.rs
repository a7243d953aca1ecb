//! What wants a decision: pure, from the picture that `status` gives.
//!
//! Each entry says what, why and the command to type next. A healthy cluster has none.

use ollamax_core::backup::Trouble;
use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::runtime::State as RuntimeState;
use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{Attention, NodeView, StatusReply};

use super::daemon::AdminError;

/// Clock difference between nodes that is worth a line, milliseconds.
const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// Free disk below which a node is mentioned, bytes.
const DISK_FREE_BYTES_MIN: u64 = 2 << 30;

/// Everything that wants a decision, most urgent first. `conflicting` names the models of which versions differ.
#[must_use]
pub fn needs_attention(status: &StatusReply, conflicting: &[String], api_open: bool) -> Vec<Attention> {
    let mut found = Vec::new();
    match status.phase() {
        Phase::Waiting => return vec![not_member()],
        Phase::Removed => return vec![removed()],
        _ => {}
    }
    consensus(status, &mut found);
    for node in status.nodes.iter().filter(|node| node.state() != State::Departed) {
        one_node(node, &mut found);
    }
    for name in conflicting {
        found.push(entry(
            "digest_conflict",
            format!("model {name} has different versions"),
            "the newest is served; the others are never mixed in".to_owned(),
            format!("ollamax model show {name}"),
        ));
    }
    if api_open {
        found.push(entry(
            "api_open",
            "the api listener serves everybody who can reach it".to_owned(),
            "api.allow_unauthenticated is true and callers have no keys in this release".to_owned(),
            "set api.listen to a loopback address, or keep the port behind a firewall".to_owned(),
        ));
    }
    found
}

fn consensus(status: &StatusReply, found: &mut Vec<Attention>) {
    let Some(raft) = &status.raft else { return };
    if !raft.has_quorum {
        found.push(entry(
            "no_quorum",
            "no majority of voters answers: nothing can be changed".to_owned(),
            "inference and listing go on from what each node knows".to_owned(),
            "start the missing voters: ollamax node list".to_owned(),
        ));
    }
    if raft.voters.len() == 2 {
        found.push(entry(
            "two_voters",
            "two nodes vote: one death stops changes, not inference".to_owned(),
            "a majority of two is two".to_owned(),
            "ollamax token create, then ollamax join on a third machine".to_owned(),
        ));
    }
}

fn one_node(node: &NodeView, found: &mut Vec<Attention>) {
    let name = &node.name;
    if matches!(node.health(), Health::Suspect | Health::Dead) {
        found.push(entry(
            "node_silent",
            format!("node {name} is silent"),
            format!("not heard for {} s", node.silent_ms / 1_000),
            format!("start ollamax-node on {name}; if it is gone for good: ollamax node remove {name}"),
        ));
        return;
    }
    if let Some(runtime) = node.runtime.as_ref().filter(|runtime| runtime.state() == RuntimeState::Down) {
        let next = format!("on {name}: ollamax doctor");
        found.push(entry("runtime_down", format!("the runtime of {name} is down"), runtime.reason.clone(), next));
    }
    if node.clock_skew_ms.unsigned_abs() > CLOCK_SKEW_MS_MAX {
        let what = format!("the clock of {name} is {} s off", node.clock_skew_ms / 1_000);
        let next = format!("on {name}: timedatectl set-ntp true");
        found.push(entry("clock_skew", what, "token expiry and log times suffer".to_owned(), next));
    }
    if let Some(free) = node.disk_free_bytes.filter(|free| *free < DISK_FREE_BYTES_MIN) {
        let what = format!("the disk of {name} is {}", if free == 0 { "full" } else { "nearly full" });
        let why = format!("{} MiB are free", free >> 20);
        found.push(entry("disk_low", what, why, format!("on {name}: free some space where its data directory lies")));
    }
}

/// What wants a decision about the schedule of backups.
#[must_use]
pub fn of_backups(trouble: Trouble) -> Attention {
    let hours = |ms: u64| ms / 3_600_000;
    match trouble {
        Trouble::NoRecipient => entry(
            "backup_no_key",
            "no backups are made: there is no key to seal them for".to_owned(),
            "whoever keeps no backup loses the state when too many machines are lost".to_owned(),
            "ollamax backup new-key; or switch the schedule off on every node: backup.every_hours = 0".to_owned(),
        ),
        Trouble::Late { age_ms, any } => {
            let what = match any {
                true => format!("the last scheduled backup is {} h old", hours(age_ms)),
                false => format!("no scheduled backup was made in the {} h of this cluster", hours(age_ms)),
            };
            let why = "that is more than twice backup.every_hours".to_owned();
            let next = "on the leader: ollamax logs --level warn; then ollamax backup create".to_owned();
            entry("backup_late", what, why, next)
        }
    }
}

fn not_member() -> Attention {
    entry(
        "not_initialised",
        "this node belongs to no cluster yet".to_owned(),
        "it waits for an administrator".to_owned(),
        "ollamax init (first node) or ollamax join TOKEN (others)".to_owned(),
    )
}

fn removed() -> Attention {
    let AdminError { what, why, next, .. } = AdminError::removed();
    entry("removed", what, why, next)
}

fn entry(id: &str, what: String, why: String, next: String) -> Attention {
    Attention { id: id.to_owned(), what, why, next }
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::{RaftView, Runtime};

    use super::*;

    fn healthy() -> StatusReply {
        let node = |id: u64| NodeView { id, name: format!("n{id}"), ..NodeView::default() };
        let raft = RaftView { has_quorum: true, voters: vec![1, 2, 3], ..RaftView::default() };
        let mut status = StatusReply { raft: Some(raft), nodes: (1..=3).map(node).collect(), ..StatusReply::default() };
        status.set_phase(Phase::Member);
        status
    }

    fn ids(status: &StatusReply, conflicting: &[String]) -> Vec<String> {
        needs_attention(status, conflicting, false).into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn a_healthy_cluster_wants_nothing() {
        assert_eq!(ids(&healthy(), &[]), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_is_named_with_a_next_step() {
        let check = |expected: &str, change: &dyn Fn(&mut StatusReply)| {
            let mut status = healthy();
            change(&mut status);
            let found = needs_attention(&status, &[], false);
            assert_eq!(found.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), [expected]);
            assert!(found.iter().all(|entry| !entry.next.is_empty() && !entry.why.is_empty()), "{found:?}");
        };
        check("not_initialised", &|status| status.set_phase(Phase::Waiting));
        check("removed", &|status| status.set_phase(Phase::Removed));
        check("no_quorum", &|status| status.raft.as_mut().expect("there").has_quorum = false);
        check("two_voters", &|status| status.raft.as_mut().expect("there").voters = vec![1, 2]);
        check("node_silent", &|status| status.nodes[1].set_health(Health::Dead));
        check("clock_skew", &|status| status.nodes[1].clock_skew_ms = -3_600_000);
        check("disk_low", &|status| status.nodes[2].disk_free_bytes = Some(1 << 20));
        check("disk_low", &|status| status.nodes[2].disk_free_bytes = Some(0));
        check("runtime_down", &|status| {
            let mut runtime = Runtime { reason: "connection refused".to_owned(), ..Runtime::default() };
            runtime.set_state(RuntimeState::Down);
            status.nodes[0].runtime = Some(runtime);
        });
    }

    #[test]
    fn an_api_that_is_open_to_the_network_is_told_last_and_only_by_members() {
        let check = |status: &StatusReply, expected: &[&str]| {
            let found = needs_attention(status, &["m:latest".to_owned()], true);
            assert_eq!(found.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|entry| !entry.next.is_empty() && !entry.why.is_empty()), "{found:?}");
        };
        check(&healthy(), &["digest_conflict", "api_open"]);
        let mut waiting = healthy();
        waiting.set_phase(Phase::Waiting);
        check(&waiting, &["not_initialised"]);
        let told = needs_attention(&healthy(), &[], true);
        assert!(told[0].why.contains("api.allow_unauthenticated"), "{told:?}");
        assert!(told[0].next.contains("api.listen"), "{told:?}");
    }

    #[test]
    fn trouble_with_backups_is_named_with_a_next_step() {
        let rows = [
            (Trouble::NoRecipient, "backup_no_key", "no backups are made"),
            (Trouble::Late { age_ms: 50 * 3_600_000, any: true }, "backup_late", "is 50 h old"),
            (Trouble::Late { age_ms: 50 * 3_600_000, any: false }, "backup_late", "in the 50 h of this cluster"),
        ];
        for (trouble, id, what) in rows {
            let entry = of_backups(trouble);
            assert!(entry.id == id && entry.what.contains(what), "{entry:?}");
            assert!(!entry.why.is_empty() && entry.next.contains("ollamax backup"), "{entry:?}");
        }
    }

    #[test]
    fn versions_that_differ_are_shown_and_departed_nodes_are_not() {
        assert_eq!(ids(&healthy(), &["m:latest".to_owned()]), ["digest_conflict"]);
        let mut status = healthy();
        status.nodes[1].set_health(Health::Dead);
        status.nodes[1].set_state(State::Departed);
        assert!(ids(&status, &[]).is_empty());
    }
}
