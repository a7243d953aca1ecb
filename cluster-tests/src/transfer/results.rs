//! From what was seen to rows and aims.

mod aims;

use std::time::Duration;

use super::course::{Adopted, BEGUN_BYTES, Outcome};
use super::ours::CATALOG_MODELS;
use super::plan::{Plan, System};
use super::watched::Cost;
use crate::report::{Row, Spread};

pub(super) use aims::aims;

/// How often one case was run, and what was seen each time.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) system: System,
    pub(super) nodes: usize,
    pub(super) outcomes: Vec<Outcome>,
}

/// The same without set links, from one to one.
#[derive(Debug, Default)]
pub(super) struct Free {
    pub(super) ours: Vec<Outcome>,
    /// Ours, where no TCP leads to the one that has it.
    pub(super) lanes: Vec<Outcome>,
    /// Ours, a quarter of the file.
    pub(super) quarter: Vec<Outcome>,
    pub(super) nginx: Vec<Outcome>,
    /// Of a node whose runtime gets the file; `None`: it did not come to offer it.
    pub(super) adopted: Vec<Option<Adopted>>,
    /// From the start of a node until it lists all models that it finds; `None`: it never did.
    pub(super) catalogued: Vec<Option<Duration>>,
}

// === impl Found ===

impl Found {
    /// In times of one copy.
    fn makespan(&self, plan: &Plan) -> Option<f64> {
        let copy = plan.one_copy_of(self.system).as_secs_f64();
        median(self.outcomes.iter().filter_map(Outcome::makespan).map(|time| time.as_secs_f64() / copy))
    }

    /// In sizes of the file. A course that failed says nothing.
    fn sent(&self, plan: &Plan) -> Option<f64> {
        let whole = self.outcomes.iter().filter(|outcome| outcome.makespan().is_some());
        let size = gigabytes(plan.size_of(self.system));
        median(whole.map(|outcome| gigabytes(outcome.sent_bytes) / size))
    }

    fn row(&self, plan: &Plan) -> Row {
        let (copy, size) = (plan.one_copy_of(self.system).as_secs_f64(), gigabytes(plan.size_of(self.system)));
        let of = |value: &dyn Fn(&Outcome) -> Option<f64>| self.outcomes.iter().filter_map(value).collect::<Vec<f64>>();
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let each = self.outcomes.iter().flat_map(|outcome| outcome.finished.iter().copied().filter_map(seconds));
        let (cpu, peak) = costs(&self.outcomes, size);
        let values = [
            ("makespan T", of(&|outcome| Some(outcome.makespan()?.as_secs_f64() / copy))),
            ("makespan s", of(&|outcome| seconds(outcome.makespan()))),
            ("node s", each.collect()),
            ("begins s", of(&|outcome| seconds(outcome.began))),
            ("seed sends x", of(&|outcome| Some(gigabytes(outcome.sent_bytes) / size))),
            ("seed cpu s/GB", of(&|outcome| Some(outcome.seed.cpu.as_secs_f64() / size))),
            ("node cpu s/GB", cpu),
            ("seed peak MB", of(&|outcome| Some(megabytes(outcome.seed.peak_bytes)))),
            ("node peak MB", peak),
        ];
        row(self.system.name().to_owned(), self.nodes, &self.outcomes, values)
    }
}

// === impl Free ===

