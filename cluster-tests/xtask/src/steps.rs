//! A run of named steps: each announced, timed and noted; a table at the end.
//!
//! After the first failure the rest is skipped, so that the output of what failed stands right above the table, unless
//! the caller wants to see everything.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;

use crate::waiting::{Stopwatch, seconds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// What ran so far.
#[derive(Debug)]
pub(crate) struct Steps {
    keep_going: bool,
    rows: Vec<Row>,
}

// === impl Steps ===

impl Steps {
    /// Nothing ran yet. `keep_going`: later steps run after a failure too.
    pub(crate) fn new(keep_going: bool) -> Self {
        Self { keep_going, rows: Vec::new() }
    }

    /// Runs one step, or notes that it was skipped.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        if self.failed() && !self.keep_going {
            self.rows.push(Row { name, outcome: Outcome::Skipped, took: Duration::ZERO });
            return;
        }
        println!("\n=== {name}");
        let watch = Stopwatch::start();
        let outcome = match step() {
            Ok(()) => Outcome::Passed,
            Err(problem) => {
                eprintln!("error: {problem:#}");
                Outcome::Failed
            }
        };
        let row = Row { name, outcome, took: watch.elapsed() };
        println!("=== {name}: {} in {}", outcome.word(), seconds(row.took));
        self.rows.push(row);
    }

    /// Whether any step failed.
    pub(crate) fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.outcome == Outcome::Failed)
    }

    /// The table: one line for each step, and the whole.
    pub(crate) fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max("all".len());
        let mut table = String::new();
        for row in &self.rows {
            let took = if row.outcome == Outcome::Skipped { String::new() } else { seconds(row.took) };
            writeln!(table, "  {:width$}  {:7}  {took:>12}", row.name, row.outcome.word()).expect("text grows");
        }
        let whole = if self.failed() { Outcome::Failed } else { Outcome::Passed };
        let took: Duration = self.rows.iter().map(|row| row.took).sum();
        writeln!(table, "  {:width$}  {:7}  {:>12}", "all", whole.word(), seconds(took)).expect("text grows");
        table
    }
}

// === impl Outcome ===

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn ran(keep_going: bool) -> (Vec<&'static str>, Steps) {
        let mut ran = Vec::new();
        let mut steps = Steps::new(keep_going);
        steps.run("first", || {
            ran.push("first");
            Ok(())
        });
        steps.run("second", || bail!("broken"));
        steps.run("third", || {
            ran.push("third");
            Ok(())
        });
        (ran, steps)
    }

    #[test]
    fn a_failure_skips_the_rest_and_fails_the_whole() {
        let (ran, steps) = ran(false);
        assert_eq!(ran, ["first"]);
        assert!(steps.failed());
        let words: Vec<Vec<String>> =
            steps.table().lines().map(|line| line.split_whitespace().take(2).map(str::to_owned).collect()).collect();
        assert_eq!(words, [["first", "passed"], ["second", "FAILED"], ["third", "skipped"], ["all", "FAILED"]]);
    }

    #[test]
    fn keep_going_runs_everything_and_still_fails() {
        let (ran, steps) = ran(true);
        assert_eq!(ran, ["first", "third"]);
        assert!(steps.failed());
    }

    #[test]
    fn nothing_failed_when_every_step_passed() {
        let mut steps = Steps::new(false);
        steps.run("only", || Ok(()));
        assert!(!steps.failed());
        assert!(steps.table().contains("passed"));
    }
}
