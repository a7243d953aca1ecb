//! The node's configuration: one field per crate that has numbers, merged from four layers, checked before anything
//! is touched.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ollamax_gateway as gateway;
use ollamax_metadata as metadata;
use ollamax_net as net;
use ollamax_outbound as outbound;
use ollamax_scheduler as scheduler;
use ollamax_store as store;
use ollamax_transfer as transfer;
use ollamax_types::Role;
use ollamax_types::limits::{LABEL_BYTES_MAX, TOKEN_TEXT_BYTES_MAX};

use crate::backups::place::Place;
use crate::telemetry;
use crate::toolbox;

pub(crate) mod example;
pub(crate) mod layers;

use layers::{Effective, Layers, Problem};

/// Environment variables that begin as ours do, but are no configuration keys.
pub(crate) const OTHER_VARIABLES: [&str; 8] = [
    "OLLAMAX_DATA_DIR",
    "OLLAMAX_API",
    "OLLAMAX_SOAK",
    "OLLAMAX_CONFIG",
    "OLLAMAX_TEST_CLOCK_OFFSET_MS",
    "OLLAMAX_SEED",
    "OLLAMAX_REVISION",
    "OLLAMAX_ROOMS",
];

/// Longest time between two scheduled backups: a year.
const BACKUP_HOURS_MAX: u64 = 8_784;
/// Most backups that are counted to be kept.
const BACKUP_KEEP_MAX: usize = 500;
/// Where the keys stand that reach a bucket.
const BUCKET_KEYS: &str = "backup.s3";
/// What their names begin with.
const BACKUP_KEYS: &str = "backup";
/// Rights of others than the owner of a file.
const FOREIGN_RIGHTS: u32 = 0o077;

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NodeConfig {
    /// This node.
    pub(crate) node: NodeSection,
    /// The clients' listener.
    pub(crate) api: gateway::Config,
    /// The nodes' listener.
    pub(crate) peer: net::PeerConfig,
    /// Discovery.
    pub(crate) p2p: net::P2pConfig,
    /// The model runtime beside this node.
    pub(crate) runtime: outbound::Config,
    /// Consensus.
    pub(crate) raft: metadata::Config,
    /// The store under it.
    pub(crate) store: store::Config,
    /// Admission and routing.
    pub(crate) scheduler: scheduler::Config,
    /// Model files.
    pub(crate) transfer: transfer::Config,
    /// The registry for machines that are no members.
    pub(crate) registry: gateway::RegistryConfig,
    /// Tools for assistants and scripts.
    pub(crate) tools: ToolsSection,
    /// The Model Context Protocol.
    pub(crate) mcp: gateway::McpConfig,
    /// Joining without an administrator.
    pub(crate) cluster: ClusterSection,
    /// Backups of the replicated state.
    pub(crate) backup: BackupSection,
    /// Stopping.
    pub(crate) shutdown: ShutdownSection,
    /// Logs.
    pub(crate) log: LogSection,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NodeSection {
    /// Name shown to people; empty: the machine's host name. Since 0.1.
    pub(crate) name: String,
    /// Group that may use the admin socket besides root and the daemon's user; empty: none. Since 0.1.
    pub(crate) admin_group: String,
}

/// Tools for assistants and scripts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ToolsSection {
    /// Families that are switched on: cluster, health, inference, models, tools; empty: all. Since 0.1.
    pub(crate) families: Vec<String>,
}

/// Joining without an administrator, for unattended set-ups. Ignored once the node is a member.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterSection {
    /// Make a new cluster at the first start. Since 0.1.
    pub(crate) init: bool,
    /// Name of the cluster that `init` makes. Since 0.1.
    pub(crate) name: String,
    /// File with a join token, mode 0600; read at the first start. Since 0.1.
    pub(crate) token_file: String,
    /// `host:port` of `peer` listeners to join at. Since 0.1.
    pub(crate) seeds: Vec<String>,
    /// Role to join in; empty: the token's. Since 0.1.
    pub(crate) role: String,
}

/// Backups of the replicated state. The schedule is the leader's, with the leader's own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackupSection {
    /// Hours between two scheduled backups, counted in the cluster's own time; 0: none are made. Since 0.1.
    pub(crate) every_hours: u64,
    /// How many backups of this cluster stay where the schedule puts them; older ones go. 0: all stay. Since 0.1.
    pub(crate) keep: usize,
    /// A folder, or s3://BUCKET/PREFIX; empty: `backups` in the data directory. Since 0.1.
    pub(crate) to: String,
    /// How a bucket is reached, where one is named.
    pub(crate) s3: outbound::bucket::Config,
}

/// Stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShutdownSection {
    /// How long running answers may finish after SIGTERM, seconds. Since 0.1.
    pub(crate) grace_s: u64,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogSection {
    /// error, warn, info or debug; or `target=level` pairs, separated by commas. Since 0.1.
    pub(crate) level: String,
    /// json or text. Since 0.1.
    pub(crate) format: telemetry::Format,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { name: String::new(), admin_group: "ollamax".to_owned() }
    }
}

impl Default for BackupSection {
    fn default() -> Self {
        Self { every_hours: 24, keep: 7, to: String::new(), s3: outbound::bucket::Config::default() }
    }
}

impl BackupSection {
    /// Time between two scheduled backups; 0: none are made.
    #[must_use]
    pub(crate) const fn every_ms(&self) -> u64 {
        self.every_hours.saturating_mul(3_600_000)
    }
}

impl Default for ShutdownSection {
    fn default() -> Self {
        Self { grace_s: 30 }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: telemetry::Format::Json }
    }
}

// === impl NodeConfig ===

impl NodeConfig {
    /// Merges the layers and checks every value, also against this machine; all problems at once. The token's file is
    /// looked at only where it is needed: not by a member.
    ///
    /// # Errors
    /// Every unknown key, unreadable value, value outside its range and name of something that is not there.
    pub(crate) fn load(
        file: Option<&Path>,
        env: Vec<(String, String)>,
        flags: Vec<(String, String)>,
        needs_token: bool,
    ) -> Result<Effective<Self>, Vec<Problem>> {
        let layers = Layers::default().with_env(env, &OTHER_VARIABLES).with_flags(flags);
        let (layers, mut problems) = with_file(layers, file);
        let (effective, found) = layers::merge::<Self>(&layers);
        problems.extend(found);
        problems.extend(effective.config.validate());
        problems.extend(effective.config.missing_here(needs_token).iter().map(|line| split(line)));
        if problems.is_empty() { Ok(effective) } else { Err(problems) }
    }

    /// How a bucket is reached, for a command without a daemon. What else is set is not looked at: it may be right for
    /// a machine that is lost, and wrong for this one.
    ///
    /// # Errors
    /// Every problem of these keys, and a file that cannot be read.
    pub(crate) fn load_bucket(
        file: Option<&Path>,
        env: Vec<(String, String)>,
    ) -> Result<outbound::bucket::Config, Vec<Problem>> {
        let (layers, mut problems) = with_file(Layers::default().with_env(env, &OTHER_VARIABLES), file);
        let (effective, found) = layers::merge::<Self>(&layers);
        let is_below = |problem: &Problem, key: &str| {
            problem.subject.starts_with(key) || problem.subject.starts_with(&layers::env_name(key))
        };
        let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|problem| is_below(problem, BUCKET_KEYS));
        problems.extend(own);
        let bucket = effective.config.backup.s3;
        problems.extend(bucket.validate().iter().map(|line| split(line)));
        if problems.is_empty() {
            return Ok(bucket);
        }
        // A name that is written wrongly may be why something is missing.
        problems.extend(others.into_iter().filter(|problem| is_below(problem, BACKUP_KEYS)));
        Err(problems)
    }

    /// Every value outside its range.
    #[must_use]
    pub(crate) fn validate(&self) -> Vec<Problem> {
        let store = self.store.validate().into_iter().map(|line| format!("store.{line}"));
        let crates = [
            self.api.validate(),
            self.peer.validate(),
            self.p2p.validate(),
            self.runtime.validate(),
            self.raft.validate(),
            self.scheduler.validate(),
            self.transfer.validate(),
            self.registry.validate(),
        ];
        let lines = crates.into_iter().flatten().chain(store).chain(self.own_problems());
        lines.map(|line| split(&line)).collect()
    }

    /// What the configuration names and this machine has not.
    fn missing_here(&self, needs_token: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let group = &self.node.admin_group;
        let is_named = !group.is_empty() && *group != NodeSection::default().admin_group;
        if is_named && !matches!(nix::unistd::Group::from_name(group), Ok(Some(_))) {
            problems.push(format!("node.admin_group: this machine has no group {group:?}; make it: groupadd {group}"));
        }
        let token = &self.cluster.token_file;
        if !token.is_empty() && needs_token {
            let fault = read_token(Path::new(token)).err();
            problems
                .extend(fault.map(|TokenFault { why, next }| format!("cluster.token_file: {token}: {why}; {next}")));
        }
        problems
    }

    fn own_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, text) in [("node.name", &self.node.name), ("cluster.name", &self.cluster.name)] {
            if !is_label(text) && !text.is_empty() {
                problems
                    .push(format!("{key}: {text:?} is not 1 to {LABEL_BYTES_MAX} letters, digits, '-', '_' or '.'"));
            }
        }
        if self.cluster.init && !self.cluster.token_file.is_empty() {
            problems.push(
                "cluster.init: cannot stand beside cluster.token_file; a node makes a cluster or joins one".to_owned(),
            );
        }
        for family in self.tools.families.iter().filter(|family| !toolbox::FAMILIES.contains(&family.as_str())) {
            problems.push(format!("tools.families: {family:?} is none of {}", toolbox::FAMILIES.join(", ")));
        }
        for seed in &self.cluster.seeds {
            if let Err(error) = net::address::check(seed) {
                problems.push(format!("cluster.seeds: {error}"));
            }
        }
        if !self.cluster.role.is_empty()
            && let Err(error) = self.cluster.role.parse::<Role>()
        {
            problems.push(format!("cluster.role: {error}"));
        }
        if self.backup.every_hours > BACKUP_HOURS_MAX {
            problems.push(format!("backup.every_hours: {} is more than {BACKUP_HOURS_MAX}", self.backup.every_hours));
        }
        if self.backup.keep > BACKUP_KEEP_MAX {
            problems.push(format!("backup.keep: {} is more than {BACKUP_KEEP_MAX}", self.backup.keep));
        }
        match Place::parse(&self.backup.to) {
            Ok(Place::Bucket { .. }) => problems.extend(self.backup.s3.validate()),
            Ok(Place::Default | Place::Folder(_)) => {}
            Err(problem) => problems.push(format!("backup.to: {problem}")),
        }
        if self.shutdown.grace_s > 3_600 {
            problems.push(format!("shutdown.grace_s: {} is more than 3600", self.shutdown.grace_s));
        }
        if let Err(error) = telemetry::parse_level(&self.log.level) {
            problems.push(error.to_string());
        }
        problems
    }

    /// The clients' door, and what assistants find there.
    #[must_use]
    pub(crate) fn door(&self) -> gateway::Config {
        gateway::Config { mcp: self.mcp.clone(), ..self.api.clone() }
    }

    /// The scheduler's numbers; the number of slots is the runtime's.
    #[must_use]
    pub(crate) fn scheduler(&self) -> scheduler::Config {
        scheduler::Config { parallel: self.runtime.parallel.max(1), ..self.scheduler.clone() }
    }
}

