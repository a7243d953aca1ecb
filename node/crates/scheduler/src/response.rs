//! An answer on its way back: head known, body still flowing.
//!
//! Whoever holds a [`Response`] holds the slot behind it. Dropping the body frees the slot, the in-flight count and
//! the stream to the other node at once; nothing else has to be called.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;

use ollamax_types::NodeId;

/// Bytes of an answer, as the runtime wrote them, until the end or the break.
pub type Body = BoxStream<'static, Result<Bytes, Broken>>;

/// The answer broke off after its head. What was delivered stays delivered; nothing is sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off: {message}")]
pub struct Broken {
    /// Who broke off and why, for people.
    pub message: String,
}

/// An answer of a runtime.
pub struct Response {
    /// HTTP status of the runtime.
    pub status: u16,
    /// Headers of the runtime, in its order, hop-by-hop headers left out.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Who answers.
    pub node: NodeId,
    /// The bytes. Dropping it cancels the request wherever it is.
    pub body: Body,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, headers, node, body: _ } = self;
        f.debug_struct("Response").field("status", status).field("headers", headers).field("node", node).finish()
    }
}
