//! `ollamax`: the administrator's command line.
//!
//! Stdout is data, stderr is talk. Every failure is one line what, one line why, one line what to try, and an exit
//! code that scripts can act on (`error.rs`). Nothing is shown as done before the node said so.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod client;
mod command;
mod consent;
mod error;
mod http_client;
mod output;
mod place;
mod program;
mod text;
mod usage;

use args::{Cli, Output};
use error::Failure;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(mut error) => {
            usage::point_to_models(&mut error, &words);
            return refuse(&error, &words);
        }
    };
    let (form, verbose) = (cli.global.output, cli.global.verbose);
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(command::run(cli));
            // A thread that still reads a file or the keyboard holds nobody up.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::new(1, "start", error.to_string(), "look at the limits of this session: ulimit -a")),
    };
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    output::tell(form, verbose, &failure);
    ExitCode::from(failure.exit())
}

/// Help, the version, or a command line that makes no sense.
fn refuse(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if error.use_stderr() && usage::wants_json(words) {
        let failure = usage::failure(error, words);
        output::tell(Output::Json, false, &failure);
        return ExitCode::from(failure.exit());
    }
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
