//! What wants a decision: pure, from the picture that `status` gives.
//!
//! Each entry says what, why and the command to type next. A healthy cluster has none.

use std::collections::BTreeMap;

use ollamax_core::backup::Trouble;
use ollamax_core::catalog::{Fill, Usage};
use ollamax_metadata as metadata;
use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::runtime::State as RuntimeState;
use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{Attention, NodeView, StatusReply};
use ollamax_transfer::ClosedClass;

use super::daemon::AdminError;

mod consensus;
mod copies;

pub(super) use copies::NO_OTHER_WHY;
pub use copies::{Copies, Ended, Failed, Few, Lasting, LeftOut};

/// Clock difference between nodes that is worth a line, milliseconds.
const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// Free disk below which a node is mentioned, bytes.
const DISK_FREE_BYTES_MIN: u64 = 2 << 30;

/// What is known beside the picture.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Models with too few copies, or too few nodes for them.
    pub copies: Copies<'a>,
    /// Names of the models of which versions differ.
    pub conflicting: &'a [String],
    /// What the values under each prefix take, and may take.
    pub quotas: &'a [(&'static str, Usage)],
    /// The ballast of this node, if it was released.
    pub ballast: Option<metadata::ReleasedBallast>,
    /// What is wrong with the schedule of backups.
    pub backups: Option<Trouble>,
    /// The transfers of this node that a limit keeps back altogether just now.
    pub closed: &'a [ClosedClass],
    /// Whether `api` serves everybody who can reach it.
    pub api_open: bool,
}

/// Everything that wants a decision, most urgent first.
#[must_use]
pub fn needs_attention(status: &StatusReply, beside: &Beside<'_>) -> Vec<Attention> {
    let mut found = Vec::new();
    match status.phase() {
        Phase::Waiting => return vec![not_member()],
        Phase::Removed => return vec![removed()],
        _ => {}
    }
    states(status, &mut found);
    consensus::told(status, &mut found);
    for node in status.nodes.iter().filter(|node| node.state() != State::Departed) {
        one_node(node, &mut found);
    }
    peers(status, &mut found);
    if let Some(ballast) = beside.ballast {
        found.push(ballast_released(&status.node_name, ballast));
    }
    found.extend(beside.quotas.iter().filter_map(|(prefix, usage)| quota(prefix, usage)));
    for name in beside.conflicting {
        found.push(entry(
            "digest_conflict",
            format!("model {name} has different versions"),
            "the newest is served; the others are never mixed in".to_owned(),
            format!("ollamax model show {name}"),
        ));
    }
    copies::missing(status, beside.copies, &mut found);
    found.extend(beside.backups.map(of_backups));
    found.extend(beside.closed.iter().map(|class| transfers_off(&status.node_name, class)));
    if beside.api_open {
        found.push(entry(
            "api_open",
            "the api listener serves everybody who can reach it".to_owned(),
            "api.allow_unauthenticated is true and callers have no keys in this release".to_owned(),
            "set api.listen to a loopback address, or keep the port behind a firewall".to_owned(),
        ));
    }
    found
}

/// A limit that somebody configured. It is told, since it looks like a fault to whoever did not.
fn transfers_off(node: &str, class: &ClosedClass) -> Attention {
    let until = class.until_minute.map(|minute| format!(" until {:02}:{:02}", minute / 60, minute % 60));
    let what = format!("{} are off{} on {node}", class.what, until.unwrap_or_default());
    let why = format!("{} says so; what waits goes on then", class.key);
    entry("transfers_off", what, why, format!("on {node}: wait, or change {} and restart the daemon", class.key))
}

