//! Cargo's closing lines: what each test binary says at its end, held back and printed once, together, at the very end.
//!
//! A workspace has two dozen test binaries; their results are wanted in one place, after the table of steps, and in
//! cargo's own words. Everything else that cargo and the tests print passes through as it comes. Tests that say that
//! they were left out count as passed for cargo, so they are listed there too, with their reasons. What failed is told
//! last of all, with its own words, since whoever looks at a long log looks at its end.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::shown;

const RESULT: &str = "test result: ";
/// How a test says that it was left out: `say_left_out` in `cluster-tests/tests/it/main.rs`.
const LEFT_OUT: [&str; 2] = ["WARNING: ", " WAS NOT RUN: "];
/// What stands before the words of the tests that failed, and once more before their names.
const FAILURES: &str = "failures:";
/// How many lines of one test that failed are told again from its beginning, and as many from its end.
const TOLD_AGAIN: usize = 60;

/// The results of every test binary that ran.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// The binary that is running, as cargo announced it.
    running: Option<String>,
    lines: Vec<String>,
    passed: u64,
    failed: u64,
    /// Tests that were left out, and why.
    left_out: BTreeMap<String, String>,
    /// Each test that failed, by the line that announces its words, with those.
    failures: Vec<Vec<String>>,
    /// The words of tests that failed are being printed.
    is_in_failures: bool,
}

// === impl Closing ===

