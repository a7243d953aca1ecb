//! `ollamax recover` and `ollamax reset`: what `ollamax-node` does with a data directory on which no daemon runs.
//!
//! Started as the program beside this one. What it prints and how it ends is passed on; a failure gets the form that
//! all failures have here.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::args::{Global, Output, RecoverCommand, ResetArgs};
use crate::error::Failure;
use crate::{output, place, program};

/// Shows what survives, or goes on with it.
pub(crate) fn recover(global: &Global, command: RecoverCommand) -> Result<(), Failure> {
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
    run(global, &["recover", step], words)
}

/// Empties the node of this machine.
pub(crate) fn reset(global: &Global, args: &ResetArgs) -> Result<(), Failure> {
    let mut words = Words::default();
    if args.confirm {
        words.0.push("--confirm".into());
    }
    run(global, &["reset"], words)
}

/// What stands behind the command and the directory.
#[derive(Debug, Default)]
struct Words(Vec<OsString>);

impl Words {
    fn value(&mut self, flag: &str, value: Option<impl Into<OsString>>) {
        let Some(value) = value else { return };
        self.0.extend([OsString::from(flag), value.into()]);
    }
}

fn run(global: &Global, command: &[&str], words: Words) -> Result<(), Failure> {
    let data_dir = place::offline_dir(global)?;
    let node = program::sibling("ollamax-node")?;
    let form = match global.output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let mut child = Command::new(&node);
    child.args(command).arg("--data-dir").arg(data_dir).args(["--output", form]).args(words.0);
    child.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped());
    let ended = child.spawn().and_then(Child::wait_with_output).map_err(|error| unstarted(&node, &error))?;
    let told = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() {
        if !told.trim().is_empty() {
            output::talk(global.output, told.trim());
        }
        return Ok(());
    }
    Err(failure(ended.status.code(), &told))
}

fn unstarted(node: &Path, error: &std::io::Error) -> Failure {
    let next = "install ollamax-node beside ollamax";
    Failure::new(1, format!("start {}", node.display()), error.to_string(), next)
}

/// What the program said in its last words: what happened, then what to try.
fn failure(exit: Option<i32>, told: &str) -> Failure {
    let exit = exit.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let told = told.trim();
    let told = told.strip_prefix("ollamax-node: ").unwrap_or(told);
    let in_one = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    match told.split_once("\ntry: ") {
        Some((what, next)) => Failure::new(exit, in_one(what), "", in_one(next)),
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
        assert_eq!(failure(None, ""), Failure::new(1, "ollamax-node was ended", "", "repeat the command"));
    }
}
