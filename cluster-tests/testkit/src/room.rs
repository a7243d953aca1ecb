//! Rooms: Linux namespaces in which a node has a network or a disk of its own.
//!
//! A room is held open by a process that reads its standard input, so it ends with the test, however that ends. Every
//! user may make one unless the system forbids it: [`withheld`] tries and says why. A test that then cannot run says so
//! loudly; see `left_out` of the suites.

mod lab;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub use lab::Lab;

/// Longest wait for one of the small programs that make a room.
const STEP_TIME: Duration = Duration::from_secs(10);
/// The cable's end in each room. Its name must not look like that of a container's.
const CABLE: &str = "lab0";
/// Makes sure that a room passes on nothing of what is not for it.
const NO_FORWARDING: &str = "forwards=/proc/sys/net/ipv4/ip_forward && ip link set lo up && \
    { test \"$(cat $forwards)\" = 0 || echo 0 > $forwards; } && test \"$(cat $forwards)\" = 0";
/// What fills a disk.
const BALLAST: &str = "ballast";
/// Bytes of ballast written at once.
const BALLAST_STEP: usize = 64 << 10;
/// How a system is made to allow rooms.
const REMEDY: &str = "to allow it: run as root; or, once, \
    `sudo sysctl -w kernel.unprivileged_userns_clone=1` (Debian) or \
    `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu); in Docker, start the container with \
    `--privileged`; the programs are `sudo apt-get install util-linux mount iproute2`";

/// What a test needs of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Networks of its own, joined by a cable.
    Network,
    /// The same on a switch, with links of a set speed.
    Lab,
    /// A small disk of its own.
    Disk,
}

