//! The part of `docs/architecture/mcp.md` that a run writes: what is wanted beside what was found, the share of
//! requests that succeeded, and on what machine.
//!
//! It stands between two marks. Everything else of the page is written by hand, and stays as it is.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::plan::Plan;
use crate::report::Report;

/// Where the page lies, from the top of the checkout.
const PAGE: &str = "docs/architecture/mcp.md";
/// Lines of the page around what a run writes.
const BEGIN: &str = "<!-- made by `cargo xtask bench mcp --write` -->";
const END: &str = "<!-- end of what is made -->";

/// Puts what was found into the page, in the checkout in whose top folder this runs.
///
/// # Errors
/// When the page cannot be read or written, or has no marks.
pub(crate) fn write(plan: &Plan, report: &Report) -> Result<()> {
    let page = fs::read_to_string(PAGE).with_context(|| format!("read {PAGE}"))?;
    fs::write(PAGE, filled(&page, &made(plan, report)?)?).with_context(|| format!("write {PAGE}"))
}

/// A page with something else between its marks.
fn filled(page: &str, made: &str) -> Result<String> {
    let (before, _, after) = parts(page)?;
    Ok(format!("{before}{BEGIN}\n\n{made}\n{END}{after}"))
}

/// What stands before the marks, between them, and behind them.
pub(super) fn parts(page: &str) -> Result<(&str, &str, &str)> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (between, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
    Ok((before, between, after))
}

/// What stands between them.
pub(super) fn made(plan: &Plan, report: &Report) -> Result<String> {
    let mut text = String::from("| what | wanted | found |\n| --- | --- | --- |\n");
    for aim in &report.aims {
        let missed = if aim.met { "" } else { ", **missed**" };
        writeln!(text, "| {} | {} | {}{missed} |", aim.what, aim.wanted, aim.found)?;
    }
    text.push_str("\n| requests | clients at once | succeeded |\n| --- | --- | --- |\n");
    for row in &report.rows {
        writeln!(text, "| {} | {} | {:.2} % |", row.case, row.clients, row.success_rate * 100.0)?;
    }
    let versions: Vec<String> = report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let (machine, runs, seed) = (&report.machine, report.runs, plan.seed);
    writeln!(text, "\nFound on {machine}; {}; runs: {runs}; seed {seed}.", versions.join(", "))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::report::{Aim, Row};

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else_is_touched() {
        let page = format!("# Page\n\nwords\n\n{BEGIN}\n\nold\n\n{END}\n\nmore\n");
        let once = filled(&page, "new\n").expect("marks");
        assert_eq!(once, format!("# Page\n\nwords\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"));
        assert_eq!(filled(&once, "new\n").expect("marks"), once);
        for page in ["# Page\n", BEGIN, END] {
            assert!(filled(page, "new\n").is_err(), "{page}");
        }
    }

    #[test]
    fn a_missed_aim_is_told_and_so_are_failures_and_the_seed() {
        let aim = |what: &str, met: bool| Aim {
            what: what.to_owned(),
            wanted: "at most 2 ms".to_owned(),
            found: "3.0 ms".to_owned(),
            met,
        };
        let row = Row { case: "lists".to_owned(), clients: 64, success_rate: 0.995, values: Vec::new() };
        let report = Report {
            bench: "mcp",
            machine: Machine::here(),
            versions: vec![("ollamax-node".to_owned(), "0.1.0".to_owned())],
            runs: 1,
            point_seconds: 10.0,
            rows: vec![row],
            aims: vec![aim("a", true), aim("b", false)],
            left_out: Vec::new(),
            notes: Vec::new(),
        };
        let text = made(&Plan::of(1, 7, false), &report).expect("text");
        for line in
            ["| a | at most 2 ms | 3.0 ms |", "| b | at most 2 ms | 3.0 ms, **missed** |", "| lists | 64 | 99.50 % |"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("; ollamax-node 0.1.0; runs: 1; seed 7.\n"), "{text}");
    }
}
