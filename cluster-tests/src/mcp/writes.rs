//! Changes through a follower: how long one takes beside a plain put at the leader, and what becomes of them while the
//! leader is killed every five seconds.
//!
//! A change pins a model or lets it go, in turns, and carries a key. Under kills it is asked for at the two nodes that
//! stay, one after the other, with the same key until it is acknowledged. What happened is told by the nodes' events,
//! of which there is one for each effect: a change that got lost is missing there, one that was made twice is too many.
//! So that a second effect shows, the last two of every ten are sent once more, in their order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use ollamax_testkit::cluster::Tools;
use ollamax_testkit::{Cluster, Seed, wait};

use super::plan::{KILL_EVERY, Plan, REPEAT_EACH, WRITE_EVERY};

/// Longest wait for a cluster to agree on something.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for one change to be acknowledged, whoever dies.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(60);
/// How long a client waits after a refusal, before it asks the other node.
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// The model that every node has, and which is pinned and let go.
pub(super) const MODEL: &str = "demo";
/// The tool that does it.
const TOOL: &str = "pin_model";
/// Writes of each kind before those that are measured; an even number.
const WARM: usize = 10;
/// Bytes of one plain value, about as many as the change has.
const VALUE_BYTES: usize = 100;
/// Who is killed, and who stays: a node that starts anew knows no earlier events.
const VICTIM: usize = 0;
const STAYING: [usize; 2] = [1, 2];
/// Most kills, more than the longest run allows.
const KILLS_MAX: u32 = 200;
/// By how much a kill comes later than planned, by chance, milliseconds.
const LATER_MS_MAX: u64 = 1_000;
/// Purpose for which it is drawn when somebody is killed; the number of the run is added.
const PURPOSE: u64 = 0x006d_6370;

/// Latencies of plain writes and of forwarded ones, sorted, seconds.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    pub(super) puts: Vec<f64>,
    pub(super) changes: Vec<f64>,
    pub(super) failed_puts: u64,
    pub(super) failed_changes: u64,
    /// Somebody else led at the end: part of the writes took another way.
    pub(super) leader_moved: bool,
}

/// Effects that happened, or that were to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effects {
    pub(super) pinned: u64,
    pub(super) let_go: u64,
}

/// What became of the changes while the leader was killed.
#[derive(Debug, Default)]
pub(super) struct UnderKills {
    /// Latencies of acknowledged changes from when they were due, sorted, seconds.
    pub(super) acknowledged: Vec<f64>,
    /// Changes that were not acknowledged, those that were sent once more among them.
    pub(super) failed: u64,
    /// Calls that were made for them, repeats not among them.
    pub(super) attempts: u64,
    /// Changes that were sent once more after they were acknowledged.
    pub(super) repeated: u64,
    pub(super) kills: u64,
    /// Effects that are missing, and that are too many, at the node where they are most.
    pub(super) lost: u64,
    pub(super) doubled: u64,
}

// === impl Effects ===

impl Effects {
    /// What alternating changes do, of which the first one pins.
    const fn of(changes: u64) -> Self {
        Self { pinned: changes.div_ceil(2), let_go: changes / 2 }
    }

    const fn since(self, before: Self) -> Self {
        let pinned = self.pinned.saturating_sub(before.pinned);
        Self { pinned, let_go: self.let_go.saturating_sub(before.let_go) }
    }

    /// How many of these are missing in what was found.
    const fn missing_in(self, found: Self) -> u64 {
        self.pinned.saturating_sub(found.pinned) + self.let_go.saturating_sub(found.let_go)
    }
}

/// The call that makes a change; the same number is the same change.
fn change(seed: u64, purpose: &str, number: usize) -> Value {
    let key = format!("{purpose}-{seed:x}-{number}");
    json!({"name": MODEL, "pinned": number.is_multiple_of(2), "idempotency_key": key})
}

