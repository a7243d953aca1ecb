//! Dialling: from a node's number or an address to an authenticated stream.
//!
//! A node's addresses are tried in order, the one that worked last first; the next is started beside a slow one after a
//! short wait, so one dead address costs that wait and no more. Only a stream whose proved key is the expected one
//! counts. A failed dial answers for a short while for further requests to the same node, so that requests that have
//! queued up do not each wait for a timeout of their own; a change of the table ends that while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
use crate::metrics::Metrics;
use crate::peer::{Class, Refuser};
use crate::roster::{Link, Roster};
use crate::stream::PeerStream;

/// Opens streams to other nodes.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: PeerConfig,
    grpc: Arc<ClientConfig>,
    bulk: Arc<ClientConfig>,
    roster: Arc<Roster>,
    connections: Arc<Connections>,
    metrics: Metrics,
    memory: Mutex<HashMap<NodeId, Memory>>,
    refused_as_twin: watch::Sender<Option<Refuser>>,
    /// Cancelled when no stream shall be opened any more.
    closed: CancellationToken,
}

/// What earlier dials to a node have taught.
#[derive(Debug, Default)]
struct Memory {
    worked: Option<String>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    generation: u64,
    error: ConnectError,
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(
        config: PeerConfig,
        key: &NodeKey,
        roster: Arc<Roster>,
        connections: Arc<Connections>,
        (metrics, closed): (Metrics, CancellationToken),
    ) -> Result<Self, TlsError> {
        let grpc = tls::client_config(key, Alpn::Grpc)?;
        let bulk = tls::client_config(key, Alpn::Bulk)?;
        let (memory, refused_as_twin) = (Mutex::default(), watch::Sender::new(None));
        Ok(Self { config, grpc, bulk, roster, connections, metrics, memory, refused_as_twin, closed })
    }

    /// A stream to a member.
    pub(crate) async fn to_node(&self, node: NodeId, class: Class) -> Result<PeerStream, ConnectError> {
        let generation = self.roster.generation();
        let (expected, addresses) = self.roster.member(node).ok_or(ConnectError::NotMember(node))?;
        if let Some(error) = self.recent_failure(node, generation) {
            return Err(error);
        }
        let addresses = self.in_order_of_hope(node, addresses);
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress(node));
        }
        match self.race(addresses, &expected, class).await {
            Ok((address, stream)) => {
                self.remember(node, |memory| *memory = Memory { worked: Some(address), failed: None });
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
        self.attempt(address.to_owned(), expected, class)
            .await
            .map(|(_, stream)| stream)
            .map_err(|attempt| ConnectError::Unreachable { node: None, attempts: Arc::new(vec![attempt]) })
    }

    /// Who refused this node as another process with its key.
    pub(crate) fn refused_as_twin(&self) -> watch::Receiver<Option<Refuser>> {
        self.refused_as_twin.subscribe()
    }

    /// Forgets nodes that are no members any more.
    pub(crate) fn forget_departed(&self) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.retain(|node, _| self.roster.has_member(*node));
    }

    async fn race(
        &self,
        addresses: Vec<String>,
        expected: &PeerId,
        class: Class,
    ) -> Result<(String, PeerStream), Vec<Attempt>> {
        let mut failures = Vec::new();
        let mut running = FuturesUnordered::new();
        let mut waiting = addresses.into_iter();
        let mut next = waiting.next();
        loop {
            if let Some(address) = next.take() {
                running.push(self.attempt(address, Some(expected), class));
            }
            if running.is_empty() {
                return Err(failures);
            }
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Ok(winner) => return Ok(winner),
                    Err(attempt) => {
                        failures.push(attempt);
                        next = waiting.next();
                    }
                },
                () = sleep(self.config.stagger()), if waiting.len() > 0 => next = waiting.next(),
            }
        }
    }

    async fn attempt(
        &self,
        address: String,
        expected: Option<&PeerId>,
        class: Class,
    ) -> Result<(String, PeerStream), Attempt> {
        match self.open(&address, expected, class).await {
            Ok(stream) => {
                self.metrics.dial(class, "ok");
                Ok((address, stream))
            }
            Err(problem) => {
                self.metrics.dial(class, "failed");
                tracing::debug!(%address, %class, %problem, "dial");
                Err(Attempt { address, problem })
            }
        }
    }

    async fn open(&self, address: &str, expected: Option<&PeerId>, class: Class) -> Result<PeerStream, Problem> {
        address::check(address)?;
        let tcp = match timeout(self.config.connect_timeout(), TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| Problem::Tcp(Arc::new(error)))?,
            Err(_) => return Err(Problem::Silent(self.config.connect_timeout_ms)),
        };
        tcp.set_nodelay(true).map_err(|error| Problem::Tcp(Arc::new(error)))?;
        let shaken = timeout(self.config.handshake_timeout(), self.shake_hands(tcp, address, expected, class)).await;
        shaken.unwrap_or(Err(Problem::Stuck(self.config.handshake_timeout_ms)))
    }

    async fn shake_hands(
        &self,
        tcp: TcpStream,
        address: &str,
        expected: Option<&PeerId>,
        class: Class,
    ) -> Result<PeerStream, Problem> {
        let refused = |error| Problem::Tls(Arc::new(error));
        let config = match class.alpn() {
            Alpn::Grpc => &self.grpc,
            Alpn::Bulk => &self.bulk,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let mut io = connector.connect(tls::no_server_name(), tcp).await.map_err(refused)?;
        let proved = tls::proved_peer(io.get_ref().1.peer_certificates())?;
        if let Some(expected) = expected {
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
                self.note_refusal(node, address);
                return Err(Problem::OwnTwin);
            }
        }
        if node.is_some() {
            let outlasted = self.connections.outlast_twins(&link.peer_id, answer.boot, self.config.twin_window());
            outlasted.await.map_err(|_| Problem::TheirTwin)?;
        }
        let (boot, direction, is_member) = (answer.boot, Direction::Out, node.is_some());
        let entered = self.connections.enter(Arrival { link: link.clone(), boot, direction, class, is_member });
        if self.closed.is_cancelled() {
            entered.close.cancel();
        }
        Ok(PeerStream::new(io.into(), link, class, entered, Vec::new()))
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

    fn in_order_of_hope(&self, node: NodeId, mut addresses: Vec<String>) -> Vec<String> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = memory.get(&node).and_then(|memory| memory.worked.as_ref());
        // A stable sort: the address that worked comes first, the others keep their order.
        addresses.sort_by_key(|address| Some(address) != worked);
        addresses
    }

    fn recent_failure(&self, node: NodeId, generation: u64) -> Option<ConnectError> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = memory.get(&node)?.failed.as_ref()?;
        let holds = failed.generation == generation && failed.at.elapsed() < self.config.redial_after();
        holds.then(|| failed.error.clone())
    }

    fn remember(&self, node: NodeId, change: impl FnOnce(&mut Memory)) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(node).or_default());
    }
}
