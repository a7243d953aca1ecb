//! Files and folders as staging, publishing and whoever reads in the background need them: made with narrow rights,
//! never reached through a link, and durable when they are said to be.
//!
//! A store may belong to a user with fewer rights than this process has, and what lies in it is that user's to change.
//! So what is opened for writing must be a regular file under its own name, and what is made is new.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::fcntl::{FallocateFlags, fallocate};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::unistd::geteuid;

use ollamax_types::Timestamp;

use crate::fault::Fault;
use crate::space::Space;
use crate::store::Owner;

/// Rights of a file that nobody else may see yet.
const HIDDEN_FILE_MODE: u32 = 0o600;
/// Rights of a folder that nobody else may look into.
const HIDDEN_FOLDER_MODE: u32 = 0o700;
/// Most entries of one folder that are looked at.
const ENTRIES_MAX: usize = 65_536;
/// How often the system may be interrupted while it sets room aside.
#[cfg(target_os = "linux")]
const INTERRUPTIONS_MAX: usize = 64;
/// Bytes of a block, by which `stat` counts whatever the disk's blocks are.
const STAT_BLOCK_BYTES: u64 = 512;

/// A fault that is found here and not by the system.
pub(crate) fn fault(action: &'static str, path: &Path, kind: ErrorKind, reason: &'static str) -> Fault {
    Fault::at(action, path)(io::Error::new(kind, reason))
}

/// Opens a file that is to be read and written; `None` when there is none, none that this process may open, or
/// something else than a regular file.
pub(crate) fn open_file(path: &Path) -> Result<Option<File>, Fault> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path);
    let file = match opened {
        // A link shows by the last.
        Err(error) if [Errno::ENOENT, Errno::EACCES, Errno::ELOOP].iter().any(|errno| is(&error, *errno)) => {
            return Ok(None);
        }
        opened => opened.map_err(Fault::at("open", path))?,
    };
    let found = file.metadata().map_err(Fault::at("look at", path))?;
    Ok(found.is_file().then_some(file))
}

/// Makes a file that was not there, for this process alone to see.
pub(crate) fn create_file(path: &Path, owner: Option<Owner>) -> Result<File, Fault> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(HIDDEN_FILE_MODE);
    let file = options.open(path).map_err(Fault::at("create", path))?;
    if let Some(owner) = owner.filter(|_| geteuid().is_root()) {
        // As far as we may: who goes on under the owner's name later makes anew what it cannot open.
        drop(fchown(&file, Some(owner.uid), Some(owner.gid)));
    }
    Ok(file)
}

/// Removes a file; that there is none is fine.
pub(crate) fn remove_file(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Fault::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file or an empty folder; that there is none is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Fault> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return remove_file(path);
    }
    fs::remove_dir(path).map_err(Fault::at("remove", path))
}

/// A folder into which nobody but its owner looks; one that is there already is narrowed.
pub(crate) fn hidden_folder(path: &Path, owner: Option<Owner>) -> Result<(), Fault> {
    let is_new = match DirBuilder::new().mode(HIDDEN_FOLDER_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        made => made.map(|()| true).map_err(Fault::at("create", path))?,
    };
    let folder = match open_folder(path) {
        // A link shows by either.
        Err(error) if is(&error, Errno::ENOTDIR) || is(&error, Errno::ELOOP) => {
            return Err(fault("open", path, ErrorKind::NotADirectory, "it is no folder"));
        }
        opened => opened.map_err(Fault::at("open", path))?,
    };
    if is_new {
        if let Some(owner) = owner.filter(|_| geteuid().is_root()) {
            drop(fchown(&folder, Some(owner.uid), Some(owner.gid)));
        }
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_folder)?;
    }
    let found = folder.metadata().map_err(Fault::at("look at", path))?;
    if found.mode() & 0o777 != HIDDEN_FOLDER_MODE {
        let narrowed = folder.set_permissions(Permissions::from_mode(HIDDEN_FOLDER_MODE));
        narrowed.map_err(Fault::at("narrow the rights of", path))?;
    }
    Ok(())
}

/// Opens a folder under its own name. Whoever owns what lies above it may put a link in its place at any moment: what
/// is done to what was opened is not done to what that leads to.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Fault> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Fault::at("sync", path))
}

