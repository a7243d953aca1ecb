//! Disks that fail: slow and refused syncs, refused and shortened writes, an end in the midst of a call, and power
//! cuts, for processes of this test.
//!
//! A process that is started with [`DiskFaults::environment`] has a library of ours between itself and libc, which
//! watches one directory: the root. It keeps a journal of what the process was promised, does what the test asks for
//! through a control file, and counts. After the process was killed, [`DiskFaults::cut_power`] turns the root into what
//! a hard power cut could have left: bytes behind the last good sync are lost, and so are changes of names that no sync
//! of their directory followed. What is promised is told by POSIX, not by the file system that happens to lie below.
//!
//! What always holds: nothing outside the root and the scratch directory is touched; a cut is refused while a process
//! that wrote lives, and when nothing was ever written through the library, for such a test would prove nothing. What
//! the model cannot know is said in the report ([`CutReport::is_exact`]), never passed over. Linux only.
//!
//! Deliberately absent: the old bytes of a file that is written in place (RocksDB only appends, and replaces small
//! files by renames), calls that do not go through libc, and rooms: both sides must call the root by the same path.

mod control;
mod crash;
mod cut;
mod journal;
mod lasting;
mod library;
mod perform;
mod report;
mod tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::seed::Seed;
use control::{Control, Field};
use journal::Journal;
use tree::{Found, Kind, Tree};

pub use control::{ProcessCounters, SyncKind, SyncTime};
pub use crash::{Call, CrashPoint, Moment};
pub use cut::{Names, Tail, Variant};
pub use nix::errno::Errno;
pub use report::{CutReport, LostTail};

/// As good as always, where a fault is counted.
pub const ALWAYS: u64 = u64::MAX;

/// The faults of one directory.
#[derive(Debug)]
pub struct DiskFaults {
    root: PathBuf,
    journal: PathBuf,
    graveyard: PathBuf,
    control: Control,
    environment: Vec<(String, String)>,
    /// What was there when the journal began; it counts as promised.
    before: Tree,
}

// === impl DiskFaults ===

impl DiskFaults {
    /// Prepares faults for everything below `root`. Both directories are made where they are missing. `scratch` is for
    /// these faults alone, lies outside the root on the same device, and must be there as long as a process runs.
    ///
    /// # Errors
    /// When there is no C compiler, the directories do not fit, or this is not Linux.
    pub fn prepare(root: &Path, scratch: &Path) -> Result<Self> {
        ensure!(cfg!(target_os = "linux"), "disk faults need Linux: they stand between a process and its libc");
        let (root, scratch) = (make_directory(root)?, make_directory(scratch)?);
        ensure!(!scratch.starts_with(&root), "the scratch directory {} lies below the root", scratch.display());
        let (here, there) = (device(&root)?, device(&scratch)?);
        ensure!(here == there, "{} and {} lie on two devices", root.display(), scratch.display());
        let [library, journal, control] = ["disk_faults.so", "journal", "control"].map(|name| scratch.join(name));
        let environment = environment(&library, &root, &journal, &control)?;
        // First, because it fails where another's faults are: their library must not be written over.
        File::create_new(&journal).with_context(|| format!("make {}", journal.display()))?;
        library::place(&library)?;
        let graveyard = scratch.join("journal.graveyard");
        fs::create_dir(&graveyard).with_context(|| format!("make {}", graveyard.display()))?;
        let control = Control::create(&control)?;
        let before = Tree::read(&root)?;
        Ok(Self { root, journal, graveyard, control, environment, before })
    }

