//! `bench transfer`: how one file comes to many nodes, over links of a set speed and over loopback, ours and others in
//! turns on this machine; and what a node reads and writes before it offers a file.
//!
//! Each row is one cluster, or one set of other programs, in a lab of its own: a namespace for each node, all on one
//! switch, with every link shaped both ways. The first sends, so many others receive. A row that failed has nodes
//! without the file, which is a fault, and a note says why; the others are measured all the same. Whatever ends a run
//! ends its processes and its networks too: nothing of them has a name in the system.

mod plan;

mod course;
mod memory;
mod ours;
mod peers;
mod results;
mod watched;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use tokio::signal::unix::{SignalKind, signal};

use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::room::{self, Lab, Need};

use crate::machine::{self, Machine};
use crate::report::Report;

use course::Outcome;
use peers::Wanted;
use plan::System;
use results::{Found, Free};

pub(crate) use plan::{Peer, Plan};

/// Which way of all to share a link is used.
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Programs that say their version.
const VERSIONED: &[&str] = &["nginx", "curl", "aria2c", "rqbit", "sendme"];

/// A file for the others, where its copies will be.
#[derive(Debug)]
struct File {
    path: PathBuf,
    model: FakeModel,
}

/// What is spread over set links.
#[derive(Debug)]
struct Files {
    whole: File,
    quarter: FakeModel,
}

/// What a run has of others.
#[derive(Debug, Default)]
struct Others {
    /// Those of which everything is here.
    here: Vec<Peer>,
    /// What the rest lacks, where it counts as not checked.
    left_out: Vec<String>,
    /// The same of those that are measured where they are installed.
    absent: Vec<String>,
}

/// Measures everything once or several times.
pub(crate) async fn measure(plan: &Plan) -> Result<Report> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    // Dropping a run ends the processes that it started.
    tokio::select! {
        report = Box::pin(run(plan)) => report,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for an interrupt")?;
            bail!("interrupted")
        }
        _signal = terminate.recv() => bail!("told to end"),
    }
}

async fn run(plan: &Plan) -> Result<Report> {
    let Others { here, mut left_out, absent } = Others::of(&plan.peers, peers::missing);
    let plan = Plan { peers: here, ..plan.clone() };
    check_disk(&plan)?;
    let folder = tempfile::Builder::new().prefix("ollamax-transfer-").tempdir().context("make a folder")?;
    let mut versions = vec![("ollamax-node".to_owned(), ours::version().await?)];
    for &name in VERSIONED {
        if plan.peers.iter().any(|peer| peer.programs().contains(&name)) {
            versions.push((name.to_owned(), peers::version(name).await?));
        }
    }
    let found = match room::withheld(Need::Lab).await? {
        None => over_links(&plan, folder.path()).await?,
        Some(why) => {
            left_out.push(format!("links of a set speed, which take networks of their own (run as root): {why}"));
            Vec::new()
        }
    };
    if plan.peers.contains(&Peer::Nginx) && machine::program("openssl").is_none() {
        left_out.push("nginx with TLS: there is no openssl (apt-get install openssl)".to_owned());
    }
    let free = over_loopback(&plan, folder.path()).await?;
    folder.close().context("remove the folder")?;
    Ok(Report {
        bench: "transfer",
        machine: Machine::here(),
        versions,
        runs: plan.runs,
        point_seconds: plan.one_copy().as_secs_f64(),
        rows: results::rows(&plan, &found, &free),
        aims: results::aims(&plan, &found, &free),
        left_out,
        notes: notes(&plan).into_iter().chain(absent).chain(results::failures(&found, &free)).collect(),
    })
}

