//! rqbit, a BitTorrent client: what it is told, and what it says.
//!
//! It is told who the others are, so it asks no tracker, no DHT, no router and nobody on the network. It goes on giving
//! what it has, until it is ended. What it says stands in a file. The words are those of its release 9; another one
//! that says it otherwise is given up, and its own words are told.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Child;

use ollamax_testkit::Room;

use super::{TORRENT, TORRENT_PORT, program};
use crate::transfer::course::Done;
use crate::transfer::words::{speak, until_said};

/// What it says once, when it has got all of it.
const COMPLETE: &str = "torrent finished downloading";
/// What it says each second of a torrent that it has and gives.
const GIVES: &str = "]: 100.00%";

/// The client that has the file. It reads it again first, which may take so long.
pub(super) async fn sow(room: &Room, served: &Path, others: &[Ipv4Addr], patience: Duration) -> Result<Child> {
    let (mut child, said) = start(room, &served.join(TORRENT), served, others)?;
    let gives = |said: &str| said.contains(GIVES).then_some(());
    until_said("rqbit to give the file", &mut child, &said, patience, gives).await?;
    Ok(child)
}

/// A client that has not.
pub(super) fn reap(room: &Room, served: &Path, into: &Path, others: &[Ipv4Addr]) -> Result<(Child, Done)> {
    let (child, said) = start(room, &served.join(TORRENT), into, others)?;
    Ok((child, Done::Said(said, COMPLETE)))
}

fn start(room: &Room, torrent: &Path, into: &Path, others: &[Ipv4Addr]) -> Result<(Child, PathBuf)> {
    let mut command = program(Some(room), "rqbit")?;
    command.args(words(torrent, into, others)).env("NO_COLOR", "1");
    // What it might keep for the next time ends with the course.
    command.env("HOME", into).current_dir(into);
    let said = speak(&mut command, into)?;
    Ok((command.spawn().context("start rqbit")?, said))
}

fn words(torrent: &Path, into: &Path, others: &[Ipv4Addr]) -> Vec<OsString> {
    let port = TORRENT_PORT.to_string();
    let others: Vec<String> = others.iter().map(|&other| SocketAddr::from((other, TORRENT_PORT)).to_string()).collect();
    let others = others.join(",");
    let everywhere = ["-v", "info", "--disable-dht", "--disable-lsd", "--disable-trackers", "--ipv4-only"];
    let here = ["--disable-upnp-port-forward", "--listen-port", &port];
    let what = ["download", "--disable-http-api", "--overwrite", "--initial-peers", &others, "--output-folder"];
    let words = everywhere.into_iter().chain(here).chain(what).map(OsString::from);
    words.chain([into.into(), torrent.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_who_the_others_are_and_asks_nobody_else() {
        let others = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 3)];
        let words = words(Path::new("/s/file.torrent"), Path::new("/into"), &others);
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        let at = |wanted: &str| words.iter().position(|word| *word == wanted).expect(wanted);
        // What stands before the command is for all of them, what stands behind it for this one.
        for word in ["--disable-dht", "--disable-lsd", "--disable-trackers", "--disable-upnp-port-forward"] {
            assert!(at(word) < at("download"), "{words:?}");
        }
        assert_eq!(words[at("--listen-port") + 1], "6881");
        assert_eq!(words[at("--initial-peers") + 1], "10.77.0.1:6881,10.77.0.3:6881");
        assert!(at("download") < at("--initial-peers") && at("download") < at("--disable-http-api"), "{words:?}");
        assert!(words.ends_with(&["--output-folder", "/into", "/s/file.torrent"]), "{words:?}");
    }

    #[test]
    fn who_gives_is_told_from_who_still_reads() {
        for (said, gives, has) in [
            ("INFO rqbit: [0] initializing 100.00%\n", false, false),
            ("INFO rqbit: [0]: 99.98% (1 / 1), down 1.00 MiB/s\n", false, false),
            ("INFO rqbit: [0]: 100.00% (1 / 1), down 0.00 MiB/s\n", true, false),
            ("INFO librqbit: torrent finished downloading id=0\n", false, true),
        ] {
            assert_eq!((said.contains(GIVES), said.contains(COMPLETE)), (gives, has), "{said}");
        }
    }
}
