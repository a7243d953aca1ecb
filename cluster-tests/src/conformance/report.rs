//! The table of all that was found, as a page in Markdown, and what is wrong with it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::arrangement::Column;
use crate::found::{Scenarios, Verdict};
use crate::suite::{PACKAGE, SETS, Set, is_of_tasks, is_required};

/// Where the page lies, from the top of the checkout.
const PAGE: &str = "docs/architecture/conformance.md";
/// What stands before how often scenarios were done again.
const AGAIN: &str = "times that a scenario was done again, as it failed while a node died";

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The version of Node on which the suite ran.
    pub(crate) node: String,
    pub(crate) seed: u64,
    pub(crate) columns: Vec<Column>,
}

/// What a scenario is to the set in which it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Required,
    Tasks,
    /// Looked at by the suite, and required by nobody.
    Unscored,
}

// === impl Report ===

impl Report {
    /// Why this run is not a good one, a line for each reason.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for column in &self.columns {
            let arrangement = column.arrangement.words();
            for (set, scenarios) in &column.sets {
                let place = format!("{arrangement}: {}", set.revision);
                let required = scenarios.keys().filter(|name| is_required(name)).count();
                if required != set.required {
                    faults.push(format!("{place}: {required} of {} required scenarios ran", set.required));
                }
                let is_looked_at = |name: &str, verdict: &Verdict| is_of_tasks(name) && *verdict != Verdict::Skipped;
                let tasks = scenarios.iter().filter(|(name, verdict)| is_looked_at(name, verdict)).count();
                if tasks < set.tasks {
                    faults.push(format!("{place}: {tasks} of {} scenarios of tasks were looked at", set.tasks));
                }
                for (name, verdict) in scenarios.iter().filter(|(name, _)| Weight::of(name) != Weight::Unscored) {
                    faults.extend(complaints(name, verdict).iter().map(|said| format!("{place}: {name}: {said}")));
                }
            }
        }
        faults
    }

    /// Puts the page into the checkout in whose top folder this runs.
    pub(crate) fn write(&self) -> Result<()> {
        let page = Path::new(PAGE);
        fs::write(page, format!("{self}\n")).with_context(|| format!("write {}", page.display()))
    }

    /// Every scenario that ran in a set, those that count first.
    fn rows(&self, set: Set) -> Vec<&str> {
        let all: BTreeSet<(Weight, &str)> = self
            .columns
            .iter()
            .filter_map(|column| column.of(set))
            .flat_map(|scenarios| scenarios.keys().map(|name| (Weight::of(name), name.as_str())))
            .collect();
        all.into_iter().map(|(_, name)| name).collect()
    }

    /// How often a scenario was done again.
    fn again(&self, set: Set, name: &str) -> usize {
        let all = self.columns.iter().flat_map(|column| &column.again);
        all.filter(|(own, scenario)| *own == set && scenario == name).count()
    }

    /// One line of a table, with a cell for each column.
    fn line(&self, first: &str, cell: impl Fn(&Column) -> String) -> String {
        let cells = self.columns.iter().map(|column| format!(" {} |", cell(column)));
        format!("| {first} |{}", cells.collect::<String>())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Conformance of /mcp\n")?;
        writeln!(f, "Made by `cargo xtask conformance mcp --write`. Suite: `{PACKAGE}`, Node {}.", self.node)?;
        writeln!(f, "The nodes of requests were drawn from seed {}.\n", self.seed)?;
        let rule = format!("|---|{}", "---|".repeat(self.columns.len()));
        writeln!(
            f,
            "{}\n{rule}",
            self.line("required scenarios that passed", |column| column.arrangement.words().into())
        )?;
        for set in SETS {
            writeln!(f, "{}", self.line(set.revision, |column| column.share(set, Weight::Required)))?;
        }
        writeln!(f, "{}", self.line("tasks", |column| column.share(SETS[0], Weight::Tasks)))?;
        writeln!(f, "{}", self.line("leaders killed", |column| column.kills.to_string()))?;
        writeln!(f, "{}", self.line(AGAIN, |column| column.again.len().to_string()))?;
        write!(f, "{}", self.line("requests at each node; died with one", Column::traffic))?;
        for set in SETS {
            writeln!(f, "\n\n## {}\n", set.revision)?;
            let head = self.line("scenario", |column| column.arrangement.words().into());
            write!(f, "{head} done again |\n{rule}---|")?;
            for name in self.rows(set) {
                let mark = if Weight::of(name) == Weight::Unscored { " (not scored)" } else { "" };
                let line = self.line(&format!("{name}{mark}"), |column| column.cell(set, name));
                write!(f, "\n{line} {} |", self.again(set, name))?;
            }
        }
        Ok(())
    }
}

// === impl Column ===

impl Column {
    fn of(&self, set: Set) -> Option<&Scenarios> {
        self.sets.iter().find(|(one, _)| *one == set).map(|(_, scenarios)| scenarios)
    }

    /// How many of a set's scenarios passed, of those that should.
    fn share(&self, set: Set, weight: Weight) -> String {
        let Some(scenarios) = self.of(set) else { return "not run".to_owned() };
        let counted = || scenarios.iter().filter(|(name, _)| Weight::of(name) == weight);
        let passed = counted().filter(|(_, verdict)| matches!(verdict, Verdict::Passed { .. })).count();
        let all = if weight == Weight::Required { set.required } else { set.tasks };
        format!("{passed} of {all}")
    }

