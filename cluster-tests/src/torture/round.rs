//! One round: traffic, a fault in the midst of it, recovery, and the judgement of everything that was seen.
//!
//! Two seconds of traffic come before the fault and three after the heal. Then the clients stop, all nodes must come to
//! the same state, each key is read at each node, and the records are judged. An error is a cluster that did not come
//! back, or a machine that cannot do the fault; what the clients saw until then is lost with it, the nodes' logs are
//! not.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, timeout};

use ollamax_proto::v1;
use ollamax_proto::v1::kv_op;
use ollamax_testkit::cluster::applied_index;
use ollamax_testkit::history::{Evidence, Operation};
use ollamax_testkit::{Cluster, wait};

use crate::check::{self, Records};
use crate::disks::Disks;
use crate::evidence::{self, Happened};
use crate::faults::{Done, Stage};
use crate::outage::Outage;
use crate::plan::Round;
use crate::report::{Invariant, Limits, Played};
use crate::samples::{Book, Broken, Counts, Sample};
use crate::traffic::{KEYS, Run, Traffic, held};
use crate::{clients, final_reads, leases, logs, sampler, watchers};

/// Traffic before the fault, and after the heal.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(3);
/// What may be needed after a heal. The factor is for a machine with two cores that also runs the clients.
pub(crate) const LIMITS: Limits =
    Limits { leader_ms: 3_000, equal_ms: 10_000, equal_with_snapshot_ms: 30_000, factor: 2 };
/// Longest wait for the cluster to be well before a round.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for the keys of a round to be removed.
const SWEEP_TIME: Duration = Duration::from_secs(2);

/// What lasts over all rounds.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) disks: Option<Disks>,
    pub(crate) book: Mutex<Book>,
    pub(crate) run: Run,
}

/// What a round found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) played: Played,
    pub(crate) checked: Vec<(Invariant, u64)>,
    pub(crate) broken: Vec<(Invariant, String)>,
    pub(crate) lacking: Vec<String>,
    pub(crate) resumed: u64,
    pub(crate) gaps: u64,
    pub(crate) records: Records,
}

/// The moments of a round, on the clock of the run.
#[derive(Debug)]
struct Moments {
    begun_ns: u64,
    struck_ns: u64,
    healed_ns: u64,
    over_ns: u64,
    done: Done,
    /// How long it took until all nodes named one leader, or why they did not.
    leader: Result<Duration, String>,
}

/// Plays one round.
///
/// # Errors
/// When the cluster does not come back, or the fault cannot be done.
pub(crate) async fn play(world: &mut World, round: &Round) -> Result<Outcome> {
    let World { cluster, disks, book, run } = world;
    let (cluster, book, run): (&Cluster, &Mutex<Book>, &Run) = (cluster, book, run);
    cluster.leader(PATIENCE).await.context("before the round")?;
    let counted = held(book).counts();
    let traffic = Traffic::new(run, round.number);
    let callers = clients::prepare(cluster, round.seed).await?;
    let watch_doors = (0..watchers::WATCHERS).map(|_| clients::doors(cluster)).collect::<Result<Vec<_>>>()?;
    let lease_doors = clients::doors(cluster)?;
    let mut stage = Stage::new(cluster, disks.as_mut(), &traffic, round, book);
    stage.prepare()?;
    let script = async {
        let moments = script(&mut stage).await;
        traffic.stop();
        moments
    };
    let (moments, watched, (), (), ()) = futures::join!(
        Box::pin(script),
        Box::pin(watchers::work(watch_doors, cluster, &traffic)),
        Box::pin(clients::work(callers, cluster, &traffic)),
        Box::pin(leases::work(lease_doors, cluster, &traffic)),
        Box::pin(sampler::work(cluster, book, &traffic)),
    );
    let (moments, off_logs) = (moments?, stage.into_logs());
    let stopped = Instant::now();
    let equal = equal(cluster, book, &moments.done).await;
    let equal_ms = millis(stopped.elapsed());
    let finals = if equal.is_ok() { Box::pin(final_reads::read(cluster, &traffic)).await? } else { Vec::new() };
    Box::pin(sweep(cluster, &traffic)).await;
    Box::pin(logs::note(off_logs, book)).await?;

    let prefix = traffic.prefix.clone();
    let (history, aside) = traffic.into_records();
    let held_back = round.fault.holds_back(round.time);
    let records = Records { prefix, history, aside, watched, finals, held_back };
    Ok(outcome(round, moments, equal.map(|()| equal_ms), records, (book, counted)))
}

/// The traffic of a round around its fault.
async fn script(stage: &mut Stage<'_>) -> Result<Moments> {
    let run = stage.traffic.run;
    let begun_ns = run.now_ns();
    wait::pause(BEFORE).await;
    let struck_ns = run.now_ns();
    let done = Box::pin(stage.perform()).await?;
    let asked = Instant::now();
    let limit = Duration::from_millis(LIMITS.leader_ms) * LIMITS.factor;
    let leader = stage.cluster.leader(limit).await;
    let leader = leader.map(|_| asked.elapsed()).map_err(|error| format!("no leader after the heal: {error:#}"));
    wait::pause_until(done.healed + AFTER).await;
    Ok(Moments { begun_ns, struck_ns, healed_ns: run.ns_of(done.healed), over_ns: run.now_ns(), done, leader })
}

