//! Clients that never stop while something is done to a cluster, and the verdict on everything that they were told.
//!
//! Six clients read and change a few values through whichever nodes run, and a seventh sets a new key each time. What
//! is done to the cluster waits for their further changes, so it cannot pass while nothing happens. At the end the
//! history of the values must have an order, every node must have the same state, and all that was acknowledged.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout};

use ollamax_proto::v1::KvValue;
use ollamax_testkit::cluster::{CallError, Changed, Values};
use ollamax_testkit::history::{Call, Level, Operation, Outcome, revisions, wgl};
use ollamax_testkit::{Cluster, Seed, wait};
use ollamax_types::ErrorCode;

use crate::acknowledged::{Acknowledged, read_back, write};

const CLIENTS: u32 = 6;
/// Values that the clients fight over.
const KEYS: usize = 8;
/// A client begins its operations at least this far apart, and waits longer after one that failed.
const PACE: Duration = Duration::from_millis(10);
const PACE_AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How long a client waits for one answer.
const REQUEST_TIME: Duration = Duration::from_secs(2);
/// Changes of each kind that must be acknowledged each time that somebody asks whether it goes on.
const FURTHER: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// The clients of one stretch of time, and what they were told.
pub(crate) struct Steady {
    name: String,
    begin: Instant,
    fresh: AtomicU64,
    /// Changes of values that were acknowledged.
    changed: AtomicUsize,
    operations: Mutex<Vec<Operation>>,
    set: Acknowledged,
}

// === impl Steady ===

impl Steady {
    /// Nothing has happened yet. The name tells the keys of one stretch from those of the others.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            begin: Instant::now(),
            fresh: AtomicU64::new(1),
            changed: AtomicUsize::new(0),
            operations: Mutex::default(),
            set: Acknowledged::default(),
        }
    }

    /// Lets the clients work until `story` has ended, and judges what they were told. All nodes must run then.
    ///
    /// # Errors
    /// When the story fails, or a promise was broken.
    pub(crate) async fn during(
        &self,
        cluster: &Cluster,
        seed: Seed,
        story: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let clients = (0..CLIENTS).map(|number| Client::new(cluster, number, seed)).collect::<Result<Vec<_>>>()?;
        let clients = join_all(clients.into_iter().map(|client| Box::pin(client.work(cluster, self))));
        let prefix = self.settings();
        let setter = write(cluster, &prefix, 0, &self.set);
        let story = async {
            let told = story.await;
            self.set.enough.store(true, Ordering::SeqCst);
            told
        };
        let (_, (), told) = futures::join!(clients, setter, story);
        told.with_context(|| self.name.clone())?;
        self.judge(cluster).await.with_context(|| format!("{}, judged", self.name))
    }

    /// Waits until changes of both kinds were acknowledged once more.
    ///
    /// # Errors
    /// When they were not.
    pub(crate) async fn goes_on(&self) -> Result<()> {
        let seen = || [self.changed.load(Ordering::SeqCst), self.set.count.load(Ordering::SeqCst)];
        let before = seen();
        wait::until("further changes", PATIENCE, || async {
            let further: Vec<usize> = seen().iter().zip(before).map(|(now, before)| now - before).collect();
            ensure!(further.iter().all(|count| *count >= FURTHER), "{further:?} of {FURTHER}");
            anyhow::Ok(())
        })
        .await
    }

    fn settings(&self) -> String {
        format!("steady/{}/", self.name)
    }

    fn key(&self, number: usize) -> String {
        format!("user/steady/{}/{number}", self.name)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        self.set.enough.load(Ordering::SeqCst)
    }

    /// Does one thing to one key, and notes what was told.
    async fn ask(&self, client: u32, door: &Values, key: &str, call: Call) -> Outcome {
        let invoked_ns = self.now_ns();
        let outcome = Box::pin(outcome(door, key, call)).await;
        let (key, returned_ns) = (key.to_owned(), Some(self.now_ns()));
        let operation = Operation { client, key, call, invoked_ns, returned_ns, outcome };
        self.operations.lock().expect("no client panics").push(operation);
        if matches!(outcome, Outcome::Written { happened: true, .. } | Outcome::Deleted { .. }) {
            self.changed.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }

    async fn judge(&self, cluster: &Cluster) -> Result<()> {
        for node in cluster.nodes() {
            let (door, client) = (node.values()?, CLIENTS + u32::try_from(node.index())?);
            for key in (0..KEYS).map(|number| self.key(number)) {
                wait::until("a last read", PATIENCE, || async {
                    let told = self.ask(client, &door, &key, Call::Get { level: Level::Linearizable }).await;
                    ensure!(matches!(told, Outcome::Read { .. }), "{told}");
                    Ok(())
                })
                .await?;
            }
        }
        let history = std::mem::take(&mut *self.operations.lock().expect("no client panics"));
        let order = wgl::check(&history, &wgl::Config::default());
        ensure!(order.is_linearizable(), "{order}");
        let problems = revisions::check(&history, &revisions::Config::default());
        let told: Vec<String> = problems.iter().take(3).map(ToString::to_string).collect();
        ensure!(problems.is_empty(), "{} problems: {told:?}", problems.len());
        cluster.converged(PATIENCE).await?;
        let set = self.set.writes.lock().expect("no writer panics").clone();
        read_back(cluster, &self.settings(), &set).await?;
        eprintln!("{}: {} operations on values and {} settings are in order", self.name, history.len(), set.len());
        Ok(())
    }
}

