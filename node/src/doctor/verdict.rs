//! What the facts of each check mean: pure, one function per check.
//!
//! A check that went well has no advice; every other one but a skipped one has the command or setting that mends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ollamax_blobs::{Access, How};
use ollamax_outbound::Report;
use ollamax_proto::v1::Check;
use ollamax_proto::v1::check::Outcome;
use ollamax_types::{Gpu, NodeId, RuntimeKind, RuntimeState};

use crate::model_place::none_at;

/// Clock difference that is worth a warning, milliseconds.
const CLOCK_SKEW_WARN_MS: u64 = 5_000;
/// Clock difference that is a fault, milliseconds.
const CLOCK_SKEW_FAIL_MS: u64 = 300_000;
/// Free disk below which the check warns, bytes.
const DISK_FREE_WARN_BYTES: u64 = 10 << 30;
/// Free disk below which the check fails, bytes.
const DISK_FREE_FAIL_BYTES: u64 = 2 << 30;
/// Rights by which everybody looks into a folder.
const OTHERS_LOOK: u32 = 0o005;
/// The right by which everybody passes through one.
const OTHERS_PASS: u32 = 0o001;
/// Median sync above which the check warns.
const FSYNC_WARN: Duration = Duration::from_millis(20);
/// The first Ollama whose `/api/create` takes an uploaded file, which `ollamax model import` needs.
const OLLAMA_LEAST: Version = (0, 5, 5);
/// The oldest Ollama that this release was written against.
const OLLAMA_TRIED: Version = (0, 24, 0);

type Version = (u64, u64, u64);

/// One listener of this node, and what came of connecting to it.
#[derive(Debug, Clone)]
pub(super) struct Port {
    /// The table of the configuration that sets it.
    pub(super) name: &'static str,
    /// Where it was tried.
    pub(super) address: String,
    /// Why nothing answered there.
    pub(super) problem: Option<String>,
}

/// The way from another member back to this node.
#[derive(Debug, Clone)]
pub(super) enum ReachBack {
    /// Nobody can be asked; why.
    Nobody(&'static str),
    /// The member that was asked gave no answer.
    Failed {
        /// Which member.
        by: NodeId,
        /// What came instead.
        problem: String,
    },
    /// What the member found at each advertised address; `None` where this node answered.
    Tried {
        /// Which member.
        by: NodeId,
        /// This node's `peer` port.
        port: u16,
        /// Address and problem.
        found: Vec<(String, Option<String>)>,
        /// The same of the libp2p connection between the two; `None`: it was not tried.
        lane: Option<Option<String>>,
    },
}

/// How another member answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    /// At this address.
    At(String),
    /// Over a libp2p connection that one of the two has dialled.
    OverP2p,
    /// Over one through a third node.
    Relayed,
}

/// Whether this node knows a leader with its majority, and how old its own state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quorum {
    /// Who leads, as far as this node knows.
    pub(super) leader: Option<NodeId>,
    /// Whether a majority answers it.
    pub(super) has_quorum: bool,
    /// How many vote.
    pub(super) voters: usize,
    /// The index that this node's state has reached.
    pub(super) applied: u64,
    /// Milliseconds since the leader, or its majority, was heard; `None`: not since the start.
    pub(super) silent_ms: Option<u64>,
}

/// The GPU driver of this machine, as far as it can be seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Driver {
    /// What it says.
    pub(super) gpus: Vec<Gpu>,
    /// A file that shows that there is one.
    pub(super) sign: Option<&'static str>,
}

/// Where the runtime keeps its models.
#[derive(Debug, Clone)]
pub(super) enum ModelStore {
    /// Not on this machine, or not needed; why.
    Elsewhere(&'static str),
    /// At none of these places.
    NotFound(Vec<PathBuf>),
    /// It is there and cannot be opened; why.
    Unusable(String),
    /// A folder above it is shut to this process.
    Shut {
        /// What came of opening it.
        problem: String,
        /// Which folder.
        folder: PathBuf,
        /// The group of that folder.
        group: String,
    },
    /// It is there.
    Found(Files),
}

/// A model store that is on this machine.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What this process may do there.
    pub(super) access: Access,
    /// Whose it is, for people; empty where that cannot be seen.
    pub(super) owner: String,
    /// From where the runtime fetches what this node may not put there; else why it does not.
    pub(super) handed: Result<SocketAddr, String>,
    /// Files whose bytes are not what their names say, with the models that use them.
    pub(super) damaged: BTreeMap<String, Vec<String>>,
}

