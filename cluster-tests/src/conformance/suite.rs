//! The official suite as a program: where it comes from, what is asked of it, how it is run.
//!
//! npx fetches it, and the Node that it needs, from the package registry at exact versions. What cannot be had is told,
//! and nothing takes its place.

use std::fs::File;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tokio::time::timeout;

/// The suite.
pub(crate) const PACKAGE: &str = "@modelcontextprotocol/conformance@0.2.0-alpha.12";
/// What it runs on.
const NODE: &str = "node@22";
/// The oldest Node on which it starts.
const NODE_MAJOR_MIN: u32 = 22;
/// How long fetching may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(300);
/// How long one run may take; a scenario ends by itself after half a minute.
const RUN_PATIENCE: Duration = Duration::from_secs(1_800);
/// Characters of what npx says that an error shows.
const SAID_CHARS_MAX: usize = 800;
/// What the suite is told, in the words of a shell; the values come as variables.
const RUN_SET: &str =
    "conformance server --url \"$MCP_URL\" --output-dir \"$MCP_FOUND\" --requirements \"$MCP_REVISION\"";
/// The same of one scenario. A set runs its scenarios at its revision, whichever it is, and so does `--force`.
const RUN_ONE: &str = "conformance server --url \"$MCP_URL\" --output-dir \"$MCP_FOUND\" \
     --spec-version \"$MCP_REVISION\" --force --scenario \"$MCP_SCENARIO\"";

/// What a revision requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) revision: &'static str,
    /// Scenarios that a server must pass: the set is frozen, so another number is another suite.
    pub(crate) required: usize,
    /// Scenarios of the extension for tasks in which the suite looks at something.
    pub(crate) tasks: usize,
}

/// The sets that are run, newest first.
pub(crate) const SETS: [Set; 2] =
    [Set { revision: "2026-07-28", required: 37, tasks: 9 }, Set { revision: "2025-11-25", required: 30, tasks: 0 }];

/// What the suite runs beside a set and does not score, besides `tasks-*`.
const NOT_SCORED: [&str; 5] = [
    "http-custom-header-server-validation",
    "http-header-validation",
    "json-schema-2020-12",
    "server-session-lifecycle",
    "server-sse-polling",
];
/// An extension: not scored by the suite, and wanted here.
const TASKS: &str = "tasks-";

/// Whether a revision requires a scenario.
pub(crate) fn is_required(scenario: &str) -> bool {
    !is_of_tasks(scenario) && !NOT_SCORED.contains(&scenario)
}

/// Whether a scenario belongs to the extension for tasks.
pub(crate) fn is_of_tasks(scenario: &str) -> bool {
    scenario.starts_with(TASKS)
}

/// Fetches what is needed; the version of Node.
pub(crate) async fn ready() -> Result<String> {
    let asked = timeout(FETCH_PATIENCE, npx("node --version && conformance --version").output()).await;
    let output = match asked.with_context(|| format!("npx has not fetched {PACKAGE} after {FETCH_PATIENCE:?}"))? {
        Ok(output) => output,
        Err(error) => bail!(
            "npx cannot be started ({error}), so Node {NODE_MAJOR_MIN} and the suite cannot be had\n\
             try: install npm 7 or newer"
        ),
    };
    version_of(&output)
}

fn version_of(output: &Output) -> Result<String> {
    let by_hand = format!("try: npx -y -p {NODE} -p {PACKAGE} -c 'node --version && conformance --version'");
    ensure!(
        output.status.success(),
        "Node {NODE_MAJOR_MIN} and the suite cannot be had from the package registry; npx ended with {}:\n{}\n{by_hand}",
        output.status,
        last_of(&String::from_utf8_lossy(&output.stderr))
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().unwrap_or_default().trim().trim_start_matches('v');
    let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    ensure!(
        major.is_some_and(|major| major >= NODE_MAJOR_MIN),
        "the suite needs Node {NODE_MAJOR_MIN} or newer, and npx runs {version:?}\n{by_hand}"
    );
    Ok(version.to_owned())
}

/// Runs one set against `url`, or of that set one scenario alone. What it found lies in `folder` afterwards, with
/// everything that it said.
///
/// # Errors
/// When it cannot be run or does not end. That scenarios failed is no error.
pub(crate) async fn run(set: Set, scenario: Option<&str>, url: &str, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let said = File::create(folder.join("said.txt")).context("make a file for what the suite says")?;
    let copy = said.try_clone().context("share that file")?;
    let mut command = npx(if scenario.is_some() { RUN_ONE } else { RUN_SET });
    command.env("MCP_URL", url).env("MCP_REVISION", set.revision).env("MCP_FOUND", folder);
    command.envs(scenario.map(|name| ("MCP_SCENARIO", name)));
    command.stdout(said).stderr(copy);
    let mut child = command.spawn().context("start npx")?;
    let ended = timeout(RUN_PATIENCE, child.wait()).await;
    // Failed scenarios end it with 1, as everything else that is wrong; what it found tells them apart.
    ended.with_context(|| format!("the suite at {} has not ended after {RUN_PATIENCE:?}", set.revision))??;
    Ok(())
}

fn npx(words: &str) -> Command {
    let mut command = Command::new("npx");
    command.args(["-y", "-p", NODE, "-p", PACKAGE, "-c", words]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn last_of(said: &str) -> String {
    let said = said.trim();
    said.chars().skip(said.chars().count().saturating_sub(SAID_CHARS_MAX)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_node_that_is_too_old_and_a_registry_that_is_not_there_are_told() {
        let check = |code: i32, stdout: &str, stderr: &str, expected: Result<&str, &str>| {
            // What a process ends with stands in the upper byte.
            let status = ExitStatus::from_raw(code << 8);
            let output = Output { status, stdout: stdout.into(), stderr: stderr.into() };
            match (version_of(&output), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part) && text.contains("\ntry: npx "), "{text}");
                }
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        };
        check(0, "v22.23.3\n0.2.0-alpha.12\n", "npm warn EBADENGINE\n", Ok("22.23.3"));
        check(0, "v24.1.0\n", "", Ok("24.1.0"));
        check(0, "v20.20.2\n", "", Err("needs Node 22 or newer, and npx runs \"20.20.2\""));
        check(0, "", "", Err("npx runs \"\""));
        check(1, "", "npm error code ENOTFOUND\n", Err("npm error code ENOTFOUND"));
    }

    #[test]
    fn a_scenario_is_required_unless_the_suite_says_otherwise() {
        for scenario in ["server-stateless", "tools-list", "input-required-result-multi-round"] {
            assert!(is_required(scenario) && !is_of_tasks(scenario), "{scenario}");
        }
        for scenario in NOT_SCORED {
            assert!(!is_required(scenario) && !is_of_tasks(scenario), "{scenario}");
        }
        assert!(!is_required("tasks-lifecycle") && is_of_tasks("tasks-lifecycle"));
    }
}
