//! `bench`: what the cluster costs. `bench gateway` and `bench metadata` print a table, or JSON with `-o json`.
//!
//! Every number is measured in this run, on this machine, beside what it is compared with. Nothing is kept between
//! runs. A run that cannot be made (no nginx) says so and names what to install.

mod gateway;
mod load;
mod machine;
mod metadata;
mod nginx;
mod report;

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// How long and how wide.
#[derive(Debug, Clone, Args)]
struct Options {
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Times that everything is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Measured time of one point, seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Clients at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
}

impl Options {
    fn point(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=100).contains(&self.runs), "--runs must be 1 to 100");
        ensure!((0.1..=600.0).contains(&self.seconds), "--seconds must be 0.1 to 600");
        ensure!(!self.clients.is_empty(), "--clients must name at least one number");
        ensure!(self.clients.iter().all(|clients| (1..=4_096).contains(clients)), "--clients must be 1 to 4096 each");
        Ok(())
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (options, report): (Options, Report) = match arguments.bench {
        Bench::Gateway(options) => {
            options.check()?;
            let report = gateway::measure(&options).await?;
            (options, report)
        }
        Bench::Metadata(options) => {
            options.check()?;
            let report = metadata::measure(&options).await?;
            (options, report)
        }
    };
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{report}"),
    }
    Ok(())
}