impl Free {
    fn rows(&self, plan: &Plan) -> Vec<Row> {
        let whole = plan.free_bytes;
        let cases = [
            ("ollamax, loopback", whole, &self.ours),
            ("ollamax, loopback, over libp2p alone", whole, &self.lanes),
            ("ollamax, loopback, a quarter of it", plan.free_quarter_bytes(), &self.quarter),
            ("nginx with TLS and curl, loopback", whole, &self.nginx),
        ];
        let measured = cases.into_iter().filter(|(_, _, outcomes)| !outcomes.is_empty());
        let line = |(case, bytes, outcomes): (&str, u64, &Vec<Outcome>)| {
            let size = gigabytes(bytes);
            let (cpu, peak) = costs(outcomes, size);
            let of = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).collect::<Vec<f64>>();
            let per_gb = |values: Vec<f64>| values.into_iter().map(|seconds| seconds / size).collect::<Vec<f64>>();
            let values = [
                ("GB/s", rates(outcomes, bytes)),
                ("begin to end s", outcomes.iter().filter_map(|it| Some(it.makespan()?.as_secs_f64())).collect()),
                ("begins after s", outcomes.iter().filter_map(|it| Some(it.began?.as_secs_f64())).collect()),
                ("sender cpu s/GB", per_gb(of(|outcome| outcome.seed.cpu.as_secs_f64()))),
                ("receiver cpu s/GB", cpu),
                ("sender MB", of(|outcome| megabytes(outcome.seed.peak_bytes))),
                ("receiver MB", peak),
            ];
            row(case.to_owned(), 1, outcomes, values)
        };
        measured.map(line).chain(self.adoption(plan)).chain(self.catalog()).collect()
    }

    /// When a node lists what it finds at its start.
    fn catalog(&self) -> Option<Row> {
        let times: Vec<f64> = self.catalogued.iter().flatten().map(Duration::as_secs_f64).collect();
        let row = Row {
            case: format!("ollamax, lists {CATALOG_MODELS} models from its start on"),
            clients: 1,
            success_rate: share(times.len(), self.catalogued.len()),
            values: told_of([("listed after s", times)]),
        };
        (!self.catalogued.is_empty()).then_some(row)
    }

    /// What a node needs before it offers what was put into its runtime's store.
    fn adoption(&self, plan: &Plan) -> Option<Row> {
        let size = gigabytes(plan.free_bytes);
        let whole: Vec<Adopted> = self.adopted.iter().flatten().copied().collect();
        let of = |value: &dyn Fn(&Adopted) -> f64| whole.iter().map(value).collect::<Vec<f64>>();
        let values = [
            ("offered after s", of(&|adopted| adopted.time.as_secs_f64())),
            ("reads x", of(&|adopted| gigabytes(adopted.io.read_bytes) / size)),
            ("of the disk x", of(&|adopted| gigabytes(adopted.io.from_disk_bytes) / size)),
            ("writes x", of(&|adopted| gigabytes(adopted.io.written_bytes) / size)),
            ("to the disk x", of(&|adopted| gigabytes(adopted.io.to_disk_bytes) / size)),
            ("cpu s/GB", of(&|adopted| adopted.cost.cpu.as_secs_f64() / size)),
            ("peak MB", of(&|adopted| megabytes(adopted.cost.peak_bytes))),
        ];
        let row = Row {
            case: "ollamax, adopts a file of its runtime".to_owned(),
            clients: 1,
            success_rate: share(whole.len(), self.adopted.len()),
            values: told_of(values),
        };
        (!self.adopted.is_empty()).then_some(row)
    }
}

/// All rows, in the order in which they are read: by the number of nodes, ours first.
pub(super) fn rows(plan: &Plan, found: &[Found], free: &Free) -> Vec<Row> {
    found.iter().map(|found| found.row(plan)).chain(free.rows(plan)).collect()
}

/// Why not all had the file, run for run.
pub(super) fn failures(found: &[Found], free: &Free) -> Vec<String> {
    let linked = found.iter().flat_map(|found| &found.outcomes);
    let others = [&free.ours, &free.lanes, &free.quarter, &free.nginx].into_iter().flatten();
    linked.chain(others).flat_map(|outcome| outcome.failures.iter().cloned()).collect()
}

fn row<const COLUMNS: usize>(
    case: String,
    nodes: usize,
    outcomes: &[Outcome],
    values: [(&'static str, Vec<f64>); COLUMNS],
) -> Row {
    let all = || outcomes.iter().flat_map(|outcome| &outcome.finished);
    let success_rate = share(all().flatten().count(), all().count());
    Row { case, clients: nodes, success_rate, values: told_of(values) }
}

/// The columns of which something was seen.
fn told_of<const COLUMNS: usize>(values: [(&'static str, Vec<f64>); COLUMNS]) -> Vec<(&'static str, Spread)> {
    values.into_iter().filter_map(|(name, values)| Some((name, Spread::of(values)?))).collect()
}

/// How many of all, 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "there are few of them")]
fn share(some: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

/// Of all receivers: seconds of processors for each GB, and the most memory in MB.
fn costs(outcomes: &[Outcome], size: f64) -> (Vec<f64>, Vec<f64>) {
    let all: Vec<Cost> = outcomes.iter().flat_map(|outcome| outcome.receivers.iter().copied()).collect();
    let cpu = all.iter().map(|cost| cost.cpu.as_secs_f64() / size).collect();
    (cpu, all.iter().map(|cost| megabytes(cost.peak_bytes)).collect())
}

/// From when the first had left the seed: GB each second.
fn rates(outcomes: &[Outcome], bytes: u64) -> Vec<f64> {
    let rate = |outcome: &Outcome| {
        let time = outcome.makespan()?.checked_sub(outcome.began?)?.as_secs_f64();
        (time > 0.0).then(|| gigabytes(bytes.saturating_sub(BEGUN_BYTES)) / time)
    };
    outcomes.iter().filter_map(rate).collect()
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(values.into_iter().collect()).map(|spread| spread.median)
}

fn largest(values: Vec<f64>) -> Option<f64> {
    Spread::of(values).map(|spread| spread.max)
}

fn megabytes(bytes: u64) -> f64 {
    gigabytes(bytes) * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one machine are far below 2^52")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests;
