//! Runners in a fake Ollama's memory, one for each weights file: loads one at a time, slots, idle expiry, eviction.
//!
//! A request holds a [`Slot`] while it is worked on; dropping it frees the slot, whatever became of the request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use ollamax_types::Digest;

use crate::fake_ollama::lock;
use crate::fake_ollama::record::{Phase, Record};
use crate::fake_ollama::script::{ModelScript, Script};
use crate::fake_ollama::watch::Watch;
use crate::wait;

/// Context of a runner when the request asks for none, tokens.
pub(crate) const CONTEXT_DEFAULT: u32 = 4_096;

/// How long a runner stays after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    For(Duration),
    Forever,
}

/// Too many requests wait for a load.
#[derive(Debug)]
pub(crate) struct QueueFull;

#[derive(Debug, Clone)]
pub(crate) struct Resident {
    pub(crate) model: ModelScript,
    pub(crate) context: u32,
    /// `None`: never.
    pub(crate) expires: Option<Instant>,
}

#[derive(Debug)]
struct Runner {
    model: ModelScript,
    context: u32,
    users: usize,
    keep_alive: KeepAlive,
    idle_since: Instant,
    slots: Arc<Semaphore>,
}

impl Runner {
    fn expires(&self) -> Option<Instant> {
        match self.keep_alive {
            KeepAlive::For(time) => self.idle_since.checked_add(time),
            KeepAlive::Forever => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Runners {
    loaded: Mutex<BTreeMap<Digest, Runner>>,
    loading: tokio::sync::Mutex<()>,
    waiting: Mutex<usize>,
    freed: Notify,
}

/// What a request wants of a runner.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) model: ModelScript,
    pub(crate) context: Option<u32>,
    pub(crate) keep_alive: KeepAlive,
}

/// A place at a runner. Frees itself.
#[derive(Debug)]
pub(crate) struct Slot {
    runners: Arc<Runners>,
    record: Arc<Mutex<Record>>,
    weights: Digest,
    working: bool,
    _permit: Option<OwnedSemaphorePermit>,
    /// Time this request spent on loading.
    pub(crate) load_time: Duration,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(runner) = lock(&self.runners.loaded).get_mut(&self.weights) {
            runner.users = runner.users.saturating_sub(1);
            runner.idle_since = Instant::now();
        }
        if self.working {
            lock(&self.record).running -= 1;
        }
        self.runners.freed.notify_waiters();
    }
}

struct Waiting<'a>(&'a Runners);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.waiting) -= 1;
    }
}

impl Runners {
    /// What is in memory now, longest stay first.
    pub(crate) fn resident(&self) -> Vec<Resident> {
        let mut loaded = lock(&self.loaded);
        expire(&mut loaded);
        let mut list: Vec<Resident> = loaded
            .values()
            .map(|runner| Resident { model: runner.model.clone(), context: runner.context, expires: runner.expires() })
            .collect();
        list.sort_by_key(|resident| std::cmp::Reverse((resident.expires.is_none(), resident.expires)));
        list
    }

    /// Takes the weights out of memory, as a crash or an unload does.
    pub(crate) fn unload(&self, weights: Digest) {
        lock(&self.loaded).remove(&weights);
        self.freed.notify_waiters();
    }

    /// Waits for the runner, loads it if need be, then waits for a slot.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        script: &Script,
        wanted: Wanted,
        record: &Arc<Mutex<Record>>,
        watch: &mut Watch,
    ) -> Result<Slot, QueueFull> {
        let begin = Instant::now();
        let weights = wanted.model.weights_digest();
        let mut slot = match self.join_loaded(&wanted, record) {
            Some(slot) => slot,
            None => self.load(script, &wanted, record, watch).await?,
        };
        slot.load_time = begin.elapsed();
        watch.enter(Phase::Queue);
        let semaphore = lock(&self.loaded).get(&weights).map(|runner| Arc::clone(&runner.slots));
        if let Some(semaphore) = semaphore {
            slot._permit = semaphore.acquire_owned().await.ok();
        }
        slot.working = true;
        lock(record).begin_work();
        Ok(slot)
    }

    fn join_loaded(self: &Arc<Self>, wanted: &Wanted, record: &Arc<Mutex<Record>>) -> Option<Slot> {
        let weights = wanted.model.weights_digest();
        let mut loaded = lock(&self.loaded);
        expire(&mut loaded);
        let runner = loaded.get_mut(&weights)?;
        if wanted.context.is_some_and(|context| context != runner.context) {
            return None;
        }
        runner.users += 1;
        runner.keep_alive = wanted.keep_alive;
        Some(Slot {
            runners: Arc::clone(self),
            record: Arc::clone(record),
            weights,
            working: false,
            _permit: None,
            load_time: Duration::ZERO,
        })
    }

    async fn load(
        self: &Arc<Self>,
        script: &Script,
        wanted: &Wanted,
        record: &Arc<Mutex<Record>>,
        watch: &mut Watch,
    ) -> Result<Slot, QueueFull> {
        let waiting = {
            let mut waiting = lock(&self.waiting);
            if *waiting >= script.max_queue {
                return Err(QueueFull);
            }
            *waiting += 1;
            Waiting(self)
        };
        watch.enter(Phase::Queue);
        let turn = self.loading.lock().await;
        loop {
            if let Some(slot) = self.join_loaded(wanted, record) {
                return Ok(slot);
            }
            let freed = self.freed.notified();
            if self.make_room(script, wanted) {
                break;
            }
            freed.await;
        }
        watch.enter(Phase::Load);
        wait::pause(Duration::from_millis(script.load_ms)).await;
        lock(record).loads += 1;
        let runner = Runner {
            model: wanted.model.clone(),
            context: wanted.context.unwrap_or(CONTEXT_DEFAULT).min(wanted.model.context_length),
            users: 0,
            keep_alive: wanted.keep_alive,
            idle_since: Instant::now(),
            slots: Arc::new(Semaphore::new(script.slots.max(1))),
        };
        let context = runner.context;
        lock(&self.loaded).insert(wanted.model.weights_digest(), runner);
        drop((turn, waiting));
        let same = Wanted { context: Some(context), ..wanted.clone() };
        self.join_loaded(&same, record).ok_or(QueueFull)
    }

    /// Evicts idle runners, earliest expiry first, until the model fits. Says whether it does.
    fn make_room(&self, script: &Script, wanted: &Wanted) -> bool {
        let weights = wanted.model.weights_digest();
        let mut loaded = lock(&self.loaded);
        if loaded.get(&weights).is_some_and(|runner| runner.users > 0) {
            return false;
        }
        loaded.remove(&weights);
        loop {
            let used: u64 = loaded.values().map(|runner| runner.model.vram_bytes).sum();
            if loaded.is_empty() || used.saturating_add(wanted.model.vram_bytes) <= script.vram_bytes {
                return true;
            }
            let idle = loaded.iter().filter(|(_, runner)| runner.users == 0);
            let Some(victim) = idle.min_by_key(|(_, runner)| runner.idle_since).map(|(weights, _)| *weights) else {
                return false;
            };
            loaded.remove(&victim);
        }
    }
}

fn expire(loaded: &mut BTreeMap<Digest, Runner>) {
    let now = Instant::now();
    loaded.retain(|_, runner| runner.users > 0 || runner.expires().is_none_or(|expires| expires > now));
}
