//! Eight clients of the values: six that stay at a node and two that roam, each doing one thing after the other and
//! recording what it was told.
//!
//! Half of them have a client session and send a change again, with the same sequence, when no answer came: at the same
//! node, or at another one if they roam. What is recorded is what the client knows: a change that was sent and of which
//! no answer says that it did not happen is unknown. A client never waits longer than its timeout for one answer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout};

use ollamax_proto::v1;
use ollamax_proto::v1::{kv_condition, kv_effect, kv_op};
use ollamax_testkit::cluster::{CallError, Once, Values};
use ollamax_testkit::history::{Call, Level, Operation, Outcome};
use ollamax_testkit::{Cluster, Seed, wait};
use ollamax_types::ErrorCode;

use crate::traffic::{Fate, KEYS, PairRead, SideWrite, Traffic, bytes_of, number_of};

/// How many there are.
pub(crate) const CLIENTS: usize = 8;
/// Those from here on roam.
const ROAM_FROM: usize = 6;
/// How long a client waits for one answer.
pub(crate) const REQUEST_TIME: Duration = Duration::from_millis(500);
/// A client begins its operations at least this far apart, and waits longer after one that failed.
const PACE: Duration = Duration::from_millis(8);
const PACE_AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How often a change of a session is sent.
const ATTEMPTS: usize = 3;
const SESSION_TTL: Duration = Duration::from_secs(60);
const SESSION_WINDOW: u32 = 64;
const OPEN_TIME: Duration = Duration::from_secs(10);
/// Purpose for which clients draw their chance; the number of the client is added.
const PURPOSE: u64 = 0x636c_6965_6e74;

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Get(Level),
    Put,
    Delete,
    Cas,
    /// A compare-and-swap as a transaction that tells what it found.
    Txn,
    /// Two keys at once.
    Pair,
    GetPair,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    doors: Vec<Values>,
    chance: StdRng,
    /// Id and the last sequence.
    session: Option<(u64, u64)>,
    /// The revision of each key's last change, as far as this client was told.
    modified: BTreeMap<usize, u64>,
}

/// The door of every node, for one caller.
pub(crate) fn doors(cluster: &Cluster) -> Result<Vec<Values>> {
    cluster.nodes().iter().map(ollamax_testkit::cluster::Node::values).collect()
}

/// Prepares the clients of a round; half of them open a session.
///
/// # Errors
/// When no session can be opened in a cluster that is well.
pub(crate) async fn prepare(cluster: &Cluster, seed: Seed) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let doors = doors(cluster)?;
        let session = match number % 2 {
            0 => None,
            _ => {
                let door = &doors[number % doors.len()];
                let opened =
                    wait::until("a client session", OPEN_TIME, || door.open_session(SESSION_TTL, SESSION_WINDOW));
                Some((opened.await.context("open a client session")?, 0))
            }
        };
        let chance = seed.generator(PURPOSE + number as u64);
        clients.push(Client { number, doors, chance, session, modified: BTreeMap::new() });
    }
    Ok(clients)
}

/// Lets the clients work until the traffic is over.
pub(crate) async fn work(clients: Vec<Client>, cluster: &Cluster, traffic: &Traffic<'_>) {
    join_all(clients.into_iter().map(|client| Box::pin(client.work(cluster, traffic)))).await;
}

// === impl Client ===

impl Client {
    async fn work(mut self, cluster: &Cluster, traffic: &Traffic<'_>) {
        while !traffic.is_over() {
            let next = Instant::now() + PACE;
            if self.step(cluster, traffic).await {
                wait::pause_until(next).await;
            } else {
                wait::pause(PACE_AFTER_FAILURE).await;
            }
        }
    }

    /// One operation; whether it was answered.
    async fn step(&mut self, cluster: &Cluster, traffic: &Traffic<'_>) -> bool {
        let deed = deed(self.chance.random_range(0..100));
        match deed {
            Deed::Pair => return self.put_pair(cluster, traffic).await,
            Deed::GetPair => return self.get_pair(cluster, traffic).await,
            _ => {}
        }
        let number = self.chance.random_range(0..KEYS);
        let (key, expected_modified) = (traffic.key(number), self.modified.get(&number).copied().unwrap_or(0));
        let call = match deed {
            Deed::Get(level) => Call::Get { level },
            Deed::Delete => Call::Delete,
            Deed::Cas | Deed::Txn => Call::Cas { expected_modified, value: traffic.run.fresh_value() },
            Deed::Put | Deed::Pair | Deed::GetPair => Call::Put { value: traffic.run.fresh_value() },
        };
        let invoked_ns = traffic.run.now_ns();
        let outcome = match call {
            Call::Get { level } => self.read(cluster, &key, level).await,
            _ => {
                let request = request_of(&key, call, deed == Deed::Txn);
                let told = self.change(cluster, &request).await;
                match told {
                    Told::Done(reply) => outcome_of(call, &reply),
                    Told::Refused => Outcome::Refused,
                    Told::Unknown => Outcome::Unknown,
                }
            }
        };
        let returned_ns = Some(traffic.run.now_ns());
        self.learn(number, outcome);
        let client = u32::try_from(self.number).unwrap_or(u32::MAX);
        traffic.note(Operation { client, key, call, invoked_ns, returned_ns, outcome });
        !matches!(outcome, Outcome::Refused | Outcome::Unknown)
    }

