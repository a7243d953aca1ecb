//! The families `cluster` and `health`: what the lab is, and how it is. They read and change nothing.
//!
//! Everything is told as the answering node sees it; what it cannot know is said to be unknown, never guessed.
#![forbid(unsafe_code)]

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use ollamax_tools::{DeclarationError, Lab, Tool};

mod cluster;
mod health;

// A call without arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The tools of both families.
///
/// # Errors
/// When a declaration contradicts itself.
pub fn tools(lab: &Arc<dyn Lab>) -> Result<Vec<Tool>, DeclarationError> {
    let mut tools = health::tools(lab)?;
    tools.extend(cluster::tools(lab)?);
    Ok(tools)
}
