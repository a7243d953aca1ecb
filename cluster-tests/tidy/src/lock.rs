//! `Cargo.lock` says the same as the manifests, and holds no version that is known to be broken.
//!
//! Every gate runs with `--locked`, which refuses a stale lock file as well; this check says which line is missing and
//! needs neither the network nor a registry.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::finding::Finding;
use crate::manifest::{Crate, crates, workspace_dependencies};
use crate::tree::Tree;

const LOCK: &str = "Cargo.lock";

/// A version that must not be used, and why.
const BROKEN: &[(&str, &str, &str)] = &[
    ("yamux", "0.14.0", "loses wake-ups and hangs; 0.14.1 or newer"),
    ("rustls", "0.24.0", "is a development release"),
];

/// A library whose version is pinned exactly.
const PINNED: &[(&str, &str)] = &[("openraft", "=0.10.0-alpha.37")];

/// The lock file lists each member with exactly its dependencies; pins are kept, broken versions absent.
#[must_use]
pub fn is_current(tree: &Tree) -> Vec<Finding> {
    let Some(Ok(lock)) = tree.text(LOCK).map(str::parse::<Table>) else {
        return vec![Finding::about(LOCK, "is missing or cannot be read: run `cargo check` and add the file")];
    };
    let packages: Vec<&Table> =
        lock.get("package").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table).collect();
    let renamed = workspace_dependencies(tree);
    let mut findings = Vec::new();
    for found in crates(tree) {
        let Some(package) = packages.iter().find(|package| text(package, "name") == found.package) else {
            findings.push(Finding::about(LOCK, format!("does not know `{}`: run `cargo check`", found.package)));
            continue;
        };
        let locked = locked_dependencies(package);
        let wanted = wanted_dependencies(&found, &renamed);
        for name in wanted.symmetric_difference(&locked) {
            let message = format!("is out of step with {} about `{name}`: run `cargo check`", found.manifest());
            findings.push(Finding::about(LOCK, message));
        }
    }
    for (name, version, reason) in BROKEN {
        if packages.iter().any(|package| text(package, "name") == *name && text(package, "version") == *version) {
            findings.push(Finding::about(LOCK, format!("holds {name} {version}, which {reason}")));
        }
    }
    findings
}

/// Libraries whose behaviour the project depends on to the letter are pinned to the letter.
#[must_use]
pub fn pins(tree: &Tree) -> Vec<Finding> {
    let table = workspace_dependencies(tree);
    let wrong = PINNED.iter().filter(|(name, pin)| {
        table.get(*name).is_some_and(|value| value.as_str().or_else(|| value.get("version")?.as_str()) != Some(pin))
    });
    wrong.map(|(name, pin)| Finding::about("Cargo.toml", format!("must pin `{name}` to \"{pin}\""))).collect()
}

fn text<'a>(package: &'a Table, key: &str) -> &'a str {
    package.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The names in a locked package's list; an entry is `name`, `name version` or `name version (source)`.
fn locked_dependencies(package: &Table) -> BTreeSet<String> {
    let list = package.get("dependencies").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    list.filter_map(|entry| entry.split_whitespace().next()).map(str::to_owned).collect()
}

/// The package names that a manifest asks for; a dependency on itself is not listed in a lock file.
fn wanted_dependencies(found: &Crate, workspace: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let package_of = |name: &str| {
        let renamed = workspace.get(name).and_then(|value| value.get("package")).and_then(Value::as_str);
        renamed.unwrap_or(name).to_owned()
    };
    let names = found.dependencies.iter().map(|dependency| package_of(&dependency.name));
    names.filter(|name| *name != found.package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.dependencies]\nbytes = \"1\"\nbox = { version = \"1\", package = \"real-box\" }\n";

    fn check(manifest: &str, lock: &str, expected: usize) {
        let manifest = format!("[package]\nname = \"a\"\n{manifest}");
        let tree = Tree::of(&[("Cargo.toml", ROOT), ("Cargo.lock", lock), ("a/Cargo.toml", &manifest)]);
        let findings = is_current(&tree);
        assert_eq!(findings.len(), expected, "{manifest} {lock}: {findings:?}");
    }

    #[test]
    fn a_lock_file_that_lags_is_found() {
        let bytes = "[dependencies]\nbytes.workspace = true\n";
        check(bytes, "[[package]]\nname = \"a\"\ndependencies = [\"bytes\"]\n", 0);
        check(bytes, "[[package]]\nname = \"a\"\ndependencies = [\"bytes 1.2.3\"]\n", 0);
        check(bytes, "[[package]]\nname = \"a\"\n", 1);
        check("", "[[package]]\nname = \"a\"\ndependencies = [\"bytes\"]\n", 1);
        check("", "[[package]]\nname = \"b\"\n", 1);
        check(
            "[dependencies]\nbox.workspace = true\n",
            "[[package]]\nname = \"a\"\ndependencies = [\"real-box\"]\n",
            0,
        );
        check("", "[[package]\n", 1);
    }

    #[test]
    fn a_broken_version_is_found() {
        let a = "[[package]]\nname = \"a\"\n";
        check("", &format!("{a}[[package]]\nname = \"yamux\"\nversion = \"0.14.1\"\n"), 0);
        check("", &format!("{a}[[package]]\nname = \"yamux\"\nversion = \"0.14.0\"\n"), 1);
    }

    #[test]
    fn a_loosened_pin_is_found() {
        let check = |line: &str, expected: usize| {
            let root = format!("[workspace.dependencies]\n{line}\n");
            assert_eq!(pins(&Tree::of(&[("Cargo.toml", &root)])).len(), expected, "{line}");
        };
        check("openraft = { version = \"=0.10.0-alpha.37\" }", 0);
        check("openraft = \"=0.10.0-alpha.37\"", 0);
        check("openraft = \"0.10.0-alpha.37\"", 1);
    }
}
