//! The node's configuration: one field per crate that has numbers, merged from four layers, checked before anything
//! is touched.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use ollamax_gateway as gateway;
use ollamax_metadata as metadata;
use ollamax_net as net;
use ollamax_outbound as outbound;
use ollamax_scheduler as scheduler;
use ollamax_store as store;
use ollamax_types::Role;
use ollamax_types::limits::LABEL_BYTES_MAX;

use crate::telemetry;

pub(crate) mod example;
pub(crate) mod layers;

use layers::{Effective, Layers, Problem};

/// Environment variables that begin as ours do, but are no configuration keys.
pub(crate) const OTHER_VARIABLES: [&str; 6] = [
    "OLLAMAX_DATA_DIR",
    "OLLAMAX_API",
    "OLLAMAX_SOAK",
    "OLLAMAX_CONFIG",
    "OLLAMAX_TEST_CLOCK_OFFSET_MS",
    "OLLAMAX_SEED",
];

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
    /// Joining without an administrator.
    pub(crate) cluster: ClusterSection,
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
        let mut layers = Layers::default().with_env(env, &OTHER_VARIABLES).with_flags(flags);
        let mut problems = Vec::new();
        if let Some(path) = file {
            match read_file(path) {
                Ok(content) => layers = layers.with_file(&path.display().to_string(), content),
                Err(problem) => problems.push(problem),
            }
        }
        let (effective, found) = layers::merge::<Self>(&layers);
        problems.extend(found);
        problems.extend(effective.config.validate());
        problems.extend(effective.config.missing_here(needs_token).iter().map(|line| split(line)));
        if problems.is_empty() { Ok(effective) } else { Err(problems) }
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
            problems.extend(token_problem(Path::new(token)).map(|problem| format!("cluster.token_file: {problem}")));
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
        if self.shutdown.grace_s > 3_600 {
            problems.push(format!("shutdown.grace_s: {} is more than 3600", self.shutdown.grace_s));
        }
        if let Err(error) = telemetry::parse_level(&self.log.level) {
            problems.push(error.to_string());
        }
        problems
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

/// Why a token cannot be taken from a file. It is a secret, so nobody else may read it.
fn token_problem(path: &Path) -> Option<String> {
    let shown = path.display();
    let next = "write the token there, mode 0600";
    match fs::File::open(path).and_then(|file| file.metadata()) {
        Err(error) => Some(format!("{shown}: {error}; {next}")),
        Ok(about) if !about.is_file() => Some(format!("{shown} is no file; {next}")),
        Ok(about) if about.mode() & FOREIGN_RIGHTS != 0 => {
            let mode = about.mode() & 0o7777;
            Some(format!("{shown} holds a secret but has mode {mode:04o}; run: chmod 600 {shown}"))
        }
        Ok(_) => None,
    }
}

fn split(line: &str) -> Problem {
    let (subject, message) = line.split_once(": ").or_else(|| line.split_once(' ')).unwrap_or(("configuration", line));
    Problem { subject: subject.to_owned(), message: message.to_owned() }
}

fn read_file(path: &Path) -> Result<serde_json::Value, Problem> {
    let problem = |message: String| Problem { subject: path.display().to_string(), message };
    let text = fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| problem(error.to_string()))?;
    serde_json::to_value(table).map_err(|error| problem(error.to_string()))
}

#[cfg(test)]
mod tests;
