//! `bench`: what the cluster costs. `bench gateway`, `bench mcp`, `bench metadata` (also `--against etcd`), `bench
//! node`, `bench snapshot`, `bench transfer` and `bench endurance` print a table, or JSON with `-o json`.
//!
//! Every number is measured in this run, on this machine, beside what it is compared with. Nothing is kept between
//! runs. A comparison that cannot be made (no nginx) is left out; the report says so and names what to install.
//!
//! The exit code is 1 when a request failed, and with `--check` (and always for `snapshot`) also when an aim was missed
//! or could not be looked at; the reasons stand on stderr, the report is printed all the same. Of `endurance`, where
//! an aim says how many requests may fail, it is 1 when something acknowledged is lost, and with `--check` as above.

mod against;
mod endurance;
mod gateway;
mod load;
mod machine;
mod mcp;
mod metadata;
mod nginx;
mod node;
mod report;
mod snapshot;
mod transfer;

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::against::{Case, Plan};
use crate::report::Report;

/// Longest warm-up of a load, and the time of one profile of `etcdctl check perf`.
const WARM_UP_MAX: Duration = Duration::from_secs(5);
const PERF_TIME: Duration = Duration::from_secs(60);
/// Clients beside etcd, in the short form and in the long one.
const SHORT_CLIENTS: &[usize] = &[1, 64];
const LONG_CLIENTS: &[usize] = &[1, 8, 64, 256];
/// How many get the file, its size in MiB, the speed of their links in Mbit/s, in the short form and the long one.
const SHORT_TRANSFER: (&[u8], u64, u32) = (&[2], 64, 200);
const LONG_TRANSFER: (&[u8], u64, u32) = (&[2, 4, 8], 1_024, 1_000);
/// What goes from one to one without set links, MiB.
const SHORT_FREE_MIB: u64 = 256;
const LONG_FREE_MIB: u64 = 1_024;
/// Longest endurance: a week.
const MINUTES_MAX: u64 = 7 * 24 * 60;

/// Measures what the cluster costs.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Latency that a node adds over its runtime, and requests per second per core, beside nginx.
    Gateway(Options),
    /// Acknowledged writes per second and disk syncs per write; with `--against etcd` everything beside etcd.
    Metadata(MetadataOptions),
    /// The assistants' door at three nodes: lists, calls per core, forwarded changes, a crowd, clients that leave
    /// without a word, changes while the leader is killed, and the bridge whose node dies.
    Mcp(McpOptions),
    /// Start, stop, memory and CPU of one daemon, and how fast it answers `/health`.
    Node(NodeOptions),
    /// Memory that a large state needs on its way to a new node, and what a cut half-way costs.
    Snapshot(SnapshotOptions),
    /// One file for many nodes over links of a set speed, beside nginx, aria2, rqbit and sendme: how long it takes,
    /// what the first one sends, what it costs; what a node reads and writes before it offers a file, and how soon
    /// after its start it lists a hundred models.
    Transfer(TransferOptions),
    /// Clients for an hour while a daemon is killed every minute: how many requests succeed, how slow reads are, and
    /// whether anything acknowledged is lost.
    Endurance(EnduranceOptions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What every benchmark has.
#[derive(Debug, Clone, Args)]
struct Repeats {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Times that everything is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// End with exit code 1 when an aim is missed or cannot be looked at.
    #[arg(long)]
    check: bool,
}

/// How long and how wide.
#[derive(Debug, Clone, Args)]
struct Options {
    #[command(flatten)]
    repeats: Repeats,
    /// Measured time of one point, seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Clients at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
}

/// With what the replicated store is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// etcd, three daemons of the same machine.
    Etcd,
}

/// How long, how wide, and beside what.
#[derive(Debug, Clone, Args)]
struct MetadataOptions {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Times that everything is measured (default: 3; against etcd 5, with --quick 1).
    #[arg(long)]
    runs: Option<usize>,
    /// End with exit code 1 when an aim is missed or cannot be looked at.
    #[arg(long)]
    check: bool,
    /// Measured time of one point, seconds (default: 2; against etcd 20, with --quick 3).
    #[arg(long)]
    seconds: Option<f64>,
    /// Clients at once (default: 1,64,256; against etcd 1,8,64,256, with --quick 1,64).
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Measure the same of another system, in turns. All of it takes about six hours.
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// A short form, a quarter of an hour: figures to look at, not to publish.
    #[arg(long, requires = "against")]
    quick: bool,
    /// Loads to measure.
    #[arg(long, requires = "against", value_enum, value_delimiter = ',', default_values_t = Case::ALL)]
    cases: Vec<Case>,
    /// Trials of each way to lose a leader, 0 for none (default: 30, with --quick 3).
    #[arg(long, requires = "against")]
    failovers: Option<usize>,
}