/// Waits until all nodes have applied the same index; their states go into the book.
async fn equal(cluster: &Cluster, book: &Mutex<Book>, done: &Done) -> Result<(), String> {
    let ms = if done.with_snapshot { LIMITS.equal_with_snapshot_ms } else { LIMITS.equal_ms };
    let limit = Duration::from_millis(ms) * LIMITS.factor;
    let left = limit.saturating_sub(done.healed.elapsed()).max(Duration::from_secs(1));
    let seen = wait::until("equal indexes", left, || async {
        let statuses = cluster.statuses().await?;
        for (index, status) in &statuses {
            let sample = Sample::of(*index, status).context("no raft view")?;
            held(book).note(sample);
        }
        let applied: Vec<u64> = statuses.iter().map(|(_, status)| applied_index(status)).collect();
        ensure!(statuses.len() == cluster.size(), "{} nodes run", statuses.len());
        ensure!(applied.windows(2).all(|pair| pair[0] == pair[1]), "applied: {applied:?}");
        anyhow::Ok(())
    });
    seen.await.map_err(|error| format!("nodes did not become equal after the heal: {error:#}"))
}

/// Removes the keys of the round. What stays behind takes some room and disturbs nobody.
async fn sweep(cluster: &Cluster, traffic: &Traffic<'_>) {
    let keys = (0..KEYS).map(|number| traffic.key(number)).chain(traffic.pair());
    let then = keys.map(|key| v1::KvOp { op: Some(kv_op::Op::Delete(key)) }).collect();
    let request = v1::TxnRequest { then, ..v1::TxnRequest::default() };
    let Ok(door) = cluster.node(0).values() else { return };
    drop(timeout(SWEEP_TIME, door.txn(request)).await);
}

/// Puts together what was seen, and what it means.
fn outcome(
    round: &Round,
    moments: Moments,
    equal: Result<u64, String>,
    records: Records,
    (book, counted): (&Mutex<Book>, Counts),
) -> Outcome {
    let Moments { begun_ns, struck_ns, healed_ns, over_ns, done, leader } = moments;
    let history = &records.history;
    let between = |from, until| Evidence::between(history, from, until);
    let (whole, before) = (between(begun_ns, over_ns), between(begun_ns, struck_ns));
    let (during, after) = (between(struck_ns, healed_ns), between(healed_ns, over_ns));
    let judged = check::judge(&records);
    let (mut checked, mut broken) = (judged.checked, judged.broken);

    let counts = held(book).counts();
    checked.push((Invariant::I1, counts.leaders - counted.leaders));
    checked.push((Invariant::I5, counts.entries - counted.entries));
    checked.push((Invariant::I6, counts.states - counted.states));
    checked.push((Invariant::I7, counts.pairs - counted.pairs));
    let faults = held(book).take_faults();
    broken.extend(faults.into_iter().map(|(kind, fault)| (promise_of(kind), fault)));

    for (invariant, kept) in &done.judged {
        checked.push((*invariant, 1));
        broken.extend(kept.as_ref().err().map(|what| (*invariant, what.clone())));
    }
    let late = leader.as_ref().err().into_iter().chain(equal.as_ref().err());
    broken.extend(late.map(|what| (Invariant::I11, what.clone())));
    let injected = done.proof.is_shown();
    checked.extend([(Invariant::I11, 1), (Invariant::I13, u64::from(injected))]);
    let lacking = evidence::round_lacks(&Happened { before, during, after, proof: done.proof.clone() });

    let played = Played {
        number: round.number,
        family: round.fault.family(),
        fault: round.fault.to_string(),
        fault_ms: healed_ns.saturating_sub(struck_ns) / 1_000_000,
        injected,
        proof: done.proof.to_string(),
        outage: Outage::of(history, begun_ns, over_ns),
        leader_ms: leader.map_or(0, millis),
        equal_ms: equal.unwrap_or(0),
        with_snapshot: done.with_snapshot,
        writes_before: writes_per_second(&before),
        writes_after: writes_per_second(&after),
        operations: whole.operations,
        answered: whole.succeeded,
        refused: whole.refused,
        unknown: whole.unknown,
    };
    let (resumed, gaps) = (judged.resumed, judged.gaps);
    Outcome { played, checked, broken, lacking, resumed, gaps, records }
}

/// Which promise is broken by what contradicts itself.
pub(crate) const fn promise_of(kind: Broken) -> Invariant {
    match kind {
        Broken::OneLeader => Invariant::I1,
        Broken::OneLog => Invariant::I5,
        Broken::OneState => Invariant::I6,
        Broken::Forward => Invariant::I7,
    }
}

