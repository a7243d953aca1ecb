//! What every Rust file must and must not hold.
//!
//! Function length, nesting of `unwrap` and the like are clippy's; width of code is rustfmt's.

use crate::finding::Finding;
use crate::source::{Source, holds_word};
use crate::tree::Tree;

mod imports_order;

pub use imports_order::import_groups;

/// Longest file, in lines, without its tests.
const FILE_LINES_MAX: usize = 800;
/// Longest test module inside the file that it tests; a longer one moves to `foo/tests.rs`.
const INLINE_TEST_LINES_MAX: usize = 250;
/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 120;
/// Fewest words of a file's first sentence.
const HEADER_WORDS_MIN: usize = 3;

/// Files whose whole content is generated code.
const GENERATED: &[&str] = &["proto/src/lib.rs", "cluster-tests/src/against/etcd/wire.rs"];

/// Every file opens with `//!` and a sentence; the root of a crate may open with the crate's page instead.
#[must_use]
pub fn headers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        if text.starts_with("#![doc = include_str!(\"../DESIGN.md\")]") {
            continue;
        }
        let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        if header.is_empty() {
            findings.push(Finding::at(path, 1, "must open with `//!`: what it owns, what holds, what if it fails"));
        } else if header.iter().flat_map(|line| line.split_whitespace()).count() < HEADER_WORDS_MIN {
            findings.push(Finding::at(path, 1, "its `//!` says nothing: what it owns, what holds, what if it fails"));
        }
    }
    findings
}

/// No file is longer than its limit, no inline test module longer than its own, and nothing follows the tests.
#[must_use]
pub fn lengths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        if source.tests_from > FILE_LINES_MAX {
            let message =
                format!("{} lines without tests, limit {FILE_LINES_MAX}: split it by nouns", source.tests_from);
            findings.push(Finding::about(source.path, message));
        }
        if source.tests_from == 0 {
            continue;
        }
        let inline = source.lines.len() - source.tests_from;
        if inline > INLINE_TEST_LINES_MAX {
            let message = format!("{inline} lines of tests inside: move them to `{}`", tests_beside(source.path));
            findings.push(Finding::at(source.path, source.tests_from + 1, message));
        }
        let end = source.test_code().find(|(_, code)| code.starts_with('}')).map(|(number, _)| number);
        if let Some(end) = end.filter(|end| *end < source.lines.len()) {
            findings.push(Finding::at(
                source.path,
                end + 1,
                "stands after the tests; `mod tests` is the end of a file",
            ));
        }
    }
    findings
}

fn tests_beside(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    if stem.ends_with("/lib") || stem.ends_with("/main") { "tests.rs".to_owned() } else { format!("{stem}/tests.rs") }
}

/// No line is wider than the limit. A line with a string or an address may be: rustfmt cannot break those.
#[must_use]
pub fn widths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        for (index, raw) in source.raw.iter().enumerate() {
            let breakable = !source.lines[index].has_string && !raw.contains("://");
            if breakable && raw.chars().count() > LINE_CHARS_MAX {
                findings.push(Finding::at(source.path, index + 1, format!("is longer than {LINE_CHARS_MAX} columns")));
            }
        }
    }
    findings
}

/// Nothing is left open: no marks for later, no missing bodies, in code, settings and scripts.
#[must_use]
pub fn open_ends(tree: &Tree) -> Vec<Finding> {
    const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
    const BODIES: &[&str] = &["todo!", "unimplemented!"];
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        for (index, line) in source.lines.iter().enumerate() {
            let mark = MARKS.iter().find(|mark| is_marked(&line.comment, mark));
            let body = BODIES.iter().find(|body| holds_word(&line.code, body));
            if let Some(word) = mark.or(body) {
                findings.push(Finding::at(source.path, index + 1, format!("`{word}`: finish it or leave it out")));
            }
        }
    }
    for path in tree.paths().filter(|path| is_script_or_settings(path)) {
        for (index, line) in tree.text(path).unwrap_or_default().lines().enumerate() {
            if let Some(mark) = MARKS.iter().find(|mark| is_marked(line, mark)) {
                findings.push(Finding::at(path, index + 1, format!("`{mark}`: finish it or leave it out")));
            }
        }
    }
    findings
}

/// Whether `mark` stands in `text` as a word of its own.
fn is_marked(text: &str, mark: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == mark)
}