/// The names of what lies in a folder, in order, as far as they are text; none when there is no such folder.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>, Fault> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Fault::at("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries.take(ENTRIES_MAX) {
        let entry = entry.map_err(Fault::at("list", folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Tells the system that it need not keep these bytes of a file: whoever reads in the background does not push out what
/// others read. Only advice: nobody minds when it is not taken.
pub(crate) fn leave_cache(file: &File, range: &Range<u64>) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(range.start), i64::try_from(range.end - range.start)) {
        let _ = posix_fadvise(file, offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Where an open file lies. The system knows that as long as the file is there.
pub(crate) fn path_of(file: &File) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(link).unwrap_or_else(|_| PathBuf::from("an open file"))
}

/// Writes a small file that is there as a whole or not at all, over one that may be there; durable on return. `draft`
/// lies in the same folder and is nobody else's.
pub(crate) fn write_whole(path: &Path, draft: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), Fault> {
    remove_file(draft)?;
    let mut file = create_file(draft, owner)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Fault::at("write", draft))?;
    fs::rename(draft, path).map_err(Fault::at("name", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Reads a small file; `None` when there is none. A longer one than `bytes_max` is a fault.
pub(crate) fn read_small(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, Fault> {
    // Without waiting: a pipe in the place of the file would keep us for ever.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(Fault::at("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(Fault::at("read", path))?;
    if bytes.len() > bytes_max {
        return Err(fault("read", path, ErrorKind::InvalidData, "it is longer than any such file"));
    }
    Ok(Some(bytes))
}

/// What a file has of these bytes: fewer where it ends before.
pub(crate) fn read_up_to(file: &File, at: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
    let end = file.metadata()?.len().min(at.saturating_add(bytes_max));
    let length = usize::try_from(end.saturating_sub(at)).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Keeps every other process away from a file until it is closed.
pub(crate) fn lock(file: &File, path: &Path) -> Result<(), Fault> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(fault("lock", path, ErrorKind::ResourceBusy, "another process is at work on it"));
        }
        // Some network file systems have no locks; whoever shares a store over one of them has one node write to it.
        Err(TryLockError::Error(error)) => {
            tracing::debug!(path = %path.display(), %error, "lock a file in the staging folder");
        }
    }
    if is_at(file, path) {
        Ok(())
    } else {
        Err(fault("lock", path, ErrorKind::ResourceBusy, "another process took it"))
    }
}

/// Whether this file is the one that has this name.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

/// A moment as a file system tells it.
pub(crate) fn moment(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Gives a file that is there this moment as the one when it was last changed.
pub(crate) fn stamp(path: &Path, at: Timestamp) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(at.0))
}

/// Whether these are names of one file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::symlink_metadata(one), fs::symlink_metadata(other)) else { return false };
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The bytes that a file gives back when its name goes: none where it has another.
pub(crate) fn frees_bytes(path: &Path) -> u64 {
    let last = fs::symlink_metadata(path).ok().filter(|found| found.is_file() && found.nlink() == 1);
    last.as_ref().map_or(0, allocated_bytes)
}

/// Bytes that a file takes on the disk, holes left out.
pub(crate) fn allocated_bytes(found: &fs::Metadata) -> u64 {
    found.blocks().saturating_mul(STAT_BLOCK_BYTES)
}

/// Gives a file its length and sets room for all of it aside, where the file system can. `space` is what the disk has
/// to give: a file that does not fit is refused before the disk is filled with half of it.
pub(crate) fn allocate(file: &File, bytes: u64, space: Option<Space>) -> io::Result<()> {
    let held = allocated_bytes(&file.metadata()?).min(bytes);
    if space.is_some_and(|space| space.free_bytes < bytes - held) {
        return Err(ErrorKind::StorageFull.into());
    }
    if bytes == 0 { Ok(()) } else { take_room(file, bytes) }
}

/// The system sets the room aside; where it cannot, the file only gets its length.
#[cfg(target_os = "linux")]
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    if change_room(file, FallocateFlags::empty(), &(0..bytes))? { Ok(()) } else { lengthen(file, bytes) }
}

/// Gives back the room of some bytes of a file, which keeps its length; where the file system cannot, it stays taken.
#[cfg(target_os = "linux")]
pub(crate) fn give_back_room(file: &File, place: &Range<u64>) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    change_room(file, hole, place).map(drop)
}

/// False: the file system cannot.
#[cfg(target_os = "linux")]
fn change_room(file: &File, mode: FallocateFlags, place: &Range<u64>) -> io::Result<bool> {
    let from = place.start.try_into().map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    let length = (place.end - place.start).try_into().map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    for _ in 0..INTERRUPTIONS_MAX {
        match fallocate(file, mode, from, length) {
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
            done => return done.map(|()| true).map_err(io::Error::from),
        }
    }
    Err(ErrorKind::Interrupted.into())
}

/// There is no call that sets room aside everywhere.
#[cfg(not(target_os = "linux"))]
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    lengthen(file, bytes)
}

/// Where no room is set aside, none is given back.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back_room(_file: &File, _place: &Range<u64>) -> io::Result<()> {
    Ok(())
}

/// Gives a shorter file its length.
fn lengthen(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) }
}

/// Whether this is what the system said.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
