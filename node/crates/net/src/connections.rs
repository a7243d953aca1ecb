//! The open connections, both ways, and how they are closed from within.
//!
//! Every authenticated stream is entered here when it opens and leaves when it is dropped. Closing one makes its next
//! read or write fail, on which the protocol above it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::peer::Class;
use crate::roster::Link;

/// Who dialled.
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

/// One open connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) link: Link,
    pub(crate) direction: Direction,
    /// Whether the other end was a member when it opened, or has been found to be one since.
    pub(crate) was_member: bool,
    pub(crate) since: Instant,
    close: CancellationToken,
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    live: Mutex<Table>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    rows: HashMap<u64, Live>,
}

/// Keeps a connection on the table; held by its stream.
#[derive(Debug)]
pub(crate) struct Entered {
    id: u64,
    class: Class,
    direction: Direction,
    connections: Arc<Connections>,
    /// Cancelled when the connection shall end.
    pub(crate) close: CancellationToken,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { live: Mutex::default(), metrics }
    }

    /// Enters a connection that has just been authenticated.
    pub(crate) fn enter(self: &Arc<Self>, link: Link, direction: Direction, class: Class, is_member: bool) -> Entered {
        let close = CancellationToken::new();
        let live = Live { link, direction, was_member: is_member, since: Instant::now(), close: close.clone() };
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.rows.insert(id, live);
        drop(table);
        self.metrics.open_connections(class, direction).inc();
        Entered { id, class, direction, connections: Arc::clone(self), close }
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
        self.connections.metrics.open_connections(self.class, self.direction).dec();
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::PeerId;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_on_the_table_until_it_is_dropped() {
        let connections = Arc::new(Connections::new(Metrics::new()));
        let link = |name: &str| Link { peer_id: PeerId(name.to_owned()), vouched: None };
        let one = connections.enter(link("one"), Direction::In, Class::Raft, true);
        let two = connections.enter(link("two"), Direction::Out, Class::Raft, true);
        assert_eq!(connections.count(), 2);
        assert_eq!(connections.close_where(|live| live.link.peer_id.0 == "one"), 1);
        assert_eq!(connections.close_where(|live| live.link.peer_id.0 == "one"), 0, "closed already");
        assert!(one.close.is_cancelled() && !two.close.is_cancelled());
        drop((one, two));
        assert_eq!(connections.count(), 0);
    }
}