/// The registry for machines that are no members.
#[derive(Debug, Clone)]
pub(super) struct Lending {
    /// Where it is bound.
    pub(super) address: SocketAddr,
    /// Why nothing answered there.
    pub(super) problem: Option<String>,
    /// How many networks may ask.
    pub(super) networks: usize,
    /// Whether TLS is spoken.
    pub(super) has_tls: bool,
    /// Whether this node keeps no models.
    pub(super) is_gateway: bool,
}

/// Whether changes can be made; `None` without a cluster. Where they cannot, how old this node's state is.
pub(super) fn quorum(found: Option<Quorum>) -> Check {
    let Some(Quorum { leader, has_quorum, voters, applied, silent_ms }) = found else {
        return skipped("quorum", "not a member of a cluster yet");
    };
    if let Some(leader) = leader.filter(|_| has_quorum) {
        let found = format!("node {leader} leads, {voters} may vote; the state of this node is at index {applied}");
        return check("quorum", Outcome::Ok, found, "");
    }
    let age = silent_ms.map_or_else(
        || "no leader was heard since this daemon started".to_owned(),
        |silent| format!("a leader's majority was last heard {} s ago", silent / 1_000),
    );
    let found = format!("no majority of {voters} voters answers; the state of this node is at index {applied}, {age}");
    let fix = "start the missing voters: ollamax node list; if most are gone for good: stop this daemon, then: ollamax \
               recover plan";
    check("quorum", Outcome::Fail, found, fix)
}

/// The worst difference of another node's clock; `None` before one was heard.
pub(super) fn clock(worst: Option<(NodeId, i64)>) -> Check {
    let Some((node, skew_ms)) = worst else { return skipped("clock", "no other node was heard yet") };
    let outcome = match skew_ms.unsigned_abs() {
        skew if skew > CLOCK_SKEW_FAIL_MS => Outcome::Fail,
        skew if skew > CLOCK_SKEW_WARN_MS => Outcome::Warn,
        _ => Outcome::Ok,
    };
    let found = format!("{skew_ms} ms against node {node}");
    check("clock", outcome, found, "timedatectl set-ntp true, on the machine that is off")
}

pub(super) fn ports(ports: &[Port], advertise: &[String]) -> Check {
    let deaf = ports.iter().filter_map(|port| Some((port, port.problem.as_ref()?)));
    let deaf: Vec<_> = deaf.map(|(port, problem)| format!("{} at {}: {problem}", port.name, port.address)).collect();
    if !deaf.is_empty() {
        let fix = "see whether this machine's firewall cuts off its own ports; then restart ollamax-node";
        return check("ports", Outcome::Fail, deaf.join("; "), fix);
    }
    let listening: Vec<_> = ports.iter().map(|port| format!("{} {}", port.name, port.address)).collect();
    let (outcome, told) = match advertise {
        [] => (Outcome::Fail, "nothing".to_owned()),
        // Other machines cannot reach it, which is right only where all nodes are on this one.
        [only] if is_loopback(only) => (Outcome::Warn, only.clone()),
        addresses => (Outcome::Ok, addresses.join(", ")),
    };
    let found = format!("{} answer; others are told {told}", listening.join(", "));
    check("ports", outcome, found, "set peer.advertise to an address that the other machines can reach")
}