/// How long.
#[derive(Debug, Clone, Args)]
struct NodeOptions {
    #[command(flatten)]
    repeats: Repeats,
    /// Time for which an idle node is watched, seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// How large.
#[derive(Debug, Clone, Args)]
struct SnapshotOptions {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Size of the state, MiB.
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u64).range(256..=8_000))]
    state_mib: u64,
}

/// How large, how fast, to how many, beside whom.
#[derive(Debug, Clone, Args)]
struct TransferOptions {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Times that everything is measured.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// End with exit code 1 when an aim is missed or cannot be looked at.
    #[arg(long)]
    check: bool,
    /// Nodes that get the file, a row for each number (default: 2,4,8, with --quick 2).
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=32))]
    nodes: Vec<u8>,
    /// Size of the file, MiB (default: 1024, with --quick 64).
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    mib: Option<u64>,
    /// Speed of each link, both ways, Mbit/s (default: 1000, with --quick 200).
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=40_000))]
    mbit: Option<u32>,
    /// Beside whom. What is not installed is left out, and the report says so.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = transfer::Peer::ALL)]
    peers: Vec<transfer::Peer>,
    /// A short form, two minutes: figures to look at, not to publish.
    #[arg(long)]
    quick: bool,
}

/// How often, how much.
#[derive(Debug, Clone, Args)]
struct McpOptions {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Times that everything is measured, each in a cluster of its own.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// From what all chance is drawn. Not said: a fresh number, which the report tells.
    #[arg(long)]
    seed: Option<u64>,
    /// End with exit code 1 when an aim is missed or cannot be looked at.
    #[arg(long)]
    check: bool,
    /// A short form, two minutes: figures to look at, not to publish.
    #[arg(long)]
    quick: bool,
    /// Write what was found into docs/architecture/mcp.md.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

impl McpOptions {
    const fn repeats(&self) -> Repeats {
        Repeats { output: self.output, runs: self.runs, check: self.check }
    }

    fn plan(&self) -> Result<mcp::Plan> {
        ensure!((1..=100).contains(&self.runs), "--runs must be 1 to 100");
        Ok(mcp::Plan::of(self.runs, self.seed.unwrap_or_else(|| RandomState::new().hash_one(0)), self.quick))
    }
}

impl TransferOptions {
    const fn repeats(&self) -> Repeats {
        Repeats { output: self.output, runs: self.runs, check: self.check }
    }

    fn plan(&self) -> Result<transfer::Plan> {
        ensure!((1..=100).contains(&self.runs), "--runs must be 1 to 100");
        let (nodes, mib, mbit) = if self.quick { SHORT_TRANSFER } else { LONG_TRANSFER };
        let nodes = if self.nodes.is_empty() { nodes } else { &self.nodes };
        let free_mib = if self.quick { SHORT_FREE_MIB } else { LONG_FREE_MIB };
        Ok(transfer::Plan {
            nodes: nodes.iter().map(|&count| usize::from(count)).collect(),
            size_bytes: self.mib.unwrap_or(mib) << 20,
            free_bytes: free_mib << 20,
            mbit: self.mbit.unwrap_or(mbit),
            peers: self.peers.clone(),
            runs: self.runs,
        })
    }
}

/// How long, how fast, how often.
#[derive(Debug, Clone, Args)]
struct EnduranceOptions {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// How long clients ask, minutes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MINUTES_MAX))]
    minutes: u64,
    /// From one kill to the next, seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(30..=3_600))]
    kill_every_seconds: u64,
    /// Requests per second of all clients together.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// From what all chance is drawn. Not said: a fresh number, which the report tells.
    #[arg(long)]
    seed: Option<u64>,
    /// End with exit code 1 when an aim is missed.
    #[arg(long)]
    check: bool,
}

impl EnduranceOptions {
    const fn repeats(&self) -> Repeats {
        Repeats { output: self.output, runs: 1, check: self.check }
    }

    fn plan(&self) -> endurance::Plan {
        endurance::Plan {
            time: Duration::from_secs(self.minutes * 60),
            every: Duration::from_secs(self.kill_every_seconds),
            per_second: f64::from(self.rate),
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        }
    }
}

impl SnapshotOptions {
    /// Once, and every aim counts.
    const fn repeats(&self) -> Repeats {
        Repeats { output: self.output, runs: 1, check: true }
    }
}

impl Options {
    fn point(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn check(&self) -> Result<()> {
        check(&self.repeats, self.seconds)?;
        ensure!(!self.clients.is_empty(), "--clients must name at least one number");
        ensure!(self.clients.iter().all(|clients| (1..=4_096).contains(clients)), "--clients must be 1 to 4096 each");
        Ok(())
    }
}

impl MetadataOptions {
    fn repeats(&self, runs: usize) -> Repeats {
        Repeats { output: self.output, runs: self.runs.unwrap_or(runs), check: self.check }
    }

