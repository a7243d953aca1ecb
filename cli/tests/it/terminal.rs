//! Running `ollamax` as a user does, with nothing of this machine in its environment, and what it said.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::daemon::Daemon;

/// How long a command may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: i32,
}

/// The program with its words, before a daemon.
pub(crate) fn command(program: &Path, data_dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).env_clear().env("OLLAMAX_DATA_DIR", data_dir).env("HOME", data_dir).current_dir(data_dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs the built program; what differs from run to run has a name instead.
pub(crate) async fn run(daemon: &Daemon, words: &[&str]) -> Said {
    finish(command(Path::new(env!("CARGO_BIN_EXE_ollamax")), &daemon.data_dir, words), daemon).await
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command, daemon: &Daemon) -> Said {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("in time").expect("started");
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&daemon.api, "http://API");
        text.replace(&*daemon.data_dir.to_string_lossy(), "DATA_DIR")
    };
    let exit = output.status.code().expect("it ended by itself");
    Said { stdout: text(&output.stdout), stderr: text(&output.stderr), exit }
}

/// Commands and what they said, as on a screen.
pub(crate) fn page(said: &[(String, Said)]) -> String {
    let mut page = String::new();
    for (line, Said { stdout, stderr, exit }) in said {
        let stderr = if stderr.is_empty() { String::new() } else { format!("[stderr]\n{stderr}") };
        write!(page, "$ ollamax {line}\n{stdout}{stderr}[exit {exit}]\n\n").expect("written");
    }
    page
}

/// Compares a page with the one in `expected/`.
pub(crate) fn compare(name: &str, page: &str) {
    insta::with_settings!({snapshot_path => "expected", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, page);
    });
}
