//! Links between nodes that can be cut, delayed, made deaf in one direction, or let spoil a byte.
//!
//! A node advertises the address of its [`Gate`], which passes connections on to the node. The gate finds out which
//! process opened a connection (Linux: `/proc/net/tcp*` and `/proc/<pid>/fd`), so a link is an ordered pair: who
//! called, who was called. A connection whose caller is unknown belongs to the link from [`OUTSIDE`]. Bytes of a
//! stalled direction are held back, not lost, as on a cable that is plugged in again; a cut loses everything. A byte is
//! spoilt once for each time that this was asked for. What a mode did to connections, and which bytes arrived wrong, is
//! counted, so that a test can prove that its trouble met something.

mod owner;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fake_ollama::lock;
use crate::wait;

/// The caller of connections that no registered process opened.
pub const OUTSIDE: usize = usize::MAX;

/// Bytes in flight on one delayed direction, in pieces of up to 64 KiB.
const PIECES_IN_FLIGHT: usize = 256;

/// How a link treats its connections, old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As a wire.
    #[default]
    Open,
    /// Connections break; new ones break at once. As a port that is closed.
    Cut,
    /// Connections stay, nothing passes either way. As a pulled cable.
    Silent,
    /// What the caller sends stays away; what the called one sends arrives.
    CallerUnheard,
    /// What the called one sends stays away; what the caller sends arrives.
    CalledUnheard,
    /// Every byte arrives this much later, both ways.
    Delayed(Duration),
    /// Not more than this many bytes pass in a second, each way.
    Slow(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToCalled,
    ToCaller,
}

impl Mode {
    const fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Delayed(_) | Self::Slow(_) => true,
            Self::Cut | Self::Silent => false,
            Self::CallerUnheard => matches!(direction, Direction::ToCaller),
            Self::CalledUnheard => matches!(direction, Direction::ToCalled),
        }
    }

    const fn delay(self) -> Duration {
        match self {
            Self::Delayed(delay) => delay,
            _ => Duration::ZERO,
        }
    }

    /// How long a piece of this many bytes takes.
    fn time_of(self, bytes: usize) -> Duration {
        match self {
            Self::Slow(per_second) => {
                Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / per_second.max(1)
            }
            _ => Duration::ZERO,
        }
    }
}

/// All links of a cluster, and which process is which node.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    processes: Mutex<BTreeMap<u32, usize>>,
    modes: Mutex<BTreeMap<(usize, usize), watch::Sender<Mode>>>,
    touched: AtomicU64,
    /// How many bytes a piece must have of which one is to arrive wrong, by link.
    flips: Mutex<BTreeMap<(usize, usize), usize>>,
    flipped: AtomicU64,
}

/// The link of one connection.
#[derive(Debug, Clone, Copy)]
struct Link<'a> {
    links: &'a Links,
    /// Who called, who was called.
    pair: (usize, usize),
}

// === impl Links ===

impl Links {
    /// Says that a process is a node. A restarted node is registered again under its new process id.
    pub fn register(&self, pid: u32, node: usize) {
        let mut processes = lock(&self.0.processes);
        processes.retain(|_, known| *known != node);
        processes.insert(pid, node);
    }

    /// Sets the link on which `from` calls `to`.
    pub fn set(&self, from: usize, to: usize, mode: Mode) {
        self.sender(from, to).send_replace(mode);
    }

    /// Sets both links between two nodes.
    pub fn set_both(&self, a: usize, b: usize, mode: Mode) {
        self.set(a, b, mode);
        self.set(b, a, mode);
    }

    /// Sets every link between the two groups, both ways.
    pub fn divide(&self, group: &[usize], others: &[usize], mode: Mode) {
        for a in group {
            for b in others {
                self.set_both(*a, *b, mode);
            }
        }
    }

    /// Lets one byte arrive wrong on the link on which `from` calls `to`, whichever way it goes: in the middle of the
    /// next piece that is read of a connection in one go and has at least so many bytes. A piece of many bytes is of
    /// those who send much. Once; asked for again before that, it is still once.
    pub fn flip(&self, from: usize, to: usize, piece_bytes_min: usize) {
        lock(&self.0.flips).insert((from, to), piece_bytes_min.max(1));
    }

    /// How many bytes arrived wrong so far.
    #[must_use]
    pub fn flipped(&self) -> u64 {
        self.0.flipped.load(Ordering::Relaxed)
    }

    /// Opens all links, and lets all bytes arrive as they are.
    pub fn heal(&self) {
        lock(&self.0.flips).clear();
        for sender in lock(&self.0.modes).values() {
            sender.send_replace(Mode::Open);
        }
    }

