//! `runtime.*`: which model runtime stands beside this node, and how patiently it is watched.
//!
//! Only numbers and names; whether they make sense is answered by [`Config::validate`], which names every problem at
//! once. Nothing here opens a connection.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address;

/// The wish for a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Use an Ollama if this machine has one, else the bundled engine; decided once and remembered.
    #[default]
    Auto,
    /// Use the Ollama at `runtime.url`, else the one used before, else at `OLLAMA_HOST` or the default address, and
    /// wait for it if need be.
    Ollama,
    /// Start the bundled engine, whatever else is installed.
    Engine,
    /// No runtime on this machine.
    None,
}

/// The `runtime` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `auto`, `ollama`, `engine` or `none`. Since 0.1.
    pub kind: Kind,
    /// Address of the runtime in any form that `OLLAMA_HOST` takes; empty means find it. For the engine: where it
    /// shall listen (empty: 127.0.0.1, any free port). Since 0.1.
    pub url: String,
    /// Requests that the runtime gets at once for one model; 0 means 1. The same number as `OLLAMA_NUM_PARALLEL` of the
    /// Ollama beside this node; the engine works on one. Since 0.1.
    pub parallel: u32,
    /// Milliseconds between two looks at what is loaded (`/api/ps`). Since 0.1.
    pub residency_interval_ms: u64,
    /// Milliseconds between two looks at which models there are (`/api/tags`) and the version. Since 0.1.
    pub models_interval_ms: u64,
    /// Milliseconds until a health call counts as unanswered. Since 0.1.
    pub health_timeout_ms: u64,
    /// Milliseconds without a byte of any answer after which a runtime with work in flight, whose health calls stay
    /// unanswered, no longer counts as busy but as hung. Since 0.1.
    pub hang_after_ms: u64,
    /// The engine binary; empty means `ollamax-engine` beside the running program. Since 0.1.
    pub engine_binary: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::Auto,
            url: String::new(),
            parallel: 0,
            residency_interval_ms: 1_000,
            models_interval_ms: 5_000,
            health_timeout_ms: 2_000,
            hang_after_ms: 30_000,
            engine_binary: String::new(),
        }
    }
}

// === impl Config ===

impl Config {
    /// Every problem, each as `key: what is wrong`.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.url.is_empty()
            && let Err(error) = address::parse(&self.url)
        {
            problems.push(format!("runtime.url: {error}"));
        }
        if self.parallel > 64 {
            problems.push(format!("runtime.parallel: {} is more than 64", self.parallel));
        }
        let times = [
            ("residency_interval_ms", self.residency_interval_ms, 100, 60_000),
            ("models_interval_ms", self.models_interval_ms, 100, 600_000),
            ("health_timeout_ms", self.health_timeout_ms, 100, 60_000),
            ("hang_after_ms", self.hang_after_ms, 1_000, 3_600_000),
        ];
        for (key, value, least, most) in times {
            if !(least..=most).contains(&value) {
                problems.push(format!("runtime.{key}: {value} is not between {least} and {most}"));
            }
        }
        problems
    }

    pub(crate) const fn residency_interval(&self) -> Duration {
        Duration::from_millis(self.residency_interval_ms)
    }

    pub(crate) const fn models_interval(&self) -> Duration {
        Duration::from_millis(self.models_interval_ms)
    }

    pub(crate) const fn health_timeout(&self) -> Duration {
        Duration::from_millis(self.health_timeout_ms)
    }

    pub(crate) const fn hang_after(&self) -> Duration {
        Duration::from_millis(self.hang_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
    }

    #[test]
    fn names_every_problem_at_once() {
        let config = Config {
            url: "ftp://host".to_owned(),
            parallel: 65,
            residency_interval_ms: 0,
            hang_after_ms: 1,
            ..Config::default()
        };
        let problems = config.validate();
        for key in ["runtime.url", "runtime.parallel", "runtime.residency_interval_ms", "runtime.hang_after_ms"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:?}");
        }
        assert_eq!(problems.len(), 4);
    }
}
