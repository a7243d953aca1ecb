//! The open connections, both ways, and how they are closed from within.
//!
//! Every authenticated stream is entered here when it opens and leaves when it is dropped. Closing one makes its next
//! read or write fail, on which the protocol above it ends. Before a member's connection is entered, it has outlasted
//! every other process with the same key; see [`crate::twins`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_types::PeerId;

use crate::metrics::Metrics;
use crate::peer::{Class, Way};
use crate::roster::Link;
use crate::twins::{self, Boot, Verdict};

/// Who dialled; of bytes, which way they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Direction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// One end of a connection that has just been authenticated.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) link: Link,
    /// The process at the other end.
    pub(crate) boot: Boot,
    pub(crate) direction: Direction,
    pub(crate) class: Class,
    /// What carries it.
    pub(crate) way: Way,
    pub(crate) is_member: bool,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) link: Link,
    pub(crate) direction: Direction,
    /// Whether the other end was a member when it opened, or has been found to be one since.
    pub(crate) was_member: bool,
    pub(crate) since: Instant,
    boot: Boot,
    heard: Arc<Heard>,
    close: CancellationToken,
}

/// When a connection last brought bytes.
#[derive(Debug)]
pub(crate) struct Heard {
    opened: Instant,
    after_ms: AtomicU64,
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    /// This process.
    boot: Boot,
    live: Mutex<Table>,
    /// Told each time a connection leaves the table.
    left: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    rows: HashMap<u64, Live>,
}

/// Another process with the same key is connected and speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TwinLives;

/// Keeps a connection on the table; held by its stream.
#[derive(Debug)]
pub(crate) struct Entered {
    id: u64,
    class: Class,
    direction: Direction,
    connections: Arc<Connections>,
    /// What carries it.
    pub(crate) way: Way,
    /// Bytes that came.
    pub(crate) read: IntCounter,
    /// Bytes that went.
    pub(crate) written: IntCounter,
    /// To be told of each arrival of bytes.
    pub(crate) heard: Arc<Heard>,
    /// Cancelled when the connection shall end.
    pub(crate) close: CancellationToken,
}

// === impl Heard ===

impl Heard {
    fn new() -> Self {
        Self { opened: Instant::now(), after_ms: AtomicU64::new(0) }
    }

    /// Bytes have come.
    pub(crate) fn note(&self) {
        let after_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after_ms, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.opened + Duration::from_millis(self.after_ms.load(Ordering::Relaxed))
    }
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(boot: Boot, metrics: Metrics) -> Self {
        Self { boot, live: Mutex::default(), left: Notify::new(), metrics }
    }

    /// This process.
    pub(crate) const fn boot(&self) -> Boot {
        self.boot
    }

    /// Enters a connection that has just been authenticated.
    pub(crate) fn enter(self: &Arc<Self>, arrival: Arrival) -> Entered {
        let Arrival { link, boot, direction, class, way, is_member } = arrival;
        let (close, heard) = (CancellationToken::new(), Arc::new(Heard::new()));
        let since = heard.opened;
        let row = Live {
            link,
            direction,
            was_member: is_member,
            since,
            boot,
            heard: Arc::clone(&heard),
            close: close.clone(),
        };
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.rows.insert(id, row);
        drop(table);
        self.metrics.open_connections(class, direction).inc();
        let [read, written] = [Direction::In, Direction::Out].map(|gone| self.metrics.bytes(class, gone, way));
        Entered { id, class, direction, connections: Arc::clone(self), way, read, written, heard, close }
    }

    /// Waits until it is clear that no other process with this key speaks, and closes what a silent one has left. Ends
    /// at once when there is none, and after `window` at the latest.
    pub(crate) async fn outlast_twins(&self, key: &PeerId, boot: Boot, window: Duration) -> Result<(), TwinLives> {
        let arrived = Instant::now();
        loop {
            // Made before the look, so that nobody leaves unseen between the two.
            let left = self.left.notified();
            match twins::judge(&self.heard_from_twins(key, boot), arrived, Instant::now(), window) {
                Verdict::Alone => return Ok(()),
                Verdict::Lives => return Err(TwinLives),
                Verdict::Silent => {
                    self.close_where(|live| live.link.peer_id == *key && live.boot != boot);
                    return Ok(());
                }
                Verdict::Unclear => {}
            }
            tokio::select! {
                () = left => {}
                () = sleep_until(arrived + window) => {}
            }
        }
    }

