//! One connection's part of the lanes: opens streams, takes streams in, and keeps the connection when told to.
//!
//! A stream belongs to whoever it is handed to; as long as it lives, so does the connection. How many are opened at
//! once is bounded by the behaviour; how many come in at once by libp2p, which negotiates few at a time and waits while
//! what came is not taken. A stream that cannot be had is told with its ticket.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};

use super::NoLane;

/// What a lane is called between nodes, version 1.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/ollamax/lane/1");
/// Longest wait until both ends have agreed on the protocol.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the behaviour wants.
#[derive(Debug)]
pub(crate) enum In {
    /// A stream, under this ticket.
    Open(u64),
    /// Whether the connection stays while nobody uses it.
    Hold(bool),
}

/// What the behaviour is told.
#[derive(Debug)]
pub(crate) enum Out {
    Opened(u64, Stream),
    Failed(u64, NoLane),
    /// The other node has opened a stream.
    Came(Stream),
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Handler {
    is_held: bool,
    to_open: VecDeque<u64>,
    to_tell: VecDeque<Out>,
}

// === impl Handler ===

impl ConnectionHandler for Handler {
    type FromBehaviour = In;
    type ToBehaviour = Out;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = u64;

    fn listen_protocol(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.is_held
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, u64, Out>> {
        // Nothing has to wake this: the connection polls again after whatever it has handed in.
        if let Some(told) = self.to_tell.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        let Some(ticket) = self.to_open.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ticket).with_timeout(OPEN_TIMEOUT);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, wanted: In) {
        match wanted {
            In::Open(ticket) => self.to_open.push_back(ticket),
            In::Hold(is_held) => self.is_held = is_held,
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), u64>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.to_tell.push_back(Out::Came(stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: ticket }) => {
                self.to_tell.push_back(Out::Opened(ticket, stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: ticket, error }) => {
                let problem = match error {
                    StreamUpgradeError::NegotiationFailed => NoLane::Unspoken,
                    StreamUpgradeError::Timeout => NoLane::Failed("the node did not answer in time".to_owned()),
                    StreamUpgradeError::Io(error) => NoLane::Failed(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.to_tell.push_back(Out::Failed(ticket, problem));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_asked_for_in_order_and_failures_are_told_first() {
        let mut handler = Handler::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(handler.poll(&mut context).is_pending());
        handler.on_behaviour_event(In::Open(1));
        handler.on_behaviour_event(In::Open(2));
        let failed = DialUpgradeError { info: 7, error: StreamUpgradeError::NegotiationFailed };
        handler.on_connection_event(ConnectionEvent::DialUpgradeError(failed));
        let Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told)) = handler.poll(&mut context) else {
            panic!("a failure is told");
        };
        assert!(matches!(told, Out::Failed(7, NoLane::Unspoken)), "{told:?}");
        for expected in [1, 2] {
            let Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }) = handler.poll(&mut context)
            else {
                panic!("a stream is asked for");
            };
            assert_eq!(*protocol.info(), expected);
        }
        assert!(handler.poll(&mut context).is_pending());
    }

    #[test]
    fn a_connection_is_kept_while_it_is_held() {
        let mut handler = Handler::default();
        assert!(!handler.connection_keep_alive());
        handler.on_behaviour_event(In::Hold(true));
        assert!(handler.connection_keep_alive());
        handler.on_behaviour_event(In::Hold(false));
        assert!(!handler.connection_keep_alive());
    }
}
