//! Clients that are programs of their own, each with an SDK that others have written: where they come from, and what
//! they say. They say a line of JSON for each step: `reading` when they read through all doors at once, and `read` for
//! each door in the end.
//!
//! Those in Python are installed by `cargo xtask setup`. Those on Node are fetched by npx, in the long form alone,
//! since that needs the package registry; there it is a failure when one cannot be had, or Node 22 cannot.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{Door, END_TIME, Way};
use crate::stock_clients::python_of;

const IN_PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/mcp_client.py");
const IN_TYPESCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/mcp_client.mjs");
/// Environments of `cargo xtask setup`: the SDK from before 2026-07-28, and the one after.
const PYTHONS: [&str; 2] = ["python-mcp-1", "python-mcp-2"];
/// The same of the SDK in TypeScript: packages with their versions.
const PACKAGES: [(&str, &str); 2] =
    [("@modelcontextprotocol/sdk", "1.32.2"), ("@modelcontextprotocol/client", "2.4.0")];
const INSPECTOR: &str = "@modelcontextprotocol/inspector@2.12.0";
/// How the Inspector may begin: with the handshake, and with 2026-07-28.
const ERAS: [&str; 2] = ["legacy", "modern"];
/// What all of these run on, and the oldest that will do.
const NODE: &str = "node@22";
const NODE_MAJOR_MIN: u32 = 22;
/// How long fetching may take.
const FETCH_TIME: Duration = Duration::from_secs(300);
/// Longest time in which a program says its next line, or ends.
const SAYS_WITHIN: Duration = Duration::from_secs(60);
/// With what the Inspector ends when a tool has refused.
const REFUSED: i32 = 5;

/// A running program, which asks at every door.
pub(super) struct Program {
    name: &'static str,
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    complaints: PathBuf,
}

/// Starts all that there are. What they complain of goes into files of this directory.
pub(super) async fn start(doors: &[Door], directory: &Path) -> Result<Vec<Program>> {
    let mut started = Vec::new();
    for environment in PYTHONS {
        match python_of(environment)? {
            Some(python) => {
                let mut command = Command::new(python);
                // Nothing of the caller's environment decides, proxies least of all.
                command.env_clear().args(["-I", IN_PYTHON]);
                started.push(Program::start(environment, command, doors, directory)?);
            }
            None => {
                let (test, why) = (format!("mcp_clients: {environment}"), "run `cargo xtask setup`");
                crate::may_be_left_out(&test, why)?;
                crate::say_left_out(&test, why)?;
            }
        }
    }
    if crate::soak() {
        for (package, version) in PACKAGES {
            let wanted = format!("{package}@{version}");
            fetch(&wanted).await?;
            let command = npx(&wanted, &["node", IN_TYPESCRIPT, package]);
            started.push(Program::start(package, command, doors, directory)?);
        }
    }
    Ok(started)
}

/// The Inspector's command line at every door and in each era, in the long form. What it keeps goes into the directory.
pub(super) async fn inspect(doors: &[Door], directory: &Path) -> Result<()> {
    if !crate::soak() {
        return Ok(());
    }
    fetch(INSPECTOR).await?;
    for (door, era) in doors.iter().flat_map(|door| ERAS.map(|era| (door, era))) {
        let listed = inspected(door, 0, era, directory, &["--method", "tools/list"]).await?;
        let told: Value = serde_json::from_slice(&listed.stdout).with_context(|| format!("{listed:?}"))?;
        let tools = told["result"]["tools"].as_array().with_context(|| format!("{}, {era}: {told}", door.name))?;
        let has = |name: &str| tools.iter().any(|tool| tool["name"] == name);
        ensure!(has("list_nodes") && has("pull_model") != door.is_http(), "{}, {era}: {told}", door.name);
        let asked = ["--method", "tools/call", "--tool-name", "list_nodes", "--tool-arg", "health=Splendid"];
        let refused = inspected(door, 0, era, directory, &asked).await?;
        let said = String::from_utf8_lossy(&refused.stdout);
        let is_told = refused.status.code() == Some(REFUSED) && said.contains("bad_request");
        ensure!(is_told && is_refused(&refused.stdout), "{}, {era}: {refused:?}", door.name);
    }
    Ok(())
}