/// A disk that fills up on the way would end a row for a reason that is nobody's.
fn check_disk(plan: &Plan) -> Result<()> {
    let folder = std::env::temp_dir();
    let system = statvfs(&folder).with_context(|| format!("look at the disk of {}", folder.display()))?;
    let free_bytes = system.blocks_available().saturating_mul(system.fragment_size());
    let (free_mib, needed_mib) = (free_bytes >> 20, plan.disk_bytes() >> 20);
    let shown = folder.display();
    ensure!(
        free_mib >= needed_mib,
        "{shown} has {free_mib} MiB free of {needed_mib} that are needed: set TMPDIR, or lower --mib or --nodes"
    );
    Ok(())
}

/// All systems in turns, for each number of nodes.
async fn over_links(plan: &Plan, folder: &Path) -> Result<Vec<Found>> {
    let whole = File::make(folder, "links", plan.size_bytes, !plan.peers.is_empty()).await?;
    let files = Files { whole, quarter: ours::model(plan.size_of(System::Quarter)) };
    let case = |(nodes, system)| Found { system, nodes, outcomes: Vec::new() };
    let mut found: Vec<Found> = plan.cases().into_iter().map(case).collect();
    for run in 1..=plan.runs {
        for Found { system, nodes, outcomes } in &mut found {
            let what = format!("run {run}, {nodes} nodes, {}", system.name());
            written_back().await?;
            let outcome = Box::pin(course(plan, *system, *nodes, &files)).await;
            outcomes.push(seen(&what, *nodes, outcome));
        }
    }
    Ok(found)
}

async fn course(plan: &Plan, system: System, nodes: usize, files: &Files) -> Result<Outcome> {
    let lab = Lab::with_links(nodes + 1, plan.mbit).await.context("make a lab")?;
    let whole = &files.whole;
    match system {
        System::Nodes => Box::pin(ours::from_a_node(plan, &lab, &whole.model)).await,
        System::Quarter => Box::pin(ours::from_a_node(plan, &lab, &files.quarter)).await,
        System::Registry => Box::pin(ours::from_a_registry(plan, &lab, &whole.model)).await,
        System::Peer(peer) => Box::pin(peers::spread(peer, &lab, whole.wanted(), plan.limit(nodes))).await,
    }
}

/// From one to one, as fast as this machine can.
async fn over_loopback(plan: &Plan, folder: &Path) -> Result<Free> {
    let has_tls = plan.peers.contains(&Peer::Nginx) && machine::program("openssl").is_some();
    let file = File::make(folder, "loopback", plan.free_bytes, has_tls).await?;
    let quarter = ours::model(plan.free_quarter_bytes());
    let mut free = Free::default();
    for run in 1..=plan.runs {
        let named = |what: &str| format!("run {run}, {what}");
        written_back().await?;
        let outcome = Box::pin(ours::over_loopback(plan, &file.model)).await;
        free.ours.push(seen(&named("ollamax over loopback"), 1, outcome));
        written_back().await?;
        let outcome = Box::pin(ours::over_lanes(plan, &file.model)).await;
        free.lanes.push(seen(&named("ollamax over loopback, over libp2p alone"), 1, outcome));
        written_back().await?;
        let outcome = Box::pin(ours::over_loopback(plan, &quarter)).await;
        free.quarter.push(seen(&named("ollamax over loopback, a quarter of the file"), 1, outcome));
        written_back().await?;
        let outcome = Box::pin(ours::adopted(&file.model)).await;
        free.adopted.push(seen_alone(&named("ollamax adopts a file"), outcome, |adopted| adopted.time));
        written_back().await?;
        let outcome = Box::pin(ours::catalogued()).await;
        let what = format!("ollamax lists {} models from its start on", ours::CATALOG_MODELS);
        free.catalogued.push(seen_alone(&named(&what), outcome, |time| *time));
        if has_tls {
            written_back().await?;
            let outcome = Box::pin(peers::over_tls(file.wanted(), plan.limit(1))).await;
            free.nginx.push(seen(&named("nginx with TLS over loopback"), 1, outcome));
        }
    }
    Ok(free)
}

/// What earlier courses wrote is on the disk, and slows nobody down.
async fn written_back() -> Result<()> {
    tokio::task::spawn_blocking(nix::unistd::sync).await.context("write back what was written")
}

