//! `cargo xtask torture`: hands over to the binary `torture` of `cluster-tests`, which breaks a cluster on purpose,
//! judges what was seen, and prints. `test` and `soak` run it too, with options of their own.
//!
//! With `--planted` it runs the simulated worlds of `ollamax-metadata` instead, in which every known mistake must be
//! found, and nothing where none is. They are tests, built as all tests are, so nothing is compiled a second time.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::setup;
use crate::workspace::{Workspace, shown, succeed};

/// What `cargo xtask test` runs: the same plan each time, with the faults that all have their turn in three minutes on
/// two slow cores. `soak` has the others too: bad disks, damaged files, a busy disk, clock jumps.
pub(crate) const GATE: [&str; 6] =
    ["--seconds", "180", "--seed", "20260930", "--faults", "F1,F2,F3,F4,F5,F6,F7,F8,F10,F14,F16"];

/// The tests of the simulated worlds, among those of all libraries.
const WORLDS: &str = "sim::";
/// How a line of their table begins: `ROW` in `node/crates/metadata/src/sim/planted.rs`.
const ROW: &str = "| ";

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

/// Plants every known mistake in simulated worlds, and prints which world showed it. Exit code 1 when one was not
/// found, or when a world without any was violated; what the tests say then goes to standard error.
pub(crate) fn planted(workspace: &Workspace) -> Result<ExitCode> {
    setup::run_quietly(workspace)?;
    // The whole workspace is named so that features, and with them the built libraries, stay the same.
    let mut tests = workspace.cargo(["test", "--workspace", "--locked", "--lib", "--", WORLDS, "--nocapture"]);
    let shown = shown(&tests);
    let output = tests.stderr(Stdio::inherit()).output().with_context(|| format!("start `{shown}`"))?;
    let table = table(&String::from_utf8_lossy(&output.stdout));
    ensure!(!table.is_empty(), "`{shown}` told of no planted mistake");
    print!("{table}");
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table among everything that tests print.
fn table(printed: &str) -> String {
    printed.lines().filter(|line| line.starts_with(ROW)).map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The built binary with these options.
pub(crate) fn command<S: AsRef<OsStr>>(workspace: &Workspace, options: &[S]) -> Command {
    let mut command = Command::new(workspace.binary("torture"));
    command.args(options).current_dir(workspace.root()).stdin(Stdio::null());
    command
}

/// What a program without an exit code ended by is told by the shell; for us it failed.
pub(crate) fn exit_code(code: Option<i32>) -> ExitCode {
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

    #[test]
    fn the_table_is_what_remains_of_all_that_tests_print() {
        let printed = "\nrunning 2 tests\ntest sim::x ... \n| bug | found |\n| B1  | yes   |\n\n20 worlds | 1\n\
                       test sim::y ... ok\n";
        assert_eq!(table(printed), "| bug | found |\n| B1  | yes   |\n");
        assert_eq!(table("running 0 tests\n"), "");
    }
}
