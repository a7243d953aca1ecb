//! The others, each as its users would run it: nginx with curl, nginx with aria2, aria2 and rqbit over BitTorrent, and
//! sendme.
//!
//! Everything runs in the rooms of a lab, or on loopback, from a folder that ends with the course. What was started
//! ends when its handle is dropped. No release of a program is taken for granted: one that ends too early, or with
//! which nothing goes on, ends its course, and what it said last is told.

mod rqbit;
mod sendme;

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use ollamax_testkit::cluster::clean_environment;
use ollamax_testkit::room::Lab;
use ollamax_testkit::{Room, port, wait};
use ollamax_types::Digest;

use super::course::{Done, Outcome, Party, Receiver, Silence, Traffic, watched};
use super::memory;
use super::plan::Peer;
use super::words::said_in;
use crate::machine;

const PATIENCE: Duration = Duration::from_secs(10);
/// How fast a program reads its file again before it gives it, at least.
const HASHED_BYTES_MIN: u64 = 32 << 20;
/// Ports in rooms, where nothing else has them.
const WEB_PORT: u16 = 8_080;
const TORRENT_PORT: u16 = 6_881;
/// How the file is called.
const FILE: &str = "file";
const TORRENT: &str = "file.torrent";
/// Where torrent clients ask for each other.
const TRACKER: &str = "announce";
/// Pieces of 4 MiB, as ours, as a power of two.
const PIECE_POWER: &str = "22";
/// Seconds after which a client asks again who else is there.
const ANNOUNCE_SECONDS: u32 = 5;

/// What begins the names of variables that would decide for these programs.
const FOREIGN: [&str; 3] = ["RUST_LOG", "RQBIT_", "IROH_"];

/// The file that everybody gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Where it lies, on the disk on which the copies will.
    pub(super) path: &'a Path,
    pub(super) size_bytes: u64,
    pub(super) sha256: Digest,
}

/// What it takes and this machine has not.
pub(super) fn missing(peer: Peer) -> Vec<&'static str> {
    peer.programs().iter().copied().filter(|name| machine::program(name).is_none()).collect()
}

/// What a program says of its version, its first line.
pub(super) async fn version(program: &str) -> Result<String> {
    let path = machine::program(program).with_context(|| format!("no {program}"))?;
    let word = if program == "nginx" { "-v" } else { "--version" };
    let mut command = Command::new(path);
    command.arg(word).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.with_context(|| format!("{program} {word} does not end"))?;
    let output = output.with_context(|| format!("ask {program} for its version"))?;
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(first_line(&String::from_utf8_lossy(&said)))
}

/// Without the name of the program and what else stands there.
fn first_line(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    let number = line.split([' ', '/']).find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    number.unwrap_or(line).to_owned()
}

/// From the first room to all others.
pub(super) async fn spread(peer: Peer, lab: &Lab, wanted: Wanted<'_>, limit: Duration) -> Result<Outcome> {
    let folder = beside(wanted.path)?;
    let served = folder.path().join("seed");
    fs::create_dir(&served).context("make the seed's folder")?;
    fs::hard_link(wanted.path, served.join(FILE)).context("link the file")?;
    let (seed, others) = lab.rooms().split_first().context("a lab has rooms")?;
    let mut source = Source::start(peer, lab, &served, wanted.size_bytes).await?;
    let seed_process = watched(source.programs.last().context("the seed runs")?)?;
    let (begin, mut receivers) = (memory::begin(others.len(), wanted.size_bytes).await?, Vec::new());
    for (number, room) in others.iter().enumerate() {
        let own = folder.path().join(number.to_string());
        fs::create_dir(&own).context("make a folder")?;
        let (child, done) = source.receiver(room, &own)?;
        receivers.push(Receiver::new(watched(&child)?, done, own.join(FILE)).speaking(said_in(&own)));
        source.programs.push(child);
    }
    let silence = Some(Silence { rooms: lab.rooms(), longest: quiet(wanted.size_bytes) });
    let seed_said = Some(said_in(&served));
    let party = Party { seed: seed_process, seed_said, receivers, traffic: Traffic::Room(seed), silence };
    let outcome = party.follow(begin, limit, wanted.sha256).await;
    for mut program in source.programs {
        // It may have ended by itself.
        let _gone = program.kill().await;
    }
    outcome
}

