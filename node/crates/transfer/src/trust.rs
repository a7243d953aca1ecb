//! Whom this node asks for files, and what it tells those who sent damaged pieces.
//!
//! What `ollamax_core::trust` decides holds for all pulls of this node and for no other node: it is kept in memory, and
//! a start forgives all. Who is struck is told which file it was, so that it reads its own again; a doubt that others
//! tell this node is heard once a minute from each of them. Always holds: nobody waits for any of it. A doubt that
//! cannot be told is dropped; the next strike tells another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use ollamax_core::trust::{Rules, Trust, Verdict};
use ollamax_types::{Clock, Digest, NodeId, Quarantine};

use crate::metrics::Metrics;
use crate::ports::Peers;
use crate::progress::millis;

/// Time between two doubts about one file of one node.
const TELL_INTERVAL: Duration = Duration::from_secs(600);
/// How long a node may take to hear a doubt.
const TELL_WAIT: Duration = Duration::from_secs(30);
/// Most doubts that are remembered as told; while there are so many, no more are told.
const TOLD_MAX: usize = 1_024;
/// Time between two doubts that one node may tell.
const HEAR_INTERVAL: Duration = Duration::from_secs(60);

/// Whom this node trusts. Clones are the same.
#[derive(Clone)]
pub(crate) struct Trusting(Arc<Inner>);

struct Inner {
    rules: Rules,
    peers: Arc<dyn Peers>,
    clock: Clock,
    metrics: Metrics,
    started: Instant,
    trust: Mutex<Trust>,
    /// When a node was told last that a file of its is doubted.
    told: Mutex<BTreeMap<(NodeId, Digest), Instant>>,
    /// When a node told the last doubt that was heard.
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    /// Doubts on their way. They end with this.
    tasks: Mutex<JoinSet<()>>,
}

// === impl Trusting ===

impl Trusting {
    pub(crate) fn new(peers: Arc<dyn Peers>, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            rules: Rules::default(),
            peers,
            clock,
            metrics,
            started: Instant::now(),
            trust: Mutex::default(),
            told: Mutex::default(),
            heard: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// A node sent a piece of a file that is provably not what it must be.
    pub(crate) fn strike(&self, peer: NodeId, sha256: Digest, index: u32) {
        let verdict = lock(&self.0.trust).strike(&self.0.rules, self.now_ms(), peer);
        if let Verdict::Quarantined { until_ms } = verdict {
            let wait_s = until_ms.saturating_sub(self.now_ms()) / 1_000;
            tracing::warn!(
                %peer,
                %sha256,
                chunk = index,
                wait_s,
                "a node sends damaged pieces; it is asked for nothing for a while"
            );
            self.quarantined();
        }
        self.tell(peer, sha256, index);
    }

    /// A node sent a good piece.
    pub(crate) fn good(&self, peer: NodeId) {
        lock(&self.0.trust).good(&self.0.rules, self.now_ms(), peer, 1);
    }

    /// Whether a node may be asked.
    pub(crate) fn may_ask(&self, peer: NodeId) -> bool {
        lock(&self.0.trust).may_ask(self.now_ms(), peer)
    }

    /// The nodes that are asked for nothing. Whoever looks keeps the metric true.
    pub(crate) fn quarantined(&self) -> Vec<Quarantine> {
        let (now_ms, now) = (self.now_ms(), self.0.clock.now());
        let shut = lock(&self.0.trust).quarantined(now_ms);
        self.0.metrics.show_quarantined(shut.len());
        let told = shut.into_iter().map(|shut| Quarantine {
            node: shut.peer,
            until: now.plus_ms(shut.until_ms.saturating_sub(now_ms)),
            strikes: shut.strikes,
        });
        told.collect()
    }

    /// Whether a doubt of another node is heard. One that comes too soon is not, whatever it is about.
    pub(crate) fn hears(&self, from: NodeId) -> bool {
        let mut heard = lock(&self.0.heard);
        heard.retain(|_, at| at.elapsed() < HEAR_INTERVAL);
        let is_heard = !heard.contains_key(&from);
        if is_heard {
            heard.insert(from, Instant::now());
            self.0.metrics.doubt_heard();
        }
        is_heard
    }

    /// Tells a node that a file of its is doubted, unless it was told lately.
    fn tell(&self, peer: NodeId, sha256: Digest, index: u32) {
        let mut told = lock(&self.0.told);
        told.retain(|_, at| at.elapsed() < TELL_INTERVAL);
        if told.len() >= TOLD_MAX || told.contains_key(&(peer, sha256)) {
            return;
        }
        told.insert((peer, sha256), Instant::now());
        drop(told);
        self.0.metrics.doubt_told();
        let telling = timeout(TELL_WAIT, self.0.peers.doubt(peer, sha256, index));
        let mut tasks = lock(&self.0.tasks);
        while tasks.try_join_next().is_some() {}
        // It ends when it is told, or soon; if it fails, that node finds the damage when it next reads the file.
        tasks.spawn(async move {
            if let Ok(Err(error)) = telling.await {
                tracing::debug!(%peer, %sha256, %error, "tell a node that a file of its is doubted");
            }
        });
    }

    fn now_ms(&self) -> u64 {
        millis(self.0.started.elapsed())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use ollamax_types::Timestamp;

    use crate::mem::MemPeers;

    use super::*;

    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);
    const FILE: Digest = Digest([7; 32]);
    const OTHER: Digest = Digest([8; 32]);

    fn trusting(peers: &MemPeers) -> Trusting {
        Trusting::new(Arc::new(peers.clone()), Clock::manual(Timestamp(5_000)), Metrics::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_in_quarantine_is_told_with_its_end_and_leaves_it_by_itself() {
        let trusting = trusting(&MemPeers::default());
        trusting.strike(TWO, FILE, 1);
        trusting.strike(TWO, FILE, 2);
        assert!(trusting.may_ask(TWO) && trusting.quarantined().is_empty());
        trusting.strike(TWO, OTHER, 0);
        assert!(!trusting.may_ask(TWO) && trusting.may_ask(THREE));
        let shut = Quarantine { node: TWO, until: Timestamp(605_000), strikes: 3 };
        assert_eq!(trusting.quarantined(), [shut]);
        sleep(Duration::from_secs(600)).await;
        assert!(trusting.may_ask(TWO) && trusting.quarantined().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_told_of_each_file_once_in_ten_minutes() {
        let peers = MemPeers::default();
        let trusting = trusting(&peers);
        for (index, file) in [FILE, FILE, OTHER, FILE].into_iter().enumerate() {
            trusting.strike(TWO, file, u32::try_from(index).expect("few"));
        }
        trusting.strike(THREE, FILE, 9);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(peers.doubts(), [(TWO, FILE, 0), (TWO, OTHER, 2), (THREE, FILE, 9)]);
        sleep(TELL_INTERVAL).await;
        trusting.strike(TWO, FILE, 4);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(peers.doubts().last(), Some(&(TWO, FILE, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_is_heard_once_a_minute_from_each_node() {
        let trusting = trusting(&MemPeers::default());
        let heard: Vec<bool> = [TWO, TWO, THREE, TWO].map(|from| trusting.hears(from)).to_vec();
        assert_eq!(heard, [true, false, true, false]);
        sleep(Duration::from_secs(59)).await;
        assert!(!trusting.hears(TWO), "it was heard 59 seconds ago");
        sleep(Duration::from_secs(1)).await;
        assert!(trusting.hears(TWO));
    }
}
