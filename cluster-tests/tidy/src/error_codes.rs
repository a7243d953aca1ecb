//! Every public error code has its section in `docs/api/errors.md`, and every section there has its code.

use crate::finding::Finding;
use crate::tree::Tree;

const TABLE: &str = "node/crates/types/src/error.rs";
const PAGE: &str = "docs/api/errors.md";

/// Compares the table of codes with the page: a heading ``## `code` `` with text below it for each.
#[must_use]
pub fn are_explained(tree: &Tree) -> Vec<Finding> {
    let Some(table) = tree.text(TABLE) else {
        return vec![Finding::about(TABLE, "the table of error codes is not here")];
    };
    let codes = codes(table);
    if codes.is_empty() {
        return vec![Finding::about(TABLE, "no code was found: `codes! { … Name = \"text\", …; }` is expected")];
    }
    let sections = sections(tree.text(PAGE).unwrap_or_default());
    let mut findings = Vec::new();
    for code in &codes {
        match sections.iter().find(|section| section.code == *code) {
            None => findings
                .push(Finding::about(PAGE, format!("has no section \"## `{code}`\": what happened, what to do"))),
            Some(section) if section.is_empty => {
                findings.push(Finding::at(PAGE, section.line, format!("says nothing about `{code}`")));
            }
            Some(_) => {}
        }
    }
    for section in sections.iter().filter(|section| !codes.contains(&section.code)) {
        findings.push(Finding::at(PAGE, section.line, format!("`{}` is no error code", section.code)));
    }
    findings
}

/// The texts in the invocation of `codes!`: each entry is `Name = "text", Class, …;`.
fn codes(table: &str) -> Vec<&str> {
    let body = table.split("\ncodes! {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
    let entries = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    entries.filter_map(|line| line.split_once(" = \"")?.1.split('"').next()).collect()
}

struct Section<'a> {
    code: &'a str,
    line: usize,
    is_empty: bool,
}

/// The sections whose heading is one word in back quotes.
fn sections(page: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        if let Some(code) = line.strip_prefix("## `").and_then(|rest| rest.trim_end().strip_suffix('`')) {
            sections.push(Section { code, line: index + 1, is_empty: true });
            inside = true;
        } else if line.starts_with("# ") || line.starts_with("## ") {
            inside = false;
        } else if let Some(last) = sections.last_mut().filter(|_| inside) {
            last.is_empty &= line.trim().is_empty();
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "macro_rules! codes { ($($name:ident = $text:literal;)*) => {}; }\n\ncodes! {\n    /// Gone = \"not\".\n    \
                         Gone = \"gone\", NotFound, 404;\n    Busy = \"busy\", RateLimit, 503;\n}\n\nlet a = \"b\";\n";

    #[test]
    fn a_code_without_a_section_and_a_section_without_a_code_are_found() {
        let check = |page: &str, expected: usize| {
            let findings = are_explained(&Tree::of(&[(TABLE, CODES), (PAGE, page)]));
            assert_eq!(findings.len(), expected, "{page}: {findings:?}");
        };
        check("# Errors\n\n## `gone`\n\nIt is gone.\n\n## `busy`\n\nWait.\n", 0);
        check("# Errors\n\n## How to read\n\n## `gone`\n\nIt is gone.\n\n## `busy`\nWait.\n", 0);
        check("## `gone`\n\nIt is gone.\n", 1);
        check("## `gone`\n\n## `busy`\n\nWait.\n", 1);
        check("## `gone`\nGone.\n## `busy`\nWait.\n## `odd`\nOdd.\n", 1);
        check("", 2);
    }

    #[test]
    fn a_table_that_cannot_be_found_does_not_pass() {
        assert_eq!(are_explained(&Tree::of(&[(TABLE, "no codes"), (PAGE, "")])).len(), 1);
        assert_eq!(are_explained(&Tree::of(&[])).len(), 1);
    }
}
