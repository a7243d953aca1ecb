//! Fetches one file from the nodes that have it.
//!
//! What to ask of whom is decided by [`Swarm`]; here it is told what happens, and what it answers is done. Each node is
//! attended by a task: it keeps a link, hears what the node has, and begins again when either breaks off. Each request
//! is a task: it takes the chunks as they come, and a chunk is written only when it has the hash that it must have.
//! Which one that is, the root on record says; while there is none, the node says it that brings the file into the
//! cluster, and a chunk that it has told no hash of is not asked of anybody. A node in quarantine is asked last. Beside
//! them the chaser hashes what has come without a gap. Always holds: the loop never waits for a task, so no task waits
//! for long to be heard. It ends with the digest of the whole file, when no node is left that can be trusted, when
//! nothing comes of what others have for `transfer.silence_ms`, or when the disk fails; for what nobody has yet it
//! waits. Dropping it ends all tasks; what came stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{FutureExt as _, select_all};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{BlobSpec, Part, chunk_hash};
use ollamax_core::transfer_plan::swarm::{Action, Event, Rules, Stripe, Swarm};
use ollamax_core::transfer_plan::{Extent, Patience};
use ollamax_types::{Bits, Digest, ErrorCode, ModelName, NodeId, chunk_count, chunk_range};

use crate::buffers::Buffer;
use crate::bulk::frame::{EXTENT_CHUNKS_MAX, Outcome};
use crate::bulk::link::{Came, Link, Links};
use crate::config::Config;
use crate::error::PullError;
use crate::haves::runs;
use crate::library::Library;
use crate::limits::Gate;
use crate::metrics::Metrics;
use crate::ports::{Assignment, Have, Ledger, Peers};
use crate::progress::{Board, Stage, Wait, millis};
use crate::trust::Trusting;

use self::shunned::Shunned;
use super::chase::Chaser;
use super::told::{Proof, Told};
use super::{blocking, upkeep};

mod chasing;
mod learning;
mod shunned;
mod verdict;

/// Time between two moments when the swarm is told that time has passed.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// Most news of tasks that wait for the loop.
const NEWS_MAX: usize = 256;

/// What is fetched, from whom, and into what.
pub(crate) struct Receiving {
    pub(crate) name: ModelName,
    /// The place of this node among those that receive.
    pub(crate) rank: u32,
    /// How many receive.
    pub(crate) of: u32,
    /// Who brings the file into the cluster.
    pub(crate) ingester: NodeId,
    pub(crate) own: NodeId,
    /// Who has the file or will have it, as far as is known; the record may name more.
    pub(crate) others: Vec<NodeId>,
    /// The registry is asked when nodes give nothing.
    pub(crate) has_registry: bool,
    /// What is there of it and is not what it must be goes at once.
    pub(crate) part: Part,
    /// What says which hash a chunk must have. What was only told gives way to the tree, once that can be had.
    pub(crate) proof: Proof,
    pub(crate) links: Links,
    pub(crate) peers: Arc<dyn Peers>,
    /// Says who else has the file.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Where others find what has come.
    pub(crate) library: Library,
    /// The place of the store, for people.
    pub(crate) place: String,
    pub(crate) board: Arc<Board>,
    /// What lets bytes pass.
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    /// Who may be asked, as all pulls of this node have found.
    pub(crate) trust: Trusting,
    pub(crate) seed: u64,
}

/// What all tasks of one file share.
struct Shared {
    receiving: Receiving,
    /// As it is now.
    proof: Mutex<Proof>,
    patience: Patience,
    news: mpsc::Sender<News>,
    /// Chunks came.
    changes: watch::Sender<()>,
    /// Chunks went that may have been hashed.
    is_rewound: AtomicBool,
    /// Requests that a limit of this node may hold back.
    at_gate: AtomicUsize,
    /// Requests that a node was asked.
    on_wire: AtomicUsize,
}

/// One more, for as long as this is held.
struct Counted<'a>(&'a AtomicUsize);