    /// How often a mode other than [`Mode::Open`] did something to a connection: cut it, held a direction of it back,
    /// or made a piece of bytes late. A test compares two looks.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.0.touched.load(Ordering::Relaxed)
    }

    fn touch(&self) {
        self.0.touched.fetch_add(1, Ordering::Relaxed);
    }

    fn sender(&self, from: usize, to: usize) -> watch::Sender<Mode> {
        lock(&self.0.modes).entry((from, to)).or_default().clone()
    }

    async fn caller(&self, source: SocketAddr, gate: SocketAddr) -> usize {
        let processes = lock(&self.0.processes).clone();
        let find = move || owner::find(source.port(), gate.port(), &processes.keys().copied().collect::<Vec<_>>());
        let pid = tokio::task::spawn_blocking(find).await.ok().flatten();
        pid.and_then(|pid| lock(&self.0.processes).get(&pid).copied()).unwrap_or(OUTSIDE)
    }
}

// === impl Link ===

impl Link<'_> {
    fn touch(self) {
        self.links.touch();
    }

    /// Turns a bit of a piece, if that was asked for.
    fn spoil(self, piece: &mut [u8]) {
        let (table, middle) = (&self.links.0, piece.len() / 2);
        let mut flips = lock(&table.flips);
        let is_meant = flips.get(&self.pair).is_some_and(|bytes_min| piece.len() >= *bytes_min);
        if let Some(byte) = piece.get_mut(middle).filter(|_| is_meant) {
            *byte ^= 1;
            flips.remove(&self.pair);
            table.flipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The address that a node advertises in place of its own.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    stop: CancellationToken,
}

// === impl Gate ===

impl Gate {
    /// Opens the gate of node `to`, whose own listener is at `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(links: Links, to: usize, target: SocketAddr) -> Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::port::free()?));
        let listener = TcpListener::bind(wanted).await.with_context(|| format!("bind {wanted}"))?;
        let gate =
            Self { address: listener.local_addr().context("read the bound address")?, stop: CancellationToken::new() };
        let tasks = TaskTracker::new();
        tasks.spawn(accept(
            listener,
            links,
            Passage { to, target, address: gate.address, stop: gate.stop.clone() },
            tasks.clone(),
        ));
        Ok(gate)
    }

    /// What to advertise.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug, Clone)]
struct Passage {
    to: usize,
    target: SocketAddr,
    address: SocketAddr,
    stop: CancellationToken,
}

async fn accept(listener: TcpListener, links: Links, passage: Passage, tasks: TaskTracker) {
    loop {
        let (stream, source) = tokio::select! {
            () = passage.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        let (links, passage) = (links.clone(), passage.clone());
        tasks.spawn(async move {
            let from = links.caller(source, passage.address).await;
            let pair = (from, passage.to);
            let mode = links.sender(from, passage.to).subscribe();
            tokio::select! {
                () = passage.stop.cancelled() => {}
                // A broken connection is what links are for; both sides notice by themselves.
                _ended = pass(stream, passage.target, mode, Link { links: &links, pair }) => {}
            }
        });
    }
}

/// Carries one connection until an end closes it or the link is cut.
async fn pass(
    caller: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    link: Link<'_>,
) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut cut = mode.clone();
    let carry = async {
        if *mode.borrow() == Mode::Silent {
            link.touch();
        }
        // A silent link does not even carry the connection's first packet.
        if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
            return Ok(());
        }
        let called = TcpStream::connect(target).await?;
        called.set_nodelay(true)?;
        let (caller_read, caller_write) = caller.into_split();
        let (called_read, called_write) = called.into_split();
        let there = pump(caller_read, called_write, mode.clone(), Direction::ToCalled, link);
        let back = pump(called_read, caller_write, mode.clone(), Direction::ToCaller, link);
        tokio::try_join!(there, back).map(|_| ())
    };
    tokio::select! {
        biased;
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {
            link.touch();
            Ok(())
        }
        done = carry => done,
    }
}

/// Moves one direction: a reader that stops while the direction is stalled and reads no faster than the link is, and a
/// writer that keeps each piece back for the delay it was read under.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    direction: Direction,
    link: Link<'_>,
) -> io::Result<()> {
    let (send, mut receive) = mpsc::channel::<(Instant, Bytes)>(PIECES_IN_FLIGHT);
    let read = async move {
        let mut buffer = BytesMut::new();
        loop {
            if !mode.borrow().passes(direction) {
                link.touch();
            }
            let Ok(now) = mode.wait_for(|mode| mode.passes(direction)).await.map(|now| *now) else { return Ok(()) };
            buffer.reserve(64 << 10);
            tokio::select! {
                biased;
                changed = mode.changed() => if changed.is_err() { return Ok(()) },
                count = from.read_buf(&mut buffer) => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    if now != Mode::Open {
                        link.touch();
                    }
                    link.spoil(&mut buffer);
                    // Whoever sends too much has to wait, as before a narrow link.
                    wait::pause(now.time_of(count)).await;
                    if send.send((Instant::now() + now.delay(), buffer.split().freeze())).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receive.recv().await {
            wait::pause_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_: ((), ())| ())
}

#[cfg(test)]
mod tests;
