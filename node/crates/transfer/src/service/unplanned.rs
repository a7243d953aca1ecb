//! What machines that are no members may have of this node, and a version that it makes its own for them.
//!
//! A version that other nodes have is received although no wish names this node: nothing of it is told to the cluster,
//! and the registry is never asked. It is one pull among the others, joined by whoever asks for its name; how many may
//! run or wait is limited as for all that somebody asks for.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{BlobSpec, Jobs};
use ollamax_types::{Digest, ModelName, NodeId};

use crate::error::PullError;
use crate::handle::PullSpec;
use crate::ports::{Assignment, Duty};
use crate::progress::{Board, PullProgress};
use crate::pull::blocking;
use crate::pull::course::{Hints, Wished};

use super::{Begun, Service};

// === impl Service ===

impl Service {
    /// The pull of a name that is not over.
    pub(crate) fn running(&self, name: &ModelName) -> Option<Arc<Board>> {
        let pulls = self.lock();
        let entry = pulls.get(name).filter(|entry| entry.failed_at.is_none())?;
        Some(Arc::clone(&entry.board))
    }

    /// Which file has this digest, of those that lie in the store or that a pull wanted.
    pub(crate) fn blob(&self, sha256: Digest) -> Option<BlobSpec> {
        let boards: Vec<Arc<PullProgress>> = self.lock_boards().values().map(|board| board.now()).collect();
        let wanted = boards.iter().flat_map(|progress| progress.blobs.iter()).map(|progress| progress.blob);
        let models = Arc::clone(&self.means.adopted.borrow().models);
        let stored = models.iter().flat_map(|scanned| &scanned.blobs).copied();
        stored.chain(wanted).find(|blob| blob.sha256 == sha256)
    }

    /// Whether a pull that is not over wants a file.
    pub(crate) fn is_coming(&self, sha256: Digest) -> bool {
        let pulls = self.lock();
        let running = pulls.values().filter(|entry| entry.failed_at.is_none());
        running.map(|entry| entry.board.now()).any(|now| now.blobs.iter().any(|blob| blob.blob.sha256 == sha256))
    }

    /// Gets a version from the nodes that have it, or joins the pull of that name.
    pub(crate) async fn receive_unplanned(
        self: &Arc<Self>,
        spec: PullSpec,
        digest: Digest,
        holders: Vec<NodeId>,
    ) -> Result<Arc<Board>, PullError> {
        if let Some(board) = self.running(&spec.name) {
            return Ok(board);
        }
        self.check_room_for_one()?;
        let root = self.wishes_root.clone();
        let jobs = blocking(move || Jobs::open(&root)).await?;
        let jobs = jobs.map_err(|fault| PullError::of_fault("the data directory", &fault))?;
        let assignment = Assignment {
            name: spec.name.clone(),
            round: 0,
            insecure: false,
            digest: Some(digest),
            duty: Duty::Receive,
            rank: 0,
            of: 1,
            ingester: holders.first().copied().unwrap_or(self.node),
            others: holders,
            in_background: false,
            disk_free_bytes_min: 0,
        };
        let since_ms = self.means.clock.now().0.saturating_add(1);
        // Nothing more will be told of it.
        let (_, assignment) = watch::channel(assignment);
        let wished = Wished::new(assignment, since_ms, None, Hints::default());
        match self.begin_wish(spec, wished, &jobs, CancellationToken::new())? {
            Begun::Ours(board) | Begun::Other(board) => Ok(board),
        }
    }

    /// Whether one more may wait.
    fn check_room_for_one(&self) -> Result<(), PullError> {
        let config = &self.means.config;
        let (at_once, waiting_max) = (config.pulls_max as usize, config.pulls_waiting_max as usize);
        let running = self.lock().values().filter(|entry| entry.failed_at.is_none()).count();
        if running < at_once + waiting_max { Ok(()) } else { Err(PullError::TooMany(running - at_once, waiting_max)) }
    }
}