fn is_script_or_settings(path: &str) -> bool {
    const ENDINGS: &[&str] = &[".toml", ".proto", ".yml", ".yaml", ".sh", ".py", ".service"];
    path == ".ci/run" || ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// No test is switched off.
#[must_use]
pub fn ignored_tests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        for (number, code) in source.code() {
            let attribute = code.trim_start();
            if attribute.starts_with("#[ignore") || attribute.starts_with("#[cfg_attr") && attribute.contains("ignore")
            {
                findings.push(Finding::at(
                    source.path,
                    number,
                    "a test that does not run proves nothing: mend or delete it",
                ));
            }
        }
    }
    findings
}

/// No test waits for a guessed time, nor does what tests are made of. Under a paused clock (`start_paused`) no time
/// passes, so there a test may sleep.
#[must_use]
pub fn sleeps(tree: &Tree, allowed: &[&str]) -> Vec<Finding> {
    const CALLS: &[&str] = &["sleep(", "sleep_until(", "sleep_ms("];
    let mut findings = Vec::new();
    for source in Source::all(tree).filter(|source| !allowed.contains(&source.path)) {
        let from = if source.path.starts_with("cluster-tests/") { 0 } else { source.tests_from };
        let mut paused = false;
        for (number, code) in source.code().skip(from) {
            if code.contains("#[tokio::test") || code.trim() == "#[test]" {
                paused = code.contains("start_paused");
            }
            if !paused && CALLS.iter().any(|call| holds_word(code, call)) {
                let message = "tests wait for a condition, never for a guessed time";
                findings.push(Finding::at(source.path, number, message));
            }
        }
    }
    findings
}

/// Every library forbids unsafe code; `sandbox` names its one module that may not.
#[must_use]
pub fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    let roots = tree.with_extension("rs").filter(|(path, _)| path.ends_with("/src/lib.rs"));
    let open = roots.filter(|(path, text)| {
        *path != "node/crates/sandbox/src/lib.rs" && !text.lines().any(|line| line == "#![forbid(unsafe_code)]")
    });
    open.map(|(path, _)| Finding::at(path, 1, "must say `#![forbid(unsafe_code)]`")).collect()
}

/// A lint is excepted by `expect`, which goes away with its reason, never by `allow`.
#[must_use]
pub fn allowed_lints(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree).filter(|source| !GENERATED.contains(&source.path)) {
        for (number, code) in source.code() {
            let attribute = code.trim_start();
            if attribute.starts_with("#[allow(") || attribute.starts_with("#![allow(") {
                findings.push(Finding::at(source.path, number, "write `#[expect(lint, reason = \"…\")]`"));
            }
        }
    }
    findings
}

/// An error says what happened; none carries just anything.
#[must_use]
pub fn vague_errors(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        for (number, code) in source.product_code() {
            if ["Other(String)", "Other(Box<dyn", "Other(anyhow"].iter().any(|variant| holds_word(code, variant)) {
                findings.push(Finding::at(source.path, number, "an error that can be anything: list what can happen"));
            }
        }
    }
    findings
}

/// The words and the decisions do no IO, read no clock, start no task.
#[must_use]
pub fn purity(tree: &Tree) -> Vec<Finding> {
    const FORBIDDEN: &[&str] = &[
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "std::io",
        "tokio::",
        "async fn",
        "async move",
        "SystemTime::now",
        "Instant::now",
        "thread_local!",
        "static mut",
    ];
    let mut findings = Vec::new();
    let pure = |path: &str| path.starts_with("node/crates/core/src/") || path.starts_with("node/crates/types/src/");
    for source in Source::all(tree).filter(|source| pure(source.path)) {
        for (number, code) in source.product_code() {
            // The clock handle is the one door through which wall time comes in.
            let is_clock = source.path == "node/crates/types/src/clock.rs";
            let forbidden = FORBIDDEN.iter().find(|word| holds_word(code, word));
            if let Some(word) = forbidden.filter(|word| !(is_clock && **word == "SystemTime::now")) {
                let message = format!("`{word}`: this crate decides and does nothing; take it as an argument");
                findings.push(Finding::at(source.path, number, message));
            }
        }
    }
    findings
}

/// Unit tests do not use the test kit: it imports engines, so they would meet a second copy of their own types.
#[must_use]
pub fn kit_in_unit_tests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let inside = |path: &str| path.starts_with("node/") && path.contains("/src/");
    for source in Source::all(tree).filter(|source| inside(source.path)) {
        for (number, code) in source.code().filter(|(_, code)| holds_word(code, "ollamax_testkit")) {
            let message = format!("`{}`: the test kit is for `tests/` folders and `cluster-tests`", code.trim());
            findings.push(Finding::at(source.path, number, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests;