/// Reads with the Inspector while nodes die, at every door and in each era in turns, until it has done so once more
/// after another node leads. Each call is one of a new Inspector.
pub(super) async fn inspect_on(doors: &[Door], directory: &Path, is_over: &AtomicBool) -> Result<()> {
    if !crate::soak() {
        return Ok(());
    }
    let (mut ways, mut was_over) = (vec![0; doors.len()], false);
    while !was_over {
        was_over = is_over.load(Ordering::SeqCst);
        for (door, way) in doors.iter().zip(&mut ways) {
            for era in ERAS {
                *way = inspect_once(door, *way, era, directory).await?;
            }
        }
    }
    for (door, way) in doors.iter().zip(ways) {
        ensure!((way > 0) == door.breaks, "the Inspector, {}: at way {way} in the end", door.name);
    }
    Ok(())
}

/// One call that must be answered: at the next of a door's nodes where the one at hand is gone. By which way it was.
async fn inspect_once(door: &Door, way: usize, era: &str, directory: &Path) -> Result<usize> {
    let asked = ["--method", "tools/call", "--tool-name", "list_nodes"];
    let first = inspected(door, way, era, directory, &asked).await?;
    let is_gone = door.breaks && way == 0 && !first.status.success() && !is_refused(&first.stdout);
    let (told, way) = if is_gone { (inspected(door, 1, era, directory, &asked).await?, 1) } else { (first, way) };
    let said: Value =
        serde_json::from_slice(&told.stdout).with_context(|| format!("{}, {era}: {told:?}", door.name))?;
    let is_told = told.status.success() && said["result"]["structuredContent"]["nodes"].is_array();
    ensure!(is_told, "the Inspector, {}, {era}: {told:?}", door.name);
    Ok(way)
}

/// Whether a tool has refused, of what the Inspector printed: a refusal is JSON with a code. It prints in the same form
/// that the connection has failed, in words of its own.
fn is_refused(printed: &[u8]) -> bool {
    let said: Value = serde_json::from_slice(printed).unwrap_or_default();
    let text = said["result"]["content"][0]["text"].as_str().unwrap_or_default();
    serde_json::from_str::<Value>(text).is_ok_and(|told| told["code"].is_string())
}

/// What the Inspector says and how it ends, at a door by one of its ways.
async fn inspected(door: &Door, way: usize, era: &str, directory: &Path, words: &[&str]) -> Result<Output> {
    let mut command = npx(INSPECTOR, &["mcp-inspector", "--cli"]);
    command.env("MCP_STORAGE_DIR", directory.join("inspector"));
    command.args(words).args(["--protocol-era", era, "--format", "json"]);
    match &door.way {
        Way::Http(urls) => command.args(["--transport", "http", "--server-url"]).args(urls.get(way)),
        Way::Command(words) => command.arg("--").args(words),
    };
    let ended = timeout(SAYS_WITHIN, command.stdin(Stdio::null()).output()).await;
    ended.with_context(|| format!("the Inspector at {} does not end", door.name))?.context("run npx")
}

/// Has npx fetch a package and what it runs on.
async fn fetch(package: &str) -> Result<()> {
    let by_hand = format!("try: npx --yes --package {NODE} --package {package} -- node --version");
    let asked = timeout(FETCH_TIME, npx(package, &["node", "--version"]).stdin(Stdio::null()).output()).await;
    let output = asked.with_context(|| format!("npx has not fetched {package} after {FETCH_TIME:?}\n{by_hand}"))?;
    let output = output.context("npx cannot be started: install npm 7 or newer")?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "{package} and Node {NODE_MAJOR_MIN} cannot be had from the package registry: {}\n{by_hand}",
        complained.trim()
    );
    let version = said.trim();
    ensure!(is_new_enough(version), "npx runs Node {version}, and not {NODE_MAJOR_MIN} or newer\n{by_hand}");
    Ok(())
}

