//! Connections with members, and the lanes over them: who is dialled, who waits for a lane, what others are told.
//!
//! Every wait has an end: a lane that cannot be had is answered at once or when its line ends, a meeting that does not
//! come about after some seconds. Departed members are disconnected, which ends their lanes, places and circuits here.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::relay;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lookup::{Found, Purpose, Stop};
use super::{Running, swarm};
use crate::config::ReachWish;
use crate::lanes::{self, Ask, Dial, Kind, Lane, Member, NoLane};
use crate::peer::{Reach, Way};

/// Most nodes that are met at once.
const MEETS_MAX: usize = 64;
/// How long a connection is kept with somebody who was met.
const MEET_FOR: Duration = Duration::from_secs(60);
/// Longest wait for the connection.
const MEET_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one that the other end makes: what stands there already is on its way here.
const COME_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longest pause between two changes of what is told: each is an entry in the log.
const TOLD_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Somebody with whom a connection is kept for a while.
#[derive(Debug)]
pub(super) struct Meet {
    until: Instant,
    waiting: Vec<oneshot::Sender<Result<(), NoLane>>>,
}

impl Running {
    /// The best way to a node over libp2p.
    pub(super) fn best(&self, peer: &PeerId) -> Option<Way> {
        self.swarm.behaviour().lanes.as_ref().and_then(|lanes| lanes.best(peer))
    }

    /// The member table has changed.
    pub(super) fn take_members(&mut self) {
        let contacts = self.wires.roster.contacts();
        let told: BTreeMap<PeerId, Vec<String>> = contacts
            .into_iter()
            .filter_map(|contact| Some((lanes::parse(&contact.peer_id).ok()?, contact.p2p_addresses)))
            .filter(|(who, _)| *who != self.own)
            .collect();
        let member = |(who, addresses): (&PeerId, &Vec<String>)| {
            let relays = lanes::relays_of(addresses, &self.own, who, |relay| told.contains_key(relay));
            (*who, Member { direct: lanes::direct_targets(addresses, who), relays })
        };
        let members: BTreeMap<PeerId, Member> = told.iter().map(member).collect();
        let departed: Vec<PeerId> = self.members.keys().copied().filter(|who| !members.contains_key(who)).collect();
        let old = std::mem::replace(&mut self.members, members);
        if !self.config.lanes {
            return;
        }
        for who in departed {
            self.part_with(&who);
        }
        let now = Instant::now();
        let is_news = |(who, member): &(&PeerId, &Member)| old.get(*who) != Some(*member);
        let changed: Vec<PeerId> = self.members.iter().filter(is_news).map(|(who, _)| *who).collect();
        for who in changed {
            self.swarm.behaviour_mut().limits.bypass_peer_id(&who);
            self.keeper.changed(&who, now);
            self.ask_it_or_not(&who);
        }
        *self.swarm.behaviour_mut().limits.limits_mut() = swarm::limits(self.members.len());
        self.relays.retain(|who| self.members.contains_key(who));
        self.hold();
        self.keep_connected(now);
    }

