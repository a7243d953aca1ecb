//! Dialling: from a node's number or an address to an authenticated stream.
//!
//! A node's addresses are tried in order and a lane after them, what worked last first; the next is started beside a
//! slow one after a short wait, so one dead address costs that wait and no more. A lane waits longer, for TCP to
//! connect, so that it does not outrun an address that is good and slow for once. Only a stream whose proved key is the
//! expected one counts. A failed dial answers for a short while for further requests to the same node, so that requests
//! that have queued up do not each wait for a timeout of their own; a change of the table ends that while. A lane is
//! opened on a libp2p connection that stands or not at all: who keeps these connections is no concern of a dial.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use ollamax_security::NodeKey;
use ollamax_security::tls::{self, Alpn, TlsError};
use ollamax_types::{NodeId, PeerId};

use crate::address;
use crate::config::PeerConfig;
use crate::connections::{Arrival, Connections, Direction};
use crate::error::{Attempt, ConnectError, Problem};
use crate::greeting::{self, Reception};
use crate::lanes::{Lane, Lanes, NoLane};
use crate::metrics::Metrics;
use crate::peer::{Class, Refuser, Way};
use crate::roster::{Link, Roster};
use crate::stream::{Carrier, PeerStream};

/// Longest wait until libp2p has met another node, ms.
const MEET_TIMEOUT_MS: u64 = 5_000;
/// What stands for an address where a lane is meant.
const LANE: &str = "p2p";

/// Opens streams to other nodes.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: PeerConfig,
    grpc: Arc<ClientConfig>,
    bulk: Arc<ClientConfig>,
    own: PeerId,
    /// Nothing where lanes are off.
    lanes: Option<Lanes>,
    roster: Arc<Roster>,
    connections: Arc<Connections>,
    metrics: Metrics,
    memory: Mutex<HashMap<NodeId, Memory>>,
    refused_as_twin: watch::Sender<Option<Refuser>>,
    /// Cancelled when no stream shall be opened any more.
    closed: CancellationToken,
}

/// What a dialler shares with the rest of the door.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) lanes: Option<Lanes>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Metrics,
    pub(crate) closed: CancellationToken,
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// TCP to `host:port`.
    Address(String),
    /// A libp2p stream.
    Lane,
}

/// What earlier dials to a node have taught.
#[derive(Debug, Default)]
struct Memory {
    /// What worked last.
    worked: Option<Path>,
    /// What carried the last stream.
    way: Option<Way>,
    /// Counts the better ways that have been found.
    epoch: u64,
    /// The last round trip that was told.
    rtt: Option<Duration>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    generation: u64,
    error: ConnectError,
}