/// Whether a text can name a node or a cluster.
#[must_use]
pub(crate) fn is_label(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.chars().all(valid)
}

/// A token that cannot be taken from a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenFault {
    /// What is wrong with the file.
    pub(crate) why: String,
    /// What mends it.
    pub(crate) next: String,
}

/// The token in a file. It is a secret, so nobody else may read it.
pub(crate) fn read_token(path: &Path) -> Result<String, TokenFault> {
    let fault = |why: String| TokenFault { why, next: "write the token there, mode 0600".to_owned() };
    let broken = |error: io::Error| fault(error.to_string());
    let file = fs::File::open(path).map_err(broken)?;
    let about = file.metadata().map_err(broken)?;
    if !about.is_file() {
        return Err(fault("it is no file".to_owned()));
    }
    if about.mode() & FOREIGN_RIGHTS != 0 {
        let why = format!("it holds a secret but has mode {:04o}", about.mode() & 0o7777);
        return Err(TokenFault { why, next: format!("chmod 600 {}", path.display()) });
    }
    let mut token = String::new();
    let room = TOKEN_TEXT_BYTES_MAX as u64 + 1;
    file.take(room).read_to_string(&mut token).map_err(broken)?;
    if token.len() > TOKEN_TEXT_BYTES_MAX {
        return Err(fault("it is too long for a token".to_owned()));
    }
    Ok(token)
}

/// The layers with a configuration file, where one is named, or what is wrong with it.
fn with_file(layers: Layers, file: Option<&Path>) -> (Layers, Vec<Problem>) {
    let Some(path) = file else { return (layers, Vec::new()) };
    match read_file(path) {
        Ok(content) => (layers.with_file(&path.display().to_string(), content), Vec::new()),
        Err(problem) => (layers, vec![problem]),
    }
}

fn split(line: &str) -> Problem {
    let (subject, message) = line.split_once(": ").or_else(|| line.split_once(' ')).unwrap_or(("configuration", line));
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}

fn read_file(path: &Path) -> Result<serde_json::Value, Problem> {
    let problem = |message: String| Problem { subject: path.display().to_string(), message };
    let text = fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| problem(in_one_line(&text, &error)))?;
    serde_json::to_value(table).map_err(|error| problem(error.to_string()))
}

/// What is wrong with a file, and where; toml's own text is a drawing over several lines.
fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(span) = error.span() else { return message };
    // At the end of a file its last line is meant, not the empty one behind it.
    let before = &text.as_bytes()[..span.start.min(text.len().saturating_sub(1))];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: {message}")
}

#[cfg(test)]
mod tests;
