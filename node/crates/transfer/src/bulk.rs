//! Chunks between two nodes over any stream of bytes.
//!
//! One side asks, the other hands out; who wants both opens two streams. The bytes are those of [`frame`], version 1.
//! What comes is neither hashed nor written here: whoever asked does that, and believes nothing before.

pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod serve;
