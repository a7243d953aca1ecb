//! How results leave: a table for people, one JSON object with `apiVersion` and `kind` for programs.

use std::io::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use crate::error::Failure;

/// Version of every JSON object. Fields are only ever added.
pub(crate) const API_VERSION: &str = "ollamax/v1";

/// Writes text to stdout.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::other("write to stdout", error.to_string())),
    }
}

/// Writes one line to stdout.
pub(crate) fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{line}\n"))
}

/// Says something on stderr.
pub(crate) fn talk(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A JSON object of a kind; `fields` must be an object.
pub(crate) fn object(kind: &str, fields: Value) -> Value {
    let mut whole = json!({"apiVersion": API_VERSION, "kind": kind});
    if let (Some(whole), Value::Object(fields)) = (whole.as_object_mut(), fields) {
        whole.extend(fields);
    }
    whole
}

/// Writes a JSON object of a kind.
pub(crate) fn json(kind: &str, fields: Value) -> Result<(), Failure> {
    let whole = object(kind, fields);
    line(&serde_json::to_string_pretty(&whole).unwrap_or_else(|_| whole.to_string()))
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
    fn tables_and_objects_have_their_shape() {
        let shown =
            table(&["ID", "NAME"], vec![vec!["1".to_owned(), "n1".to_owned()], vec!["22".to_owned(), "n2".to_owned()]]);
        assert_eq!(shown.lines().count(), 3);
        assert!(shown.lines().all(|line| !line.ends_with(' ') && !line.starts_with(' ')), "{shown:?}");
        let object = object("Status", json!({"healthy": true}));
        assert_eq!(object.to_string(), r#"{"apiVersion":"ollamax/v1","kind":"Status","healthy":true}"#);
    }
}