/// What tasks tell the loop.
enum News {
    /// There are links to a node.
    Linked { peer: NodeId, links: Vec<Link> },
    /// A node has these chunks.
    Has { peer: NodeId, extent: Extent },
    /// It is known what these chunks must be, and some that were there were something else.
    Known { chunks: Vec<u32>, gone: Vec<u32> },
    /// A node is not attended just now, and why.
    Left { peer: NodeId, why: String },
    /// A chunk is written.
    Came { peer: NodeId, request: u64, index: u32 },
    /// A chunk is not what it must be, and was dropped. Whether that is proved, or said by another node.
    Damaged { peer: NodeId, request: u64, index: u32, is_proved: bool },
    /// A request is over.
    Over { request: u64, outcome: Outcome },
    /// The disk did not keep a chunk.
    Lost { index: u32 },
    /// The disk does not take chunks.
    Failed(PullError),
}

/// What became of a chunk that came.
enum Stored {
    /// It is what it must be, and is written.
    Sound,
    /// It is something else, and was dropped. Whether that is proved, or said by another node.
    Damaged { is_proved: bool },
}

/// The loop of one file.
struct Conduct {
    shared: Arc<Shared>,
    swarm: Swarm,
    stripe: Stripe,
    silence: Duration,
    started: Instant,
    /// When the swarm was last told something.
    told_at: Instant,
    /// How long limits of this node held everything back.
    held_back: Duration,
    tick_at: Instant,
    assignments: watch::Receiver<Arc<Vec<Assignment>>>,
    /// Who is attended, and how that is ended.
    attended: BTreeMap<NodeId, CancellationToken>,
    linked: BTreeMap<NodeId, Vec<Link>>,
    distrusted: BTreeSet<NodeId>,
    /// Who is left alone for a while.
    shunned: Shunned,
    /// When the link to the node that brings the file broke off last.
    broke_off_at: Instant,
    /// The chunks that any node was heard to have.
    seen: Bits,
    /// Those that each linked node has, whether or not it is known what they must be.
    has: BTreeMap<NodeId, Bits>,
    /// Nobody has told yet what any chunk must be.
    waits: bool,
    asked: BTreeMap<u64, Asked>,
    tasks: JoinSet<()>,
    verified_bytes: u64,
    /// When something came, or was heard of that nobody had before.
    heard_at: Instant,
    /// What went wrong last.
    last: String,
}

/// A request that runs.
#[derive(Clone)]
struct Asked {
    peer: NodeId,
    extent: Extent,
    cancel: CancellationToken,
    /// Ends it while it waits for a limit, and not when its node was asked.
    forget: CancellationToken,
}

/// Fetches what is missing of a part. `chaser` has hashed its gapless beginning, or less.
pub(crate) async fn receive(receiving: Receiving, config: &Config, chaser: Chaser) -> Result<Digest, PullError> {
    let (news, inbox) = mpsc::channel(NEWS_MAX);
    let shared = Arc::new(Shared::new(receiving, config.patience(), news));
    // What came before may be of another file. Where the chaser has hashed some of it, it begins anew.
    let gone = shared.agree(0..shared.count()).await?.len();
    if gone > 0 {
        let sha256 = shared.blob().sha256;
        tracing::warn!(%sha256, chunks = gone, "chunks on their way were those of another file; they come again");
    }
    let mut conduct = Conduct::new(Arc::clone(&shared), config);
    let Receiving { part, place, board, library, .. } = &shared.receiving;
    let _offered = library.offer(part.clone());
    tokio::select! {
        biased;
        ended = shared.chase(chaser) => ended,
        error = conduct.run(inbox) => Err(error),
        error = upkeep::keep_durable(part, place) => Err(error),
        () = upkeep::keep_told(board) => Err(PullError::Stopping),
    }
}

// === impl Conduct ===

