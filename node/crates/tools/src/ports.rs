//! The ports through which tools see the node. [`crate::mem`] holds the form for tests, the assembly the real one.
//!
//! What a tool may reach is what a port here offers: nothing of the disk, of Raft, of sockets.

use crate::error::ToolError;
use crate::views::{Cluster, Model, Node, NodeHealth, Transfer};

/// The lab, as one node sees it. Every call answers at once, from what the node holds.
pub trait Lab: Send + Sync + 'static {
    /// How this node stands; answered also before it belongs to a cluster.
    fn health(&self) -> NodeHealth;

    /// The cluster, its consensus, and what wants attention; answered also before there is one.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn cluster(&self) -> Result<Cluster, ToolError>;

    /// The members, in the order of their ids.
    ///
    /// # Errors
    /// When this node belongs to no cluster, or its state cannot be read.
    fn nodes(&self) -> Result<Vec<Node>, ToolError>;

    /// The models that are being fetched somewhere, as far as this node hears.
    ///
    /// # Errors
    /// When this node belongs to no cluster, or its state cannot be read.
    fn transfers(&self) -> Result<Vec<Transfer>, ToolError>;

    /// The models, in the order of their names.
    ///
    /// # Errors
    /// When this node belongs to no cluster, or its state cannot be read.
    fn models(&self) -> Result<Vec<Model>, ToolError>;

    /// One model.
    ///
    /// # Errors
    /// As [`Lab::models`], and when no node has it, or that is no name.
    fn model(&self, name: &str) -> Result<Model, ToolError>;
}
