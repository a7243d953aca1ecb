//! The way out: signals, draining, closing, in that order and each bounded in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::member::Around;
use crate::slot::MemberEngines;

/// How long leadership may take to be handed over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the engines may take to write what they hold.
const ENGINES_TIMEOUT: Duration = Duration::from_secs(10);

/// The signals that stop the node. From the moment they are caught none of them kills it, whatever it is doing.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

// === impl Signals ===

impl Signals {
    /// Catches SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Resolves at a signal, one that came earlier included, or when the node decided to stop by itself.
    pub(crate) async fn wait(&mut self, exit: &CancellationToken) {
        tokio::select! {
            _ = self.term.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = self.int.recv() => tracing::info!(signal = "SIGINT", "stopping"),
            () = exit.cancelled() => tracing::info!("stopping"),
        }
    }
}

/// Takes nothing new; hands leadership over while running answers finish within the grace.
pub(crate) async fn drain(around: &Arc<Around>, stop_api: CancellationToken, api: JoinHandle<()>, grace: Duration) {
    let engines = around.slot.get();
    if let Some(engines) = &engines {
        engines.scheduler.set_draining(true);
    }
    stop_api.cancel();
    let hand_over = async {
        let Some(engines) = &engines else { return };
        let status = engines.metadata.status();
        if status.leader == Some(engines.node) && status.voters.len() > 1 {
            drop(tokio::time::timeout(HAND_OVER_TIMEOUT, engines.metadata.transfer_leader(None)).await);
        }
    };
    let owned_answers = async {
        let Some(engines) = &engines else { return };
        finish_answers(engines, grace).await;
    };
    let served = tokio::time::timeout(grace + Duration::from_secs(1), api);
    let (_, (), ()) = tokio::join!(served, hand_over, owned_answers);
    if let Some(engines) = &engines {
        close_engines(engines).await;
    }
    around.slot.set(None);
}

/// Waits, for a bounded time, until this node's runtime works on no request any more.
pub(crate) async fn finish_answers(engines: &MemberEngines, grace: Duration) {
    let finished = async {
        while engines.scheduler.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    drop(tokio::time::timeout(grace, finished).await);
}

/// Lets the replicated state write what it holds.
pub(crate) async fn close_engines(engines: &MemberEngines) {
    drop(tokio::time::timeout(ENGINES_TIMEOUT, engines.metadata.shutdown()).await);
}

/// Ends everything that is left.
pub(crate) async fn close(stops: &[CancellationToken], tasks: &TaskTracker, limit: Duration) {
    for stop in stops {
        stop.cancel();
    }
    tasks.close();
    if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some tasks did not end in time");
    }
}
