//! What was found, as rows of the report and beside what is wanted.

use std::time::Duration;

use super::daemons::{Holds, Life};
use super::plan::{CLIENTS, DISTURBED, Kind, NODES};
use super::tally::{Of, Tallies};
use super::timeline::Kills;
use super::{EQUAL_WITHIN, Findings};
use crate::against::{at_most_ms, share};
use crate::load::percentile;
use crate::report::{Aim, MIB, Row, Spread};

const SUCCESS_MIN: f64 = 0.999;
const READS_P99_MS: f64 = 50.0;

type Value = (&'static str, Spread);

/// One value that was found; nothing where it was not.
fn one(name: &'static str, value: Option<f64>) -> Option<Value> {
    some(name, value.into_iter().collect())
}

fn some(name: &'static str, values: Vec<f64>) -> Option<Value> {
    Spread::of(values).map(|spread| (name, spread))
}

/// A row that is not of requests.
fn plain(case: String, values: impl IntoIterator<Item = Option<Value>>) -> Row {
    Row { case, clients: 0, success_rate: 1.0, values: values.into_iter().flatten().collect() }
}

/// Everything that was found.
pub(super) fn rows(found: &Findings) -> Vec<Row> {
    let mut rows = vec![of_all(found)];
    for of in Of::BOTH {
        rows.extend(Kind::ALL.into_iter().filter_map(|kind| of_kind(&found.tallies, of, kind)));
    }
    rows.extend(of_reasons(&found.tallies));
    rows.push(of_kills(&found.kills));
    rows.push(plain(
        "after the end".to_owned(),
        [
            one("lost writes", Some(found.lost.len() as f64)),
            one("old reads", Some(found.old_reads.len() as f64)),
            one("equal states", Some(f64::from(u8::from(found.equal.is_ok())))),
        ],
    ));
    rows.extend(of_daemons(found));
    rows
}

fn of_all(found: &Findings) -> Row {
    let (good, bad) = found.tallies.totals();
    let seconds = found.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let values = [
        one("requests", Some((good + bad) as f64)),
        one("failed", Some(bad as f64)),
        one("succeeded/s", Some(good as f64 / seconds)),
    ];
    let values = values.into_iter().flatten().collect();
    Row { case: "all requests".to_owned(), clients: CLIENTS, success_rate: share(good, bad), values }
}

/// How a row of requests is called.
fn label(of: Of, kind: Kind) -> String {
    match of {
        Of::All => format!("{}, all", kind.name()),
        Of::Undisturbed => format!("{}, but those due within {DISTURBED:?} after a kill", kind.name()),
    }
}

fn of_kind(tallies: &Tallies, of: Of, kind: Kind) -> Option<Row> {
    let tally = tallies.of(of, kind)?;
    let (good, bad) = (tally.latencies.total(), tally.failed);
    let values = [
        one("requests", Some((good + bad) as f64)),
        one("failed", Some(bad as f64)),
        one("p50 ms", tally.latencies.quantile_ms(0.5)),
        one("p99 ms", tally.latencies.quantile_ms(0.99)),
        one("max ms", tally.latencies.largest_ms()),
    ];
    let values = values.into_iter().flatten().collect();
    Some(Row { case: label(of, kind), clients: CLIENTS, success_rate: share(good, bad), values })
}

/// Why requests failed; nothing when none did.
fn of_reasons(tallies: &Tallies) -> Option<Row> {
    let (good, bad) = tallies.totals();
    let values: Vec<Value> =
        tallies.reasons.iter().filter_map(|(reason, count)| one(reason, Some(*count as f64))).collect();
    let row = Row { case: "failed, by reason".to_owned(), clients: CLIENTS, success_rate: share(good, bad), values };
    (bad > 0).then_some(row)
}

fn of_kills(kills: &Kills) -> Row {
    let mut silences: Vec<f64> = kills.silences.iter().map(|silence| silence.as_secs_f64() * 1_000.0).collect();
    silences.sort_by(f64::total_cmp);
    plain(
        "kills".to_owned(),
        [
            one("of leaders", Some(kills.leaders as f64)),
            one("of followers", Some(kills.followers as f64)),
            one("no success p50 ms", percentile(&silences, 0.5)),
            one("no success max ms", percentile(&silences, 1.0)),
        ],
    )
}

/// The first and the last look at each daemon, and all lives together.
fn of_daemons(found: &Findings) -> Vec<Row> {
    let lives = &found.lives;
    let cpu: Duration = lives.iter().map(|life| life.cpu).sum();
    let cores = cpu.as_secs_f64() / found.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut rows = Vec::new();
    for node in 0..NODES {
        let own: Vec<&Life> = lives.iter().filter(|life| life.node == node).collect();
        let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
        let name = format!("n{}", node + 1);
        rows.push(held(format!("{name}, where the run begins"), &[first.first], None));
        let of_life = format!("{name}, where the run ends, life {} of its process", own.len());
        rows.push(held(of_life, &[last.last], Some(last.time)));
    }
    let of = |look: fn(&Life) -> Holds| lives.iter().map(look).collect::<Vec<Holds>>();
    rows.push(held(format!("all {} lives, where each begins", lives.len()), &of(|life| life.first), None));
    let longest = lives.iter().map(|life| life.time).max();
    rows.push(held(format!("all {} lives, where each ends", lives.len()), &of(|life| life.last), longest));
    rows.push(plain("all daemons together".to_owned(), [one("cores", Some(cores))]));
    rows
}

/// What daemons held, and how long the life of the longest had been.
fn held(case: String, holds: &[Holds], life: Option<Duration>) -> Row {
    plain(
        case,
        [
            some("resident MiB", holds.iter().map(|holds| holds.resident_bytes as f64 / MIB).collect()),
            some("open fds", holds.iter().map(|holds| holds.open_files as f64).collect()),
            one("life s", life.map(|life| life.as_secs_f64())),
        ],
    )
}

/// What is wanted.
pub(super) fn aims(found: &Findings) -> Vec<Aim> {
    let (good, bad) = found.tallies.totals();
    let rate = share(good, bad);
    let p99 = |kind: Kind| {
        let tally = found.tallies.of(Of::All, kind);
        let p99 = tally.and_then(|tally| tally.latencies.quantile_ms(0.99));
        at_most_ms(format!("{}: p99", label(Of::All, kind)), READS_P99_MS, p99)
    };
    let (lost, old) = (found.lost.len(), found.old_reads.len());
    vec![
        Aim {
            what: "requests that succeed".to_owned(),
            wanted: format!("at least {:.1} %", SUCCESS_MIN * 100.0),
            found: format!("{:.4} % of {}", rate * 100.0, good + bad),
            met: rate >= SUCCESS_MIN,
        },
        p99(Kind::PointRead),
        p99(Kind::List),
        Aim {
            what: "acknowledged writes that are lost, or were not seen by a later read".to_owned(),
            wanted: "none".to_owned(),
            found: format!("{lost} lost, {old} not seen"),
            met: lost + old == 0,
        },
        Aim {
            what: "the states of all nodes in the end".to_owned(),
            wanted: format!("equal at one index within {EQUAL_WITHIN:?}"),
            found: match &found.equal {
                Ok(index) => format!("equal at {index}"),
                Err(why) => why.clone(),
            },
            met: found.equal.is_ok(),
        },
    ]
}

#[cfg(test)]
mod tests;
