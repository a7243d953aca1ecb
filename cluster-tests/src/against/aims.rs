//! What we want to reach, beside what was found: ratios to etcd where it is the yardstick, plain numbers elsewhere.

use super::failover::{Event, Trials};
use super::plan::{Case, Pace, Plan, Through, Which};
use super::points::{Kind, PROFILES, Point};
use super::results::{P99, RATE, RESIDENT, gaps_ms, label};
use super::syncs::Syncs;
use crate::load::percentile;
use crate::report::{Aim, Row};

/// Share of etcd's rate that writes have to reach, by clients; 8 clients are shown and not judged.
const WRITES: [(usize, f64); 3] = [(1, 0.95), (64, 1.0), (256, 1.0)];
/// The same of linearizable reads, with any number of clients.
const READS: f64 = 0.8;
/// How much more memory than etcd's the largest daemon may hold.
const RESIDENT_MIB: f64 = 64.0;
const FSYNCS_PER_GROUP: f64 = 1.2;
/// Writes that share one sync at 64 clients.
const GROUP: (usize, f64) = (64, 16.0);
const KILL_P50_MS: f64 = 1_300.0;
const KILL_MAX_MS: f64 = 3_000.0;
const GRACEFUL_MAX_MS: f64 = 150.0;
const READS_P99_MS: f64 = 50.0;
/// The rule of `etcdctl check perf`: share of the planned rate, the slowest, and the standard deviation.
const PERF_SHARE: f64 = 0.9;
const PERF_SLOWEST_MS: f64 = 500.0;
const PERF_DEVIATION_MS: f64 = 100.0;

fn median(rows: &[Row], case: &str, clients: usize, name: &str) -> Option<f64> {
    let row = rows.iter().find(|row| row.case == case && row.clients == clients)?;
    row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| spread.median)
}

/// The same value of ours and of etcd.
fn both(rows: &[Row], case: Case, through: Through, clients: usize, name: &str) -> Option<(f64, f64)> {
    let of = |which| median(rows, &label(which, Kind::Closed(case), through), clients, name);
    of(Which::Ours).zip(of(Which::Etcd))
}

/// Rates and memory beside etcd's.
pub(super) fn beside(plan: &Plan, rows: &[Row]) -> Vec<Aim> {
    let mut aims = Vec::new();
    let mut more_memory: Option<f64> = None;
    for &case in &plan.cases {
        for through in Through::BOTH {
            for &clients in &plan.clients {
                let rates = both(rows, case, through, clients, RATE).filter(|(_, etcd)| *etcd > 0.0);
                if let (Some((ours, etcd)), Some(wanted)) = (rates, wanted_share(case, clients)) {
                    let what = format!("{}, {}, {clients} clients: beside etcd", case.name(), through.name());
                    aims.push(at_least(what, wanted, ours / etcd));
                }
                if let Some((ours, etcd)) = both(rows, case, through, clients, RESIDENT) {
                    more_memory = Some(more_memory.map_or(ours - etcd, |most| most.max(ours - etcd)));
                }
            }
        }
    }
    aims.extend(more_memory.map(|more| Aim {
        what: "memory of the largest daemon beside etcd's, the worst load".to_owned(),
        wanted: format!("at most {RESIDENT_MIB} MiB more"),
        found: format!("{more:.1} MiB more"),
        met: more <= RESIDENT_MIB,
    }));
    aims
}

/// The share of etcd's rate that is wanted.
fn wanted_share(case: Case, clients: usize) -> Option<f64> {
    match case {
        Case::Put | Case::PutLarge | Case::Swap => {
            WRITES.iter().find(|(of, _)| *of == clients).map(|(_, share)| *share)
        }
        Case::Get => Some(READS),
        Case::GetStale | Case::Mixed => None,
    }
}

fn at_least(what: String, wanted: f64, found: f64) -> Aim {
    Aim { what, wanted: format!("at least {wanted} x"), found: format!("{found:.2} x"), met: found >= wanted }
}

pub(crate) fn at_most_ms(what: String, wanted: f64, found: Option<f64>) -> Aim {
    Aim {
        what,
        wanted: format!("at most {wanted} ms"),
        found: found.map_or_else(|| "nothing".to_owned(), |found| format!("{found:.1} ms")),
        met: found.is_some_and(|found| found <= wanted),
    }
}

