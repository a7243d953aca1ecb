//! What was measured, as rows of the report: both systems one under the other, each value over all runs.

use std::time::Duration;

use super::failover::{Trial, Trials};
use super::generator::Measured;
use super::plan::{Case, Through, Which};
use super::points::{Kind, Point};
use super::syncs::Syncs;
use crate::load::percentile;
use crate::report::{MIB, Row, Spread};

pub(super) const RATE: &str = "req/s";
pub(super) const P99: &str = "p99 ms";
pub(super) const RESIDENT: &str = "RSS MiB";
const PLANNED: &str = "planned/s";
const KIB: f64 = 1_024.0;

/// How a row is called.
pub(super) fn label(which: Which, kind: Kind, through: Through) -> String {
    let (system, through) = (which.name(), through.name());
    match kind {
        Kind::Closed(case) => closed_label(which, case, through),
        Kind::Open(case, share, _) => format!("{}, open {share} %", closed_label(which, case, through)),
        Kind::Profile(profile) => format!("{system} {}", profile.name),
        Kind::PointReads => format!("{system} get linearizable while 64 write, {through}"),
        Kind::Lists => format!("{system} list of 100 while 64 write, {through}"),
    }
}

fn closed_label(which: Which, case: Case, through: &str) -> String {
    format!("{} {}, {through}", which.name(), case.name())
}

/// One row for each load of ours, and below it that of etcd where there is one.
pub(super) fn of_points(points: &[Point]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for ours in points.iter().filter(|point| point.which == Which::Ours) {
        let Point { kind, through, clients, .. } = *ours;
        let is_known = |row: &Row| row.case == label(Which::Ours, kind, through) && row.clients == clients;
        if rows.iter().any(is_known) {
            continue;
        }
        for which in Which::BOTH {
            let alike: Vec<&Point> = points
                .iter()
                .filter(|it| (it.which, it.kind, it.through, it.clients) == (which, kind, through, clients))
                .collect();
            if !alike.is_empty() {
                rows.push(row(label(which, kind, through), clients, &alike));
            }
        }
    }
    rows
}

fn row(case: String, clients: usize, points: &[&Point]) -> Row {
    let mut values = Vec::new();
    let mut add = |name, of: &dyn Fn(&Measured) -> Option<f64>| {
        let list = points.iter().filter_map(|point| of(&point.measured)).collect();
        values.extend(Spread::of(list).map(|spread| (name, spread)));
    };
    let planned = points.first().and_then(|point| planned(point.kind));
    add(PLANNED, &|_| planned);
    add(RATE, &|it| Some(it.per_second()));
    add("p50 ms", &|it| it.latencies.quantile_ms(0.5));
    add(P99, &|it| it.latencies.quantile_ms(0.99));
    add("max ms", &|it| it.latencies.largest_ms());
    let cores = |used: Duration, it: &Measured| Some(used.as_secs_f64() / it.elapsed.as_secs_f64());
    add("daemons cores", &|it| cores(it.cost.daemons, it));
    add("generator cores", &|it| cores(it.cost.generator, it));
    add(RESIDENT, &|it| Some(it.cost.resident_bytes as f64 / MIB));
    add("KiB written/req", &|it| {
        let requests = it.latencies.total();
        (requests > 0).then(|| it.cost.written_bytes as f64 / KIB / requests as f64)
    });
    let good = points.iter().map(|point| point.measured.latencies.total()).sum();
    let bad = points.iter().map(|point| point.measured.failed).sum();
    Row { case, clients, success_rate: share(good, bad), values }
}

/// Requests per second that an open load was to make.
fn planned(kind: Kind) -> Option<f64> {
    match kind {
        Kind::Open(_, _, rate) => Some(rate),
        Kind::Profile(profile) => Some(profile.per_second),
        Kind::Closed(_) | Kind::PointReads | Kind::Lists => None,
    }
}

/// The good ones of all; of nothing, nothing.
pub(crate) fn share(good: u64, bad: u64) -> f64 {
    if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 }
}

pub(super) fn of_syncs(found: &[Syncs]) -> Vec<Row> {
    let row = |syncs: &Syncs| {
        let values = [
            ("fsyncs/write, leader", syncs.on_the_leader()),
            ("fsyncs/write, all nodes", syncs.on_all()),
            ("fsyncs/node and group", syncs.per_group()),
            ("writes/group, leader", syncs.leader_grouped_per_group),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, Spread::of(vec![value?])?)));
        Row {
            case: format!("{} syncs of {}, {}", syncs.which.name(), Case::Put.name(), Through::Leader.name()),
            clients: syncs.clients,
            success_rate: share(syncs.writes, syncs.failed),
            values: values.collect(),
        }
    };
    found.iter().map(row).collect()
}

