//! Models leave in one file and come from one: read, checked, and published like a pull.
//!
//! What leaves is read from the store of this node and compared with its hash trees on the way. What comes is a pull
//! whose files come from the bundle: it has a place, room is set aside for it, it is exclusive with other pulls of its
//! name, and nothing of it is visible before all of it is there. It has no job: what breaks off is begun anew by
//! whoever has the bundle, and what came is kept as that of a pull is. Nobody else is asked for anything, no registry
//! and no other node. Whoever sends and goes silent ends the import; whoever takes may take as long as it wants, and
//! ends it by leaving.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::error::PullError;

mod coming;
mod leaving;

pub(crate) use self::coming::{Bundled, Feed, Incoming, Pieces, check};
pub(crate) use self::leaving::leave;

/// Most bundles that one node reads and writes at once.
pub(crate) const BUNDLES_MAX: usize = 8;
/// Bytes of a piece that leaves.
const PIECE_BYTES: usize = 1 << 20;
/// Most pieces that wait for whoever takes them.
const PIECES_WAITING_MAX: usize = 8;

/// A model that leaves. Dropping the bytes ends it.
pub struct Leaving {
    /// Which model, as the store spells it.
    pub name: ModelName,
    /// Which version of it.
    pub digest: Digest,
    /// The length of the whole bundle.
    pub length_bytes: u64,
    /// The bundle. An error is the last thing that comes: what came before is no bundle then.
    pub bytes: BoxStream<'static, Result<Bytes, PullError>>,
}

/// What is to become of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComeOrder {
    /// Under which name; `None`: the bundle's own.
    pub name: Option<ModelName>,
    /// It is read and checked, and nothing is written.
    pub only_check: bool,
    /// Another version under that name gives way.
    pub replace: bool,
    /// Who asks, for people.
    pub asked_by: String,
}

// === impl Leaving ===

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaving({}, {}, {} bytes)", self.name, self.digest.short(), self.length_bytes)
    }
}

/// The right to work on a bundle, if not too many do.
pub(crate) fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PullError> {
    Arc::clone(places).try_acquire_owned().map_err(|_| PullError::Bundle {
        code: ErrorCode::Overloaded,
        text: format!("{BUNDLES_MAX} bundles are read and written already, which is the limit"),
    })
}
