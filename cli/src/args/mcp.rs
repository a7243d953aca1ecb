//! The words of `ollamax mcp`.

use clap::Args;

/// What is shown below its help.
pub(crate) const EXAMPLES: &str = "Assistants start it; by hand it waits for messages of the Model Context Protocol.

Examples:
  ollamax mcp
  ollamax mcp --node http://127.0.0.1:11441       (ssh -N -L 11441:127.0.0.1:11435 b.lan)
  claude mcp add ollamax -- ollamax mcp
  npx @modelcontextprotocol/inspector --cli ollamax mcp --method tools/list";

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// A node to go on with where this machine's daemon does not answer, by its listener for clients; repeatable
    #[arg(long = "node", value_name = "URL")]
    pub(crate) nodes: Vec<String>,
}
