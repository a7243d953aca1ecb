//! Names become addresses: beside the loop, which must not wait for a resolver while lanes are asked for.
//!
//! Each look-up is a task with a deadline that hands its result back over a bounded channel. A name that cannot be
//! looked up costs its own address and nothing else; tasks whose loop has ended drop what they found.

use std::net::SocketAddr;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::swarm::{quic_multiaddr, tcp_multiaddr};
use crate::lanes::{self, Dial, Target};

/// Most results that wait for the loop.
const FOUND_MAX: usize = 128;
/// Longest wait for the resolver.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node is dialled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A connection for lanes with a member.
    Keep(Dial),
    /// Somebody asked for it.
    Meet(PeerId),
}

/// Addresses to dial.
#[derive(Debug)]
pub(super) enum Found {
    Seeds(Vec<Multiaddr>),
    Node(Purpose, Vec<Multiaddr>),
}

/// An address of a node, or of the relay that leads to it.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) via: Option<PeerId>,
    pub(super) target: Target,
}

/// Starts look-ups.
#[derive(Debug)]
pub(super) struct Lookups {
    found: mpsc::Sender<Found>,
    tasks: TaskTracker,
}

// === impl Purpose ===

impl Purpose {
    pub(super) const fn who(&self) -> &PeerId {
        match self {
            Self::Keep(dial) => &dial.who,
            Self::Meet(who) => who,
        }
    }
}

// === impl Lookups ===

impl Lookups {
    pub(super) fn new(tasks: TaskTracker) -> (Self, mpsc::Receiver<Found>) {
        let (found, results) = mpsc::channel(FOUND_MAX);
        (Self { found, tasks }, results)
    }

    /// The seeds as the resolver has them now.
    pub(super) fn seeds(&self, seeds: Vec<String>) {
        let found = self.found.clone();
        self.tasks.spawn(async move {
            let mut addresses = Vec::new();
            for seed in &seeds {
                match look_up(seed).await {
                    Ok(sockets) => addresses.extend(sockets.into_iter().map(tcp_multiaddr)),
                    Err(error) => tracing::warn!(%seed, %error, "look up a seed (p2p.seeds)"),
                }
            }
            hand_over(&found, Found::Seeds(addresses)).await;
        });
    }

    /// Where a node is dialled.
    pub(super) fn node(&self, purpose: Purpose, stops: Vec<Stop>) {
        let found = self.found.clone();
        self.tasks.spawn(async move {
            let mut addresses = Vec::new();
            for Stop { via, target } in stops {
                let direct = resolve(target).await;
                addresses.extend(direct.into_iter().map(|address| match via {
                    Some(relay) => lanes::circuit_through(&address, &relay, purpose.who()),
                    None => address,
                }));
            }
            hand_over(&found, Found::Node(purpose, addresses)).await;
        });
    }
}

async fn hand_over(to: &mpsc::Sender<Found>, found: Found) {
    if to.send(found).await.is_err() {
        tracing::debug!("addresses were looked up while the node stops");
    }
}

async fn resolve(target: Target) -> Vec<Multiaddr> {
    let (host, port, is_quic) = match target {
        Target::Ready(address) => return vec![address],
        Target::Name { host, port, is_quic } => (host, port, is_quic),
    };
    match look_up(&format!("{host}:{port}")).await {
        Ok(sockets) => sockets.into_iter().map(if is_quic { quic_multiaddr } else { tcp_multiaddr }).collect(),
        Err(error) => {
            tracing::debug!(%host, %error, "look up a member");
            Vec::new()
        }
    }
}

async fn look_up(address: &str) -> Result<Vec<SocketAddr>, String> {
    match timeout(LOOK_UP_TIMEOUT, lookup_host(address)).await {
        Ok(found) => found.map(Iterator::collect).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOK_UP_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_and_circuits_go_through_their_relay() {
        let (lookups, mut results) = Lookups::new(TaskTracker::new());
        let (who, relay) = (PeerId::random(), PeerId::random());
        let ready = |text: &str| Target::Ready(text.parse().unwrap());
        let name = Target::Name { host: "127.0.0.1".to_owned(), port: 9, is_quic: true };
        let stops = vec![
            Stop { via: None, target: ready("/ip4/10.0.0.7/tcp/1") },
            Stop { via: None, target: name },
            Stop { via: Some(relay), target: ready("/ip4/10.0.0.8/tcp/2") },
        ];
        lookups.node(Purpose::Meet(who), stops);
        let Some(Found::Node(purpose, addresses)) = results.recv().await else { panic!("addresses are found") };
        assert_eq!(purpose, Purpose::Meet(who));
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let circuit = format!("/ip4/10.0.0.8/tcp/2/p2p/{relay}/p2p-circuit/p2p/{who}");
        assert_eq!(texts, ["/ip4/10.0.0.7/tcp/1", "/ip4/127.0.0.1/udp/9/quic-v1", &circuit]);
    }

    #[tokio::test]
    async fn a_seed_that_is_no_name_costs_itself() {
        let (lookups, mut results) = Lookups::new(TaskTracker::new());
        lookups.seeds(vec!["not an address".to_owned(), "127.0.0.1:7".to_owned()]);
        let Some(Found::Seeds(addresses)) = results.recv().await else { panic!("seeds are found") };
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/ip4/127.0.0.1/tcp/7"]);
    }
}
