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
mod ids;
mod lines;
mod message;
mod nodes;
mod targets;
mod telling;
mod wire;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser as _;
    use serde_json::Value;

    use crate::args::{Cli, Command};

    const PAGE: &str = include_str!("../../../docs/user/mcp.md");

    /// The blocks of one language in the section that says how assistants are connected.
    fn blocks(language: &str) -> Vec<&'static str> {
        let section = PAGE.split("\n## ").find(|section| section.starts_with("Connect an assistant\n"));
        let opening = format!("\n```{language}\n");
        let behind = section.expect("the section").split(opening.as_str()).skip(1);
        behind.map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
    }

    fn is_bridge(words: &[&str]) -> bool {
        Cli::try_parse_from(words).is_ok_and(|cli| matches!(cli.command, Command::Mcp(_)))
    }

    #[test]
    fn every_assistants_settings_on_the_page_start_the_bridge() {
        let mut kinds = BTreeSet::new();
        for block in blocks("json") {
            let settings: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
            for (kind, servers) in settings.as_object().expect("an object") {
                for (name, server) in servers.as_object().expect("an object") {
                    assert_eq!(name, "ollamax", "{block}");
                    let command = server["command"].as_str().into_iter();
                    let words =
                        command.chain(server["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
                    // What stands before it is ssh's own.
                    let words = words.skip_while(|word| *word != "ollamax");
                    assert!(is_bridge(&words.collect::<Vec<_>>()), "{block}");
                    kinds.insert(kind.clone());
                }
            }
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["mcpServers", "servers"]);
    }

    #[test]
    fn every_command_on_the_page_that_starts_the_bridge_is_one() {
        let mut starters = BTreeSet::new();
        for line in blocks("sh").into_iter().flat_map(str::lines) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(at) = words.windows(2).position(|pair| pair == ["ollamax", "mcp"]) else { continue };
            // What stands behind is the Inspector's own.
            let own: Vec<&str> = words[at..].iter().copied().take_while(|word| *word != "--method").collect();
            assert!(is_bridge(&own), "{line}");
            starters.insert(words[0]);
        }
        assert_eq!(starters.into_iter().collect::<Vec<_>>(), ["claude", "copilot", "npx", "ollamax"]);
    }
}
