//! What a run found: promises and how often each was checked, faults and their proofs, what the clients got, and the
//! line that plays it again.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{Table, presets};
use serde::{Serialize, Serializer};

use crate::outage::Outage;
use crate::plan::Family;

/// The promises by their numbers in the reliability plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    I12,
    I13,
}

/// One round that was played.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Played {
    pub(crate) number: u32,
    #[serde(serialize_with = "family_id")]
    pub(crate) family: Family,
    pub(crate) fault: String,
    pub(crate) fault_ms: u64,
    /// Whether the fault was there.
    pub(crate) injected: bool,
    pub(crate) proof: String,
    pub(crate) outage: Outage,
    /// From the heal to a leader that all nodes name.
    pub(crate) leader_ms: u64,
    /// From the last write to equal states everywhere.
    pub(crate) equal_ms: u64,
    pub(crate) with_snapshot: bool,
    /// Answered writes per second before the fault, and after the heal.
    pub(crate) writes_before: u64,
    pub(crate) writes_after: u64,
    pub(crate) operations: u64,
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Broken {
    pub(crate) round: u32,
    #[serde(serialize_with = "invariant_id")]
    pub(crate) invariant: Invariant,
    pub(crate) detail: String,
}

/// How long things may take after a heal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    pub(crate) leader_ms: u64,
    pub(crate) equal_ms: u64,
    pub(crate) equal_with_snapshot_ms: u64,
    /// By what each was multiplied for this machine.
    pub(crate) factor: u32,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) seconds: u64,
    pub(crate) replay: String,
    pub(crate) daemon_version: String,
    pub(crate) run_seconds: u64,
    #[serde(serialize_with = "family_ids")]
    pub(crate) asked: Vec<Family>,
    pub(crate) rounds: Vec<Played>,
    #[serde(serialize_with = "by_invariant")]
    pub(crate) checked: BTreeMap<Invariant, u64>,
    pub(crate) limits: Limits,
    /// Times that a watcher went on elsewhere, and times that nobody kept what came next.
    pub(crate) watches_resumed: u64,
    pub(crate) watch_gaps: u64,
    pub(crate) broken: Vec<Broken>,
    /// What is missing for a verdict.
    pub(crate) lacking: Vec<String>,
    /// Why the run ended before its time.
    pub(crate) error: Option<String>,
    /// Where everything lies that explains a failure.
    pub(crate) kept: Option<String>,
}

fn family_id<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(family.id())
}

fn family_ids<S: Serializer>(families: &[Family], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(families.iter().map(|family| family.id()))
}

fn invariant_id<S: Serializer>(invariant: &Invariant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(invariant.id())
}

fn by_invariant<S: Serializer>(checked: &BTreeMap<Invariant, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(checked.iter().map(|(invariant, checked)| (invariant.id(), checked)))
}

// === impl Invariant ===

impl Invariant {
    pub(crate) const ALL: [Self; 13] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
    ];

    pub(crate) const fn id(self) -> &'static str {
        self.words().0
    }

    pub(crate) const fn title(self) -> &'static str {
        self.words().1
    }

    /// Number, promise, and what is counted.
    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::I1 => ("I1", "one leader in a term", "samples"),
            Self::I2 => ("I2", "one order explains every answer", "operations"),
            Self::I3 => ("I3", "nothing acknowledged is lost", "last reads"),
            Self::I4 => ("I4", "nothing happens twice or after a refusal", "writes"),
            Self::I5 => ("I5", "committed entries are the same everywhere, for ever", "comparisons"),
            Self::I6 => ("I6", "equal states at equal indexes", "comparisons"),
            Self::I7 => ("I7", "terms and indexes go forward", "samples"),
            Self::I8 => ("I8", "watches: ordered, once, whole, nothing left out", "events"),
            Self::I9 => ("I9", "stale reads are as young as they say", "reads"),
            Self::I10 => ("I10", "leases end neither early nor undead", "ends"),
            Self::I11 => ("I11", "soon well after the heal", "heals"),
            Self::I12 => ("I12", "who lost what was synced never votes", "refusals"),
            Self::I13 => ("I13", "enough happened, and each fault was there", "rounds"),
        }
    }
}

// === impl Report ===

impl Report {
    /// Whether a promise was broken, or nobody knows.
    pub(crate) fn failed(&self) -> bool {
        !self.broken.is_empty() || !self.lacking.is_empty() || self.error.is_some()
    }

    fn sum(&self, of: fn(&Played) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    fn most(&self, of: fn(&Played) -> Option<u64>) -> Option<u64> {
        self.rounds.iter().filter_map(of).max()
    }

    fn outage(&self) -> Outage {
        self.rounds.iter().fold(Outage::default(), |sum, round| sum.and(round.outage))
    }

    /// Families that were asked for and did not have their turn.
    fn not_reached(&self) -> Vec<&'static str> {
        let played = |family: &Family| self.rounds.iter().any(|round| round.family == *family);
        self.asked.iter().filter(|family| !played(family)).map(|family| family.id()).collect()
    }

