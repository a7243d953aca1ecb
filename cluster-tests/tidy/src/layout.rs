//! What lies where: the top level, the names of files and folders, the page that each engine crate explains itself on.

use crate::finding::Finding;
use crate::tree::Tree;

/// Everything that may lie at the top, besides dot-files.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "proto",
    "node",
    "cli",
    "cluster-tests",
    "charts",
    "docs",
    "config",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"];

/// Only what is listed lies at the top level.
#[must_use]
pub fn top_level(tree: &Tree) -> Vec<Finding> {
    let mut tops: Vec<&str> = tree.paths().map(|path| path.split('/').next().unwrap_or(path)).collect();
    tops.dedup();
    let stray = tops.into_iter().filter(|top| !top.starts_with('.') && !TOP_LEVEL.contains(top));
    stray.map(|top| Finding::about(top, "does not belong at the top level; put it into one of the folders")).collect()
}

/// Files and folders of the source tree are nouns of the system.
#[must_use]
pub fn names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.paths().filter(|path| path.ends_with(".rs") || path.ends_with(".proto")) {
        if path.ends_with("/mod.rs") {
            findings.push(Finding::about(path, "write `foo.rs` beside the folder `foo/` instead of `mod.rs`"));
        }
        for part in path.split('/') {
            let stem = part.split('.').next().unwrap_or(part);
            if stem.split(['_', '-']).any(|word| EMPTY_NAMES.contains(&word)) {
                findings.push(Finding::about(path, format!("`{part}` names nothing; name what is inside")));
            }
        }
    }
    findings
}

/// Each crate under `node/crates` has a `DESIGN.md`, and its documentation includes it.
#[must_use]
pub fn design_pages(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in tree.paths().filter(|path| path.starts_with("node/crates/") && path.ends_with("/Cargo.toml")) {
        let folder = manifest.trim_end_matches("/Cargo.toml");
        if !tree.has(&format!("{folder}/DESIGN.md")) {
            findings.push(Finding::about(folder, "has no DESIGN.md: one page on what it owns and why it is so"));
            continue;
        }
        let root = format!("{folder}/src/lib.rs");
        if !tree.text(&root).is_some_and(|text| text.contains("include_str!(\"../DESIGN.md\")")) {
            let message = "does not include its page: add `#![doc = include_str!(\"../DESIGN.md\")]`";
            findings.push(Finding::about(&root, message));
        }
    }
    findings
}

/// Where a file of another crate is compiled in; decision record 0014 says why, and no other place may do it.
const SHARED_AT: [&str; 2] = ["node/crates/gateway/src/http/edge.rs", "node/crates/gateway/src/http/request.rs"];

/// Modules lie where their names say: `#[path]` would get round the import table.
#[must_use]
pub fn module_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("rs").filter(|(path, _)| !SHARED_AT.contains(path)) {
        let lines = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("#[path"));
        findings.extend(lines.map(|(at, _)| Finding::at(path, at + 1, "put the file where its module is")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.path.as_str()).collect()
    }

    #[test]
    fn only_listed_things_lie_at_the_top() {
        let tree = Tree::of(&[
            ("Cargo.toml", ""),
            (".ci/run", ""),
            ("node/Cargo.toml", ""),
            ("scripts/a.sh", ""),
            ("x.md", ""),
        ]);
        assert_eq!(paths(&top_level(&tree)), ["scripts", "x.md"]);
    }

    #[test]
    fn empty_names_are_refused_wherever_they_stand_in_a_path() {
        let check = |path: &str, expected: usize| assert_eq!(names(&Tree::of(&[(path, "")])).len(), expected, "{path}");
        check("node/crates/core/src/routing.rs", 0);
        check("node/crates/core/src/utils.rs", 1);
        check("node/crates/core/src/helpers/text.rs", 1);
        check("node/crates/core/src/cache_manager.rs", 1);
        check("node/crates/core/src/routing/mod.rs", 1);
        check("docs/common.md", 0);
    }

    #[test]
    fn a_file_of_another_crate_is_compiled_in_at_two_places_only() {
        let text = "mod a;\n#[path = \"../b.rs\"]\nmod b;\n";
        let tree = Tree::of(&[("node/src/main.rs", text), (SHARED_AT[0], text), ("docs/a.md", text)]);
        assert_eq!(paths(&module_paths(&tree)), ["node/src/main.rs"]);
    }

    #[test]
    fn an_engine_crate_without_its_page_is_found() {
        let manifest = ("node/crates/a/Cargo.toml", "");
        let page = ("node/crates/a/DESIGN.md", "A.");
        let root = ("node/crates/a/src/lib.rs", "#![doc = include_str!(\"../DESIGN.md\")]\n");
        assert_eq!(paths(&design_pages(&Tree::of(&[manifest, root]))), ["node/crates/a"]);
        assert_eq!(paths(&design_pages(&Tree::of(&[manifest, page]))), ["node/crates/a/src/lib.rs"]);
        assert_eq!(design_pages(&Tree::of(&[manifest, page, root])), []);
    }
}
