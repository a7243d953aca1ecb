//! Clients of a simulated cluster: each in a session of its own, one change or read after the other, asked again until
//! somebody answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::txn::{Condition, Op, Operand, Relation};
use ollamax_core::catalog::{Answer, Refusal, Txn};

use super::facts::{Done, Facts, What};
use super::members;
use super::network::{Network, Question, Reply};
use super::types::Bug;
use crate::alone::{self, INCARNATION};

const KEYS: u64 = 4;
const ATTEMPTS_MAX: usize = 40;
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_millis(700);
/// Longest pause between two operations, milliseconds.
const PAUSE_MS_MAX: u64 = 30;
const SESSION_TTL_MS: u64 = 3_600_000;
const SESSION_WINDOW: u32 = 64;

/// What all clients share.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) network: Network,
    pub(super) facts: Facts,
    pub(super) nodes: u64,
    pub(super) bug: Option<Bug>,
    /// Ask no more.
    pub(super) quiet: Arc<AtomicBool>,
}

struct Client {
    shared: Clients,
    id: u64,
    chance: StdRng,
    /// Whom it asks first.
    node: u64,
    session: u64,
    sequence: u64,
}

// === impl Clients ===

impl Clients {
    /// One client, until it shall be quiet.
    pub(super) async fn run(self, id: u64, seed: u64) {
        let chance = StdRng::seed_from_u64(seed ^ id.wrapping_mul(0x5851_F42D_4C95_7F2D));
        let mut client = Client { node: 1 + id % self.nodes, shared: self, id, chance, session: 0, sequence: 0 };
        client.begin().await;
        if id == 0 {
            client.admit().await;
        }
        while !client.is_quiet() {
            let pause = client.chance.random_range(0..=PAUSE_MS_MAX);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let key = format!("user/k{}", client.chance.random_range(0..KEYS));
            match client.chance.random_range(0..10) {
                0..5 => client.put(key, None).await,
                5..7 => client.swap(key).await,
                _ => drop(client.read(key).await),
            }
        }
    }
}

// === impl Client ===

impl Client {
    fn is_quiet(&self) -> bool {
        self.shared.quiet.load(Ordering::SeqCst)
    }

    /// Makes the cluster, if nobody has, and opens a session.
    async fn begin(&mut self) {
        while !self.is_quiet() {
            let open = Command::OpenSession { ttl_ms: SESSION_TTL_MS, window: SESSION_WINDOW };
            let answer = match self.change(open, None).await {
                Some((_, Answer::Refused(Refusal::NotInitialised))) => {
                    self.change(alone::init(), None).await;
                    continue;
                }
                answer => answer,
            };
            if let Some((_, Answer::Session { session })) = answer {
                self.session = session;
                return;
            }
        }
    }

    /// Lets all other nodes join, in the order of their ids.
    async fn admit(&mut self) {
        self.change(members::token(), None).await;
        for node in 2..=self.shared.nodes {
            self.change(members::join(node, INCARNATION, members::TOKEN), None).await;
        }
    }

    /// Writes a value that nobody else writes, if the key was last changed at `expected`.
    async fn put(&mut self, key: String, expected: Option<u64>) {
        self.sequence += 1;
        let value = format!("{}-{}", self.id, self.sequence).into_bytes();
        let condition =
            |revision| Condition { key: key.clone(), operand: Operand::Modified(revision), relation: Relation::Equal };
        let put = Op::Put { key: key.clone(), bytes: value.clone(), lease: None };
        let conditions = expected.map(condition).into_iter().collect();
        let txn = Command::Txn(Txn { conditions, then: vec![put], otherwise: Vec::new() });
        let begin_ms = self.shared.facts.now_ms();
        let Some((revision, answer)) = self.change(txn, Some(self.sequence)).await else { return };
        let what = match answer {
            Answer::Txn { held: true, .. } => What::Wrote { value, revision },
            Answer::Txn { held: false, .. } => What::Declined { value },
            other => {
                self.shared.facts.lock().violated(format!("a change was answered with {other:?}"));
                return;
            }
        };
        self.done(key, what, begin_ms);
    }

    /// Reads and then writes if nobody else did.
    async fn swap(&mut self, key: String) {
        if let Some(revision) = self.read(key.clone()).await {
            self.put(key, Some(revision)).await;
        }
    }

    /// Returns the revision.
    async fn read(&mut self, key: String) -> Option<u64> {
        let begin_ms = self.shared.facts.now_ms();
        for _ in 0..ATTEMPTS_MAX {
            match self.shared.network.ask(self.node, Question::Read(key.clone()), ANSWER).await {
                Some(Reply::Value(found)) => {
                    let revision = found.as_ref().map_or(0, |value| value.modified);
                    let value = found.map(|value| value.bytes).unwrap_or_default();
                    self.done(key, What::Read { value, revision }, begin_ms);
                    return Some(revision);
                }
                reply => self.elsewhere(reply).await,
            }
        }
        None
    }

    fn done(&self, key: String, what: What, begin_ms: u64) {
        let end_ms = self.shared.facts.now_ms();
        self.shared.facts.done(Done { key, what, begin_ms, end_ms });
    }

    /// Asks for a change until it is answered. With a sequence it has effect once.
    async fn change(&mut self, command: Command, mut sequence: Option<u64>) -> Option<(u64, Answer)> {
        for _ in 0..ATTEMPTS_MAX {
            let session = sequence.map(|sequence| (self.session, sequence));
            let question = Question::Propose(command.clone(), session);
            match self.shared.network.ask(self.node, question, ANSWER).await {
                Some(Reply::Committed(revision, answer)) => return Some((revision, answer)),
                reply => {
                    let may_have_happened = !matches!(reply, Some(Reply::NotLeader(_)));
                    if may_have_happened && self.shared.bug == Some(Bug::RetryWithoutSequence) {
                        sequence = None;
                    }
                    self.elsewhere(reply).await;
                }
            }
        }
        None
    }

    /// Where to ask next, and when.
    async fn elsewhere(&mut self, reply: Option<Reply>) {
        self.node = match reply {
            Some(Reply::NotLeader(Some(leader))) => leader,
            _ => self.chance.random_range(1..=self.shared.nodes),
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
