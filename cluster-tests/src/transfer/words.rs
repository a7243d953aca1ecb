//! What another program says, in a file of its folder, and what of it is told where the program does otherwise than
//! expected.
//!
//! What it says and what it complains of stand in one file, in the order in which they came. A wait for it ends when
//! it ends, and at a bound.

use std::fs::{self, File};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use ollamax_testkit::wait;

/// The file, in the folder in which a program works.
const SAID: &str = "said";
/// Lines that are told of what was said last.
const LAST_LINES: usize = 3;
/// Lines before them that tell of a fault.
const LAST_COMPLAINTS: usize = 2;
/// Letters of one line.
const LINE_LETTERS: usize = 300;

/// Where the program says it that works in this folder.
pub(super) fn said_in(folder: &Path) -> PathBuf {
    folder.join(SAID)
}

/// Lets a program speak into the file of this folder.
pub(super) fn speak(command: &mut Command, folder: &Path) -> Result<PathBuf> {
    let path = said_in(folder);
    let said = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let complained = said.try_clone().with_context(|| format!("open {} again", path.display()))?;
    command.stdout(said).stderr(complained);
    Ok(path)
}

/// What a program has said so far. What has just been begun may end within a letter; the next look sees all of it.
pub(super) fn so_far(said: &Path) -> String {
    fs::read(said).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Whether a program has said these words.
pub(super) fn says(said: &Path, words: &str) -> bool {
    so_far(said).contains(words)
}

/// Waits until a look finds what it looks for in what a program has said so far. That the program ends before, or says
/// nothing of it for so long, is told with what it said last.
pub(super) async fn until_said<T>(
    what: &str,
    program: &mut Child,
    said: &Path,
    patience: Duration,
    find: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    let waited = wait::until(what, patience, || ready(look(program, || find(&so_far(said))))).await;
    match waited {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(status)) => bail!("it ended while one waited for {what} ({status}); {}", last_words(said)),
        Err(error) => bail!("{error:#}; {}", last_words(said)),
    }
}

/// What is found, or with what the program has ended; the error says that one waits on.
fn look<T>(program: &mut Child, find: impl FnOnce() -> Option<T>) -> Result<Result<T, ExitStatus>, String> {
    match program.try_wait() {
        Ok(None) => find().map(Ok).ok_or_else(|| "it runs and has not said so".to_owned()),
        Ok(Some(status)) => Ok(Err(status)),
        Err(error) => Err(error.to_string()),
    }
}

/// What a program said last, for people, in one line.
fn last_words(said: &Path) -> String {
    last_of(&so_far(said))
}

fn last_of(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let (earlier, last) = lines.split_at(lines.len().saturating_sub(LAST_LINES));
    // One that goes on telling how far it is has told before what went wrong.
    let complaints = earlier.iter().rev().filter(|line| is_complaint(line)).take(LAST_COMPLAINTS);
    let complaints: Vec<&&str> = complaints.collect();
    let told: Vec<String> = complaints.into_iter().rev().chain(last).map(|line| shown(line)).collect();
    if told.is_empty() { "it said nothing".to_owned() } else { format!("its last words: {}", told.join(" | ")) }
}

fn is_complaint(line: &str) -> bool {
    let line = line.to_lowercase();
    line.contains("error") || line.contains("warn")
}

/// A line without what only a terminal understands, at most so long.
fn shown(line: &str) -> String {
    line.trim().chars().filter(|letter| !letter.is_control()).take(LINE_LETTERS).collect()
}

/// What is told of a program, with its last words. One that speaks into no file has none.
pub(super) fn told_with(what: &str, said: Option<&Path>) -> String {
    let said = said.filter(|said| said.exists());
    said.map_or_else(|| what.to_owned(), |said| format!("{what}; {}", last_words(said)))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn speaking(folder: &Path, script: &str) -> (Child, PathBuf) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).kill_on_drop(true);
        let said = speak(&mut command, folder).expect("room");
        (command.spawn().expect("there is sh"), said)
    }

    fn number(said: &str) -> Option<u32> {
        said.lines().find_map(|line| line.strip_prefix("number ")?.parse().ok())
    }

    #[tokio::test]
    async fn what_a_program_says_is_found_while_it_runs() {
        let folder = tempfile::tempdir().expect("temp");
        // It lasts until its input is closed.
        let (mut program, said) = speaking(folder.path(), "echo hm >&2; echo number 7; cat");
        let found = until_said("a number", &mut program, &said, LONG, number).await;
        assert_eq!(found.expect("said"), 7);
        assert!(says(&said, "hm\n"), "{}", so_far(&said));
    }

    #[tokio::test]
    async fn one_that_ends_is_not_waited_for_and_its_last_words_are_told() {
        let folder = tempfile::tempdir().expect("temp");
        let (mut program, said) = speaking(folder.path(), "echo begun; echo 'unexpected argument' >&2; exit 3");
        // A wait up to the bound would tell that instead.
        let error = until_said("a number", &mut program, &said, LONG, number).await.expect_err("it has ended");
        let expected = "it ended while one waited for a number (exit status: 3); its last words: begun | unexpected \
                        argument";
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn one_that_says_something_else_is_waited_for_up_to_the_bound() {
        let folder = tempfile::tempdir().expect("temp");
        let (mut program, said) = speaking(folder.path(), "cat");
        let error = until_said("a number", &mut program, &said, Duration::from_millis(60), number).await;
        let text = error.expect_err("it never says one").to_string();
        assert_eq!(text, "waited 60ms for a number; last seen: it runs and has not said so; it said nothing");
    }

    #[test]
    fn one_that_speaks_into_no_file_has_no_last_words() {
        let folder = tempfile::tempdir().expect("temp");
        let said = said_in(folder.path());
        assert_eq!(told_with("it ended", None), "it ended");
        assert_eq!(told_with("it ended", Some(&said)), "it ended");
        fs::write(&said, "no room\n").expect("room");
        assert_eq!(told_with("it ended", Some(&said)), "it ended; its last words: no room");
    }

    #[test]
    fn the_last_lines_are_told_and_faults_before_them() {
        let long = "x".repeat(2 * LINE_LETTERS);
        for (said, expected) in [
            (String::new(), "it said nothing".to_owned()),
            (" \n\n".to_owned(), "it said nothing".to_owned()),
            ("one\n\ntwo".to_owned(), "its last words: one | two".to_owned()),
            ("1\n2\n3\n4\n".to_owned(), "its last words: 2 | 3 | 4".to_owned()),
            (
                "ERROR a\nwarning b\n0 %\nError c\n1 %\n2 %\n3 %\n".to_owned(),
                "its last words: warning b | Error c | 1 % | 2 % | 3 %".to_owned(),
            ),
            ("\u{1b}[31mred\r\n".to_owned(), "its last words: [31mred".to_owned()),
            (long, format!("its last words: {}", "x".repeat(LINE_LETTERS))),
        ] {
            assert_eq!(last_of(&said), expected, "{said:?}");
        }
    }
}