pub(super) fn reach_back(way: &ReachBack) -> Check {
    let (by, port, found, lane) = match way {
        ReachBack::Nobody(why) => return skipped("reach_back", why),
        ReachBack::Failed { by, problem } => {
            let found = format!("node {by} could not be asked: {problem}");
            return check("reach_back", Outcome::Warn, found, "ollamax node list; then try again");
        }
        ReachBack::Tried { by, port, found, lane } => (by, port, found, lane),
    };
    let problems = found.iter().filter_map(|(address, problem)| Some(format!("{address}: {}", problem.as_ref()?)));
    let problems = problems.collect::<Vec<_>>().join("; ");
    let reached: Vec<&str> =
        found.iter().filter(|(_, problem)| problem.is_none()).map(|(address, _)| address.as_str()).collect();
    let firewall = format!("sudo ufw allow {port}/tcp (or the same in your firewall), or set peer.advertise");
    match (reached.is_empty(), problems.is_empty()) {
        (true, _) if *lane == Some(None) => {
            let found = format!("node {by} reaches this node only over this node's own libp2p connections: {problems}");
            let fix = format!("{firewall}; it works as it is, slower, and without a vote");
            check("reach_back", Outcome::Warn, found, &fix)
        }
        (true, _) => {
            let lane = lane.iter().flatten().map(|problem| format!("; p2p: {problem}")).collect::<String>();
            let found = format!("node {by} reaches none of this node's addresses: {problems}{lane}");
            check("reach_back", Outcome::Fail, found, &firewall)
        }
        (false, false) => {
            let found = format!("node {by} reaches {}, but not {problems}", reached.join(", "));
            check("reach_back", Outcome::Warn, found, "leave out the others with peer.advertise")
        }
        (false, true) => check("reach_back", Outcome::Ok, format!("node {by} reaches {}", reached.join(", ")), ""),
    }
}

/// The way to one other member: how it answered, or why it did not.
pub(super) fn reachability(name: &str, found: &Result<Reached, String>) -> Check {
    match found {
        Ok(reached) => {
            let how = match reached {
                Reached::At(address) => format!("at {address}"),
                Reached::OverP2p => "over p2p".to_owned(),
                Reached::Relayed => "through a relay".to_owned(),
            };
            check("reachability", Outcome::Ok, format!("{name} {how}"), "")
        }
        Err(problem) => {
            let fix = format!("start ollamax-node on {name}, and open its peer port in the firewall");
            check("reachability", Outcome::Fail, format!("{name}: {problem}"), &fix)
        }
    }
}

pub(super) fn disk(free_bytes: Option<u64>, data_dir: &Path) -> Check {
    let place = data_dir.display();
    let Some(free) = free_bytes else {
        let found = format!("the free space at {place} cannot be read");
        return check("disk", Outcome::Warn, found, "check the rights of the data directory");
    };
    let outcome = match free {
        free if free < DISK_FREE_FAIL_BYTES => Outcome::Fail,
        free if free < DISK_FREE_WARN_BYTES => Outcome::Warn,
        _ => Outcome::Ok,
    };
    let found = format!("{} MiB free at {place}", free >> 20);
    check("disk", outcome, found, "free some space, or move the data directory to a larger disk")
}

/// Who may look into the data directory, by its mode and those of the folders above it. Keys have modes of their own.
pub(super) fn data_dir(modes: Option<&[u32]>, data_dir: &Path) -> Check {
    let place = data_dir.display();
    let Some([mode, above @ ..]) = modes else {
        let found = format!("the rights to {place} cannot be read");
        return check("data_dir", Outcome::Warn, found, "check the rights of the data directory");
    };
    if mode & OTHERS_LOOK == 0 || above.iter().any(|mode| mode & OTHERS_PASS == 0) {
        return check("data_dir", Outcome::Ok, format!("{place} is for its user and group alone"), "");
    }
    let mode = mode & 0o7777;
    let found =
        format!("everybody on this machine may look into {place} (mode {mode:04o}), where the cluster's state lies");
    check("data_dir", Outcome::Warn, found, &format!("chmod o-rwx {place}"))
}

/// The median of some syncs in the data directory.
pub(super) fn fsync(median: &Result<Duration, String>) -> Check {
    match median {
        Ok(median) => {
            let outcome = if *median > FSYNC_WARN { Outcome::Warn } else { Outcome::Ok };
            let found = format!("median of {} syncs {:.1} ms", super::FSYNC_PROBES, median.as_secs_f64() * 1e3);
            check("fsync", outcome, found, "put the data directory on a local SSD; each change waits for one sync")
        }
        Err(error) => check("fsync", Outcome::Fail, error.as_str(), "check disk and rights of the data directory"),
    }
}

