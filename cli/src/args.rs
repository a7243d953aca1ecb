//! The words of the command line, each with an example. What each command does stands in the file of its name under
//! `command/`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use ollamax_types::{Knob, ReplicaKnob};

use crate::error;

mod mcp;
mod model;
mod node;
mod registry;
mod tool;
mod wishes;

pub(crate) use mcp::McpArgs;
pub(crate) use model::{CreateArgs, ImportArgs, ModelCommand, PullArgs, PullRate, PushArgs, Replicas, VerifyArgs};
pub(crate) use node::{DrainArgs, LabelWord, NodeCommand};
pub(crate) use registry::{LifecycleArgs, RegistryCommand, RemoveArgs, RollbackArgs, RulesCommand};
pub(crate) use tool::{ApproveArgs, CallArgs, ListTasksArgs, ShowTaskArgs, TaskCommand, ToolCommand};
pub(crate) use wishes::{ApplyArgs, MoveArgs, WhereArgs};

/// What a node may be, as `Role` of the daemon spells it.
const ROLES: [&str; 3] = ["voter", "learner", "gateway"];

/// The knobs of the autopilot: for voters, then for copies of models.
const KNOBS: [&str; 14] = [
    Knob::CleanupDead.name(),
    Knob::LastContact.name(),
    Knob::MaxTrailingLogs.name(),
    Knob::Stabilization.name(),
    Knob::DeadAfter.name(),
    Knob::RemoveAfter.name(),
    Knob::MinQuorum.name(),
    ReplicaKnob::RepairAfter.name(),
    ReplicaKnob::SteadyFor.name(),
    ReplicaKnob::MovesMax.name(),
    ReplicaKnob::DiskPercentMax.name(),
    ReplicaKnob::Rebalance.name(),
    ReplicaKnob::RebalancePercent.name(),
    ReplicaKnob::ForgetAfter.name(),
];

const EXAMPLES: &str = "Examples:
  ollamax init --cluster lab
  ollamax status
  ollamax model import model.gguf --name mine --node a --node b
  ollamax run mine \"Why is the sky blue?\"
  ollamax dev up --nodes 3";

