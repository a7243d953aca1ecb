//! One file of a store gives its name to another with the same digest.
//!
//! For a file that a disk has damaged. The other one is whole and sealed; it gets the rights and the group of what lies
//! there, as root its owner too, and then the name, in one moment. Where it cannot have that group, everybody may read
//! it, as all that is published: whoever could read the old one can read the new one. So under the name there is the
//! old file or the new one, never none and never half of each, wherever this is killed; and whoever has the old one
//! open keeps it. Just before, it is looked at once more whether the file that lies there is still the one that was
//! found damaged: what somebody else put there meanwhile stays. A name that leads elsewhere is not replaced: what it
//! leads to is not the store's. That is asked before anything is fetched for it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::Path;

use ollamax_types::{Digest, Timestamp};

use crate::fault::Fault;
use crate::staging::{Part, disk};

use super::access::{Access, How};
use super::publish::{Dress, PublishError, named, sync_parent};
use super::{FileIdentity, Store};

/// The rights of a file, without what it is.
const RIGHTS: u32 = 0o777;

/// What became of a file that was to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The other one has its name.
    Done,
    /// Nothing: another file lies there than was to be replaced, or none.
    Moved,
}

/// Whose a file is, and its rights.
#[derive(Debug, Clone, Copy)]
struct Worn {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// What has just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The new file looks like the old one.
    Dressed,
    /// It has the name.
    Named,
    /// That is durable.
    Durable,
}

impl Store {
    /// Lets a part take the place of the damaged file of its digest, if that is still `was`. What staging holds of the
    /// part is the caller's to remove.
    ///
    /// # Errors
    /// When the store may not be written, when the part is not sealed, when the disk refuses.
    pub fn replace(&self, part: &Part, was: FileIdentity, now: Timestamp) -> Result<Replaced, PublishError> {
        self.replace_in_steps(part, was, now, &mut |_| {})
    }

    /// Whether the name of a file is a link, which is never replaced.
    #[must_use]
    pub fn leads_elsewhere(&self, sha256: Digest) -> bool {
        fs::symlink_metadata(self.blob_path(sha256)).is_ok_and(|found| found.is_symlink())
    }

    fn replace_in_steps(
        &self,
        part: &Part,
        was: FileIdentity,
        now: Timestamp,
        after: &mut dyn FnMut(Step),
    ) -> Result<Replaced, PublishError> {
        let (spec, path) = (part.spec(), self.blob_path(part.spec().sha256));
        if !part.is_sealed() || !disk::is_at(part.data(), part.data_path()) {
            return Err(PublishError::Missing { sha256: spec.sha256 });
        }
        let access = self.access();
        let Some(worn) = worn_by(&path)? else { return Ok(Replaced::Moved) };
        let how = if let Access::Direct { how, .. } = &access { Some(*how) } else { None };
        let mut dress = Dress::of(access)?;
        let keeps_group = match how {
            // The group of the store has more to do with it than read it.
            Some(How::Group) => false,
            Some(How::Owner) => fchown(part.data(), None, Some(worn.gid)).is_ok(),
            Some(How::Root) | None => {
                (dress.uid, dress.gid) = (Some(worn.uid), Some(worn.gid));
                true
            }
        };
        dress.file_mode = mode_with(keeps_group, worn.mode, dress.file_mode);
        dress.put_on(part.data(), now).map_err(Fault::at("give the rights of the store to", part.data_path()))?;
        after(Step::Dressed);
        if self.blob(spec)?.is_none_or(|file| file.identity != was) {
            return Ok(Replaced::Moved);
        }
        named(fs::rename(part.data_path(), &path), &path)?;
        after(Step::Named);
        sync_parent(&path)?;
        after(Step::Durable);
        Ok(Replaced::Done)
    }
}

/// Whose the file is that lies there, and its rights; `None` when there is none.
fn worn_by(path: &Path) -> Result<Option<Worn>, PublishError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(Fault::at("look at", path))?,
    };
    if found.is_symlink() {
        return Err(PublishError::NotWritable(format!("{} leads elsewhere; that is not replaced", path.display())));
    }
    Ok(found.is_file().then(|| Worn { uid: found.uid(), gid: found.gid(), mode: found.mode() & RIGHTS }))
}

