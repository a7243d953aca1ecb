//! The words of `ollamax tool`, `ollamax task` and `ollamax approve`.

use clap::{Args, Subcommand};

/// Where a task may stand, as the daemon spells it, and the words for those that are not over and those that are.
const STATUSES: [&str; 8] = ["waiting", "queued", "working", "completed", "failed", "cancelled", "open", "over"];

#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// The tools there are
    #[command(after_help = "Examples:\n  ollamax tool list\n  ollamax tool list -o json | jq .tools")]
    List,
    /// What a tool does, and which arguments it takes
    #[command(after_help = "Example:\n  ollamax tool describe list_nodes")]
    Describe {
        /// Its name
        name: String,
    },
    /// The same tools over HTTP, as an OpenAPI document
    #[command(name = "openapi", after_help = "Example:\n  ollamax tool openapi > openapi.json")]
    OpenApi,
    /// Call a tool and show its result
    #[command(after_help = "Examples:
  ollamax tool call health_check
  ollamax tool call list_nodes '{\"health\": \"dead\"}'
  ollamax tool call list_models_detailed - < arguments.json
  ollamax tool call pull_model '{\"name\": \"llama3.2\"}' --no-wait")]
    Call(CallArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Its name
    pub(crate) name: String,
    /// The arguments as a JSON object; `-` is standard input [default: none]
    #[arg(value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    /// Wait for the end of the task where the tool begins one; this is the default
    #[arg(long, overrides_with = "no_wait")]
    pub(crate) wait: bool,
    /// Come back with the task where the tool begins one
    #[arg(long, overrides_with = "wait")]
    pub(crate) no_wait: bool,
}

// === impl CallArgs ===

impl CallArgs {
    /// Whether the end of a task is waited for.
    pub(crate) const fn waits(&self) -> bool {
        self.wait || !self.no_wait
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// The tasks there are, oldest first; one that is over is kept for a day
    #[command(after_help = "Examples:
  ollamax task list
  ollamax task list --status open --tool pull_model
  ollamax task list --status waiting -o json | jq .tasks
  ollamax task list --limit 20")]
    List(ListTasksArgs),
    /// One task: how far it is, what came of it
    #[command(
        after_help = "Examples:\n  ollamax task show ID\n  ollamax task show ID --wait -o json | jq .task.result"
    )]
    Show(ShowTaskArgs),
    /// End a task; what it has done so far stays
    #[command(after_help = "Example:\n  ollamax task cancel ID")]
    Cancel {
        /// Its id, from `ollamax task list`
        id: String,
    },
    /// Have a task done again that failed or was cancelled
    #[command(after_help = "Example:\n  ollamax task retry ID && ollamax task show ID --wait")]
    Retry {
        /// Its id, from `ollamax task list`
        id: String,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct ListTasksArgs {
    /// Only those that stand so; `open` are those that are not over, `over` those that are
    #[arg(long, visible_alias = "state", value_parser = STATUSES)]
    pub(crate) status: Option<String>,
    /// Only those of this tool
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Option<String>,
    /// Only your own
    #[arg(long)]
    pub(crate) mine: bool,
    /// Only the newest, so many at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowTaskArgs {
    /// Its id, from `ollamax task list`
    pub(crate) id: String,
    /// Wait until it is over
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Its id; without one, what waits is listed
    pub(crate) id: Option<String>,
    /// Refuse it: it is cancelled, and nothing happens
    #[arg(long, requires = "id")]
    pub(crate) deny: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(short, long, requires = "id")]
    pub(crate) yes: bool,
}
