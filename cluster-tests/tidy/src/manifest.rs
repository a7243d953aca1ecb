//! The manifests of the workspace, read: which crates there are, where they lie, and what they depend on.
//!
//! A manifest that cannot be read is a finding of [`well_formed`]; the other checks then work on the rest.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::finding::Finding;
use crate::tree::Tree;

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Part of the product.
    Product,
    /// Runs at build time.
    Build,
    /// Runs in tests only.
    Test,
}

/// One line of a dependency table.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// The name under which it is imported (the key).
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether version and place come from the workspace table.
    pub from_workspace: bool,
    /// Whether the line itself sets cargo features.
    pub sets_features: bool,
}

/// One crate of the workspace.
#[derive(Debug, Clone)]
pub struct Crate {
    /// Folder from the root of the tree.
    pub folder: String,
    /// Package name.
    pub package: String,
    /// Everything it depends on.
    pub dependencies: Vec<Dependency>,
    /// The whole manifest.
    pub table: Table,
}

// === impl Crate ===

impl Crate {
    /// Path of its manifest.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }

    fn parse(folder: &str, text: &str) -> Result<Self, String> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
        let package = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let package = package.ok_or("has no package name")?.to_owned();
        let mut dependencies = Vec::new();
        collect(&table, &mut dependencies);
        for target in table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values) {
            collect(target.as_table().ok_or("has a `target` that is no table")?, &mut dependencies);
        }
        Ok(Self { folder: folder.to_owned(), package, dependencies, table })
    }
}

fn collect(table: &Table, dependencies: &mut Vec<Dependency>) {
    let tables = [
        ("dependencies", Purpose::Product),
        ("build-dependencies", Purpose::Build),
        ("dev-dependencies", Purpose::Test),
    ];
    for (key, purpose) in tables {
        for (name, value) in table.get(key).and_then(Value::as_table).into_iter().flatten() {
            dependencies.push(Dependency {
                name: name.clone(),
                purpose,
                from_workspace: value.get("workspace").and_then(Value::as_bool) == Some(true),
                sets_features: value.get("features").is_some() || value.get("default-features").is_some(),
            });
        }
    }
}

/// Every crate whose manifest can be read, by folder.
#[must_use]
pub fn crates(tree: &Tree) -> Vec<Crate> {
    manifests(tree).filter_map(|(folder, text)| Crate::parse(folder, text).ok()).collect()
}

fn manifests(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.with_extension("toml").filter_map(|(path, text)| Some((path.strip_suffix("/Cargo.toml")?, text)))
}

/// The root manifest's workspace dependencies by name, each as written.
#[must_use]
pub fn workspace_dependencies(tree: &Tree) -> BTreeMap<String, Value> {
    let root: Option<Table> = tree.text("Cargo.toml").and_then(|text| text.parse().ok());
    let workspace = root.as_ref().and_then(|root| root.get("workspace"));
    let table = workspace.and_then(|workspace| workspace.get("dependencies")).and_then(Value::as_table);
    table.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Every manifest can be read, belongs to the workspace, and inherits its lints; versions stand at the root alone.
#[must_use]
pub fn well_formed(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let members = members(tree);
    for (folder, text) in manifests(tree) {
        let path = format!("{folder}/Cargo.toml");
        let found = match Crate::parse(folder, text) {
            Ok(found) => found,
            Err(problem) => {
                findings.push(Finding::about(&path, problem));
                continue;
            }
        };
        if !members.iter().any(|member| member == folder) {
            findings.push(Finding::about(&path, "is no member of the workspace: add it to the root manifest"));
        }
        let lints = found.table.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        if lints != Some(true) {
            findings.push(Finding::about(&path, "must say `[lints] workspace = true`"));
        }
        let doctest = found.table.get("lib").and_then(|lib| lib.get("doctest")).and_then(Value::as_bool);
        if tree.has(&format!("{folder}/src/lib.rs")) && doctest != Some(false) {
            findings.push(Finding::about(&path, "must say `[lib] doctest = false`: one link less per crate"));
        }
        for dependency in &found.dependencies {
            findings.extend(table_breaches(&path, dependency));
        }
    }
    findings
}

/// A version or a feature that stands outside the workspace table.
fn table_breaches(path: &str, dependency: &Dependency) -> Option<Finding> {
    let name = &dependency.name;
    if !dependency.from_workspace {
        let message =
            format!("`{name}`: set its version in the root's [workspace.dependencies], here `workspace = true`");
        return Some(Finding::about(path, message));
    }
    // A test may ask for more of a library than the product does (tokio's `test-util`).
    if dependency.sets_features && dependency.purpose != Purpose::Test {
        return Some(Finding::about(
            path,
            format!("`{name}`: set its features in the root's [workspace.dependencies]"),
        ));
    }
    None
}

fn members(tree: &Tree) -> Vec<String> {
    let root: Option<Table> = tree.text("Cargo.toml").and_then(|text| text.parse().ok());
    let workspace = root.as_ref().and_then(|root| root.get("workspace"));
    let list = workspace.and_then(|workspace| workspace.get("members")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = [\"a\"]\n[workspace.dependencies]\nbytes = \"1\"\n";
    const HEAD: &str = "[package]\nname = \"a\"\n[lints]\nworkspace = true\n";

    fn messages(manifest: &str) -> Vec<String> {
        let tree = Tree::of(&[("Cargo.toml", ROOT), ("a/Cargo.toml", manifest)]);
        well_formed(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn versions_and_features_stand_in_the_workspace_table() {
        let check =
            |lines: &str, expected: usize| assert_eq!(messages(&format!("{HEAD}{lines}")).len(), expected, "{lines}");
        check("[dependencies]\nbytes.workspace = true\n", 0);
        check("[dependencies]\nbytes = { workspace = true, optional = true }\n", 0);
        check("[dependencies]\nbytes = \"1\"\n", 1);
        check("[dependencies]\nbytes = { workspace = true, features = [\"serde\"] }\n", 1);
        check("[dev-dependencies]\nbytes = { workspace = true, features = [\"serde\"] }\n", 0);
        check("[target.'cfg(unix)'.dependencies]\nbytes = { path = \"../b\" }\n", 1);
    }

    #[test]
    fn a_crate_is_a_member_and_inherits_the_lints() {
        assert_eq!(messages("[package]\nname = \"a\"\n").len(), 1, "no lints");
        assert_eq!(messages("[package\n").len(), 1, "not TOML");
        assert_eq!(messages("[lints]\nworkspace = true\n"), ["has no package name"]);
        let tree = Tree::of(&[("Cargo.toml", ROOT), ("b/Cargo.toml", HEAD)]);
        assert_eq!(well_formed(&tree).len(), 1, "not a member");
    }

    #[test]
    fn a_library_has_no_doctest_target() {
        let check = |lib: &str, expected: usize| {
            let manifest = format!("{HEAD}{lib}");
            let tree = Tree::of(&[("Cargo.toml", ROOT), ("a/Cargo.toml", &manifest), ("a/src/lib.rs", "")]);
            assert_eq!(well_formed(&tree).len(), expected, "{lib}");
        };
        check("", 1);
        check("[lib]\ndoctest = false\n", 0);
    }
}