pub(super) fn runtime(report: &Report) -> Check {
    let kind = report.kind.as_str();
    match &report.state {
        RuntimeState::Absent => {
            check("runtime", Outcome::Warn, "none beside this node", "set runtime.kind and runtime.url")
        }
        RuntimeState::Down(reason) => {
            let fix = match report.kind {
                RuntimeKind::Ollama => "systemctl status ollama; or set runtime.url",
                RuntimeKind::Engine => "ollamax logs --level warn",
            };
            check("runtime", Outcome::Fail, format!("{kind} is down: {reason}"), fix)
        }
        RuntimeState::Up => {
            let models = report.models.as_ref().map_or(0, |models| models.len());
            let found = format!("{kind} {} at {} with {models} models", report.version, report.url);
            let (outcome, age) = match report.kind {
                // It is of this very release, and says which Ollama it is like.
                RuntimeKind::Engine => {
                    (Outcome::Ok, "; the version is that of the Ollama whose API it speaks".to_owned())
                }
                RuntimeKind::Ollama => age(&report.version),
            };
            check("runtime", outcome, found + &age, "update Ollama: https://ollama.com/download")
        }
    }
}

/// Whether an Ollama of this version does what is asked of it, and what to say if not.
fn age(version: &str) -> (Outcome, String) {
    let text = |(major, minor, patch): Version| format!("{major}.{minor}.{patch}");
    match numbers(version) {
        None => (Outcome::Warn, "; its version cannot be read".to_owned()),
        // What a build from source says.
        Some((0, 0, 0)) => (Outcome::Ok, String::new()),
        Some(found) if found < OLLAMA_LEAST => {
            (Outcome::Fail, format!("; models can be imported from {} on", text(OLLAMA_LEAST)))
        }
        Some(found) if found < OLLAMA_TRIED => {
            (Outcome::Warn, format!("; the oldest that was tried is {}", text(OLLAMA_TRIED)))
        }
        Some(_) => (Outcome::Ok, String::new()),
    }
}

/// `0.24.0`, `0.33.0-rc2`.
fn numbers(version: &str) -> Option<Version> {
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse::<u64>().ok());
    let found = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(found)
}

/// Whether a GPU that is there is used.
pub(super) fn gpu(driver: &Driver, report: &Report) -> Check {
    let names: Vec<&str> = driver.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    let there = match (names.as_slice(), driver.sign) {
        ([], None) => return skipped("gpu", "no GPU driver on this machine"),
        ([], Some(sign)) => sign.to_owned(),
        (names, _) => names.join(", "),
    };
    if report.state != RuntimeState::Up {
        return skipped("gpu", &format!("{there} is there; no runtime answers that could use it"));
    }
    if report.kind == RuntimeKind::Engine && report.gpu == Some(false) {
        let found = format!("{there} is there, but this ollamax-engine was built for the CPU alone");
        let fix = "build it with `cargo build --package ollamax-engine --features cuda`, or install Ollama and set \
                   runtime.kind = \"ollama\"";
        return check("gpu", Outcome::Warn, found, fix);
    }
    let on_cpu = report.resident.iter().filter(|model| model.size_vram_bytes == 0);
    let on_cpu: Vec<String> = on_cpu.map(|model| model.name.to_string()).collect();
    if !on_cpu.is_empty() {
        let found = format!("{there} is there, but these models run on the CPU: {}", on_cpu.join(", "));
        return check("gpu", Outcome::Warn, found, "check the runtime's GPU support (nvidia-smi, the runtime's log)");
    }
    if report.resident.is_empty() {
        return skipped("gpu", &format!("{there} is there; whether it is used shows once a model is loaded"));
    }
    check("gpu", Outcome::Ok, format!("{there} is there, and every loaded model uses GPU memory"), "")
}