/// Administer an OllamaMax cluster.
#[derive(Debug, Parser)]
#[command(name = "ollamax", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", error::exit_table()))]
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
    /// How to show the result; `completion` prints its script either way
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Output,
    /// Show the causes behind an error; with `run`, who answered and how fast
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// How results are shown. The table is for people and may change; JSON is a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs: one object with apiVersion and kind; of `logs` the log's lines
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this node the first of a new cluster
    #[command(after_help = "Example:\n  ollamax init --cluster lab --name a")]
    Init(InitArgs),
    /// Make this node a member of an existing cluster
    #[command(after_help = "Examples:
  ollamax join --token-file FILE --peer a.lan:11436
  ollamax join - < FILE
  ollamax join TOKEN --role learner")]
    Join(JoinArgs),
    /// Take this node out of its cluster in good order
    #[command(after_help = "Example:\n  ollamax leave")]
    Leave(LeaveArgs),
    /// Permissions to join
    #[command(subcommand)]
    Token(TokenCommand),
    /// The cluster's health, what needs attention, what to do next
    #[command(after_help = "Examples:\n  ollamax status\n  ollamax status -o json | jq .attention")]
    Status,
    /// Wait until something holds; exit code 9 when the time is over
    #[command(after_help = "Examples:
  ollamax wait
  ollamax wait --for quorum --timeout 30s
  ollamax wait --for members=3 && ollamax model list")]
    Wait(WaitArgs),
    /// The machines of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// How the leader keeps the voters healthy
    #[command(subcommand)]
    Autopilot(AutopilotCommand),
    /// The models of the cluster
    #[command(subcommand)]
    Model(ModelCommand),
    /// Small values that the lab shares, with revisions
    #[command(subcommand)]
    Kv(KvCommand),
    /// Consensus: who leads, how far each node is, snapshots, what the disk keeps
    #[command(subcommand)]
    Raft(RaftCommand),
    /// The cluster's state in one file, sealed; and back
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Changes of the form of what the cluster has on record
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Before another release is installed
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// What assistants can do with the cluster, by hand
    #[command(subcommand)]
    Tool(ToolCommand),
    /// What tools do that takes longer than a call
    #[command(subcommand)]
    Task(TaskCommand),
    /// Let a task that waits for approval begin, or refuse it
    #[command(after_help = "Examples:
  ollamax approve
  ollamax approve ID
  ollamax approve ID --deny
  ollamax approve ID --yes")]
    Approve(ApproveArgs),
    /// The tools for an assistant on this machine, over standard input and output
    #[command(after_help = mcp::EXAMPLES)]
    Mcp(McpArgs),
    /// Which models are in memory, and where
    #[command(after_help = "Examples:\n  ollamax ps\n  ollamax ps --api http://a.lan:11435")]
    Ps(ApiArgs),
    /// Ask a model, once or in a conversation
    #[command(after_help = "Examples:
  ollamax run demo \"Why is the sky blue?\"
  ollamax run demo --temperature 0 -o json hello
  ollamax run demo    # a conversation; /bye ends it")]
    Run(RunArgs),
    /// The daemon's log
    #[command(after_help = "Examples:\n  ollamax logs --follow --level warn\n  ollamax logs --request ID -o json")]
    Logs(LogsArgs),
    /// What happened in the cluster, in order
    #[command(after_help = "Examples:
  ollamax events --follow
  ollamax events --kind member_joined --kind member_left
  ollamax events --since 42 -o json")]
    Events(EventsArgs),
    /// Check this machine and its way to the others
    #[command(after_help = "Example:\n  ollamax doctor")]
    Doctor,
    /// Go on with what survives when a majority of the voters is gone for good
    #[command(subcommand)]
    Recover(RecoverCommand),
    /// Make the node of this machine nothing again, with its daemon down; models stay
    #[command(after_help = "Examples:\n  ollamax reset\n  ollamax reset --confirm")]
    Reset(ResetArgs),
    /// A whole cluster on this machine, for trying out and for development
    #[command(subcommand)]
    Dev(DevCommand),
    /// Completions for your shell
    #[command(after_help = "Example:\n  ollamax completion bash | sudo tee /etc/bash_completion.d/ollamax >/dev/null")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

// === impl Command ===

