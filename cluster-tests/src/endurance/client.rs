//! A client as people write them: it has the addresses of all nodes, stays at one as long as that answers, and goes on
//! to the next when it is refused, cut off, not answered, or told that the same may succeed later. A put of the same
//! value may be sent again whatever became of it. A request has failed when its time is over, or on a final answer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout_at};

use ollamax_testkit::cluster::{CallError, Level, Node, Values};
use ollamax_testkit::{Cluster, Seed, wait};
use ollamax_types::ErrorCode;

use super::ledger::{Ledger, Stored};
use super::plan::{CLIENTS, KEYS, Kind, bytes_of, key, number_of, prefix};
use super::tally::Tallies;

/// Time that one request has, from the moment when it was due.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How long a client waits when all nodes were asked in vain, before it asks the first again.
const AFTER_ROUND: Duration = Duration::from_millis(50);
/// Longest wait for a value in a cluster that is well.
const PATIENCE: Duration = Duration::from_secs(30);
/// Purpose for which clients draw their chance; the number of the client is added.
const PURPOSE: u64 = 0x656e_6475_7265;

/// Why a request failed when no code says it.
const NOT_ASKED: &str = "not even asked";
const NO_ANSWER: &str = "no answer";
const NO_CODE: &str = "connection failed";
const OLD: &str = "an old value";
const NOT_ALL_ROWS: &str = "not all rows";

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    /// The last that a node said; empty when none said anything.
    pub(crate) said: String,
}

// === impl Failure ===

impl Failure {
    const fn of(reason: &'static str) -> Self {
        Self { reason, said: String::new() }
    }

    fn from_error(error: &CallError) -> Self {
        Self { reason: error.code.map_or(NO_CODE, ErrorCode::as_str), said: error.to_string() }
    }
}

/// Which node is asked next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    nodes: usize,
    node: usize,
    /// How many were asked in vain, one after the other.
    in_vain: usize,
}

// === impl Turn ===

impl Turn {
    const fn beginning_at(node: usize, nodes: usize) -> Self {
        Self { nodes, node: node % nodes, in_vain: 0 }
    }

    /// The node did not help: the next one is asked. Whether all have been asked now.
    const fn go_on(&mut self) -> bool {
        self.node = (self.node + 1) % self.nodes;
        self.in_vain = (self.in_vain + 1) % self.nodes;
        self.in_vain == 0
    }

    /// The node answered: it is the first that is asked the next time.
    const fn stay(&mut self) {
        self.in_vain = 0;
    }
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Put { key: usize, number: u64 },
    PointRead { key: usize },
    List { of: usize },
}

/// What a node answered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// At this revision.
    Written(u64),
    /// The revision that changed the value last; 0: there is none.
    Read(u64),
    Rows(usize),
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    doors: Vec<Values>,
    turn: Turn,
    chance: StdRng,
    ledger: Ledger,
    pub(crate) tallies: Tallies,
    /// Reads that saw less than was acknowledged before they began.
    pub(crate) old_reads: Vec<String>,
}

// === impl Client ===

impl Client {
    /// All clients, each beginning at its own node, with a connection of its own to each.
    pub(crate) fn all(cluster: &Cluster, seed: Seed) -> Result<Vec<Self>> {
        let client = |number: usize| {
            let doors = cluster.nodes().iter().map(Node::values).collect::<Result<Vec<Values>>>()?;
            Ok(Self {
                number,
                turn: Turn::beginning_at(number, doors.len()),
                doors,
                chance: seed.generator(PURPOSE + number as u64),
                ledger: Ledger::default(),
                tallies: Tallies::default(),
                old_reads: Vec::new(),
            })
        };
        (0..CLIENTS).map(client).collect()
    }