    fn cell(&self, set: Set, name: &str) -> String {
        match self.of(set).and_then(|scenarios| scenarios.get(name)) {
            None => "not run".to_owned(),
            Some(Verdict::Skipped) => "nothing to look at".to_owned(),
            Some(Verdict::Passed { warnings: 0 }) => "passed".to_owned(),
            Some(Verdict::Passed { warnings }) => format!("passed, {warnings} warnings"),
            Some(Verdict::Failed(checks)) => format!("**failed**, {} checks", checks.len()),
        }
    }

    fn traffic(&self) -> String {
        let Some(counts) = &self.counts else { return "-".to_owned() };
        let taken: Vec<String> = counts.taken.iter().map(u64::to_string).collect();
        format!("{}; {}", taken.join(", "), counts.broken)
    }
}

// === impl Weight ===

impl Weight {
    fn of(scenario: &str) -> Self {
        match scenario {
            name if is_required(name) => Self::Required,
            name if is_of_tasks(name) => Self::Tasks,
            _ => Self::Unscored,
        }
    }
}

/// What speaks against a scenario that counts. One of tasks in which the suite looks at nothing is no fault: the suite
/// itself has left it out. How many it may leave out, the set says.
fn complaints(name: &str, verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Passed { .. } => Vec::new(),
        Verdict::Skipped if is_of_tasks(name) => Vec::new(),
        Verdict::Skipped => vec!["the suite looked at nothing".to_owned()],
        Verdict::Failed(checks) => checks.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arrangement;
    use crate::forwarder::Counts;

    const PASSED: Verdict = Verdict::Passed { warnings: 0 };

    fn small(rows: &[(&str, Verdict)], required: usize, tasks: usize) -> Report {
        let scenarios = rows.iter().map(|(name, verdict)| ((*name).to_owned(), verdict.clone())).collect();
        let sets = vec![(Set { required, tasks, ..SETS[0] }, scenarios)];
        let counts = Some(Counts { taken: vec![5, 7], broken: 1 });
        let again = vec![(sets[0].0, "tools-list".to_owned()); 2];
        let column = Column { arrangement: Arrangement::Random, sets, again, kills: 3, counts };
        Report { node: "22.1.0".to_owned(), seed: 7, columns: vec![column] }
    }

    #[test]
    fn what_counts_must_pass_and_nothing_may_be_missing() {
        let check_both = |rows: &[(&str, Verdict)], required: usize, tasks: usize, expected: &[&str]| {
            let faults = small(rows, required, tasks).faults();
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            for (fault, end) in faults.iter().zip(expected) {
                assert!(fault.starts_with("a random node of three: 2026-07-28: ") && fault.ends_with(end), "{fault}");
            }
        };
        let check = |rows: &[(&str, Verdict)], required, expected: &[&str]| check_both(rows, required, 0, expected);
        let failed = || Verdict::Failed(vec!["a: no".to_owned(), "b: no".to_owned()]);
        check(&[("tools-list", PASSED)], 1, &[]);
        check(&[("tools-list", Verdict::Passed { warnings: 2 })], 1, &[]);
        check(&[("tools-list", PASSED)], 2, &["1 of 2 required scenarios ran"]);
        check(&[("tools-list", failed())], 1, &["tools-list: a: no", "tools-list: b: no"]);
        check(&[("tools-list", Verdict::Skipped)], 1, &["tools-list: the suite looked at nothing"]);
        check(&[("tasks-lifecycle", failed())], 0, &["tasks-lifecycle: a: no", "tasks-lifecycle: b: no"]);
        check(&[("tasks-status-notifications", Verdict::Skipped)], 0, &[]);
        check(&[("server-sse-polling", failed())], 0, &[]);
        check_both(&[("tasks-lifecycle", PASSED)], 0, 1, &[]);
        check_both(&[("tasks-lifecycle", PASSED)], 0, 2, &["1 of 2 scenarios of tasks were looked at"]);
        let skipped = [("tasks-lifecycle", Verdict::Skipped)];
        check_both(&skipped, 0, 1, &["0 of 1 scenarios of tasks were looked at"]);
        check_both(&[], 0, 1, &["0 of 1 scenarios of tasks were looked at"]);
    }

    #[test]
    fn the_page_has_a_row_for_every_scenario_and_a_column_for_every_arrangement() {
        let Set { required, tasks, .. } = SETS[0];
        let failed = Verdict::Failed(vec!["a: no".to_owned()]);
        let rows = [
            ("json-schema-2020-12", failed.clone()),
            ("tasks-lifecycle", PASSED),
            ("tasks-status-notifications", Verdict::Skipped),
            ("tools-list", Verdict::Passed { warnings: 1 }),
            ("ping", failed),
        ];
        let page = small(&rows, required, tasks).to_string();
        for line in [
            "| required scenarios that passed | a random node of three |",
            "| 2026-07-28 | 1 of 37 |",
            "| 2025-11-25 | not run |",
            "| tasks | 1 of 9 |",
            "| leaders killed | 3 |",
            "| times that a scenario was done again, as it failed while a node died | 2 |",
            "| scenario | a random node of three | done again |",
            "| requests at each node; died with one | 5, 7; 1 |",
            "| json-schema-2020-12 (not scored) | **failed**, 1 checks | 0 |",
            "| tasks-status-notifications | nothing to look at | 0 |",
            "| tools-list | passed, 1 warnings | 2 |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        let place = |name: &str| page.find(&format!("\n| {name}")).expect("a row");
        assert!(place("tools-list") < place("tasks-lifecycle") && place("tasks-lifecycle") < place("json-schema"));
    }
}
