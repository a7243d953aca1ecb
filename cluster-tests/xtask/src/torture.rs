//! `cargo xtask torture`: hands over to the binary `torture` of `cluster-tests`, which breaks a cluster on purpose,
//! judges what was seen, and prints. `test` and `soak` run it too, with options of their own.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup;
use crate::workspace::{Workspace, succeed};

/// What `cargo xtask test` runs: the same plan each time, with the faults that all have their turn in three minutes on
/// two slow cores. `soak` has the others too: bad disks, damaged files, a busy disk, clock jumps.
pub(crate) const GATE: [&str; 6] =
    ["--seconds", "180", "--seed", "20260930", "--faults", "F1,F2,F3,F4,F5,F6,F7,F8,F10,F14,F16"];

/// Builds everything, then runs it with these options; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, options: &[&str]) -> Result<ExitCode> {
    // Standard output belongs to the report, a table or JSON, alone.
    setup::run_quietly(workspace)?;
    let mut build = workspace.build();
    build.stdout(Stdio::null());
    succeed(build)?;
    let mut torture = command(workspace, options);
    let status = torture.status().with_context(|| format!("start {}", workspace.binary("torture").display()))?;
    Ok(exit_code(status.code()))
}

/// The built binary with these options.
pub(crate) fn command<S: AsRef<OsStr>>(workspace: &Workspace, options: &[S]) -> Command {
    let mut command = Command::new(workspace.binary("torture"));
    command.args(options).current_dir(workspace.root()).stdin(Stdio::null());
    command
}

/// What a program without an exit code ended by is told by the shell; for us it failed.
fn exit_code(code: Option<i32>) -> ExitCode {
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_passed_on_and_a_signal_is_a_failure() {
        let check = |code: Option<i32>, expected: ExitCode| {
            assert_eq!(format!("{:?}", exit_code(code)), format!("{expected:?}"), "{code:?}");
        };
        check(Some(0), ExitCode::SUCCESS);
        check(Some(1), ExitCode::FAILURE);
        check(Some(2), ExitCode::from(2));
        check(None, ExitCode::FAILURE);
    }
}
