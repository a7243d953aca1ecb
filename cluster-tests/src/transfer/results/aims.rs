//! What is wanted, beside what was found. What was not measured is no aim; what failed is one that is missed.

use std::time::Duration;

use super::{
    Adopted, CATALOG_MODELS, Found, Free, Outcome, Plan, System, gigabytes, largest, median, megabytes, rates,
};
use crate::report::Aim;

/// Of the time of one copy: when the last node has it.
const MAKESPAN_MAX: f64 = 1.15;
/// Of the file's size: what the seed sends.
const SENT_MAX: f64 = 1.2;
/// Memory of the largest node, whatever the size; 10^6 bytes.
const PEAK_MB_MAX: f64 = 256.0;
/// Of nginx's rate with TLS: what one node gets of one other.
const FREE_RATE_MIN: f64 = 0.9;
/// Of the rate over libp2p: what the same node gets over TCP.
const LANES_RATE_MIN: f64 = 3.0;
/// Of the file's size: what a node reads of all it reads, until it offers the file.
const READ_MAX: f64 = 1.05;
/// Of the file's size: what it writes meanwhile.
const WRITTEN_MAX: f64 = 0.01;
/// From the start of a node until it lists what it finds, seconds.
const LISTED_S_MAX: f64 = 0.5;

/// All of them, in the order in which they are read.
pub(in crate::transfer) fn aims(plan: &Plan, found: &[Found], free: &Free) -> Vec<Aim> {
    let mut aims = over_links(plan, found);
    aims.extend(memory(found, free));
    aims.extend(beside_tls(plan, free));
    aims.extend(beside_lanes(plan, free));
    aims.extend(adoption(plan, free));
    aims.extend(catalog(free));
    aims
}

/// Of the row with most nodes, and of what the seed sends in all of them.
fn over_links(plan: &Plan, found: &[Found]) -> Vec<Aim> {
    let most = found.iter().map(|found| found.nodes).max();
    let widest = |system: System| found.iter().find(|found| found.system == system && Some(found.nodes) == most);
    let Some(ours) = widest(System::Nodes) else { return Vec::new() };
    let (nodes, makespan) = (ours.nodes, ours.makespan(plan));
    let mut aims = vec![at_most(format!("makespan with {nodes} nodes, in times of one copy"), MAKESPAN_MAX, makespan)];
    for &peer in &plan.peers {
        let Some(theirs) = widest(System::Peer(peer)).and_then(|found| found.makespan(plan)) else { continue };
        aims.push(Aim {
            what: format!("makespan with {nodes} nodes, beside {}", peer.name()),
            wanted: "below 1".to_owned(),
            met: makespan.is_some_and(|ours| ours < theirs),
            found: told(makespan.map(|ours| ours / theirs)),
        });
    }
    let all = found.iter().filter(|found| found.system == System::Nodes);
    let sent: Option<Vec<f64>> = all.map(|found| found.sent(plan)).collect();
    let what = "what the seed sends, in sizes of the file, any number of nodes".to_owned();
    aims.push(at_most(what, SENT_MAX, sent.and_then(largest)));
    aims
}

/// Of the largest node, with the whole file and with a quarter of it: what grows with the size would show.
fn memory(found: &[Found], free: &Free) -> Vec<Aim> {
    let of = |systems: &[System], free: [&Vec<Outcome>; 2]| {
        let ours: Vec<&Found> = found.iter().filter(|found| systems.contains(&found.system)).collect();
        // The seed of other rows is a registry, which is no node.
        let seeded = ours.iter().filter(|found| found.system != System::Registry);
        let over_links = seeded.flat_map(|found| &found.outcomes);
        let seeds = over_links.chain(free.into_iter().flatten()).map(|outcome| outcome.seed);
        let all = ours.iter().flat_map(|found| &found.outcomes).chain(free.into_iter().flatten());
        let receivers = all.flat_map(|outcome| outcome.receivers.iter().copied());
        largest(receivers.chain(seeds).map(|cost| megabytes(cost.peak_bytes)).collect())
    };
    let none = Vec::new();
    let whole = of(&[System::Nodes, System::Registry], [&free.ours, &free.lanes]);
    let quarter = of(&[System::Quarter], [&free.quarter, &none]);
    let figures = [("the whole file", whole), ("a quarter of it", quarter)].into_iter();
    let aim = |(what, peak): (&str, Option<f64>)| {
        Some(at_most(format!("memory of the largest node, {what}, MB"), PEAK_MB_MAX, Some(peak?)))
    };
    figures.filter_map(aim).collect()
}

fn beside_tls(plan: &Plan, free: &Free) -> Option<Aim> {
    let theirs = median(rates(&free.nginx, plan.free_bytes)).filter(|rate| *rate > 0.0)?;
    let share = median(rates(&free.ours, plan.free_bytes)).map(|ours| ours / theirs);
    Some(at_least("from one to one over loopback, beside nginx with TLS".to_owned(), FREE_RATE_MIN, share))
}

fn beside_lanes(plan: &Plan, free: &Free) -> Option<Aim> {
    let lanes = median(rates(&free.lanes, plan.free_bytes)).filter(|rate| *rate > 0.0);
    let share = median(rates(&free.ours, plan.free_bytes)).zip(lanes).map(|(tcp, lanes)| tcp / lanes);
    let what = "from one to one over loopback, over TCP beside libp2p alone".to_owned();
    (!free.lanes.is_empty()).then(|| at_least(what, LANES_RATE_MIN, share))
}

/// A run that did not come to an end says nothing; where none did, both are missed.
fn adoption(plan: &Plan, free: &Free) -> Vec<Aim> {
    let size = gigabytes(plan.free_bytes);
    let most = |value: fn(&Adopted) -> u64| {
        largest(free.adopted.iter().flatten().map(|adopted| gigabytes(value(adopted)) / size).collect())
    };
    let (read, written) = (most(|adopted| adopted.io.read_bytes), most(|adopted| adopted.io.written_bytes));
    let of_a_file = "until a node offers a file that its runtime has, in sizes of the file";
    let aims = [
        at_most(format!("bytes read {of_a_file}"), READ_MAX, read),
        at_most(format!("bytes written {of_a_file}"), WRITTEN_MAX, written),
    ];
    if free.adopted.is_empty() { Vec::new() } else { aims.into() }
}

/// A run in which they did not all come says nothing; where no run does, it is missed.
fn catalog(free: &Free) -> Option<Aim> {
    let time = median(free.catalogued.iter().flatten().map(Duration::as_secs_f64));
    let aim = at_most(format!("until a node lists {CATALOG_MODELS} models from its start on, s"), LISTED_S_MAX, time);
    let found = time.map_or_else(|| "nothing: they were never all listed".to_owned(), |time| told(Some(time)));
    (!free.catalogued.is_empty()).then_some(Aim { found, ..aim })
}

fn at_most(what: String, wanted: f64, found: Option<f64>) -> Aim {
    let met = found.is_some_and(|found| found <= wanted);
    Aim { what, wanted: format!("at most {wanted}"), found: told(found), met }
}

fn at_least(what: String, wanted: f64, found: Option<f64>) -> Aim {
    let met = found.is_some_and(|found| found >= wanted);
    Aim { what, wanted: format!("at least {wanted}"), found: told(found), met }
}

fn told(found: Option<f64>) -> String {
    found.map_or_else(|| "nothing: not every node had the file".to_owned(), |found| format!("{found:.3}"))
}
