//! sendme: what it is told, and the ticket that it says.
//!
//! A ticket names the addresses of the one that has the file, so nobody asks a relay or a name server. All fetch from
//! that one. It reads keys of its terminal while it gives, and aborts where it has none: it gets one that nobody sees.
//! The words are those of its release 0.34; another one that says no such ticket is given up, and its own words are
//! told.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::Termios;
use tokio::process::Child;

use ollamax_testkit::Room;

use super::{FILE, program};
use crate::transfer::words::{speak, until_said};

/// What stands before a ticket.
const BEFORE_TICKET: &str = "sendme receive ";
/// How a ticket begins.
const TICKET: &str = "blob";

/// One that gives the file.
pub(super) struct Sender {
    pub(super) process: Child,
    pub(super) ticket: String,
    /// The other end of its terminal, which must stay.
    pub(super) terminal: OwnedFd,
}

/// Has a file given from a room. It hashes it first, which may take so long.
pub(super) async fn send(room: &Room, served: &Path, patience: Duration) -> Result<Sender> {
    let OpenptyResult { master, slave } = terminal()?;
    let mut command = program(Some(room), "sendme")?;
    command.args(send_words(&served.join(FILE))).current_dir(served).stdin(Stdio::from(slave));
    let said = speak(&mut command, served)?;
    let mut process = command.spawn().context("start sendme")?;
    let find = |said: &str| ticket_in(said).map(str::to_owned);
    let ticket = until_said("sendme to say a ticket", &mut process, &said, patience, find).await?;
    Ok(Sender { ticket, process, terminal: master })
}

/// One that nobody sees, and no process's own: `slave` is what a program reads, and ends with `master`.
fn terminal() -> Result<OpenptyResult> {
    openpty(None::<&Winsize>, None::<&Termios>).context("make a terminal for sendme")
}

/// One that gets it; it ends when it has.
pub(super) fn receive(room: &Room, ticket: &str, into: &Path) -> Result<Child> {
    let mut command = program(Some(room), "sendme")?;
    command.args(receive_words(ticket)).current_dir(into);
    // It says there why it fails; that it has the file is its end.
    let _said = speak(&mut command, into)?;
    command.spawn().context("start sendme")
}

fn send_words(file: &Path) -> Vec<OsString> {
    let words = ["send", "--relay", "disabled", "--ticket-type", "Addresses", "--no-progress"];
    words.into_iter().map(OsString::from).chain([file.into()]).collect()
}

const fn receive_words(ticket: &str) -> [&str; 5] {
    ["receive", "--relay", "disabled", "--no-progress", ticket]
}

/// The ticket in what a sender has said so far, once its line is whole.
fn ticket_in(said: &str) -> Option<&str> {
    let whole = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let ticket = whole.filter_map(|line| line.trim_end().strip_prefix(BEFORE_TICKET)).next_back()?;
    ticket.starts_with(TICKET).then_some(ticket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_found_when_its_line_is_whole() {
        let imported = "imported file /s/file, 1 GiB, hash 00ff\nto get this data, use\n";
        for (said, expected) in [
            (format!("{imported}sendme receive blobabc2def\n"), Some("blobabc2def")),
            (format!("{imported}sendme receive blobabc2def\r\n"), Some("blobabc2def")),
            (format!("{imported}sendme receive blobabc2"), None),
            (format!("{imported}sendme receive \n"), None),
            (imported.to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(ticket_in(&said), expected, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_program_takes_what_it_gets_for_a_terminal() {
        let OpenptyResult { master, slave } = terminal().expect("the system has terminals");
        let mut command = tokio::process::Command::new("sh");
        let told = command.args(["-c", "test -t 0"]).stdin(Stdio::from(slave)).status().await.expect("there is sh");
        assert!(told.success(), "{told}");
        drop(master);
    }

    #[test]
    fn nobody_asks_a_relay() {
        let send = send_words(Path::new("/s/file"));
        let send: Vec<&str> = send.iter().filter_map(|word| word.to_str()).collect();
        let receive = receive_words("blobabc");
        for (words, command, last) in [(&send[..], "send", "/s/file"), (&receive[..], "receive", "blobabc")] {
            assert_eq!((words.first(), words.last()), (Some(&command), Some(&last)), "{words:?}");
            assert!(words.windows(2).any(|pair| pair == ["--relay", "disabled"]), "{words:?}");
        }
        assert!(send.windows(2).any(|pair| pair == ["--ticket-type", "Addresses"]), "{send:?}");
    }
}