impl Conduct {
    fn new(shared: Arc<Shared>, config: &Config) -> Self {
        let Receiving { rank, of, ingester, own, part, ledger, gate, seed, .. } = &shared.receiving;
        let have = part.have();
        let size_bytes = part.spec().size_bytes;
        let verified_bytes: u64 = have.runs().flatten().map(|index| length(size_bytes, index)).sum();
        let rules = Rules {
            window: config.window_chunks,
            // What is little comes in small pieces, so that none is late.
            extent_max: if gate.is_limited() { 1 } else { EXTENT_CHUNKS_MAX },
            silence_ms: config.silence_ms,
            ..Rules::default()
        };
        let stripe = Stripe { rank: *rank, of: *of, ingester: *ingester };
        let (now, assignments) = (Instant::now(), ledger.assignments());
        Self {
            seen: Bits::new(have.len()),
            has: BTreeMap::new(),
            waits: shared.told().is_some_and(|told| told.is_empty()),
            swarm: Swarm::new(rules, *own, stripe, have, *seed, 0),
            stripe,
            silence: Duration::from_millis(config.silence_ms),
            started: now,
            told_at: now,
            held_back: Duration::ZERO,
            tick_at: now,
            assignments,
            attended: BTreeMap::new(),
            linked: BTreeMap::new(),
            distrusted: BTreeSet::new(),
            shunned: Shunned::new(now),
            broke_off_at: now,
            asked: BTreeMap::new(),
            tasks: JoinSet::new(),
            verified_bytes,
            heard_at: now,
            last: "no other node has it".to_owned(),
            shared,
        }
    }

