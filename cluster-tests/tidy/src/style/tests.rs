//! Each style check finds its bad sample and lets the good one pass.

use super::*;

const GOOD: &str = "//! Owns one thing and says so.\n\nfn f() {}\n";

fn tree(path: &str, text: &str) -> Tree {
    Tree::of(&[(path, text)])
}

fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn a_file_must_open_with_a_sentence() {
    let check = |text: &str, expected: usize| assert_eq!(headers(&tree("a/src/b.rs", text)).len(), expected, "{text}");
    check(GOOD, 0);
    check("fn f() {}\n", 1);
    check("use std::fmt;\n//! Too late to open with.\n", 1);
    check("//! bootstrap\n", 1);
    check("#![doc = include_str!(\"../DESIGN.md\")]\n", 0);
    check("", 1);
}

#[test]
fn a_file_may_be_as_long_as_its_limit_without_tests() {
    let body = |lines: usize| format!("//! Owns one thing and says so.\n{}", "fn f() {}\n".repeat(lines - 1));
    let tests = |lines: usize| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn f() {}\n".repeat(lines - 3));
    let check = |text: String, expected: usize| assert_eq!(lengths(&tree("a/src/b.rs", &text)).len(), expected);
    check(body(FILE_LINES_MAX), 0);
    check(body(FILE_LINES_MAX + 1), 1);
    check(body(FILE_LINES_MAX) + &tests(INLINE_TEST_LINES_MAX), 0);
    check(body(10) + &tests(INLINE_TEST_LINES_MAX + 1), 1);
    check(body(10) + &tests(10) + "\nfn behind() {}\n", 1);
}

#[test]
fn a_wide_comment_is_found_and_a_wide_string_is_not() {
    let wide = "x".repeat(LINE_CHARS_MAX);
    let check = |text: &str, expected: &[usize]| assert_eq!(lines(&widths(&tree("a/src/b.rs", text))), expected);
    check(&format!("// {wide}\n"), &[1]);
    check(&format!("f(\"{wide}\");\n"), &[]);
    check(&format!("// https://{wide}\n"), &[]);
    check(&format!("//! ä\n// {}\n", "ä".repeat(LINE_CHARS_MAX - 3)), &[]);
}

#[test]
fn marks_for_later_are_found_in_code_and_settings() {
    let rust = |text: &str, expected: usize| assert_eq!(open_ends(&tree("a/src/b.rs", text)).len(), expected, "{text}");
    rust("// TODO: later\n", 1);
    rust("fn f() { todo!() }\n", 1);
    rust("fn f() { unimplemented!() } /* FIXME */\n", 1);
    rust("f(\"TODO\"); // TODOS are no marks\n", 0);
    let other =
        |path: &str, expected: usize| assert_eq!(open_ends(&tree(path, "# FIXME: a\n")).len(), expected, "{path}");
    other(".ci/run", 1);
    other("config/a.toml", 1);
    other("docs/a.md", 0);
}

#[test]
fn a_test_that_is_switched_off_is_found() {
    let check = |text: &str, expected: &[usize]| assert_eq!(lines(&ignored_tests(&tree("a/src/b.rs", text))), expected);
    check("#[test]\n#[ignore]\nfn f() {}\n", &[2]);
    check("#[test]\n#[ignore = \"slow\"]\nfn f() {}\n", &[2]);
    check("#[cfg_attr(unix, ignore)]\n", &[1]);
    check("// #[ignore]\nlet _ignored = 1;\n", &[]);
}

#[test]
fn a_test_that_sleeps_is_found_unless_time_is_paused() {
    let check = |path: &str, text: &str, expected: &[usize]| {
        assert_eq!(lines(&sleeps(&tree(path, text), &["a/tests/it/poll.rs"])), expected, "{path}: {text}");
    };
    check("a/tests/it/main.rs", "#[tokio::test]\nasync fn f() {\n    tokio::time::sleep(ms).await;\n}\n", &[3]);
    check("a/tests/it/main.rs", "#[tokio::test(start_paused = true)]\nasync fn f() {\n    sleep(ms).await;\n}\n", &[]);
    check("a/tests/it/main.rs", "#[tokio::test(start_paused = true)]\nf()\n#[test]\nthread::sleep(ms)\n", &[4]);
    check("a/tests/it/poll.rs", "fn f() { thread::sleep(ms) }\n", &[]);
    check("cluster-tests/src/a.rs", "fn f() { sleep(ms) }\n", &[1]);
    check("a/src/b.rs", "fn f() { sleep(ms) }\n#[cfg(test)]\nmod tests {\n    fn f() { sleep(ms) }\n}\n", &[4]);
}

#[test]
fn a_library_that_does_not_forbid_unsafe_code_is_found() {
    let check = |path: &str, text: &str, expected: usize| assert_eq!(unsafe_code(&tree(path, text)).len(), expected);
    check("a/src/lib.rs", "//! A.\n#![forbid(unsafe_code)]\n", 0);
    check("a/src/lib.rs", "//! A.\n// #![forbid(unsafe_code)]\n", 1);
    check("a/src/other.rs", "//! A.\n", 0);
    check("node/crates/sandbox/src/lib.rs", "//! A.\n", 0);
}

#[test]
fn an_allowed_lint_is_found() {
    let check =
        |path: &str, text: &str, expected: &[usize]| assert_eq!(lines(&allowed_lints(&tree(path, text))), expected);
    check("a/src/b.rs", "#[allow(dead_code)]\nfn f() {}\n", &[1]);
    check("a/src/b.rs", "#![allow(missing_docs, reason = \"x\")]\n", &[1]);
    check("a/src/b.rs", "#[expect(dead_code, reason = \"x\")]\n", &[]);
    check("proto/src/lib.rs", "#![allow(missing_docs, reason = \"generated\")]\n", &[]);
}

#[test]
fn an_error_that_can_be_anything_is_found() {
    let check = |text: &str, expected: usize| assert_eq!(vague_errors(&tree("a/src/b.rs", text)).len(), expected);
    check("enum E {\n    Other(String),\n}\n", 1);
    check("enum E {\n    Another(String),\n    Gone { node: u64 },\n}\n", 0);
}

#[test]
fn a_decision_that_does_something_is_found() {
    let check =
        |path: &str, text: &str, expected: usize| assert_eq!(purity(&tree(path, text)).len(), expected, "{text}");
    check("node/crates/core/src/a.rs", "use std::fs;\n", 1);
    check("node/crates/core/src/a.rs", "async fn f() {}\n", 1);
    check("node/crates/types/src/a.rs", "let now = SystemTime::now();\n", 1);
    check("node/crates/types/src/clock.rs", "let now = SystemTime::now();\n", 0);
    check("node/crates/store/src/a.rs", "use std::fs;\n", 0);
    check("node/crates/core/src/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", 0);
}

#[test]
fn the_test_kit_in_a_unit_test_is_found() {
    let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use ollamax_testkit as testkit;\n}\n";
    assert_eq!(lines(&kit_in_unit_tests(&tree("node/crates/a/src/b.rs", text))), [4]);
    assert_eq!(kit_in_unit_tests(&tree("node/crates/a/tests/it/main.rs", text)), []);
}