/// Who gives the file, with all that runs beside it.
struct Source {
    peer: Peer,
    /// The last one that was started before any receiver is the seed.
    programs: Vec<Child>,
    /// The seed's folder.
    served: PathBuf,
    /// What a receiver has to be told: a URL, or a ticket.
    link: String,
    /// The addresses of all rooms.
    rooms: Vec<Ipv4Addr>,
    /// Where the seed reads keys.
    _terminal: Option<OwnedFd>,
}

// === impl Source ===

impl Source {
    /// Starts it in the first room. When this returns, it gives.
    async fn start(peer: Peer, lab: &Lab, served: &Path, size_bytes: u64) -> Result<Self> {
        let room: &Room = lab.rooms().first().context("a lab has rooms")?;
        let rooms: Vec<Ipv4Addr> = lab.rooms().iter().filter_map(|room| room.address()).collect();
        let at = SocketAddr::from((room.address().context("a room with a network")?, WEB_PORT));
        let (mut link, mut terminal) = (format!("http://{at}/{FILE}"), None);
        let hashed = quiet(size_bytes);
        let programs = match peer {
            Peer::Nginx | Peer::Aria2 => vec![nginx(Some(room), at, served, None).await?],
            Peer::Aria2Bt => {
                make_torrent(served, at, &rooms).await?;
                vec![nginx(Some(room), at, served, None).await?, sow(room, served).await?]
            }
            Peer::Rqbit => {
                make_torrent(served, at, &rooms).await?;
                vec![rqbit::sow(room, served, &others(&rooms, room), hashed).await?]
            }
            Peer::Sendme => {
                let sender = sendme::send(room, served, hashed).await?;
                (link, terminal) = (sender.ticket, Some(sender.terminal));
                vec![sender.process]
            }
        };
        Ok(Self { peer, programs, served: served.to_owned(), link, rooms, _terminal: terminal })
    }

    /// One that gets it, into a folder of its own; how it shows that it has.
    fn receiver(&self, room: &Room, own: &Path) -> Result<(Child, Done)> {
        match self.peer {
            Peer::Nginx => Ok((curl(Some(room), &self.link, own)?, Done::Ended)),
            Peer::Aria2 => Ok((ranges(room, &self.link, own)?, Done::Ended)),
            Peer::Aria2Bt => reap(room, &self.served, own),
            Peer::Rqbit => rqbit::reap(room, &self.served, own, &others(&self.rooms, room)),
            Peer::Sendme => Ok((sendme::receive(room, &self.link, own)?, Done::Ended)),
        }
    }
}

/// How long a program may be busy with a file of its own: it hashes or copies all of it.
const fn quiet(size_bytes: u64) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(size_bytes / HASHED_BYTES_MIN))
}

/// All rooms but this one.
fn others(rooms: &[Ipv4Addr], own: &Room) -> Vec<Ipv4Addr> {
    let own = own.address();
    rooms.iter().copied().filter(|room| Some(*room) != own).collect()
}

/// From nginx to curl over TLS and loopback, in one turn.
pub(super) async fn over_tls(wanted: Wanted<'_>, limit: Duration) -> Result<Outcome> {
    let folder = beside(wanted.path)?;
    let served = folder.path().join("seed");
    fs::create_dir(&served).context("make the seed's folder")?;
    fs::hard_link(wanted.path, served.join(FILE)).context("link the file")?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()?));
    certificate(folder.path()).await?;
    let mut web = nginx(None, at, &served, Some(folder.path())).await?;
    let seed = watched(&web)?;
    let begin = memory::begin(1, wanted.size_bytes).await?;
    let mut child = curl(None, &format!("https://{at}/{FILE}"), folder.path())?;
    let receivers = vec![Receiver::new(watched(&child)?, Done::Ended, folder.path().join(FILE))];
    let party = Party { seed, seed_said: None, receivers, traffic: Traffic::Loopback, silence: None };
    let outcome = party.follow(begin, limit, wanted.sha256).await;
    for program in [&mut child, &mut web] {
        let _gone = program.kill().await;
    }
    outcome
}

/// A folder on the same disk, so that the file can be there without a copy.
fn beside(path: &Path) -> Result<TempDir> {
    let parent = path.parent().context("the file lies in a folder")?;
    tempfile::Builder::new().prefix("course-").tempdir_in(parent).context("make a folder for a course")
}

