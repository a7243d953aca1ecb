//! Whether the members can be restarted one after another with another release: a verdict on each thing that matters.
//!
//! Pure, from the picture that `status` gives and what is known beside it, so every node can be asked; what a leader
//! knows better is told as this node sees it. A warning is for the administrator to weigh. A failure would cost the
//! cluster its changes, or an upgrade would hide it: it is mended first. Nothing is changed here.

use ollamax_core::catalog::read;
use ollamax_proto::v1;
use ollamax_proto::v1::check::Outcome;
use ollamax_proto::v1::migration::Status as Standing;
use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::{Check, NodeView, RaftView, StatusReply};

use super::daemon::AdminError;
use super::{Admin, migrations};

/// Entries that a member may lie behind without a word.
const BEHIND_ENTRIES_MAX: u64 = 1_000;
/// Free disk below which a member is worth a word, bytes.
const DISK_WARN_BYTES: u64 = 2 << 30;
/// Free disk below which it may not start again, bytes.
const DISK_FAIL_BYTES: u64 = 512 << 20;

/// What is known beside the picture.
#[derive(Debug, Clone, Default)]
struct Beside {
    voters_changing: bool,
    cluster_version: u32,
    migrations: Vec<v1::Migration>,
}

impl Admin {
    pub(super) fn upgrade_check(&self) -> Result<v1::CheckUpgradeReply, AdminError> {
        let metadata = self.metadata()?;
        let status = self.status_reply()?;
        let view = metadata.view();
        let beside = Beside {
            voters_changing: metadata.status().voters_changing,
            cluster_version: migrations::version(&*view)?,
            migrations: migrations::shown(&read::migrations(&*view)?),
        };
        Ok(v1::CheckUpgradeReply { checks: checks(&status, &beside), view: status.view })
    }
}

/// All of them, in the order in which they are mended.
fn checks(status: &StatusReply, beside: &Beside) -> Vec<Check> {
    let raft = status.raft.clone().unwrap_or_default();
    let members: Vec<&NodeView> = status.nodes.iter().filter(|node| node.state() != State::Departed).collect();
    vec![
        quorum(&raft, &members),
        tolerance(&raft),
        silent(&members),
        caught_up(&raft, &members),
        voters(beside),
        states(&raft, &members),
        disks(&members),
        releases(&members),
        way_back(&members, beside.cluster_version),
        ledger(beside),
        snapshot(&raft, status.snapshot_index),
    ]
}

fn quorum(raft: &RaftView, members: &[&NodeView]) -> Check {
    let leader = members.iter().find(|node| node.id == raft.leader).map_or("nobody", |node| node.name.as_str());
    if raft.has_quorum {
        return told("quorum", Outcome::Ok, format!("a majority of the voters answers; {leader} leads"), "");
    }
    let next = "bring a majority of the voters back first: ollamax status";
    told("quorum", Outcome::Fail, "no majority of the voters answers: nothing can be changed".to_owned(), next)
}

fn tolerance(raft: &RaftView) -> Check {
    let (voters, spare) = (raft.voters.len(), raft.failure_tolerance);
    match (spare, voters) {
        (0, 0..=2) => {
            let found = format!("none of {voters} voters can be spared: changes wait while one restarts");
            told("tolerance", Outcome::Warn, found, "go on if changes may wait; three voters can spare one")
        }
        (0, _) => {
            let found = format!("none of {voters} voters can be spared now: changes would stop");
            told("tolerance", Outcome::Fail, found, "bring the missing voters back first: ollamax node list")
        }
        _ => told("tolerance", Outcome::Ok, format!("{spare} of {voters} voters can be spared at a time"), ""),
    }
}

fn is_heard(node: &NodeView) -> bool {
    node.health() == Health::Alive
}

