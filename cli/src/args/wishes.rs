//! The words for what is wished for: the file that says it, copies that move, and which nodes come into question.

use std::path::PathBuf;

use clap::Args;

use ollamax_types::size;

use super::node::label;

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The file, as docs/operations/replication.md describes it; `-` is standard input
    pub(crate) file: PathBuf,
    /// Do not ask; needed where there is no terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Wait until every model is where the file wants it
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Name, for example llama3.2 or demo:latest
    pub(crate) name: String,
    /// Node whose copy goes, id or name
    #[arg(long, value_name = "NODE")]
    pub(crate) from: String,
    /// Node that gets one, id or name
    #[arg(long, value_name = "NODE")]
    pub(crate) to: String,
    /// Show what would be done, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Wait until the one copy has come and the other has gone
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Which nodes come into question for a model.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhereArgs {
    /// Only nodes with this label, KEY=VALUE; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, conflicts_with = "cancel")]
    pub(crate) labels: Vec<(String, String)>,
    /// Only nodes with a GPU of so much memory, like 16GB
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, conflicts_with = "cancel")]
    pub(crate) gpu_memory_min: Option<u64>,
    /// Only nodes whose disk has so much free beside the copy, like 50GB
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, conflicts_with = "cancel")]
    pub(crate) disk_free_min: Option<u64>,
    /// Not on this node, id or name; repeatable, or several with commas between
    #[arg(long = "avoid", value_name = "NODE", value_delimiter = ',', conflicts_with = "cancel")]
    pub(crate) avoid: Vec<String>,
}

fn size_bytes(text: &str) -> Result<u64, String> {
    size::bytes_of(text).ok_or_else(|| "it is a whole number with a unit, like 16GB".to_owned())
}
