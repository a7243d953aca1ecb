//! Who may import whom: the six levels of the tree as a table, read against the manifests.
//!
//! Words → decisions → disk → engines → doors and families → assembly. Imports go to lower levels only, and only to
//! the crates listed here; a crate that is not listed needs a decision record and a line in this table.

use crate::finding::Finding;
use crate::manifest::{Crate, Dependency, Purpose, crates};
use crate::tree::Tree;

/// One row: a crate's folder, its package, and which of our own crates it may import (by folder).
struct Row {
    folder: &'static str,
    package: &'static str,
    level: u8,
    may_import: &'static [&'static str],
}

const fn row(folder: &'static str, package: &'static str, level: u8, may_import: &'static [&'static str]) -> Row {
    Row { folder, package, level, may_import }
}

/// Imports anything: assembly, and what is never part of the product.
const ANYTHING: &[&str] = &["*"];

/// The table. `proto` has no level of its own: generated words, below everything that speaks them.
const TABLE: &[Row] = &[
    row("proto", "ollamax-proto", 0, &[]),
    row("node/crates/types", "ollamax-types", 1, &[]),
    row("node/crates/core", "ollamax-core", 2, &["types"]),
    row("node/crates/security", "ollamax-security", 2, &["types"]),
    row("node/crates/store", "ollamax-store", 3, &["types", "core", "proto"]),
    row("node/crates/blobs", "ollamax-blobs", 3, &["types"]),
    row("node/crates/vectors", "ollamax-vectors", 3, &["types"]),
    row("node/crates/cache", "ollamax-cache", 3, &["types"]),
    row("node/crates/sandbox", "ollamax-sandbox", 3, &["types"]),
    row("node/crates/metadata", "ollamax-metadata", 4, &["types", "core", "security", "store", "proto"]),
    row("node/crates/transfer", "ollamax-transfer", 4, &["types", "core", "blobs"]),
    row("node/crates/scheduler", "ollamax-scheduler", 4, &["types", "core", "cache"]),
    row("node/crates/tools", "ollamax-tools", 4, &["types", "core", "security"]),
    row(
        "node/crates/gateway",
        "ollamax-gateway",
        5,
        &["types", "core", "security", "proto", "tools", "metadata", "transfer", "scheduler"],
    ),
    row("node/crates/net", "ollamax-net", 5, &["types", "security", "proto"]),
    row("node/crates/outbound", "ollamax-outbound", 5, &["types", "security"]),
    row("node/families/cluster", "ollamax-family-cluster", 5, &["types", "tools"]),
    row("node/families/models", "ollamax-family-models", 5, &["types", "tools"]),
    row("node/families/inference", "ollamax-family-inference", 5, &["types", "tools"]),
    row("node/families/memory", "ollamax-family-memory", 5, &["types", "tools"]),
    row("node/families/cli-tools", "ollamax-family-cli-tools", 5, &["types", "tools"]),
    row("node/families/guidance", "ollamax-family-guidance", 5, &["types", "tools"]),
    row("node/families/knowledge", "ollamax-family-knowledge", 5, &["types", "tools"]),
    row("node/families/workflow", "ollamax-family-workflow", 5, &["types", "tools"]),
    row("node/families/coding", "ollamax-family-coding", 5, &["types", "tools"]),
    row("node/engine", "ollamax-engine", 5, &[]),
    row("node", "ollamax-node", 6, ANYTHING),
    row("cli", "ollamax-cli", 6, &["types", "proto"]),
    row("cluster-tests", "cluster-tests", 7, ANYTHING),
    row("cluster-tests/testkit", "ollamax-testkit", 7, ANYTHING),
    row("cluster-tests/tidy", "tidy", 7, ANYTHING),
    row("cluster-tests/xtask", "xtask", 7, ANYTHING),
];

/// Third-party crates that bring time, chance, tasks or IO into the pure crates.
const IMPURE: &[&str] = &[
    "anyhow",
    "async-trait",
    "futures",
    "mio",
    "nix",
    "rand",
    "reqwest",
    "rocksdb",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tracing",
];

/// Every crate stands in the table, under its name, and imports only what its row allows.
#[must_use]
pub fn levels(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for found in crates(tree) {
        let Some(row) = TABLE.iter().find(|row| row.folder == found.folder) else {
            let message = "is not in the tree of crates: it needs a decision record and a row in tidy's table";
            findings.push(Finding::about(&found.manifest(), message));
            continue;
        };
        if found.package != row.package {
            let message = format!("is called `{}`; at this place it is `{}`", found.package, row.package);
            findings.push(Finding::about(&found.manifest(), message));
        }
        findings.extend(found.dependencies.iter().filter_map(|dependency| forbidden(row, &found, dependency)));
    }
    findings
}

