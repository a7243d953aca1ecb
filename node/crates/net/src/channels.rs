//! gRPC channels over authenticated streams, one per node and class.
//!
//! A channel dials when it is first used and again after its connection ended, each time to where the table says the
//! node is then. While a node cannot be reached, calls fail with `unavailable` and a [`ConnectError`] behind it. The
//! library's tasks run in the node's tracked group and end when the door is closed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use ollamax_types::{NodeId, PeerId};

use crate::config::PeerConfig;
use crate::dial::Dialer;
use crate::error::ConnectError;
use crate::peer::Class;
use crate::roster::Roster;

/// Every request names this authority; the stream beneath it is what counts.
const AUTHORITY: &str = "http://peer.ollamax";
/// Streams that a side may have reset and still hears about, before the oldest are forgotten.
const RESET_STREAMS_MAX: usize = 1_024;

/// The channels that are in use.
#[derive(Debug)]
pub(crate) struct Channels {
    dialer: Arc<Dialer>,
    roster: Arc<Roster>,
    endpoint: Endpoint,
    /// Each with the epoch of its node in which it was made.
    cached: Mutex<HashMap<(NodeId, Class), (u64, Channel)>>,
}

// === impl Channels ===

impl Channels {
    pub(crate) fn new(config: &PeerConfig, dialer: Arc<Dialer>, roster: Arc<Roster>, executor: Tracked) -> Self {
        let endpoint = Endpoint::from_static(AUTHORITY)
            .http2_keep_alive_interval(config.ping_interval())
            .keep_alive_timeout(config.ping_timeout())
            .keep_alive_while_idle(true)
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .http2_max_concurrent_reset_streams(RESET_STREAMS_MAX)
            .executor(executor);
        Self { dialer, roster, endpoint, cached: Mutex::default() }
    }

    /// The channel to a member. For a node that is no member each call on it fails. One that was made before a better
    /// way was found is let go for a new one, which dials that way.
    pub(crate) fn to_node(&self, node: NodeId, class: Class) -> Channel {
        let epoch = self.dialer.epoch(node);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = cached.get(&(node, class))
            && *of >= epoch
        {
            return channel.clone();
        }
        let dialer = Arc::clone(&self.dialer);
        let channel = self.endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let dialer = Arc::clone(&dialer);
            async move { dialer.to_node(node, class).await.map(TokioIo::new) }
        }));
        if self.roster.has_member(node) {
            cached.insert((node, class), (epoch, channel.clone()));
        }
        channel
    }

    /// A channel to whoever answers at an address now, and later only to the same key.
    pub(crate) async fn to_address(&self, address: &str, class: Class) -> Result<(Channel, PeerId), ConnectError> {
        let first = self.dialer.to_address(address, None, class).await?;
        let peer_id = first.peer_id().clone();
        let first = Arc::new(Mutex::new(Some(first)));
        let (dialer, address, expected) = (Arc::clone(&self.dialer), address.to_owned(), peer_id.clone());
        let channel = self.endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let open = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (dialer, address, expected) = (Arc::clone(&dialer), address.clone(), expected.clone());
            async move {
                match open {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => dialer.to_address(&address, Some(&expected), class).await.map(TokioIo::new),
                }
            }
        }));
        Ok((channel, peer_id))
    }

    /// Forgets the channels of a node, so that the next calls dial anew. Calls that run are left alone: their
    /// connection ends when the last of them has.
    pub(crate) fn forget(&self, node: NodeId) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|(known, _), _| *known != node);
    }

    /// Forgets the channels of nodes that are no members any more.
    pub(crate) fn forget_departed(&self) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|(node, _), _| self.roster.has_member(*node));
    }
}

/// Runs the library's tasks in the node's group, until the door is closed.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) tasks: TaskTracker,
    pub(crate) closed: CancellationToken,
}

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Tracked {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            closed.run_until_cancelled(task).await;
        });
    }
}