fn silent(members: &[&NodeView]) -> Check {
    let missing: Vec<&&NodeView> = members.iter().filter(|node| !is_heard(node)).collect();
    if missing.is_empty() {
        return told("members", Outcome::Ok, format!("all {} members answer", members.len()), "");
    }
    let outcome = if missing.iter().any(|node| node.voter) { Outcome::Fail } else { Outcome::Warn };
    let found = format!("not heard: {}", names(missing.into_iter().copied()));
    told("members", outcome, found, "start them, or remove those that are gone for good: ollamax node remove NODE")
}

fn caught_up(raft: &RaftView, members: &[&NodeView]) -> Check {
    let limit = raft.committed_index.saturating_sub(BEHIND_ENTRIES_MAX);
    let late = names(members.iter().copied().filter(|node| is_heard(node) && node.applied_index < limit));
    if late.is_empty() {
        let found = format!("nobody lies more than {BEHIND_ENTRIES_MAX} entries behind");
        return told("caught_up", Outcome::Ok, found, "");
    }
    let found = format!("more than {BEHIND_ENTRIES_MAX} entries behind: {late}");
    told("caught_up", Outcome::Warn, found, "wait, on each of them: ollamax wait --for caught-up")
}

fn voters(beside: &Beside) -> Check {
    if beside.voters_changing {
        let next = "wait until it has ended: ollamax raft status";
        return told("voters", Outcome::Fail, "a change of the voters is under way".to_owned(), next);
    }
    told("voters", Outcome::Ok, "no change of the voters is under way".to_owned(), "")
}

fn states(raft: &RaftView, members: &[&NodeView]) -> Check {
    let next = "mend that first: ollamax status says how";
    if !raft.deviating.is_empty() {
        let name = |id: &u64| {
            members.iter().find(|node| node.id == *id).map_or_else(|| id.to_string(), |node| node.name.clone())
        };
        let found = format!("another state than the majority: {}", listed(raft.deviating.iter().map(name)));
        return told("states", Outcome::Fail, found, next);
    }
    if raft.states_undecided {
        let found = "the states of the voters differ, and none has a majority".to_owned();
        return told("states", Outcome::Fail, found, next);
    }
    let found = match raft.compared_index {
        0 => "no state differs; none was compared yet".to_owned(),
        index => format!("no state differs, compared at entry {index}"),
    };
    told("states", Outcome::Ok, found, "")
}

fn disks(members: &[&NodeView]) -> Check {
    let free = |node: &&NodeView| node.disk_free_bytes.unwrap_or_default();
    let heard: Vec<&NodeView> = members.iter().copied().filter(|node| is_heard(node)).collect();
    let below =
        |bytes: u64| names(heard.iter().copied().filter(|node| node.disk_free_bytes.is_some() && free(node) < bytes));
    let next = "free some space where their data directories lie";
    let (full, low) = (below(DISK_FAIL_BYTES), below(DISK_WARN_BYTES));
    if !full.is_empty() {
        return told("disks", Outcome::Fail, format!("less than {} MiB free: {full}", DISK_FAIL_BYTES >> 20), next);
    }
    if !low.is_empty() {
        return told("disks", Outcome::Warn, format!("less than {} MiB free: {low}", DISK_WARN_BYTES >> 20), next);
    }
    let unknown = names(heard.iter().copied().filter(|node| node.disk_free_bytes.is_none()));
    if !unknown.is_empty() {
        let found = format!("how much is free is not known of {unknown}");
        return told("disks", Outcome::Warn, found, "look there: ollamax doctor");
    }
    let least = heard.iter().map(free).min().unwrap_or_default();
    told("disks", Outcome::Ok, format!("at least {} MiB are free everywhere", least >> 20), "")
}

