//! Discovery: which other nodes are there, on the local network and at configured seeds.
//!
//! Owns the `p2p` listener (libp2p over TCP with TLS, and QUIC). Nodes that multicast DNS or a seed names are asked who
//! they are by libp2p's identify protocol, at once and then regularly; connections end by themselves when idle. Nothing
//! else is spoken there, with members and strangers alike. What a node says is a hint: its key is proved, its cluster
//! and addresses are not, and every connection made after it proves the key again. When this part fails, the cluster
//! goes on with the addresses of the catalog.

mod announcement;
mod book;
mod swarm;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_security::NodeKey;

use crate::config::P2pConfig;
use crate::error::BindError;
use crate::peer::Discovered;
use crate::roster::Roster;

pub(crate) use announcement::Announcement;
use announcement::Said;
use book::Book;
use swarm::{Behaviour, BehaviourEvent};

/// How often the loop looks for what is due.
const TICK: Duration = Duration::from_secs(1);

/// What ties the loop to the rest of the door.
#[derive(Debug)]
pub(crate) struct Wires {
    /// What this node says of itself.
    pub(crate) announced: watch::Receiver<Announcement>,
    /// The nodes that are known.
    pub(crate) found: watch::Sender<Vec<Discovered>>,
    /// Who wants a lane.
    pub(crate) asks: mpsc::Receiver<lanes::Ask>,
    /// Lanes that others have opened.
    pub(crate) incoming: mpsc::Sender<lanes::Incoming>,
    /// A member is connected directly that was reached through a relay.
    pub(crate) better: mpsc::Sender<(ollamax_types::PeerId, Way)>,
    /// What others shall dial at `p2p`: addresses and circuits.
    pub(crate) told: watch::Sender<Vec<String>>,
    /// Whether others can dial this node.
    pub(crate) reach: watch::Sender<Reach>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) metrics: Metrics,
}

/// The `p2p` listener and what it has learnt.
pub(crate) struct Discovery {
    config: P2pConfig,
    key: NodeKey,
    swarm: Swarm<Behaviour>,
    addresses: Vec<String>,
    book: Book,
    announced: watch::Receiver<Announcement>,
    found: watch::Sender<Vec<Discovered>>,
    seeds_due: Instant,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What the loop reacts to.
enum Event {
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    Tick,
    Announce,
    Stop,
}

// === impl Discovery ===

impl Discovery {
    /// Opens the listener.
    pub(crate) async fn bind(
        config: P2pConfig,
        key: &NodeKey,
        announced: watch::Receiver<Announcement>,
        found: watch::Sender<Vec<Discovered>>,
        tasks: &TaskTracker,
    ) -> Result<Self, BindError> {
        let announcement = announced.borrow().clone();
        let (swarm, addresses) = swarm::listen(&config, key, &announcement, tasks).await?;
        let book = Book::new(config.refresh());
        let seeds_due = Instant::now();
        Ok(Self { config, key: key.clone(), swarm, addresses, book, announced, found, seeds_due })
    }

    /// Where it listens, as multiaddresses.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Looks for nodes until the node stops.
    pub(crate) async fn run(mut self, roster: Arc<Roster>, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = self.swarm.select_next_some() => Event::Swarm(Box::new(event)),
                _ = tick.tick() => Event::Tick,
                Ok(()) = self.announced.changed() => Event::Announce,
                () = stop.cancelled() => Event::Stop,
            };
            match event {
                Event::Swarm(event) => self.learn(*event),
                Event::Tick => self.ask_who_is_due().await,
                Event::Announce => self.announce(),
                Event::Stop => return,
            }
            self.publish(&roster);
        }
    }

    fn learn(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(heard))) => {
                for (peer, address) in heard {
                    self.book.heard(peer, address, now);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Expired(gone))) => {
                for (peer, address) in gone {
                    self.book.lost(&peer, &address);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                let said = Said::parse(&info.protocol_version, &info.agent_version);
                self.book.identified(peer_id, info.listen_addrs, said, now);
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { cause }, .. } => {
                tracing::debug!(%cause, "connection on the p2p listener refused");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "p2p listener"),
            _ => {}
        }
    }

    async fn ask_who_is_due(&mut self) {
        let now = Instant::now();
        for (peer, addresses) in self.book.due(now) {
            self.ask(peer, addresses);
        }
        if now >= self.seeds_due {
            self.seeds_due = now + self.config.refresh();
            for address in resolve(&self.config.seeds).await {
                // A dial that cannot even start (our own address, limits) is tried again with the next round.
                if let Err(error) = self.swarm.dial(DialOpts::unknown_peer_id().address(address.clone()).build()) {
                    tracing::debug!(%address, %error, "dial a seed");
                }
            }
        }
    }

    fn ask(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options =
            DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::DisconnectedAndNotDialing).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "dial a discovered node");
        }
    }

    /// What this node says of itself has changed: say it anew, to everybody that is known.
    fn announce(&mut self) {
        let announcement = self.announced.borrow_and_update().clone();
        self.swarm.behaviour_mut().identify = swarm::identify_behaviour(&self.key, &announcement);
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            // It may have gone by itself meanwhile.
            let _was_connected = self.swarm.disconnect_peer_id(peer);
        }
        self.book.ask_all_again();
        self.seeds_due = Instant::now();
    }

    fn publish(&mut self, roster: &Roster) {
        let listing = self.book.listing(self.announced.borrow().cluster, Instant::now());
        self.found.send_if_modified(|found| {
            let changed = *found != listing;
            if changed {
                roster.set_discovered(&listing);
                *found = listing;
            }
            changed
        });
    }
}

/// The addresses of the seeds as the resolver has them now.
async fn resolve(seeds: &[String]) -> Vec<Multiaddr> {
    let mut addresses = Vec::new();
    for seed in seeds {
        match lookup_host(seed).await {
            Ok(found) => addresses.extend(found.map(swarm::tcp_multiaddr)),
            Err(error) => tracing::warn!(%seed, %error, "look up a seed (p2p.seeds)"),
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
