//! What was found, as rows of the report and beside what is wanted. Speeds stand beside the share that succeeded.

use std::time::Duration;

use super::Run;
use super::calls::{Calls, Lists};
use super::handshakes::{self, Handshakes, MORE_BYTES_MAX, MORE_FILES_MAX};
use super::messages::NO_OP;
use super::plan::{CALLING, CROWD, LISTING, Plan};
use super::writes::{Forwarded, UnderKills};
use crate::against::{at_most_ms, share};
use crate::load::{Outcome, percentile};
use crate::report::{Aim, MIB, Row, Spread};

/// Of one client: the slowest percent of lists at a follower.
const LIST_P99_MS: f64 = 2.0;
/// By how much the slowest percent of changes may be slower than that of plain writes.
const ADDED_P99_MS: f64 = 5.0;
const CALLS_PER_CORE: f64 = 5_000.0;
const BRIDGE_MS: f64 = 2_000.0;

const P50: &str = "p50 ms";
const P99: &str = "p99 ms";
const LIST_P99: &str = "list p99 ms";
const PER_CORE: &str = "calls/s/core";
const ADDED_P50: &str = "added p50 ms";
const ADDED_P99: &str = "added p99 ms";
const SLOWEST: &str = "slowest ms";

const LIST: &str = "tools/list at a follower";
const PUT: &str = "plain put at the leader";
const CHANGE: &str = "pin_model with a key at a follower";
const KILLS: &str = "pin_model with keys while the leader is killed each 5 s";
const HANDSHAKE: &str = "handshakes that leave without a word";
const BRIDGE: &str = "ollamax mcp while its node dies";

