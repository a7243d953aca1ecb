//! The control file, through which a test speaks to the library while a process runs, and hears from it.
//!
//! The library has the file mapped and changes it with atomic operations; this side reads and writes words of it in
//! place. Both see the same pages of the kernel, so nothing has to be flushed. A switch of several words is written
//! errors first and count last, because the count is what the library acts on. The layout stands in `layout.h`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x544c_5546_4b53_4944;
const VERSION: u64 = 2;
/// Bytes of a word, and words of a slot and of an entry of the ring.
const WORD: usize = 8;
const GROUP: usize = 8;
const HEADER: usize = 24;
const SLOTS_MAX: usize = 64;
const RING_MAX: usize = 4_096;
const RING: usize = HEADER + GROUP * SLOTS_MAX;
const WORDS: usize = RING + GROUP * RING_MAX;
/// Where the names stand that counted faults meet, and how many words there are for them.
const NAMES: usize = 12;
const NAMES_WORDS: usize = 4;

/// One word of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    SyncDelayUs = 2,
    SyncErrno = 3,
    SyncFailuresLeft = 4,
    WriteErrno = 5,
    WriteFailuresLeft = 6,
    ShortWritesLeft = 7,
    LogSyncs = 8,
    CrashCall = 9,
    CrashMoment = 10,
    CrashLeft = 11,
    /// The first of those that the library counts; everything behind it is counted too.
    Sequence = 16,
    SyncsBegun = 17,
    SyncsDone = 18,
    JournalErrors = 19,
    Untracked = 20,
    Crashes = 21,
}

/// What one process did below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Process id. The last of 64 is shared by all later processes.
    pub pid: u64,
    /// Calls of `fsync`, those on directories and refused ones included.
    pub fsyncs: u64,
    /// Calls of `fdatasync`, refused ones included.
    pub fdatasyncs: u64,
    /// Writes that wrote something.
    pub writes: u64,
    /// What they wrote.
    pub written_bytes: u64,
    /// Syncs that were refused.
    pub failed_syncs: u64,
    /// Writes that were refused.
    pub failed_writes: u64,
    /// Writes that were cut short.
    pub shortened_writes: u64,
}

/// What was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncKind {
    /// A file, by `fsync`.
    File,
    /// A file, by `fdatasync`.
    FileData,
    /// The names of a directory.
    Directory,
}

/// One sync that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncTime {
    /// Which of those that ended well, from 1.
    pub number: u64,
    /// Which of those that began, from 1. It began after a look at [`DiskFaults::syncs_begun`] that answered less.
    ///
    /// [`DiskFaults::syncs_begun`]: crate::disk_faults::DiskFaults::syncs_begun
    pub begun_number: u64,
    /// When it began, by the machine's monotonic clock (`CLOCK_MONOTONIC`).
    pub begun: Duration,
    /// When it ended, by the same clock.
    pub ended: Duration,
    /// What was synced.
    pub inode: u64,
    /// How long it was when the sync began.
    pub length_bytes: u64,
    /// By which process.
    pub pid: u64,
    /// How.
    pub kind: SyncKind,
}

/// The file, open.
#[derive(Debug)]
pub(crate) struct Control {
    file: File,
}

// === impl Control ===

impl Control {
    /// Makes the file, with every switch off and every count at zero.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("make {}", path.display()))?;
        file.set_len((WORDS * WORD) as u64).with_context(|| format!("lengthen {}", path.display()))?;
        let control = Self { file };
        control.write(0, MAGIC)?;
        control.write(1, VERSION)?;
        Ok(control)
    }

    pub(crate) fn get(&self, field: Field) -> Result<u64> {
        Ok(self.read(field as usize, 1)?[0])
    }

    pub(crate) fn set(&self, field: Field, value: u64) -> Result<()> {
        self.write(field as usize, value)
    }

    /// Which files counted faults meet. Whatever counts them must be off meanwhile.
    pub(crate) fn set_names(&self, names: &str) -> Result<()> {
        let mut bytes = names.as_bytes().to_vec();
        ensure!(bytes.len() <= NAMES_WORDS * WORD && !names.contains('/'), "{names:?} is no name, or a long one");
        bytes.resize(NAMES_WORDS * WORD, 0);
        self.file.write_all_at(&bytes, (NAMES * WORD) as u64).context("write the control file")
    }

    /// Sets every count to zero and forgets all processes. Switches stay as they are.
    pub(crate) fn clear_counts(&self) -> Result<()> {
        let first = Field::Sequence as usize;
        let zeros = vec![0; (WORDS - first) * WORD];
        self.file.write_all_at(&zeros, (first * WORD) as u64).context("clear the control file")
    }

    /// The processes that touched what lies below the root, in the order in which they came.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessCounters>> {
        let words = self.read(HEADER, GROUP * SLOTS_MAX)?;
        let (slots, _) = words.as_chunks::<GROUP>();
        Ok(slots.iter().filter(|slot| slot[0] != 0).map(process).collect())
    }

    /// The last syncs that were logged, oldest first.
    pub(crate) fn sync_times(&self) -> Result<Vec<SyncTime>> {
        let words = self.read(RING, GROUP * RING_MAX)?;
        // Asked afterwards: an entry that was being written anew meanwhile belongs to a sync this far back.
        let newest = self.get(Field::SyncsDone)?;
        let (entries, _) = words.as_chunks::<GROUP>();
        let whole = entries.iter().filter(|entry| entry[0] != 0 && entry[0] + RING_MAX as u64 > newest);
        let mut times: Vec<SyncTime> = whole.map(sync_time).collect();
        times.sort_by_key(|time| time.number);
        Ok(times)
    }

    fn read(&self, first: usize, count: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; count * WORD];
        self.file.read_exact_at(&mut bytes, (first * WORD) as u64).context("read the control file")?;
        let (words, _) = bytes.as_chunks::<WORD>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn write(&self, word: usize, value: u64) -> Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), (word * WORD) as u64).context("write the control file")
    }
}

