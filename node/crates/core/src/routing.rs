//! Which node answers a request, and what to do when it does not.
//!
//! The unit is milliseconds of expected wait, so that a queue, a slow runner and a model load can be weighed against
//! each other. Deliberately absent: weights without a unit, and the speed of an idle node, which says more of the last
//! requests than of the node. Equals are chosen among at random, or idle twins would never share.

use ollamax_types::{Digest, NodeId};

use crate::health::Health;

/// Taken for the time of one request where none was measured yet, milliseconds.
const SERVICE_MS_ASSUMED: u64 = 2_000;
/// Taken for the time to load a model where none was measured yet, milliseconds.
const LOAD_MS_ASSUMED: u64 = 10_000;
/// Nodes on which one request may crash a runner.
const CRASHES_MAX: usize = 2;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The version that is served.
    pub digest: Digest,
    /// Its weights, by which nodes count their runners; `digest` while nobody knows them.
    pub weights: Digest,
    /// The context that the client set; another one makes the runtime load again.
    pub num_ctx: Option<u32>,
    /// Whether it occupies a runner; `false` for requests that only read files.
    pub needs_runner: bool,
}

impl Wanted {
    /// Whether the runner that a node counts under this digest is the one that answers: that of the weights, or that of
    /// the manifest where the node does not know the weights yet.
    #[must_use]
    pub fn is_run_by(&self, runner: Digest) -> bool {
        runner == self.weights || runner == self.digest
    }
}

/// A node that holds the model, as the router sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// What the router thinks of it.
    pub health: Health,
    /// Takes no new requests.
    pub draining: bool,
    /// The version that it holds.
    pub digest: Digest,
    /// Whether its weights are in memory.
    pub resident: bool,
    /// Context of the loaded runner, tokens; 0 when unknown.
    pub context_length: u32,
    /// Requests that its runner works on.
    pub running: u32,
    /// Requests that wait for its runner.
    pub waiting: u32,
    /// Requests that its runner works on at once.
    pub slots: u32,
    /// Smoothed time of one request, milliseconds; 0 when unknown.
    pub service_ms: u32,
    /// Last load time, milliseconds; 0 when unknown.
    pub load_ms: u32,
    /// Requests that this router has sent there and not yet seen counted.
    pub in_flight_here: u32,
}

/// Lower is better, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    health: Health,
    wait_ms: u64,
    must_load: bool,
    chance: u64,
}

/// The nodes in the order in which to try them. Copies of another version are left out; dead and draining nodes are
/// left out unless nothing else is left.
#[must_use]
pub fn rank(request: &Wanted, candidates: &[Candidate], random: u64) -> Vec<NodeId> {
    let holds = |candidate: &&Candidate| candidate.digest == request.digest;
    let good = |candidate: &&Candidate| candidate.health != Health::Dead && !candidate.draining;
    let usable: Vec<&Candidate> = candidates.iter().filter(holds).filter(good).collect();
    let mut chosen = if usable.is_empty() { candidates.iter().filter(holds).collect() } else { usable };
    chosen.sort_by_cached_key(|candidate| rank_of(request, candidate, random));
    chosen.into_iter().map(|candidate| candidate.node).collect()
}

fn rank_of(request: &Wanted, candidate: &Candidate, random: u64) -> Rank {
    let must_load = request.needs_runner && must_load(request, candidate);
    let wait_ms = if request.needs_runner { wait_ms(candidate, must_load) } else { 0 };
    Rank { health: candidate.health, wait_ms, must_load, chance: mix(random ^ mix(candidate.node.0)) }
}

/// Expected time until the candidate's runner starts on one more request.
fn wait_ms(candidate: &Candidate, must_load: bool) -> u64 {
    let slots = u64::from(candidate.slots.max(1));
    let before = [candidate.running, candidate.waiting, candidate.in_flight_here];
    let before: u64 = before.into_iter().map(u64::from).sum();
    let turns = (before + 1).saturating_sub(slots).div_ceil(slots);
    let queue_ms = turns.saturating_mul(measured(candidate.service_ms, SERVICE_MS_ASSUMED));
    let load_ms = if must_load { measured(candidate.load_ms, LOAD_MS_ASSUMED) } else { 0 };
    queue_ms.saturating_add(load_ms)
}