    fn clients_or(&self, clients: &[usize]) -> Vec<usize> {
        if self.clients.is_empty() { clients.to_vec() } else { self.clients.clone() }
    }

    /// What is measured of ours alone.
    fn alone(&self) -> Options {
        let (seconds, clients) = (self.seconds.unwrap_or(2.0), self.clients_or(&[1, 64, 256]));
        Options { repeats: self.repeats(3), seconds, clients }
    }

    /// What is measured of both, and how the report is printed.
    fn beside(&self) -> Result<(Repeats, Plan)> {
        let (runs, seconds, clients, failovers) =
            if self.quick { (1, 3.0, SHORT_CLIENTS, 3) } else { (5, 20.0, LONG_CLIENTS, 30) };
        let (seconds, clients) = (self.seconds.unwrap_or(seconds), self.clients_or(clients));
        let options = Options { repeats: self.repeats(runs), seconds, clients };
        options.check()?;
        let failovers = self.failovers.unwrap_or(failovers);
        ensure!(failovers <= 1_000, "--failovers must be at most 1000");
        let time = options.point();
        let plan = Plan {
            runs: options.repeats.runs,
            warm: (time / 4).min(WARM_UP_MAX),
            time,
            clients: options.clients,
            cases: self.cases.clone(),
            failovers,
            perf: if self.quick { time } else { PERF_TIME },
        };
        Ok((options.repeats, plan))
    }

