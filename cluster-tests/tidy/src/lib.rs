//! The house style as checks: each is a pure function from the texts of the working tree to a list of findings.
//!
//! `tests/it` runs every check over the real tree and fails with the list. What rustfmt and clippy can check is left
//! to them (`.rustfmt.toml`, `.clippy.toml`, the workspace lints); this crate holds what they cannot see: who imports
//! whom, who owns which library, where a file may lie, and what it must open with. A check that cannot read what it
//! needs reports that as a finding; nothing passes because it was not looked at.
#![forbid(unsafe_code)]

pub mod finding;
pub mod tree;

pub mod layout;

pub mod lex;
pub mod source;
pub mod style;

pub mod imports;
pub mod lock;
pub mod manifest;
pub mod owners;

pub mod error_codes;
pub mod lints;
pub mod log_lines;