    fn learn(&mut self, number: usize, outcome: Outcome) {
        let modified = match outcome {
            Outcome::Read { modified, .. } => modified,
            Outcome::Written { revision, happened: true, .. } => revision,
            Outcome::Written { observed_modified: Some(observed), .. } => observed,
            Outcome::Deleted { .. } => 0,
            Outcome::Written { .. } | Outcome::Refused | Outcome::Unknown => return,
        };
        self.modified.insert(number, modified);
    }

    /// Which node is asked next; `None`: it does not run, so nothing is sent.
    fn door(&mut self, cluster: &Cluster) -> Option<Values> {
        let index = match self.number < ROAM_FROM {
            true => self.number % self.doors.len(),
            false => self.chance.random_range(0..self.doors.len()),
        };
        cluster.node(index).is_running().then(|| self.doors[index].clone())
    }

    async fn read(&mut self, cluster: &Cluster, key: &str, level: Level) -> Outcome {
        let Some(door) = self.door(cluster) else { return Outcome::Refused };
        match Box::pin(timeout(REQUEST_TIME, door.get(key, level.into()))).await {
            Ok(Ok(found)) => found.outcome(number_of),
            // A read that was not answered has no effect either way.
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    /// Sends a change, within the session if there is one, then also again.
    async fn change(&mut self, cluster: &Cluster, request: &v1::TxnRequest) -> Told {
        let once: Once = self.session.as_mut().map(|(id, last)| {
            *last += 1;
            (*id, *last)
        });
        let attempts = if once.is_some() { ATTEMPTS } else { 1 };
        let mut sent = false;
        for _ in 0..attempts {
            let Some(door) = self.door(cluster) else {
                wait::pause(PACE_AFTER_FAILURE).await;
                continue;
            };
            let session = once.map(|(id, sequence)| v1::KvSession { id, sequence });
            let attempt = v1::TxnRequest { session, ..request.clone() };
            match Box::pin(timeout(REQUEST_TIME, door.txn(attempt))).await {
                Ok(Ok(reply)) => return Told::Done(reply),
                Ok(Err(error)) if is_certain(&error) && !sent => return Told::Refused,
                Ok(Err(error)) => {
                    sent = true;
                    if matches!(error.code, Some(ErrorCode::SessionExpired | ErrorCode::SequenceTooOld)) {
                        self.session = None;
                        break;
                    }
                }
                Err(_) => sent = true,
            }
        }
        if sent { Told::Unknown } else { Told::Refused }
    }

    async fn put_pair(&mut self, cluster: &Cluster, traffic: &Traffic<'_>) -> bool {
        let (keys, value) = (traffic.pair(), traffic.run.fresh_value());
        let then = keys.iter().map(|key| put(key, value)).collect();
        let request = v1::TxnRequest { then, ..v1::TxnRequest::default() };
        let fate = match self.change(cluster, &request).await {
            Told::Done(reply) => Fate::At(reply.header.map_or(0, |header| header.revision)),
            Told::Refused => Fate::Refused,
            Told::Unknown => Fate::Unknown,
        };
        traffic.aside().writes.push(SideWrite { keys: keys.to_vec(), value, fate });
        matches!(fate, Fate::At(_))
    }

    async fn get_pair(&mut self, cluster: &Cluster, traffic: &Traffic<'_>) -> bool {
        let Some(door) = self.door(cluster) else { return false };
        let request = v1::RangeRequest { key: traffic.pair_prefix(), prefix: true, ..v1::RangeRequest::default() };
        let mut client = door.client();
        let Ok(Ok(reply)) = Box::pin(timeout(REQUEST_TIME, client.range(request))).await else { return false };
        let values = reply.into_inner().values;
        let found = values.iter().map(|value| (value.key.clone(), number_of(value), value.modified)).collect();
        traffic.aside().pair_reads.push(PairRead { found });
        true
    }
}

/// What a change was answered.
enum Told {
    Done(v1::TxnReply),
    Refused,
    Unknown,
}

/// Whether an error of the first attempt says for sure that nothing happened.
pub(crate) fn is_certain(error: &CallError) -> bool {
    error.code.is_some_and(ErrorCode::is_free_of_effects)
}

/// What a roll of a hundred means.
const fn deed(roll: u32) -> Deed {
    match roll {
        0..24 => Deed::Put,
        24..38 => Deed::Cas,
        38..48 => Deed::Txn,
        48..56 => Deed::Delete,
        56..61 => Deed::Pair,
        61..64 => Deed::GetPair,
        64..82 => Deed::Get(Level::Linearizable),
        82..90 => Deed::Get(Level::Lease),
        _ => Deed::Get(Level::Stale),
    }
}

fn put(key: &str, value: u64) -> v1::KvOp {
    let put = v1::KvPut { key: key.to_owned(), value: bytes_of(value), lease: 0 };
    v1::KvOp { op: Some(kv_op::Op::Put(put)) }
}

fn request_of(key: &str, call: Call, tells: bool) -> v1::TxnRequest {
    let (conditions, then) = match call {
        Call::Put { value } => (Vec::new(), put(key, value)),
        Call::Cas { expected_modified, value } => {
            let condition = v1::KvCondition {
                key: key.to_owned(),
                relation: kv_condition::Relation::Equal.into(),
                operand: Some(kv_condition::Operand::Modified(expected_modified)),
            };
            (vec![condition], put(key, value))
        }
        Call::Delete | Call::Get { .. } => (Vec::new(), v1::KvOp { op: Some(kv_op::Op::Delete(key.to_owned())) }),
    };
    let get = v1::KvOp { op: Some(kv_op::Op::Get(key.to_owned())) };
    let otherwise = if tells { vec![get] } else { Vec::new() };
    v1::TxnRequest { conditions, then: vec![then], otherwise, session: None }
}

fn outcome_of(call: Call, reply: &v1::TxnReply) -> Outcome {
    let revision = reply.header.as_ref().map_or(0, |header| header.revision);
    let effect = reply.effects.first().and_then(|effect| effect.effect.as_ref());
    if call == Call::Delete {
        let existed = matches!(effect, Some(kv_effect::Effect::Deleted(previous)) if *previous != 0);
        return Outcome::Deleted { revision, existed };
    }
    let observed_modified = match effect {
        Some(kv_effect::Effect::Got(got)) => Some(got.value.as_ref().map_or(0, |value| value.modified)),
        _ => None,
    };
    Outcome::Written { revision, happened: reply.held, observed_modified }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(held: bool, effect: Option<kv_effect::Effect>) -> v1::TxnReply {
        let effects = effect.map(|effect| v1::KvEffect { effect: Some(effect) }).into_iter().collect();
        v1::TxnReply { header: Some(v1::KvHeader { revision: 9, ..v1::KvHeader::default() }), held, effects }
    }

    #[test]
    fn an_answer_is_recorded_as_it_was_told() {
        let cas = Call::Cas { expected_modified: 4, value: 7 };
        let written = |happened, observed_modified| Outcome::Written { revision: 9, happened, observed_modified };
        let got = |modified: Option<u64>| {
            let value = modified.map(|modified| v1::KvValue { modified, ..v1::KvValue::default() });
            kv_effect::Effect::Got(v1::KvGot { value })
        };
        let check = |call, reply: v1::TxnReply, expected| assert_eq!(outcome_of(call, &reply), expected);
        check(Call::Put { value: 7 }, reply(true, Some(kv_effect::Effect::Put(3))), written(true, None));
        check(cas, reply(true, Some(kv_effect::Effect::Put(4))), written(true, None));
        check(cas, reply(false, None), written(false, None));
        check(cas, reply(false, Some(got(Some(5)))), written(false, Some(5)));
        check(cas, reply(false, Some(got(None))), written(false, Some(0)));
        let deleted = |existed| Outcome::Deleted { revision: 9, existed };
        check(Call::Delete, reply(true, Some(kv_effect::Effect::Deleted(4))), deleted(true));
        check(Call::Delete, reply(true, Some(kv_effect::Effect::Deleted(0))), deleted(false));
    }

    #[test]
    fn every_deed_is_done() {
        let deeds: Vec<Deed> = (0..100).map(deed).collect();
        for wanted in [
            Deed::Put,
            Deed::Cas,
            Deed::Txn,
            Deed::Delete,
            Deed::Pair,
            Deed::GetPair,
            Deed::Get(Level::Linearizable),
            Deed::Get(Level::Lease),
            Deed::Get(Level::Stale),
        ] {
            assert!(deeds.contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn only_a_code_that_says_so_is_certain() {
        let error = |code| CallError {
            node: "n1".to_owned(),
            code,
            message: String::new(),
            why: String::new(),
            next: String::new(),
            took: Duration::ZERO,
        };
        assert!(is_certain(&error(Some(ErrorCode::NoQuorum))));
        assert!(!is_certain(&error(Some(ErrorCode::OutcomeUnknown))));
        assert!(!is_certain(&error(None)), "a connection that broke says nothing");
    }
}
