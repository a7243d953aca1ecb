//! The port through which this node speaks to other members. Whoever implements it knows connections, not Raft.
//!
//! Two implementations: [`crate::mem::Network`] beside it, and the assembly's adapter over `net`. An implementation
//! must not deliver a message twice, and must keep the three kinds of failure apart: what was certainly not
//! delivered, what may have been, and what the receiver refused.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use ollamax_types::{ErrorCode, NodeId};

/// Which connection carries a message. Each lane has its own, so that none waits behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Log entries and votes.
    Consensus,
    /// Heartbeats and the confirmation of leadership for reads.
    Heartbeat,
    /// Proposals and reads on their way to the leader.
    Forward,
}

/// Why a message brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing was delivered: no address, no connection, or the peer's key is not the member's.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It may have been delivered; the connection broke before the answer.
    #[error("connection lost: {0}")]
    Lost(String),
    /// It may have been delivered; no answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The receiver answered, and refused it.
    #[error("refused: {message}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// Calls to other members. `from`, the cluster and the identity of both ends are the implementation's matter.
pub trait Peers: Send + Sync + 'static {
    /// Sends one message and waits for its answer, at most `deadline`. Dropping the future abandons the answer.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Sends a snapshot as a stream of chunks of at most `SNAPSHOT_CHUNK_BYTES_MAX` plus framing, and waits for the
    /// answer. `deadline_idle` bounds each wait: for room to send the next chunk, and for the answer after the last.
    fn send_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, Bytes>,
        deadline_idle: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}