/// How often ours syncs for what it makes durable together, and how much that is.
pub(super) fn syncs(found: &[Syncs]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for syncs in found.iter().filter(|syncs| syncs.which == Which::Ours) {
        let clients = syncs.clients;
        let per_group = syncs.per_group();
        aims.push(Aim {
            what: format!("fsyncs per node and group at {clients} clients"),
            wanted: format!("at most {FSYNCS_PER_GROUP}"),
            found: per_group.map_or_else(|| "nothing".to_owned(), |found| format!("{found:.2}")),
            met: per_group.is_some_and(|found| found <= FSYNCS_PER_GROUP),
        });
        if clients == GROUP.0 {
            let grouped = syncs.leader_grouped_per_group;
            aims.push(Aim {
                what: format!("writes that share one sync of the leader at {clients} clients"),
                wanted: format!("at least {}", GROUP.1),
                found: grouped.map_or_else(|| "nothing".to_owned(), |found| format!("{found:.1}")),
                met: grouped.is_some_and(|found| found >= GROUP.1),
            });
        }
    }
    aims
}

/// How long ours cannot be written to when its leader is lost, at its default timeouts.
pub(super) fn failovers(found: &[Trials]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for it in found.iter().filter(|it| it.which == Which::Ours && it.pace == Pace::Default) {
        let gaps = gaps_ms(&it.trials);
        let event = it.event.name();
        // A trial without an end is worse than any number.
        let all_ended = gaps.len() == it.trials.len();
        let of = |share| percentile(&gaps, share).filter(|_| all_ended);
        match it.event {
            Event::Kill => {
                aims.push(at_most_ms(format!("{event}: gap p50"), KILL_P50_MS, of(0.5)));
                aims.push(at_most_ms(format!("{event}: gap, the worst"), KILL_MAX_MS, of(1.0)));
            }
            Event::Stop | Event::HandOver => {
                aims.push(at_most_ms(format!("{event}: gap, the worst"), GRACEFUL_MAX_MS, of(1.0)));
                let failed: u64 = it.trials.iter().map(|trial| trial.failed).sum();
                aims.push(Aim {
                    what: format!("{event}: failed writes"),
                    wanted: "none".to_owned(),
                    found: failed.to_string(),
                    met: failed == 0,
                });
            }
        }
    }
    aims
}

/// Reads of ours while others write.
pub(super) fn reads(rows: &[Row], points: &[Point]) -> Vec<Aim> {
    let read = points.iter().filter(|point| matches!(point.kind, Kind::PointReads | Kind::Lists));
    let mut cases: Vec<(String, usize)> =
        read.map(|point| (label(point.which, point.kind, point.through), point.clients)).collect();
    cases.sort();
    cases.dedup();
    let aim = |(case, clients): (String, usize)| {
        let found = median(rows, &case, clients, P99);
        at_most_ms(format!("{case}: p99"), READS_P99_MS, found)
    };
    cases.into_iter().map(aim).collect()
}

/// The profiles of `etcdctl check perf` at ours, by its own rule.
pub(super) fn profiles(points: &[Point]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for profile in PROFILES {
        let own = |point: &&Point| point.which == Which::Ours && point.kind == Kind::Profile(profile);
        let Some(point) = points.iter().find(own) else { continue };
        let measured = &point.measured;
        let share = measured.per_second() / profile.per_second;
        let slowest = measured.latencies.largest_ms().unwrap_or(f64::INFINITY);
        let deviation = measured.latencies.deviation_ms().unwrap_or(f64::INFINITY);
        let failed = measured.failed;
        let met = failed == 0 && share >= PERF_SHARE && slowest <= PERF_SLOWEST_MS && deviation <= PERF_DEVIATION_MS;
        aims.push(Aim {
            what: format!("{} ({} writes/s)", profile.name, profile.per_second),
            wanted: format!(
                "{:.0} % of it, slowest {PERF_SLOWEST_MS} ms, deviation {PERF_DEVIATION_MS} ms, none failed",
                PERF_SHARE * 100.0
            ),
            found: format!(
                "{:.0} %, slowest {slowest:.0} ms, deviation {deviation:.1} ms, {failed} failed",
                share * 100.0
            ),
            met,
        });
    }
    aims
}

#[cfg(test)]
mod tests;