    /// Runs until it is no use.
    async fn run(&mut self, mut inbox: mpsc::Receiver<News>) -> PullError {
        self.attend_others();
        if self.shared.told().is_some() {
            // It ends when it has found the tree, and with the file.
            self.tasks.spawn(Arc::clone(&self.shared).prove());
        }
        if self.waits {
            self.shared.receiving.board.wait_for(Wait::FirstCopy);
        }
        loop {
            let news = tokio::select! {
                biased;
                () = sleep_until(self.tick_at) => None,
                Ok(()) = self.assignments.changed() => {
                    self.attend_others();
                    self.take_stripe();
                    continue;
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(code = %ErrorCode::Internal, %error, "fetch a file from other nodes");
                        return PullError::Disk("a task of the pull broke down".to_owned());
                    }
                    continue;
                }
                Some(news) = inbox.recv() => Some(news),
            };
            let actions = match news {
                Some(News::Failed(error)) => return error,
                Some(news) => self.take(news),
                None => {
                    self.tick_at = Instant::now() + TICK_INTERVAL;
                    let actions = self.sort_out();
                    self.perform(actions);
                    self.tell(Event::Tick)
                }
            };
            self.perform(actions);
            if let Some(error) = self.verdict() {
                return error;
            }
        }
    }

    /// Attends every node that has the file or will have it. One that is attended stays so, whatever the plan says.
    fn attend_others(&mut self) {
        let Receiving { name, own, others, .. } = &self.shared.receiving;
        let assignments = Arc::clone(&self.assignments.borrow_and_update());
        let planned = assignments.iter().filter(|assignment| assignment.name == *name);
        let all = others.iter().chain(planned.flat_map(|assignment| &assignment.others));
        for peer in all.copied().filter(|peer| peer != own) {
            if self.attended.contains_key(&peer) {
                continue;
            }
            let leave = CancellationToken::new();
            self.attended.insert(peer, leave.clone());
            // It ends with the file; what it cannot do is told to this loop.
            self.tasks.spawn(Arc::clone(&self.shared).attend(peer, leave));
        }
    }

    /// Who receives may be others than before, or fewer.
    fn take_stripe(&mut self) {
        let Receiving { name, ingester, .. } = &self.shared.receiving;
        let assignments = self.assignments.borrow();
        let planned = assignments.iter().find(|assignment| assignment.name == *name);
        let Some(planned) = planned.filter(|assignment| assignment.ingester == *ingester) else { return };
        let stripe = Stripe { rank: planned.rank, of: planned.of, ingester: *ingester };
        drop(assignments);
        if stripe != self.stripe {
            self.stripe = stripe;
            self.swarm.set_stripe(stripe);
        }
    }

    /// Takes in what a task tells.
    fn take(&mut self, news: News) -> Vec<Action> {
        match news {
            // What was on its way when the node was left.
            News::Linked { peer, .. } | News::Has { peer, .. } if self.distrusted.contains(&peer) => Vec::new(),
            News::Linked { peer, links } => {
                self.linked.insert(peer, links);
                self.has.insert(peer, Bits::new(self.seen.len()));
                if self.shunned.keeps_out(peer, &self.shared.receiving.trust) {
                    return Vec::new();
                }
                self.tell(Event::Joined { peer })
            }
            News::Has { peer, extent } => self.hear(peer, extent),
            News::Known { chunks, gone } => self.release(&chunks, &gone),
            News::Left { peer, why } => {
                self.last = format!("node {peer}: {why}");
                if self.linked.remove(&peer).is_some() && peer == self.shared.receiving.ingester {
                    self.broke_off_at = Instant::now();
                }
                self.has.remove(&peer);
                self.shunned.forget(peer);
                // What came of his requests is still written; what the link brings no more ends them. Those of which
                // nothing can come yet are made anew.
                self.asked.values().filter(|asked| asked.peer == peer).for_each(|asked| asked.forget.cancel());
                self.asked.retain(|_, asked| asked.peer != peer);
                self.tell(Event::Gone { peer })
            }
            News::Came { peer, request, index } => {
                self.count(peer, index);
                let mut actions = self.tell(Event::Arrived { request, index });
                // The disk may have damaged it before this was heard.
                if self.shared.receiving.part.hash_of(index).is_none() {
                    actions.extend(self.lose(index));
                }
                actions
            }
            News::Damaged { peer, request, index, is_proved } => {
                let (sha256, Receiving { metrics, trust, ingester, .. }) =
                    (self.shared.blob().sha256, &self.shared.receiving);
                tracing::warn!(%peer, %sha256, chunk = index, "a chunk from another node is not what it must be");
                metrics.struck(peer);
                // What the node that brings the file says may be the lie, unless it contradicts itself.
                if is_proved || (peer == *ingester && self.shared.told().is_some()) {
                    trust.strike(peer, sha256, index);
                }
                self.last = format!("node {peer}: chunk {index} was not what it must be");
                self.tell(Event::Damaged { request, index })
            }
            News::Over { request, outcome } => {
                if outcome == Outcome::Closed && !self.shared.receiving.has_registry {
                    // Its limit is no silence either, where nobody else is to be asked.
                    self.heard_at = Instant::now();
                }
                if let Some((asked, text)) = self.asked.remove(&request).zip(trouble_of(outcome)) {
                    self.last = format!("node {}: {text}", asked.peer);
                }
                self.tell(match outcome {
                    Outcome::Whole => Event::Ended { request },
                    Outcome::Busy | Outcome::Closed => Event::Busy { request },
                    Outcome::Absent | Outcome::Failed | Outcome::Cancelled => Event::Broken { request },
                })
            }
            News::Lost { index } => self.lose(index),
            // The caller has seen to it.
            News::Failed(_) => Vec::new(),
        }
    }

    /// A node has chunks. Those of which nobody knows what they must be are not asked for yet.
    fn hear(&mut self, peer: NodeId, extent: Extent) -> Vec<Action> {
        let new = extent.chunks().filter(|index| self.seen.set(*index)).count();
        if new > 0 {
            self.heard_at = Instant::now();
        }
        if let Some(has) = self.has.get_mut(&peer) {
            for index in extent.chunks() {
                has.set(index);
            }
        }
        if self.shunned.holds(peer) {
            return Vec::new();
        }
        let known = self.shared.proof().known_of(extent);
        if known.len() == extent.count as usize {
            return self.tell(Event::Has { peer, extent });
        }
        let known = runs(known).into_iter();
        known.flat_map(|extent| self.tell(Event::Has { peer, extent })).collect()
    }

    /// It is known what chunks must be: whoever has them may be asked. What was something else is missing again.
    fn release(&mut self, chunks: &[u32], gone: &[u32]) -> Vec<Action> {
        if self.waits {
            self.waits = false;
            self.shared.receiving.board.begin(Stage::Fetching);
        }
        let mut actions = Vec::new();
        for index in gone {
            actions.extend(self.lose(*index));
        }
        let had = |(peer, has): (&NodeId, &Bits)| {
            let chunks = chunks.iter().copied().filter(|index| has.get(*index)).collect();
            runs(chunks).into_iter().map(|extent| (*peer, extent)).collect::<Vec<_>>()
        };
        let joined = self.has.iter().filter(|(peer, _)| !self.shunned.holds(**peer));
        for (peer, extent) in joined.flat_map(had).collect::<Vec<_>>() {
            actions.extend(self.tell(Event::Has { peer, extent }));
        }
        actions
    }

    /// A chunk is there.
    fn count(&mut self, peer: NodeId, index: u32) {
        let (blob, receiving) = (self.shared.blob(), &self.shared.receiving);
        let bytes = length(blob.size_bytes, index);
        if !self.swarm.have().get(index) {
            self.verified_bytes += bytes;
            self.heard_at = Instant::now();
        }
        receiving.trust.good(peer);
        self.shunned.gave(peer, &receiving.trust);
        receiving.metrics.received_from_node(bytes);
        receiving.board.came_from(peer, blob.sha256, self.verified_bytes, bytes);
        receiving.library.stir();
        self.shared.changes.send_replace(());
    }

    /// A chunk is not there after all. One that nobody told of yet was not counted.
    fn lose(&mut self, index: u32) -> Vec<Action> {
        if self.swarm.have().get(index) {
            self.verified_bytes = self.verified_bytes.saturating_sub(length(self.shared.blob().size_bytes, index));
        }
        self.heard_at = Instant::now();
        self.tell(Event::Lost { index })
    }

    /// The swarm's clock stands while a limit of this node holds everything back: no node is late then, nor silent.
    fn tell(&mut self, event: Event) -> Vec<Action> {
        let now = Instant::now();
        if self.shared.is_held_back() {
            self.held_back += now.saturating_duration_since(self.told_at);
            self.heard_at = now;
            self.shunned.wait();
        }
        self.told_at = now;
        let time = now.saturating_duration_since(self.started).saturating_sub(self.held_back);
        self.swarm.apply(millis(time), event)
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ask { request, peer, extent } => self.ask(request, peer, extent),
                Action::Cancel { request } => {
                    if let Some(asked) = self.asked.remove(&request) {
                        asked.cancel.cancel();
                    }
                }
                Action::Distrust { peer } => self.distrust(peer),
                // The chaser says when all is there, and `verdict` when nothing comes any more.
                Action::Complete | Action::Stuck => {}
            }
        }
    }

    fn ask(&mut self, request: u64, peer: NodeId, extent: Extent) {
        // Whoever has no link has left, and his requests with him.
        let Some(links) = self.linked.get(&peer) else { return };
        let turn = usize::try_from(request).unwrap_or_default() % links.len().max(1);
        let Some(link) = links.get(turn).cloned() else { return };
        let overlaps = |asked: &Asked| asked.extent.first < extent.end() && extent.first < asked.extent.end();
        if self.asked.values().any(overlaps) {
            self.shared.receiving.metrics.stolen();
        }
        let (cancel, forget) = (CancellationToken::new(), CancellationToken::new());
        let asked = Asked { peer, extent, cancel: cancel.clone(), forget };
        self.asked.insert(request, asked.clone());
        let fetch = Arc::clone(&self.shared).fetch(request, link, asked);
        // It ends with the request, with its link, or when it is cancelled; what comes of it is told to this loop.
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(fetch).await;
        });
    }

    /// A node is left for good, as far as this file is concerned.
    fn distrust(&mut self, peer: NodeId) {
        let sha256 = self.shared.blob().sha256;
        tracing::warn!(%peer, %sha256, "a node sent damaged chunks and is not asked for this file any more");
        self.distrusted.insert(peer);
        self.linked.remove(&peer);
        self.has.remove(&peer);
        for asked in self.asked.values().filter(|asked| asked.peer == peer) {
            asked.cancel.cancel();
        }
        self.asked.retain(|_, asked| asked.peer != peer);
        if let Some(leave) = self.attended.get(&peer) {
            leave.cancel();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn new(receiving: Receiving, patience: Patience, news: mpsc::Sender<News>) -> Self {
        Self {
            proof: Mutex::new(receiving.proof.clone()),
            receiving,
            patience,
            news,
            changes: watch::Sender::new(()),
            is_rewound: AtomicBool::new(false),
            at_gate: AtomicUsize::new(0),
            on_wire: AtomicUsize::new(0),
        }
    }

    fn blob(&self) -> BlobSpec {
        self.receiving.part.spec()
    }

    fn count(&self) -> u32 {
        chunk_count(self.blob().size_bytes)
    }

    fn proof(&self) -> Proof {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was told, while there is no tree.
    fn told(&self) -> Option<Told> {
        self.proof().told().cloned()
    }

    /// Whether all requests wait for a limit of this node.
    fn is_held_back(&self) -> bool {
        self.at_gate.load(Ordering::Relaxed) > 0 && self.on_wire.load(Ordering::Relaxed) == 0
    }

    /// Keeps in touch with a node, until it is left.
    async fn attend(self: Arc<Self>, peer: NodeId, leave: CancellationToken) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let why = self.follow(peer, &leave).await;
            if leave.is_cancelled() {
                return;
            }
            if begun.elapsed() > Duration::from_millis(self.patience.wait_ms_max) {
                failures = 0;
            }
            if self.news.send(News::Left { peer, why }).await.is_err() {
                return;
            }
            let wait = Duration::from_millis(self.patience.wait_ms(failures));
            failures = failures.saturating_add(1);
            if leave.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Links to a node and hears what it has, until one or the other breaks off, or the node is left. What is learned
    /// of it is told in any case.
    async fn follow(&self, peer: NodeId, leave: &CancellationToken) -> String {
        let Receiving { links, peers, .. } = &self.receiving;
        let blob = self.blob();
        let links = match leave.run_until_cancelled(links.to(peer)).await {
            None => return String::new(),
            Some(Ok(links)) => links,
            Some(Err(error)) => return error.to_string(),
        };
        let ended = select_all(links.iter().map(|link| link.ended().boxed()));
        let ended = leave.run_until_cancelled(ended).map(|over| over.map_or_else(String::new, |(why, ..)| why));
        let mut ended = Box::pin(ended);
        if self.news.send(News::Linked { peer, links: links.clone() }).await.is_err() {
            return String::new();
        }
        if peer == self.receiving.ingester
            && let Some(told) = self.told()
        {
            told.hear_anew();
        }
        let mut haves = peers.haves(peer, vec![blob.sha256]);
        let count = self.count();
        loop {
            let have = tokio::select! {
                biased;
                why = &mut ended => return why,
                have = haves.next() => have,
            };
            let (extent, hashes) = match have {
                None => return "it does not tell any more what it has".to_owned(),
                Some(Err(error)) => return error.to_string(),
                Some(Ok(Have::Void { .. })) => return "the file is not there any more".to_owned(),
                Some(Ok(Have::Whole { size_bytes, .. } | Have::Some { size_bytes, .. }))
                    if size_bytes != blob.size_bytes =>
                {
                    return format!("it has {size_bytes} bytes of it, not {}", blob.size_bytes);
                }
                Some(Ok(Have::Whole { .. })) => (Extent { first: 0, count }, None),
                Some(Ok(Have::Some { extent, hashes, .. })) => (extent, Some(hashes)),
            };
            let is_possible = extent.first.checked_add(extent.count).is_some_and(|end| end <= count);
            if !is_possible {
                return "it says that it has chunks that the file does not have".to_owned();
            }
            let hashes = match hashes {
                Some(hashes) => Ok(hashes),
                None => tokio::select! {
                    biased;
                    why = &mut ended => return why,
                    asked = self.ask_for_all(peer) => asked,
                },
            };
            match hashes {
                Ok(hashes) => self.learn(peer, extent, &hashes).await,
                Err(why) => return why,
            }
            if self.news.send(News::Has { peer, extent }).await.is_err() {
                return String::new();
            }
        }
    }

    /// Asks a node for chunks and writes them as they come.
    async fn fetch(self: Arc<Self>, request: u64, link: Link, asked: Asked) {
        let Asked { peer, extent, forget, .. } = asked;
        let size_bytes = self.blob().size_bytes;
        let bytes: u64 = extent.chunks().map(|index| length(size_bytes, index)).sum();
        let waiting = Counted::new(&self.at_gate);
        // A link that nobody uses for long ends; the next one has requests of its own.
        let has_passed = tokio::select! {
            biased;
            _ = link.ended() => false,
            () = forget.cancelled() => false,
            () = self.receiving.gate.pass(bytes, || ()) => true,
        };
        drop(waiting);
        if !has_passed {
            return;
        }
        let _on_wire = Counted::new(&self.on_wire);
        let Some(mut answer) = link.ask(self.blob(), extent, self.receiving.gate.urgency()).await else { return };
        // A link that ends is seen by whoever attends the node, and all its requests end with it.
        while let Some(came) = answer.next().await {
            let news = match came {
                Came::Chunk { index, buffer } => match self.store(index, buffer).await {
                    Ok(Stored::Sound) => News::Came { peer, request, index },
                    Ok(Stored::Damaged { is_proved }) => News::Damaged { peer, request, index, is_proved },
                    Err(error) => News::Failed(error),
                },
                Came::End(outcome) => News::Over { request, outcome },
            };
            if self.news.send(news).await.is_err() {
                return;
            }
        }
    }

    /// Writes a chunk if it is what it must be.
    async fn store(&self, index: u32, buffer: Buffer) -> Result<Stored, PullError> {
        let Receiving { part, ledger, .. } = &self.receiving;
        let (part, proof) = (part.clone(), self.proof());
        let Some(wanted) = proof.hash_of(index) else { return Ok(Stored::Damaged { is_proved: false }) };
        self.receiving.gate.before_write(buffer.bytes().len() as u64).await;
        let stored = blocking(move || {
            let (size_bytes, bytes) = (part.spec().size_bytes, buffer.bytes());
            let is_whole = bytes.len() as u64 == length(size_bytes, index);
            if !is_whole || chunk_hash(size_bytes, index, bytes) != wanted {
                return Ok(false);
            }
            part.write(index, buffer.bytes(), wanted).map(|()| true)
        });
        let is_sound = stored.await?.map_err(|error| PullError::of_part(&self.receiving.place, &error))?;
        if !is_sound {
            // A tree that is not the one on record proves nothing: it may be what another node said.
            let bound = ledger.bound(self.blob().sha256);
            let is_proved = bound.is_some_and(|bound| proof.is_proved_by(bound.root));
            return Ok(Stored::Damaged { is_proved });
        }
        // Something else may have become known of it meanwhile, when it was not there yet.
        if self.proof().hash_of(index) != Some(wanted) {
            self.agree(index..index + 1).await?;
        }
        Ok(Stored::Sound)
    }
}

// === impl Counted ===

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is wrong with a node that ends a request like this.
const fn trouble_of(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Whole => None,
        Outcome::Busy => Some("it is busy"),
        Outcome::Absent => Some("it does not have any more what it had"),
        Outcome::Failed => Some("it cannot read what it has"),
        Outcome::Cancelled => Some("it gave up what it was asked for"),
        Outcome::Closed => Some("it hands out nothing at this time"),
    }
}

/// Bytes of a chunk.
fn length(size_bytes: u64, index: u32) -> u64 {
    let range = chunk_range(size_bytes, index);
    range.end - range.start
}

#[cfg(test)]
mod tests;
