//! The daemon of the release before, built from the history of this checkout, and the suite that upgrades from it.
//!
//! The release before is the last commit on the main line whose `core` knew a lower cluster version than this checkout
//! does. Its source is unpacked below the target directory and goes when it is built, or cannot be; its daemon is kept
//! there by its commit, so each is built once. What third parties wrote is shared with this checkout; what is ours is
//! not, though it has the same names. After a failure this checkout's daemon is put back; after an interruption its
//! next build does that.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Error, Result, ensure};

use crate::closing::Closing;
use crate::rocksdb;
use crate::setup;
use crate::workspace::{Workspace, shown, succeed};

/// Tells the suite where the daemon lies. Who has set it already has built one.
pub(crate) const VARIABLE: &str = "OLLAMAX_TEST_PREVIOUS_NODE";
/// The suite: `cluster-tests/tests/it/two_releases.rs`.
const SUITE: &str = "two_releases::";
const DAEMON: &str = "ollamax-node";
/// How a checkout's daemon is built. With `--examples`, though there are none, cargo asks for the features that tests
/// need too. So third parties' code is what this checkout's build has made already.
const BUILD: [&str; 6] = ["build", "--workspace", "--bin", DAEMON, "--examples", "--locked"];
/// Folder in the target directory.
const FOLDER: &str = "previous";
/// Where the newest cluster version stands, and in which words.
const VERSION_FILE: &str = "node/crates/core/src/catalog/apply.rs";
const VERSION_WORDS: &str = "pub const CLUSTER_VERSION: u32 = ";
/// Cargo names results by their path in the checkout and goes by times, so it would take one checkout's for those of
/// the other. What it makes of a workspace with a wrapper it keeps apart; this one only starts what it is given.
const APART: (&str, &str) = ("RUSTC_WORKSPACE_WRAPPER", "/usr/bin/env");

/// Builds both releases and runs the suite.
pub(crate) fn run(workspace: &Workspace, from: Option<&str>) -> Result<ExitCode> {
    setup::run(workspace)?;
    let daemon = make(workspace, from)?;
    succeed(workspace.build())?;
    let mut closing = Closing::default();
    let mut tests = workspace.cargo(["test", "--workspace", "--locked", "--test", "it", "--", SUITE, "--nocapture"]);
    tests.env(VARIABLE, &daemon);
    let result = closing.run(tests);
    println!("{}", closing.text());
    result.map(|()| ExitCode::SUCCESS)
}

/// Has the daemon ready and tells where it lies. It is built before this checkout, whose binaries go to the same place.
pub(crate) fn make(workspace: &Workspace, from: Option<&str>) -> Result<PathBuf> {
    make_if_known(workspace, from)?.map_err(Error::msg)
}

/// As [`make`]. Where nobody names the release before, and the history does not know it either: why.
pub(crate) fn make_if_known(workspace: &Workspace, from: Option<&str>) -> Result<Result<PathBuf, String>> {
    let named = env::var_os(VARIABLE).filter(|path| from.is_none() && !path.is_empty());
    if let Some(path) = named {
        return Ok(Ok(path.into()));
    }
    let found = match from {
        Some(revision) => Ok(revision.to_owned()),
        None => find(workspace)?,
    };
    match found {
        Ok(revision) => make_of(workspace, &revision).map(Ok),
        Err(unknown) => Ok(Err(unknown)),
    }
}

/// Has the daemon of a revision ready.
fn make_of(workspace: &Workspace, revision: &str) -> Result<PathBuf> {
    let commit = git(workspace, &["rev-parse", "--verify", &format!("{revision}^{{commit}}")])?;
    let commit = commit.trim();
    let folder = workspace.target_dir().join(FOLDER);
    let (kept, making) = (folder.join(commit), folder.join(format!("{commit}.making")));
    let daemon = kept.join(DAEMON);
    if daemon.is_file() {
        return Ok(daemon);
    }
    println!("building the release before, {commit} ({revision}), into {}", kept.display());
    remove(&making)?;
    let built = unpack(workspace, commit, &making).and_then(|checkout| {
        fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
        let built = build(&checkout, &daemon);
        if built.is_err()
            && let Err(problem) = succeed(workspace.cargo(BUILD))
        {
            eprintln!("error: {} may be that of the release before: {problem:#}", workspace.binary(DAEMON).display());
        }
        built
    });
    let removed = remove(&making);
    built.and(removed).map(|()| daemon)
}

