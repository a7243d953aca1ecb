//! The working tree, read once: every file that belongs to the project, with its text.
//!
//! What belongs is what git tracks or would track (ignored files are left out). Where git cannot say, for instance in
//! an unpacked archive, it is every file outside `.git` and `target`. A file that is not UTF-8 has no text.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's files: path from the root, with `/`, to text (`None` for binary files).
#[derive(Debug, Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, Option<String>>,
}

// === impl Tree ===

impl Tree {
    /// Reads the tree that this crate lies in.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub fn open() -> io::Result<Self> {
        Self::read(&this_crate().join("../.."))
    }

    /// Reads the tree under `root`.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let paths = match listed_by_git(root) {
            Some(paths) => paths,
            None => walked(root)?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            match fs::read(root.join(&path)) {
                Ok(bytes) => files.insert(path, String::from_utf8(bytes).ok()),
                // Tracked and deleted, or a link to nothing: not part of the working tree.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
        }
        Ok(Self { files })
    }

    /// A tree made of pairs of path and text.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let pairs = files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned())));
        Self { files: pairs.collect() }
    }

    /// Every path, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The text of one file.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Whether the file exists.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Every file with this extension and its text, in order.
    pub fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let texts = self.files.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)));
        texts.filter(move |(path, _)| Path::new(path).extension().is_some_and(|found| found == extension))
    }
}

/// Where this crate lies now: two checkouts may share a target directory, and then the place it was compiled in is not
/// always the one it is run for.
fn this_crate() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// What git tracks or would track; nothing when git is absent or refuses.
fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    let listing = String::from_utf8(output.stdout).ok()?;
    Some(listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// Every file below `root` outside `.git` and `target`.
fn walked(root: &Path) -> io::Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != ".git" && entry.file_name() != "target" {
                    folders.push(path);
                }
            } else {
                paths.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_this_crate_holds_this_file() {
        let tree = Tree::open().expect("the working tree is readable");
        assert!(tree.text("cluster-tests/tidy/src/tree.rs").is_some_and(|text| text.starts_with("//!")));
        assert!(tree.has("Cargo.toml"));
        assert!(!tree.paths().any(|path| path.starts_with(".git/")), "git's own files are not the project's");
    }

    #[test]
    fn a_walk_finds_the_same_rust_files_as_git() {
        let root = this_crate();
        let mut walked: Vec<String> = walked(&root).expect("readable");
        walked.retain(|path| path.ends_with(".rs"));
        walked.sort();
        let read: Vec<String> =
            Tree::read(&root).expect("readable").with_extension("rs").map(|(path, _)| path.to_owned()).collect();
        assert_eq!(walked, read);
    }
}
