//! The words of `ollamax model`.
//!
//! How many copies somebody wants is read here, and said again here in the words in which it was asked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

use ollamax_types::{Rate, RateProblem};

use super::RegistryCommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// All models
    #[command(after_help = "Example:\n  ollamax model list")]
    List,
    /// One model and its copies
    #[command(after_help = "Example:\n  ollamax model show demo")]
    Show {
        /// Name, for example llama3.2 or demo:latest
        name: String,
    },
    /// Write a model of this node into one file that proves itself, for sites without the internet
    #[command(after_help = "Examples:
  ollamax model export llama3.2 llama3.2.ollamax
  ollamax model export llama3.2 - | ssh elsewhere ollamax model import -")]
    Export {
        /// Name, for example llama3.2 or demo:latest
        name: String,
        /// The file to write, which must not be there yet; `-` is standard output
        file: PathBuf,
    },
    /// Take a model from a bundle of `export` onto this node, or create one from a GGUF file in the runtimes of chosen
    /// nodes
    #[command(after_help = "Examples:
  ollamax model import llama3.2.ollamax
  ollamax model import llama3.2.ollamax --check
  ollamax model import model.gguf --name mine --node a --node b")]
    Import(ImportArgs),
    /// Have one node fetch a model from its registry and the others from it; they go on whether this command waits or
    /// not
    #[command(after_help = "Examples:
  ollamax model pull llama3.2
  ollamax model pull llama3.2 --replicas 3 --wait
  ollamax model pull llama3.2 --node a,b --wait
  ollamax model pull llama3.2 --cancel")]
    Pull(PullArgs),
    /// What this node pulls, and what it could not pull in the last hour
    #[command(after_help = "Examples:\n  ollamax model pulls\n  ollamax model pulls -o json | jq .pulls")]
    Pulls,
    /// Slow the pulls of a model down on all nodes, or let them go as fast as they can
    #[command(after_help = "Examples:
  ollamax model limit llama3.2 20MB/s
  ollamax model limit llama3.2 none")]
    Limit {
        /// Name, for example llama3.2
        name: String,
        /// At most so fast on each node, like 20MB/s or 100Mbit/s; `none`: as fast as it goes
        #[arg(value_name = "RATE|none")]
        rate: PullRate,
    },
    /// Read the files of models again, from the disk, and replace what is damaged
    #[command(after_help = "Examples:
  ollamax model verify
  ollamax model verify llama3.2 --node a,b
  ollamax model verify --no-repair -o json | jq .files")]
    Verify(VerifyArgs),
    #[command(flatten)]
    Registry(RegistryCommand),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Name, for example llama3.2 [default: all models of the node]
    pub(crate) name: Option<String>,
    /// Node whose files are read, id or name; repeatable, or several with commas between [default: this node]
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Leave what is damaged as it is
    #[arg(long)]
    pub(crate) no_repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The bundle, `-` for standard input, or the GGUF file
    pub(crate) file: PathBuf,
    /// Name of the model; a GGUF file needs one [default: the bundle's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Node that shall have what a GGUF file makes, id or name; repeatable [default: this node]
    #[arg(long = "node", value_name = "NODE")]
    pub(crate) nodes: Vec<String>,
    /// Replace another model of this name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Read a bundle and compare all of it, and change nothing
    #[arg(long, conflicts_with_all = ["replace", "name", "nodes"])]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name, for example llama3.2 or registry.lan:5000/team/demo:v2
    pub(crate) name: String,
    /// How many nodes shall have it, or `all` that can [default: two, or one where no two can]
    #[arg(long, value_name = "N|all", conflicts_with_all = ["nodes", "cancel"])]
    pub(crate) replicas: Option<Replicas>,
    /// Node that shall have it, id or name; repeatable, or several with commas between
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Ask the registry over plain HTTP
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) insecure: bool,
    /// Show how far it is until it is over
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) wait: bool,
    /// Fetch at most so fast on each node, like 20MB/s or 100Mbit/s, until the pull is over or its node starts again
    #[arg(long, value_name = "RATE", conflicts_with = "cancel")]
    pub(crate) limit_rate: Option<Rate>,
    /// End the pull; what was fetched is kept for the next one
    #[arg(long)]
    pub(crate) cancel: bool,
}

/// How fast a pull may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullRate {
    /// So fast at most.
    AtMost(Rate),
    /// As fast as it can.
    None,
}

/// How many nodes shall have a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replicas {
    /// So many.
    Count(u32),
    /// All that can.
    All,
}

// === impl PullRate ===

impl FromStr for PullRate {
    type Err = RateProblem;

    fn from_str(text: &str) -> Result<Self, RateProblem> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::AtMost) }
    }
}

// === impl Replicas ===

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let count = text.parse::<u32>().ok().filter(|count| *count > 0);
        count.map(Self::Count).ok_or_else(|| "it is a number above 0, or all".to_owned())
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_the_daemon_reads_it_and_none_is_one_too() {
        assert_eq!("none".parse(), Ok(PullRate::None));
        assert_eq!("20MB/s".parse::<PullRate>().ok(), Rate::of(20_000_000).map(PullRate::AtMost));
        let problem = "20".parse::<PullRate>().unwrap_err();
        assert_eq!(problem.to_string(), "\"20\" has no unit; write it like 20MB/s");
        assert!("off".parse::<PullRate>().is_err());
    }

    #[test]
    fn replicas_are_read_as_they_are_shown() {
        for (text, expected) in [("1", Replicas::Count(1)), ("64", Replicas::Count(64)), ("all", Replicas::All)] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
        for text in ["", "0", "-1", "+", "two", "All", "4294967296", "1.5"] {
            assert!(text.parse::<Replicas>().is_err(), "{text}");
        }
    }
}
