//! `torture`: random faults against a cluster of real `ollamax-node` processes under load, and a judgement of all that
//! clients, watchers and the nodes themselves said.
//!
//! What is promised stands in `docs/development/torture.md`. The exit code is 0 when every promise held and enough
//! happened to say so, 1 when one was broken, or too little happened, or the cluster did not come back, and 2 when the
//! command was called wrongly. After a failure data directories, logs and the records of the last round stay; the
//! report says where.

mod args;
mod plan;
mod run;

mod round;

mod clients;
mod leases;
mod sampler;
mod traffic;
mod watchers;

mod disks;
mod faults;
mod logs;

mod check;
mod evidence;
mod final_reads;
mod outage;
mod report;
mod samples;
mod stale;
mod watched;

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::args::{Options, Output};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("torture: seed={seed} (replay: {})", options.replay(seed));
    // Dropping a run ends the processes that it started.
    let report = tokio::select! {
        report = Box::pin(run::run(&options, seed)) => report?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for an interrupt")?;
            bail!("interrupted; to play the same plan again: {}", options.replay(seed));
        }
    };
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{report}"),
    }
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
