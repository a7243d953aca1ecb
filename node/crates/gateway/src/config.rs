//! `api.*`: the clients' door; `mcp.*`: what assistants find there.
//!
//! Callers have no keys in this release, so the door opens on loopback alone unless the administrator says otherwise;
//! [`Config::validate`] refuses the combination that would open it by accident, and names every other problem too.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `api` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port; port 0 means any. Since 0.1.
    pub listen: String,
    /// Base URLs or `host:port` under which clients reach it; empty means the bound address. Since 0.1.
    pub advertise: Vec<String>,
    /// Serve everybody who can reach a `listen` that is not loopback. Since 0.1.
    pub allow_unauthenticated: bool,
    /// Browser origins that may call, beside those of this machine; `*` stands for any text. Since 0.1.
    pub origins: Vec<String>,
    /// Connections at once; one more is answered 503. Since 0.1.
    pub connections_max: u32,
    /// Bytes of request bodies held at once; beyond it requests are answered 503. Since 0.1.
    pub body_memory_bytes_max: u64,
    /// Milliseconds that a client may take for a request's head, and that an idle connection is kept. Since 0.1.
    pub head_timeout_ms: u64,
    /// Milliseconds between two pieces of a request body. Since 0.1.
    pub body_idle_timeout_ms: u64,
    /// Whose `POST /api/pull` is taken: that of this machine (`loopback`), of `everybody`, or of `nobody`. Since 0.1.
    pub pull: Pull,
    /// Show at /mcp also what the official suite of MCP looks for; for tests, and on loopback alone. Since 0.1.
    pub conformance_fixtures: bool,
    /// The `mcp` table: it stands beside `api` in the configuration, and the assembly puts it here.
    #[serde(skip)]
    pub mcp: McpConfig,
}

/// The `mcp` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// Answer also assistants that know HTTP+SSE alone (revision 2024-11-05), at /sse and /messages. Since 0.1.
    pub legacy_sse: bool,
}

/// Who may have models pulled over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// Programs on this machine.
    #[default]
    Loopback,
    /// Everybody who can reach the door.
    Everybody,
    /// Nobody; the admin socket is left.
    Nobody,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:11435".to_owned(),
            advertise: Vec::new(),
            allow_unauthenticated: false,
            origins: Vec::new(),
            connections_max: 4_096,
            body_memory_bytes_max: 1 << 30,
            head_timeout_ms: 60_000,
            body_idle_timeout_ms: 30_000,
            pull: Pull::default(),
            conformance_fixtures: false,
            mcp: McpConfig::default(),
        }
    }
}

// === impl Config ===

impl Config {
    /// Every problem, each as `key: what is wrong`.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.listen_address() {
            None => problems.push(format!("api.listen: {:?} is no address like 127.0.0.1:11435", self.listen)),
            Some(address) if !address.ip().is_loopback() && !self.allow_unauthenticated => problems.push(format!(
                "api.listen: {address} is open to the network, and callers have no keys in this release; bind to \
                 127.0.0.1, or set api.allow_unauthenticated = true"
            )),
            Some(_) => {}
        }
        let is_on_loopback = self.listen_address().is_some_and(|address| address.ip().is_loopback());
        if self.conformance_fixtures && !is_on_loopback {
            problems.push("api.conformance_fixtures: these are for tests, and api.listen is not loopback".to_owned());
        }
        for origin in self.origins.iter().filter(|origin| *origin != "*" && !origin.contains("://")) {
            problems.push(format!("api.origins: {origin:?} has no scheme; write it like https://chat.lab"));
        }
        let numbers = [
            ("connections_max", u64::from(self.connections_max), 1, 1 << 20),
            ("body_memory_bytes_max", self.body_memory_bytes_max, 1 << 20, 1 << 40),
            ("head_timeout_ms", self.head_timeout_ms, 100, 3_600_000),
            ("body_idle_timeout_ms", self.body_idle_timeout_ms, 100, 3_600_000),
        ];
        for (key, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                problems.push(format!("api.{key}: {value} is not between {least} and {most}"));
            }
        }
        problems
    }

    /// `listen`, read; `None` when it is no address.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        let text = self.listen.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        text.as_deref().unwrap_or(&self.listen).parse().ok()
    }

    pub(crate) const fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub(crate) const fn body_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.body_idle_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &Config, expected: &[&str]) {
        let problems = config.validate();
        let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        assert_eq!(keys, expected, "{problems:?}");
    }

    #[test]
    fn names_every_problem_and_never_opens_by_accident() {
        check(&Config::default(), &[]);
        check(&Config { listen: "localhost:0".to_owned(), ..Config::default() }, &[]);
        check(&Config { listen: "[::1]:1".to_owned(), ..Config::default() }, &[]);
        let open = Config { listen: "0.0.0.0:11435".to_owned(), ..Config::default() };
        check(&open, &["api.listen"]);
        check(&Config { allow_unauthenticated: true, ..open }, &[]);
        let fixtures = Config { conformance_fixtures: true, ..Config::default() };
        check(&fixtures, &[]);
        check(
            &Config { listen: "[::]:1".to_owned(), allow_unauthenticated: true, ..fixtures },
            &["api.conformance_fixtures"],
        );
        let bad = Config {
            listen: "nowhere".to_owned(),
            origins: vec!["*".to_owned(), "chat.lab".to_owned()],
            connections_max: 0,
            ..Config::default()
        };
        check(&bad, &["api.listen", "api.origins", "api.connections_max"]);
    }
}
