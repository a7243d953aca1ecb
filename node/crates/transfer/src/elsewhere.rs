//! A pull on another node, watched from here.
//!
//! The watch outlives connections: one that is lost, or a node that starts again, is asked anew and joins what runs
//! there, until nothing was heard for as long as a pull may be silent. What was told of a file is never taken back.
//! Nobody watching ends the watching, not the pull.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use ollamax_core::transfer_plan::Patience;
use ollamax_types::{ErrorCode, NodeId};

use crate::error::PullError;
use crate::handle::PullSpec;
use crate::ports::{Others, PullStream};
use crate::progress::{PullProgress, Stage};

/// Where a pull is watched, and how patiently.
pub(crate) struct Remote {
    pub(crate) others: Arc<dyn Others>,
    pub(crate) node: NodeId,
    pub(crate) spec: PullSpec,
    pub(crate) patience: Patience,
}

/// What a state that another node told means.
enum Shown {
    /// There is more to come.
    More,
    /// It was the last.
    Over,
    /// The node ends, and the pull goes on when it starts again. It was not passed on.
    Lost,
}

// === impl Remote ===

impl Remote {
    /// Asks for the pull: its stream, and the first state.
    pub(crate) async fn open(&self) -> Result<(PullStream, PullProgress), PullError> {
        let mut stream = self.others.pull(self.node, self.spec.clone()).await?;
        match stream.next().await {
            Some(first) => first.map(|first| (stream, first)),
            None => Err(self.lost("the node told nothing")),
        }
    }

    /// Follows it to its end, or until nobody watches.
    pub(crate) async fn follow(
        self,
        mut stream: PullStream,
        sender: watch::Sender<Arc<PullProgress>>,
        stop: CancellationToken,
    ) {
        let work = async {
            let (mut heard_at, mut failures) = (Instant::now(), 0);
            loop {
                match self.pass_on(&mut stream, &sender, &mut heard_at, &mut failures).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => return fail(&sender, error),
                }
                match self.open_again(&sender, heard_at, &mut failures).await {
                    Ok(Some(again)) => stream = again,
                    Ok(None) => return,
                    Err(error) => return fail(&sender, error),
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => fail(&sender, PullError::Stopping),
            () = sender.closed() => {}
            () = work => {}
        }
    }

    /// Passes on what a stream tells. True: it told the end; false: it was lost.
    async fn pass_on(
        &self,
        stream: &mut PullStream,
        sender: &watch::Sender<Arc<PullProgress>>,
        heard_at: &mut Instant,
        failures: &mut u32,
    ) -> Result<bool, PullError> {
        while let Some(told) = stream.next().await {
            let progress = match told {
                Ok(progress) => progress,
                Err(error) if is_lost(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            (*heard_at, *failures) = (Instant::now(), 0);
            match show(sender, progress) {
                Shown::More => {}
                Shown::Over => return Ok(true),
                Shown::Lost => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Asks again and again, until the node may be taken for gone. `None`: the pull is over.
    async fn open_again(
        &self,
        sender: &watch::Sender<Arc<PullProgress>>,
        heard_at: Instant,
        failures: &mut u32,
    ) -> Result<Option<PullStream>, PullError> {
        let silence = Duration::from_millis(self.patience.silence_ms);
        loop {
            sleep(Duration::from_millis(self.patience.wait_ms(*failures))).await;
            *failures = failures.saturating_add(1);
            let error = match timeout(silence, self.open()).await {
                Ok(Ok((stream, first))) => match show(sender, first) {
                    Shown::More => return Ok(Some(stream)),
                    Shown::Over => return Ok(None),
                    Shown::Lost => self.lost("the node is stopping"),
                },
                Ok(Err(error)) if is_lost(&error) => error,
                Ok(Err(error)) => return Err(error),
                Err(_) => self.lost("the node does not answer"),
            };
            if heard_at.elapsed() >= silence {
                return Err(error);
            }
        }
    }

    fn lost(&self, text: &str) -> PullError {
        PullError::Elsewhere { node: self.node, code: ErrorCode::PeerUnreachable, text: text.to_owned() }
    }
}

/// Passes a state on, unless it only says that the node ends.
fn show(sender: &watch::Sender<Arc<PullProgress>>, progress: PullProgress) -> Shown {
    if let Stage::Failed(error) = &progress.stage
        && is_lost(error)
    {
        return Shown::Lost;
    }
    let before = Arc::clone(&sender.borrow());
    let progress = progress.not_before(&before);
    let shown = if progress.is_over() { Shown::Over } else { Shown::More };
    sender.send_replace(Arc::new(progress));
    shown
}

/// Whether the pull may well go on there, although this is what was heard of it.
fn is_lost(error: &PullError) -> bool {
    matches!(error.code(), ErrorCode::PeerUnreachable | ErrorCode::Draining)
}

fn fail(sender: &watch::Sender<Arc<PullProgress>>, error: PullError) {
    let mut last = PullProgress::clone(&sender.borrow());
    if !last.is_over() {
        last.stage = Stage::Failed(error);
        sender.send_replace(Arc::new(last));
    }
}
