//! How results leave: a table for people, one JSON object with `apiVersion` and `kind` for programs.
//!
//! Stdout is data, stderr is talk. With `-o json` nobody is talked to: stderr stays empty, or holds one object of kind
//! `Error` in one line.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use crate::args::Output;
use crate::error::Failure;

/// Version of every JSON object. Fields are only ever added.
pub(crate) const API_VERSION: &str = "ollamax/v1";

/// Whether what stdout was given last stands in a line without an end.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Writes text to stdout.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    if let Some(last) = text.chars().next_back() {
        IN_LINE.store(last != '\n', Ordering::Relaxed);
    }
    let mut out = std::io::stdout().lock();
    wrote(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn wrote(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::new(1, "write to stdout", error.to_string(), "look at what reads it")),
    }
}

/// Writes one line to stdout.
pub(crate) fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{line}\n"))
}

/// Says something on stderr, to people.
pub(crate) fn talk(form: Output, line: &str) {
    if form == Output::Table {
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// Hands on, on stderr, what another program said in the form that was asked for.
pub(crate) fn pass_on(told: &str) {
    drop(writeln!(std::io::stderr(), "{told}"));
}

/// Says on stderr why a command failed; for people in a line of its own, also where an answer was cut short.
pub(crate) fn tell(form: Output, verbose: bool, failure: &Failure) {
    let page = failure.page(verbose);
    let text = match form {
        Output::Json if !page.is_empty() => format!("{}\n", object("Error", failure.fields())),
        Output::Table if !page.is_empty() && IN_LINE.load(Ordering::Relaxed) => format!("\n{page}"),
        Output::Json | Output::Table => page,
    };
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Whether moving pictures may be drawn on stderr: somebody looks at a terminal that can show them and wants them.
pub(crate) fn may_draw(form: Output) -> bool {
    let word = |name: &str| std::env::var(name).unwrap_or_default();
    let plain = is_plain(&word("NO_COLOR"), &word("CI"), &word("TERM"));
    form == Output::Table && !plain && std::io::stderr().is_terminal()
}

fn is_plain(no_color: &str, ci: &str, term: &str) -> bool {
    !no_color.is_empty() || !(ci.is_empty() || ci == "false") || term == "dumb"
}

/// A JSON object of a kind; `fields` must be an object.
pub(crate) fn object(kind: &str, fields: Value) -> Value {
    let mut whole = json!({"apiVersion": API_VERSION, "kind": kind});
    if let (Some(whole), Value::Object(fields)) = (whole.as_object_mut(), fields) {
        whole.extend(fields);
    }
    whole
}

/// Writes bytes as they are, and the end of a line where it is missing and people look.
pub(crate) fn bytes_line(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let end: &[u8] = if bytes.ends_with(b"\n") || !std::io::stdout().is_terminal() { b"" } else { b"\n" };
    let written = out.write_all(bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
    wrote(written)
}

/// Writes a JSON object of a kind in one line, as one of many.
pub(crate) fn json_line(kind: &str, fields: Value) -> Result<(), Failure> {
    line(&object(kind, fields).to_string())
}

/// Writes a JSON object of a kind.
pub(crate) fn json(kind: &str, fields: Value) -> Result<(), Failure> {
    line(&pretty(&object(kind, fields)))
}

/// JSON in several lines.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// A table without borders; columns as wide as their content.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header.to_vec());
    table.add_rows(rows);
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_where_it_is_not_wanted() {
        let check = |no_color, ci, term, expected| assert_eq!(is_plain(no_color, ci, term), expected);
        check("", "", "xterm", false);
        check("", "false", "", false);
        check("1", "", "xterm", true);
        check("", "true", "xterm", true);
        check("", "", "dumb", true);
    }

    #[test]
    fn tables_and_objects_have_their_shape() {
        let shown =
            table(&["ID", "NAME"], vec![vec!["1".to_owned(), "n1".to_owned()], vec!["22".to_owned(), "n2".to_owned()]]);
        assert_eq!(shown.lines().count(), 3);
        assert!(shown.lines().all(|line| !line.ends_with(' ') && !line.starts_with(' ')), "{shown:?}");
        let object = object("Status", json!({"healthy": true}));
        assert_eq!(object.to_string(), r#"{"apiVersion":"ollamax/v1","kind":"Status","healthy":true}"#);
    }
}
