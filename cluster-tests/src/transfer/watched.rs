//! A process as it is seen from outside: whether it is over, the time of processors that it took, and the most memory
//! that it held, and what it read and wrote. Of one that ends by itself the memory is known up to the last look before.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts in hundredths of a second on every architecture that it shows to programs.
const TICK: Duration = Duration::from_millis(10);

/// What a process cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cost {
    /// Since it was first looked at.
    pub(crate) cpu: Duration,
    /// Since it began.
    pub(crate) peak_bytes: u64,
}

/// What a process has read and written since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Io {
    /// What its system calls read, of files, sockets and all else, wherever the bytes lay.
    pub(crate) read_bytes: u64,
    /// What its system calls wrote.
    pub(crate) written_bytes: u64,
    /// What the disk had to read for it.
    pub(crate) from_disk_bytes: u64,
    /// What the disk has or will have to write for it.
    pub(crate) to_disk_bytes: u64,
}

/// A process.
#[derive(Debug)]
pub(super) struct Watched {
    pid: u32,
    before: Duration,
    cpu: Duration,
    peak_bytes: u64,
    is_over: bool,
}

// === impl Io ===

impl Io {
    /// Of a process that runs as this user.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/io");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        io_in(&text).with_context(|| format!("{path} is not as expected"))
    }

    /// What came since then.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            from_disk_bytes: self.from_disk_bytes.saturating_sub(before.from_disk_bytes),
            to_disk_bytes: self.to_disk_bytes.saturating_sub(before.to_disk_bytes),
        }
    }
}

// === impl Watched ===

impl Watched {
    /// What it used until now does not count.
    pub(super) fn new(pid: u32) -> Result<Self> {
        let stat = stat_of(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, before: stat.cpu, cpu: stat.cpu, peak_bytes: 0, is_over: false })
    }

    /// A process that was started for this: all that it uses counts.
    pub(super) fn from_its_start(pid: u32) -> Result<Self> {
        Ok(Self { before: Duration::ZERO, ..Self::new(pid)? })
    }

    /// Whether it has ended. It may be gone, or wait for somebody to ask for its exit code.
    pub(super) fn is_over(&mut self) -> bool {
        match stat_of(self.pid) {
            Some(stat) => {
                self.cpu = self.cpu.max(stat.cpu);
                self.is_over = stat.is_over;
            }
            None => self.is_over = true,
        }
        self.is_over
    }

    pub(super) fn look(&mut self) {
        if !self.is_over() {
            let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
            self.peak_bytes = self.peak_bytes.max(peak_in(&text).unwrap_or(0));
        }
    }

    pub(super) const fn cost(&self) -> Cost {
        Cost { cpu: self.cpu.saturating_sub(self.before), peak_bytes: self.peak_bytes }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    is_over: bool,
    cpu: Duration,
}

fn stat_of(pid: u32) -> Option<Stat> {
    stat_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything; behind it the state comes first, user and system time 12th and 13th.
fn stat_in(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    let is_over = matches!(*fields.first()?, "Z" | "X");
    Some(Stat { is_over, cpu: TICK * ticks(11)?.saturating_add(ticks(12)?) })
}

/// The most that was resident, of `/proc/PID/status`.
fn peak_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The fields of `/proc/PID/io`.
fn io_in(text: &str) -> Option<Io> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok();
    Some(Io {
        read_bytes: field("rchar:")?,
        written_bytes: field("wchar:")?,
        from_disk_bytes: field("read_bytes:")?,
        to_disk_bytes: field("write_bytes:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_times_are_found_behind_any_name() {
        let text = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 170 0 0 0 31 12 5 6 20 0 1 0 88 2375680 217 184 0\n")
        };
        let cpu = Duration::from_millis(430);
        assert_eq!(stat_in(&text("curl", "S")), Some(Stat { is_over: false, cpu }));
        assert_eq!(stat_in(&text("a) Z (b", "R")), Some(Stat { is_over: false, cpu }));
        assert_eq!(stat_in(&text("curl", "Z")), Some(Stat { is_over: true, cpu }));
        assert_eq!(stat_in("7 (curl) S 1"), None);
    }

    #[test]
    fn the_peak_is_told_from_what_is_resident_now() {
        let text = "Name:\tcurl\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(peak_in(text), Some(2 << 20));
        assert_eq!(peak_in("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn what_was_read_is_told_from_what_the_disk_read() {
        let text = "rchar: 3000\nwchar: 200\nsyscr: 7\nsyscw: 5\nread_bytes: 4096\nwrite_bytes: 8192\n\
                    cancelled_write_bytes: 1\n";
        let io = io_in(text).expect("complete");
        let expected = Io { read_bytes: 3_000, written_bytes: 200, from_disk_bytes: 4_096, to_disk_bytes: 8_192 };
        assert_eq!(io, expected);
        let before = Io { read_bytes: 2_999, written_bytes: 201, ..Io::default() };
        assert_eq!(io.since(before), Io { read_bytes: 1, written_bytes: 0, ..expected });
        assert_eq!(io_in("rchar: 1\nwchar: 2\n"), None);
    }

    #[test]
    fn this_process_reads_what_it_reads() {
        let own = std::process::id();
        let before = Io::of(own).expect("it runs");
        let path = std::env::current_exe().expect("a program");
        let mut some = vec![0_u8; 100_000];
        std::io::Read::read_exact(&mut fs::File::open(path).expect("it is there"), &mut some).expect("so long");
        let read = Io::of(own).expect("it runs").since(before);
        assert!(read.read_bytes >= 100_000, "{read:?}");
    }

    #[test]
    fn this_process_is_not_over_and_uses_memory() {
        let mut own = Watched::from_its_start(std::process::id()).expect("it runs");
        own.look();
        assert!(!own.is_over() && own.cost().peak_bytes > 0);
        assert!(Watched::new(u32::MAX).is_err());
    }
}
