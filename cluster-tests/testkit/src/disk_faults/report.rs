//! What a power cut did, for a test to look at and for a log to show.

use std::fmt;
use std::path::PathBuf;

use crate::disk_faults::cut::Variant;
use crate::seed::Seed;

/// Lines of each kind that are shown.
const SHOWN_MAX: usize = 20;

/// Bytes behind a file's promised ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostTail {
    /// Which file, from the root.
    pub path: PathBuf,
    /// Bytes that had been promised, and are there.
    pub synced_bytes: u64,
    /// Bytes that had been written.
    pub written_bytes: u64,
    /// Its length now. What is between this and the promised bytes is as the variant says.
    pub left_bytes: u64,
}

/// What a power cut did. Paths are from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutReport {
    /// From what chance was drawn.
    pub seed: Seed,
    /// Which cut it was.
    pub variant: Variant,
    /// Changes of names that no sync had made last and that were left, in order.
    pub kept: Vec<String>,
    /// Changes of names that no sync had made last and that were undone, in order.
    pub undone: Vec<String>,
    /// Names that were taken away.
    pub removed: Vec<PathBuf>,
    /// Names that were given back.
    pub restored: Vec<PathBuf>,
    /// Files that lost bytes.
    pub tails: Vec<LostTail>,
    /// Not exactly modelled: files of which promised bytes were written anew, cut off or mapped for writing, so that
    /// what the disk could hold is not known. They are left with the newest bytes.
    pub inexact: Vec<PathBuf>,
    /// Not exactly modelled: files that should be there again, but whose bytes could not be kept. They are missing.
    pub missing: Vec<PathBuf>,
    /// Names of which the journal does not tell how they came there: made by a call that the library does not see, or
    /// in the moment of the kill. They were taken as never synced.
    pub unexplained: Vec<PathBuf>,
    /// Bytes of the journal that were no record: torn by the kill.
    pub torn_journal_bytes: u64,
    /// Calls of which the library could not remember the file, so that overwritten bytes may have gone unnoticed.
    pub untracked: u64,
}

// === impl CutReport ===

impl CutReport {
    pub(crate) const fn new(seed: Seed, variant: Variant) -> Self {
        Self {
            seed,
            variant,
            kept: Vec::new(),
            undone: Vec::new(),
            removed: Vec::new(),
            restored: Vec::new(),
            tails: Vec::new(),
            inexact: Vec::new(),
            missing: Vec::new(),
            unexplained: Vec::new(),
            torn_journal_bytes: 0,
            untracked: 0,
        }
    }

    /// Whether what is left is exactly what a disk that keeps its promises and nothing more could hold.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.inexact.is_empty() && self.missing.is_empty() && self.unexplained.is_empty() && self.untracked == 0
    }

    /// How many bytes were written and never promised, all files together.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.tails.iter().map(|tail| tail.written_bytes - tail.synced_bytes).sum()
    }
}

impl fmt::Display for CutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = if self.is_exact() { "exact" } else { "NOT EXACT" };
        writeln!(f, "power cut, {exact}: {:?}, seed={}", self.variant, self.seed)?;
        list(f, "kept without a sync", &self.kept)?;
        list(f, "undone", &self.undone)?;
        list(f, "removed", &shown(&self.removed))?;
        list(f, "restored", &shown(&self.restored))?;
        let tails = self.tails.iter().map(|tail| {
            let LostTail { path, synced_bytes, written_bytes, left_bytes } = tail;
            format!("{}: {synced_bytes} synced of {written_bytes} written, {left_bytes} left", path.display())
        });
        list(f, "tails", &tails.collect::<Vec<_>>())?;
        list(f, "not exactly modelled", &shown(&self.inexact))?;
        list(f, "missing, not exactly modelled", &shown(&self.missing))?;
        list(f, "unexplained", &shown(&self.unexplained))?;
        if self.torn_journal_bytes > 0 || self.untracked > 0 {
            writeln!(f, "  torn journal bytes: {}, untracked calls: {}", self.torn_journal_bytes, self.untracked)?;
        }
        Ok(())
    }
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    let more = lines.len().saturating_sub(SHOWN_MAX);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    let head = &lines[..lines.len() - more];
    writeln!(f, "  {what} ({}): {}{rest}", lines.len(), head.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_happened_and_only_that() {
        let mut report = CutReport::new(Seed(7), Variant::STRICT);
        assert_eq!(report.to_string(), "power cut, exact: Variant { tail: Cut, names: Undone }, seed=7\n");
        report.undone = (0..22).map(|number| format!("create {number}")).collect();
        report.tails = vec![LostTail { path: "log".into(), synced_bytes: 5, written_bytes: 9, left_bytes: 5 }];
        report.inexact = vec!["lock".into()];
        let text = report.to_string();
        assert!(text.starts_with("power cut, NOT EXACT"), "{text}");
        assert!(text.contains("undone (22): create 0; create 1") && text.contains("create 19 and 2 more"), "{text}");
        assert!(text.contains("tails (1): log: 5 synced of 9 written, 5 left\n"), "{text}");
        assert!(text.contains("not exactly modelled (1): lock\n") && !text.contains("missing"), "{text}");
        assert_eq!(report.unsynced_bytes(), 4);
    }
}