/// Makes so many changes at a follower, each behind a plain put at the leader.
pub(super) async fn forwarded(cluster: &Cluster, plan: &Plan) -> Result<Forwarded> {
    let leader = cluster.leader(PATIENCE).await?;
    let follower = follower_of(leader);
    let (admin, tools) = (cluster.node(leader).admin()?, cluster.node(follower).tools()?);
    let (value, mut found) = ([b'v'; VALUE_BYTES], Forwarded::default());
    for number in 0..WARM + plan.forwarded {
        let (key, asked) = (format!("bench/{}", number % 100), change(plan.seed, "forwarded", number));
        let begin = Instant::now();
        let put = admin.set(&key, &value).await;
        let between = Instant::now();
        let made = tools.call(TOOL, &asked).await;
        let (put_took, took) = (between.duration_since(begin), between.elapsed());
        if number < WARM {
            let begun = wait::until("a first change", PATIENCE, || tools.call(TOOL, &asked));
            Box::pin(begun).await?;
            continue;
        }
        match put {
            Ok(_) => found.puts.push(put_took.as_secs_f64()),
            Err(error) => {
                eprintln!("a plain put failed: {error}");
                found.failed_puts += 1;
            }
        }
        match made {
            Ok(_) => found.changes.push(took.as_secs_f64()),
            Err(error) => {
                eprintln!("a change failed: {error}");
                found.failed_changes += 1;
            }
        }
    }
    found.puts.sort_by(f64::total_cmp);
    found.changes.sort_by(f64::total_cmp);
    found.leader_moved = cluster.leader(PATIENCE).await? != leader;
    eprintln!("{} changes at a follower, {} plain puts at the leader", found.changes.len(), found.puts.len());
    Ok(found)
}

/// A node that does not lead.
pub(super) const fn follower_of(leader: usize) -> usize {
    if leader == STAYING[0] { STAYING[1] } else { STAYING[0] }
}

/// Makes so many changes while the leader is killed again and again, and counts what happened.
pub(super) async fn under_kills(cluster: &Cluster, plan: &Plan, run: usize) -> Result<UnderKills> {
    wait::until("the node to lead that is killed", PATIENCE, || lead_again(cluster)).await?;
    let doors = STAYING.map(|index| cluster.node(index).tools()).into_iter().collect::<Result<Vec<Tools>>>()?;
    // Whatever became of earlier changes, the first one has something to do.
    made(&doors, 0, &json!({"name": MODEL, "pinned": false}), &mut 0).await.context("let the model go")?;
    cluster.converged(PATIENCE).await?;
    let before = effects_at_all(cluster).await?;
    let (is_over, chance) = (AtomicBool::new(false), Seed(plan.seed).generator(PURPOSE + run as u64));
    let changes = async {
        let found = Box::pin(make_all(&doors, plan)).await;
        is_over.store(true, Ordering::SeqCst);
        anyhow::Ok(found)
    };
    let (mut found, kills) = futures::try_join!(changes, Box::pin(kill_until(cluster, &is_over, chance)))?;
    cluster.converged(PATIENCE).await?;
    found.kills = kills;
    let wanted = Effects::of(plan.writes as u64);
    for (before, after) in before.into_iter().zip(effects_at_all(cluster).await?) {
        let happened = after.since(before);
        found.lost = found.lost.max(wanted.missing_in(happened));
        found.doubled = found.doubled.max(happened.missing_in(wanted));
    }
    let UnderKills { acknowledged, failed, attempts, repeated, lost, doubled, .. } = &found;
    eprintln!(
        "{} changes acknowledged, {failed} not, in {attempts} calls and {kills} kills; {repeated} sent once more; \
         {lost} effects lost, {doubled} doubled",
        acknowledged.len()
    );
    Ok(found)
}

/// Makes one change after the other, each when it is due or, after a kill, as soon as those before it are made.
async fn make_all(doors: &[Tools], plan: &Plan) -> UnderKills {
    let (mut due, mut found) = (Instant::now(), UnderKills::default());
    for number in 0..plan.writes {
        wait::pause_until(due).await;
        let asked = change(plan.seed, "kills", number);
        match made(doors, number, &asked, &mut found.attempts).await {
            Ok(()) => found.acknowledged.push(due.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("a change was not acknowledged: {error:#}");
                found.failed += 1;
            }
        }
        if number % REPEAT_EACH == REPEAT_EACH - 1 {
            for earlier in [number - 1, number] {
                // At the other node than the first time.
                let asked = change(plan.seed, "kills", earlier);
                match made(doors, earlier + 1, &asked, &mut 0).await {
                    Ok(()) => found.repeated += 1,
                    Err(error) => {
                        eprintln!("a change that was sent once more was not acknowledged: {error:#}");
                        found.failed += 1;
                    }
                }
            }
        }
        due += WRITE_EVERY;
    }
    found.acknowledged.sort_by(f64::total_cmp);
    found
}

/// Asks for one change, at one node after the other, until it is acknowledged.
async fn made(doors: &[Tools], first: usize, asked: &Value, attempts: &mut u64) -> Result<()> {
    let end = Instant::now() + ACKNOWLEDGED_WITHIN;
    let mut said = "no answer".to_owned();
    for door in doors.iter().cycle().skip(first % doors.len().max(1)) {
        *attempts += 1;
        match Box::pin(timeout_at(end, door.call(TOOL, asked))).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => said = error.to_string(),
            Err(_) => break,
        }
        if Instant::now() >= end {
            break;
        }
        wait::pause(AFTER_REFUSAL).await;
    }
    bail!("{said}")
}