/// Tells how far the run is. What failed is told, here and in the report. Where there was no course, nobody has the
/// file.
fn seen(what: &str, nodes: usize, outcome: Result<Outcome>) -> Outcome {
    let mut outcome = outcome.unwrap_or_else(|error| Outcome::nothing(nodes, format!("{error:#}")));
    eprintln!("{what}: {}", told(&outcome.finished));
    for failure in &mut outcome.failures {
        *failure = format!("{what}: {failure}");
        eprintln!("{failure}");
    }
    outcome
}

/// The same for what a node does by itself, in some time.
fn seen_alone<T>(what: &str, outcome: Result<T>, time: fn(&T) -> Duration) -> Option<T> {
    match &outcome {
        Ok(done) => eprintln!("{what}: {:.2} s", time(done).as_secs_f64()),
        Err(error) => eprintln!("{what}: {error:#}"),
    }
    outcome.ok()
}

/// When each node had the file, in the order of the nodes.
fn told(finished: &[Option<Duration>]) -> String {
    let each = finished.iter().map(|time| match time {
        Some(time) => format!("{:.2} s", time.as_secs_f64()),
        None => "never".to_owned(),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn notes(plan: &Plan) -> Vec<String> {
    let (mib, free_mib, mbit) = (plan.size_bytes >> 20, plan.free_bytes >> 20, plan.mbit);
    let congestion = fs::read_to_string(CONGESTION).unwrap_or_default();
    vec![
        format!(
            "T, the time of one copy: {mib} MiB over a link of {mbit} Mbit/s, {:.2} s; packets' heads are not in it; \
             over loopback it is {free_mib} MiB, and the rate counts from the first 4 MiB",
            plan.one_copy().as_secs_f64()
        ),
        format!(
            "all on this machine, congestion control {}; CLIENTS: nodes that get the file; OK: of them those that had \
             it, by its SHA-256; GB: 10^9, MB: 10^6 bytes",
            congestion.trim()
        ),
        "times count from the command: ours is planned in the cluster then; torrents were made before".to_owned(),
        "ours is encrypted, each chunk and the whole are checked, and a runtime sees it in the end; sendme is \
         encrypted and checked by BLAKE3, torrents are checked by SHA-1; the rest is neither encrypted nor checked, \
         but for TLS over loopback"
            .to_owned(),
        format!(
            "the copies lie in {} (TMPDIR); before a row begins, earlier ones are written back, and a file as large as \
             what it writes has come and gone, so that its memory is there",
            std::env::temp_dir().display()
        ),
        "memory: most that one process held (VmHWM); the kernel's work for sockets counts where a process asked for it"
            .to_owned(),
        "over libp2p alone: the sender tells an address at which nobody listens, so the other node asks over the \
         libp2p connection between them; it is TLS within libp2p's own encryption, all on loopback, and the row fails \
         where the node counts less than 99 % as come that way"
            .to_owned(),
        "adopts: READS and WRITES are all bytes of system calls of the node's process (rchar and wchar of \
         /proc/PID/io; files, sockets and all else), until it has hashed the file and three seconds more; OF THE DISK \
         and TO THE DISK are the parts that were not in memory (read_bytes, write_bytes); its time counts from when \
         the file lay there, and the node looks each second"
            .to_owned(),
        format!(
            "lists {} models: they lie in the store of its runtime, which answers, when the node starts, and are on no \
             record; from the start of the process on, until `ollamax model list` has all of them with version, size \
             and details, looked at 50 times a second",
            ours::CATALOG_MODELS
        ),
        "sendme: each node fetches from the first one; it keeps a second copy while it fetches".to_owned(),
    ]
}

// === impl Others ===

impl Others {
    /// `missing` names the programs that one takes and this machine has not.
    fn of(peers: &[Peer], missing: impl Fn(Peer) -> Vec<&'static str>) -> Self {
        let mut others = Self::default();
        for &peer in peers {
            let missing = missing(peer);
            if missing.is_empty() {
                others.here.push(peer);
            } else if peer.is_optional() {
                others.absent.push(format!("not measured: {}", lacks(peer, &missing)));
            } else {
                others.left_out.push(lacks(peer, &missing));
            }
        }
        others
    }
}

/// What is not there, and how it is had.
fn lacks(peer: Peer, missing: &[&'static str]) -> String {
    let from = |installer: &str, wanted: bool| {
        let of_it = missing.iter().filter(|program| is_of_cargo(program) == wanted).map(|program| package_of(program));
        let packages: Vec<&str> = of_it.collect();
        (!packages.is_empty()).then(|| format!("{installer} install {}", packages.join(" ")))
    };
    let ways: Vec<String> = [from("cargo", true), from("apt-get", false)].into_iter().flatten().collect();
    format!("{}: there is no {} ({})", peer.name(), missing.join(" and no "), ways.join("; "))
}

fn is_of_cargo(program: &str) -> bool {
    matches!(program, "rqbit" | "sendme")
}

fn package_of(program: &str) -> &str {
    match program {
        "nginx" => "nginx-light",
        "aria2c" => "aria2",
        other => other,
    }
}

// === impl File ===

impl File {
    /// `is_there`: it also lies in the folder.
    async fn make(folder: &Path, name: &str, size_bytes: u64, is_there: bool) -> Result<Self> {
        let (model, folder) = (ours::model(size_bytes), folder.join(name));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = peers::place_of(&folder);
        if is_there {
            let (weights, path) = (model.weights.clone(), path.clone());
            let written = tokio::task::spawn_blocking(move || weights.write(&path)).await.context("write the file")?;
            written.context("write the file")?;
        }
        Ok(Self { path, model })
    }

    fn wanted(&self) -> Wanted<'_> {
        let weights = &self.model.weights;
        Wanted { path: &self.path, size_bytes: weights.size_bytes, sha256: weights.sha256() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_lacks_is_named_with_its_package() {
        let lacking = |absent: &'static [&'static str]| {
            let missing = move |peer: Peer| -> Vec<&'static str> {
                peer.programs().iter().copied().filter(|program| absent.contains(program)).collect()
            };
            Others::of(&Peer::ALL, missing)
        };
        let none = lacking(&[]);
        assert_eq!(none.here, Peer::ALL);
        assert!(none.left_out.is_empty() && none.absent.is_empty(), "{none:?}");

        let some = lacking(&["nginx", "aria2c", "sendme"]);
        assert_eq!(some.here, [Peer::Rqbit]);
        let expected = [
            "nginx and curl: there is no nginx (apt-get install nginx-light)",
            "aria2, 16 ranges: there is no nginx and no aria2c (apt-get install nginx-light aria2)",
            "aria2, BitTorrent: there is no nginx and no aria2c (apt-get install nginx-light aria2)",
        ];
        assert_eq!(some.left_out, expected);
        let expected = ["not measured: sendme, QUIC: there is no sendme (cargo install sendme)"];
        assert_eq!(some.absent, expected);

        let both = lacking(&["rqbit", "mktorrent"]);
        let expected = ["not measured: rqbit, BitTorrent: there is no rqbit and no mktorrent (cargo install rqbit; \
                         apt-get install mktorrent)"];
        assert_eq!(both.absent, expected);
    }

    #[test]
    fn a_course_that_failed_leaves_everybody_without_the_file() {
        let error = anyhow::anyhow!("it ended").context("start rqbit");
        let failed = seen("run 1, 2 nodes, rqbit", 2, Err(error));
        assert_eq!(failed, Outcome::nothing(2, "run 1, 2 nodes, rqbit: start rqbit: it ended".to_owned()));
        assert_eq!(told(&failed.finished), "never, never");
        assert_eq!(told(&[Some(Duration::from_millis(1_250)), None]), "1.25 s, never");
    }
}
