//! The families `cluster`, `health` and `tools`: what the lab is, what happens in it, how it is, and what can be done
//! with it.
//!
//! Everything is told as the answering node sees it; what it cannot know is said to be unknown, never guessed. Whoever
//! has no permission to manage sees its own tasks, and no others.
#![forbid(unsafe_code)]

use schemars::JsonSchema;
use serde::Deserialize;

use ollamax_tools::{DeclarationError, Ports, Tool, search};

mod cluster;
mod events;
mod health;
mod tasks;

// A call without arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The tools of these families.
///
/// # Errors
/// When a declaration contradicts itself.
pub fn tools(ports: &Ports) -> Result<Vec<Tool>, DeclarationError> {
    let mut tools = health::tools(&ports.lab)?;
    tools.extend(cluster::tools(ports)?);
    tools.extend(events::tools(&ports.changes)?);
    tools.extend(tasks::tools(&ports.tasks)?);
    tools.extend(search::tools()?);
    Ok(tools)
}
