//! `cargo xtask conformance mcp`: hands over to the binary `conformance` of `cluster-tests`, which starts nodes, runs
//! the official suite against them, and prints a table.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup;
use crate::torture::exit_code;
use crate::workspace::{Workspace, succeed};

/// Builds every binary, then runs it with these options; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, options: &[&str]) -> Result<ExitCode> {
    // Standard output belongs to the table alone.
    setup::run_quietly(workspace)?;
    let mut build = workspace.build_binaries();
    build.stdout(Stdio::null());
    succeed(build)?;
    let binary = workspace.binary("conformance");
    let mut conformance = Command::new(&binary);
    conformance.arg("mcp").args(options).current_dir(workspace.root()).stdin(Stdio::null());
    let status = conformance.status().with_context(|| format!("start {}", binary.display()))?;
    Ok(exit_code(status.code()))
}
