//! Bundles that come to this node, as pulls and as mere checks.
//!
//! A bundle is read up to what it promises before anything else happens, since only then its name is known. From there
//! it is a pull like others, but for its job: it has none, so that it ends with this node.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use ollamax_blobs::Jobs;
use ollamax_types::{ErrorCode, ModelName};

use crate::bundle::{self, Bundled, ComeOrder, Incoming, Pieces};
use crate::error::PullError;
use crate::handle::PullSpec;
use crate::progress::{Stage, Watch};
use crate::pull::course::Course;
use crate::pull::{Pull, upkeep};

use super::{Service, forget_old};

// === impl Service ===

impl Service {
    /// Takes a bundle. It answers when it is known what the bundle promises.
    pub(crate) async fn come(self: &Arc<Self>, pieces: Pieces, order: ComeOrder) -> Result<Watch, PullError> {
        let place = bundle::place(&self.means.bundles)?;
        let jobs = self.take_up().await?;
        let silence = Duration::from_millis(self.means.config.silence_ms);
        let incoming = Incoming::begin(pieces, silence, place, &self.tasks, &self.stop).await?;
        let ComeOrder { name, only_check, replace, asked_by } = order;
        let name = name.unwrap_or_else(|| incoming.contents().name().clone());
        if only_check {
            return Ok(self.check(&name, incoming));
        }
        let bundled = Bundled::new(incoming, replace, self.means.clock.now().0);
        self.begin_bundle(PullSpec { name, insecure: false, asked_by }, bundled, jobs)
    }

    /// Reads a bundle and tells how that goes; it is no pull of this node.
    fn check(&self, name: &ModelName, incoming: Incoming) -> Watch {
        let board = self.board(name, Stage::Waiting);
        let watch = board.watch_anyway();
        let (buffers, stop) = (self.means.buffers.clone(), self.stop.clone());
        // It ends with the bytes of the bundle and with the node; what is wrong with it is told on the board.
        self.tasks.spawn(async move {
            let checked = tokio::select! {
                biased;
                () = stop.cancelled() => Err(PullError::Stopping),
                checked = bundle::check(incoming, &board, &buffers) => checked,
                () = upkeep::keep_told(&board) => Err(PullError::Stopping),
            };
            board.begin(checked.map_or_else(Stage::Failed, |()| Stage::Done));
        });
        watch
    }

    fn begin_bundle(self: &Arc<Self>, spec: PullSpec, bundled: Bundled, jobs: &Jobs) -> Result<Watch, PullError> {
        let mut pulls = self.lock();
        forget_old(&mut pulls);
        if pulls.get(&spec.name).is_some_and(|entry| entry.failed_at.is_none()) {
            let text = format!("a pull of {} is under way; wait for its end, or cancel it", spec.name);
            return Err(PullError::Bundle { code: ErrorCode::PreconditionFailed, text });
        }
        if self.stop.is_cancelled() {
            return Err(PullError::Stopping);
        }
        let config = &self.means.config;
        let (at_once, waiting_max) = (config.pulls_max as usize, config.pulls_waiting_max as usize);
        let running = pulls.values().filter(|entry| entry.failed_at.is_none()).count();
        if running >= at_once + waiting_max {
            return Err(PullError::TooMany(running - at_once, waiting_max));
        }
        let board = self.board(&spec.name, Stage::Resolving);
        let watch = board.watch()?;
        let pull = Pull {
            means: Arc::clone(&self.means),
            jobs: jobs.clone(),
            board,
            spec,
            chosen: None,
            course: Course::Bundled(Box::new(bundled)),
            offers: Mutex::default(),
            cancel: CancellationToken::new(),
            stop: self.stop.clone(),
        };
        self.launch(pulls, pull);
        Ok(watch)
    }
}
