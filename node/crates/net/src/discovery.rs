//! Discovery and lanes: which other nodes are there, and libp2p connections with members for where TCP cannot go.
//!
//! Owns the `p2p` listener (libp2p over TCP with TLS, and QUIC). Nodes that multicast DNS or a seed names are asked who
//! they are by libp2p's identify protocol, at once and then regularly. Members are kept connected, so that lanes can be
//! opened either way; a node that nobody can dial asks members to relay for it. What a node says is a hint: its key is
//! proved, its cluster and addresses are not, and every connection made after it proves the key again. The loop never
//! waits for anything but events. From the node's stop on it begins nothing new; what runs ends when the door is
//! closed. When this part fails, the cluster goes on with the addresses of the catalog over TCP.

mod announcement;
mod book;
mod events;
mod lines;
mod lookup;
mod observed;
mod punching;
mod reach;
mod relaying;
mod relays;
mod swarm;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::behaviour::ExternalAddrConfirmed;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, FromSwarm, NetworkBehaviour, NewListenAddr, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_security::NodeKey;

use crate::advertise;
use crate::config::P2pConfig;
use crate::error::BindError;
use crate::lanes::{self, Ask, Keeper, Lane, Member, NoLane};
use crate::metrics::Metrics;
use crate::peer::{Discovered, Reach, Way};
use crate::roster::Roster;

pub(crate) use announcement::Announcement;
use book::Book;
use lines::Meet;
use lookup::{Found, Lookups, Purpose};
use reach::Judge;
use relays::Relays;
use swarm::{Behaviour, BehaviourEvent, Setup};

/// How often the loop looks for dials that are due.
const TICK: Duration = Duration::from_millis(250);
/// How often it looks whom to ask who it is.
const LOOK: Duration = Duration::from_secs(1);

/// What ties the loop to the rest of the door.
#[derive(Debug)]
pub(crate) struct Wires {
    /// What this node says of itself.
    pub(crate) announced: watch::Receiver<Announcement>,
    /// The nodes that are known.
    pub(crate) found: watch::Sender<Vec<Discovered>>,
    /// Who wants a lane.
    pub(crate) asks: mpsc::Receiver<Ask>,
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

/// The open `p2p` listener.
pub(crate) struct Discovery {
    config: P2pConfig,
    key: NodeKey,
    swarm: Swarm<Behaviour>,
    addresses: Vec<String>,
    advertised: Vec<String>,
    wires: Wires,
    judge: Judge,
    tasks: TaskTracker,
    refusing: CancellationToken,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// The running loop: the swarm, and what is known of the nodes around.
struct Running {
    config: P2pConfig,
    key: NodeKey,
    own: PeerId,
    swarm: Swarm<Behaviour>,
    advertised: Vec<String>,
    wires: Wires,
    /// Cancelled when the node stops: nothing new begins.
    refusing: CancellationToken,
    lookups: Lookups,
    book: Book,
    look_due: Instant,
    seeds_due: Instant,
    /// The other members and where each can be had.
    members: BTreeMap<PeerId, Member>,
    keeper: Keeper,
    /// Dials of this loop that run.
    dials: HashMap<ConnectionId, Purpose>,
    meets: HashMap<PeerId, Meet>,
    /// Who waits for which lane.
    openings: HashMap<u64, oneshot::Sender<Result<Lane, NoLane>>>,
    /// Pings in a row that failed.
    unanswered: HashMap<ConnectionId, u32>,
    judge: Judge,
    relays: Relays,
    /// Where this node listens through a relay.
    places: HashMap<ListenerId, PeerId>,
    /// Who has said that it relays.
    relaying: HashSet<PeerId>,
    /// Members that have a place at this node.
    guests: HashSet<PeerId>,
    /// Open circuits through this node: from whom to whom, and how many.
    circuits: HashMap<(PeerId, PeerId), u32>,
    told_at: Option<Instant>,
    /// When a place that this node had at a relay was lost last.
    place_lost_at: Option<Instant>,
}

/// What the loop reacts to.
enum Event {
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    Tick,
    Announce,
    Members,
    Asked(Ask),
    Found(Found),
    Stop,
}

// === impl Discovery ===

impl Discovery {
    /// Opens the listener. `peer` is what others dial at the `peer` listener.
    pub(crate) async fn bind(
        config: P2pConfig,
        key: &NodeKey,
        peer: &[String],
        wires: Wires,
        tasks: &TaskTracker,
    ) -> Result<Self, BindError> {
        let refusing = CancellationToken::new();
        let announcement = wires.announced.borrow().clone();
        let (announcement, roster, refused) = (&announcement, &wires.roster, &refusing);
        let setup = Setup { config: &config, key, announcement, roster, tasks, refusing: refused };
        let (mut swarm, bound) = swarm::listen(setup).await?;
        let advertised = advertise::at_p2p(&config.advertise, peer, &bound)
            .map_err(|error| BindError::P2p { address: config.listen, reason: format!("p2p.advertise: {error}") })?;
        for address in advertised.iter().filter_map(|text| text.parse::<Multiaddr>().ok()) {
            // Without NAT, behind a firewall alone, what others see is one of these; libp2p would try none of them, for
            // it takes nothing for news that it knows already.
            swarm.behaviour_mut().try_at(&address);
            // A place at this node as a relay is told with these; without any it would be refused by who got it.
            swarm.add_external_address(address);
        }
        let judge = Judge::new(config.reach);
        wires.told.send_replace(advertised.clone());
        wires.reach.send_replace(judge.now());
        wires.metrics.reach(judge.now());
        let addresses = bound.iter().map(ToString::to_string).collect();
        let (key, tasks) = (key.clone(), tasks.clone());
        Ok(Self { config, key, swarm, addresses, advertised, wires, judge, tasks, refusing })
    }

