//! Where things are: the checkout, the target directory, cargo.
//!
//! The target directory lies outside the checkout, so that a fresh clone does not compile RocksDB and llama.cpp again.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::rocksdb;

/// The checkout that this program was started in.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
    cargo: OsString,
    rocksdb: Option<PathBuf>,
}

// === impl Workspace ===

impl Workspace {
    /// Finds the checkout, and where its build products belong: `$CARGO_TARGET_DIR`, else `~/.cache/ollamax-target`.
    pub(crate) fn locate() -> Result<Self> {
        // Cargo names the folder at run time; the one at build time serves a binary that is started by hand.
        let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root =
            here.join("../..").canonicalize().with_context(|| format!("find the checkout of {}", here.display()))?;
        let target_dir = target_dir(env::var_os("CARGO_TARGET_DIR"), env::home_dir())?;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let target_dir = std::path::absolute(target_dir).context("find the target directory")?;
        Self::at(root, target_dir, cargo)
    }

    /// Another checkout whose build products go to the same place.
    pub(crate) fn beside(&self, root: PathBuf) -> Result<Self> {
        Self::at(root, self.target_dir.clone(), self.cargo.clone())
    }

    fn at(root: PathBuf, target_dir: PathBuf, cargo: OsString) -> Result<Self> {
        let lock_file = fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?;
        let rocksdb = rocksdb::folder(&lock_file, &target_dir);
        Ok(Self { root, target_dir, cargo, rocksdb })
    }

    /// The top folder of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where build products are, and what else a checkout makes but does not keep.
    pub(crate) fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// A built binary of the workspace.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.built("debug", name)
    }

    /// A binary as it is installed and measured.
    pub(crate) fn optimised(&self, name: &str) -> PathBuf {
        self.built("release", name)
    }

    fn built(&self, folder: &str, name: &str) -> PathBuf {
        self.target_dir.join(folder).join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// Where RocksDB's library lies or will lie; `None` where its crate compiles it.
    pub(crate) fn rocksdb(&self) -> Option<&Path> {
        self.rocksdb.as_deref()
    }

    /// What every cargo command needs to know, so that none of them builds a second time what another has built.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![("CARGO_TARGET_DIR", self.target_dir.clone().into_os_string())];
        if let Some(folder) = &self.rocksdb {
            variables.push(("ROCKSDB_LIB_DIR", folder.clone().into_os_string()));
            variables.push(("ROCKSDB_STATIC", "1".into()));
        }
        variables
    }

    /// `cargo ARGUMENTS` in the checkout, with its environment set and nothing on standard input. What cargo told
    /// this program about this program is taken away, so that build scripts see what they would see without it.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        for (name, _) in env::vars_os().filter(|(name, _)| is_about_this_program(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.environment());
        command
    }

    /// Builds every binary and every test, once, with the features that lints and tests use too.
    pub(crate) fn build(&self) -> Command {
        self.cargo(["build", "--workspace", "--bins", "--tests", "--locked"])
    }

    /// Builds every binary as it is installed and measured.
    pub(crate) fn build_optimised(&self) -> Command {
        self.cargo(["build", "--release", "--workspace", "--bins", "--locked"])
    }

    /// Builds every binary.
    pub(crate) fn build_binaries(&self) -> Command {
        self.cargo(["build", "--workspace", "--bins", "--locked"])
    }
}

fn is_about_this_program(name: &str) -> bool {
    const PREFIXES: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CFG_", "CARGO_FEATURE_"];
    const NAMES: &[&str] = &["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

fn target_dir(set: Option<OsString>, home: Option<PathBuf>) -> Result<PathBuf> {
    match (set, home) {
        (Some(set), _) if !set.is_empty() => Ok(set.into()),
        (_, Some(home)) if !home.as_os_str().is_empty() => Ok(home.join(".cache").join("ollamax-target")),
        _ => bail!("no home directory: set CARGO_TARGET_DIR to a folder outside the checkout"),
    }
}

/// Runs a command to its end; anything but exit code 0 is an error that repeats the command.
pub(crate) fn succeed(mut command: Command) -> Result<()> {
    let shown = shown(&command);
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// The command as somebody would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_lies_outside_the_checkout_unless_somebody_chose_one() {
        let check = |set: Option<&str>, home: Option<&str>, expected: Option<&str>| {
            let found = target_dir(set.map(OsString::from), home.map(PathBuf::from)).ok();
            assert_eq!(found, expected.map(PathBuf::from), "{set:?} {home:?}");
        };
        check(Some("/t"), Some("/home/a"), Some("/t"));
        check(None, Some("/home/a"), Some("/home/a/.cache/ollamax-target"));
        check(Some(""), Some("/home/a"), Some("/home/a/.cache/ollamax-target"));
        check(None, None, None);
    }

    #[test]
    fn a_build_script_does_not_hear_about_this_program() {
        assert!(is_about_this_program("CARGO_PKG_NAME"));
        assert!(is_about_this_program("OUT_DIR"));
        assert!(!is_about_this_program("CARGO_HOME"));
        assert!(!is_about_this_program("CARGO_TARGET_DIR"));
        assert!(!is_about_this_program("PATH"));
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let problem = succeed(command).expect_err("exit code 3").to_string();
        assert!(problem.contains("sh -c exit 3") && problem.contains('3'), "{problem}");
    }
}
