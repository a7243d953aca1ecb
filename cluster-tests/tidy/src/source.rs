//! One Rust file as the style checks see it: its lines, and which of them are test code.
//!
//! Test code is everything in a `tests` folder or a `tests.rs`, and the `mod tests { … }` at the end of other files.

use crate::lex::{self, Line};
use crate::tree::Tree;

/// A Rust file, split.
#[derive(Debug)]
pub struct Source<'a> {
    /// Path from the root of the tree.
    pub path: &'a str,
    /// Its lines as they are.
    pub raw: Vec<&'a str>,
    /// Its lines, code and comments apart.
    pub lines: Vec<Line>,
    /// Index of the first line of test code; the number of lines when there is none.
    pub tests_from: usize,
}

// === impl Source ===

impl<'a> Source<'a> {
    /// Splits one file.
    #[must_use]
    pub fn new(path: &'a str, text: &'a str) -> Self {
        let lines = lex::lines(text);
        let tests_from = if is_test_file(path) { 0 } else { inline_tests(&lines).unwrap_or(lines.len()) };
        Self { path, raw: text.lines().collect(), lines, tests_from }
    }

    /// Every Rust file of the tree.
    pub fn all(tree: &'a Tree) -> impl Iterator<Item = Self> {
        tree.with_extension("rs").map(|(path, text)| Self::new(path, text))
    }

    /// The code of each line with its number (from 1).
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.code.as_str()))
    }

    /// The code of each line that is not test code, with its number.
    pub fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().take(self.tests_from)
    }

    /// The code of each line of test code, with its number.
    pub fn test_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().skip(self.tests_from)
    }
}

fn is_test_file(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    parts.next() == Some("tests.rs") || parts.any(|folder| folder == "tests" || folder == "benches")
}

/// The index of the `#[cfg(test)]` that a test module with a body follows.
fn inline_tests(lines: &[Line]) -> Option<usize> {
    (0..lines.len()).find(|&index| {
        lines[index].code.trim() == "#[cfg(test)]" && {
            let after = lines[index + 1..].iter().map(|line| line.code.trim());
            let mut items = after.filter(|code| !code.is_empty() && !code.starts_with("#["));
            items.next().is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
        }
    })
}

/// Whether `code` holds `word` with no letter, digit or underscore right before it.
#[must_use]
pub fn holds_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_code_is_found_where_it_lies() {
        let check = |path, text, expected| assert_eq!(Source::new(path, text).tests_from, expected, "{path}: {text}");
        check("a/src/b.rs", "//! A.\nfn a() {}\n", 2);
        check("a/src/b.rs", "//! A.\n#[cfg(test)]\nmod tests {\n}\n", 1);
        check("a/src/b.rs", "//! A.\n#[cfg(test)]\n#[expect(x, reason = \"y\")]\nmod tests {\n}\n", 1);
        check("a/src/b.rs", "//! A.\n#[cfg(test)]\nmod tests;\n", 3);
        check("a/src/b.rs", "//! A.\n#[cfg(test)]\nfn only_in_tests() {}\n", 3);
        check("a/src/b/tests.rs", "//! A.\n", 0);
        check("a/tests/it/main.rs", "//! A.\n", 0);
    }

    #[test]
    fn a_word_inside_another_is_not_that_word() {
        assert!(holds_word("tokio::time::sleep(x)", "sleep("));
        assert!(!holds_word("oversleep(x)", "sleep("));
        assert!(!holds_word("do_sleep(x)", "sleep("));
    }
}
