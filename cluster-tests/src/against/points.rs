//! The loads that are measured at both systems, in turns: closed for their maxima, open for latency, the profiles of
//! `etcdctl check perf`; and reads at ours while others write.

use std::time::Duration;

use anyhow::Result;

use super::etcd::Program;
use super::generator::{self, Job, Load, Measured};
use super::plan::{Case, OPEN_SHARES, Pace, Plan, Through, Which, open_rate};
use super::system::System;
use crate::report::Spread;

/// Clients of an open load; they only bound how many requests are made at once.
const OPEN_CLIENTS: usize = 256;
/// Writers beside which reads are measured, readers, and reads per second.
const WRITERS: usize = 64;
const READERS: usize = 8;
const READS_PER_SECOND: f64 = 100.0;

/// A profile of `etcdctl check perf`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    clients: usize,
    pub(crate) per_second: f64,
}

/// Its profiles s and m.
pub(crate) const PROFILES: [Profile; 2] = [
    Profile { name: "check perf s", clients: 50, per_second: 150.0 },
    Profile { name: "check perf m", clients: 200, per_second: 1_000.0 },
];

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// As fast as it is answered.
    Closed(Case),
    /// At a share of the lower system's maximum, percent; and how many per second that is.
    Open(Case, u32, f64),
    Profile(Profile),
    /// Reads of one key, or of 100 rows, while others write.
    PointReads,
    Lists,
}

/// One measured point.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) which: Which,
    pub(crate) kind: Kind,
    pub(crate) through: Through,
    pub(crate) clients: usize,
    pub(crate) measured: Measured,
    /// Somebody else led at its end: part of the requests took another way.
    pub(crate) leader_moved: bool,
}

/// Every case with every number of clients, at fresh data for each case and turn.
pub(crate) async fn closed(plan: &Plan, program: &Program) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for &case in &plan.cases {
        for which in plan.order() {
            let system = System::start(which, program, Pace::Default).await?;
            for through in Through::BOTH {
                for &clients in &plan.clients {
                    let load = Wanted { which, kind: Kind::Closed(case), through, clients, warm: plan.warm };
                    points.push(load.point(&system, plan.time).await?);
                }
            }
            system.finish().await?;
        }
    }
    Ok(points)
}

/// Both systems at the same pace: shares of what the slower one reached. Where one reached nothing, its closed load has
/// failed and says so; there is no share of it.
pub(crate) async fn open(plan: &Plan, program: &Program, closed: &[Point]) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for &case in &plan.cases {
        for which in plan.order() {
            let system = System::start(which, program, Pace::Default).await?;
            for through in Through::BOTH {
                let maxima = Which::BOTH.map(|which| maximum(closed, which, case, through));
                for share in OPEN_SHARES {
                    let Some(rate) = open_rate(maxima, share) else { continue };
                    let kind = Kind::Open(case, share, rate);
                    let load = Wanted { which, kind, through, clients: OPEN_CLIENTS, warm: plan.warm };
                    points.push(load.point(&system, plan.time).await?);
                }
            }
            system.finish().await?;
        }
    }
    Ok(points)
}

/// The profiles of `etcdctl check perf`, at both.
pub(crate) async fn profiles(plan: &Plan, program: &Program) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for which in Which::BOTH {
        for profile in PROFILES {
            let system = System::start(which, program, Pace::Default).await?;
            let (kind, clients) = (Kind::Profile(profile), profile.clients);
            let load = Wanted { which, kind, through: Through::Any, clients, warm: Duration::ZERO };
            points.push(load.point(&system, plan.perf).await?);
            system.finish().await?;
        }
    }
    Ok(points)
}