    /// Families whose faults could not be done in some rounds, and in how many.
    fn not_injected(&self) -> Vec<String> {
        let without = self.rounds.iter().filter(|round| !round.injected);
        let times = |family: &Family| without.clone().filter(|round| round.family == *family).count();
        let told = self.asked.iter().map(|family| (family.id(), times(family)));
        told.filter(|(_, times)| *times > 0).map(|(id, times)| format!("{id} in {times}")).collect()
    }

    fn faults(&self) -> Table {
        let mut table = table(["FAULT", "", "TIMES", "LONGEST WITHOUT A WRITE"]);
        for family in &self.asked {
            let own = || self.rounds.iter().filter(|round| round.family == *family && round.injected);
            let longest = own().map(|round| round.outage.longest_ms).max().unwrap_or(0);
            let (id, title) = (family.id().to_owned(), family.title().to_owned());
            table.add_row([id, title, own().count().to_string(), seconds(longest)]);
        }
        table
    }

    fn invariants(&self) -> Table {
        let mut table = table(["PROMISE", "", "CHECKED", "", "BROKEN"]);
        for invariant in Invariant::ALL {
            let (id, title, unit) = invariant.words();
            let checked = self.checked.get(&invariant).copied().unwrap_or(0);
            let broken = self.broken.iter().filter(|broken| broken.invariant == invariant).count();
            table.add_row([id.to_owned(), title.to_owned(), checked.to_string(), unit.to_owned(), broken.to_string()]);
        }
        table
    }

    fn clients(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, answered) = (self.sum(|round| round.operations), self.sum(|round| round.answered));
        let (refused, unknown) = (self.sum(|round| round.refused), self.sum(|round| round.unknown));
        let rate = per_cent(answered, all);
        writeln!(f, "operations: {all}; {answered} answered, {refused} refused, {unknown} without an answer")?;
        writeln!(f, "success rate of clients, all faults included: {rate}")?;
        let outage = self.outage();
        let (longest, total) = (seconds(outage.longest_ms), seconds(outage.total_ms));
        writeln!(f, "without an acknowledged write: {longest} at most, {total} in all")?;
        let after: Vec<u64> = self.rounds.iter().map(|round| round.writes_after).collect();
        let before: Vec<u64> = self.rounds.iter().map(|round| round.writes_before).collect();
        writeln!(f, "writes per second, median: {} before the faults, {} after", median(before), median(after))
    }

    fn liveness(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits { leader_ms, equal_ms, equal_with_snapshot_ms, factor } = self.limits;
        let shown = |found: Option<u64>| found.map_or_else(|| "-".to_owned(), seconds);
        let limit = |ms: u64| format!("{} x {factor}", seconds(ms));
        let leader = shown(self.most(|round| Some(round.leader_ms)));
        writeln!(f, "after a heal: a leader within {leader} (limit {})", limit(leader_ms))?;
        let plain = shown(self.most(|round| Some(round.equal_ms).filter(|_| !round.with_snapshot)));
        let late = shown(self.most(|round| Some(round.equal_ms).filter(|_| round.with_snapshot)));
        write!(f, "after the last write: equal states within {plain} (limit {} after the heal)", limit(equal_ms))?;
        writeln!(f, ", with a snapshot {late} (limit {})", limit(equal_with_snapshot_ms))?;
        let (resumed, gaps) = (self.watches_resumed, self.watch_gaps);
        writeln!(f, "watches: went on elsewhere {resumed} times; {gaps} times nobody kept what came next")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, nodes, seconds: asked, run_seconds, daemon_version, .. } = self;
        let rounds = self.rounds.len();
        writeln!(f, "torture: seed {seed}, {nodes} nodes, ollamax-node {daemon_version}")?;
        writeln!(f, "{rounds} rounds in {run_seconds} s, {asked} s were asked for\n")?;
        writeln!(f, "{}\n", self.faults())?;
        let not_reached = self.not_reached();
        if !not_reached.is_empty() {
            writeln!(f, "note: not reached in this time: {}\n", not_reached.join(", "))?;
        }
        let not_injected = self.not_injected();
        if !not_injected.is_empty() {
            writeln!(f, "note: rounds without a fault: {}\n", not_injected.join(", "))?;
        }
        writeln!(f, "{}\n", self.invariants())?;
        self.clients(f)?;
        self.liveness(f)?;
        for Broken { round, invariant, detail } in &self.broken {
            writeln!(f, "BROKEN in round {round}: {} ({}): {detail}", invariant.id(), invariant.title())?;
        }
        for lacking in &self.lacking {
            writeln!(f, "TOO LITTLE EVIDENCE: {lacking}")?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "ENDED EARLY: {error}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "kept: {kept} (data directories, logs, records)")?;
        }
        let verdict = if self.failed() { "FAILED" } else { "passed" };
        write!(f, "{verdict}; to play the same plan again: {}", self.replay)
    }
}

fn table<const N: usize>(titles: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(titles.map(str::to_owned));
    table
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10)
}

/// With two digits, and never 100 unless it is all.
fn per_cent(part: u64, whole: u64) -> String {
    let hundredths = part.saturating_mul(10_000) / whole.max(1);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
