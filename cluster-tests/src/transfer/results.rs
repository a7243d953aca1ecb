//! From what was seen to rows and aims.

use std::time::Duration;

use super::course::{BEGUN_BYTES, Outcome};
use super::plan::{Plan, System};
use super::watched::Cost;
use crate::report::{Aim, Row, Spread};

/// Of the time of one copy: when the last node has it.
const MAKESPAN_MAX: f64 = 1.15;
/// Of the file's size: what the seed sends.
const SENT_MAX: f64 = 1.2;
/// Memory of the largest node, whatever the size; 10^6 bytes.
const PEAK_MB_MAX: f64 = 256.0;
/// Of nginx's rate with TLS: what one node gets of one other.
const FREE_RATE_MIN: f64 = 0.9;

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
    pub(super) nginx: Vec<Outcome>,
}

// === impl Found ===

impl Found {
    /// In times of one copy.
    fn makespan(&self, plan: &Plan) -> Option<f64> {
        let copy = plan.one_copy().as_secs_f64();
        median(self.outcomes.iter().filter_map(Outcome::makespan).map(|time| time.as_secs_f64() / copy))
    }

    /// In sizes of the file. A course that failed says nothing.
    fn sent(&self, plan: &Plan) -> Option<f64> {
        let whole = self.outcomes.iter().filter(|outcome| outcome.makespan().is_some());
        median(whole.map(|outcome| gigabytes(outcome.sent_bytes) / gigabytes(plan.size_bytes)))
    }

    fn row(&self, plan: &Plan) -> Row {
        let (copy, size) = (plan.one_copy().as_secs_f64(), gigabytes(plan.size_bytes));
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
        let size = gigabytes(plan.free_bytes);
        let cases = [("ollamax, loopback", &self.ours), ("nginx with TLS and curl, loopback", &self.nginx)];
        let measured = cases.into_iter().filter(|(_, outcomes)| !outcomes.is_empty());
        let line = |(case, outcomes): (&str, &Vec<Outcome>)| {
            let (cpu, peak) = costs(outcomes, size);
            let of = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).collect::<Vec<f64>>();
            let per_gb = |values: Vec<f64>| values.into_iter().map(|seconds| seconds / size).collect::<Vec<f64>>();
            let values = [
                ("GB/s", rates(outcomes, plan.free_bytes)),
                ("begin to end s", outcomes.iter().filter_map(|it| Some(it.makespan()?.as_secs_f64())).collect()),
                ("begins after s", outcomes.iter().filter_map(|it| Some(it.began?.as_secs_f64())).collect()),
                ("sender cpu s/GB", per_gb(of(|outcome| outcome.seed.cpu.as_secs_f64()))),
                ("receiver cpu s/GB", cpu),
                ("sender MB", of(|outcome| megabytes(outcome.seed.peak_bytes))),
                ("receiver MB", peak),
            ];
            row(case.to_owned(), 1, outcomes, values)
        };
        measured.map(line).collect()
    }
}

/// All rows, in the order in which they are read: by the number of nodes, ours first.
pub(super) fn rows(plan: &Plan, found: &[Found], free: &Free) -> Vec<Row> {
    found.iter().map(|found| found.row(plan)).chain(free.rows(plan)).collect()
}

/// What is wanted, beside what was found.
pub(super) fn aims(plan: &Plan, found: &[Found], free: &Free) -> Vec<Aim> {
    let mut aims = Vec::new();
    let most = found.iter().map(|found| found.nodes).max();
    let widest = |system: System| found.iter().find(|found| found.system == system && Some(found.nodes) == most);
    if let Some(ours) = widest(System::Nodes) {
        let nodes = ours.nodes;
        let makespan = ours.makespan(plan);
        aims.push(at_most(format!("makespan with {nodes} nodes, in times of one copy"), MAKESPAN_MAX, makespan));
        for &peer in &plan.peers {
            let Some(theirs) = widest(System::Peer(peer)).and_then(|found| found.makespan(plan)) else { continue };
            aims.push(Aim {
                what: format!("makespan with {nodes} nodes, beside {}", peer.name()),
                wanted: "below 1".to_owned(),
                met: makespan.is_some_and(|ours| ours < theirs),
                found: told(makespan.map(|ours| ours / theirs)),
            });
        }
        let all = || found.iter().filter(|found| found.system == System::Nodes);
        let sent: Option<Vec<f64>> = all().map(|found| found.sent(plan)).collect();
        let what = "what the seed sends, in sizes of the file, any number of nodes".to_owned();
        aims.push(at_most(what, SENT_MAX, sent.and_then(largest)));
    }
    let ours = found.iter().filter(|found| !matches!(found.system, System::Peer(_)));
    let peaks = ours.flat_map(|found| found.outcomes.iter()).chain(&free.ours).flat_map(|outcome| {
        // The seed of the other rows is a registry, which is no node.
        outcome.receivers.iter().map(|cost| megabytes(cost.peak_bytes))
    });
    let seeds = found.iter().filter(|found| found.system == System::Nodes).flat_map(|found| found.outcomes.iter());
    let seeds = seeds.chain(&free.ours).map(|outcome| megabytes(outcome.seed.peak_bytes));
    if let Some(peak) = largest(peaks.chain(seeds).collect()) {
        aims.push(at_most("memory of the largest node, MB".to_owned(), PEAK_MB_MAX, Some(peak)));
    }
    aims.extend(beside_tls(plan, free));
    aims
}

fn beside_tls(plan: &Plan, free: &Free) -> Option<Aim> {
    let theirs = median(rates(&free.nginx, plan.free_bytes)).filter(|rate| *rate > 0.0)?;
    let share = median(rates(&free.ours, plan.free_bytes)).map(|ours| ours / theirs);
    Some(Aim {
        what: "from one to one over loopback, beside nginx with TLS".to_owned(),
        wanted: format!("at least {FREE_RATE_MIN}"),
        met: share.is_some_and(|share| share >= FREE_RATE_MIN),
        found: told(share),
    })
}

fn at_most(what: String, wanted: f64, found: Option<f64>) -> Aim {
    let met = found.is_some_and(|found| found <= wanted);
    Aim { what, wanted: format!("at most {wanted}"), found: told(found), met }
}

fn told(found: Option<f64>) -> String {
    found.map_or_else(|| "nothing: not every node had the file".to_owned(), |found| format!("{found:.3}"))
}

fn row<const COLUMNS: usize>(
    case: String,
    nodes: usize,
    outcomes: &[Outcome],
    values: [(&'static str, Vec<f64>); COLUMNS],
) -> Row {
    let (mut had, mut all) = (0_u32, 0_u32);
    for finished in outcomes.iter().flat_map(|outcome| &outcome.finished) {
        all += 1;
        had += u32::from(finished.is_some());
    }
    let success_rate = if all == 0 { 0.0 } else { f64::from(had) / f64::from(all) };
    let values = values.into_iter().filter_map(|(name, values)| Some((name, Spread::of(values)?))).collect();
    Row { case, clients: nodes, success_rate, values }
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
