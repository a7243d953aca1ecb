//! The `peer` listener: takes TCP connections and lanes, and brings each to the door.
//!
//! Every connection is authenticated in a task of its own, so a slow one delays nobody. One that fails is counted and
//! dropped; the listener itself ends only when the node stops. When no lanes come any more, because the `p2p` part has
//! ended, TCP goes on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_types::limits;

use crate::door::{Door, Outlets};
use crate::lanes::Incoming;
use crate::peer::Way;
use crate::stream::Carrier;

/// Connections that the kernel may hold before we accept them.
const BACKLOG: i32 = 1_024;
/// Wait after the system refused to accept a connection (no file descriptors left, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at strangers that have stayed too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Opens a listening socket; `[::]` takes IPv4 too, and falls back to it where IPv6 is switched off.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match open_socket(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            open_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        opened => opened,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.to_string().contains("not supported")
}

fn open_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts and brings to the door.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Lanes that other nodes have opened.
    pub(crate) lanes: mpsc::Receiver<Incoming>,
    pub(crate) door: Arc<Door>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

// === impl Listener ===

impl Listener {
    /// Takes connections until the node stops.
    pub(crate) async fn run(mut self, outlets: Outlets) {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.socket.accept() => match accepted {
                    Ok((tcp, from)) => self.admit_tcp(tcp, from, &outlets),
                    Err(error) => {
                        tracing::warn!(%error, "accept a peer's connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(Incoming { peer_id, lane }) = self.lanes.recv() => {
                    self.admit(lane.io, lane.way, peer_id.0, &outlets);
                }
                _ = sweep.tick() => self.door.show_out_strangers(),
            }
        }
    }

    fn admit_tcp(&self, tcp: TcpStream, from: SocketAddr, outlets: &Outlets) {
        match prepare(&tcp) {
            Ok(()) => self.admit(tcp, Way::Tcp, from.to_string(), outlets),
            Err(error) => self.door.note_failure(&from.to_string(), &error),
        }
    }

    fn admit(&self, io: impl Carrier, way: Way, from: String, outlets: &Outlets) {
        let Some((handshake, connection)) = self.door.places() else { return };
        let (door, outlets, stop) = (Arc::clone(&self.door), outlets.clone(), self.stop.clone());
        // A failed handshake ends here, counted; when the node stops, an unfinished one is dropped.
        self.tasks.spawn(async move {
            let shaken = stop.run_until_cancelled(door.shake_hands(io, way, &from, connection)).await;
            drop(handshake);
            if let Some(Some(stream)) = shaken {
                door.hand_on(stream, &outlets).await;
            }
        });
    }
}

/// A dead machine is noticed although nothing is sent to it.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(limits::TCP_KEEPALIVE_IDLE);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive.with_interval(limits::TCP_KEEPALIVE_INTERVAL))
}
