//! `ollamax`: the administrator's command line.
//!
//! Stdout is data, stderr is talk. Every failure is one line what, one line why, one line what to try, and an exit
//! code that scripts can act on (`error.rs`). Nothing is shown as done before the node said so.

use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod client;
mod command;
mod error;
mod http_client;
mod output;
mod place;
mod text;

use args::Cli;
use error::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::other("start", error.to_string()).tell(),
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command::run(cli) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