/// The rights that the new file gets. Without the group of the old one it needs those of a published one.
const fn mode_with(keeps_group: bool, mode: u32, published: u32) -> u32 {
    if keeps_group { mode } else { mode | published }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tempfile::TempDir;

    use crate::staging::Staging;
    use crate::staging::samples::Sample;

    use super::*;

    const NOW: Timestamp = Timestamp(1_785_578_400_123);
    /// A group in which nobody is.
    const OTHER_GROUP: u32 = 54_321;

    /// A store with a file in which one bit is another, and a sound one on its way.
    struct World {
        _folder: TempDir,
        store: Store,
        staging: Staging,
        sample: Sample,
    }

    // === impl World ===

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("temp");
            fs::create_dir_all(folder.path().join("models/blobs")).expect("there is room");
            fs::create_dir_all(folder.path().join("models/manifests")).expect("there is room");
            let store = Store::open(&folder.path().join("models")).expect("it is there");
            let staging = Staging::open(&store.staging_place(), None).expect("ours");
            let world = Self { _folder: folder, store, staging, sample: Sample::new(3, 9 << 20) };
            let mut bytes = world.sample.bytes.clone();
            bytes[5] ^= 1;
            fs::write(world.path(), bytes).expect("there is room");
            world
        }

        fn path(&self) -> std::path::PathBuf {
            self.store.blob_path(self.sample.spec.sha256)
        }

        fn identity(&self) -> FileIdentity {
            self.store.blob(self.sample.spec).expect("readable").expect("it is there").identity
        }

        fn is_sound(&self) -> bool {
            fs::read(self.path()).expect("it is never missing") == self.sample.bytes
        }
    }

    #[test]
    fn the_new_file_has_the_name_and_rights_of_the_old_and_who_reads_that_keeps_it() {
        let world = World::new();
        fs::set_permissions(world.path(), Permissions::from_mode(0o640)).expect("ours");
        let (was, part) = (world.identity(), world.sample.sealed(&world.staging));
        let before = fs::metadata(world.path()).expect("it is there");
        let old = world.store.blob(world.sample.spec).expect("readable").expect("it is there");
        assert_eq!(world.store.replace(&part, was, NOW).expect("ours"), Replaced::Done);
        assert!(world.is_sound());
        let after = fs::metadata(world.path()).expect("it is there");
        assert_ne!(after.ino(), before.ino(), "another file");
        assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
        let mut chunk = Vec::new();
        old.read_chunk(0, &mut chunk).expect("it is open");
        assert!(chunk != world.sample.chunk(0), "whoever maps it sees no change");
        world.staging.forget(world.sample.spec.sha256).expect("ours");
        assert!(world.is_sound(), "the file is the store's from now on");
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let world = World::new();
        let (was, part) = (world.identity(), world.sample.sealed(&world.staging));
        let other = world.store.root().join("other");
        fs::write(&other, vec![7; world.sample.bytes.len()]).expect("there is room");
        fs::rename(&other, world.path()).expect("the same folder");
        let now = world.identity();
        assert_eq!(world.store.replace(&part, was, NOW).expect("readable"), Replaced::Moved);
        assert_eq!(world.identity(), now, "not touched");
        fs::remove_file(world.path()).expect("ours");
        assert_eq!(world.store.replace(&part, now, NOW).expect("readable"), Replaced::Moved);
        assert!(!world.path().exists(), "what somebody removed does not come back");
    }

    #[test]
    fn only_a_whole_file_takes_the_place_of_a_file_and_none_that_of_a_link() {
        let world = World::new();
        let was = world.identity();
        let part = world.staging.begin(world.sample.spec).expect("there is room");
        world.sample.write(&part, 0);
        let refused = world.store.replace(&part, was, NOW).expect_err("two chunks are missing");
        assert!(matches!(refused, PublishError::Missing { .. }), "{refused}");
        drop(part);
        let part = world.sample.sealed(&world.staging);
        let elsewhere = world.store.root().join("elsewhere");
        assert!(!world.store.leads_elsewhere(world.sample.spec.sha256));
        fs::rename(world.path(), &elsewhere).expect("the same disk");
        symlink(&elsewhere, world.path()).expect("there is room");
        assert!(world.store.leads_elsewhere(world.sample.spec.sha256));
        let refused = world.store.replace(&part, world.identity(), NOW).expect_err("a link");
        assert!(matches!(refused, PublishError::NotWritable(_)), "{refused}");
        assert!(!world.is_sound() && fs::symlink_metadata(world.path()).expect("it is there").is_symlink());
    }

    #[test]
    fn killed_after_any_step_there_is_the_old_file_or_the_new_one_and_the_next_attempt_ends() {
        let steps = [Step::Dressed, Step::Named, Step::Durable];
        for last in steps {
            let world = World::new();
            let (was, part) = (world.identity(), world.sample.sealed(&world.staging));
            let killed = catch_unwind(AssertUnwindSafe(|| {
                world.store.replace_in_steps(&part, was, NOW, &mut |step| assert_ne!(step, last, "killed"))
            }));
            killed.expect_err("it does not come further");
            assert_eq!(world.is_sound(), last != Step::Dressed, "{last:?}");
            // The next process knows nothing of the part but what lies there.
            drop(part);
            if !world.is_sound() {
                let part = world.staging.begin(world.sample.spec).expect("there is room");
                part.seal(world.sample.spec.sha256).expect("it is whole");
                assert_eq!(world.store.replace(&part, world.identity(), NOW).expect("ours"), Replaced::Done);
            }
            world.staging.forget(world.sample.spec.sha256).expect("ours");
            assert!(world.is_sound(), "{last:?}");
        }
    }

    #[test]
    fn in_a_shared_store_the_group_may_replace_what_we_put_there() {
        let check = |keeps_group, mode, published, expected| {
            assert_eq!(mode_with(keeps_group, mode, published), expected, "{mode:o} {published:o}");
        };
        check(true, 0o600, 0o644, 0o600);
        check(true, 0o640, 0o644, 0o640);
        check(false, 0o640, 0o644, 0o644);
        check(false, 0o644, 0o664, 0o664);
    }

    /// Only root may give a file to a group that it is not in; for others the group is their own.
    #[test]
    fn who_could_read_the_old_file_through_its_group_can_read_the_new_one() {
        let world = World::new();
        let is_given = chown(world.path(), None, Some(OTHER_GROUP)).is_ok();
        fs::set_permissions(world.path(), Permissions::from_mode(0o640)).expect("ours");
        let (was, part) = (world.identity(), world.sample.sealed(&world.staging));
        let before = fs::metadata(world.path()).expect("it is there");
        assert_eq!(before.gid() == OTHER_GROUP, is_given);
        assert_eq!(world.store.replace(&part, was, NOW).expect("ours"), Replaced::Done);
        let after = fs::metadata(world.path()).expect("it is there");
        assert!(world.is_sound());
        assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    }
}
