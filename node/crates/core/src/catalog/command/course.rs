//! How far a copy is, as its node tells it for the events of the cluster.
//!
//! Always holds: it is of bounded size, and nothing is decided by it.

use ollamax_types::NodeId;

/// How far one copy is, and what came from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyCourse {
    /// It is all there and visible; else it is on its way.
    pub is_whole: bool,
    /// Bytes that are there and have a hash.
    pub verified_bytes: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// How long it has taken until now, milliseconds.
    pub took_ms: u64,
    /// What comes just now; of a whole copy, what came on average.
    pub bytes_per_second: u64,
    /// Bytes that the registry gave.
    pub origin_bytes: u64,
    /// Bytes that were on the node already.
    pub here_bytes: u64,
    /// Bytes that the members gave that gave most; at most `COPY_SOURCES_MAX`, each once.
    pub members: Vec<(NodeId, u64)>,
    /// Bytes that all others gave.
    pub other_bytes: u64,
}