pub(super) fn of_trials(found: &[Trials]) -> Vec<Row> {
    let row = |it: &Trials| {
        let gaps = gaps_ms(&it.trials);
        let shares = [("gap p50 ms", 0.5), ("gap p95 ms", 0.95), ("gap max ms", 1.0)];
        let mut values: Vec<(&'static str, Spread)> = shares
            .into_iter()
            .filter_map(|(name, share)| Some((name, Spread::of(vec![percentile(&gaps, share)?])?)))
            .collect();
        let failed = it.trials.iter().map(|trial| trial.failed as f64).collect();
        values.extend(Spread::of(failed).map(|spread| ("failed writes", spread)));
        let lost = it.trials.len() - gaps.len();
        Row {
            case: format!("{} {}, {}", it.which.name(), it.event.name(), it.pace.name()),
            clients: 1,
            success_rate: share(gaps.len() as u64, lost as u64),
            values,
        }
    };
    found.iter().map(row).collect()
}

/// The gaps of all trials that ended, sorted.
pub(super) fn gaps_ms(trials: &[Trial]) -> Vec<f64> {
    let mut gaps: Vec<f64> =
        trials.iter().filter_map(|trial| trial.gap).map(|gap| gap.as_secs_f64() * 1_000.0).collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::against::cost::Cost;
    use crate::against::failover::Event;
    use crate::against::plan::Pace;

    fn point(which: Which, kind: Kind, latencies_ms: &[u64], failed: u64) -> Point {
        let cost = Cost {
            daemons: Duration::from_secs(3),
            generator: Duration::from_secs(1),
            written_bytes: 8_192,
            resident_bytes: 64 << 20,
        };
        let mut measured = Measured { failed, cost, elapsed: Duration::from_secs(2), ..Measured::default() };
        latencies_ms.iter().for_each(|ms| measured.latencies.add(Duration::from_millis(*ms)));
        Point { which, kind, through: Through::Leader, clients: 8, measured, leader_moved: false }
    }

    fn value(row: &Row, name: &str) -> Option<Spread> {
        row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| *spread)
    }

    #[test]
    fn both_systems_stand_under_each_other_with_all_their_runs() {
        let kind = Kind::Closed(Case::Put);
        let points = [
            point(Which::Ours, kind, &[1, 1], 0),
            point(Which::Etcd, kind, &[1, 1, 1, 1], 1),
            point(Which::Ours, Kind::Open(Case::Put, 50, 2.0), &[1], 0),
            point(Which::Ours, kind, &[1, 1, 1, 1, 1, 1], 2),
        ];
        let rows = of_points(&points);
        let cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
        assert_eq!(
            cases,
            [
                "ollamax put 8 B + 256 B, leader",
                "etcd put 8 B + 256 B, leader",
                "ollamax put 8 B + 256 B, leader, open 50 %"
            ]
        );
        assert_eq!(value(&rows[0], RATE), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(value(&rows[0], "daemons cores").map(|spread| spread.median), Some(1.5));
        assert_eq!(value(&rows[0], "KiB written/req").map(|spread| spread.max), Some(4.0));
        assert_eq!(value(&rows[0], RESIDENT).map(|spread| spread.median), Some(64.0));
        assert!((rows[0].success_rate - 0.8).abs() < 1e-9 && (rows[1].success_rate - 0.8).abs() < 1e-9);
        assert_eq!(value(&rows[0], PLANNED), None);
        assert_eq!(value(&rows[2], PLANNED).map(|spread| spread.median), Some(2.0));
    }

    #[test]
    fn a_trial_that_nobody_acknowledged_again_counts_as_none() {
        let trial = |ms: Option<u64>, failed| Trial { gap: ms.map(Duration::from_millis), failed };
        let trials = vec![trial(Some(30), 0), trial(None, 4), trial(Some(10), 1), trial(Some(20), 1)];
        let (which, pace, event) = (Which::Etcd, Pace::OneSecond, Event::Kill);
        let rows = of_trials(&[Trials { which, pace, event, trials }]);
        assert_eq!(rows[0].case, "etcd kill -9 of the leader, 1 s timeouts");
        assert!((rows[0].success_rate - 0.75).abs() < 1e-9);
        assert_eq!(value(&rows[0], "gap p50 ms").map(|spread| spread.median), Some(20.0));
        assert_eq!(value(&rows[0], "gap max ms").map(|spread| spread.median), Some(30.0));
        assert_eq!(value(&rows[0], "failed writes"), Some(Spread { median: 1.0, min: 0.0, max: 4.0 }));
    }
}
