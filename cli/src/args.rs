//! The words of the command line. What each command does stands in the file of its name under `command/`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Administer an OllamaMax cluster.
#[derive(Debug, Parser)]
#[command(name = "ollamax", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Data directory of the daemon on this machine; its admin socket lies there
    #[arg(long, env = "OLLAMAX_DATA_DIR", global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How to show the result
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

/// How results are shown. The table is for people and may change; JSON is a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs: one object with apiVersion and kind
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this node the first of a new cluster
    Init(InitArgs),
    /// Make this node a member of an existing cluster
    Join(JoinArgs),
    /// Take this node out of its cluster in good order
    Leave(LeaveArgs),
    /// Permissions to join
    #[command(subcommand)]
    Token(TokenCommand),
    /// The cluster's health, what needs attention, what to do next
    Status,
    /// The machines of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// The models of the cluster
    #[command(subcommand)]
    Model(ModelCommand),
    /// Which models are in memory, and where
    Ps(ApiArgs),
    /// Ask a model, once or in a conversation
    Run(RunArgs),
    /// The daemon's log
    Logs(LogsArgs),
    /// Check this machine and its way to the others
    Doctor,
    /// A whole cluster on this machine, for trying out and for development
    #[command(subcommand)]
    Dev(DevCommand),
    /// Completions for your shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the cluster
    #[arg(long, default_value = "lab")]
    pub(crate) cluster: String,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The join token; `-` reads it from standard input, which keeps it out of the process list
    #[arg(value_name = "TOKEN", required_unless_present = "token_file")]
    pub(crate) token: Option<String>,
    /// File that holds the join token
    #[arg(long, conflicts_with = "token", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A member's peer address, host:port; repeatable [default: members found on the local network]
    #[arg(long = "peer", value_name = "HOST:PORT")]
    pub(crate) peers: Vec<String>,
    /// voter, learner or gateway [default: the token's]
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Leave even if the cluster cannot be told
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token; it is shown once
    Create {
        /// Role that it grants: voter, learner or gateway
        #[arg(long, default_value = "voter")]
        role: String,
        /// How long it is valid, for example 30m or 2d
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// How many machines may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
    },
    /// The tokens that were made
    List,
    /// Withdraw a token
    Revoke {
        /// Its id, from `ollamax token list`
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All members
    List,
    /// One member in full
    Show {
        /// Id or name
        node: String,
    },
    /// Send a node no new requests; running ones finish
    Drain {
        /// Id or name
        node: String,
    },
    /// Send a drained node requests again
    Undrain {
        /// Id or name
        node: String,
    },
    /// Remove a member for good; its id is never used again
    Remove {
        /// Id or name
        node: String,
        /// Remove it although it is alive
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// All models
    List,
    /// One model and its copies
    Show {
        /// Name, for example llama3.2 or demo:latest
        name: String,
    },
    /// Create a model from a GGUF file in the runtimes of chosen nodes
    Import {
        /// The GGUF file
        file: PathBuf,
        /// Name of the model
        #[arg(long)]
        name: String,
        /// Node that shall have it, id or name; repeatable [default: this node]
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
        /// Replace another model of this name
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ApiArgs {
    /// Base URL of a node's api listener [default: the node of --data-dir]
    #[arg(long, env = "OLLAMAX_API", value_name = "URL")]
    pub(crate) api: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The model
    pub(crate) model: String,
    /// The question; without one a conversation is held
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// 0 always gives the same answer
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
    /// Show who answered and how fast, on stderr
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) lines: u32,
    /// Go on with new lines
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Least severity: error, warn, info or debug
    #[arg(long, default_value = "debug", value_parser = ["error", "warn", "info", "debug"])]
    pub(crate) level: String,
    /// Only lines of this request
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a cluster on this machine; returns when all nodes are ready
    Up(DevUpArgs),
    /// Stop the cluster that lies in --data-dir
    Down,
}

#[derive(Debug, Args)]
pub(crate) struct DevUpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=15))]
    pub(crate) nodes: u32,
    /// Leave it running and return
    #[arg(long)]
    pub(crate) detach: bool,
    /// Ollama to use beside a node instead of the bundled engine; once for each node
    #[arg(long = "runtime-url", value_name = "URL")]
    pub(crate) runtime_urls: Vec<String>,
}
