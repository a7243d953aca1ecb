//! Other nodes in memory, as those who have files: streams that are pipes, and what can go wrong with them.
//!
//! Between two ends of a stream stands a task that passes on frame by frame, counts the bytes of chunks, and does the
//! faults; it ends with either end, when the connections of the node are cut, and with the last clone of this. A fault
//! holds for whatever is passed on from its moment on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, copy, duplex,
    split,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::bulk::frame::{self, FrameError, GREETING, Outcome, Question, Reply};
use crate::handle::Handle;
use crate::ports::{ByteStream, Have, PeerError, Peers};
use crate::progress::{PullProgress, Watch};

use super::lock;

/// What a pipe holds.
const PIPE_BYTES: usize = 64 << 10;

/// What goes wrong with a node that is asked for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerFault {
    /// One bit of each chunk that it sends is another.
    LyingChunks,
    /// One bit of the hashes that it tells is another.
    LyingHashes,
    /// It tells the hash of each chunk twice, and the second time another one.
    TwoHashes,
    /// After so many bytes of chunks in all, its connections break, and it is not there any more.
    VanishAfter(u64),
    /// It takes connections and says nothing on them.
    Silent,
    /// It greets, and says nothing to what it is asked.
    Deaf,
    /// It is too busy for whatever it is asked.
    Busy,
    /// It hands out nothing at this time of the week.
    Closed,
}

/// Other nodes, by their handles.
#[derive(Clone, Default)]
pub struct MemPeers {
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
    /// The tasks of all streams. They hold the nodes, and not this.
    tasks: Arc<Mutex<JoinSet<()>>>,
    /// Who was told to doubt which chunk of which file, in order.
    doubts: Arc<Mutex<Vec<(NodeId, Digest, u32)>>>,
}

struct Node {
    door: Door,
    fault: Option<PeerFault>,
    /// Told when all its connections are cut.
    cuts: watch::Sender<()>,
    /// Told when it stops to tell what it has.
    hushes: watch::Sender<()>,
    sent_bytes: u64,
    connections: u32,
}

/// What answers for a node.
#[derive(Clone)]
enum Door {
    Handle(Handle),
    #[cfg(test)]
    Library(crate::library::Library, Arc<tokio::sync::Semaphore>),
}

/// One stream, between its two ends.
struct Wire {
    to: NodeId,
    nodes: Arc<Mutex<BTreeMap<NodeId, Node>>>,
}

impl fmt::Debug for MemPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<NodeId> = lock(&self.nodes).keys().copied().collect();
        f.debug_struct("MemPeers").field("nodes", &nodes).finish_non_exhaustive()
    }
}

// === impl MemPeers ===

impl MemPeers {
    /// Makes a node reachable, in place of one that had its id before.
    pub fn link(&self, node: NodeId, handle: Handle) {
        self.put(node, Door::Handle(handle));
    }

    /// Makes a library reachable as if a node had it.
    #[cfg(test)]
    pub(crate) fn link_library(&self, node: NodeId, library: crate::library::Library, places: usize) {
        self.put(node, Door::Library(library, Arc::new(tokio::sync::Semaphore::new(places))));
    }

    fn put(&self, node: NodeId, door: Door) {
        let (fault, cuts, hushes) = (None, watch::Sender::new(()), watch::Sender::new(()));
        lock(&self.nodes).insert(node, Node { door, fault, cuts, hushes, sent_bytes: 0, connections: 0 });
    }

    /// Makes a node unreachable, and cuts its connections.
    pub fn unlink(&self, node: NodeId) {
        lock(&self.nodes).remove(&node);
    }

    /// Cuts all connections to a node; it can be reached anew.
    pub fn cut(&self, node: NodeId) {
        if let Some(node) = lock(&self.nodes).get(&node) {
            node.cuts.send_replace(());
        }
    }

    /// Ends what a node tells of what it has; it can be asked anew, and its streams of chunks stay.
    pub fn hush(&self, node: NodeId) {
        if let Some(node) = lock(&self.nodes).get(&node) {
            node.hushes.send_replace(());
        }
    }

    /// What goes wrong with a node from now on; `None` is nothing.
    pub fn set_fault(&self, node: NodeId, fault: Option<PeerFault>) {
        if let Some(node) = lock(&self.nodes).get_mut(&node) {
            node.fault = fault;
        }
    }

    /// Bytes of chunks that a node has sent since it was linked.
    #[must_use]
    pub fn sent_bytes(&self, node: NodeId) -> u64 {
        lock(&self.nodes).get(&node).map_or(0, |node| node.sent_bytes)
    }

    /// How many streams to a node were opened since it was linked.
    #[must_use]
    pub fn connections(&self, node: NodeId) -> u32 {
        lock(&self.nodes).get(&node).map_or(0, |node| node.connections)
    }

    /// Who was told that which chunk of which file came from it damaged, in order.
    #[must_use]
    pub fn doubts(&self) -> Vec<(NodeId, Digest, u32)> {
        lock(&self.doubts).clone()
    }