pub(super) fn model_store(store: &ModelStore) -> Check {
    match store {
        ModelStore::Elsewhere(why) => skipped("model_store", why),
        ModelStore::NotFound(places) => {
            let fix = "start the daemon with OLLAMA_MODELS as the Ollama beside it has it; of one in a container, where \
                       its store is mounted on this machine";
            check("model_store", Outcome::Warn, none_at(places), fix)
        }
        ModelStore::Unusable(problem) => {
            let fix =
                "let the daemon's user read the store, e.g. usermod -aG ollama ollamax; then restart ollamax-node";
            check("model_store", Outcome::Warn, problem.as_str(), fix)
        }
        ModelStore::Shut { problem, folder, group } => {
            let fix = format!(
                "sudo usermod -aG {group} ollamax && sudo chmod g+x {} && sudo systemctl restart ollamax-node; then \
                 ollamax doctor again",
                folder.display()
            );
            check("model_store", Outcome::Warn, problem.as_str(), &fix)
        }
        ModelStore::Found(files) if !files.damaged.is_empty() => damaged(files),
        ModelStore::Found(files) => access(files),
    }
}

/// Whose the store is, and how this node gets at it.
fn access(Files { path, access, owner, handed, .. }: &Files) -> Check {
    let place = path.display();
    match access {
        Access::Direct { how, .. } => {
            let how = match how {
                How::Owner => "as its owner",
                How::Root => "as root",
                How::Group => "through its group",
            };
            let found = format!("{place} is owned by {owner}; this node reads and writes it {how}");
            let found = format!("{found}, and links into it what it pulls");
            check("model_store", Outcome::Ok, found, "")
        }
        Access::Locked { reason, remedy, .. } => {
            let found = format!("{place} is owned by {owner}; this node only reads it: {reason}");
            let way = match handed {
                Ok(address) => format!(
                    "what is pulled, the runtime fetches from this node at {address}, and it needs its room twice"
                ),
                Err(why) => format!("nothing can be pulled into it: {why}"),
            };
            check("model_store", Outcome::Warn, format!("{found}; {way}"), remedy)
        }
        Access::Hidden { reason, remedy } => {
            check("model_store", Outcome::Warn, format!("{place} cannot be read: {reason}"), remedy)
        }
    }
}

/// The runtime does not look at what it once has; who looks finds a disk that lost something, or a changed file.
fn damaged(Files { path, damaged, .. }: &Files) -> Check {
    let files: Vec<String> = damaged
        .iter()
        .map(|(file, models)| match models.as_slice() {
            [] => file.clone(),
            models => format!("{file} of {}", models.join(", ")),
        })
        .collect();
    let found = format!("{}: not the bytes that the name says: {}", path.display(), files.join("; "));
    let fix = "ollamax model verify, which replaces them where this node may write there; else, when another node or a \
               registry has these models, remove them at their runtime and fetch them again: OLLAMA_HOST=<the \
               runtime's address> ollama rm NAME; ollamax model pull NAME. Then watch that disk";
    check("model_store", Outcome::Fail, found, fix)
}

/// What the registry for machines that are no members gives; `None`: it is off.
pub(super) fn registry(lending: Option<&Lending>) -> Check {
    let Some(Lending { address, problem, networks, has_tls, is_gateway }) = lending else {
        return skipped("registry", "it is off: registry.listen is empty");
    };
    if let Some(problem) = problem {
        let fix = "see whether this machine's firewall cuts off its own ports; then restart ollamax-node";
        return check("registry", Outcome::Fail, format!("{address}: {problem}"), fix);
    }
    let how = if *has_tls { "over TLS" } else { "plain" };
    let found = format!("answers at {address} to {networks} networks, {how}");
    if *is_gateway {
        let found = format!("{found}; but a gateway keeps no models, and so has none to give");
        return check("registry", Outcome::Warn, found, "set registry.listen on a node that keeps models, not here");
    }
    check("registry", Outcome::Ok, found, "")
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check(id: &str, outcome: Outcome, found: impl Into<String>, fix: &str) -> Check {
    let fix = if outcome == Outcome::Ok { "" } else { fix };
    let mut check = Check { id: id.to_owned(), found: found.into(), fix: fix.to_owned(), ..Check::default() };
    check.set_outcome(outcome);
    check
}

/// A check that could not be made.
pub(super) fn skipped(id: &str, why: &str) -> Check {
    check(id, Outcome::Skipped, why, "")
}

#[cfg(test)]
mod tests;
