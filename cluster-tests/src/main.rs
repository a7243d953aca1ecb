//! `bench`: what the cluster costs. `bench gateway`, `bench metadata` and `bench node` print a table, or JSON with
//! `-o json`.
//!
//! Every number is measured in this run, on this machine, beside what it is compared with. Nothing is kept between
//! runs. A comparison that cannot be made (no nginx) is left out; the report says so and names what to install.
//!
//! The exit code is 1 when a request failed, and with `--check` also when an aim was missed or could not be looked at;
//! the reasons stand on stderr, the report is printed all the same.

mod gateway;
mod load;
mod machine;
mod metadata;
mod nginx;
mod node;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::report::Report;

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
    /// Acknowledged writes per second and disk syncs per write.
    Metadata(Options),
    /// Start, stop, memory and CPU of one daemon, and how fast it answers `/health`.
    Node(NodeOptions),
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

/// How long.
#[derive(Debug, Clone, Args)]
struct NodeOptions {
    #[command(flatten)]
    repeats: Repeats,
    /// Time for which an idle node is watched, seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
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

fn check(repeats: &Repeats, seconds: f64) -> Result<()> {
    ensure!((1..=100).contains(&repeats.runs), "--runs must be 1 to 100");
    ensure!((0.1..=600.0).contains(&seconds), "--seconds must be 0.1 to 600");
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let (Repeats { output, check: aims_count, .. }, report): (Repeats, Report) = match arguments.bench {
        Bench::Gateway(options) => {
            options.check()?;
            (options.repeats.clone(), gateway::measure(&options).await?)
        }
        Bench::Metadata(options) => {
            options.check()?;
            (options.repeats.clone(), metadata::measure(&options).await?)
        }
        Bench::Node(options) => {
            check(&options.repeats, options.seconds)?;
            (options.repeats.clone(), node::measure(&options).await?)
        }
    };
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{report}"),
    }
    let faults = report.faults(aims_count);
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