    /// What answers for a node, what goes wrong with it, and when its connections are cut.
    fn reach(&self, node: NodeId) -> Result<(Door, Option<PeerFault>, watch::Receiver<()>), PeerError> {
        let nodes = lock(&self.nodes);
        let found = nodes.get(&node).ok_or_else(no_connection)?;
        Ok((found.door.clone(), found.fault, found.cuts.subscribe()))
    }

    fn open(&self, to: NodeId) -> Result<Box<dyn ByteStream>, PeerError> {
        let (door, _, mut cuts) = self.reach(to)?;
        if let Some(node) = lock(&self.nodes).get_mut(&to) {
            node.connections += 1;
        }
        let ((ours, near), (far, theirs)) = (duplex(PIPE_BYTES), duplex(PIPE_BYTES));
        let wire = Wire { to, nodes: Arc::clone(&self.nodes) };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        if let Some(served) = door.serve(theirs) {
            tasks.spawn(served);
        }
        // It ends with either end of the stream, or with a cut; whatever it was passing on then is lost.
        tasks.spawn(async move {
            tokio::select! {
                _ = cuts.changed() => {}
                _ = wire.pass_on(near, far) => {}
            }
        });
        Ok(Box::new(ours))
    }
}

impl Peers for MemPeers {
    fn connect(&self, to: NodeId) -> BoxFuture<'static, Result<Box<dyn ByteStream>, PeerError>> {
        let opened = self.open(to);
        async { opened }.boxed()
    }

    fn manifest(&self, from: NodeId, digest: Digest) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let reached = self.reach(from);
        async move { reached?.0.manifest(digest).await.ok_or_else(|| absent("no such manifest")) }.boxed()
    }

    fn hashes(&self, from: NodeId, sha256: Digest) -> BoxFuture<'static, Result<(u64, Bytes), PeerError>> {
        let reached = self.reach(from);
        let ask = async move {
            let (door, fault, _) = reached?;
            let (size_bytes, hashes) = door.hashes(sha256).await.ok_or_else(|| absent("no such file"))?;
            let hashes = if fault == Some(PeerFault::LyingHashes) { flipped(&hashes) } else { hashes };
            Ok::<(u64, Bytes), PeerError>((size_bytes, hashes))
        };
        ask.boxed()
    }

    fn haves(&self, from: NodeId, blobs: Vec<Digest>) -> BoxStream<'static, Result<Have, PeerError>> {
        let (door, fault, mut cuts) = match self.reach(from) {
            Ok(reached) => reached,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let mut hushes = lock(&self.nodes).get(&from).map(|node| node.hushes.subscribe());
        let cut = Box::pin(async move {
            let hushed = async {
                match &mut hushes {
                    Some(hushes) => hushes.changed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = cuts.changed() => {}
                _ = hushed => {}
            }
        });
        let haves = door.haves(blobs).flat_map(move |have| stream::iter(told_as(fault, have)));
        let told = haves.map(Ok::<Have, PeerError>).take_until(cut);
        told.chain(stream::once(async { Err(no_connection()) })).boxed()
    }

    fn watch(&self, at: NodeId, name: ModelName) -> BoxStream<'static, Result<PullProgress, PeerError>> {
        let (door, _, mut cuts) = match self.reach(at) {
            Ok(reached) => reached,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let Some(watch) = door.watch(&name) else {
            return stream::once(async { Err(absent("no such pull")) }).boxed();
        };
        let cut = Box::pin(async move {
            let _ = cuts.changed().await;
        });
        let told = stream::unfold((watch, true), next_told).map(Ok::<PullProgress, PeerError>);
        told.take_until(cut).boxed()
    }

    /// Whoever is told does not learn who tells it: for all these nodes it is node 0.
    fn doubt(&self, at: NodeId, sha256: Digest, index: u32) -> BoxFuture<'static, Result<(), PeerError>> {
        lock(&self.doubts).push((at, sha256, index));
        let reached = self.reach(at);
        async move {
            reached?.0.doubt(sha256, index);
            Ok(())
        }
        .boxed()
    }
}

// === impl Door ===

impl Door {
    /// Serves a stream. What is given back is still to be done; the rest runs in the tasks of the node.
    fn serve(&self, stream: DuplexStream) -> Option<BoxFuture<'static, ()>> {
        match self {
            Self::Handle(handle) => {
                handle.serve(stream);
                None
            }
            #[cfg(test)]
            Self::Library(library, places) => {
                let (metrics, stop) = (crate::metrics::Metrics::default(), tokio_util::sync::CancellationToken::new());
                let (places, limits) = (Arc::clone(places), crate::limits::Limits::unlimited(metrics.clone()));
                let stock = crate::bulk::serve::Stock { library: library.clone(), places, limits, metrics };
                Some(crate::bulk::serve::serve(stream, stock, stop).boxed())
            }
        }
    }

    async fn manifest(&self, digest: Digest) -> Option<Bytes> {
        match self {
            Self::Handle(handle) => handle.manifest(digest).await,
            #[cfg(test)]
            Self::Library(library, _) => library.manifest(digest),
        }
    }

    async fn hashes(&self, sha256: Digest) -> Option<(u64, Bytes)> {
        match self {
            Self::Handle(handle) => handle.hashes(sha256).await,
            #[cfg(test)]
            Self::Library(library, _) => library.hashes(sha256),
        }
    }

    fn haves(&self, blobs: Vec<Digest>) -> BoxStream<'static, Have> {
        match self {
            Self::Handle(handle) => handle.haves(blobs),
            #[cfg(test)]
            Self::Library(library, _) => crate::haves::follow(library.clone(), blobs),
        }
    }

    fn watch(&self, name: &ModelName) -> Option<Watch> {
        match self {
            Self::Handle(handle) => handle.watch(name),
            #[cfg(test)]
            Self::Library(..) => None,
        }
    }

    fn doubt(&self, sha256: Digest, index: u32) {
        match self {
            Self::Handle(handle) => handle.doubt(NodeId(0), sha256, index),
            #[cfg(test)]
            Self::Library(..) => {}
        }
    }
}

