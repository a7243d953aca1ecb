//! The words of `ollamax model` for names, versions and lifecycle.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// The versions that a name stood for, and which nodes have or keep each
    #[command(after_help = "Examples:\n  ollamax model history llama3.2\n  ollamax model history llama3.2 -o json")]
    History {
        /// Name, for example llama3.2
        name: String,
    },
    /// Give a name an earlier version again, without a download where somebody kept it
    #[command(after_help = "Examples:
  ollamax model rollback llama3.2 --dry-run
  ollamax model rollback llama3.2 --to 3 --wait")]
    Rollback(RollbackArgs),
    /// Hold a name at a version in the whole cluster, whatever its registry says
    #[command(after_help = "Examples:\n  ollamax model pin llama3.2\n  ollamax model pin llama3.2 3")]
    Pin {
        /// Name, for example llama3.2
        name: String,
        /// Number in the history, or the first digits of a digest, four or more [default: the one that it stands for]
        #[arg(id = "pinned", value_name = "DIGEST|N")]
        version: Option<String>,
    },
    /// Let a pinned name go
    #[command(after_help = "Example:\n  ollamax model unpin llama3.2")]
    Unpin {
        /// Name, for example llama3.2
        name: String,
    },
    /// Give a model another name, on the nodes that have it; no byte is copied
    #[command(after_help = "Example:\n  ollamax model tag llama3.2 lab/brief:stable --wait")]
    Tag {
        /// Name, for example llama3.2
        name: String,
        /// The other name
        new: String,
        /// Wait until all nodes have it
        #[arg(long)]
        wait: bool,
    },
    /// Remove a model from nodes, or from the cluster; shows first what goes
    #[command(visible_alias = "delete")]
    #[command(after_help = "Examples:
  ollamax model rm llama3.2 --dry-run
  ollamax model rm llama3.2 --node gpu-3
  ollamax model rm llama3.2 --force --yes")]
    Rm(RemoveArgs),
    /// Tell people not to use a model any more; it is served still
    #[command(after_help = "Example:\n  ollamax model deprecate llama2 --note \"use llama3.2\"")]
    Deprecate(LifecycleArgs),
    /// Take a model out of use: it answers nobody, and its copies stay
    #[command(after_help = "Example:\n  ollamax model disable llama2 --note \"use llama3.2\"")]
    Disable(LifecycleArgs),
    /// Put a model into use again
    #[command(after_help = "Example:\n  ollamax model enable llama2")]
    Enable {
        /// Name, for example llama3.2
        name: String,
    },
    /// What becomes of models that nobody uses
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Why a model is where it is: who asked, what holds it, who has it and who has not
    #[command(after_help = "Example:\n  ollamax model why llama3.2")]
    Why {
        /// Name, for example llama3.2
        name: String,
    },
    /// Have nodes remove the versions that they keep longer than they must, and names go that nobody has for long; all
    /// of that is done by itself, too
    #[command(after_help = "Examples:\n  ollamax model gc --dry-run\n  ollamax model gc --node gpu-3")]
    Gc {
        /// Node that does it, id or name; repeatable, or several with commas between; names stay [default: all]
        #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
        nodes: Vec<String>,
        /// Only show what would go
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Name, for example llama3.2
    pub(crate) name: String,
    /// Number in the history, or the first digits of a digest, four or more [default: the one before the newest]
    #[arg(long, value_name = "N|DIGEST")]
    pub(crate) to: Option<String>,
    /// Only show what would be done
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until all nodes have it
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Name, for example llama3.2
    pub(crate) name: String,
    /// Node that loses its copy, id or name; repeatable, or several with commas between [default: all that have it]
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Only show what would go; where that would be refused, say so below it and exit as the real one would
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also the last copy that is there or heard of, copies of a pinned version, and copies that somebody asked for
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LifecycleArgs {
    /// Name, for example llama3.2
    pub(crate) name: String,
    /// Why, for whoever uses it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) note: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// The rules as JSON, and whether they are on
    #[command(after_help = "Example:\n  ollamax model rules show > rules.json")]
    Show,
    /// What the rules would do now, whether they are on or not
    #[command(after_help = "Example:\n  ollamax model rules plan")]
    Plan,
    /// Let the leader carry out what they say
    #[command(after_help = "Example:\n  ollamax model rules on")]
    On,
    /// Keep them and do nothing
    #[command(after_help = "Example:\n  ollamax model rules off")]
    Off,
    /// Take other rules, from a file; they are on if the file says so
    #[command(after_help = "Example:\n  ollamax model rules set rules.json && ollamax model rules plan")]
    Set {
        /// The rules as JSON; `-` is standard input
        file: PathBuf,
    },
}