impl Command {
    /// Whether it says by itself what Ctrl-C leaves behind.
    pub(crate) const fn hears_ctrl_c(&self) -> bool {
        match self {
            Self::Dev(_) => true,
            Self::Model(ModelCommand::Pull(args)) => args.wait,
            Self::Tool(ToolCommand::Call(args)) => args.waits(),
            Self::Task(TaskCommand::Show(args)) => args.wait,
            _ => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Name of the cluster
    #[arg(long, default_value = "lab")]
    pub(crate) cluster: String,
    /// Name of this node [default: node.name of its configuration, else the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The join token; `-` reads it from standard input, which keeps it out of the process list
    #[arg(value_name = "TOKEN", required_unless_present = "token_file")]
    pub(crate) token: Option<String>,
    /// File that holds the join token, for its owner alone (mode 600); `-` is standard input
    #[arg(long, conflicts_with = "token", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A member's peer address, host:port; repeatable [default: members found on the local network]
    #[arg(long = "peer", value_name = "HOST:PORT")]
    pub(crate) peers: Vec<String>,
    /// What it shall be: voter (may vote), learner (never votes) or gateway (no models either) [default: the token's]
    #[arg(long, value_parser = ROLES)]
    pub(crate) role: Option<String>,
    /// Name of this node [default: node.name of its configuration, else the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Leave even if the cluster cannot be told
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a join token; it is shown once
    #[command(after_help = "Example:\n  ollamax token create --role learner --ttl 2d --uses 10")]
    Create {
        /// Role that it grants: voter (may vote), learner (never votes) or gateway (no models either)
        #[arg(long, default_value = "voter", value_parser = ROLES)]
        role: String,
        /// How long it is valid, for example 30m or 2d
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// How many machines may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
    },
    /// The tokens that were made
    #[command(after_help = "Example:\n  ollamax token list")]
    List,
    /// Withdraw a token
    #[command(after_help = "Example:\n  ollamax token revoke ID")]
    Revoke {
        /// Its id, from `ollamax token list`
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AutopilotCommand {
    /// All knobs, what they are set to, and what they mean
    #[command(after_help = "Example:\n  ollamax autopilot show")]
    Show,
    /// Set a knob for the whole cluster, at once
    #[command(after_help = "Examples:
  ollamax autopilot set dead_after 30m
  ollamax autopilot set cleanup_dead false")]
    Set {
        /// Which one
        #[arg(value_parser = KNOBS)]
        knob: String,
        /// Its value: true or false, a number, or a time as 90s or 2h
        value: String,
    },
    /// Give a knob its default again
    #[command(after_help = "Example:\n  ollamax autopilot reset dead_after")]
    Reset {
        /// Which one
        #[arg(value_parser = KNOBS)]
        knob: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// One value
    #[command(after_help = "Examples:\n  ollamax kv get motd\n  ollamax kv get motd --read stale -o json")]
    Get {
        /// Its key; `user/` is put before it where it is missing
        key: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Set a value
    #[command(after_help = "Examples:
  ollamax kv put motd \"maintenance at noon\"
  ollamax kv put motd - < FILE
  ollamax kv put host/a up --lease ID")]
    Put {
        /// Its key; `user/` is put before it where it is missing
        key: String,
        /// What it shall hold; `-` reads it from standard input
        value: String,
        /// It goes when this lease ends
        #[arg(long, value_name = "ID")]
        lease: Option<u64>,
    },
    /// Set a value only if nobody changed it meanwhile
    #[command(after_help = "Examples:\n  ollamax kv cas motd new --modified 42\n  ollamax kv cas lock me --absent")]
    Cas {
        /// Its key; `user/` is put before it where it is missing
        key: String,
        /// What it shall hold; `-` reads it from standard input
        value: String,
        /// Only if this is the revision that last changed it, as `kv get -o json` tells it
        #[arg(long, value_name = "REVISION", required_unless_present = "absent", conflicts_with = "absent")]
        modified: Option<u64>,
        /// Only if it is not there
        #[arg(long)]
        absent: bool,
        /// It goes when this lease ends
        #[arg(long, value_name = "ID")]
        lease: Option<u64>,
    },
    /// Remove a value
    #[command(after_help = "Example:\n  ollamax kv delete motd")]
    Delete {
        /// Its key; `user/` is put before it where it is missing
        key: String,
        /// Only if this is the revision that last changed it
        #[arg(long, value_name = "REVISION")]
        modified: Option<u64>,
    },
    /// The keys that begin with a text, with their values
    #[command(after_help = "Examples:\n  ollamax kv list\n  ollamax kv list host/ --keys")]
    List {
        /// What they begin with; `user/` is put before it where it is missing
        #[arg(default_value = "")]
        prefix: String,
        /// Without the values
        #[arg(long)]
        keys: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show each change of a value when it happens
    #[command(after_help = "Examples:\n  ollamax kv watch motd\n  ollamax kv watch host/ --prefix --from 42 -o json")]
    Watch {
        /// Its key; `user/` is put before it where it is missing
        #[arg(default_value = "")]
        key: String,
        /// All keys that begin with it
        #[arg(long)]
        prefix: bool,
        /// Begin with the changes of this revision [default: what comes next]
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
    },
    /// How much room the values take, and may take
    #[command(after_help = "Examples:\n  ollamax kv quota\n  ollamax kv quota --set 268435456")]
    Quota {
        /// Bytes of keys and values from now on
        #[arg(long, value_name = "BYTES")]
        set: Option<u64>,
    },
    /// Times that end by themselves, with the values that go with them
    #[command(subcommand)]
    Lease(LeaseCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Begin one
    #[command(after_help = "Example:\n  ollamax kv lease grant --ttl 30s")]
    Grant {
        /// How long it lives, for example 30s or 2h
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Let one begin anew
    #[command(after_help = "Example:\n  ollamax kv lease renew ID")]
    Renew {
        /// Its id
        id: u64,
    },
    /// End one now, with its values
    #[command(after_help = "Example:\n  ollamax kv lease revoke ID")]
    Revoke {
        /// Its id
        id: u64,
    },
    /// All of them
    #[command(after_help = "Example:\n  ollamax kv lease list")]
    List,
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadArgs {
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value = "linearizable")]
    pub(crate) read: Read,
    /// Of a stale answer: how old it may be, for example 5s
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    pub(crate) max_age: Option<Duration>,
}

/// Levels of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Read {
    /// Everything that was acknowledged before: the leader asks its majority
    Linearizable,
    /// The same while clocks run evenly: the leader trusts its lease
    Lease,
    /// What this node has, and how old it may be; works without a leader
    Stale,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write the state of this node into a file; models and node keys are not in it
    #[command(after_help = "Examples:\n  ollamax backup create\n  ollamax backup create --to /mnt/nas/ollamax")]
    Create {
        /// A folder of that machine, or s3://BUCKET/PREFIX [default: backup.to, else `backups` in the data directory]
        #[arg(long, value_name = "PLACE")]
        to: Option<String>,
    },
    /// The backups that lie at a place
    #[command(after_help = "Examples:\n  ollamax backup list\n  ollamax backup list --from /mnt/nas/ollamax -o json")]
    List {
        /// As --to of `create`
        #[arg(long, value_name = "PLACE")]
        from: Option<String>,
    },
    /// Check one: without its key that it is whole, with it that it can be restored; needs no daemon
    #[command(after_help = "Examples:
  ollamax backup verify FILE
  ollamax backup verify FILE --key-file KEY
  ollamax backup verify s3://BUCKET/KEY --config node.toml")]
    Verify {
        #[command(flatten)]
        from: OriginArgs,
        /// File that holds the secret key, for its owner alone (mode 600); `-` is standard input
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Make a new cluster of one, in the empty directory --data-dir; needs no daemon
    #[command(after_help = "Examples:
  ollamax backup restore FILE --key-file KEY --data-dir DIR
  ollamax backup restore s3://BUCKET/KEY --config node.toml --key-file KEY --data-dir DIR")]
    Restore {
        #[command(flatten)]
        from: OriginArgs,
        /// File that holds the secret key, for its owner alone (mode 600); `-` is standard input
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        /// Name of this node [default: the host name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Make a new key, shown once; backups from now on open with it, older ones with the one before
    #[command(after_help = "Example:\n  ollamax backup new-key")]
    NewKey,
}

/// Where a backup is read from.
#[derive(Debug, Clone, Args)]
pub(crate) struct OriginArgs {
    /// The backup: a file, or s3://BUCKET/KEY
    pub(crate) backup: PathBuf,
    /// Configuration file of a node, whose backup.s3.* reach the bucket [default: $OLLAMAX_CONFIG, else
    /// OLLAMAX_BACKUP_S3_* alone]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RaftCommand {
    /// How consensus stands on this node: term, leader, log, members; how far they are is known on the leader
    #[command(after_help = "Examples:\n  ollamax raft status\n  ollamax raft status -o json | jq .members")]
    Status,
    /// Give leadership to another voter; any node may be asked
    #[command(after_help = "Examples:\n  ollamax raft transfer-leader\n  ollamax raft transfer-leader b")]
    TransferLeader {
        /// Id or name [default: the voter that is best placed]
        node: Option<String>,
    },
    /// Take a snapshot of this node's state, after which its log is cut down
    #[command(after_help = "Example:\n  ollamax raft snapshot")]
    Snapshot,
    /// Look whether log and state on this disk are whole; the daemon must be stopped, nothing is changed
    #[command(after_help = "Examples:\n  ollamax raft verify\n  ollamax raft verify --data-dir DIR -o json")]
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Apply what is pending, in the order of numbers; one that was interrupted goes on where it stopped
    #[command(
        after_help = "Examples:\n  ollamax migrate up\n  ollamax migrate up --dry-run\n  ollamax migrate up --to 12"
    )]
    Up(MigrateArgs),
    /// Take back what was applied, from the highest number down; without a choice only the last one
    #[command(after_help = "Examples:\n  ollamax migrate down\n  ollamax migrate down --to 1 --dry-run")]
    Down(MigrateArgs),
    /// The ledger: every migration, where it stands, who did it and when
    #[command(after_help = "Examples:\n  ollamax migrate status\n  ollamax migrate status --phase core -o json")]
    Status {
        #[command(flatten)]
        phase: PhaseArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PhaseArgs {
    /// Only those of a phase: core, models, memory, cli-tools, guidance, knowledge, operations, or its number from 0 on
    #[arg(long, value_name = "PHASE")]
    pub(crate) phase: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) phase: PhaseArgs,
    /// The first one that is done
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) from: Option<u32>,
    /// The last one that is done
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) to: Option<u32>,
    /// Try each on the state of this node and say what it would change; nothing is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Begin out of order, or against one that is on its way in the other direction
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Whether the members can be restarted one after another; exit code 10 for a warning, 1 for a failure
    #[command(after_help = "Examples:\n  ollamax upgrade check\n  ollamax upgrade check -o json | jq .checks")]
    Check,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What shall hold, as this node sees it: ready (it takes part), quorum (changes go through), leader (somebody
    /// leads), caught-up (it has everything that was acknowledged), node=NAME (that member, by name or id, answers),
    /// members=N (so many answer)
    #[arg(long = "for", value_name = "CONDITION", default_value = "ready")]
    pub(crate) condition: Condition,
    /// How long; the last look may take two seconds more
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

/// What may be waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The node is a member and has the state of its cluster.
    Ready,
    /// The leader hears a majority of the voters.
    Quorum,
    /// Somebody leads.
    Leader,
    /// The node has applied everything that was acknowledged.
    CaughtUp,
    /// A member answers.
    Node(String),
    /// So many members answer.
    Members(usize),
}

// === impl Condition ===

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
        Ok(match text.split_once('=') {
            None if text == "ready" => Self::Ready,
            None if text == "quorum" => Self::Quorum,
            None if text == "leader" => Self::Leader,
            None if text == "caught-up" => Self::CaughtUp,
            Some(("node", name)) if !name.is_empty() => Self::Node(name.to_owned()),
            Some(("members", count)) => Self::Members(number(count).ok_or("members=N wants a number above 0")?),
            _ => return Err("it is one of ready, quorum, leader, caught-up, node=NAME, members=N".to_owned()),
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Quorum => f.write_str("quorum"),
            Self::Leader => f.write_str("leader"),
            Self::CaughtUp => f.write_str("caught-up"),
            Self::Node(name) => write!(f, "node={name}"),
            Self::Members(count) => write!(f, "members={count}"),
        }
    }
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

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with this revision [default: the oldest that the node keeps]
    #[arg(long, value_name = "REVISION")]
    pub(crate) since: Option<u64>,
    /// Only events of this kind; repeatable. An unknown one is answered with the list of all
    #[arg(long = "kind", value_name = "KIND")]
    pub(crate) kinds: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    /// Show what this survivor holds and what a recovery would lose, with the daemon down; nothing is changed
    #[command(after_help = "Examples:
  ollamax recover plan
  ollamax recover plan --write n3.json
  ollamax recover plan --with n3.json --with n4.json")]
    Plan {
        /// What another survivor wrote; repeatable
        #[arg(long = "with", value_name = "FILE")]
        with: Vec<PathBuf>,
        /// Write what this survivor holds into a file, for `--with` elsewhere
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Make this survivor the only member of a new cluster, with everything that its log has
    #[command(after_help = "Example:\n  ollamax recover apply --confirm lab")]
    Apply {
        /// What another survivor wrote; repeatable
        #[arg(long = "with", value_name = "FILE")]
        with: Vec<PathBuf>,
        /// The name of the cluster that is given up
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Do it; without, only what would go is shown
    #[arg(long)]
    pub(crate) confirm: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a cluster on this machine; it stays until Ctrl-C, or with --detach until `dev down`
    #[command(after_help = "Examples:\n  ollamax dev up --nodes 3\n  ollamax dev up --data-dir DIR --detach -o json")]
    Up(DevUpArgs),
    /// Stop the cluster that lies in --data-dir [default: ~/.local/share/ollamax-dev]
    #[command(after_help = "Example:\n  ollamax dev down --data-dir DIR")]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_shown() {
        for text in ["ready", "quorum", "leader", "caught-up", "node=gpu-2", "node=a=b", "members=3"] {
            assert_eq!(text.parse::<Condition>().map(|condition| condition.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "Ready", "node", "node=", "members", "members=", "members=0", "members=-1", "ready=yes"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
