//! What `conformance` is asked for on its command line.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Whether nodes speak a protocol as its authors mean it.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "conformance", bin_name = "cargo xtask conformance")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) asked: Asked,
}

/// A protocol.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Asked {
    /// The official suite of MCP, which npx fetches, against one node, against three, and while leaders are killed.
    Mcp(McpOptions),
}

/// How much of it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct McpOptions {
    /// Which arrangements, with commas. Not said: all of them.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Arrangement>,
    /// Write the table into docs/architecture/conformance.md.
    #[arg(long, conflicts_with = "only")]
    pub(crate) write: bool,
    /// From what the nodes of requests are drawn. Not said: a fresh number, which the report tells.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// Against what the suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrangement {
    /// One node.
    One,
    /// Each request at a node of three, drawn at random.
    Random,
    /// The same, while the leader is killed every five seconds.
    Kills,
}

// === impl McpOptions ===

impl McpOptions {
    /// The chosen arrangements, each once and in order.
    pub(crate) fn arrangements(&self) -> Vec<Arrangement> {
        let chosen = |one: &Arrangement| self.only.is_empty() || self.only.contains(one);
        Arrangement::ALL.into_iter().filter(chosen).collect()
    }

    /// The command that draws the same again.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let named: Vec<&str> = self.only.iter().map(|one| one.name()).collect();
        let only = if named.is_empty() { String::new() } else { format!(" --only {}", named.join(",")) };
        format!("cargo xtask conformance mcp --seed {seed}{only}")
    }
}

// === impl Arrangement ===

impl Arrangement {
    const ALL: [Self; 3] = [Self::One, Self::Random, Self::Kills];

    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Random => "random",
            Self::Kills => "kills",
        }
    }

    /// What stands over its column.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::One => "one node",
            Self::Random => "a random node of three",
            Self::Kills => "the same, leader killed every 5 s",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<McpOptions, String> {
        let words = ["conformance"].iter().chain(words);
        let Options { asked: Asked::Mcp(options) } =
            Options::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(options)
    }

    #[test]
    fn all_arrangements_are_run_unless_some_are_named() {
        let all = parse(&["mcp"]).expect("valid");
        assert_eq!((all.arrangements(), all.write, all.seed), (Arrangement::ALL.to_vec(), false, None));
        let some = parse(&["mcp", "--only", "kills,one", "--seed", "7"]).expect("valid");
        assert_eq!(some.arrangements(), [Arrangement::One, Arrangement::Kills]);
        assert_eq!(some.replay(7), "cargo xtask conformance mcp --seed 7 --only kills,one");
        assert_eq!(all.replay(8), "cargo xtask conformance mcp --seed 8");
        for arrangement in Arrangement::ALL {
            assert_eq!(Arrangement::from_str(arrangement.name(), false), Ok(arrangement));
        }
    }

    #[test]
    fn a_table_with_holes_is_not_written_and_a_protocol_is_named() {
        for words in [&["mcp", "--write", "--only", "one"][..], &["mcp", "--only", "two"], &[], &["acp"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(parse(&["mcp", "--write"]).expect("valid").write);
    }
}
