//! The daemon of another release: where its program lies, and which configuration keys it knows.
//!
//! It is asked for its keys once, by the same command that shows a person the configuration. A key that it does not
//! know would end it at its start, so its nodes are started without; a daemon of this workspace is told everything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::PATIENCE;
use crate::cluster::process::clean_environment;

/// A key that every release has.
const SURE_KEY: &str = "node.name";

/// A daemon that is not the one of this workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    program: PathBuf,
    keys: BTreeSet<String>,
}

// === impl Daemon ===

impl Daemon {
    /// Asks an `ollamax-node` what it knows.
    ///
    /// # Errors
    /// When it cannot be run, or does not show its configuration.
    pub async fn at(program: &Path) -> Result<Self> {
        let shown = program.display();
        let mut command = Command::new(program);
        command.args(["run", "--print-config"]).stdin(Stdio::null()).kill_on_drop(true);
        clean_environment(&mut command);
        let output = timeout(PATIENCE, command.output()).await.with_context(|| format!("{shown} does not end"))?;
        let output = output.with_context(|| format!("run {shown}"))?;
        let keys = keys_in(&String::from_utf8_lossy(&output.stdout));
        ensure!(output.status.success() && keys.contains(SURE_KEY), "{shown} does not show its keys: {output:?}");
        Ok(Self { program: program.to_owned(), keys })
    }

    /// Where it lies.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it can be told this, as on the command line without `--`. What has no dot is no configuration key, but
    /// an option of its own, such as `config`.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        !key.contains('.') || self.keys.contains(key)
    }
}

/// The keys of a configuration in TOML, a line for each.
fn keys_in(text: &str) -> BTreeSet<String> {
    let (mut table, mut keys) = ("", BTreeSet::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        } else if let Some((name, _)) = line.split_once(" = ") {
            keys.insert(format!("{table}.{name}"));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_told_what_it_knows_and_nothing_else() {
        let text = "[node]\nname = \"\"  # default\nadmin_group = \"a = b\"  # flag\n\n[backup.s3]\nregion = \"\"\n";
        let daemon = Daemon { program: PathBuf::new(), keys: keys_in(text) };
        for (key, expected) in [
            ("node.name", true),
            ("node.admin_group", true),
            ("backup.s3.region", true),
            ("config", true),
            ("backup.region", false),
            ("backup.every_hours", false),
        ] {
            assert_eq!(daemon.knows(key), expected, "{key}");
        }
    }
}