fn forbidden(row: &Row, found: &Crate, dependency: &Dependency) -> Option<Finding> {
    let Some(target) = TABLE.iter().find(|target| target.package == dependency.name) else {
        return forbidden_library(row, found, dependency);
    };
    if row.may_import == ANYTHING && (row.level == 7 || target.level < 7 || dependency.purpose == Purpose::Test) {
        return None;
    }
    // The test kit may be used from every crate's `tests/` folder (and from nowhere else: see `kit_in_unit_tests`).
    if target.package == "ollamax-testkit" && dependency.purpose == Purpose::Test {
        return None;
    }
    let listed = row.may_import.iter().any(|name| target.folder.rsplit('/').next() == Some(name));
    (!listed).then(|| {
        let allowed =
            if row.may_import.is_empty() { "none of our crates".to_owned() } else { row.may_import.join(", ") };
        let message = format!("must not import `{}`; it may import {allowed}", dependency.name);
        Finding::about(&found.manifest(), message)
    })
}

/// The pure crates stay pure; `anyhow` is for binaries and tests.
fn forbidden_library(row: &Row, found: &Crate, dependency: &Dependency) -> Option<Finding> {
    if dependency.purpose == Purpose::Test {
        return None;
    }
    if row.level <= 2 && row.folder != "node/crates/security" && IMPURE.contains(&dependency.name.as_str()) {
        let message = format!("must not use `{}`: no IO, no clock, no chance, no tasks at this level", dependency.name);
        return Some(Finding::about(&found.manifest(), message));
    }
    if dependency.name == "anyhow" && row.folder.starts_with("node/crates/") {
        let message = "must not use `anyhow`: a library lists what can happen in an enum of its own";
        return Some(Finding::about(&found.manifest(), message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, package: &str, dependencies: &str, expected: usize) {
        let manifest = format!("[package]\nname = \"{package}\"\n{dependencies}\n");
        let tree = Tree::of(&[(&format!("{folder}/Cargo.toml"), manifest.as_str())]);
        let findings = levels(&tree);
        assert_eq!(findings.len(), expected, "{folder} {dependencies}: {findings:?}");
    }

    fn uses(name: &str) -> String {
        format!("[dependencies]\n{name}.workspace = true")
    }

    #[test]
    fn imports_go_to_the_listed_crates_only() {
        check("node/crates/core", "ollamax-core", &uses("ollamax-types"), 0);
        check("node/crates/core", "ollamax-core", &uses("ollamax-store"), 1);
        check("node/crates/net", "ollamax-net", &uses("ollamax-metadata"), 1);
        check("node/crates/gateway", "ollamax-gateway", &uses("ollamax-metadata"), 0);
        check("node/families/memory", "ollamax-family-memory", &uses("ollamax-family-models"), 1);
        check("node/engine", "ollamax-engine", &uses("ollamax-types"), 1);
        check("cli", "ollamax-cli", &uses("ollamax-node"), 1);
        check("node", "ollamax-node", &uses("ollamax-store"), 0);
        check("cluster-tests", "cluster-tests", &uses("ollamax-node"), 0);
    }

    #[test]
    fn the_test_kit_is_for_tests() {
        check("node/crates/net", "ollamax-net", "[dev-dependencies]\nollamax-testkit.workspace = true", 0);
        check("node/crates/net", "ollamax-net", &uses("ollamax-testkit"), 1);
        check("node", "ollamax-node", &uses("ollamax-testkit"), 1);
        check("node/crates/net", "ollamax-net", "[dev-dependencies]\nollamax-store.workspace = true", 1);
    }

    #[test]
    fn a_crate_stands_at_its_place_under_its_name() {
        check("node/crates/widgets", "ollamax-widgets", "", 1);
        check("node/crates/core", "ollamax-kernel", "", 1);
    }

    #[test]
    fn the_pure_crates_take_no_impure_library() {
        check("node/crates/core", "ollamax-core", &uses("tokio"), 1);
        check("node/crates/types", "ollamax-types", &uses("rand"), 1);
        check("node/crates/security", "ollamax-security", &uses("rand"), 0);
        check("node/crates/core", "ollamax-core", "[dev-dependencies]\nrand.workspace = true", 0);
        check("node/crates/store", "ollamax-store", &uses("anyhow"), 1);
        check("cli", "ollamax-cli", &uses("anyhow"), 0);
    }

    #[test]
    fn the_table_itself_only_points_downwards() {
        for row in TABLE.iter().filter(|row| row.may_import != ANYTHING) {
            for name in row.may_import {
                let target = TABLE.iter().find(|target| target.folder.rsplit('/').next() == Some(name));
                let target = target.unwrap_or_else(|| panic!("{}: no crate called {name}", row.folder));
                assert!(target.level < row.level, "{} imports {}, which is not below it", row.folder, target.folder);
            }
        }
    }
}
