//! `ollamax recover`, `ollamax reset`, `ollamax raft verify`, `ollamax backup verify` and `ollamax backup restore`:
//! what `ollamax-node` does with a data directory on which no daemon runs, and with a backup.
//!
//! Started as the program beside this one, and ended with this one. What it prints and how it ends is passed on; how
//! far it is, is drawn where somebody looks; a failure gets the form that all failures have here. A secret key comes
//! from a file or from standard input, never from the command line, where others could see it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::args::{Global, OriginArgs, Output, RecoverCommand, ResetArgs};
use crate::error::Failure;
use crate::{output, place, program};

/// Stands for standard input.
const INPUT: &str = "-";
/// What a line of the program begins with that only tells how far it is.
const PROGRESS: &str = "progress: ";

/// Shows what survives, or goes on with it.
pub(crate) async fn recover(global: &Global, command: RecoverCommand) -> Result<(), Failure> {
    let mut words = Words::default();
    let (step, with) = match command {
        RecoverCommand::Plan { with, write } => {
            words.value("--write", write);
            ("plan", with)
        }
        RecoverCommand::Apply { with, confirm } => {
            words.value("--confirm", confirm);
            ("apply", with)
        }
    };
    with.into_iter().for_each(|file| words.value("--with", Some(file)));
    run(global, &["recover", step], Some(place::offline_dir(global)?), words).await
}

/// Empties the node of this machine.
pub(crate) async fn reset(global: &Global, args: &ResetArgs) -> Result<(), Failure> {
    let mut words = Words::default();
    if args.confirm {
        words.list.push("--confirm".into());
    }
    run(global, &["reset"], Some(place::offline_dir(global)?), words).await
}

/// Looks whether a data directory is whole.
pub(crate) async fn verify_dir(global: &Global) -> Result<(), Failure> {
    run(global, &["verify"], Some(place::offline_dir(global)?), Words::default()).await
}

/// Checks a backup.
pub(crate) async fn verify_backup(global: &Global, from: OriginArgs, key_file: Option<PathBuf>) -> Result<(), Failure> {
    let mut words = Words::default();
    words.key_file(key_file);
    words.origin(from);
    run(global, &["backup", "verify"], None, words).await
}

/// Makes a new cluster of a backup, in a directory that has to be named: a default may be another node's.
pub(crate) async fn restore(
    global: &Global,
    from: OriginArgs,
    key_file: PathBuf,
    name: Option<String>,
) -> Result<(), Failure> {
    let data_dir = global.data_dir.clone().ok_or_else(|| {
        let next = "name an empty directory, or one that does not exist: --data-dir DIR";
        Failure::usage("where shall it be restored?", next)
    })?;
    let mut words = Words::default();
    words.key_file(Some(key_file));
    words.value("--name", name);
    words.origin(from);
    run(global, &["restore"], Some(data_dir), words).await
}

/// What stands behind the command and the directory.
#[derive(Debug, Default)]
struct Words {
    list: Vec<OsString>,
    /// Whether this program's standard input is read.
    reads_input: bool,
}

// === impl Words ===

impl Words {
    fn value(&mut self, flag: &str, value: Option<impl Into<OsString>>) {
        let Some(value) = value else { return };
        self.list.extend([OsString::from(flag), value.into()]);
    }

    fn key_file(&mut self, path: Option<PathBuf>) {
        self.reads_input = path.as_deref() == Some(Path::new(INPUT));
        self.value("--key-file", path);
    }

    fn origin(&mut self, from: OriginArgs) {
        self.value("--config", from.config);
        self.list.push(from.backup.into());
    }
}

async fn run(global: &Global, command: &[&str], data_dir: Option<PathBuf>, words: Words) -> Result<(), Failure> {
    let node = program::sibling("ollamax-node")?;
    let form = match global.output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let mut child = Command::new(&node);
    child.kill_on_drop(true);
    child.args(command).args(data_dir.iter().flat_map(|dir| [OsStr::new("--data-dir"), dir.as_os_str()]));
    child.args(["--output", form]).args(words.list);
    let input = if words.reads_input { Stdio::inherit() } else { Stdio::null() };
    child.stdin(input).stdout(Stdio::inherit()).stderr(Stdio::piped());
    let ended = tokio::select! {
        // In this order: whoever asks for the end is listened to before the program is started.
        biased;
        () = terminated() => return Err(Failure::interrupted()),
        ended = async { follow(global, child.spawn()?).await } => ended.map_err(|error| unstarted(&node, &error))?,
    };
    let (status, told) = ended;
    if status.success() {
        if !told.trim().is_empty() {
            output::talk(global.output, told.trim());
        }
        return Ok(());
    }
    if global.output == Output::Json && is_failure(told.trim()) {
        output::pass_on(told.trim());
        return Err(failure(status.code(), ""));
    }
    Err(failure(status.code(), &told))
}

