//! Lanes: byte streams between two nodes inside a libp2p connection, for where TCP does not get through.
//!
//! A lane is only a carrier. Inside it runs what runs over TCP: TLS with the node keys, greeting and answer, so neither
//! a relay nor libp2p is trusted with anything. This file owns the handle by which dialling asks for lanes; the loop of
//! discovery answers. Opening never dials: it needs a connection that stands, so a node that cannot be had costs its
//! caller no time. When the loop has ended, everything here says that the node is stopping.

mod address;
mod behaviour;
mod handler;
mod held;
mod keeper;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use ollamax_types::PeerId;

use crate::peer::Way;

pub(crate) use address::{Target, circuit_through, direct_targets, is_circuit, place_at, relays_of, told_circuit};
pub(crate) use behaviour::{Behaviour, Event};
pub(crate) use keeper::{Dial, Keeper, Kind, Member};

/// Most questions that wait for the loop.
const ASKS_MAX: usize = 256;
/// Lanes of others that wait for the door.
pub(crate) const LANES_WAITING_MAX: usize = 64;

/// The bytes of a lane.
pub(crate) type LaneIo = Compat<libp2p::Stream>;

/// A byte stream to whoever is at the other end of a libp2p connection.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) io: LaneIo,
    /// Over a direct or over a relayed connection.
    pub(crate) way: Way,
}

/// A lane that another node has opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Whom libp2p takes it for; the greeting inside proves it anew.
    pub(crate) peer_id: PeerId,
    pub(crate) lane: Lane,
}

/// Asks for lanes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lanes(mpsc::Sender<Ask>);

/// What the loop is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A lane over a connection that stands.
    Open { to: libp2p::PeerId, answer: oneshot::Sender<Result<Lane, NoLane>> },
    /// A direct connection that is kept for a while, dialled at these addresses when none stands. With no address it is
    /// the other end that dials.
    Meet { who: libp2p::PeerId, addresses: Vec<String>, answer: oneshot::Sender<Result<(), NoLane>> },
}

/// Why there is no lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLane {
    /// The configuration wants none.
    #[error("lanes are off (p2p.lanes)")]
    Off,
    /// Nobody has dialled, or the dial has not come through yet.
    #[error("no libp2p connection to it stands")]
    Unconnected,
    /// It does not speak the protocol.
    #[error("the node takes no lanes (an older release, or p2p.lanes is off there)")]
    Unspoken,
    /// The connection or the dial failed.
    #[error("{0}")]
    Failed(String),
    /// A bound is reached.
    #[error("too many lanes are being opened")]
    Busy,
    /// No new ones any more.
    #[error("this node is stopping")]
    Stopping,
}

// === impl Lane ===

impl Lane {
    pub(crate) fn new(stream: libp2p::Stream, way: Way) -> Self {
        Self { io: stream.compat(), way }
    }
}

// === impl Lanes ===

impl Lanes {
    /// The handle, and what the loop reads.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        (Self(asks), asked)
    }

    /// A lane to a node over a connection that stands; no dial is made.
    pub(crate) async fn open(&self, to: &PeerId) -> Result<Lane, NoLane> {
        let to = parse(to)?;
        self.ask(|answer| Ask::Open { to, answer }).await
    }

    /// Dials a node at its `p2p` addresses unless a direct connection stands, and keeps the connection for a while.
    /// With no address, keeps what stands, or waits a moment for what the other end makes.
    pub(crate) async fn meet(&self, who: &PeerId, addresses: &[String]) -> Result<(), NoLane> {
        let who = parse(who)?;
        self.ask(|answer| Ask::Meet { who, addresses: addresses.to_vec(), answer }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, NoLane>>) -> Ask) -> Result<T, NoLane> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(ask(answer)).map_err(|error| match error {
            TrySendError::Full(_) => NoLane::Busy,
            TrySendError::Closed(_) => NoLane::Stopping,
        })?;
        answered.await.unwrap_or(Err(NoLane::Stopping))
    }
}

/// A key as libp2p has it.
pub(crate) fn parse(key: &PeerId) -> Result<libp2p::PeerId, NoLane> {
    key.0.parse().map_err(|error: libp2p::identity::ParseError| NoLane::Failed(format!("{key}: {error}")))
}

/// A key as the rest of the node has it.
pub(crate) fn key_of(peer: &libp2p::PeerId) -> PeerId {
    PeerId(peer.to_base58())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PeerId {
        key_of(&libp2p::PeerId::random())
    }

    #[tokio::test]
    async fn an_ask_is_answered_or_says_why_not() {
        let (lanes, mut asked) = Lanes::channel();
        let peer = key();
        let answering = async {
            let Some(Ask::Open { to, answer }) = asked.recv().await else { panic!("one ask comes") };
            assert_eq!(key_of(&to), peer);
            answer.send(Err(NoLane::Unconnected)).expect("somebody waits");
        };
        let (opened, ()) = tokio::join!(lanes.open(&peer), answering);
        assert_eq!(opened.map(|lane| lane.way), Err(NoLane::Unconnected));
        let text = lanes.open(&PeerId("nobody".to_owned())).await.map(|lane| lane.way).unwrap_err().to_string();
        assert!(text.starts_with("nobody: "), "{text}");
        drop(asked);
        assert_eq!(lanes.meet(&peer, &[]).await, Err(NoLane::Stopping));
    }

    #[tokio::test]
    async fn asks_are_bounded() {
        let (lanes, _asked) = Lanes::channel();
        let peer = key();
        let mut waiting: Vec<_> = (0..ASKS_MAX).map(|_| Box::pin(lanes.meet(&peer, &[]))).collect();
        for ask in &mut waiting {
            assert!(futures::poll!(ask).is_pending());
        }
        assert_eq!(lanes.meet(&peer, &[]).await, Err(NoLane::Busy));
    }
}
