//! What transfer needs from others: the runtime beside this node.
//!
//! The in-memory form is in [`crate::mem`]; the real one is the assembly's adapter.

use std::path::PathBuf;

/// The runtime beside this node, as far as its store is concerned.
pub trait Runtime: Send + Sync + 'static {
    /// Where it keeps its models. Asked anew at each look, from a thread that may block on questions about files.
    fn place(&self) -> Place;
    /// The files of its store have changed: it is to be asked for its list again now. Does not wait for that.
    fn look(&self);
}

/// Where a runtime keeps its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this folder.
    Store(PathBuf),
    /// Nowhere that this node can read, and why: no runtime, another machine, no folder found.
    None(String),
}