    async fn measure(&self) -> Result<(Repeats, Report)> {
        match self.against {
            None => {
                let options = self.alone();
                options.check()?;
                let report = metadata::measure(&options).await?;
                Ok((options.repeats, report))
            }
            Some(Peer::Etcd) => {
                let (repeats, plan) = self.beside()?;
                Ok((repeats, Box::pin(against::measure(&plan)).await?))
            }
        }
    }
}

fn check(repeats: &Repeats, seconds: f64) -> Result<()> {
    ensure!((1..=100).contains(&repeats.runs), "--runs must be 1 to 100");
    ensure!((0.1..=600.0).contains(&seconds), "--seconds must be 0.1 to 600");
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    // What was acknowledged and lost, where requests may fail.
    let mut lost: Option<Vec<String>> = None;
    let mut written = Ok(());
    let (Repeats { output, check: aims_count, .. }, report): (Repeats, Report) = match arguments.bench {
        Bench::Gateway(options) => {
            options.check()?;
            (options.repeats.clone(), gateway::measure(&options).await?)
        }
        Bench::Mcp(options) => {
            let plan = options.plan()?;
            let report = Box::pin(mcp::measure(&plan)).await?;
            if options.write {
                written = mcp::write(&plan, &report);
            }
            (options.repeats(), report)
        }
        Bench::Metadata(options) => options.measure().await?,
        Bench::Node(options) => {
            check(&options.repeats, options.seconds)?;
            (options.repeats.clone(), node::measure(&options).await?)
        }
        Bench::Snapshot(options) => (options.repeats(), Box::pin(snapshot::measure(&options)).await?),
        Bench::Transfer(options) => {
            let plan = options.plan()?;
            (options.repeats(), Box::pin(transfer::measure(&plan)).await?)
        }
        Bench::Endurance(options) => {
            let (report, losses) = Box::pin(endurance::measure(&options.plan())).await?;
            lost = Some(losses);
            (options.repeats(), report)
        }
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{report}"),
    }
    // What was found is told in any case.
    written?;
    let faults = lost.map_or_else(
        || report.faults(aims_count),
        |lost| lost.into_iter().chain(report.shortfalls(aims_count)).collect(),
    );
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<MetadataOptions, clap::Error> {
        let words = ["bench", "metadata"].iter().chain(words);
        match Arguments::try_parse_from(words)?.bench {
            Bench::Metadata(options) => Ok(options),
            _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
        }
    }

    #[test]
    fn alone_the_defaults_are_short() {
        let alone = options(&[]).expect("valid").alone();
        assert_eq!((alone.repeats.runs, alone.seconds, alone.clients), (3, 2.0, vec![1, 64, 256]));
    }

    #[test]
    fn beside_etcd_the_defaults_are_those_of_the_protocol() {
        let plan = |words: &[&str]| options(words).expect("valid").beside().expect("valid").1;
        let long = plan(&["--against", "etcd"]);
        assert_eq!((long.runs, long.time, long.warm), (5, Duration::from_secs(20), Duration::from_secs(5)));
        assert_eq!((long.clients, long.cases, long.failovers), (vec![1, 8, 64, 256], Case::ALL.to_vec(), 30));
        let quick = plan(&["--against", "etcd", "--quick", "--clients", "8", "--cases", "put,get-stale"]);
        assert_eq!((quick.runs, quick.time, quick.failovers), (1, Duration::from_secs(3), 3));
        assert_eq!((quick.clients, quick.cases), (vec![8], vec![Case::Put, Case::GetStale]));
    }

    #[test]
    fn options_of_the_comparison_need_one() {
        for words in [&["--quick"][..], &["--failovers", "3"], &["--cases", "put"], &["--against", "consul"]] {
            assert!(options(words).is_err(), "{words:?}");
        }
        let beside = options(&["--against", "etcd", "--runs", "0"]).expect("parses").beside();
        assert!(beside.is_err());
    }

    #[test]
    fn endurance_lasts_an_hour_with_a_kill_each_minute_unless_something_else_is_said() {
        let parse = |words: &[&str]| -> Result<EnduranceOptions, clap::Error> {
            let words = ["bench", "endurance"].iter().chain(words);
            match Arguments::try_parse_from(words)?.bench {
                Bench::Endurance(options) => Ok(options),
                _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
            }
        };
        let plan = |words: &[&str]| parse(words).expect("valid").plan();
        let (second, hour) = (Duration::from_secs(1), plan(&[]));
        assert_eq!((hour.time, hour.every, hour.kills().count()), (second * 3_600, second * 60, 60));
        assert!((hour.per_second - 200.0).abs() < 1e-9);
        let short = ["--minutes", "2", "--kill-every-seconds", "30", "--rate", "50", "--seed", "9"];
        let short = plan(&short);
        assert_eq!((short.time, short.every, short.seed), (second * 120, second * 30, 9));
        assert!((short.per_second - 50.0).abs() < 1e-9);
        for words in [&["--minutes", "0"][..], &["--kill-every-seconds", "10"], &["--rate", "0"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_assistants_door_is_measured_once_and_whole_unless_something_else_is_said() {
        let parse = |words: &[&str]| -> Result<McpOptions, clap::Error> {
            let words = ["bench", "mcp"].iter().chain(words);
            match Arguments::try_parse_from(words)?.bench {
                Bench::Mcp(options) => Ok(options),
                _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
            }
        };
        let plan = |words: &[&str]| parse(words).expect("valid").plan().expect("valid");
        let whole = plan(&["--check"]);
        assert_eq!(whole, mcp::Plan::of(1, whole.seed, false));
        assert_eq!(plan(&["--quick", "--runs", "3", "--seed", "9", "-o", "json"]), mcp::Plan::of(3, 9, true));
        assert!(parse(&["--runs", "0"]).expect("parses").plan().is_err());
        assert!(parse(&["--clients", "64"]).is_err());
        assert!(parse(&["--write"]).expect("valid").write && !parse(&[]).expect("valid").write);
        assert!(parse(&["--write", "--quick"]).is_err());
    }

    #[test]
    fn a_transfer_is_to_two_four_and_eight_nodes_unless_something_else_is_said() {
        let parse = |words: &[&str]| -> Result<TransferOptions, clap::Error> {
            let words = ["bench", "transfer"].iter().chain(words);
            match Arguments::try_parse_from(words)?.bench {
                Bench::Transfer(options) => Ok(options),
                _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
            }
        };
        let plan = |words: &[&str]| parse(words).expect("valid").plan().expect("valid");
        let long = plan(&[]);
        assert_eq!((long.nodes, long.size_bytes, long.mbit, long.runs), (vec![2, 4, 8], 1 << 30, 1_000, 1));
        assert_eq!((long.free_bytes, long.peers), (1 << 30, transfer::Peer::ALL.to_vec()));
        let quick = plan(&["--quick"]);
        assert_eq!((quick.nodes, quick.size_bytes, quick.mbit), (vec![2], 64 << 20, 200));
        let own = ["--nodes", "3,16", "--mib", "2048", "--mbit", "500", "--peers", "nginx,rqbit,sendme", "--runs", "3"];
        let own = plan(&own);
        assert_eq!((own.nodes, own.size_bytes, own.mbit, own.runs), (vec![3, 16], 2 << 30, 500, 3));
        assert_eq!(own.peers, [transfer::Peer::Nginx, transfer::Peer::Rqbit, transfer::Peer::Sendme]);
        for words in
            [&["--nodes", "0"][..], &["--nodes", "33"], &["--mib", "1"], &["--mbit", "1"], &["--peers", "rsync"]]
        {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(parse(&["--runs", "0"]).expect("parses").plan().is_err());
    }
}
