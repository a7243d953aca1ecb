//! Moving up: members that are reached by a detour are tried again by better ways.
//!
//! Owns two loops that end with the stop. One tries such members again at intervals, the other hears of direct libp2p
//! connections that have come about. What is found counts for whatever is opened from then on; no connection is closed,
//! so nothing that runs is lost. Whoever holds a long stream sees the epoch of the node change, and opens the next
//! stream when it likes. A try that fails changes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use ollamax_types::{NodeId, PeerId};

use crate::channels::Channels;
use crate::dial::{Dialer, Path};
use crate::peer::Way;
use crate::roster::Roster;

/// Most members that are tried at once.
const TRIES_MAX: usize = 8;

/// Looks for better ways.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) roster: Arc<Roster>,
    /// Time between two tries.
    pub(crate) every: Duration,
}

// === impl Upgrade ===

impl Upgrade {
    /// Moves members up until the node stops. `found` tells of members that libp2p is connected with in a better way.
    pub(crate) async fn run(self, found: mpsc::Receiver<(PeerId, Way)>, stop: CancellationToken) {
        let both = async { tokio::join!(self.follow(found), self.look_again()) };
        // Both go on until they are dropped here, or the finder has ended and nothing is left but to look.
        stop.run_until_cancelled(both).await;
    }

    async fn follow(&self, mut found: mpsc::Receiver<(PeerId, Way)>) {
        while let Some((peer, way)) = found.recv().await {
            if let Some(node) = self.roster.node_of_key(&peer) {
                self.prefer(node, Path::Lane, way);
            }
        }
    }

    async fn look_again(&self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let detours = futures::stream::iter(self.dialer.detours());
            detours.for_each_concurrent(TRIES_MAX, |(node, way)| self.try_better(node, way)).await;
        }
    }

    async fn try_better(&self, node: NodeId, now: Way) {
        if let Some((path, way)) = self.dialer.try_better(node, now).await {
            self.prefer(node, path, way);
        }
    }

    /// Takes a way if it is better than the present one: another may have been found meanwhile. The epoch comes last,
    /// so that who sees it gets the new way.
    fn prefer(&self, node: NodeId, path: Path, way: Way) {
        // Ways are ordered, the best first.
        if self.dialer.way(node).is_none_or(|now| now <= way) {
            return;
        }
        self.dialer.prefer(node, path, way);
        self.channels.forget(node);
        self.dialer.begin_epoch(node);
        tracing::info!(peer = %node, %way, "a better way to a node is used from now on");
    }
}
