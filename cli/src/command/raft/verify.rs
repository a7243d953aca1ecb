//! `ollamax raft verify`: has `ollamax-node`, which alone knows the files, look at a data directory whose daemon is
//! stopped. What it says and its exit code are handed on as they are.

use std::process::Stdio;

use tokio::process::Command;

use crate::args::{Global, Output};
use crate::error::Failure;
use crate::{place, program};

/// Looks, and ends as `ollamax-node verify` did.
pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let program = program::sibling("ollamax-node")?;
    let data_dir = place::offline_dir(global)?;
    let output = match global.output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let mut command = Command::new(&program);
    command.arg("verify").arg("--data-dir").arg(&data_dir).arg("--output").arg(output);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let failed = |error: std::io::Error| {
        let next = "use ollamax and ollamax-node of one release: ollamax --version";
        Failure::new(1, format!("run {}", program.display()), error.to_string(), next)
    };
    let status = command.status().await.map_err(failed)?;
    match status.code().map(u8::try_from) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(exit)) => Err(Failure::passed_on(exit)),
        _ => {
            let next = "repeat it; if it ends so again, look at the kernel's log: dmesg";
            Err(Failure::new(1, format!("{} did not finish", program.display()), status.to_string(), next))
        }
    }
}