/// Whether all of this runs on a Node that says this of its version.
fn is_new_enough(version: &str) -> bool {
    let major = version.strip_prefix('v').and_then(|numbers| numbers.split('.').next());
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= NODE_MAJOR_MIN)
}

/// Runs words beside a package. Its own environment says how the registry is reached.
fn npx(package: &str, words: &[&str]) -> Command {
    let mut command = Command::new("npx");
    command.args(["--yes", "--package", NODE, "--package", package, "--"]).args(words).kill_on_drop(true);
    // What the environment says of proxies is not for this machine's own address.
    command.env_remove("NODE_USE_ENV_PROXY");
    command
}

// === impl Program ===

impl Program {
    fn start(name: &'static str, mut command: Command, doors: &[Door], directory: &Path) -> Result<Self> {
        let complaints = directory.join(format!("{}.log", name.replace('/', "-")));
        let log = File::create(&complaints).with_context(|| format!("make {}", complaints.display()))?;
        command.arg("--until-closed").args(doors.iter().map(Door::word));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let output = child.stdout.take().context("its standard output")?;
        Ok(Self { name, child, said: BufReader::new(output).lines(), complaints })
    }

    /// What it says next; `None` at its end.
    async fn says(&mut self) -> Result<Option<Value>> {
        let said = timeout(SAYS_WITHIN, self.said.next_line()).await;
        let line = said.with_context(|| format!("{} is silent: {}", self.name, self.complained()))??;
        line.map(|line| serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))).transpose()
    }

    fn complained(&self) -> String {
        std::fs::read_to_string(&self.complaints).unwrap_or_else(|error| error.to_string())
    }

    /// Waits until it has seen all that it must in a lab that is well, and goes on reading.
    pub(super) async fn reads(&mut self) -> Result<()> {
        while let Some(line) = self.says().await? {
            if line["step"] == "reading" {
                return Ok(());
            }
        }
        bail!("{} ended: {}", self.name, self.complained())
    }

    /// Has it end, and looks at what it saw meanwhile.
    pub(super) async fn finish(mut self, doors: &[Door]) -> Result<()> {
        drop(self.child.stdin.take());
        let mut read = Vec::new();
        while let Some(line) = self.says().await? {
            read.push(line);
        }
        let status = timeout(END_TIME, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "{} ended with {status}: {}", self.name, self.complained());
        for door in doors {
            let word = door.word();
            let lines: Vec<&Value> = read.iter().filter(|line| line["door"] == word).collect();
            ensure!(!lines.is_empty(), "{}: nothing of {}: {read:?}", self.name, door.name);
            for line in lines {
                let reconnects = line["reconnects"].as_u64().with_context(|| format!("{}: {line}", self.name))?;
                ensure!((reconnects > 0) == door.breaks, "{}, {}: {line}", self.name, door.name);
            }
        }
        Ok(())
    }
}

#[test]
fn a_connection_that_failed_is_no_refusal_of_a_tool() {
    let check = |text: &str, expected: bool| {
        let printed = json!({"result": {"content": [{"type": "text", "text": text}], "isError": true}}).to_string();
        assert_eq!(is_refused(printed.as_bytes()), expected, "{printed}");
    };
    check(r#"{"code": "no_quorum", "message": "m", "next": "n"}"#, true);
    check("fetch failed", false);
    check("502", false);
    assert!(!is_refused(b""), "nothing was printed");
}

#[test]
fn a_node_that_is_too_old_will_not_do() {
    let check = |version: &str, expected: bool| assert_eq!(is_new_enough(version), expected, "{version}");
    check("v22.0.0", true);
    check("v24.1.0", true);
    check("v20.20.2", false);
    check("22.0.0", false);
    check("", false);
}
