//! `cargo xtask bench NAME`: hands over to the binary `bench` of `cluster-tests`, which measures and prints.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup;
use crate::workspace::{Workspace, succeed};

/// Builds everything, then runs one benchmark with the rest of the arguments; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, name: &str, rest: &[&str]) -> Result<ExitCode> {
    // Standard output belongs to the benchmark's table or JSON alone.
    setup::run_quietly(workspace)?;
    let mut build = workspace.build();
    build.stdout(Stdio::null());
    succeed(build)?;
    let binary = workspace.binary("bench");
    let mut bench = std::process::Command::new(&binary);
    bench.arg(name).args(rest).current_dir(workspace.root());
    let status = bench.status().with_context(|| format!("start {}", binary.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