    fn heard_from_twins(&self, key: &PeerId, boot: Boot) -> Vec<Instant> {
        let table = self.table();
        let twins = table.rows.values().filter(|live| live.link.peer_id == *key && live.boot != boot);
        twins.filter(|live| !live.close.is_cancelled()).map(|live| live.heard.at()).collect()
    }

    /// Closes each connection for which `unwanted` says so, and tells how many these were.
    pub(crate) fn close_where(&self, mut unwanted: impl FnMut(&mut Live) -> bool) -> usize {
        let mut table = self.table();
        let closing = table.rows.values_mut().filter_map(|live| unwanted(live).then_some(&live.close));
        closing.filter(|close| !close.is_cancelled()).inspect(|close| close.cancel()).count()
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.table().rows.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.table().rows.remove(&self.id);
        self.connections.left.notify_waiters();
        self.connections.metrics.open_connections(self.class, self.direction).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Boot = Boot([1; 16]);
    const NEW: Boot = Boot([2; 16]);

    fn connections() -> Arc<Connections> {
        Arc::new(Connections::new(Boot([0; 16]), Metrics::new()))
    }

    fn key(name: &str) -> PeerId {
        PeerId(name.to_owned())
    }

    fn arrival(name: &str, boot: Boot) -> Arrival {
        let link = Link { peer_id: key(name), vouched: None };
        Arrival { link, boot, direction: Direction::In, class: Class::Raft, way: Way::Tcp, is_member: true }
    }

    #[tokio::test]
    async fn a_connection_is_on_the_table_until_it_is_dropped() {
        let connections = connections();
        let one = connections.enter(arrival("one", OLD));
        let two = connections.enter(arrival("two", OLD));
        assert_eq!(connections.count(), 2);
        assert_eq!(connections.close_where(|live| live.link.peer_id.0 == "one"), 1);
        assert_eq!(connections.close_where(|live| live.link.peer_id.0 == "one"), 0, "closed already");
        assert!(one.close.is_cancelled() && !two.close.is_cancelled());
        drop((one, two));
        assert_eq!(connections.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_alone_or_whose_twin_has_ended_waits_for_nothing() {
        let (connections, one) = (connections(), key("one"));
        let start = Instant::now();
        let _other = connections.enter(arrival("other", OLD));
        let _own = connections.enter(arrival("one", NEW));
        assert_eq!(connections.outlast_twins(&one, NEW, twins::WINDOW).await, Ok(()));
        assert_eq!(start.elapsed(), Duration::ZERO);

        let old = connections.enter(arrival("one", OLD));
        let ends = async {
            sleep_until(start + twins::WINDOW / 10).await;
            drop(old);
        };
        let (outlasted, ()) = tokio::join!(connections.outlast_twins(&one, NEW, twins::WINDOW), ends);
        assert_eq!(outlasted, Ok(()));
        assert!(start.elapsed() < twins::WINDOW / 2, "not only after the window");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_twin_is_closed_and_one_that_speaks_stays() {
        let (connections, one) = (connections(), key("one"));
        let old = connections.enter(arrival("one", OLD));
        assert_eq!(connections.outlast_twins(&one, NEW, twins::WINDOW).await, Ok(()));
        assert!(old.close.is_cancelled(), "nobody spoke");

        let old = connections.enter(arrival("one", OLD));
        let speaks = async {
            sleep_until(Instant::now() + twins::WINDOW * 3 / 4).await;
            old.heard.note();
        };
        let (outlasted, ()) = tokio::join!(connections.outlast_twins(&one, NEW, twins::WINDOW), speaks);
        assert_eq!(outlasted, Err(TwinLives));
        assert!(!old.close.is_cancelled());
    }
}