    /// What a process has to be started with.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    /// The directory that is watched.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// From now on every sync takes this much longer.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn delay_syncs(&self, delay: Duration) -> Result<()> {
        self.control.set(Field::SyncDelayUs, u64::try_from(delay.as_micros()).unwrap_or(u64::MAX))
    }

    /// The next `count` syncs fail with this error and do not reach the disk. 0 ends it.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn fail_syncs(&self, errno: Errno, count: u64) -> Result<()> {
        self.control.set(Field::SyncErrno, number(errno))?;
        self.control.set(Field::SyncFailuresLeft, count)
    }

    /// The next `count` writes fail with this error and write nothing. 0 ends it. Only calls that write bytes count:
    /// a full disk would also refuse new files and reservations.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn fail_writes(&self, errno: Errno, count: u64) -> Result<()> {
        self.control.set(Field::WriteErrno, number(errno))?;
        self.control.set(Field::WriteFailuresLeft, count)
    }

    /// The next `count` writes of two bytes or more write half of them and say so. 0 ends it.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn shorten_writes(&self, count: u64) -> Result<()> {
        self.control.set(Field::ShortWritesLeft, count)
    }

    /// Counted faults, those that are asked for from now on, meet only files with such a name: the last part of the
    /// path, with at most one `*` for anything. Empty: all files, as at first.
    ///
    /// # Errors
    /// When the name is too long, or the control file cannot be written.
    pub fn only(&self, names: &str) -> Result<()> {
        self.control.set_names(names)
    }

    /// A process that comes to this point ends there, by SIGKILL to itself. Once; counted faults meet the files of the
    /// point from now on.
    ///
    /// # Errors
    /// As [`DiskFaults::only`].
    pub fn crash_at(&self, point: &CrashPoint) -> Result<()> {
        self.control.set(Field::CrashLeft, 0)?;
        self.only(point.names)?;
        self.control.set(Field::CrashCall, point.call as u64)?;
        self.control.set(Field::CrashMoment, point.moment as u64)?;
        self.control.set(Field::CrashLeft, point.number)
    }

    /// No process ends by itself any more, and counted faults meet all files again.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn crash_never(&self) -> Result<()> {
        self.control.set(Field::CrashLeft, 0)?;
        self.only("")
    }

    /// How many processes ended where [`DiskFaults::crash_at`] wanted it, since the last cut.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn crashes(&self) -> Result<u64> {
        self.control.get(Field::Crashes)
    }

    /// Whether [`DiskFaults::sync_times`] is kept. Off at first.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn log_syncs(&self, on: bool) -> Result<()> {
        self.control.set(Field::LogSyncs, u64::from(on))
    }

    /// Syncs that ended well since the last cut, all processes together, those of directories included.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn syncs(&self) -> Result<u64> {
        self.control.get(Field::SyncsDone)
    }

    /// Syncs that began since the last cut. Read before a request is sent, it is the moment after which a sync must
    /// have begun, and have ended well before the answer, if the answer is to be believed; see [`SyncTime`].
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn syncs_begun(&self) -> Result<u64> {
        self.control.get(Field::SyncsBegun)
    }

    /// The last 4,096 syncs that ended well while [`DiskFaults::log_syncs`] was on, oldest first.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn sync_times(&self) -> Result<Vec<SyncTime>> {
        self.control.sync_times()
    }

    /// What each process did below the root since the last cut.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub fn processes(&self) -> Result<Vec<ProcessCounters>> {
        self.control.processes()
    }

    /// Turns the root into what a power cut at the moment of the kill could have left. What is there then counts as
    /// promised, counts begin anew, and the process may be started again. Faults that were asked for stay.
    ///
    /// # Errors
    /// When a process that wrote below the root lives, when none ever did, when the journal is not whole, or when the
    /// system refuses a step; after the last the root is of no use any more.
    pub fn cut_power(&mut self, seed: Seed, variant: Variant) -> Result<CutReport> {
        let journal = File::options().read(true).write(true).open(&self.journal).context("open the journal")?;
        let lock = Flock::lock(journal, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| anyhow!("a process that wrote below the root lives ({errno})"))?;
        ensure!(!self.processes()?.is_empty(), "nothing was written below {} with the library", self.root.display());
        let gaps = self.control.get(Field::JournalErrors)?;
        ensure!(gaps == 0, "the journal has {gaps} gaps: the disk of the scratch directory is full?");

        let read = Journal::parse(&fs::read(&self.journal).context("read the journal")?);
        let found = Found::read(&self.root, &self.graveyard)?;
        let mut plan = cut::plan_cut(&self.before, &read.records, &found, seed, variant);
        plan.report.torn_journal_bytes = read.torn_bytes;
        plan.report.untracked = self.control.get(Field::Untracked)?;
        perform::perform(&self.root, &self.graveyard, &plan.actions).context("cut the power")?;

        let left = Tree::read(&self.root)?;
        let stands = names(&left);
        ensure!(stands == plan.expected, "after the cut stands {stands:?}, not {:?}", plan.expected);
        self.before = left;
        lock.set_len(0).context("empty the journal")?;
        fs::remove_dir_all(&self.graveyard).context("clear the graveyard")?;
        fs::create_dir(&self.graveyard).context("make the graveyard")?;
        self.control.clear_counts()?;
        Ok(plan.report)
    }
}

fn environment(library: &Path, root: &Path, journal: &Path, control: &Path) -> Result<Vec<(String, String)>> {
    let named = [
        ("LD_PRELOAD", library),
        ("DISK_FAULTS_ROOT", root),
        ("DISK_FAULTS_JOURNAL", journal),
        ("DISK_FAULTS_CONTROL", control),
    ];
    let mut environment = Vec::new();
    for (name, path) in named {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        // The dynamic linker takes both for the end of a path.
        let is_whole = name != "LD_PRELOAD" || !text.contains([' ', ':']);
        ensure!(is_whole, "no blank or colon may stand in {text}: the dynamic linker would not find it");
        environment.push((name.to_owned(), text.to_owned()));
    }
    Ok(environment)
}

fn make_directory(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

fn device(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.dev())
}

fn number(errno: Errno) -> u64 {
    u64::from((errno as i32).unsigned_abs())
}

/// Files and directories by path.
fn names(tree: &Tree) -> BTreeMap<PathBuf, Kind> {
    let paths = tree::paths(tree.root, &tree.entries).into_iter();
    paths.map(|(path, (_, entry))| (path, entry.kind)).filter(|(_, kind)| *kind != Kind::Other).collect()
}

#[cfg(test)]
mod tests;
