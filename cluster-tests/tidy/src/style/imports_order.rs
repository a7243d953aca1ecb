//! The order of imports: std, third party, `ollamax_*`, this crate; each group in one piece, a blank line between.

use crate::finding::Finding;
use crate::source::Source;
use crate::tree::Tree;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Std,
    ThirdParty,
    Own,
    Here,
}

/// The first block of `use` lines of each file stands in the four groups.
#[must_use]
pub fn import_groups(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in Source::all(tree) {
        let own_modules: Vec<&str> = source.code().filter_map(|(_, code)| module(code)).collect();
        let mut last: Option<Group> = None;
        let mut blank_before = false;
        let mut inside_use = false;
        for (number, code) in source.code() {
            if inside_use {
                inside_use = !code.contains(';');
                continue;
            }
            let Some(path) = code.strip_prefix("use ") else {
                if last.is_some() && !is_between_imports(code) {
                    break;
                }
                blank_before |= code.trim().is_empty() && source.raw[number - 1].trim().is_empty();
                continue;
            };
            let group = group_of(path, &own_modules);
            match last {
                Some(before) if group < before => {
                    let message = "imports stand in four groups: std, third party, ollamax_*, crate";
                    findings.push(Finding::at(source.path, number, message));
                }
                Some(before) if group > before && !blank_before => {
                    findings.push(Finding::at(source.path, number, "a blank line stands between groups of imports"));
                }
                // This crate's own may be parted: what comes from elsewhere in it, and the modules below.
                Some(before) if group == before && blank_before && group != Group::Here => {
                    findings.push(Finding::at(source.path, number, "a group of imports stands in one piece"));
                }
                _ => {}
            }
            last = Some(group);
            blank_before = false;
            inside_use = !code.contains(';');
        }
    }
    findings
}

/// Blank lines, comments and attributes do not end the block of imports.
fn is_between_imports(code: &str) -> bool {
    code.trim().is_empty() || code.starts_with("#[")
}

/// The name of a module that is declared on this line.
fn module(code: &str) -> Option<&str> {
    let declared = code.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
    declared.split([';', ' ', '{']).next()
}

fn group_of(path: &str, own_modules: &[&str]) -> Group {
    let root = path.split([':', ';', ' ', '{']).next().unwrap_or(path);
    match root {
        own if own_modules.contains(&own) => Group::Here,
        "std" | "core" | "alloc" => Group::Std,
        "crate" | "self" | "super" => Group::Here,
        own if own.starts_with("ollamax_") => Group::Own,
        _ => Group::ThirdParty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_groups_are_kept() {
        let check = |text: &str, expected: &[usize]| {
            let tree = Tree::of(&[("a/src/b.rs", text)]);
            let lines: Vec<usize> = import_groups(&tree).iter().map(|finding| finding.line).collect();
            assert_eq!(lines, expected, "{text}");
        };
        check("use std::fmt;\n\nuse bytes::Bytes;\n\nuse ollamax_types::Digest;\n\nuse crate::a;\n", &[]);
        check("use std::fmt;\nuse std::io::{\n    Read,\n    Write,\n};\n\nuse crate::a;\nuse super::b;\n", &[]);
        check("use std::fmt;\nuse bytes::Bytes;\n", &[2]);
        check("use bytes::Bytes;\n\nuse std::fmt;\n", &[3]);
        check("use crate::a;\n\nuse ollamax_types::Digest;\n", &[3]);
        check("use std::fmt;\n\nuse std::io;\n", &[3]);
        check(
            "use std::fmt;\n// why\n#[cfg(unix)]\nuse std::os;\n\nfn f() {}\n\nuse crate::later;\nuse std::io;\n",
            &[],
        );
    }
}
