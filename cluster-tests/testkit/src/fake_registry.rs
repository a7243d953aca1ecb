//! A registry of models in memory, as Ollama's own is: manifests by name, and files behind a redirect to another host
//! name, where ranges are answered. It is on a free port of loopback unless a caller gives it another address.
//!
//! Everything that a client must withstand can be had of it: a body that breaks off or stands still, wrong lengths and
//! wrong bytes, addresses that expire, challenges, redirects that lead astray. It counts the bytes that it sends of
//! each file and keeps what it was asked, also by clients that take it for their proxy.

mod blob;
mod fault;
mod record;
mod routes;
mod shelved;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use ollamax_types::Digest;

pub use blob::{Blob, FakeModel};
pub use fault::{Fault, FaultRule, Hold, On};
pub use record::{Record, Seen};
pub use shelved::{blob_in, manifest_in, sha256_of_file};

use blob::{Content, sha256_of};
use record::SEEN_MAX;

/// A running registry; it ends when it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By `namespace/model:tag`.
    manifests: BTreeMap<String, Bytes>,
    files: BTreeMap<Digest, Content>,
    /// Where bytes are sent wrong.
    wrong: BTreeMap<Digest, Vec<u64>>,
    holds: BTreeMap<Digest, Hold>,
    sent: BTreeMap<Digest, u64>,
    faults: Vec<FaultRule>,
    /// Tokens that were given out and are good.
    tokens: BTreeSet<String>,
    tokens_given: u64,
    /// Addresses that were given out, and how many of them are good no more.
    addresses: u64,
    expired: u64,
    record: Record,
}

// === impl FakeRegistry ===

impl FakeRegistry {
    /// Starts an empty registry on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts an empty registry at an address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("bind a registry at {address}"))?;
        let address = listener.local_addr().context("read the bound address")?;
        let shared = Arc::new(Shared { address, inner: Mutex::default() });
        let router = Router::new().fallback(routes::answer).with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Ends with the registry.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { shared, _tasks: tasks })
    }

    /// `HOST:PORT`, for names that give their host.
    #[must_use]
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Puts a model there under `namespace/model:tag` (`library` and `latest` may be left out) and answers the digest
    /// of its manifest. A model that had the name loses it.
    pub fn push(&self, name: &str, model: &FakeModel) -> Digest {
        let (manifest, files) = model.parts();
        let digest = sha256_of(&manifest);
        let mut inner = self.shared.lock();
        inner.files.extend(files);
        inner.manifests.insert(full(name), manifest);
        digest
    }

    /// Puts bytes there that are answered as the manifest of a name, whatever they are.
    pub fn push_manifest(&self, name: &str, bytes: impl Into<Bytes>) {
        self.shared.lock().manifests.insert(full(name), bytes.into());
    }

    /// Sends one byte of a file wrong from now on.
    pub fn corrupt(&self, sha256: Digest, at: u64) {
        self.shared.lock().wrong.entry(sha256).or_default().push(at);
    }

    /// Adds a fault.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.lock().faults.push(rule);
    }

    /// Heals all faults that have not struck yet, and sends every byte right again.
    pub fn heal(&self) {
        let mut inner = self.shared.lock();
        inner.faults.clear();
        inner.wrong.clear();
    }

    /// Lets so many bytes of a file go, all that were sent before included, and then none until it is released.
    #[must_use]
    pub fn hold_after(&self, sha256: Digest, bytes: u64) -> Hold {
        let hold = Hold::new(bytes);
        self.shared.lock().holds.insert(sha256, hold.clone());
        hold
    }

    /// Takes back all tokens that were given out.
    pub fn forget_tokens(&self) {
        self.shared.lock().tokens.clear();
    }

    /// What it has seen so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.shared.lock().record.clone()
    }

    /// Bytes of a file that were sent so far, repeated ones counted again.
    #[must_use]
    pub fn sent(&self, sha256: Digest) -> u64 {
        self.shared.lock().sent.get(&sha256).copied().unwrap_or_default()
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where files are to be had: at another name of this machine, which only loopback has.
    fn files_at(&self) -> String {
        if self.address.ip().is_loopback() {
            format!("localhost:{}", self.address.port())
        } else {
            self.address.to_string()
        }
    }

    /// How many of the wanted bytes of a file may go now; they count as sent. Waits while somebody holds them.
    async fn grant(&self, sha256: Digest, wanted: u64) -> u64 {
        loop {
            let taken = self.lock().take(sha256, wanted);
            match taken {
                Ok(granted) => return granted,
                Err(hold) => hold.released().await,
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    fn take(&mut self, sha256: Digest, wanted: u64) -> Result<u64, Hold> {
        let sent = self.sent.entry(sha256).or_default();
        let Some(hold) = self.holds.get(&sha256) else {
            *sent += wanted;
            return Ok(wanted);
        };
        let granted = wanted.min(hold.leaves(*sent));
        if granted == 0 {
            return Err(hold.clone());
        }
        *sent += granted;
        // Tells whoever waits for the last byte that may go.
        hold.leaves(*sent);
        Ok(granted)
    }

    /// Puts the bytes wrong that are to be, of a piece that begins at `from`.
    fn damage(&self, sha256: Digest, from: u64, piece: &mut [u8]) {
        for at in self.wrong.get(&sha256).into_iter().flatten() {
            let index = at.checked_sub(from).and_then(|index| usize::try_from(index).ok());
            if let Some(byte) = index.and_then(|index| piece.get_mut(index)) {
                *byte ^= 0xff;
            }
        }
    }

    fn note(&mut self, seen: Seen) {
        if self.record.seen.len() < SEEN_MAX {
            self.record.seen.push(seen);
        }
    }
}

/// A name with all that may be left out.
fn full(name: &str) -> String {
    let name = if name.contains('/') { name.to_owned() } else { format!("library/{name}") };
    if name.contains(':') { name } else { format!("{name}:latest") }
}