impl Closing {
    /// Runs a `cargo test` command and keeps its closing lines. A run in which nothing passed proves nothing: it fails.
    pub(crate) fn run(&mut self, mut command: Command) -> Result<()> {
        let passed_before = self.passed;
        let shown = shown(&command);
        // One pipe for both streams keeps cargo's announcements and the tests' output in order.
        let (reader, writer) = io::pipe().context("make a pipe")?;
        command.stdout(writer.try_clone().context("make a pipe")?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
        // The command holds the pipe's other end; without this the reader would never see the end.
        drop(command);
        self.read(BufReader::new(reader), &mut io::stdout())?;
        let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
        if !status.success() {
            bail!("`{shown}` ended with {status}");
        }
        if self.passed == passed_before {
            bail!("`{shown}` ran no test");
        }
        Ok(())
    }

    fn read(&mut self, mut from: impl BufRead, to: &mut impl Write) -> Result<()> {
        let mut bytes = Vec::new();
        while from.read_until(b'\n', &mut bytes).context("read what the tests say")? > 0 {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches(['\r', '\n']);
            if !self.keep(line) {
                writeln!(to, "{line}").and_then(|()| to.flush()).context("print what the tests say")?;
            }
            bytes.clear();
        }
        Ok(())
    }

    /// Whether this line is a closing line, kept for the end. What tests say of being left out is noted on the way.
    fn keep(&mut self, line: &str) -> bool {
        self.left_out.extend(left_out(line).map(|(test, why)| (test.to_owned(), why.to_owned())));
        self.note_failure(line);
        let announced = line.trim_start();
        if announced.starts_with("Running ") || announced.starts_with("Doc-tests ") {
            self.running = Some(line.to_owned());
        }
        let Some(result) = line.strip_prefix(RESULT) else { return false };
        let (passed, failed, filtered) =
            (count(result, "passed"), count(result, "failed"), count(result, "filtered out"));
        self.passed += passed;
        self.failed += failed;
        let announced = self.running.take();
        // Where tests are chosen by name, most binaries have none of them.
        if passed + failed > 0 || filtered == 0 {
            self.lines.extend(announced);
            self.lines.push(line.to_owned());
        }
        true
    }

    /// Keeps what a test that failed had printed: it comes between two lines that say `failures:`.
    fn note_failure(&mut self, line: &str) {
        if line == FAILURES {
            self.is_in_failures = !self.is_in_failures;
        } else if line.starts_with(RESULT) {
            self.is_in_failures = false;
        } else if self.is_in_failures && line.starts_with("---- ") {
            self.failures.push(vec![line.to_owned()]);
        } else if self.is_in_failures
            && let Some(failure) = self.failures.last_mut()
        {
            failure.push(line.to_owned());
        }
    }

    /// Whether any test binary came to its end.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many tests passed and failed, and how many of those that passed had left themselves out.
    pub(crate) fn totals(&self) -> String {
        let totals = format!("{} tests passed, {} failed", self.passed, self.failed);
        if self.left_out.is_empty() { totals } else { format!("{totals}, {} left out", self.left_out.len()) }
    }

    /// Cargo's announcements and closing lines, as they were; then what was left out; then what failed, and why.
    pub(crate) fn text(&self) -> String {
        let mut text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        if !self.left_out.is_empty() {
            text += "\nleft out, not run:\n";
            text.extend(self.left_out.iter().map(|(test, why)| format!("  {test}: {why}\n")));
        }
        if !self.failures.is_empty() {
            text += "\nfailed:\n";
            text.extend(self.failures.iter().map(|failure| told_again(failure)));
        }
        text
    }
}

/// The first and the last lines of one test that failed.
fn told_again(failure: &[String]) -> String {
    let lines = |of: &[String]| -> String { of.iter().map(|line| format!("{line}\n")).collect() };
    let left_out = failure.len().saturating_sub(2 * TOLD_AGAIN);
    if left_out == 0 {
        return lines(failure);
    }
    let (first, last) = (&failure[..TOLD_AGAIN], &failure[failure.len() - TOLD_AGAIN..]);
    format!("{}[{left_out} lines are left out here]\n{}", lines(first), lines(last))
}

/// Which test this line says was left out, and why.
fn left_out(line: &str) -> Option<(&str, &str)> {
    let [before, between] = LEFT_OUT;
    line.split_once(before)?.1.split_once(between)
}

/// The number before `word` in `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> u64 {
    let mut parts = result.split([';', '.']).map(str::trim);
    parts.find_map(|part| part.strip_suffix(word)?.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "   Compiling a v0.1.0\n     Running unittests src/lib.rs (target/debug/deps/a-1)\n\nrunning 2 tests\n\
                          test x ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; finished in 0.00s\n\n     \
                          Running tests/it/main.rs (target/debug/deps/it-2)\n\
                          test result: FAILED. 5 passed; 1 failed; 0 ignored; finished in 0.10s\nerror: test failed\n";

    #[test]
    fn closing_lines_are_held_back_and_the_rest_passes_through() {
        let mut closing = Closing::default();
        let mut through = Vec::new();
        closing.read(OUTPUT.as_bytes(), &mut through).expect("reads");
        let through = String::from_utf8(through).expect("text");
        assert!(
            !through.contains(RESULT) && through.contains("test x ... ok") && through.contains("error: test failed")
        );
        assert_eq!(closing.totals(), "7 tests passed, 1 failed");
        let text = closing.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].ends_with("(target/debug/deps/a-1)") && lines[1].starts_with("test result: ok. 2 passed"));
        assert!(
            lines[2].ends_with("(target/debug/deps/it-2)") && lines[3].starts_with("test result: FAILED. 5 passed")
        );
    }

    #[test]
    fn a_test_that_was_left_out_is_named_at_the_end_and_told_as_it_comes() {
        let check = |line: &str, expected: Option<(&str, &str)>| assert_eq!(left_out(line), expected, "{line}");
        check("WARNING: full_disk WAS NOT RUN: no rooms: here", Some(("full_disk", "no rooms: here")));
        check("test x ... WARNING: a b WAS NOT RUN: c", Some(("a b", "c")));
        check("WARNING: the disk is slow", None);
        check("full_disk WAS NOT RUN: no rooms", None);
        check("test full_disk::it ... ok", None);

        let mut closing = Closing::default();
        let said = "\nWARNING: full_disk WAS NOT RUN: no rooms\n\ntest full_disk::it ... ok\n";
        let result = "test result: ok. 1 passed; 0 failed; 0 ignored; finished in 0.10s\n";
        let mut through = Vec::new();
        // A second run, as of the soak, names it once more.
        for _ in 0..2 {
            closing.read(format!("{said}{result}").as_bytes(), &mut through).expect("reads");
        }
        assert_eq!(String::from_utf8(through).expect("text"), said.repeat(2));
        assert_eq!(closing.totals(), "2 tests passed, 0 failed, 1 left out");
        assert!(closing.text().ends_with("\n\nleft out, not run:\n  full_disk: no rooms\n"), "{}", closing.text());
    }

    #[test]
    fn what_failed_is_told_last_with_its_own_words() {
        let long: String = (0..200).map(|number| format!("line {number}\n")).collect();
        let output = format!(
            "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nit panicked\n\n---- c stdout ----\n{long}\n\
             failures:\n    a::b\n    c\n\ntest result: FAILED. 0 passed; 2 failed; finished in 0.10s\nerror: 1 target\n"
        );
        let mut closing = Closing::default();
        closing.read(output.as_bytes(), &mut Vec::new()).expect("reads");
        let text = closing.text();
        let (before, told) = text.split_once("\nfailed:\n").expect("what failed");
        assert!(before.contains("FAILED. 0 passed") && !before.contains("panicked"), "{before}");
        assert!(told.starts_with("---- a::b stdout ----\nit panicked\n\n---- c stdout ----\nline 0\n"), "{told}");
        assert!(told.contains("\nline 58\n[82 lines are left out here]\nline 141\n"), "{told}");
        assert!(told.ends_with("line 199\n\n") && !told.contains("1 target"), "{told}");
    }

    #[test]
    fn a_binary_without_any_of_the_chosen_tests_has_nothing_to_say() {
        let mut closing = Closing::default();
        assert!(!closing.keep("     Running unittests src/lib.rs (a)"));
        assert!(
            closing.keep("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0s")
        );
        assert!(closing.is_empty());
        assert!(closing.keep("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"));
        assert!(!closing.is_empty());
    }

    #[test]
    fn a_command_that_fails_is_a_failure_even_when_its_lines_look_well() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 1"]);
        let mut closing = Closing::default();
        assert!(closing.run(command).is_err());
        assert_eq!(closing.totals(), "1 tests passed, 0 failed");
    }
}