/// Kills the leader again and again until the changes are made, and lets it come back and lead. How often it did.
async fn kill_until(cluster: &Cluster, is_over: &AtomicBool, mut chance: StdRng) -> Result<u64> {
    let begin = Instant::now();
    for kill in 0..KILLS_MAX {
        let later = Duration::from_millis(chance.random_range(0..LATER_MS_MAX));
        wait::pause_until(begin + KILL_EVERY * kill + later).await;
        if is_over.load(Ordering::SeqCst) {
            ensure!(kill > 0, "nobody was killed");
            return Ok(u64::from(kill));
        }
        wait::until("the node to lead that is killed", PATIENCE, || lead_again(cluster)).await?;
        cluster.kill(&[VICTIM]).await?;
        cluster.leader_among(&STAYING, PATIENCE).await.context("the next leader")?;
        cluster.restart(&[VICTIM]).await?;
        cluster.settled(PATIENCE).await?;
        // It leads well before it is killed the next time.
        wait::until("the killed node to lead again", PATIENCE, || lead_again(cluster)).await?;
    }
    Ok(u64::from(KILLS_MAX))
}

/// Hands leadership to the node that is killed.
async fn lead_again(cluster: &Cluster) -> Result<()> {
    cluster.make_lead(VICTIM, PATIENCE).await
}

/// What the nodes that stay know to have happened.
async fn effects_at_all(cluster: &Cluster) -> Result<[Effects; STAYING.len()]> {
    let mut all = [Effects::default(); STAYING.len()];
    for (effects, index) in all.iter_mut().zip(STAYING) {
        *effects = effects_at(cluster, index).await?;
    }
    Ok(all)
}

async fn effects_at(cluster: &Cluster, index: usize) -> Result<Effects> {
    let words = ["-o", "json", "events", "--kind", "model_pinned", "--kind", "model_unpinned"];
    let told = cluster.node(index).ollamax(&words, PATIENCE).await?;
    ensure!(told.status.success(), "{told:?}");
    counted(&String::from_utf8_lossy(&told.stdout))
}

/// The effects in what `ollamax events` tells in JSON.
fn counted(page: &str) -> Result<Effects> {
    let mut effects = Effects::default();
    for line in page.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        match line["event"].as_str() {
            Some("model_pinned") => effects.pinned += 1,
            Some("model_unpinned") => effects.let_go += 1,
            _ => {}
        }
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_that_are_missing_are_lost_and_those_beyond_what_was_asked_are_doubled() {
        let check = |pinned: u64, let_go: u64, expected: (u64, u64)| {
            let (wanted, happened) = (Effects::of(11), Effects { pinned, let_go });
            assert_eq!((wanted.missing_in(happened), happened.missing_in(wanted)), expected, "{happened:?}");
        };
        check(6, 5, (0, 0));
        check(5, 5, (1, 0));
        check(5, 4, (2, 0));
        check(7, 7, (0, 3));
        // One does not make up for the other.
        check(7, 4, (1, 1));
        check(0, 0, (11, 0));
    }

    #[test]
    fn what_happened_before_does_not_count() {
        let (before, after) = (Effects { pinned: 3, let_go: 3 }, Effects { pinned: 9, let_go: 8 });
        assert_eq!(after.since(before), Effects::of(11));
    }

    #[test]
    fn events_of_other_kinds_are_no_effects() {
        let page = r#"{"kind": "EventsProgress", "revision": 9}
{"kind": "ClusterEvent", "event": "model_pinned", "revision": 5}
{"kind": "ClusterEvent", "event": "model_unpinned", "revision": 6}
{"kind": "ClusterEvent", "event": "model_pinned", "revision": 7}"#;
        assert_eq!(counted(page).expect("JSON"), Effects { pinned: 2, let_go: 1 });
        assert!(counted("{").is_err());
    }

    #[test]
    fn changes_take_turns_and_have_a_key_each() {
        let (first, second) = (change(7, "kills", 0), change(7, "kills", 1));
        assert_eq!((&first["pinned"], &second["pinned"]), (&json!(true), &json!(false)));
        assert_ne!(first["idempotency_key"], second["idempotency_key"]);
        assert_eq!(change(7, "kills", 1), second);
        assert_ne!(change(7, "forwarded", 1)["idempotency_key"], second["idempotency_key"]);
    }

    #[test]
    fn a_follower_is_a_node_that_stays_and_does_not_lead() {
        for leader in [0, 1, 2] {
            let follower = follower_of(leader);
            assert!(follower != leader && STAYING.contains(&follower), "{leader}");
        }
    }
}