/// Waits for the end of the program: how it ended, and what it said besides how far it is.
async fn follow(global: &Global, mut child: Child) -> std::io::Result<(ExitStatus, String)> {
    let told = match child.stderr.take() {
        Some(stderr) => listen(global, stderr).await?,
        None => String::new(),
    };
    Ok((child.wait().await?, told))
}

async fn listen(global: &Global, stderr: ChildStderr) -> std::io::Result<String> {
    let bar = if output::may_draw(global.output) { ProgressBar::no_length() } else { ProgressBar::hidden() };
    let bar = match ProgressStyle::with_template("{msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    let (mut told, mut lines) = (String::new(), BufReader::new(stderr).split(b'\n'));
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line);
        match line.strip_prefix(PROGRESS) {
            Some(far) => bar.set_message(far.to_owned()),
            None => {
                told.push_str(&line);
                told.push('\n');
            }
        }
    }
    bar.finish_and_clear();
    Ok(told)
}

/// Waits until this program is asked to end; Ctrl-C is waited for where all commands are run.
#[cfg(unix)]
async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut asked) => {
            asked.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}

fn unstarted(node: &Path, error: &std::io::Error) -> Failure {
    let next = "install ollamax-node beside ollamax";
    Failure::new(1, format!("start {}", node.display()), error.to_string(), next)
}

/// Whether it is the object of a failure, as programs get it.
fn is_failure(told: &str) -> bool {
    serde_json::from_str::<Value>(told).is_ok_and(|object| object["kind"] == "Error")
}

/// What the program said in its last words: what happened, then what to try. Nothing where it has said all already.
fn failure(exit: Option<i32>, told: &str) -> Failure {
    let known = exit.and_then(|code| u8::try_from(code).ok());
    let exit = known.unwrap_or(1);
    let told = told.trim();
    let told = told.strip_prefix("ollamax-node: ").unwrap_or(told);
    let in_one = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    match told.split_once("\ntry: ") {
        Some((what, next)) => Failure::new(exit, in_one(what), "", in_one(next)),
        None if told.is_empty() && known.is_some() => Failure::passed_on(exit),
        None if told.is_empty() => Failure::new(exit, "ollamax-node was ended", "", "repeat the command"),
        None => Failure::new(exit, in_one(told), "", "ollamax doctor, where the daemon runs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_said_keeps_its_parts_and_its_exit_code() {
        let check = |code: i32, told: &str, expected: Failure| {
            assert_eq!(failure(Some(code), told), expected, "{told:?}");
        };
        check(4, "ollamax-node: in use\ntry: stop it\n", Failure::new(4, "in use", "", "stop it"));
        let both = "ollamax-node: it was\ncopied\ntry: this\n     else: that\n";
        check(2, both, Failure::new(2, "it was; copied", "", "this; else: that"));
        check(1, "boom", Failure::new(1, "boom", "", "ollamax doctor, where the daemon runs"));
        check(1, "", Failure::passed_on(1));
        assert_eq!(failure(None, ""), Failure::new(1, "ollamax-node was ended", "", "repeat the command"));
    }

    #[test]
    fn only_the_object_of_a_failure_is_taken_for_one() {
        let rows =
            [("{\"kind\":\"Error\",\"exit\":4}", true), ("{\"kind\":\"Reset\"}", false), ("boom", false), ("", false)];
        for (told, expected) in rows {
            assert_eq!(is_failure(told), expected, "{told}");
        }
    }

    #[tokio::test]
    async fn a_backup_is_restored_only_where_somebody_said() {
        let global = Global { data_dir: None, output: Output::Table, verbose: false };
        let from = OriginArgs { backup: "a.oxb.age".into(), config: None };
        let refused = restore(&global, from, "key".into(), None).await.expect_err("no directory");
        assert!(refused.exit() == 2 && refused.next().contains("--data-dir"), "{refused:?}");
    }
}