fn must_load(request: &Wanted, candidate: &Candidate) -> bool {
    let known = Some(candidate.context_length).filter(|length| *length != 0);
    let other_context = matches!((request.num_ctx, known), (Some(wanted), Some(loaded)) if wanted != loaded);
    !candidate.resident || other_context
}

fn measured(ms: u32, assumed: u64) -> u64 {
    if ms == 0 { assumed } else { u64::from(ms) }
}

/// Spreads a number over all 64 bits (the finalizer of SplitMix64).
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// How one attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke before the first byte.
    Unreachable,
    /// The node or its runtime had no room, drains, or its runtime is down: nothing was started.
    Refused,
    /// The node no longer holds that version.
    Stale,
    /// The runtime had begun to work on it and failed before its first byte.
    Crashed,
    /// Part of the answer was delivered.
    AfterFirstByte,
}

/// One attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// On which node.
    pub node: NodeId,
    /// How.
    pub failure: Failure,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try the next node.
    Retry,
    /// Tell the client.
    GiveUp,
}

/// Whether a request may go to another node. `tried` holds the attempts before this one.
///
/// Before the first byte nothing was seen, so another node may answer. A request that crashed a runner goes to one
/// more node at most: a poisonous prompt must not walk through the cluster.
#[must_use]
pub fn after_failure(failure: Failure, tried: &[Attempt]) -> Next {
    let crashes = tried.iter().filter(|attempt| attempt.failure == Failure::Crashed).count();
    match failure {
        Failure::AfterFirstByte => Next::GiveUp,
        Failure::Crashed if crashes + 1 >= CRASHES_MAX => Next::GiveUp,
        Failure::Unreachable | Failure::Refused | Failure::Stale | Failure::Crashed => Next::Retry,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const D: Digest = Digest([1; 32]);

    fn idle(node: u64) -> Candidate {
        Candidate {
            node: NodeId(node),
            health: Health::Alive,
            draining: false,
            digest: D,
            resident: true,
            context_length: 4_096,
            running: 0,
            waiting: 0,
            slots: 1,
            service_ms: 1_000,
            load_ms: 5_000,
            in_flight_here: 0,
        }
    }

    fn wanted() -> Wanted {
        Wanted { digest: D, weights: Digest([9; 32]), num_ctx: None, needs_runner: true }
    }

    fn check(request: Wanted, candidates: &[Candidate], expected: &[u64]) {
        for random in 0..50 {
            let ranked: Vec<u64> = rank(&request, candidates, random).into_iter().map(|node| node.0).collect();
            assert_eq!(ranked, expected, "{candidates:?}");
        }
    }

    #[test]
    fn the_least_expected_wait_comes_first() {
        let busy = Candidate { running: 1, ..idle(1) };
        let queue = Candidate { running: 1, waiting: 3, ..idle(2) };
        let wide = Candidate { running: 1, waiting: 0, slots: 4, ..idle(3) };
        check(wanted(), &[queue, busy, wide], &[3, 1, 2]);
        let fast = Candidate { running: 1, waiting: 3, service_ms: 100, ..idle(4) };
        check(wanted(), &[busy, fast], &[4, 1]);
        let sent = Candidate { in_flight_here: 5, ..idle(5) };
        check(wanted(), &[sent, busy], &[1, 5]);
    }

    #[test]
    fn resident_comes_before_loadable_until_its_queue_is_longer_than_the_load() {
        let cold = Candidate { resident: false, ..idle(1) };
        check(wanted(), &[cold, Candidate { running: 1, waiting: 3, ..idle(2) }], &[2, 1]);
        check(wanted(), &[cold, Candidate { running: 1, waiting: 9, ..idle(2) }], &[1, 2]);
        let equal = Candidate { running: 1, service_ms: 5_000, ..idle(2) };
        check(wanted(), &[cold, equal], &[2, 1]);
        let unmeasured = Candidate { resident: false, load_ms: 0, ..idle(3) };
        check(wanted(), &[unmeasured, cold], &[1, 3]);
    }

    #[test]
    fn another_context_counts_as_a_load_and_an_unknown_one_does_not() {
        let asked = Wanted { num_ctx: Some(8_192), ..wanted() };
        let (other, same) = (idle(1), Candidate { context_length: 8_192, running: 1, ..idle(2) });
        check(asked, &[other, same], &[2, 1]);
        check(asked, &[other, Candidate { context_length: 0, running: 1, ..idle(3) }], &[3, 1]);
        check(wanted(), &[other, same], &[1, 2]);
    }

    #[test]
    fn suspects_are_last_and_the_dead_and_draining_only_when_nothing_else_is_left() {
        let suspect = Candidate { health: Health::Suspect, ..idle(1) };
        let unknown = Candidate { health: Health::Unknown, ..idle(2) };
        let dead = Candidate { health: Health::Dead, ..idle(3) };
        let draining = Candidate { draining: true, ..idle(4) };
        let swamped = Candidate { running: 1, waiting: 500, ..idle(5) };
        check(wanted(), &[suspect, unknown, dead, draining, swamped], &[5, 2, 1]);
        check(wanted(), &[dead, draining], &[4, 3]);
        check(wanted(), &[], &[]);
    }

    #[test]
    fn a_copy_of_another_version_is_never_chosen() {
        let other = Candidate { digest: Digest([2; 32]), ..idle(1) };
        check(wanted(), &[other, Candidate { health: Health::Dead, ..idle(2) }], &[2]);
        check(wanted(), &[other], &[]);
    }

    #[test]
    fn a_runner_is_known_by_its_weights_and_by_the_manifest_where_they_are_unknown() {
        for (runner, expected) in [(9, true), (1, true), (2, false)] {
            assert_eq!(wanted().is_run_by(Digest([runner; 32])), expected, "{runner}");
        }
    }

    #[test]
    fn a_request_without_a_runner_does_not_mind_queues_or_loads() {
        let request = Wanted { needs_runner: false, ..wanted() };
        let swamped = Candidate { resident: false, running: 9, waiting: 9, ..idle(1) };
        let mut first = BTreeMap::new();
        for random in 0..1_000 {
            *first.entry(rank(&request, &[swamped, idle(2)], random)[0].0).or_insert(0) += 1;
        }
        assert!(first.len() == 2, "{first:?}");
    }

    #[test]
    fn equals_share_at_random_whatever_their_number_and_order() {
        for count in 2..6_u64 {
            let mut candidates: Vec<Candidate> = (1..=count).map(idle).collect();
            let mut first: BTreeMap<u64, u64> = BTreeMap::new();
            for request in 0..count * 1_000 {
                candidates.rotate_left(1);
                *first.entry(rank(&wanted(), &candidates, mix(request))[0].0).or_default() += 1;
            }
            assert!(first.values().all(|share| (900..1_100).contains(share)), "{first:?}");
        }
    }

    #[test]
    fn what_follows_a_failure() {
        let tried = |failures: &[Failure]| -> Vec<Attempt> {
            let numbered = failures.iter().enumerate();
            numbered.map(|(at, failure)| Attempt { node: NodeId(at as u64 + 1), failure: *failure }).collect()
        };
        let rows: [(Failure, &[Failure], Next); 8] = [
            (Failure::Unreachable, &[], Next::Retry),
            (Failure::Refused, &[Failure::Refused, Failure::Stale, Failure::Unreachable], Next::Retry),
            (Failure::Stale, &[], Next::Retry),
            (Failure::Crashed, &[], Next::Retry),
            (Failure::Crashed, &[Failure::Unreachable, Failure::Refused], Next::Retry),
            (Failure::Crashed, &[Failure::Crashed], Next::GiveUp),
            (Failure::Crashed, &[Failure::Crashed, Failure::Refused], Next::GiveUp),
            (Failure::AfterFirstByte, &[], Next::GiveUp),
        ];
        for (failure, before, expected) in rows {
            assert_eq!(after_failure(failure, &tried(before)), expected, "{failure:?} after {before:?}");
        }
    }
}