    /// Puts every key once, in a cluster that is well.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let door = &self.doors[self.turn.node];
        for number_of_key in 0..KEYS {
            let (key, number) = (key(self.number, number_of_key), self.ledger.fresh());
            let value = bytes_of(number);
            // A young cluster takes values when all members have said that they can apply them.
            let put = wait::until("a value to be taken", PATIENCE, || door.put(&key, &value, 0, None));
            let changed = Box::pin(put).await.context("make the data")?;
            self.ledger.leave_open(number_of_key, number);
            self.ledger.acknowledged(number_of_key, number, changed.header.revision);
        }
        Ok(())
    }

    /// Makes one request by chance.
    pub(crate) async fn request(&mut self, due: Instant) -> (Kind, Result<(), Failure>) {
        let kind = Kind::choose(&mut self.chance);
        let key = self.chance.random_range(0..KEYS);
        let deed = match kind {
            Kind::Put => Deed::Put { key, number: self.ledger.fresh() },
            Kind::PointRead => Deed::PointRead { key },
            Kind::List => Deed::List { of: self.chance.random_range(0..CLIENTS) },
        };
        (kind, self.ask(deed, due + REQUEST_TIME).await)
    }

    async fn ask(&mut self, deed: Deed, deadline: Instant) -> Result<(), Failure> {
        let mut failure = Failure::of(NOT_ASKED);
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Err(failure);
            }
            let door = &self.doors[self.turn.node];
            let limit = deadline.min(now + ANSWER_TIME);
            let told = Box::pin(timeout_at(limit, attempt(door, self.number, deed))).await;
            match told {
                Ok(Ok(answer)) => {
                    self.turn.stay();
                    return self.learn(deed, answer).map_err(Failure::of);
                }
                Ok(Err(error)) => {
                    self.leave_open(deed, Some(&error));
                    failure = Failure::from_error(&error);
                    if !may_go_on(&error) {
                        return Err(failure);
                    }
                }
                Err(_) => {
                    self.leave_open(deed, None);
                    failure = Failure::of(NO_ANSWER);
                }
            }
            if self.turn.go_on() {
                wait::pause_until(deadline.min(Instant::now() + AFTER_ROUND)).await;
            }
        }
    }

    /// Notes an attempt to put that may have effect although it was not acknowledged.
    fn leave_open(&mut self, deed: Deed, error: Option<&CallError>) {
        let is_certain = error.and_then(|error| error.code).is_some_and(ErrorCode::is_free_of_effects);
        if let (Deed::Put { key, number }, false) = (deed, is_certain) {
            self.ledger.leave_open(key, number);
        }
    }

    /// Takes an answer for what it is worth: what was not asked for is a failure, and an old value is worse.
    fn learn(&mut self, deed: Deed, answer: Answer) -> Result<(), &'static str> {
        match (deed, answer) {
            (Deed::Put { key, number }, Answer::Written(revision)) => {
                self.ledger.acknowledged(key, number, revision);
                Ok(())
            }
            (Deed::PointRead { key: number }, Answer::Read(modified)) if self.ledger.is_old(number, modified) => {
                let key = key(self.number, number);
                self.old_reads.push(format!("{key} was read as of revision {modified}, older than acknowledged"));
                Err(OLD)
            }
            (Deed::PointRead { .. }, Answer::Read(_)) => Ok(()),
            (Deed::List { .. }, Answer::Rows(KEYS)) => Ok(()),
            _ => Err(NOT_ALL_ROWS),
        }
    }

    /// Compares what one node has in the end with what was acknowledged: each key at fault, and why.
    pub(crate) async fn lost_at(&self, node: &Node) -> Result<BTreeMap<String, String>> {
        let (door, prefix) = (&self.doors[node.index()], prefix(self.number));
        let list = wait::until("the values", PATIENCE, || door.list(&prefix, KEYS as u32, Level::Linearizable));
        let found = Box::pin(list).await.with_context(|| format!("read the values at {}", node.name()))?;
        let stored: BTreeMap<String, Stored> = found
            .into_iter()
            .map(|value| (value.key, Stored { modified: value.modified, number: number_of(&value.value) }))
            .collect();
        let fault = |number: usize| {
            let key = key(self.number, number);
            let fault = self.ledger.fault(number, stored.get(&key).copied())?;
            Some((key.clone(), format!("{key} at {}: {fault}", node.name())))
        };
        Ok((0..KEYS).filter_map(fault).collect())
    }
}

/// Asks one node once.
async fn attempt(door: &Values, own: usize, deed: Deed) -> Result<Answer, CallError> {
    match deed {
        Deed::Put { key: number_of_key, number } => {
            let changed = door.put(&key(own, number_of_key), &bytes_of(number), 0, None).await?;
            Ok(Answer::Written(changed.header.revision))
        }
        Deed::PointRead { key: number } => {
            let found = door.get(&key(own, number), Level::Linearizable).await?;
            Ok(Answer::Read(found.value.map_or(0, |value| value.modified)))
        }
        Deed::List { of } => {
            let rows = door.list(&prefix(of), KEYS as u32, Level::Linearizable).await?;
            Ok(Answer::Rows(rows.len()))
        }
    }
}

/// Whether the next node is asked: nobody answered, or the answer says that it may help. That the outcome is unknown is
/// no hindrance, since the same put may be done twice.
fn may_go_on(error: &CallError) -> bool {
    error.code.is_none_or(|code| code.is_retryable() || code == ErrorCode::OutcomeUnknown)
}

#[cfg(test)]
mod tests;