    fn part_with(&mut self, who: &PeerId) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.limits.remove_peer_id(who);
        if let Some(autonat) = behaviour.autonat.as_mut() {
            autonat.remove_server(who);
        }
        self.relaying.remove(who);
        self.guests.remove(who);
        self.wires.metrics.relay_reservations(self.guests.len());
        if self.swarm.disconnect_peer_id(*who).is_ok() {
            tracing::info!(peer = %who, "libp2p connections of a departed member closed");
        }
    }

    /// Holds a connection with the members and with those that are met.
    fn hold(&mut self) {
        let held: HashSet<PeerId> = self.members.keys().chain(self.meets.keys()).copied().collect();
        if let Some(lanes) = self.swarm.behaviour_mut().lanes.as_mut() {
            lanes.keep(held);
        }
    }

    /// A member with a direct connection is asked whether it can dial this node; nobody else is, and nobody at all
    /// where the configuration answers.
    pub(super) fn ask_it_or_not(&mut self, who: &PeerId) {
        let is_open = self.config.reach == ReachWish::Auto;
        let is_asked = is_open && self.members.contains_key(who) && self.best(who) == Some(Way::P2p);
        if let Some(autonat) = self.swarm.behaviour_mut().autonat.as_mut() {
            if is_asked {
                autonat.add_server(*who, None);
            } else {
                autonat.remove_server(who);
            }
        }
    }

    /// Somebody wants a lane or a connection.
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Open { to, answer } => match self.open(&to) {
                Ok(ticket) => {
                    self.openings.insert(ticket, answer);
                }
                // Who asked may have given up.
                Err(problem) => drop(answer.send(Err(problem))),
            },
            Ask::Meet { who, addresses, answer } => self.meet(who, &addresses, answer),
        }
    }

    fn open(&mut self, to: &PeerId) -> Result<u64, NoLane> {
        if self.refusing.is_cancelled() {
            return Err(NoLane::Stopping);
        }
        self.swarm.behaviour_mut().lanes.as_mut().ok_or(NoLane::Off)?.open(to)
    }

    /// A lane that was asked for is there, or cannot be had.
    pub(super) fn opened(&mut self, ticket: u64, outcome: Result<Lane, NoLane>) {
        if let Some(answer) = self.openings.remove(&ticket) {
            // Who asked may have given up; then the lane is closed.
            drop(answer.send(outcome));
        }
    }

    fn meet(&mut self, who: PeerId, addresses: &[String], answer: oneshot::Sender<Result<(), NoLane>>) {
        let now = Instant::now();
        let stands = self.best(&who) == Some(Way::P2p);
        let targets = lanes::direct_targets(addresses, &who);
        let problem = match () {
            () if !self.config.lanes => Some(NoLane::Off),
            () if self.refusing.is_cancelled() => Some(NoLane::Stopping),
            () if who == self.own => Some(NoLane::Failed("this is this node itself".to_owned())),
            () if !stands && !addresses.is_empty() && targets.is_empty() => {
                Some(NoLane::Failed("no address to dial was told".to_owned()))
            }
            () if self.meets_no_more(&who) => Some(NoLane::Busy),
            () => None,
        };
        if let Some(problem) = problem {
            return drop(answer.send(Err(problem)));
        }
        let end = now + if addresses.is_empty() { COME_TIMEOUT } else { MEET_TIMEOUT };
        let meet = self.meets.entry(who).or_insert_with(|| Meet { until: end, waiting: Vec::new() });
        meet.until = meet.until.max(end);
        meet.waiting.push(answer);
        if stands {
            self.met(&who, now);
        } else if !targets.is_empty() {
            let stops = targets.into_iter().map(|target| Stop { via: None, target }).collect();
            self.lookups.node(Purpose::Meet(who), stops);
        }
        self.hold();
    }

    fn meets_no_more(&self, who: &PeerId) -> bool {
        let waiting = self.meets.get(who).map(|meet| meet.waiting.len());
        waiting.unwrap_or(self.meets.len()) >= MEETS_MAX
    }

    /// A direct connection to somebody stands.
    pub(super) fn met(&mut self, who: &PeerId, now: Instant) {
        if let Some(meet) = self.meets.get_mut(who) {
            meet.until = now + MEET_FOR;
            for answer in meet.waiting.drain(..) {
                drop(answer.send(Ok(())));
            }
        }
    }

    fn not_met(&mut self, who: &PeerId, problem: &str) {
        if let Some(meet) = self.meets.remove(who) {
            for answer in meet.waiting {
                drop(answer.send(Err(NoLane::Failed(problem.to_owned()))));
            }
            self.hold();
        }
    }

    /// Meetings that are over, or did not come about.
    pub(super) fn end_meets(&mut self, now: Instant) {
        let over: Vec<PeerId> = self.meets.iter().filter(|(_, meet)| meet.until <= now).map(|(who, _)| *who).collect();
        for who in over {
            self.not_met(&who, "no libp2p connection came about in time");
        }
    }

    /// Dials the members that are due.
    pub(super) fn keep_connected(&mut self, now: Instant) {
        if !self.config.lanes || self.refusing.is_cancelled() {
            return;
        }
        let lanes = self.swarm.behaviour().lanes.as_ref();
        let due = self.keeper.due(&self.members, |who| lanes.and_then(|lanes| lanes.best(who)), now);
        for dial in due {
            let stops = self.stops_of(dial);
            self.lookups.node(Purpose::Keep(dial), stops);
        }
    }

    fn stops_of(&self, dial: Dial) -> Vec<Stop> {
        let Some(member) = self.members.get(&dial.who) else { return Vec::new() };
        let direct = |target: &lanes::Target| Stop { via: None, target: target.clone() };
        match dial.kind {
            Kind::Direct => member.direct.iter().map(direct).collect(),
            Kind::Circuit => member.relays.iter().flat_map(|relay| self.stops_through(relay)).collect(),
        }
    }

    /// With a connection to the relay its address is not dialled, but one has to be named.
    fn stops_through(&self, relay: &PeerId) -> Vec<Stop> {
        let lanes = self.swarm.behaviour().lanes.as_ref();
        let via = Some(*relay);
        if let Some(address) = lanes.and_then(|lanes| lanes.direct_address(relay)) {
            return vec![Stop { via, target: lanes::Target::Ready(address.clone()) }];
        }
        let targets = self.members.get(relay).map(|member| member.direct.as_slice()).unwrap_or_default();
        targets.iter().map(|target| Stop { via, target: target.clone() }).collect()
    }

    /// Addresses have been looked up: dial them.
    pub(super) fn dial_found(&mut self, found: Found) {
        if self.refusing.is_cancelled() {
            return;
        }
        match found {
            Found::Seeds(addresses) => {
                for address in addresses {
                    // A dial that cannot even start (our own address, limits) is tried again with the next round.
                    let options = DialOpts::unknown_peer_id().address(address.clone()).build();
                    if let Err(error) = self.swarm.dial(options) {
                        tracing::debug!(%address, %error, "dial a seed");
                    }
                }
            }
            Found::Node(purpose, addresses) => {
                let condition = match purpose {
                    // A circuit may stand, and a direct connection is wanted all the same.
                    Purpose::Keep(Dial { kind: Kind::Direct, .. }) | Purpose::Meet(_) => PeerCondition::NotDialing,
                    Purpose::Keep(Dial { kind: Kind::Circuit, .. }) => PeerCondition::DisconnectedAndNotDialing,
                };
                let options = DialOpts::peer_id(*purpose.who()).condition(condition).addresses(addresses).build();
                let connection = options.connection_id();
                match self.swarm.dial(options) {
                    Ok(()) => {
                        self.dials.insert(connection, purpose);
                    }
                    Err(error) => self.dial_ended(purpose, &error),
                }
            }
        }
    }

    /// A dial that this loop began has brought a connection.
    pub(super) fn dial_succeeded(&mut self, connection: ConnectionId, way: Way) {
        if let Some(Purpose::Keep(dial)) = self.dials.remove(&connection) {
            self.keeper.connected(&dial.who, way, Instant::now());
        }
    }

    /// A dial has come to nothing.
    pub(super) fn dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        if let Some(purpose) = self.dials.remove(&connection) {
            self.dial_ended(purpose, error);
        }
    }

    fn dial_ended(&mut self, purpose: Purpose, error: &DialError) {
        let now = Instant::now();
        let runs_elsewhere = matches!(error, DialError::DialPeerConditionFalse(_));
        tracing::debug!(peer = %purpose.who(), ?purpose, %error, "dial for lanes");
        match purpose {
            Purpose::Keep(dial) if runs_elsewhere => self.keeper.postponed(&dial.who, now),
            Purpose::Keep(dial) => {
                let has_relays = self.members.get(&dial.who).is_some_and(|member| !member.relays.is_empty());
                self.keeper.failed(dial, self.best(&dial.who), has_relays, now);
            }
            // The other dial may bring what is waited for, or has brought it.
            Purpose::Meet(who) if runs_elsewhere || self.best(&who) == Some(Way::P2p) => {}
            Purpose::Meet(who) => self.not_met(&who, &format!("dial: {error}")),
        }
    }

    /// Asks members for places when others cannot dial this node.
    pub(super) fn ask_for_places(&mut self, now: Instant) {
        let Some(lanes) = self.swarm.behaviour().lanes.as_ref() else { return };
        let relays = |peer: &&PeerId| self.members.contains_key(*peer) && self.relaying.contains(*peer);
        let offers: Vec<PeerId> = lanes.direct_peers().filter(relays).copied().collect();
        for relay in self.relays.decide(self.judge.now(), &offers, now) {
            let address = self.swarm.behaviour().lanes.as_ref().and_then(|lanes| lanes.direct_address(&relay));
            let place = address.map(|address| lanes::place_at(address, &relay));
            match place.map(|place| self.swarm.listen_on(place)) {
                Some(Ok(listener)) => {
                    self.places.insert(listener, relay);
                }
                // It has gone meanwhile, or nothing can be listened on there: as if it had refused.
                failed => {
                    tracing::debug!(peer = %relay, ?failed, "ask for a place at a relay");
                    self.relays.closed(relay, now);
                }
            }
        }
    }

    /// Whether members are told that this node relays: not when it cannot be dialled itself.
    pub(super) fn be_a_relay_or_not(&mut self) {
        let status = match self.judge.now() {
            Reach::Relayed => relay::Status::Disable,
            Reach::Unknown | Reach::Direct => relay::Status::Enable,
        };
        if let Some(relay) = self.swarm.behaviour_mut().relay.as_mut() {
            relay.set_status(status);
        }
    }

    /// Tells what others shall dial: the circuits that this node has, and the listener's addresses. Not too often.
    /// Circuits come first, because the catalog takes no more than a few addresses. That one is gone is told when none
    /// has come in its place for a while: a relay that restarts is found again sooner than a change is told twice.
    pub(super) fn tell_addresses(&mut self, now: Instant) {
        let pause = self.config.refresh().min(TOLD_PAUSE_MAX);
        let is_recent = |at: Option<Instant>| at.is_some_and(|at| now < at + pause);
        let told = [self.relays.told().as_slice(), &self.advertised].concat();
        let is_less = told.len() < self.wires.told.borrow().len();
        if is_recent(self.told_at) || is_less && is_recent(self.place_lost_at) {
            return;
        }
        let is_news = self.wires.told.send_if_modified(|known| {
            let is_news = *known != told;
            if is_news {
                *known = told;
            }
            is_news
        });
        if is_news {
            self.told_at = Some(now);
        }
    }
}