fn process(slot: &[u64; GROUP]) -> ProcessCounters {
    let [pid, fsyncs, fdatasyncs, writes, written_bytes, failed_syncs, failed_writes, shortened_writes] = *slot;
    ProcessCounters { pid, fsyncs, fdatasyncs, writes, written_bytes, failed_syncs, failed_writes, shortened_writes }
}

fn sync_time(entry: &[u64; GROUP]) -> SyncTime {
    let [number, begun_number, begun, ended, inode, length_bytes, pid, kind] = *entry;
    let kind = match kind {
        0 => SyncKind::File,
        1 => SyncKind::FileData,
        _ => SyncKind::Directory,
    };
    let (begun, ended) = (Duration::from_nanos(begun), Duration::from_nanos(ended));
    SyncTime { number, begun_number, begun, ended, inode, length_bytes, pid, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> (tempfile::TempDir, Control) {
        let temp = tempfile::tempdir().expect("temp");
        let control = Control::create(&temp.path().join("control")).expect("made");
        (temp, control)
    }

    fn put(control: &Control, first: usize, words: [u64; GROUP]) {
        for (at, word) in words.into_iter().enumerate() {
            control.write(first + at, word).expect("written");
        }
    }

    #[test]
    fn the_layout_is_that_of_the_library() {
        let (temp, control) = control();
        control.set(Field::Untracked, 0x0102).expect("set");
        let bytes = std::fs::read(temp.path().join("control")).expect("read");
        assert_eq!(bytes.len(), 266_432);
        assert_eq!(&bytes[..16], b"DISKFULT\x02\0\0\0\0\0\0\0");
        assert_eq!(&bytes[160..164], [2, 1, 0, 0]);
    }

    #[test]
    fn clearing_the_counts_leaves_the_switches() {
        let (_temp, control) = control();
        control.set(Field::SyncDelayUs, 5).expect("set");
        control.set(Field::SyncsDone, 9).expect("set");
        put(&control, HEADER, [77, 1, 2, 3, 4, 5, 6, 7]);
        let counted = control.processes().expect("read");
        assert_eq!(counted.len(), 1);
        assert_eq!((counted[0].pid, counted[0].fsyncs, counted[0].shortened_writes), (77, 1, 7));
        control.clear_counts().expect("cleared");
        assert_eq!(control.get(Field::SyncDelayUs).expect("read"), 5);
        assert_eq!(control.get(Field::SyncsDone).expect("read"), 0);
        assert_eq!(control.processes().expect("read"), []);
    }

    #[test]
    fn the_ring_gives_what_was_not_written_over_in_order() {
        let (_temp, control) = control();
        let newest = RING_MAX as u64 + 2;
        control.set(Field::SyncsDone, newest).expect("set");
        let entry = |number: u64| [number, number + 1, 10, 30, 5, 100, 77, 1];
        put(&control, RING + GROUP, entry(newest - 1));
        // Sync 2 lies where the newest one is being written.
        put(&control, RING + GROUP * 2, entry(2));
        put(&control, RING + GROUP * 3, entry(3));
        put(&control, RING + GROUP * 4, [0; GROUP]);
        let times = control.sync_times().expect("read");
        assert_eq!(times.iter().map(|time| time.number).collect::<Vec<_>>(), [3, newest - 1]);
        assert_eq!((times[0].begun_number, times[0].kind), (4, SyncKind::FileData));
        assert_eq!(times[0].ended - times[0].begun, Duration::from_nanos(20));
    }
}
