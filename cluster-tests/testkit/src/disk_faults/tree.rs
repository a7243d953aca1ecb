//! What lies below the root: names, files and lengths, as one look found them.
//!
//! A name stands in a directory, not on a path, so that a directory that moves takes its names along. Symbolic links,
//! sockets and the like are seen and never changed, except where they stand in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The number of a file or directory on its device. The number of one that is gone is given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode(pub(crate) u64);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    File,
    Directory,
    Other,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place<N> {
    pub(crate) directory: N,
    pub(crate) name: OsString,
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry<N> {
    pub(crate) node: N,
    pub(crate) kind: Kind,
}

/// All names.
pub(crate) type Entries<N> = BTreeMap<Place<N>, Entry<N>>;
/// All names by their path from the root; a directory comes before what it holds.
pub(crate) type Paths<N> = BTreeMap<PathBuf, (Place<N>, Entry<N>)>;

/// Everything below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: Inode,
    pub(crate) entries: Entries<Inode>,
    pub(crate) lengths: BTreeMap<Inode, u64>,
}

/// A second name of a file that lost one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grave {
    pub(crate) file: OsString,
    pub(crate) length: u64,
}

/// What there is at the moment of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) tree: Tree,
    pub(crate) graves: BTreeMap<Inode, Grave>,
}

// === impl Kind ===

impl Kind {
    fn of(about: &Metadata) -> Self {
        match about.file_type() {
            kind if kind.is_file() => Self::File,
            kind if kind.is_dir() => Self::Directory,
            _ => Self::Other,
        }
    }
}

// === impl Tree ===

impl Tree {
    /// Looks at everything below `root`. Nothing may change meanwhile.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let about = fs::metadata(root).with_context(|| format!("look at {}", root.display()))?;
        let mut tree = Self { root: Inode(about.ino()), entries: BTreeMap::new(), lengths: BTreeMap::new() };
        let mut folders = vec![(root.to_owned(), tree.root)];
        while let Some((path, directory)) = folders.pop() {
            for entry in fs::read_dir(&path).with_context(|| format!("read {}", path.display()))? {
                let entry = entry.with_context(|| format!("read {}", path.display()))?;
                let path = entry.path();
                let found = entry.metadata().with_context(|| format!("look at {}", path.display()))?;
                ensure!(found.dev() == about.dev(), "{} lies on another device than its root", path.display());
                let (node, kind) = (Inode(found.ino()), Kind::of(&found));
                if kind == Kind::File {
                    tree.lengths.insert(node, found.len());
                }
                if kind == Kind::Directory {
                    folders.push((path, node));
                }
                tree.entries.insert(Place { directory, name: entry.file_name() }, Entry { node, kind });
            }
        }
        Ok(tree)
    }
}

// === impl Found ===

impl Found {
    /// Looks at the root and at the graveyard beside it.
    pub(crate) fn read(root: &Path, graveyard: &Path) -> Result<Self> {
        let mut graves = BTreeMap::new();
        for entry in fs::read_dir(graveyard).with_context(|| format!("read {}", graveyard.display()))? {
            let entry = entry.with_context(|| format!("read {}", graveyard.display()))?;
            let about = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
            graves.insert(Inode(about.ino()), Grave { file: entry.file_name(), length: about.len() });
        }
        Ok(Self { tree: Tree::read(root)?, graves })
    }
}

/// What can be reached from `root`, by path.
pub(crate) fn paths<N: Copy + Ord>(root: N, entries: &Entries<N>) -> Paths<N> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::from([root]);
    let mut folders = vec![(PathBuf::new(), root)];
    while let Some((path, directory)) = folders.pop() {
        let first = Place { directory, name: OsString::new() };
        for (place, entry) in entries.range(first..).take_while(|(place, _)| place.directory == directory) {
            let path = path.join(&place.name);
            if entry.kind == Kind::Directory && seen.insert(entry.node) {
                folders.push((path.clone(), entry.node));
            }
            found.insert(path, (place.clone(), *entry));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_finds_names_kinds_and_lengths_and_one_number_for_two_names() {
        let temp = tempfile::tempdir().expect("temp");
        let root = temp.path();
        fs::create_dir_all(root.join("a/b")).expect("made");
        fs::write(root.join("a/b/file"), "12345").expect("written");
        fs::hard_link(root.join("a/b/file"), root.join("a-twin")).expect("linked");
        std::os::unix::fs::symlink("nowhere", root.join("link")).expect("linked");
        let tree = Tree::read(root).expect("read");
        let paths = paths(tree.root, &tree.entries);
        let found: Vec<(&str, Kind)> =
            paths.iter().map(|(path, (_, entry))| (path.to_str().expect("plain"), entry.kind)).collect();
        let expected = [
            ("a", Kind::Directory),
            ("a/b", Kind::Directory),
            ("a/b/file", Kind::File),
            ("a-twin", Kind::File),
            ("link", Kind::Other),
        ];
        assert_eq!(found, expected);
        let twin = paths[Path::new("a-twin")].1.node;
        assert_eq!(paths[Path::new("a/b/file")].1.node, twin);
        assert_eq!(tree.lengths, BTreeMap::from([(twin, 5)]));
    }

    #[test]
    fn a_circle_of_directories_is_not_walked_for_ever() {
        let directory = |node| Entry { node, kind: Kind::Directory };
        let place = |directory, name: &str| Place { directory, name: name.into() };
        let entries = BTreeMap::from([
            (place(1, "a"), directory(2)),
            (place(2, "b"), directory(1)),
            (place(3, "c"), directory(3)),
        ]);
        let walked: Vec<PathBuf> = paths(1, &entries).into_keys().collect();
        assert_eq!(walked, [PathBuf::from("a"), PathBuf::from("a/b")]);
    }
}