/// The release before, as a word for git; or why the history does not know it.
fn find(workspace: &Workspace) -> Result<Result<String, String>> {
    let file = workspace.root().join(VERSION_FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let today = version_in(&text).with_context(|| format!("no cluster version in {}", file.display()))?;
    let told = match git(workspace, &["log", "--first-parent", "--format=%H", "--", VERSION_FILE]) {
        Ok(told) => told,
        Err(problem) => {
            return Ok(Err(format!(
                "look for the release before: {problem:#}\ntry: without a history, {VARIABLE} names its daemon"
            )));
        }
    };
    let version_of = |commit: &str| {
        let shown = git(workspace, &["show", &format!("{commit}:{VERSION_FILE}")]);
        version_in(&shown.unwrap_or_default())
    };
    let found = choose(today, told.lines(), version_of);
    Ok(found.ok_or_else(|| {
        format!(
            "the history of this clone does not reach back to a cluster version below {today}\n\
             try: `git fetch --unshallow`, or name the release before: --from REV"
        )
    }))
}

/// The commit before the first one that knew today's version, of commits that touched it, the latest first. What is
/// not committed yet may have raised it, too.
fn choose<'a>(
    today: u32,
    commits: impl Iterator<Item = &'a str>,
    version_of: impl Fn(&str) -> Option<u32>,
) -> Option<String> {
    let mut before = "HEAD".to_owned();
    for commit in commits {
        if version_of(commit).is_some_and(|version| version < today) {
            return Some(before);
        }
        before = format!("{commit}^1");
    }
    None
}

/// The newest cluster version that a source knows.
fn version_in(text: &str) -> Option<u32> {
    let rest = text.lines().find_map(|line| line.strip_prefix(VERSION_WORDS))?;
    rest.strip_suffix(';')?.parse().ok()
}

/// The source of a commit as a checkout of its own. Its files are of now: cargo goes by their times.
fn unpack(workspace: &Workspace, commit: &str, making: &Path) -> Result<Workspace> {
    let (archive, source) = (making.join("source.tar"), making.join("source"));
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    git(workspace, &["archive", "--format=tar", "--output", &archive.to_string_lossy(), commit])?;
    let mut unpack = Command::new("tar");
    unpack.arg("-x").arg("-m").arg("-f").arg(&archive).arg("-C").arg(&source).stdin(Stdio::null());
    succeed(unpack)?;
    workspace.beside(source)
}

/// Builds the daemon of a checkout, and copies it.
fn build(checkout: &Workspace, daemon: &Path) -> Result<()> {
    rocksdb::make(checkout)?;
    let mut command = checkout.cargo(BUILD);
    command.env(APART.0, APART.1);
    succeed(command)?;
    // There whole or not at all.
    let (built, copy) = (checkout.binary(DAEMON), daemon.with_extension("copy"));
    fs::copy(&built, &copy).with_context(|| format!("copy {} to {}", built.display(), copy.display()))?;
    fs::rename(&copy, daemon).with_context(|| format!("move it to {}", daemon.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// What git says in this checkout.
fn git(workspace: &Workspace, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.args(words).current_dir(workspace.root()).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("start `{}`", shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` ended with {}: {}", shown(&command), output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_before_is_the_last_commit_with_a_lower_cluster_version() {
        // The latest first; `none` is a commit that had no such line.
        let known = [("d", 4), ("c", 4), ("b", 3), ("none", 0), ("a", 2)];
        let check = |today: u32, from: usize, expected: Option<&str>| {
            let commits = known[from..].iter().map(|(commit, _)| *commit);
            let version_of = |commit: &str| {
                let version = known.iter().find(|(known, _)| *known == commit).map(|(_, version)| *version);
                version.filter(|version| *version > 0)
            };
            assert_eq!(choose(today, commits, version_of).as_deref(), expected, "{today} from {from}");
        };
        check(4, 0, Some("c^1"));
        check(4, 1, Some("c^1"));
        check(3, 2, Some("none^1"));
        check(5, 0, Some("HEAD"));
        check(2, 4, None);
        check(1, 0, None);
    }

    #[test]
    fn this_checkout_knows_a_cluster_version() {
        assert_eq!(version_in("//! x\npub const CLUSTER_VERSION: u32 = 12;\n"), Some(12));
        assert_eq!(version_in("const OTHER: u32 = 12;\n"), None);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(VERSION_FILE);
        let text = fs::read_to_string(&file).expect("core lies there");
        assert!(version_in(&text).is_some_and(|version| version > 1), "{}", file.display());
    }
}
