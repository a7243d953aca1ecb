//! What the product writes to its log: an error carries its code and its words, a line is named by a fixed text.
//!
//! The four levels are error, warn, info and debug; nothing is written below. What varies stands in fields, so that a
//! line can be found by its text and read by programs.

use crate::finding::Finding;
use crate::source::{Source, holds_word};
use crate::tree::Tree;

const LEVELS: &[&str] = &["error!(", "warn!(", "info!(", "debug!("];
const BELOW: &[&str] = &["trace!(", "trace_span!(", "Level::TRACE", "LevelFilter::TRACE"];
/// Fields without which an error is no help.
const OF_AN_ERROR: &[&str] = &["code", "error"];

/// One call of a log macro.
struct Call {
    /// Its arguments as code, strings blanked out.
    arguments: Vec<String>,
    /// How many lines it takes.
    lines: usize,
}

/// Every line of the log that product code writes.
#[must_use]
pub fn are_well_formed(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        let code: Vec<&str> = source.product_code().map(|(_, code)| code).collect();
        for (index, line) in code.iter().enumerate() {
            if let Some(word) = BELOW.iter().find(|word| holds_word(line, word)) {
                findings.push(Finding::at(source.path, index + 1, format!("`{word}`: nothing is logged below debug")));
            }
            for level in LEVELS.iter().filter(|level| holds_word(line, level)) {
                let call = Call::read(&code[index..], line.find(level).unwrap_or_default() + level.len());
                let faults = call.faults(level, &source.raw[index..index + call.lines], &code[index..]);
                findings.extend(faults.into_iter().map(|fault| Finding::at(source.path, index + 1, fault)));
            }
        }
    }
    findings
}

// === impl Call ===

impl Call {
    /// Reads from behind the opening bracket, which stands in the first line, to the closing one.
    fn read(code: &[&str], from: usize) -> Self {
        let mut call = Self { arguments: vec![String::new()], lines: 0 };
        let mut depth = 0_u32;
        for (index, line) in code.iter().enumerate() {
            call.lines = index + 1;
            for c in line[if index == 0 { from } else { 0 }..].chars() {
                match c {
                    ')' if depth == 0 => return call,
                    ',' if depth == 0 => call.arguments.push(String::new()),
                    _ => call.arguments.last_mut().expect("there is always one").push(c),
                }
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        call
    }

    fn faults(&self, level: &str, raw: &[&str], code: &[&str]) -> Vec<String> {
        let fields: Vec<&str> = self.arguments.iter().filter_map(|argument| field(argument)).collect();
        let wanted = OF_AN_ERROR.iter().filter(|name| level == "error!(" && !fields.contains(name));
        let mut faults: Vec<String> = wanted.map(|name| format!("an error without the field `{name}`")).collect();
        let braces = |lines: &[&str]| lines.iter().map(|line| line.matches('{').count()).sum::<usize>();
        if braces(raw) > braces(&code[..self.lines]) {
            faults.push("the text of a log line is fixed, what varies stands in fields".to_owned());
        }
        faults
    }
}

/// The name of a field: `name = value`, `%name`, `?name` or `name`.
fn field(argument: &str) -> Option<&str> {
    let argument = argument.trim().trim_start_matches(['%', '?']);
    let end = argument.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(argument.len());
    let (name, rest) = argument.split_at(end);
    let rest = rest.trim_start();
    (!name.is_empty() && (rest.is_empty() || rest.starts_with('='))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, expected: usize) {
        let text = format!("//! A.\nfn a() {{\n{code}\n}}\n");
        let findings = are_well_formed(&Tree::of(&[("node/src/a.rs", &text)]));
        assert_eq!(findings.len(), expected, "{code}: {findings:?}");
    }

    #[test]
    fn an_error_has_a_code_and_an_error() {
        check(r#"tracing::error!(code = %Code::X, %error, "read it");"#, 0);
        check(r#"tracing::error!(target: T, %code, error = text(a, b), "read it");"#, 0);
        check("tracing::error!(\n    code,\n    error = ?fault,\n    \"read it\"\n);", 0);
        check(r#"Err(error) => tracing::error!(%error, "read it"),"#, 1);
        check(r#"tracing::error!("read it");"#, 2);
        check(r#"tracing::error!(%errors, barcode = 1, "read it");"#, 2);
        check(r#"tracing::warn!("read it");"#, 0);
        check(r#"compile_error!("read it");"#, 0);
    }

    #[test]
    fn the_text_of_a_line_is_fixed() {
        check(r#"tracing::info!(what, "done");"#, 0);
        check(r#"tracing::info!(what = S { a }.b(), "done");"#, 0);
        check(r#"tracing::info!("{what} is done");"#, 1);
        check("tracing::info!(\n    a,\n    \"{what} is done\"\n);", 1);
    }

    #[test]
    fn nothing_is_logged_below_debug() {
        check(r#"tracing::trace!("x");"#, 1);
        check("if level == Level::TRACE {}", 1);
        check(r#"let a = "trace!(";"#, 0);
    }

    #[test]
    fn tests_may_log_as_they_like() {
        let text = "//! A.\n#[cfg(test)]\nmod tests {\n    fn a() {\n        trace!(\"x\");\n    }\n}\n";
        assert!(are_well_formed(&Tree::of(&[("node/src/a.rs", text)])).is_empty());
    }
}