fn releases(members: &[&NodeView]) -> Check {
    let mut known: Vec<&str> = members.iter().map(|node| node.daemon_version.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let each = |node: &&NodeView| match node.daemon_version.as_str() {
        "" => format!("{} not known", node.name),
        release => format!("{} {release}", node.name),
    };
    match known[..] {
        [release] if !release.is_empty() => told("releases", Outcome::Ok, format!("every member runs {release}"), ""),
        _ => {
            let found = format!("members run different releases: {}", listed(members.iter().map(each)));
            told(
                "releases",
                Outcome::Warn,
                found,
                "finish that upgrade first, or go back with those that were upgraded",
            )
        }
    }
}

/// What holds the cluster version where it is.
fn way_back(members: &[&NodeView], version: u32) -> Check {
    let unknown = names(members.iter().copied().filter(|node| node.applies_up_to == 0));
    if !unknown.is_empty() {
        let found = format!("the cluster runs version {version}; what these apply is not known: {unknown}");
        return told("way_back", Outcome::Warn, found, "start them, or upgrade them to this release first");
    }
    if members.iter().all(|node| node.applies_up_to > version) {
        let found = format!("every member applies more than version {version}, which the cluster runs: it goes up now");
        return told("way_back", Outcome::Warn, found, "wait a moment and ask again");
    }
    let holding = names(members.iter().copied().filter(|node| node.applies_up_to < node.applies_known));
    if holding.is_empty() {
        let found =
            format!("the cluster runs version {version}; it goes up when the last member applies more, and not back");
        let next = format!("to keep the way back open, first on every member: raft.version_max = {version}");
        return told("way_back", Outcome::Ok, found, &next);
    }
    let found = format!("the cluster runs version {version}, and raft.version_max holds it there on {holding}");
    told(
        "way_back",
        Outcome::Ok,
        found,
        "once the new release has proved itself, take raft.version_max away everywhere",
    )
}

fn ledger(beside: &Beside) -> Check {
    let of = |wanted: &dyn Fn(&v1::Migration) -> bool| {
        listed(beside.migrations.iter().filter(|one| wanted(one)).map(|one| format!("{:03} {}", one.number, one.name)))
    };
    let failed = of(&|one| one.status() == Standing::Failed);
    if !failed.is_empty() {
        let next = "see why: ollamax migrate status";
        return told("migrations", Outcome::Fail, format!("failed: {failed}"), next);
    }
    let under_way = of(&|one| matches!(one.status(), Standing::Applying | Standing::Reverting));
    if !under_way.is_empty() {
        let next = "finish it: ollamax migrate up, or down";
        return told("migrations", Outcome::Fail, format!("under way: {under_way}"), next);
    }
    let is_open = |one: &v1::Migration| matches!(one.status(), Standing::Pending | Standing::Reverted);
    let ready = of(&|one| is_open(one) && one.needs <= beside.cluster_version);
    if !ready.is_empty() {
        let next = "a later release may ask for them: ollamax migrate up";
        return told("migrations", Outcome::Warn, format!("not applied: {ready}"), next);
    }
    let waiting = of(&is_open);
    let found = if waiting.is_empty() {
        "every migration is applied".to_owned()
    } else {
        format!("waiting for a higher cluster version: {waiting}")
    };
    told("migrations", Outcome::Ok, found, "")
}

fn snapshot(raft: &RaftView, index: u64) -> Check {
    let behind = raft.last_log_index.saturating_sub(index);
    if index == 0 {
        let found = "this node has taken no snapshot since it began".to_owned();
        return told("snapshot", Outcome::Ok, found, "one more copy of the state on its disk: ollamax raft snapshot");
    }
    told("snapshot", Outcome::Ok, format!("this node's last snapshot lies {behind} entries back"), "")
}

fn names<'a>(nodes: impl Iterator<Item = &'a NodeView>) -> String {
    listed(nodes.map(|node| node.name.clone()))
}

fn listed(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn told(id: &str, outcome: Outcome, found: String, fix: &str) -> Check {
    Check { id: id.to_owned(), outcome: outcome.into(), found, fix: fix.to_owned() }
}

#[cfg(test)]
mod tests;
