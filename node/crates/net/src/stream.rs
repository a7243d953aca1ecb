//! An authenticated byte stream between two nodes.
//!
//! TLS over a carrier (TCP, or a libp2p stream) with the proved key beside it. It can be closed from within (its member
//! departed, the node stops): then reads and writes fail with `ConnectionAborted`, whatever the protocol on top is
//! doing. The bytes inside TLS are counted by class, direction and way.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use ollamax_types::PeerId;

use crate::connections::Entered;
use crate::peer::{Class, Way};
use crate::roster::Link;

/// Bytes to and from a node whose key TLS has proved.
pub struct PeerStream {
    /// TLS, whatever is beneath it.
    io: Box<dyn Carrier>,
    link: Link,
    class: Class,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    entered: Entered,
    /// Places on the listener that are given back when the stream is dropped.
    _places: Vec<OwnedSemaphorePermit>,
}

/// What bytes can be carried by.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Carrier for T {}

// === impl PeerStream ===

impl PeerStream {
    pub(crate) fn new(
        io: Box<dyn Carrier>,
        link: Link,
        class: Class,
        entered: Entered,
        places: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        let closed = Box::pin(entered.close.clone().cancelled_owned());
        Self { io, link, class, closed, entered, _places: places }
    }

    /// The key at the other end.
    #[must_use]
    pub const fn peer_id(&self) -> &PeerId {
        &self.link.peer_id
    }

    /// What the stream is for.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// What carries it.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.entered.way
    }

    pub(crate) const fn link(&self) -> &Link {
        &self.link
    }

    fn count_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.entered.written.inc_by(*count as u64);
        }
    }

    fn refuse_when_closed(&self) -> io::Result<()> {
        if self.entered.close.is_cancelled() { Err(closed_from_within()) } else { Ok(()) }
    }
}

fn closed_from_within() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed: its node departed, or this one stops")
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerStream({}, {}, {})", self.link.peer_id, self.class, self.way())
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Polled first, so that a closing wakes a reader that waits for bytes.
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(closed_from_within()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.entered.heard.note();
            self.entered.read.inc_by(count as u64);
        }
        read
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.refuse_when_closed()?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.count_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.refuse_when_closed()?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.count_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.refuse_when_closed()?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Link;

    fn connect_info(&self) -> Link {
        self.link.clone()
    }
}