// === impl Path ===

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Lane => f.write_str(LANE),
        }
    }
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(config: PeerConfig, key: &NodeKey, around: Surroundings) -> Result<Self, TlsError> {
        let grpc = tls::client_config(key, Alpn::Grpc)?;
        let bulk = tls::client_config(key, Alpn::Bulk)?;
        let own = key.peer_id().clone();
        let (memory, refused_as_twin) = (Mutex::default(), watch::Sender::new(None));
        let Surroundings { lanes, roster, connections, metrics, closed } = around;
        Ok(Self { config, grpc, bulk, own, lanes, roster, connections, metrics, memory, refused_as_twin, closed })
    }

    /// A stream to a member.
    pub(crate) async fn to_node(&self, node: NodeId, class: Class) -> Result<PeerStream, ConnectError> {
        let generation = self.roster.generation();
        let (expected, addresses) = self.roster.member(node).ok_or(ConnectError::NotMember(node))?;
        if let Some(error) = self.recent_failure(node, generation) {
            return Err(error);
        }
        let mut paths: Vec<Path> = addresses.into_iter().map(Path::Address).collect();
        paths.extend(self.lanes.as_ref().map(|_| Path::Lane));
        if paths.is_empty() {
            return Err(ConnectError::NoAddress(node));
        }
        self.put_in_order_of_hope(node, &mut paths);
        match self.race(paths, &expected, class).await {
            Ok((path, stream)) => {
                self.remember(node, |memory| {
                    // What was opened on the worse way shall move here.
                    if memory.way.is_some_and(|before| stream.way() < before) {
                        memory.epoch += 1;
                    }
                    memory.worked = Some(path);
                    memory.way = Some(stream.way());
                    memory.failed = None;
                });
                Ok(stream)
            }
            Err(attempts) => {
                let error = ConnectError::Unreachable { node: Some(node), attempts: Arc::new(attempts) };
                let failed = Failed { at: Instant::now(), generation, error: error.clone() };
                self.remember(node, |memory| memory.failed = Some(failed));
                Err(error)
            }
        }
    }

    /// A stream to whoever answers at an address; to nobody but `expected` when that is given.
    pub(crate) async fn to_address(
        &self,
        address: &str,
        expected: Option<&PeerId>,
        class: Class,
    ) -> Result<PeerStream, ConnectError> {
        let opened = self.over_tcp(address, expected, class).await;
        self.judge(address, class, opened).map_err(alone)
    }

    /// A stream over a lane to a node that need be no member.
    pub(crate) async fn through_lane(&self, to: &PeerId, class: Class) -> Result<PeerStream, ConnectError> {
        let opened = self.over_lane(to, class).await;
        self.judge(LANE, class, opened).map_err(alone)
    }

    /// Has libp2p connect this node with another and keep the connection for a while.
    pub(crate) async fn meet(&self, who: &PeerId, addresses: &[String]) -> Result<(), ConnectError> {
        let met = match &self.lanes {
            Some(lanes) => match timeout(Duration::from_millis(MEET_TIMEOUT_MS), lanes.meet(who, addresses)).await {
                Ok(met) => met.map_err(Problem::Lane),
                Err(_) => Err(Problem::Silent(MEET_TIMEOUT_MS)),
            },
            None => Err(Problem::Lane(NoLane::Off)),
        };
        met.map_err(|problem| alone(Attempt { address: LANE.to_owned(), problem }))
    }

    /// Who refused this node as another process with its key.
    pub(crate) fn refused_as_twin(&self) -> watch::Receiver<Option<Refuser>> {
        self.refused_as_twin.subscribe()
    }

    /// What carried the last stream to a member.
    pub(crate) fn way(&self, node: NodeId) -> Option<Way> {
        self.memory().get(&node)?.way
    }

    /// How often a better way to a node has been found.
    pub(crate) fn epoch(&self, node: NodeId) -> u64 {
        self.memory().get(&node).map_or(0, |memory| memory.epoch)
    }

    /// The last round trip to a member that was told.
    pub(crate) fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.memory().get(&node)?.rtt
    }

    /// Notes a round trip to a member.
    pub(crate) fn note_rtt(&self, node: NodeId, rtt: Duration) {
        let mut memory = self.memory();
        // Asked under the lock: after a departure nothing brings the series back.
        if self.roster.has_member(node) {
            memory.entry(node).or_default().rtt = Some(rtt);
            self.metrics.rtt(node, rtt);
        }
    }

    /// Members that were reached by something else than TCP, and by what.
    pub(crate) fn detours(&self) -> Vec<(NodeId, Way)> {
        let memory = self.memory();
        let ways = memory.iter().filter_map(|(node, known)| Some((*node, known.way?)));
        ways.filter(|(_, way)| *way != Way::Tcp).collect()
    }

    /// Dials a member anew by what is better than its present way, and lets the connection go again. What fails here is
    /// not held against the node.
    pub(crate) async fn try_better(&self, node: NodeId, now: Way) -> Option<(Path, Way)> {
        let (expected, addresses) = self.roster.member(node)?;
        let paths = addresses.into_iter().map(Path::Address).collect();
        if let Ok((path, stream)) = self.race(paths, &expected, Class::Forward).await {
            return Some((path, stream.way()));
        }
        if now < Way::Relayed {
            return None;
        }
        // That libp2p has become direct is told once, and not heard while the first stream is still being opened.
        let stream = self.over_lane(&expected, Class::Forward).await.ok()?;
        (stream.way() < now).then(|| (Path::Lane, stream.way()))
    }

    /// From now on this path is tried first.
    pub(crate) fn prefer(&self, node: NodeId, path: Path, way: Way) {
        self.remember(node, |memory| {
            memory.worked = Some(path);
            memory.way = Some(way);
        });
    }

    /// Tells those who hold long streams that a better way has been found.
    pub(crate) fn begin_epoch(&self, node: NodeId) {
        self.remember(node, |memory| memory.epoch += 1);
    }

    /// The table has changed: forgets nodes that are no members any more, and counts the others.
    pub(crate) fn follow_table(&self) {
        let mut memory = self.memory();
        memory.retain(|node, _| {
            let stays = self.roster.has_member(*node);
            if !stays {
                self.metrics.forget_rtt(*node);
            }
            stays
        });
        self.show_ways(&memory);
    }

    fn show_ways(&self, memory: &HashMap<NodeId, Memory>) {
        let own = self.roster.node_of_key(&self.own);
        let (mut counts, mut none) = ([0; Way::ALL.len()], 0);
        for node in self.roster.members().into_iter().filter(|node| Some(*node) != own) {
            match memory.get(&node).and_then(|memory| memory.way) {
                Some(way) => counts[way as usize] += 1,
                None => none += 1,
            }
        }
        self.metrics.ways(&counts, none);
    }

    async fn race(
        &self,
        paths: Vec<Path>,
        expected: &PeerId,
        class: Class,
    ) -> Result<(Path, PeerStream), Vec<Attempt>> {
        let mut failures = Vec::new();
        let mut running = FuturesUnordered::new();
        let mut waiting = paths.into_iter();
        let mut next = waiting.next();
        loop {
            if let Some(path) = next.take() {
                running.push(self.attempt(path, expected, class));
            }
            if running.is_empty() {
                return Err(failures);
            }
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Ok(winner) => return Ok(winner),
                    Err(attempt) => {
                        failures.push(attempt);
                        if running.is_empty() || waiting.as_slice().first() != Some(&Path::Lane) {
                            next = waiting.next();
                        }
                    }
                },
                () = sleep(self.patience(waiting.as_slice())), if waiting.len() > 0 => next = waiting.next(),
            }
        }
    }

    /// How long what has been started is left alone before the next is started beside it. A lane waits as long as TCP
    /// may take to connect: it stays slower, so a node that is merely busy shall not be reached over one.
    fn patience(&self, waiting: &[Path]) -> Duration {
        match waiting.first() {
            Some(Path::Lane) => self.config.connect_timeout(),
            Some(Path::Address(_)) | None => self.config.stagger(),
        }
    }

    async fn attempt(&self, path: Path, to: &PeerId, class: Class) -> Result<(Path, PeerStream), Attempt> {
        let opened = match &path {
            Path::Address(address) => self.over_tcp(address, Some(to), class).await,
            Path::Lane => self.over_lane(to, class).await,
        };
        let stream = self.judge(&path, class, opened)?;
        Ok((path, stream))
    }

    fn judge(
        &self,
        path: impl fmt::Display,
        class: Class,
        opened: Result<PeerStream, Problem>,
    ) -> Result<PeerStream, Attempt> {
        match opened {
            Ok(stream) => {
                self.metrics.dial(class, "ok");
                Ok(stream)
            }
            Err(problem) => {
                self.metrics.dial(class, "failed");
                self.metrics.dial_failed(&problem);
                tracing::debug!(address = %path, %class, %problem, "dial");
                Err(Attempt { address: path.to_string(), problem })
            }
        }
    }

    async fn over_tcp(&self, address: &str, expected: Option<&PeerId>, class: Class) -> Result<PeerStream, Problem> {
        address::check(address)?;
        let tcp = match timeout(self.config.connect_timeout(), TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| Problem::Tcp(Arc::new(error)))?,
            Err(_) => return Err(Problem::Silent(self.config.connect_timeout_ms)),
        };
        tcp.set_nodelay(true).map_err(|error| Problem::Tcp(Arc::new(error)))?;
        let there = There { address, way: Way::Tcp, expected };
        let shaken = timeout(self.config.handshake_timeout(), self.shake_hands(tcp, there, class)).await;
        shaken.unwrap_or(Err(Problem::Stuck(self.config.handshake_timeout_ms)))
    }

    /// The opening has as long as a TCP connection has: where libp2p has not noticed yet that a node is dead, a dial
    /// shall not take longer for it.
    async fn over_lane(&self, to: &PeerId, class: Class) -> Result<PeerStream, Problem> {
        let lanes = self.lanes.as_ref().ok_or(NoLane::Off)?;
        let Lane { io, way } = match timeout(self.config.connect_timeout(), lanes.open(to)).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Problem::Silent(self.config.connect_timeout_ms)),
        };
        let there = There { address: LANE, way, expected: Some(to) };
        let shaken = timeout(self.config.handshake_timeout(), self.shake_hands(io, there, class)).await;
        shaken.unwrap_or(Err(Problem::Stuck(self.config.handshake_timeout_ms)))
    }

    async fn shake_hands(&self, io: impl Carrier, there: There<'_>, class: Class) -> Result<PeerStream, Problem> {
        let refused = |error| Problem::Tls(Arc::new(error));
        let config = match class.alpn() {
            Alpn::Grpc => &self.grpc,
            Alpn::Bulk => &self.bulk,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let mut io = connector.connect(tls::no_server_name(), io).await.map_err(refused)?;
        let proved = tls::proved_peer(io.get_ref().1.peer_certificates())?;
        if let Some(expected) = there.expected {
            tls::check_proved_peer(&proved, expected)?;
        }
        let hello = greeting::encode(class, self.connections.boot(), &self.roster.credential());
        io.write_all(&hello).await.map_err(refused)?;
        io.flush().await.map_err(refused)?;
        let answer = greeting::read_answer(&mut io).await.map_err(|error| Problem::Unanswered(Arc::new(error)))?;
        let link = Link { peer_id: proved, vouched: None };
        let node = self.roster.node_of(&link);
        match answer.reception {
            Reception::Welcome => {}
            Reception::Full => return Err(Problem::Full),
            Reception::Twin => {
                self.note_refusal(node, there.address);
                return Err(Problem::OwnTwin);
            }
        }
        if node.is_some() {
            let outlasted = self.connections.outlast_twins(&link.peer_id, answer.boot, self.config.twin_window());
            outlasted.await.map_err(|_| Problem::TheirTwin)?;
        }
        let (boot, way, direction, is_member) = (answer.boot, there.way, Direction::Out, node.is_some());
        let entered = self.connections.enter(Arrival { link: link.clone(), boot, direction, class, way, is_member });
        if self.closed.is_cancelled() {
            entered.close.cancel();
        }
        Ok(PeerStream::new(Box::new(io), link, class, entered, Vec::new()))
    }

    /// Only a member's word counts: anybody else could say so to stop this node.
    fn note_refusal(&self, node: Option<NodeId>, address: &str) {
        let Some(node) = node else { return };
        self.refused_as_twin.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                *known = Some(Refuser { node, address: address.to_owned() });
            }
            is_first
        });
    }

    /// A stable sort: what worked comes first, the others keep their order.
    fn put_in_order_of_hope(&self, node: NodeId, paths: &mut [Path]) {
        let memory = self.memory();
        let worked = memory.get(&node).and_then(|memory| memory.worked.as_ref());
        paths.sort_by_key(|path| Some(path) != worked);
    }

    fn recent_failure(&self, node: NodeId, generation: u64) -> Option<ConnectError> {
        let memory = self.memory();
        let failed = memory.get(&node)?.failed.as_ref()?;
        let holds = failed.generation == generation && failed.at.elapsed() < self.config.redial_after();
        holds.then(|| failed.error.clone())
    }

    fn remember(&self, node: NodeId, change: impl FnOnce(&mut Memory)) {
        let mut memory = self.memory();
        let known = memory.entry(node).or_default();
        let before = known.way;
        change(known);
        if known.way != before {
            self.show_ways(&memory);
        }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<NodeId, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a handshake takes place.
#[derive(Debug, Clone, Copy)]
struct There<'a> {
    /// `host:port`, or the word for a lane.
    address: &'a str,
    way: Way,
    /// Nobody else may answer.
    expected: Option<&'a PeerId>,
}

/// One attempt was all that could be tried.
fn alone(attempt: Attempt) -> ConnectError {
    ConnectError::Unreachable { node: None, attempts: Arc::new(vec![attempt]) }
}

#[cfg(test)]
mod tests;
