//! A scripted Ollama: real HTTP, real texts and stream forms, no model. In-process for tests, or as `fake-ollama`.
//!
//! It plays a [`Script`] and keeps a [`Record`]. Answers depend on content, prompt and position alone, so two fakes
//! with the same model say the same. Stopping it closes its port and cuts every connection; it can come back on the
//! same port. A mistake in a test (an unknown route) gets Ollama's own 404.

mod answer;
mod embedding;
mod inference;
mod models;
mod pull;
mod record;
mod request;
mod runner;
mod script;
mod shelf;
mod text;
mod watch;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_types::Digest;

pub use record::{Cancelled, Phase, REQUESTS_KEPT, Received, Record};
pub use script::{Fault, FaultRule, ModelScript, On, Script};
pub use shelf::shelve;

use crate::seed::Seed;
use runner::Runners;

/// Why a connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("the script closes this connection")]
pub(crate) struct CloseConnection;

#[derive(Debug)]
pub(crate) struct Shared {
    script: Mutex<Arc<Script>>,
    faults: Mutex<Vec<FaultRule>>,
    record: Arc<Mutex<Record>>,
    runners: Arc<Runners>,
    blobs: Mutex<BTreeMap<Digest, u64>>,
    chance: Mutex<StdRng>,
}

impl Shared {
    fn new(mut script: Script) -> Self {
        let faults = std::mem::take(&mut script.faults);
        Self {
            chance: Mutex::new(Seed(script.seed).generator(1)),
            faults: Mutex::new(faults),
            script: Mutex::new(Arc::new(script)),
            record: Arc::default(),
            runners: Arc::default(),
            blobs: Mutex::default(),
        }
    }

    /// What it plays at this moment; with a store on disk, the models are those that lie there now.
    pub(crate) fn script(&self) -> Arc<Script> {
        let script = Arc::clone(&lock(&self.script));
        match &script.store {
            Some(store) => Arc::new(Script { models: shelf::models(store), ..(*script).clone() }),
            None => script,
        }
    }

    pub(crate) fn draw(&self) -> u64 {
        lock(&self.chance).next_u64()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = lock(&self.script);
        change(Arc::make_mut(&mut script));
        let rules = std::mem::take(&mut Arc::make_mut(&mut script).faults);
        lock(&self.faults).extend(rules);
    }
}

/// A poisoned lock means that another test thread failed while it held it; what it guards is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running fake.
#[derive(Debug)]
pub struct FakeOllama {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Mutex<Option<CancellationToken>>,
    tasks: TaskTracker,
}

// === impl FakeOllama ===

impl FakeOllama {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound, or the models cannot be put into the script's store.
    pub async fn start(script: Script) -> Result<Self> {
        Self::start_at(script, SocketAddr::from((Ipv4Addr::LOCALHOST, crate::port::free()?))).await
    }

    /// Starts at an address.
    ///
    /// # Errors
    /// When it cannot be bound, or the models cannot be put into the script's store.
    pub async fn start_at(script: Script, address: SocketAddr) -> Result<Self> {
        if let Some(store) = &script.store {
            script.models.iter().try_for_each(|model| shelve(store, model).map(|_| ()))?;
        }
        let listener = TcpListener::bind(address).await.with_context(|| format!("bind {address}"))?;
        let fake = Self {
            shared: Arc::new(Shared::new(script)),
            address: listener.local_addr().context("read the bound address")?,
            listening: Mutex::new(None),
            tasks: TaskTracker::new(),
        };
        fake.listen(listener);
        Ok(fake)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens, or listened.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the script. Faults that the change adds come after those in force.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.shared.change(change);
    }

    /// Adds a fault.
    pub fn inject(&self, rule: FaultRule) {
        lock(&self.shared.faults).push(rule);
    }

    /// Heals all faults that have not struck yet.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// What it has seen so far.
    #[must_use]
    pub fn record(&self) -> Record {
        lock(&self.shared.record).clone()
    }

    /// Reads the record without copying it.
    pub fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&lock(&self.shared.record))
    }

    /// Uploaded blobs with their sizes in bytes.
    #[must_use]
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        models::blobs(&self.shared)
    }

    /// The models it has now.
    #[must_use]
    pub fn models(&self) -> Vec<ModelScript> {
        self.shared.script().models.clone()
    }

    /// Takes weights out of memory, as an unload or crash does.
    pub fn unload(&self, weights: Digest) {
        self.shared.runners.unload(weights);
    }

    /// Closes the port and cuts every connection: callers see "connection refused".
    pub fn stop(&self) {
        if let Some(stop) = lock(&self.listening).take() {
            stop.cancel();
        }
    }

    /// Listens again on the same port after [`FakeOllama::stop`].
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub async fn resume(&self) -> Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address).await.with_context(|| format!("bind {}", self.address))?;
        self.listen(listener);
        Ok(())
    }

    fn listen(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        *lock(&self.listening) = Some(stop.clone());
        self.tasks.spawn(accept(listener, Arc::clone(&self.shared), stop, self.tasks.clone()));
    }
}

impl Drop for FakeOllama {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, or the caller left before it was accepted: the next one may do better.
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        // Without it, lines would wait for each other's acknowledgements; Go sets it on every connection.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request| answer::answer(Arc::clone(&shared), request));
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // How a connection ends is the caller's affair; what matters is in the record.
                _ended = connection => {}
            }
        });
    }
}

#[cfg(test)]
mod tests;