fn writes_per_second(evidence: &Evidence) -> u64 {
    evidence.writes.saturating_mul(1_000_000_000) / evidence.length_ns.max(1)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The records of a history, one JSON object for each line.
pub(crate) fn lines_of(history: &[Operation]) -> Result<String> {
    let mut text = String::new();
    for operation in history {
        text += &serde_json::to_string(operation).context("write an operation")?;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use ollamax_testkit::Seed;
    use ollamax_testkit::history::{Call, Outcome as Came};

    use super::*;
    use crate::evidence::Proof;
    use crate::plan::{Fault, Whom};

    const SECOND_NS: u64 = 1_000_000_000;

    /// A put that was acknowledged each five milliseconds for nine seconds.
    fn busy() -> Vec<Operation> {
        let put = |number: u64| Operation {
            client: 0,
            key: "k".to_owned(),
            call: Call::Put { value: number },
            invoked_ns: number * 5_000_000,
            returned_ns: Some(number * 5_000_000 + 1),
            outcome: Came::Written { revision: number, happened: true, observed_modified: None },
        };
        (1..1_800).map(put).collect()
    }

    fn found(change: impl Fn(&mut Moments), equal: Result<u64, String>, samples: &[Sample]) -> Outcome {
        let fault = Fault::Kill(Whom::Leader);
        let round = Round { number: 4, fault, time: Duration::from_secs(1), seed: Seed(1) };
        let proof = Proof::Shown("it was there".to_owned());
        let done = Done { proof, healed: Instant::now(), with_snapshot: false, judged: Vec::new() };
        let mut moments = Moments {
            begun_ns: 0,
            struck_ns: 2 * SECOND_NS,
            healed_ns: 4 * SECOND_NS,
            over_ns: 9 * SECOND_NS,
            done,
            leader: Ok(Duration::from_millis(70)),
        };
        change(&mut moments);
        let book = Mutex::new(Book::default());
        samples.iter().cloned().for_each(|sample| held(&book).note(sample));
        let records = Records { history: busy(), ..Records::default() };
        outcome(&round, moments, equal, records, (&book, Counts::default()))
    }

    #[test]
    fn a_round_that_went_well_counts_and_tells_its_numbers() {
        let outcome = found(|_| {}, Ok(12), &[]);
        assert!(outcome.broken.is_empty() && outcome.lacking.is_empty(), "{:?} {:?}", outcome.broken, outcome.lacking);
        let played = outcome.played;
        assert_eq!((played.operations, played.answered, played.fault_ms), (1_799, 1_799, 2_000));
        assert_eq!((played.leader_ms, played.equal_ms, played.outage), (70, 12, Outage::default()));
        assert_eq!((played.writes_before, played.writes_after), (199, 200));
        assert_eq!(lines_of(&outcome.records.history).expect("plain data").lines().count(), 1_799);
    }

    #[test]
    fn what_the_moments_and_samples_show_breaks_its_promise() {
        let check = |outcome: Outcome, expected: Invariant| {
            let broken: Vec<Invariant> = outcome.broken.iter().map(|(invariant, _)| *invariant).collect();
            assert_eq!(broken, [expected], "{:?}", outcome.broken);
        };
        check(found(|moments| moments.leader = Err("none".to_owned()), Ok(1), &[]), Invariant::I11);
        check(found(|_| {}, Err("applied: [1, 2]".to_owned()), &[]), Invariant::I11);
        let sample = |node, leader, applied, hash| Sample {
            node,
            pid: node as u64,
            term: 3,
            leader,
            committed: 9,
            applied,
            hash: vec![hash],
        };
        check(found(|_| {}, Ok(1), &[sample(0, 1, 5, 1), sample(1, 2, 6, 1)]), Invariant::I1);
        check(found(|_| {}, Ok(1), &[sample(0, 1, 5, 1), sample(1, 1, 5, 2)]), Invariant::I6);
        check(found(|_| {}, Ok(1), &[sample(0, 1, 5, 1), sample(0, 1, 4, 2)]), Invariant::I7);
        let started = || vec![(Invariant::I12, Err("it started".to_owned())), (Invariant::I12, Ok(()))];
        check(found(|moments| moments.done.judged = started(), Ok(1), &[]), Invariant::I12);
        let unproved = |moments: &mut Moments| moments.done.proof = Proof::Missing("the same process".to_owned());
        let unproved = found(unproved, Ok(1), &[]);
        assert!(unproved.lacking.len() == 1 && unproved.broken.is_empty(), "{:?}", unproved.lacking);
        assert!(unproved.played.proof.contains("NOT PROVED: the same process"), "{}", unproved.played.proof);
    }

    #[test]
    fn a_round_whose_fault_was_not_done_counts_and_stands_for_no_fault() {
        let late = |moments: &mut Moments| moments.done.proof = Proof::NotInjected("no sync came".to_owned());
        let outcome = found(late, Ok(1), &[]);
        assert!(outcome.lacking.is_empty() && outcome.broken.is_empty(), "{:?}", outcome.lacking);
        assert!(!outcome.played.injected);
        assert_eq!(outcome.played.proof, "NOT INJECTED: no sync came");
        assert!(outcome.checked.contains(&(Invariant::I13, 0)), "{:?}", outcome.checked);
    }
}