/// A program of this machine, in a room or outside, with nothing of the caller's environment that decides.
fn program(room: Option<&Room>, name: &str) -> Result<Command> {
    let path = machine::program(name).with_context(|| format!("no {name}"))?;
    let mut command = match room {
        Some(room) => room.command(&path),
        None => {
            let mut command = Command::new(path);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            command
        }
    };
    clean_environment(&mut command);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| is_foreign(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Whether a variable of the caller's environment would decide for one of these programs.
fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|begin| name.starts_with(begin))
}

/// nginx with one worker and no master, so that one process is all of it. `keys`: a folder with a certificate. In a
/// room there is no other user to whom it could leave its folders.
async fn nginx(room: Option<&Room>, at: SocketAddr, served: &Path, keys: Option<&Path>) -> Result<Child> {
    let home = served.with_extension("nginx");
    fs::create_dir(&home).context("make nginx's folder")?;
    let configuration = home.join("nginx.conf");
    fs::write(&configuration, nginx_conf(at, &home, served, keys)).context("write nginx.conf")?;
    let mut command = program(room, "nginx")?;
    command.arg("-p").arg(&home).arg("-c").arg(&configuration).args(["-e", "stderr"]);
    let child = command.spawn().context("start nginx")?;
    match room {
        Some(room) => listens(room, at.port(), "nginx").await?,
        None => wait::until("nginx to listen", PATIENCE, || TcpStream::connect(at)).await.map(drop)?,
    }
    Ok(child)
}

fn nginx_conf(at: SocketAddr, home: &Path, served: &Path, keys: Option<&Path>) -> String {
    let (home, served) = (home.display(), served.display());
    let (ssl, tls) = keys.map_or_else(Default::default, |keys| {
        let keys = keys.display();
        let tls = format!(
            "ssl_certificate {keys}/cert.pem; ssl_certificate_key {keys}/key.pem; ssl_protocols TLSv1.3; \
             ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
        );
        (" ssl", tls)
    });
    format!(
        "user root;
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  sendfile on;
  tcp_nopush on;
  {tls}
  server {{ listen {at}{ssl}; location / {{ root {served}; }} }}
}}
"
    )
}

async fn listens(room: &Room, port: u16, what: &str) -> Result<()> {
    let look = || async { room.listens(port).unwrap_or(false) };
    wait::until_true(&format!("{what} to listen in its room"), PATIENCE, look).await
}

fn curl(room: Option<&Room>, url: &str, into: &Path) -> Result<Child> {
    let mut command = program(room, "curl")?;
    command.args(["--disable", "--silent", "--fail", "--insecure", "--output"]).arg(into.join(FILE)).arg(url);
    command.spawn().context("start curl")
}

/// aria2, with nothing of its user's configuration; it ends with this process, however that ends.
fn aria2(room: &Room, into: &Path) -> Result<Command> {
    let mut command = program(Some(room), "aria2c")?;
    let own = std::process::id();
    command.args(["--no-conf", "--quiet", "--file-allocation=none", "--allow-overwrite=true"]);
    command.arg(format!("--stop-with-process={own}")).arg("--dir").arg(into);
    Ok(command)
}

/// As Ollama downloads: 16 ranges of one file at once.
fn ranges(room: &Room, url: &str, into: &Path) -> Result<Child> {
    let mut command = aria2(room, into)?;
    command.args(["--split=16", "--max-connection-per-server=16", "--min-split-size=1M", url]);
    command.spawn().context("start aria2c")
}

