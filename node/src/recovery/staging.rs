//! Where the store and the key of a recovered cluster lie ready, and how they take the places of the old ones.
//!
//! They lie beside what they replace, on the same disks, so that each takes its place by a rename: `raft/recovered` (a
//! whole store) and `keys/cluster.key.recovered`. `identity.json` says whether they count. Before it does they may be
//! thrown away at any time; afterwards [`Staging::finish`] may be cut off anywhere and be called again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::data_dir::empty_folder;

/// The places in one data directory.
#[derive(Debug)]
pub(crate) struct Staging {
    raft: PathBuf,
    keys: PathBuf,
}

// === impl Staging ===

impl Staging {
    /// Those of this data directory.
    #[must_use]
    pub(crate) fn of(root: &Path) -> Self {
        Self { raft: root.join("raft"), keys: root.join("keys") }
    }

    /// Under which the new store is made, as under a data directory.
    #[must_use]
    pub(crate) fn store(&self) -> PathBuf {
        self.raft.join("recovered")
    }

    /// Where the new cluster key is sealed.
    #[must_use]
    pub(crate) fn key(&self) -> PathBuf {
        self.keys.join("cluster.key.recovered")
    }

    /// Throws away what lies there.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn clear(&self) -> io::Result<()> {
        empty_folder(&self.store())?;
        match fs::remove_file(self.key()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Moves what lies there into its place; durable on return. What was moved before stays where it is.
    ///
    /// # Errors
    /// What the system said; it can be called again.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let made = self.store().join("raft");
        let (database, mark) = (made.join("db"), made.join("high-water"));
        if database.exists() {
            // The old one: the new one lies where it was made until it is moved.
            empty_folder(&self.raft.join("db"))?;
            fs::rename(&database, self.raft.join("db"))?;
        }
        if mark.exists() {
            fs::rename(&mark, self.raft.join("high-water"))?;
        }
        File::open(&self.raft)?.sync_all()?;
        empty_folder(&self.store())?;
        if self.key().exists() {
            fs::rename(self.key(), self.keys.join("cluster.key"))?;
        }
        File::open(&self.keys)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// An old store and key, and new ones that lie ready.
    fn prepared() -> (tempfile::TempDir, Staging) {
        let root = tempfile::tempdir().expect("temp");
        let staging = Staging::of(root.path());
        for name in ["raft/db/CURRENT", "raft/db/1.sst", "raft/high-water", "raft/lock", "keys/cluster.key"] {
            write(&root.path().join(name), "old");
        }
        for name in ["db/CURRENT", "high-water", "lock"] {
            write(&staging.store().join("raft").join(name), "new");
        }
        write(&staging.key(), "new");
        (root, staging)
    }

    fn is_finished(root: &Path, staging: &Staging) {
        let read = |name: &str| fs::read_to_string(root.join(name)).expect("there");
        for name in ["raft/db/CURRENT", "raft/high-water", "keys/cluster.key"] {
            assert_eq!(read(name), "new", "{name}");
        }
        assert!(!root.join("raft/db/1.sst").exists(), "nothing of the old database is left");
        assert!(!staging.store().exists() && !staging.key().exists());
    }

    #[test]
    fn wherever_it_is_cut_off_the_next_attempt_goes_on() {
        let cuts: [&dyn Fn(&Path, &Staging); 5] = [
            &|_, _| {},
            &|root, _| fs::remove_file(root.join("raft/db/CURRENT")).expect("half of the old database is gone"),
            &|root, staging| {
                fs::remove_dir_all(root.join("raft/db")).expect("gone");
                fs::rename(staging.store().join("raft/db"), root.join("raft/db")).expect("moved");
            },
            &|root, staging| {
                fs::remove_dir_all(root.join("raft/db")).expect("gone");
                fs::rename(staging.store().join("raft/db"), root.join("raft/db")).expect("moved");
                fs::rename(staging.store().join("raft/high-water"), root.join("raft/high-water")).expect("moved");
            },
            &|_, staging| staging.finish().expect("finished"),
        ];
        for cut in cuts {
            let (root, staging) = prepared();
            cut(root.path(), &staging);
            staging.finish().expect("finished");
            is_finished(root.path(), &staging);
            staging.finish().expect("nothing left to do");
            is_finished(root.path(), &staging);
        }
    }

    #[test]
    fn what_does_not_count_is_thrown_away_and_the_old_stays() {
        let (root, staging) = prepared();
        for _ in 0..2 {
            staging.clear().expect("cleared");
            assert!(!staging.store().exists() && !staging.key().exists());
        }
        for name in ["raft/db/CURRENT", "raft/high-water", "keys/cluster.key"] {
            assert_eq!(fs::read_to_string(root.path().join(name)).expect("there"), "old", "{name}");
        }
    }
}
