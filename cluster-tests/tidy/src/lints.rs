//! The settings of the other gates: the lints of the workspace, clippy's and rustfmt's files.
//!
//! A gate whose settings were loosened is green for nothing; these lines are part of the house style.

use toml::{Table, Value};

use crate::finding::Finding;
use crate::tree::Tree;

const ROOT_FILE: &str = ".clippy.toml";
const CORE_FILE: &str = "node/crates/core/.clippy.toml";
const CORE_ONLY: &[&str] = &["std::collections::HashMap", "std::collections::HashSet"];

/// Lints that stop the build, by table.
const DENIED: &[(&str, &str)] = &[
    ("rust", "unsafe_code"),
    ("rustdoc", "broken_intra_doc_links"),
    ("clippy", "unwrap_used"),
    ("clippy", "panic"),
    ("clippy", "todo"),
    ("clippy", "dbg_macro"),
    ("clippy", "print_stdout"),
    ("clippy", "disallowed_methods"),
    ("clippy", "disallowed_types"),
];

/// Lints that warn here and stop the gate.
const WARNED: &[(&str, &str)] = &[
    ("rust", "missing_docs"),
    ("rust", "unreachable_pub"),
    ("rust", "unused_qualifications"),
    ("rust", "missing_debug_implementations"),
    ("rust", "let_underscore_drop"),
    ("clippy", "allow_attributes_without_reason"),
    ("clippy", "mod_module_files"),
    ("clippy", "too_many_lines"),
    ("clippy", "large_futures"),
    ("clippy", "unused_async"),
    ("clippy", "manual_let_else"),
    ("clippy", "implicit_clone"),
    ("clippy", "semicolon_if_nothing_returned"),
    ("clippy", "uninlined_format_args"),
];

/// The root manifest holds the lints of the house, at their strength.
#[must_use]
pub fn workspace_lints(tree: &Tree) -> Vec<Finding> {
    let lints = read(tree, "Cargo.toml").and_then(|root| root.get("workspace")?.get("lints").cloned());
    let strength = |table: &str, lint: &str| lints.as_ref()?.get(table)?.get(lint)?.as_str();
    let mut findings = Vec::new();
    for (table, lint) in DENIED {
        if !matches!(strength(table, lint), Some("deny" | "forbid")) {
            findings.push(Finding::about("Cargo.toml", format!("must deny {table}'s `{lint}` for the workspace")));
        }
    }
    for (table, lint) in WARNED {
        if !matches!(strength(table, lint), Some("warn" | "deny" | "forbid")) {
            findings.push(Finding::about("Cargo.toml", format!("must warn of {table}'s `{lint}` in the workspace")));
        }
    }
    findings
}

/// Lines are 120 columns wide and functions at most 80 lines long.
#[must_use]
pub fn numbers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, key, number) in [
        (".rustfmt.toml", "max_width", 120),
        (ROOT_FILE, "too-many-lines-threshold", 80),
        (ROOT_FILE, "too-many-arguments-threshold", 6),
    ] {
        if read(tree, file).and_then(|table| table.get(key)?.as_integer()) != Some(number) {
            findings.push(Finding::about(file, format!("must say `{key} = {number}`")));
        }
    }
    findings
}

/// `core` has clippy settings of its own (clippy reads one file): the root's, and no hash order.
#[must_use]
pub fn core_repeats_the_root(tree: &Tree) -> Vec<Finding> {
    let (Some(root), Some(core)) = (read(tree, ROOT_FILE), read(tree, CORE_FILE)) else {
        return vec![Finding::about(CORE_FILE, format!("it and {ROOT_FILE} must exist and be TOML"))];
    };
    let mut findings = Vec::new();
    for (key, value) in &root {
        if key == "disallowed-types" {
            continue;
        }
        if core.get(key) != Some(value) {
            findings.push(Finding::about(CORE_FILE, format!("must repeat `{key}` of {ROOT_FILE} word for word")));
        }
    }
    let types = paths(&core);
    let root_types = paths(&root);
    for missing in root_types.iter().map(String::as_str).chain(CORE_ONLY.iter().copied()) {
        if !types.iter().any(|path| path == missing) {
            findings.push(Finding::about(CORE_FILE, format!("must disallow the type `{missing}`")));
        }
    }
    findings
}

fn paths(table: &Table) -> Vec<String> {
    let list = table.get("disallowed-types").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|entry| entry.as_str().or_else(|| entry.get("path")?.as_str())).map(str::to_owned).collect()
}

fn read(tree: &Tree, path: &str) -> Option<Table> {
    tree.text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loosened_lint_is_found() {
        let lints = |skip: &str, strength: &str| {
            let mut text = String::new();
            for (table, lint) in DENIED.iter().chain(WARNED).filter(|(_, lint)| *lint != skip) {
                text += &format!("[workspace.lints.{table}.{lint}]\nlevel = \"{strength}\"\n");
            }
            text
        };
        let flat = |skip: &str, strength: &str| {
            let mut text = String::new();
            for group in ["rust", "rustdoc", "clippy"] {
                text += &format!("[workspace.lints.{group}]\n");
                let members = DENIED.iter().chain(WARNED).filter(|(table, lint)| *table == group && *lint != skip);
                members.for_each(|(_, lint)| text += &format!("{lint} = \"{strength}\"\n"));
            }
            text
        };
        let check = |text: String, expected: usize| {
            assert_eq!(workspace_lints(&Tree::of(&[("Cargo.toml", &text)])).len(), expected, "{text}");
        };
        check(flat("", "deny"), 0);
        check(flat("unwrap_used", "deny"), 1);
        check(flat("missing_docs", "deny"), 1);
        check(flat("", "warn"), DENIED.len());
        check(flat("", "allow"), DENIED.len() + WARNED.len());
        check(lints("", "deny"), DENIED.len() + WARNED.len());
    }

    #[test]
    fn other_numbers_are_found() {
        let check = |rustfmt: &str, clippy: &str, expected: usize| {
            let tree = Tree::of(&[(".rustfmt.toml", rustfmt), (".clippy.toml", clippy)]);
            assert_eq!(numbers(&tree).len(), expected);
        };
        check("max_width = 120\n", "too-many-lines-threshold = 80\ntoo-many-arguments-threshold = 6\n", 0);
        check("max_width = 140\n", "too-many-lines-threshold = 80\ntoo-many-arguments-threshold = 6\n", 1);
        check("max_width = 120\n", "", 2);
    }

    #[test]
    fn core_settings_that_drift_from_the_root_are_found() {
        let root = "a = 1\ndisallowed-types = [\"x::Y\"]\n";
        let hashes = "\"std::collections::HashMap\", { path = \"std::collections::HashSet\" }";
        let check = |core: &str, expected: usize| {
            let tree = Tree::of(&[(ROOT_FILE, root), (CORE_FILE, core)]);
            assert_eq!(core_repeats_the_root(&tree).len(), expected, "{core}");
        };
        check(&format!("a = 1\ndisallowed-types = [\"x::Y\", {hashes}]\n"), 0);
        check(&format!("a = 2\ndisallowed-types = [\"x::Y\", {hashes}]\n"), 1);
        check(&format!("a = 1\ndisallowed-types = [{hashes}]\n"), 1);
        check("a = 1\ndisallowed-types = [\"x::Y\"]\n", 2);
        assert_eq!(core_repeats_the_root(&Tree::of(&[(ROOT_FILE, root)])).len(), 1);
    }
}
