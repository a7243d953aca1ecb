//! `cargo xtask bench NAME`: hands over to the binary `bench` of `cluster-tests`, which measures and prints.
//!
//! All of it is built as it is installed.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup;
use crate::workspace::{Workspace, succeed};

/// Builds every binary, then runs one benchmark with the rest of the arguments; its exit code is ours.
pub(crate) fn run(workspace: &Workspace, name: &str, rest: &[&str]) -> Result<ExitCode> {
    // Standard output belongs to the benchmark's table or JSON alone.
    setup::run_quietly(workspace)?;
    let mut build = workspace.build_optimised();
    build.stdout(Stdio::null());
    succeed(build)?;
    let binary = workspace.optimised("bench");
    let mut bench = Command::new(&binary);
    bench.arg(name).args(rest).current_dir(workspace.root());
    if needs_etcd(name, rest) {
        setup::etcd::make_ready(workspace, &mut bench)?;
    }
    if name == "transfer" {
        setup::spreaders::make_ready(workspace, &mut bench);
    }
    let status = bench.status().with_context(|| format!("start {}", binary.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether this benchmark compares with etcd.
fn needs_etcd(name: &str, rest: &[&str]) -> bool {
    let named = rest.windows(2).any(|pair| pair == ["--against", "etcd"]) || rest.contains(&"--against=etcd");
    name == "metadata" && named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_comparison_needs_etcd() {
        let check = |name: &str, rest: &[&str], expected: bool| {
            assert_eq!(needs_etcd(name, rest), expected, "{name} {rest:?}");
        };
        check("metadata", &["--against", "etcd", "--quick"], true);
        check("metadata", &["-o", "json", "--against=etcd"], true);
        check("metadata", &["--runs", "1"], false);
        check("metadata", &["--against"], false);
        check("gateway", &["--against", "etcd"], false);
    }
}
