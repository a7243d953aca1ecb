//! `cargo xtask test`: every gate, in the order in which a mistake costs least to find.
//!
//! The C++ libraries are compiled once, RocksDB before all else: lints, documentation, build and tests use one profile
//! and one set of features, and so share the results of their build scripts. All binaries are built before any test
//! runs, because the suites of processes start them. One node by itself has to work before clusters are started, and
//! the suites before a cluster is tortured. That the example configuration is unchanged is a test of the node.

use std::process::ExitCode;

use anyhow::Result;

use crate::closing::Closing;
use crate::setup;
use crate::steps::Steps;
use crate::torture;
use crate::workspace::{Workspace, succeed};

/// The suite of one node: `cluster-tests/tests/it/single_node.rs`.
const SINGLE_NODE: &str = "single_node::";

/// Runs the gates; `keep_going` runs the later ones after a failure too.
pub(crate) fn run(workspace: &Workspace, keep_going: bool) -> Result<ExitCode> {
    let mut steps = Steps::new(keep_going);
    let mut closing = Closing::default();
    steps.run("machine", || setup::run_for_tests(workspace).and_then(|()| setup::check_components(workspace)));
    steps.run("format", || succeed(workspace.cargo(["fmt", "--all", "--check"])));
    steps.run("house style", || closing.run(workspace.cargo(["test", "--package", "tidy", "--locked"])));
    steps.run("lints", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
        succeed(workspace.cargo(arguments))
    });
    steps.run("documentation", || {
        let mut command = workspace.cargo(["doc", "--workspace", "--no-deps", "--locked"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        succeed(command)
    });
    steps.run("build", || succeed(workspace.build()));
    steps.run("single node", || {
        // The whole workspace is named so that features, and with them what was built, stay the same.
        let arguments = ["test", "--workspace", "--exclude", "tidy", "--locked", "--test", "it", "--", SINGLE_NODE];
        closing.run(workspace.cargo(arguments))
    });
    steps.run("tests", || {
        let arguments = ["test", "--workspace", "--exclude", "tidy", "--locked", "--no-fail-fast", "--"];
        closing.run(workspace.cargo(arguments.into_iter().chain(["--skip", SINGLE_NODE])))
    });
    steps.run("torture", || succeed(torture::command(workspace, &torture::GATE)));
    println!("\n{}", steps.table());
    if !closing.is_empty() {
        println!("{}\n\n{}", closing.totals(), closing.text());
    }
    Ok(if steps.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