/// Reads at any node of ours while 64 clients write through any node.
pub(crate) async fn reads(plan: &Plan, program: &Program) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for _ in 0..plan.runs {
        let system = System::start(Which::Ours, program, Pace::Default).await?;
        let leader = system.leader().await?;
        for kind in [Kind::PointReads, Kind::Lists] {
            let writers = Load {
                job: Job::Case(Case::Put),
                clients: WRITERS,
                doors: system.doors(Through::Any, leader, WRITERS)?,
                warm: plan.warm,
                time: plan.time,
            };
            let readers = Wanted { which: Which::Ours, kind, through: Through::Any, clients: READERS, warm: plan.warm };
            let daemons = system.processes()?;
            let written = generator::closed(&writers, &daemons);
            let (written, point) = futures::join!(written, readers.point(&system, plan.time));
            let mut point = point?;
            // A write that was refused is no good read.
            point.measured.failed += written?.failed;
            points.push(point);
        }
        system.finish().await?;
    }
    Ok(points)
}

/// The median of what a system reached with the number of clients that suits it best.
fn maximum(points: &[Point], which: Which, case: Case, through: Through) -> f64 {
    let own = |point: &&Point| (point.which, point.kind, point.through) == (which, Kind::Closed(case), through);
    let mut clients: Vec<usize> = points.iter().filter(own).map(|point| point.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let median = |clients: usize| {
        let points = points.iter().filter(own).filter(|point| point.clients == clients);
        Spread::of(points.map(|point| point.measured.per_second()).collect()).map(|spread| spread.median)
    };
    clients.into_iter().filter_map(median).fold(0.0, f64::max)
}

/// A point that is to be measured.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    which: Which,
    kind: Kind,
    through: Through,
    clients: usize,
    warm: Duration,
}

// === impl Wanted ===

impl Wanted {
    async fn point(self, system: &System, time: Duration) -> Result<Point> {
        let Self { which, kind, through, clients, warm } = self;
        let leader = system.leader().await?;
        let (doors, daemons) = (system.doors(through, leader, clients)?, system.processes()?);
        let (job, per_second) = match kind {
            Kind::Closed(case) => (Job::Case(case), None),
            Kind::Open(case, _, rate) => (Job::Case(case), Some(rate)),
            Kind::Profile(profile) => (Job::Perf, Some(profile.per_second)),
            Kind::PointReads => (Job::Case(Case::Get), Some(READS_PER_SECOND)),
            Kind::Lists => (Job::List, Some(READS_PER_SECOND)),
        };
        let load = Load { job, clients, doors, warm, time };
        let measured = match per_second {
            None => generator::closed(&load, &daemons).await?,
            Some(per_second) => generator::open(&load, per_second, &daemons).await?,
        };
        eprintln!("{} {kind:?} {through:?} clients={clients}: {:.0}/s", which.name(), measured.per_second());
        let leader_moved = system.leader().await? != leader;
        Ok(Point { which, kind, through, clients, measured, leader_moved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(which: Which, clients: usize, latencies: u64) -> Point {
        let mut measured = Measured { elapsed: Duration::from_secs(1), ..Measured::default() };
        (0..latencies).for_each(|_| measured.latencies.add(Duration::from_millis(1)));
        Point { which, kind: Kind::Closed(Case::Put), through: Through::Any, clients, measured, leader_moved: false }
    }

    #[test]
    fn the_maximum_is_the_best_median_of_all_numbers_of_clients() {
        let points = [
            point(Which::Ours, 1, 10),
            point(Which::Ours, 64, 90),
            point(Which::Ours, 64, 110),
            point(Which::Ours, 64, 400),
            point(Which::Ours, 256, 70),
            point(Which::Etcd, 64, 500),
        ];
        let of = |which, case, through| maximum(&points, which, case, through);
        assert!((of(Which::Ours, Case::Put, Through::Any) - 110.0).abs() < 1e-9);
        assert!((of(Which::Etcd, Case::Put, Through::Any) - 500.0).abs() < 1e-9);
        assert!(of(Which::Ours, Case::Get, Through::Any).abs() < 1e-9);
        assert!(of(Which::Ours, Case::Put, Through::Leader).abs() < 1e-9);
    }
}
