//! `conformance mcp`: the official suite of MCP against real nodes, and a table of what it found.
//!
//! It runs three times: against one node; with each request at a node of three that is drawn at random; and so while
//! the leader is killed every five seconds. A scenario that fails while a node dies is done again, twice at most, and
//! the table says so. Nodes have the suite's fixtures switched on (`api.conformance_fixtures`),
//! everything else of them is as a user runs it. The exit code is 0 when every scenario that counts passed everywhere,
//! 1 when one did not or the suite cannot be had, and 2 when the command was called wrongly.

mod again;
mod args;
mod arrangement;
mod forwarder;
mod found;
mod report;
mod suite;

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::args::{Asked, Options};
use crate::report::Report;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
async fn main() -> Result<ExitCode> {
    let Asked::Mcp(options) = Options::parse().asked;
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("conformance: seed={seed} (replay: {})", options.replay(seed));
    // Dropping a run ends the processes that it started.
    let arrangements = options.arrangements();
    let report = tokio::select! {
        report = Box::pin(run(&arrangements, seed)) => report?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for an interrupt")?;
            bail!("interrupted; to draw the same again: {}", options.replay(seed));
        }
    };
    println!("{report}");
    if options.write {
        report.write()?;
    }
    let faults = report.faults();
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(arrangements: &[args::Arrangement], seed: u64) -> Result<Report> {
    let node = suite::ready().await?;
    eprintln!("conformance: {} on Node {node}", suite::PACKAGE);
    let mut columns = Vec::new();
    for arrangement in arrangements {
        eprintln!("conformance: {}", arrangement.words());
        columns.push(Box::pin(arrangement::run(*arrangement, seed)).await.context(arrangement.words())?);
    }
    Ok(Report { node, seed, columns })
}