type Value = (&'static str, Spread);

fn value(name: &'static str, list: impl IntoIterator<Item = Option<f64>>) -> Option<Value> {
    Spread::of(list.into_iter().flatten().collect()).map(|spread| (name, spread))
}

fn row(case: &str, clients: usize, success_rate: f64, values: impl IntoIterator<Item = Option<Value>>) -> Row {
    Row { case: case.to_owned(), clients, success_rate, values: values.into_iter().flatten().collect() }
}

fn ms(sorted: &[f64], at: f64) -> Option<f64> {
    percentile(sorted, at).map(|seconds| seconds * 1_000.0)
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The share of good ones over all runs.
fn good_share(counts: impl Iterator<Item = (u64, u64)>) -> f64 {
    let (good, bad) = counts.fold((0, 0), |(good, bad), (more_good, more_bad)| (good + more_good, bad + more_bad));
    share(good, bad)
}

fn share_of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> f64 {
    good_share(outcomes.map(|outcome| (outcome.succeeded(), outcome.failed)))
}

/// Everything that was found. Columns have names of their own where a table of its own is wanted.
pub(super) fn rows(runs: &[Run]) -> Vec<Row> {
    let mut rows: Vec<Row> = LISTING.into_iter().map(|clients| of_lists(runs, clients)).collect();
    rows.push(of_calls(runs));
    rows.extend(of_forwarded(runs));
    rows.push(of_kills(runs));
    rows.push(of_handshakes(runs));
    rows.push(of_bridge(runs));
    rows
}

fn of_lists(runs: &[Run], clients: usize) -> Row {
    let own: Vec<&Lists> = runs.iter().flat_map(|run| &run.lists).filter(|lists| lists.clients == clients).collect();
    let outcomes = || own.iter().map(|lists| &lists.outcome);
    let values = [
        value("list p50 ms", outcomes().map(|outcome| ms(&outcome.whole, 0.5))),
        value(LIST_P99, outcomes().map(|outcome| ms(&outcome.whole, 0.99))),
        value("lists/s", outcomes().map(|outcome| Some(outcome.per_second()))),
    ];
    row(LIST, clients, share_of(outcomes()), values)
}

fn of_calls(runs: &[Run]) -> Row {
    let all: Vec<&Calls> = runs.iter().flat_map(|run| &run.calls).collect();
    let outcomes = || all.iter().map(|calls| &calls.outcome);
    let values = [
        value("call p50 ms", outcomes().map(|outcome| ms(&outcome.whole, 0.5))),
        value("call p99 ms", outcomes().map(|outcome| ms(&outcome.whole, 0.99))),
        value("calls/s", outcomes().map(|outcome| Some(outcome.per_second()))),
        value(PER_CORE, all.iter().map(|calls| calls.per_core())),
    ];
    row(NO_OP, CALLING, share_of(outcomes()), values)
}

/// Plain writes, and the changes beside them.
fn of_forwarded(runs: &[Run]) -> [Row; 2] {
    let all = || runs.iter().map(|run| &run.forwarded);
    let added = |at: f64| move |it: &Forwarded| Some(ms(&it.changes, at)? - ms(&it.puts, at)?);
    let puts = [value(P50, all().map(|it| ms(&it.puts, 0.5))), value(P99, all().map(|it| ms(&it.puts, 0.99)))];
    let changes = [
        value(P50, all().map(|it| ms(&it.changes, 0.5))),
        value(P99, all().map(|it| ms(&it.changes, 0.99))),
        value(ADDED_P50, all().map(added(0.5))),
        value(ADDED_P99, all().map(added(0.99))),
    ];
    let put_share = good_share(all().map(|it| (it.puts.len() as u64, it.failed_puts)));
    let change_share = good_share(all().map(|it| (it.changes.len() as u64, it.failed_changes)));
    [row(PUT, 1, put_share, puts), row(CHANGE, 1, change_share, changes)]
}

/// Good is a change that was acknowledged and had effect once.
fn of_kills(runs: &[Run]) -> Row {
    let all = || runs.iter().map(|run| &run.under_kills);
    let number = |of: fn(&UnderKills) -> u64| all().map(move |it| Some(of(it) as f64));
    let values = [
        value("changes", number(|it| it.acknowledged.len() as u64)),
        value("lost", number(|it| it.lost)),
        value("doubled", number(|it| it.doubled)),
        value("kills", number(|it| it.kills)),
        value("calls", number(|it| it.attempts)),
        value("sent again", number(|it| it.repeated)),
        value("change p50 ms", all().map(|it| ms(&it.acknowledged, 0.5))),
        value("change p99 ms", all().map(|it| ms(&it.acknowledged, 0.99))),
        value("change max ms", all().map(|it| ms(&it.acknowledged, 1.0))),
    ];
    let counts = all().map(|it| {
        let wrong = it.lost + it.doubled;
        ((it.acknowledged.len() as u64).saturating_sub(wrong), it.failed + wrong)
    });
    row(KILLS, 1, good_share(counts), values)
}

fn of_handshakes(runs: &[Run]) -> Row {
    let all = || runs.iter().map(|run| &run.handshakes);
    let mib = |of: fn(&Handshakes) -> u64| all().map(move |it| Some(of(it) as f64 / MIB));
    let values = [
        value("clients that went", all().map(|it| Some(it.greeted as f64))),
        value("before MiB", mib(|it| it.base.resident_bytes)),
        value("most MiB", mib(|it| it.most.resident_bytes)),
        value("after MiB", mib(|it| it.after.resident_bytes)),
        value("files before", all().map(|it| Some(it.base.open_files as f64))),
        value("files after", all().map(|it| Some(it.after.open_files as f64))),
        value("back s", all().map(|it| it.settled.map(|settled| settled.as_secs_f64()))),
    ];
    row(HANDSHAKE, handshakes::CROWD, good_share(all().map(|it| (it.greeted, it.failed))), values)
}

fn of_bridge(runs: &[Run]) -> Row {
    let all = || runs.iter().map(|run| run.bridge);
    let values = [
        value("answers", all().map(|it| Some(it.answered as f64))),
        value("errors", all().map(|it| Some(it.errors as f64))),
        value("first ms", all().map(|it| it.first.map(in_ms))),
        value(SLOWEST, all().map(|it| it.slowest.map(in_ms))),
    ];
    let counts = all().map(|it| (it.answered.saturating_sub(it.errors), it.errors + it.unanswered));
    row(BRIDGE, 1, good_share(counts), values)
}

fn spread(rows: &[Row], case: &str, clients: usize, name: &str) -> Option<Spread> {
    let row = rows.iter().find(|row| row.case == case && row.clients == clients)?;
    row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| *spread)
}

/// What is wanted, beside the median of the runs where it is a speed, and the worst run where it is a promise.
pub(super) fn aims(plan: &Plan, runs: &[Run], rows: &[Row]) -> Vec<Aim> {
    let median = |case: &str, clients: usize, name: &str| spread(rows, case, clients, name).map(|it| it.median);
    let mut aims = vec![at_most_ms(format!("{LIST}: p99 of 1 client"), LIST_P99_MS, median(LIST, 1, LIST_P99))];
    let added = median(CHANGE, 1, ADDED_P99);
    aims.push(at_most_ms(format!("{CHANGE}: p99 beyond that of one commit ({PUT})"), ADDED_P99_MS, added));
    let per_core = median(NO_OP, CALLING, PER_CORE);
    aims.push(Aim {
        what: format!("{NO_OP}: calls in a second of one core of the node's process"),
        wanted: format!("at least {CALLS_PER_CORE:.0}"),
        found: per_core.map_or_else(|| "nothing".to_owned(), |found| format!("{found:.0}")),
        met: per_core.is_some_and(|found| found >= CALLS_PER_CORE),
    });
    let of_crowd = runs.iter().flat_map(|run| &run.lists).filter(|lists| lists.clients == CROWD);
    let failed = of_crowd.map(|lists| lists.outcome.failed + u64::from(lists.outcome.whole.is_empty())).sum();
    aims.push(none(format!("{LIST}: failures of {CROWD} clients at once"), failed));
    aims.push(memory(plan, runs));
    let worst = |of: fn(&UnderKills) -> u64| runs.iter().map(|run| of(&run.under_kills)).max().unwrap_or_default();
    let kills = runs.iter().map(|run| run.under_kills.kills).min().unwrap_or_default();
    let refused = none(format!("{} {KILLS}: not acknowledged", plan.writes), worst(|it| it.failed));
    aims.push(Aim { found: format!("{}, in {kills} kills", refused.found), ..refused });
    aims.push(none(format!("{} {KILLS}: effects lost", plan.writes), worst(|it| it.lost)));
    aims.push(none(format!("{} {KILLS}: effects doubled", plan.writes), worst(|it| it.doubled)));
    let slowest = spread(rows, BRIDGE, 1, SLOWEST).map(|it| it.max);
    aims.push(at_most_ms(format!("{BRIDGE}: longest wait"), BRIDGE_MS, slowest));
    aims
}

fn none(what: String, found: u64) -> Aim {
    Aim { what, wanted: "none".to_owned(), found: found.to_string(), met: found == 0 }
}

fn memory(plan: &Plan, runs: &[Run]) -> Aim {
    let all = || runs.iter().map(|run| &run.handshakes);
    let mib = all().map(|it| (it.after.resident_bytes as f64 - it.base.resident_bytes as f64) / MIB);
    let files = all().map(|it| it.after.open_files as f64 - it.base.open_files as f64);
    let (mib, files) = (mib.fold(f64::MIN, f64::max), files.fold(f64::MIN, f64::max));
    Aim {
        what: format!("memory and files of a node after {} {HANDSHAKE}", plan.greeted),
        wanted: format!("at most {} MiB and {MORE_FILES_MAX} files more than before", MORE_BYTES_MAX >> 20),
        found: format!("{mib:.1} MiB and {files:.0} files more"),
        met: all().all(|it| it.settled.is_some() && it.after.is_back_to(it.base)),
    }
}

#[cfg(test)]
mod tests;
