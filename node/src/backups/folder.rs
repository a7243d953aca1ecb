//! Backups as files in a folder: written beside their name, synced, renamed; listed by their first page.
//!
//! A file with the name of a backup is whole. What an interrupted one left has another name, and makes room for the
//! next. All calls wait for the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ollamax_core::backup;
use ollamax_metadata as metadata;
use ollamax_metadata::backup::{BackupError, Order, Page, Progress, Written, read_page};
use ollamax_store as store;
use ollamax_types::Timestamp;

/// Most backups that are looked at in one place; more than may be kept.
pub(super) const LISTED_MAX: usize = 1_000;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;
/// How often it is asked whether there is room still, bytes.
const ROOM_EVERY_BYTES: u64 = 8 << 20;

/// A file with the name of a backup.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its name.
    pub(crate) name: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// What its first page says, or why that cannot be read.
    pub(crate) page: Result<Page, BackupError>,
}

/// A backup that is to be written into a folder.
pub(crate) struct Job<'a> {
    /// Whose state.
    pub(crate) metadata: &'a metadata::Handle,
    /// What else it is made of.
    pub(crate) order: &'a Order,
    /// The store's numbers: how much of a disk stays free.
    pub(crate) store: &'a store::Config,
    /// Where it goes.
    pub(crate) folder: &'a Path,
}

// === impl Job ===

impl Job<'_> {
    /// Writes it under its name; durable on return. `watch` hears how far it is, and ends it by an error.
    ///
    /// # Errors
    /// When the state cannot be read, the disk refuses or is too full, or `watch` says so. Nothing is left then.
    pub(crate) fn write(
        &self,
        watch: &mut dyn FnMut(Progress) -> Result<(), BackupError>,
    ) -> Result<(Written, PathBuf), BackupError> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.folder).map_err(failed("make the folder"))?;
        self.store.check_room(self.folder)?;
        let draft = self.folder.join(format!(".ollamax-node-{}.tmp", self.metadata.node()));
        let written = self.write_draft(&draft, watch).and_then(|written| {
            let page = &written.page;
            let path = self.folder.join(backup::name(&page.cluster_name, &stamp(page.taken_at), page.revision));
            fs::rename(&draft, &path).map_err(failed("give the backup its name"))?;
            File::open(self.folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder"))?;
            Ok((written, path))
        });
        if written.is_err() {
            // One that stays behind has no backup's name, and makes room for the next.
            drop(fs::remove_file(&draft));
        }
        written
    }

    fn write_draft(
        &self,
        draft: &Path,
        watch: &mut dyn FnMut(Progress) -> Result<(), BackupError>,
    ) -> Result<Written, BackupError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft);
        let file = BufWriter::with_capacity(WRITE_BYTES, file.map_err(failed("make the file"))?);
        let mut asked_at = 0;
        let mut look = |progress: Progress| {
            if progress.bytes - asked_at >= ROOM_EVERY_BYTES {
                asked_at = progress.bytes;
                self.store.check_room(self.folder)?;
            }
            watch(progress)
        };
        let (written, file) = self.metadata.write_backup(self.order, file, &mut look)?;
        let file = file.into_inner().map_err(|error| failed("write the backup")(error.into_error()))?;
        file.sync_all().map_err(failed("sync the backup"))?;
        Ok(written)
    }
}

/// The backups in a folder, the newest first, and whether there are more than are shown. A folder that is not there
/// holds none.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn list(folder: &Path) -> Result<(Vec<Found>, bool), BackupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), false)),
        Err(error) => return Err(failed("read the folder")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read the folder"))?.file_name().to_string_lossy().into_owned();
        if backup::is_name(&name) {
            names.push(name);
        }
    }
    let more = names.len() > LISTED_MAX;
    names.sort_unstable();
    names.reverse();
    names.truncate(LISTED_MAX);
    let mut found: Vec<Found> = names.into_iter().map(|name| look_at(folder, name)).collect();
    sort(&mut found);
    Ok((found, more))
}

/// The newest first; what cannot be read comes last.
pub(super) fn sort(found: &mut [Found]) {
    found.sort_by_key(|found| std::cmp::Reverse(found.page.as_ref().ok().map(|page| (page.taken_at, page.revision))));
}

fn look_at(folder: &Path, name: String) -> Found {
    let opened = File::open(folder.join(&name)).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((bytes, mut file)) => Found { name, bytes, page: read_page(&mut file) },
        Err(error) => Found { name, bytes: 0, page: Err(failed("open the backup")(error)) },
    }
}

/// Removes one; one that is gone already is no error.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn remove(folder: &Path, name: &str) -> Result<(), BackupError> {
    match fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove an old backup")(error)),
        _ => Ok(()),
    }
}

/// A time as it stands in a name.
#[must_use]
pub(crate) fn stamp(at: Timestamp) -> String {
    let time = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io { action, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ollamax_security::BackupKey;
    use ollamax_types::ErrorCode;

    use super::*;
    use crate::backups::alone::Alone;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_written_is_listed_and_what_fails_leaves_nothing() {
        let (alone, place) = (Alone::start().await, tempfile::tempdir().expect("folder"));
        let folder = place.path().join("a").join("b");
        assert!(list(&folder).expect("a folder that is not there").0.is_empty());
        let recipient = BackupKey::generate().recipient();
        let order =
            |at: u64| Order { taken_at: Timestamp(at), release: "0.1.0".to_owned(), recipient: recipient.clone() };
        let roomy = store::Config { reserve_bytes: 0, ..store::Config::default() };
        let write = |at: u64, store: &store::Config| {
            let order = order(at);
            Job { metadata: &alone.handle, order: &order, store, folder: &folder }.write(&mut |_| Ok(()))
        };
        let (first, path) = write(1_767_323_045_000, &roomy).expect("written");
        let name = format!("ollamax-lab-20260102T030405Z-{}.oxb.age", first.page.revision);
        assert_eq!(path, folder.join(&name));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        write(1_767_323_046_000, &roomy).expect("written");
        fs::write(folder.join("ollamax-x-20260102T030405Z-1.oxb.age"), "short").expect("written");
        fs::write(folder.join("notes"), "short").expect("written");
        let (found, more) = list(&folder).expect("readable");
        let pages: Vec<_> = found.iter().map(|found| found.page.as_ref().ok().map(|page| page.taken_at.0)).collect();
        assert_eq!((pages, more), (vec![Some(1_767_323_046_000), Some(1_767_323_045_000), None], false));
        assert_eq!(found[1].bytes, first.bytes);

        let greedy = store::Config { reserve_bytes: u64::MAX, ..store::Config::default() };
        let error = write(1_767_323_047_000, &greedy).expect_err("no room");
        assert_eq!(error.code(), ErrorCode::DiskFull);
        let broken = Job { metadata: &alone.handle, order: &order(1), store: &roomy, folder: &folder };
        broken.write(&mut |_| Err(BackupError::BrokenOff)).expect_err("broken off");
        remove(&folder, &name).expect("removed");
        remove(&folder, &name).expect("gone already");
        let left = fs::read_dir(&folder).expect("readable").count();
        assert_eq!(left, 3, "one backup, one that is none, and the notes");
        alone.close().await;
    }
}