/// Why the system does not give what is needed, and how to allow it; `None`: it does.
///
/// # Errors
/// When even asking fails.
pub async fn withheld(need: Need) -> Result<Option<String>> {
    let unshare = ["unshare", "--user", "--map-root-user"];
    let attempt: &[&str] = match need {
        Need::Network => &["--net", "ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"],
        Need::Lab => &["--net", "sh", "-c", lab::PROBE],
        Need::Disk => &["--mount", "mount", "-t", "tmpfs", "none", "/tmp"],
    };
    let words: Vec<String> = unshare.iter().chain(attempt).map(|word| (*word).to_owned()).collect();
    let tried = match command(&words).output().await {
        Ok(output) if output.status.success() => return Ok(None),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Ok(Some(format!("`{}`: {tried}; {REMEDY}", words.join(" "))))
}

/// What a room has that others do not have.
#[derive(Debug)]
enum Part {
    /// With its addresses.
    Network(Vec<Ipv4Addr>),
    Disk(TempDir),
}

/// A room. It ends when this is dropped and nothing runs in it any more.
#[derive(Debug)]
pub struct Room {
    _holder: Child,
    pid: u32,
    part: Part,
}

// === impl Room ===

impl Room {
    /// A room with a disk of this many bytes.
    ///
    /// # Errors
    /// When the system does not allow it; ask [`withheld`] before.
    pub async fn with_disk(bytes: u64) -> Result<Self> {
        let disk = tempfile::Builder::new().prefix("ollamax-disk-").tempdir().context("make the mount point")?;
        let script = format!("mount -t tmpfs -o size={bytes},mode=0755 none '{}'", disk.path().display());
        let (holder, pid) = hold(&[], &["--user", "--map-root-user", "--mount"], &script).await?;
        Ok(Self { _holder: holder, pid, part: Part::Disk(disk) })
    }

    /// Two rooms, each with a network of its own, joined by one cable: two machines in one lab.
    ///
    /// # Errors
    /// When the system does not allow it; ask [`withheld`] before.
    pub async fn joined_by_a_cable() -> Result<[Self; 2]> {
        let script = "ip link set lo up";
        let (holder, pid) = hold(&[], &["--user", "--map-root-user", "--net"], script).await?;
        let here = Self { _holder: holder, pid, part: Part::Network(vec![Ipv4Addr::new(10, 77, 0, 1)]) };
        let owner = enter(here.pid, &["--user"]);
        let (holder, pid) = hold(&owner, &["--net"], script).await?;
        let there = Self { _holder: holder, pid, part: Part::Network(vec![Ipv4Addr::new(10, 77, 0, 2)]) };
        let other = there.pid.to_string();
        here.run(&["ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", &other]).await?;
        for room in [&here, &there] {
            let address = room.address().context("a room with a network")?;
            room.run(&["ip", "addr", "add", &format!("{address}/24"), "dev", CABLE]).await?;
            room.run(&["ip", "link", "set", CABLE, "up"]).await?;
        }
        Ok([here, there])
    }

    /// A hub, and so many leaves, each with a cable of its own to the hub. No leaf has a route to another one, and the
    /// hub passes nothing on: what goes from leaf to leaf is carried by a program in the hub.
    ///
    /// # Errors
    /// When the system does not allow it; ask [`withheld`] before.
    pub async fn star(leaves: u8) -> Result<(Self, Vec<Self>)> {
        let at = |number: u8, end: u8| Ipv4Addr::new(10, 77, number, end);
        let (holder, pid) =
            hold(&[], &["--user", "--map-root-user", "--net"], NO_FORWARDING).await.context("the hub")?;
        let addresses = (1..=leaves).map(|number| at(number, 1)).collect();
        let hub = Self { _holder: holder, pid, part: Part::Network(addresses) };
        let owner = enter(hub.pid, &["--user"]);
        let mut rooms = Vec::new();
        for number in 1..=leaves {
            let (holder, pid) = hold(&owner, &["--net"], "ip link set lo up").await.context("a leaf")?;
            let leaf = Self { _holder: holder, pid, part: Part::Network(vec![at(number, 2)]) };
            let (end, other) = (format!("lab{number}"), pid.to_string());
            hub.run(&["ip", "link", "add", &end, "type", "veth", "peer", "name", CABLE, "netns", &other]).await?;
            for (room, end, address) in [(&hub, end.as_str(), at(number, 1)), (&leaf, CABLE, at(number, 2))] {
                room.run(&["ip", "addr", "add", &format!("{address}/30"), "dev", end]).await?;
                room.run(&["ip", "link", "set", end, "up"]).await?;
            }
            rooms.push(leaf);
        }
        Ok((hub, rooms))
    }

    /// The words that stand before a program to run it inside. The program keeps the process id it was started with.
    #[must_use]
    pub fn entrance(&self) -> Vec<String> {
        match self.part {
            Part::Network(_) => enter(self.pid, &["--user", "--net"]),
            Part::Disk(_) => enter(self.pid, &["--user", "--mount"]),
        }
    }

    /// Its address on the cable, or on its first one, if it has a network of its own.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.addresses().first().copied()
    }

    /// Its addresses, one for each of its cables; none without a network of its own.
    #[must_use]
    pub fn addresses(&self) -> &[Ipv4Addr] {
        match &self.part {
            Part::Network(addresses) => addresses,
            Part::Disk(_) => &[],
        }
    }

    /// A program to be run inside, without input and with nobody to read what it says; it ends with its handle.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut words = self.entrance();
        words.push(program.display().to_string());
        let mut command = command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Bytes that went out of its end of the cable so far, with the heads of their packets.
    ///
    /// # Errors
    /// When it has no network of its own.
    pub fn sent_bytes(&self) -> Result<u64> {
        sent_bytes(&PathBuf::from(format!("/proc/{}/net/dev", self.pid)), CABLE)
    }

    /// Whether something inside listens on this port.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn listens(&self, port: u16) -> Result<bool> {
        let path = format!("/proc/{}/net/tcp", self.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(is_listened_on(&text, port))
    }

    /// Where its disk lies inside, if it has one of its own.
    #[must_use]
    pub fn disk(&self) -> Option<&Path> {
        match &self.part {
            Part::Network(_) => None,
            Part::Disk(disk) => Some(disk.path()),
        }
    }

    /// A path inside, as it is called outside.
    #[must_use]
    pub fn seen(&self, inside: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Free bytes on its disk.
    ///
    /// # Errors
    /// When it has no disk of its own.
    pub fn free_bytes(&self) -> Result<u64> {
        let disk = self.seen(self.disk().context("the room has no disk")?);
        let system = statvfs(&disk).with_context(|| format!("look at {}", disk.display()))?;
        Ok(system.blocks_available().saturating_mul(system.fragment_size()))
    }

    /// Fills its disk until not more than this many bytes are free; 0 fills it to the last byte.
    ///
    /// # Errors
    /// When it has no disk of its own, or the system refuses for another reason than want of room.
    pub fn fill(&self, left_bytes: u64) -> Result<()> {
        let path = self.seen(self.disk().context("the room has no disk")?).join(BALLAST);
        let mut ballast = std::fs::File::options().create(true).append(true).open(&path).context("open the ballast")?;
        while self.free_bytes()? > left_bytes {
            match ballast.write_all(&[0; BALLAST_STEP]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
        Ok(())
    }

    /// Takes back what [`Room::fill`] wrote.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn clear(&self) -> Result<()> {
        let path = self.seen(self.disk().context("the room has no disk")?).join(BALLAST);
        std::fs::remove_file(&path).context("remove the ballast")
    }

    async fn run(&self, words: &[&str]) -> Result<()> {
        let all: Vec<String> = self.entrance().into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect();
        let output = timeout(STEP_TIME, command(&all).output()).await.with_context(|| format!("{words:?} hangs"))?;
        let output = output.with_context(|| format!("run {words:?}"))?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

/// Bytes that a network interface has sent, of a table in the form of `/proc/net/dev`.
///
/// # Errors
/// When the table cannot be read or does not name the interface.
pub fn sent_bytes(table: &Path, interface: &str) -> Result<u64> {
    let text = std::fs::read_to_string(table).with_context(|| format!("read {}", table.display()))?;
    sent_in(&text, interface).with_context(|| format!("{} does not tell of {interface}", table.display()))
}

/// After the name stand eight columns of what came, and then what was sent.
fn sent_in(table: &str, interface: &str) -> Option<u64> {
    let of_it = |line: &str| line.trim_start().strip_prefix(interface)?.strip_prefix(':').map(str::to_owned);
    table.lines().find_map(of_it)?.split_whitespace().nth(8)?.parse().ok()
}

/// Whether a table in the form of `/proc/net/tcp` has a socket that listens on this port.
fn is_listened_on(table: &str, port: u16) -> bool {
    const LISTENING: &str = "0A";
    let ending = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next().is_some_and(|local| local.ends_with(&ending));
        is_it && fields.nth(1) == Some(LISTENING)
    })
}

/// The words that enter the namespaces of a process.
fn enter(pid: u32, kinds: &[&str]) -> Vec<String> {
    let target = pid.to_string();
    let words = ["nsenter", "--target", &target].into_iter().chain(kinds.iter().copied());
    words.chain(["--preserve-credentials", "--"]).map(str::to_owned).collect()
}

/// Starts the process that holds new namespaces, and runs `script` in them.
async fn hold(entrance: &[String], kinds: &[&str], script: &str) -> Result<(Child, u32)> {
    let script = format!("{script} && echo ready && exec cat");
    let mut words = entrance.to_vec();
    words.push("unshare".to_owned());
    words.extend(kinds.iter().copied().chain(["--", "sh", "-c", &script]).map(str::to_owned));
    let mut holder = command(&words).stdin(Stdio::piped()).spawn().context("start the process that holds a room")?;
    let pid = holder.id().context("the process that holds a room ended at once")?;
    let said = holder.stdout.take().context("its standard output")?;
    let first = timeout(STEP_TIME, BufReader::new(said).lines().next_line()).await.context("making a room hangs")??;
    if first.as_deref() != Some("ready") {
        let output = holder.wait_with_output().await.context("wait for what failed")?;
        bail!("make a room: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok((holder, pid))
}

fn command(words: &[String]) -> Command {
    let (program, arguments) = words.split_first().expect("a program is named");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_sent_is_told_from_what_came_and_from_its_neighbours() {
        let table = "Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo:       7       1    0    0    0     0          0         0       7       1    0    0    0     0       0
  lab0:   18553     274    0    0    0     0          0         0 12517998     268    0    0    0     0       0
 lab01:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0
";
        assert_eq!(sent_in(table, "lab0"), Some(12_517_998));
        assert_eq!(sent_in(table, "lab01"), Some(6));
        assert_eq!(sent_in(table, "lo"), Some(7));
        assert_eq!(sent_in(table, "eth0"), None);
    }

    #[test]
    fn a_port_counts_when_somebody_listens_on_it() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 01004D0A:1F90 02004D0A:A000 01 00000000:00000000 00:00000000 00000000     0
";
        assert!(is_listened_on(table, 0x2caa));
        assert!(!is_listened_on(table, 0x1f90), "it is a connection");
        assert!(!is_listened_on(table, 0xaa));
    }
}
