//! `ollamax dev`: a whole cluster on this machine, from the programs beside this one.
//!
//! `DIR/dev.json` holds the ports, drawn once outside this machine's ephemeral range, and the runtimes; `DIR/nN` is the
//! data directory of node N. A second `up` starts the same cluster again and refuses to make another of it. `down` ends
//! only processes that run on these directories.

#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod ports;
#[cfg(unix)]
mod process;

use crate::args::{DevCommand, Global};
use crate::error::Failure;

/// Runs one of them.
#[cfg(unix)]
pub(crate) async fn run(global: &Global, command: DevCommand) -> Result<(), Failure> {
    match command {
        DevCommand::Up(args) => cluster::up(global, args).await,
        DevCommand::Down => cluster::down(global).await,
    }
}

/// The daemon runs on Linux.
#[cfg(not(unix))]
#[expect(clippy::unused_async, reason = "same shape as on unix")]
pub(crate) async fn run(_global: &Global, _command: DevCommand) -> Result<(), Failure> {
    let next = "run it there; `ollamax run` and `ollamax ps` work from here with --api";
    Err(Failure::new(1, "a cluster cannot be started here", "the daemon runs on Linux", next))
}
