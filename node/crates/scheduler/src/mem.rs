//! The ports in memory: a scripted runtime, links between handles that can be cut, and placements in a map.
//!
//! For tests and simulations. Time is tokio's, so a paused clock plays hours in moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};

use ollamax_core::catalog::Location;
use ollamax_types::{InferenceRequest, ModelName, ModelRecord, NodeId};

use crate::handle::Handle;
use crate::ports::{Placements, PlacementsError, Remote, Runtime, RuntimeError, SendError};
use crate::response::{Body, Broken, Response};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a scripted runtime answers one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Time until the head.
    pub head_after: Duration,
    /// No head at all, but this.
    pub error: Option<RuntimeError>,
    /// HTTP status.
    pub status: u16,
    /// The body, part by part.
    pub parts: Vec<Bytes>,
    /// Time before each part.
    pub part_after: Duration,
    /// The body breaks off after its last part.
    pub breaks: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            head_after: Duration::ZERO,
            error: None,
            status: 200,
            parts: vec![Bytes::from_static(b"{\"done\":true}\n")],
            part_after: Duration::ZERO,
            breaks: false,
        }
    }
}

/// What a scripted runtime has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests that arrived.
    pub started: u32,
    /// Requests in it now.
    pub live: u32,
    /// Most requests in it at once.
    pub live_max: u32,
    /// Requests whose answer was delivered whole.
    pub finished: u32,
}

/// A runtime that answers as told. Clones are the same runtime.
#[derive(Debug, Clone, Default)]
pub struct MemRuntime {
    state: Arc<Mutex<RuntimeScripts>>,
}

#[derive(Debug, Default)]
struct RuntimeScripts {
    script: Script,
    tally: Tally,
}

/// One request inside a scripted runtime.
struct Inside(Arc<Mutex<RuntimeScripts>>);

// === impl MemRuntime ===

impl MemRuntime {
    /// Answers from now on like this.
    pub fn set_script(&self, script: Script) {
        lock(&self.state).script = script;
    }

    /// What it has seen.
    #[must_use]
    pub fn tally(&self) -> Tally {
        lock(&self.state).tally
    }

    fn enter(&self) -> (Script, Inside) {
        let mut state = lock(&self.state);
        state.tally.started += 1;
        state.tally.live += 1;
        state.tally.live_max = state.tally.live_max.max(state.tally.live);
        (state.script.clone(), Inside(Arc::clone(&self.state)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        lock(&self.0).tally.live -= 1;
    }
}

impl Runtime for MemRuntime {
    fn send(&self, _request: InferenceRequest) -> BoxFuture<'static, Result<Response, RuntimeError>> {
        let runtime = self.clone();
        async move {
            let (script, inside) = runtime.enter();
            tokio::time::sleep(script.head_after).await;
            if let Some(error) = script.error {
                return Err(error);
            }
            let headers = vec![("content-type".to_owned(), b"application/x-ndjson".to_vec())];
            let status = script.status;
            Ok(Response { status, headers, node: NodeId(0), body: played(script, inside) })
        }
        .boxed()
    }
}

fn played(script: Script, inside: Inside) -> Body {
    let Script { parts, part_after, breaks, .. } = script;
    let broken = Broken { message: "the script says so".to_owned() };
    let parts = parts.into_iter().map(Ok).chain(breaks.then_some(Err(broken)));
    let step = move |(mut parts, inside): (std::vec::IntoIter<Result<Bytes, Broken>>, Inside)| async move {
        let Some(part) = parts.next() else {
            lock(&inside.0).tally.finished += 1;
            return None;
        };
        tokio::time::sleep(part_after).await;
        Some((part, (parts, inside)))
    };
    stream::unfold((parts.collect::<Vec<_>>().into_iter(), inside), step).boxed()
}

/// How a link between two nodes behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Delivers.
    #[default]
    Up,
    /// Refuses at once.
    Cut,
    /// Takes a request and never answers.
    Hangs,
}

/// The other nodes of a cluster in one process. Clones are the same cluster.
#[derive(Clone, Default)]
pub struct MemRemote {
    nodes: Arc<Mutex<BTreeMap<NodeId, Far>>>,
}

/// One node at the other end of a link.
#[derive(Clone, Default)]
struct Far {
    handle: Option<Handle>,
    link: Link,
}

impl fmt::Debug for MemRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(lock(&self.nodes).iter().map(|(node, far)| (node, far.link))).finish()
    }
}

// === impl MemRemote ===

impl MemRemote {
    /// Makes a node reachable.
    pub fn connect(&self, handle: Handle) {
        let node = handle.node();
        lock(&self.nodes).entry(node).or_default().handle = Some(handle);
    }

    /// Sets how the links to a node behave.
    pub fn set_link(&self, node: NodeId, link: Link) {
        lock(&self.nodes).entry(node).or_default().link = link;
    }
}

impl Remote for MemRemote {
    fn send(&self, to: NodeId, request: InferenceRequest) -> BoxFuture<'static, Result<Response, SendError>> {
        let Far { handle, link } = lock(&self.nodes).get(&to).cloned().unwrap_or_default();
        async move {
            match (handle, link) {
                (Some(handle), Link::Up) => handle.admit(request).await.map_err(|error| SendError::Refused {
                    code: error.code(),
                    message: error.to_string(),
                    started: error.started(),
                }),
                (_, Link::Hangs) => std::future::pending().await,
                (None, _) | (_, Link::Cut) => Err(SendError::Unreachable("connection refused".to_owned())),
            }
        }
        .boxed()
    }
}

/// Placements in a map. Clones are the same placements.
#[derive(Debug, Clone, Default)]
pub struct MemPlacements {
    state: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    locations: BTreeMap<String, Vec<Location>>,
    drained: BTreeSet<NodeId>,
}

// === impl MemPlacements ===

impl MemPlacements {
    /// Puts a copy on a node, replacing the node's earlier one of that name.
    pub fn place(&self, node: NodeId, model: ModelRecord) {
        let mut state = lock(&self.state);
        let copies = state.locations.entry(model.name.key()).or_default();
        copies.retain(|copy| copy.node != node);
        copies.push(Location { node, model });
    }

    /// Drains or undrains a node.
    pub fn set_drained(&self, node: NodeId, drained: bool) {
        let mut state = lock(&self.state);
        if drained {
            state.drained.insert(node)
        } else {
            state.drained.remove(&node)
        };
    }
}

impl Placements for MemPlacements {
    fn locations(&self, model: &ModelName) -> Result<Arc<[Location]>, PlacementsError> {
        Ok(lock(&self.state).locations.get(&model.key()).cloned().unwrap_or_default().into())
    }

    fn drained(&self, node: NodeId) -> bool {
        lock(&self.state).drained.contains(&node)
    }
}