// === impl Wire ===

impl Wire {
    async fn pass_on(&self, near: DuplexStream, far: DuplexStream) -> Result<(), FrameError> {
        if self.fault() == Some(PeerFault::Silent) {
            return pending().await;
        }
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        match self.fault() {
            Some(PeerFault::Busy) => return answer(near_read, near_write, Some(Outcome::Busy)).await,
            Some(PeerFault::Closed) => return answer(near_read, near_write, Some(Outcome::Closed)).await,
            Some(PeerFault::Deaf) => return answer(near_read, near_write, None).await,
            _ => {}
        }
        tokio::select! {
            asked = pass_on_questions(near_read, far_write) => asked,
            told = self.pass_on_replies(far_read, near_write) => told,
        }
    }

    async fn pass_on_replies(
        &self,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) -> Result<(), FrameError> {
        frame::read_greeting(&mut from).await?;
        to.write_all(&GREETING).await?;
        while let Some(kind) = frame::read_kind(&mut from).await? {
            let reply = frame::read_reply(kind, &mut from).await?;
            if self.fault() == Some(PeerFault::Silent) {
                return pending().await;
            }
            to.write_all(&reply.encode()).await?;
            if let Reply::Chunk { length, .. } = reply {
                let mut bytes = vec![0; length as usize];
                from.read_exact(&mut bytes).await?;
                if !self.count(&mut bytes) {
                    return Ok(());
                }
                to.write_all(&bytes).await?;
            }
        }
        Ok(())
    }

    fn fault(&self) -> Option<PeerFault> {
        lock(&self.nodes).get(&self.to).and_then(|node| node.fault)
    }

    /// Counts a chunk, and makes it a lie where that is the fault. False: the node has vanished.
    fn count(&self, bytes: &mut [u8]) -> bool {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get_mut(&self.to) else { return false };
        node.sent_bytes += bytes.len() as u64;
        match node.fault {
            Some(PeerFault::VanishAfter(most)) if node.sent_bytes > most => {
                // With its sender gone all its connections end.
                nodes.remove(&self.to);
                false
            }
            Some(PeerFault::LyingChunks) => {
                bytes[0] ^= 1;
                true
            }
            _ => true,
        }
    }
}

async fn pass_on_questions(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<(), FrameError> {
    copy(&mut from, &mut to).await?;
    Ok(())
}

/// Answers instead of the node, or takes note of what it is asked and does not answer.
async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    answer: Option<Outcome>,
) -> Result<(), FrameError> {
    frame::read_greeting(&mut from).await?;
    to.write_all(&GREETING).await?;
    while let Some(kind) = frame::read_kind(&mut from).await? {
        let question = frame::read_question(kind, &mut from).await?;
        if let (Question::Ask { request, .. }, Some(outcome)) = (question, answer) {
            to.write_all(&Reply::End { request, outcome }.encode()).await?;
        }
    }
    Ok(())
}

/// A pull as it is now, or after the next news; nothing when it is over.
async fn next_told((mut watch, is_first): (Watch, bool)) -> Option<(PullProgress, (Watch, bool))> {
    if !is_first && !watch.changed().await {
        return None;
    }
    let now = PullProgress::clone(&watch.now());
    Some((now, (watch, false)))
}

/// What is told in place of the truth.
fn told_as(fault: Option<PeerFault>, have: Have) -> Vec<Have> {
    let Have::Some { sha256, size_bytes, extent, hashes } = have.clone() else { return vec![have] };
    let mut lies = hashes;
    lies.iter_mut().for_each(|hash| hash[0] ^= 1);
    let lie = Have::Some { sha256, size_bytes, extent, hashes: lies };
    match fault {
        Some(PeerFault::LyingHashes) => vec![lie],
        Some(PeerFault::TwoHashes) => vec![have, lie],
        _ => vec![have],
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}

fn no_connection() -> PeerError {
    PeerError::Unreachable("no connection".to_owned())
}

fn absent(text: &str) -> PeerError {
    PeerError::Refused { code: ErrorCode::ModelNotFound, text: text.to_owned() }
}
