//! `ollamax mcp`: the tools of the lab for one assistant on this machine, over standard input and output.
//!
//! The assistant speaks the Model Context Protocol of either era, one message in each line; nodes are asked by HTTP in
//! the revision of 2026-07-28, each request by itself, so any of them may answer the next one. Always: stdout has
//! messages and nothing else; what is said to people goes to stderr; nothing is kept on disk; it ends with the
//! assistant, however that ends.

use std::sync::Arc;
#[cfg(unix)]
use std::time::Duration;

use tokio::io::BufReader;

use crate::args::{Global, McpArgs};
use crate::error::Failure;

mod bridge;
mod desk;
mod era;
mod events;
mod exchange;
mod hints;
mod lines;
mod message;
mod nodes;
mod targets;
mod telling;

use bridge::Bridge;
use targets::Targets;

/// How often it is looked whether the assistant is still there.
#[cfg(unix)]
const LOOK_EACH: Duration = Duration::from_secs(1);

/// Serves the assistant until it closes standard input, or is gone.
pub(crate) async fn run(global: &Global, args: &McpArgs) -> Result<(), Failure> {
    let bridge = Bridge::new(Arc::new(Targets::new(global, &args.nodes)?));
    let input = BufReader::new(tokio::io::stdin());
    let served = desk::serve(Arc::new(bridge), input, tokio::io::stdout(), orphaned()).await;
    served.map_err(|error| {
        Failure::new(1, "standard input cannot be read", error.to_string(), "start it again from the assistant")
    })
}

/// Comes true when the process that began this one has ended. Where another process has a copy of the other end of
/// standard input, that does not end with it.
#[cfg(unix)]
async fn orphaned() {
    let parent = nix::unistd::getppid();
    let mut looks = tokio::time::interval(LOOK_EACH);
    while nix::unistd::getppid() == parent {
        looks.tick().await;
    }
}

#[cfg(not(unix))]
async fn orphaned() {
    std::future::pending().await
}