/// One client of the values.
struct Client {
    number: u32,
    doors: Vec<Values>,
    chance: StdRng,
    /// The revision of each key's last change, as far as this client was told.
    modified: BTreeMap<usize, u64>,
}

// === impl Client ===

impl Client {
    fn new(cluster: &Cluster, number: u32, seed: Seed) -> Result<Self> {
        let doors = cluster.nodes().iter().map(ollamax_testkit::cluster::Node::values).collect::<Result<_>>()?;
        Ok(Self { number, doors, chance: seed.generator(u64::from(number)), modified: BTreeMap::new() })
    }

    async fn work(mut self, cluster: &Cluster, steady: &Steady) {
        while !steady.is_over() {
            let next = Instant::now() + PACE;
            if self.step(cluster, steady).await {
                wait::pause_until(next).await;
            } else {
                wait::pause(PACE_AFTER_FAILURE).await;
            }
        }
    }

    /// One operation; whether it was answered.
    async fn step(&mut self, cluster: &Cluster, steady: &Steady) -> bool {
        let first = self.chance.random_range(0..self.doors.len());
        let key = self.chance.random_range(0..KEYS);
        let call = match self.chance.random_range(0..100_u32) {
            0..40 => Call::Put { value: steady.fresh.fetch_add(1, Ordering::SeqCst) },
            40..60 => Call::Cas {
                expected_modified: self.modified.get(&key).copied().unwrap_or(0),
                value: steady.fresh.fetch_add(1, Ordering::SeqCst),
            },
            60..68 => Call::Delete,
            68..90 => Call::Get { level: Level::Linearizable },
            _ => Call::Get { level: Level::Stale },
        };
        let running = (first..self.doors.len()).chain(0..first).find(|index| cluster.node(*index).is_running());
        let Some(index) = running else { return false };
        let told = steady.ask(self.number, &self.doors[index], &steady.key(key), call).await;
        let modified = match told {
            Outcome::Read { modified, .. } => modified,
            Outcome::Written { revision, happened: true, .. } => revision,
            Outcome::Deleted { .. } => 0,
            Outcome::Written { .. } => return true,
            Outcome::Refused | Outcome::Unknown => return false,
        };
        self.modified.insert(key, modified);
        true
    }
}

/// What a node says, or that nobody knows.
async fn outcome(door: &Values, key: &str, call: Call) -> Outcome {
    let asked = async {
        Ok::<_, CallError>(match call {
            Call::Get { level } => door.get(key, level.into()).await?.outcome(number_of),
            Call::Put { value } => written(&door.put(key, &bytes_of(value), 0, None).await?),
            Call::Cas { expected_modified, value } => {
                written(&door.cas(key, expected_modified, &bytes_of(value), None).await?)
            }
            Call::Delete => {
                let gone = door.delete(key, None).await?;
                Outcome::Deleted { revision: gone.header.revision, existed: gone.previous != 0 }
            }
        })
    };
    match timeout(REQUEST_TIME, asked).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) if error.code.is_some_and(ErrorCode::is_free_of_effects) => Outcome::Refused,
        Ok(Err(_)) | Err(_) => Outcome::Unknown,
    }
}

fn written(changed: &Changed) -> Outcome {
    Outcome::Written { revision: changed.header.revision, happened: changed.held, observed_modified: None }
}

fn bytes_of(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Bytes that nobody here put are a number that nobody put.
fn number_of(value: &KvValue) -> u64 {
    std::str::from_utf8(&value.value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