/// Records that are not what the cluster agreed on.
fn states(status: &StatusReply, found: &mut Vec<Attention>) {
    let Some(raft) = &status.raft else { return };
    for id in &raft.deviating {
        let name =
            status.nodes.iter().find(|node| node.id == *id).map_or_else(|| id.to_string(), |node| node.name.clone());
        found.push(entry(
            "state_deviates",
            format!("the state of node {name} differs from that of the majority"),
            format!("compared at index {}; it neither votes nor leads, its models are served", raft.compared_index),
            format!(
                "on {name}: stop the daemon, ollamax raft verify; here: ollamax node remove {name}; then join it again \
                 with an empty data directory"
            ),
        ));
    }
    if raft.states_undecided {
        found.push(entry(
            "states_undecided",
            "the states of the voters differ, and none has a majority".to_owned(),
            format!("compared at index {}; nobody can say whose is wrong, so nothing was done", raft.compared_index),
            "on each voter in turn: stop the daemon, ollamax raft verify, start it; remove the damaged one".to_owned(),
        ));
    }
}

fn one_node(node: &NodeView, found: &mut Vec<Attention>) {
    let name = &node.name;
    if matches!(node.health(), Health::Suspect | Health::Dead) {
        found.push(silent(node));
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
    if let Some(place) = &node.no_store_at {
        let what = format!("node {name} has no model store at {place}");
        let why = "it is the last to get a model, and what it is to have waits for the store".to_owned();
        let next = format!("on {name}: ollamax doctor; OLLAMA_MODELS in /etc/ollamax/node.env names a store elsewhere");
        found.push(entry("no_model_store", what, why, next));
    }
    if node.suspect_files > 0 {
        let (files, them) = if node.suspect_files == 1 { ("file", "it is") } else { ("files", "they are") };
        let what = format!("node {name} has {} damaged {files}", node.suspect_files);
        let why = format!("what its disk gives back is not what was put there; {them} not given to other nodes");
        found.push(entry("damaged_files", what, why, format!("on {name}: ollamax model verify")));
    }
}

/// Nodes that others ask for no files, since they sent damaged pieces. What a silent node said of others is old.
fn peers(status: &StatusReply, found: &mut Vec<Attention>) {
    let members = || status.nodes.iter().filter(|node| node.state() != State::Departed);
    let heard = members().filter(|node| !matches!(node.health(), Health::Suspect | Health::Dead));
    let mut askers: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for node in heard {
        for shut in &node.quarantined {
            askers.entry(shut.node).or_default().push(&node.name);
        }
    }
    for node in members() {
        let Some(askers) = askers.get(&node.id) else { continue };
        let (name, verb) = (&node.name, if askers.len() == 1 { "asks" } else { "ask" });
        found.push(entry(
            "peer_quarantined",
            format!("{} {verb} {name} for no files", listed(askers)),
            "it sent damaged pieces; its memory or disk may fail".to_owned(),
            format!("on {name}: ollamax model verify"),
        ));
    }
}

/// Names as they are said.
fn listed(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn ballast_released(name: &str, ballast: metadata::ReleasedBallast) -> Attention {
    let metadata::ReleasedBallast { bytes, released_below_bytes, made_from_bytes } = ballast;
    entry(
        "ballast_released",
        format!("the ballast of {name} is released: {} MiB of its disk were given back", bytes >> 20),
        format!(
            "less than {} MiB were free; it is made again when {} MiB are",
            released_below_bytes >> 20,
            made_from_bytes >> 20
        ),
        format!("on {name}: free some space where its data directory lies"),
    )
}

fn quota(prefix: &str, usage: &Usage) -> Option<Attention> {
    let (id, word, why) = match usage.fill() {
        Fill::Roomy => return None,
        Fill::Nearly => ("quota_low", "nearly full", "at its end nothing under it can grow any more"),
        Fill::Full => ("quota_full", "full", "values can be read, made smaller and deleted; nothing can grow"),
    };
    let (used, most) = (usage.bytes, usage.bytes_max);
    let what = format!("the quota of {prefix} is {word}: {used} of {most} bytes");
    let next = "ollamax kv delete KEY (ollamax kv list shows them), or raise it: ollamax kv quota --set BYTES";
    Some(entry(id, what, why.to_owned(), next.to_owned()))
}

/// A member that is not heard, what that has cost it already, and what it will.
fn silent(node: &NodeView) -> Attention {
    let name = &node.name;
    let mut why = match node.never_heard {
        true => format!("it was not heard since this node started, or it joined, {} ago", span(node.silent_ms)),
        false => format!("not heard for {}", span(node.silent_ms)),
    };
    if node.role == "voter" && !node.voter {
        why += "; it does not vote";
    }
    let mut next = format!("start ollamax-node on {name}; if it is gone for good: ollamax node remove {name}");
    if let Some(left) = node.removed_in_ms {
        why += &format!("; it will be removed in {}", span(left));
        next += "; to keep silent members: ollamax autopilot set cleanup_dead false";
    }
    entry("node_silent", format!("node {name} is silent"), why, next)
}

/// A span of milliseconds in a unit that suits it.
fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What wants a decision about the schedule of backups.
fn of_backups(trouble: Trouble) -> Attention {
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
    use ollamax_proto::v1::{Quarantine, RaftView, Runtime};

    use super::*;

    fn healthy() -> StatusReply {
        let node = |id: u64| NodeView { id, name: format!("n{id}"), ..NodeView::default() };
        let raft = RaftView { has_quorum: true, voters: vec![1, 2, 3], ..RaftView::default() };
        let mut status = StatusReply { raft: Some(raft), nodes: (1..=3).map(node).collect(), ..StatusReply::default() };
        status.set_phase(Phase::Member);
        status
    }

    fn shut(node: u64) -> Quarantine {
        Quarantine { node, until_ms: 1, strikes: 3 }
    }

    fn ids(status: &StatusReply, conflicting: &[String]) -> Vec<String> {
        let beside = Beside { conflicting, ..Beside::default() };
        needs_attention(status, &beside).into_iter().map(|entry| entry.id).collect()
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
            let found = needs_attention(&status, &Beside::default());
            assert_eq!(found.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), [expected]);
            assert!(found.iter().all(|entry| !entry.next.is_empty() && !entry.why.is_empty()), "{found:?}");
        };
        check("not_initialised", &|status| status.set_phase(Phase::Waiting));
        check("removed", &|status| status.set_phase(Phase::Removed));
        check("no_quorum", &|status| status.raft.as_mut().expect("there").has_quorum = false);
        check("state_deviates", &|status| status.raft.as_mut().expect("there").deviating = vec![2]);
        check("states_undecided", &|status| status.raft.as_mut().expect("there").states_undecided = true);
        check("two_voters", &|status| status.raft.as_mut().expect("there").voters = vec![1, 2]);
        check("node_silent", &|status| status.nodes[1].set_health(Health::Dead));
        check("clock_skew", &|status| status.nodes[1].clock_skew_ms = -3_600_000);
        check("disk_low", &|status| status.nodes[2].disk_free_bytes = Some(1 << 20));
        check("disk_low", &|status| status.nodes[2].disk_free_bytes = Some(0));
        check("damaged_files", &|status| status.nodes[1].suspect_files = 1);
        check("no_model_store", &|status| status.nodes[1].no_store_at = Some("/models".to_owned()));
        check("peer_quarantined", &|status| status.nodes[0].quarantined = vec![shut(2)]);
        check("runtime_down", &|status| {
            let mut runtime = Runtime { reason: "connection refused".to_owned(), ..Runtime::default() };
            runtime.set_state(RuntimeState::Down);
            status.nodes[0].runtime = Some(runtime);
        });
    }

    #[test]
    fn a_silent_member_is_told_what_becomes_of_it() {
        let check = |silent_s: u64, voter: bool, removed_in_s: Option<u64>, expected: &str| {
            let mut status = healthy();
            let node = &mut status.nodes[2];
            node.set_health(Health::Dead);
            (node.role, node.voter, node.silent_ms) = ("voter".to_owned(), voter, silent_s * 1_000);
            node.removed_in_ms = removed_in_s.map(|seconds| seconds * 1_000);
            let found = needs_attention(&status, &Beside::default());
            assert_eq!((found.len(), found[0].why.as_str()), (1, expected));
            assert!(found[0].next.contains("ollamax node remove n3"), "{found:?}");
            assert_eq!(found[0].next.contains("cleanup_dead"), removed_in_s.is_some(), "{found:?}");
        };
        check(30, true, None, "not heard for 30 s");
        check(720, false, Some(85_680), "not heard for 12 min; it does not vote; it will be removed in 23 h");
        check(300_000, false, None, "not heard for 3 days; it does not vote");
        check(10_000, true, Some(0), "not heard for 2 h; it will be removed in 0 s");
        let mut status = healthy();
        status.nodes[2].set_health(Health::Dead);
        (status.nodes[2].silent_ms, status.nodes[2].never_heard) = (120_000, true);
        let found = needs_attention(&status, &Beside::default());
        assert_eq!((found.len(), found[0].id.as_str()), (1, "node_silent"));
        assert_eq!(found[0].why, "it was not heard since this node started, or it joined, 2 min ago");
    }

    #[test]
    fn damaged_files_are_counted_and_who_asks_a_node_for_nothing_is_named() {
        let check = |change: &dyn Fn(&mut StatusReply), expected: &[&str]| {
            let mut status = healthy();
            change(&mut status);
            let found = needs_attention(&status, &Beside::default());
            assert_eq!(found.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|entry| entry.next.contains("ollamax model verify")), "{found:?}");
        };
        check(&|status| status.nodes[1].suspect_files = 1, &["node n2 has 1 damaged file"]);
        check(&|status| status.nodes[1].suspect_files = 7, &["node n2 has 7 damaged files"]);
        check(&|status| status.nodes[0].quarantined = vec![shut(2)], &["n1 asks n2 for no files"]);
        let both = |status: &mut StatusReply| {
            status.nodes[0].quarantined = vec![shut(2), shut(3)];
            status.nodes[2].quarantined = vec![shut(2)];
        };
        check(&both, &["n1 and n3 ask n2 for no files", "n1 asks n3 for no files"]);
        check(&|status| status.nodes[0].quarantined = vec![shut(9)], &[]);
        assert_eq!(listed(&["n1", "n2", "n3"]), "n1, n2 and n3");
    }

    #[test]
    fn what_a_silent_node_said_of_others_is_not_told() {
        let mut status = healthy();
        status.nodes[0].quarantined = vec![shut(2)];
        status.nodes[0].set_health(Health::Dead);
        assert_eq!(ids(&status, &[]), ["node_silent"]);
    }

    #[test]
    fn a_node_whose_state_differs_is_called_by_its_name_and_comes_first() {
        let mut status = healthy();
        let raft = status.raft.as_mut().expect("there");
        (raft.deviating, raft.compared_index, raft.has_quorum) = (vec![2, 9], 2_048, false);
        let found = needs_attention(&status, &Beside::default());
        let ids: Vec<&str> = found.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["state_deviates", "state_deviates", "no_quorum"]);
        assert!(found[0].what.contains("node n2 ") && found[0].why.contains("2048"), "{found:?}");
        assert!(found[0].next.contains("ollamax node remove n2"), "{found:?}");
        assert!(found[1].what.contains("node 9 "), "one that is not on record: {found:?}");
    }

    #[test]
    fn an_api_that_is_open_to_the_network_is_told_last_and_only_by_members() {
        let check = |status: &StatusReply, expected: &[&str]| {
            let conflicting = ["m:latest".to_owned()];
            let found =
                needs_attention(status, &Beside { conflicting: &conflicting, api_open: true, ..Beside::default() });
            assert_eq!(found.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|entry| !entry.next.is_empty() && !entry.why.is_empty()), "{found:?}");
        };
        check(&healthy(), &["digest_conflict", "api_open"]);
        let mut waiting = healthy();
        waiting.set_phase(Phase::Waiting);
        check(&waiting, &["not_initialised"]);
        let told = needs_attention(&healthy(), &Beside { api_open: true, ..Beside::default() });
        assert!(told[0].why.contains("api.allow_unauthenticated"), "{told:?}");
        assert!(told[0].next.contains("api.listen"), "{told:?}");
    }

    #[test]
    fn a_quota_is_told_with_its_numbers_from_four_fifths_on() {
        let check = |bytes: u64, expected: Option<(&str, &str)>| {
            let quotas = [("user/", Usage { keys: 1, bytes, bytes_max: 1_000 })];
            let found = needs_attention(&healthy(), &Beside { quotas: &quotas, ..Beside::default() });
            let told = found.first().map(|entry| (entry.id.as_str(), entry.what.as_str()));
            assert_eq!((told, found.len()), (expected, usize::from(expected.is_some())));
            assert!(found.iter().all(|entry| entry.next.contains("ollamax kv quota --set")), "{found:?}");
        };
        check(799, None);
        check(800, Some(("quota_low", "the quota of user/ is nearly full: 800 of 1000 bytes")));
        check(1_000, Some(("quota_full", "the quota of user/ is full: 1000 of 1000 bytes")));
    }

    #[test]
    fn a_class_of_transfers_that_is_off_is_told_with_its_end() {
        let closed =
            |until_minute| [ClosedClass { key: "transfer.limit_send", what: "transfers to nodes", until_minute }];
        let status = StatusReply { node_name: "n2".to_owned(), ..healthy() };
        let check = |until_minute: Option<u16>, expected: &str| {
            let found = needs_attention(&status, &Beside { closed: &closed(until_minute), ..Beside::default() });
            assert_eq!((found.len(), found[0].id.as_str(), found[0].what.as_str()), (1, "transfers_off", expected));
            assert!(found[0].next.contains("transfer.limit_send"), "{found:?}");
        };
        check(Some(18 * 60), "transfers to nodes are off until 18:00 on n2");
        check(None, "transfers to nodes are off on n2");
    }

    #[test]
    fn a_released_ballast_is_told_with_what_makes_it_again() {
        let (bytes, released_below_bytes, made_from_bytes) = (256 << 20, 2 << 30, 3 << 30);
        let ballast = Some(metadata::ReleasedBallast { bytes, released_below_bytes, made_from_bytes });
        let status = StatusReply { node_name: "n1".to_owned(), ..healthy() };
        let found = needs_attention(&status, &Beside { ballast, ..Beside::default() });
        assert_eq!(found.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["ballast_released"]);
        assert!(found[0].what.contains("n1") && found[0].what.contains("256 MiB"), "{found:?}");
        assert!(found[0].why.contains("2048 MiB") && found[0].why.contains("3072 MiB"), "{found:?}");
    }

    #[test]
    fn trouble_with_backups_is_named_with_a_next_step_before_the_open_api() {
        let rows = [
            (Trouble::NoRecipient, "backup_no_key", "no backups are made"),
            (Trouble::Late { age_ms: 50 * 3_600_000, any: true }, "backup_late", "is 50 h old"),
            (Trouble::Late { age_ms: 50 * 3_600_000, any: false }, "backup_late", "in the 50 h of this cluster"),
        ];
        for (trouble, id, what) in rows {
            let beside = Beside { backups: Some(trouble), api_open: true, ..Beside::default() };
            let found = needs_attention(&healthy(), &beside);
            let told: Vec<&str> = found.iter().map(|entry| entry.id.as_str()).collect();
            assert_eq!(told, [id, "api_open"]);
            assert!(found[0].what.contains(what) && found[0].next.contains("ollamax backup"), "{found:?}");
            assert!(!found[0].why.is_empty(), "{found:?}");
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