/// aria2 as a torrent client that goes on giving what it has.
fn torrent(room: &Room, served: &Path, into: &Path) -> Result<Command> {
    let mut command = aria2(room, into)?;
    command.args(["--seed-ratio=0", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
    command.args(["--bt-max-peers=0", "--bt-request-peer-speed-limit=10000M", "--disk-cache=64M"]);
    command.arg(format!("--listen-port={TORRENT_PORT}")).arg(format!("--bt-tracker-interval={ANNOUNCE_SECONDS}"));
    command.arg(served.join(TORRENT));
    Ok(command)
}

/// The client that has the file.
async fn sow(room: &Room, served: &Path) -> Result<Child> {
    let mut command = torrent(room, served, served)?;
    let child = command.arg("--bt-seed-unverified=true").spawn().context("start aria2c")?;
    listens(room, TORRENT_PORT, "the seed").await?;
    Ok(child)
}

/// A client that has not; it says when it has.
fn reap(room: &Room, served: &Path, into: &Path) -> Result<(Child, Done)> {
    let (says, said) = (into.join("says-so"), into.join("complete"));
    fs::write(&says, format!("#!/bin/sh\n: > '{}'\n", said.display())).context("write what aria2c runs")?;
    fs::set_permissions(&says, Permissions::from_mode(0o755)).context("let it be run")?;
    let mut command = torrent(room, served, into)?;
    command.arg(format!("--on-bt-download-complete={}", says.display()));
    Ok((command.spawn().context("start aria2c")?, Done::Appeared(said)))
}

/// The torrent, and what its tracker says to everybody: the address of every room.
async fn make_torrent(served: &Path, at: SocketAddr, rooms: &[Ipv4Addr]) -> Result<()> {
    let mut command = program(None, "mktorrent")?;
    command.args(["-l", PIECE_POWER, "-a", &format!("http://{at}/{TRACKER}"), "-o"]);
    let made = command.arg(served.join(TORRENT)).arg(served.join(FILE)).status().await.context("start mktorrent")?;
    ensure!(made.success(), "mktorrent: {made}");
    fs::write(served.join(TRACKER), announced(rooms)).context("write the tracker's answer")
}

/// The answer of a tracker: four bytes of an address and two of a port for each client.
fn announced(peers: &[Ipv4Addr]) -> Vec<u8> {
    let compact: Vec<u8> =
        peers.iter().flat_map(|peer| peer.octets().into_iter().chain(TORRENT_PORT.to_be_bytes())).collect();
    let head = format!("d8:intervali{ANNOUNCE_SECONDS}e5:peers{}:", compact.len());
    [head.as_bytes(), &compact, b"e"].concat()
}

async fn certificate(folder: &Path) -> Result<()> {
    let mut command = program(None, "openssl")?;
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "7", "-subj", "/CN=ollamax-bench", "-keyout"]).arg(folder.join("key.pem"));
    let made = command.arg("-out").arg(folder.join("cert.pem")).status().await.context("start openssl")?;
    ensure!(made.success(), "make a certificate with openssl: {made}");
    Ok(())
}

/// Where a file of the course may be kept for all of them.
pub(super) fn place_of(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_what_stands_around_them() {
        for (said, expected) in [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1 OpenSSL/3.0.17\nRelease-Date: 2023\n", "7.88.1"),
            ("aria2 version 1.36.0\nCopyright (C) 2006\n", "1.36.0"),
            ("rqbit 9.0.1\n", "9.0.1"),
            ("sendme 0.34.0\n", "0.34.0"),
            ("a build of mine\n", "a build of mine"),
            ("", ""),
        ] {
            assert_eq!(first_line(said), expected, "{said}");
        }
    }

    #[test]
    fn a_tracker_names_every_room_in_the_compact_form() {
        let answer = announced(&[Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)]);
        let expected =
            [b"d8:intervali5e5:peers12:".as_slice(), &[10_u8, 77, 0, 1, 0x1a, 0xe1, 10, 77, 0, 2, 0x1a, 0xe1]];
        assert_eq!(answer, [expected.concat().as_slice(), b"e"].concat());
    }

    #[test]
    fn variables_that_decide_for_these_programs_are_taken_away() {
        for (name, expected) in
            [("RUST_LOG", true), ("RQBIT_DHT_DISABLE", true), ("IROH_SECRET", true), ("PATH", false), ("RUST", false)]
        {
            assert_eq!(is_foreign(name), expected, "{name}");
        }
    }

    #[test]
    fn nginx_speaks_tls_where_it_has_a_certificate() {
        let at = SocketAddr::from((Ipv4Addr::new(10, 77, 0, 1), 8_080));
        let conf = |keys| nginx_conf(at, Path::new("/h"), Path::new("/s"), keys);
        let (plain, secret) = (conf(None), conf(Some(Path::new("/k"))));
        assert!(plain.contains("listen 10.77.0.1:8080; location / { root /s; }") && !plain.contains("ssl"), "{plain}");
        assert!(secret.contains("listen 10.77.0.1:8080 ssl;") && secret.contains("/k/cert.pem"), "{secret}");
    }
}