    /// Where it listens, as multiaddresses.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What others shall dial, as multiaddresses.
    pub(crate) fn advertised(&self) -> &[String] {
        &self.advertised
    }

    /// Looks for nodes and serves lanes: begins nothing new from `stop` on, and ends with `closed`.
    pub(crate) async fn run(self, seed: u64, stop: CancellationToken, closed: CancellationToken) {
        let (lookups, found) = Lookups::new(self.tasks.clone());
        // The whole loop lives on the heap, not in each future that holds it.
        Box::pin(Running::new(self, lookups, seed).run(found, stop, closed)).await;
    }
}

// === impl Running ===

impl Running {
    fn new(opened: Discovery, lookups: Lookups, seed: u64) -> Self {
        let Discovery { config, key, swarm, advertised, wires, judge, refusing, .. } = opened;
        let own = *swarm.local_peer_id();
        let now = Instant::now();
        Self {
            own,
            book: Book::new(config.refresh()),
            look_due: now,
            seeds_due: now,
            members: BTreeMap::new(),
            keeper: Keeper::new(config.direct_again(), seed),
            dials: HashMap::new(),
            meets: HashMap::new(),
            openings: HashMap::new(),
            unanswered: HashMap::new(),
            relays: Relays::new(own, config.relays_wanted),
            places: HashMap::new(),
            relaying: HashSet::new(),
            guests: HashSet::new(),
            circuits: HashMap::new(),
            told_at: None,
            place_lost_at: None,
            config,
            key,
            swarm,
            advertised,
            wires,
            refusing,
            lookups,
            judge,
        }
    }

    async fn run(mut self, mut found: mpsc::Receiver<Found>, stop: CancellationToken, closed: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut members = self.wires.roster.changes();
        self.be_a_relay_or_not();
        self.take_members();
        loop {
            let event = tokio::select! {
                event = self.swarm.select_next_some() => Event::Swarm(Box::new(event)),
                _ = tick.tick() => Event::Tick,
                Ok(()) = self.wires.announced.changed() => Event::Announce,
                Ok(()) = members.changed() => Event::Members,
                Some(ask) = self.wires.asks.recv() => Event::Asked(ask),
                Some(found) = found.recv() => Event::Found(found),
                () = stop.cancelled(), if !self.refusing.is_cancelled() => Event::Stop,
                () = closed.cancelled() => return,
            };
            match event {
                Event::Swarm(event) => self.learn(*event),
                Event::Tick => self.look_around(),
                Event::Announce => self.announce(),
                Event::Members => self.take_members(),
                Event::Asked(ask) => self.answer(ask),
                Event::Found(found) => self.dial_found(found),
                Event::Stop => self.refusing.cancel(),
            }
        }
    }

    fn look_around(&mut self) {
        let now = Instant::now();
        self.end_meets(now);
        self.tell_addresses(now);
        if !self.refusing.is_cancelled() {
            self.keep_connected(now);
            self.ask_for_places(now);
        }
        if now >= self.look_due {
            self.look_due = now + LOOK;
            self.ask_who_is_due(now);
            self.publish();
        }
    }

    fn ask_who_is_due(&mut self, now: Instant) {
        if self.refusing.is_cancelled() {
            return;
        }
        for (peer, addresses) in self.book.due(now) {
            let options = DialOpts::peer_id(peer).addresses(addresses);
            let options = options.condition(PeerCondition::DisconnectedAndNotDialing).build();
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%peer, %error, "dial a discovered node");
            }
        }
        if now >= self.seeds_due {
            self.seeds_due = now + self.config.refresh();
            if !self.config.seeds.is_empty() {
                self.lookups.seeds(self.config.seeds.clone());
            }
        }
    }

    /// What this node says of itself has changed (its cluster: at the start and when it joins): say it anew, to
    /// everybody that is known. Every connection ends for it, with the lanes in it, since identify cannot be changed
    /// while connections stand; they are dialled anew at once.
    fn announce(&mut self) {
        let announcement = self.wires.announced.borrow_and_update().clone();
        let mut identify = swarm::identify_behaviour(&self.key, &announcement, &self.config, &self.wires.roster);
        for addr in self.swarm.listeners() {
            let listener_id = ListenerId::next();
            identify.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
        for addr in self.swarm.external_addresses() {
            identify.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }));
        }
        self.swarm.behaviour_mut().identify = identify;
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            // It may have gone by itself meanwhile.
            let _was_connected = self.swarm.disconnect_peer_id(peer);
        }
        self.book.ask_all_again();
        let now = Instant::now();
        (self.look_due, self.seeds_due) = (now, now);
        self.publish();
    }

    fn publish(&mut self) {
        let listing = self.book.listing(self.wires.announced.borrow().cluster, Instant::now());
        let roster = &self.wires.roster;
        self.wires.found.send_if_modified(|found| {
            let changed = *found != listing;
            if changed {
                roster.set_discovered(&listing);
                *found = listing;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
