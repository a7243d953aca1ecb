//! What a load costs: CPU time of daemons and generator, memory, and bytes that reach the disk, all from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};

use ollamax_testkit::cluster::cpu_time;

/// What processes have used up to one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    daemons: Duration,
    generator: Duration,
    written_bytes: u64,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// CPU time of all daemons together.
    pub(crate) daemons: Duration,
    pub(crate) generator: Duration,
    /// Bytes that all daemons together caused to be written to the disk.
    pub(crate) written_bytes: u64,
    /// Memory of the largest daemon at the end.
    pub(crate) resident_bytes: u64,
}

// === impl Used ===

impl Used {
    /// By these daemons and by this process, so far.
    pub(crate) fn now(daemons: &[u32]) -> Result<Self> {
        let mut used = Self { daemons: Duration::ZERO, generator: cpu_time(std::process::id())?, written_bytes: 0 };
        for pid in daemons {
            used.daemons += cpu_time(*pid)?;
            used.written_bytes += field(*pid, "io", "write_bytes:")?;
        }
        Ok(used)
    }

    /// What was used since.
    pub(crate) fn until_now(self, daemons: &[u32]) -> Result<Cost> {
        let now = Self::now(daemons)?;
        let mut resident_bytes = 0;
        for pid in daemons {
            resident_bytes = resident_bytes.max(field(*pid, "status", "VmRSS:")? * 1_024);
        }
        Ok(Cost {
            daemons: now.daemons.saturating_sub(self.daemons),
            generator: now.generator.saturating_sub(self.generator),
            written_bytes: now.written_bytes.saturating_sub(self.written_bytes),
            resident_bytes,
        })
    }
}

/// A number from a file of a process.
fn field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    number(&text, name).with_context(|| format!("no {name} in {path}"))
}

/// The first number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let io = "rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(number(io, "write_bytes:"), Some(4_096));
        assert_eq!(number("VmPeak:\t 9 kB\nVmRSS:\t   84 kB\n", "VmRSS:"), Some(84));
        assert_eq!(number(io, "VmRSS:"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let own = [std::process::id()];
        let cost = Used::now(&own).and_then(|used| used.until_now(&own)).expect("/proc");
        assert!(cost.resident_bytes > 0, "{cost:?}");
    }
}
