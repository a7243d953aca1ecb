//! `ollamax raft`: consensus on this machine, and what it keeps on disk.

mod verify;

use crate::args::{Global, RaftCommand};
use crate::error::Failure;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: RaftCommand) -> Result<(), Failure> {
    match command {
        RaftCommand::Verify => verify::run(global).await,
    }
}
