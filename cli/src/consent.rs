//! Asking before what cannot be taken back: at a terminal for the name of what goes, elsewhere for `--yes`.

use std::io::{IsTerminal as _, Write as _};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::args::{Global, Output};
use crate::error::Failure;
use crate::output;

/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 1_024;

/// Returns when the administrator agreed. `deed` says what will happen, and to which cluster; `name` is what goes.
pub(crate) async fn ask(global: &Global, deed: &str, name: &str) -> Result<(), Failure> {
    let asked = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !asked || global.output == Output::Json {
        let why = format!("it would {deed}, and nobody can be asked");
        return Err(Failure::new(2, "this needs your consent", why, "repeat the command with --yes"));
    }
    let mut err = std::io::stderr();
    drop(write!(err, "This will {deed}.\nType {name} to go on: ").and_then(|()| err.flush()));
    let mut answer = String::new();
    let read = BufReader::new(tokio::io::stdin().take(ANSWER_BYTES_MAX)).read_line(&mut answer).await;
    read.map_err(|error| Failure::new(1, "nothing was done", error.to_string(), "repeat the command with --yes"))?;
    if !answer.ends_with('\n') {
        output::talk(global.output, "");
    }
    judge(&answer, name)
}

fn judge(answer: &str, name: &str) -> Result<(), Failure> {
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::new(1, "nothing was done", format!("{name} was not typed"), "repeat the command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_consent() {
        let check = |answer: &str, expected: bool| assert_eq!(judge(answer, "n3").is_ok(), expected, "{answer:?}");
        check("n3\n", true);
        check(" n3 ", true);
        check("y\n", false);
        check("n33\n", false);
        check("", false);
    }
}
