//! The built `ollamax` before a daemon that says what it is told to: every word that a user sees, and every exit code.
//!
//! What is printed is compared with the pages in `expected/`. After a wanted change: `INSTA_UPDATE=always cargo test
//! --package ollamax-cli --test it`, then read the difference.
#![cfg(unix)]

mod daemon;
#[cfg(target_os = "linux")]
mod dev;
mod lab;
mod mcp;
mod offline;
mod printed;
#[cfg(target_os = "linux")]
mod raft;
mod refused;
mod registry;
mod terminal;
