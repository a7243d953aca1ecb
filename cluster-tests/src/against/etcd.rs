//! The other side: three etcd daemons with their defaults, asked over their own protocol.
//!
//! As far as etcd lets us it stands as ours does: clients on a unix socket without TLS, members over TLS with
//! certificates on both ends (one, made for the run). Only the quota differs from its defaults, so that a long load
//! does not end in `NOSPACE`. Processes end with the value; they are found by the ids they were started with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use ollamax_testkit::http::HttpClient;
use ollamax_testkit::{port, wait};

use super::door::{CALL_TIME, Door, Fresh};
use super::plan::{NODES, Pace};
use super::syncs::Counts;
use crate::machine;

mod arguments;
pub(crate) mod wire;

use arguments::Place;
use wire::kv_client::KvClient;
use wire::maintenance_client::MaintenanceClient;

const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 10;
const NO_ETCD: &str = "etcd is not installed; on Debian and Ubuntu `cargo xtask bench metadata --against etcd` fetches \
                       it, elsewhere have `etcd` in PATH";
const NO_OPENSSL: &str = "openssl is not installed (Debian, Ubuntu: apt-get install openssl); etcd's members need a \
                          certificate";

/// A sync of the log is one fsync, and so is a commit of the state.
const FSYNCS: [&str; 2] =
    ["etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count"];

/// The programs of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    etcd: PathBuf,
    openssl: PathBuf,
    pub(crate) version: String,
}

// === impl Program ===

impl Program {
    pub(crate) async fn find() -> Result<Self> {
        let etcd = machine::program("etcd").context(NO_ETCD)?;
        let openssl = machine::program("openssl").context(NO_OPENSSL)?;
        let output = Command::new(&etcd).arg("--version").output().await.context("ask etcd for its version")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = version.context("etcd does not say its version")?.trim().to_owned();
        Ok(Self { etcd, openssl, version })
    }
}

#[derive(Debug)]
struct Member {
    place: Place,
    child: Option<Child>,
}

/// A running cluster of etcd.
#[derive(Debug)]
pub(crate) struct Etcd {
    program: Program,
    members: Vec<Member>,
    http: HttpClient,
    directory: TempDir,
}

// === impl Etcd ===

impl Etcd {
    pub(crate) async fn start(program: &Program, pace: Pace) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ollamax-etcd-").tempdir().context("make a directory")?;
        certificate(program, directory.path()).await?;
        let ports = (0..NODES).map(|_| port::free()).collect::<Result<Vec<u16>>>()?;
        let mut members = Vec::new();
        for index in 0..NODES {
            let place = Place::new(directory.path(), index, &ports, port::free()?, pace);
            std::fs::create_dir(&place.home).context("make a member's directory")?;
            members.push(Member { place, child: None });
        }
        let mut etcd = Self { program: program.clone(), members, http: HttpClient::new(), directory };
        for index in 0..NODES {
            etcd.spawn(index)?;
        }
        etcd.whole().await?;
        Ok(etcd)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let Member { place, child } = &mut self.members[index];
        // A killed etcd leaves its socket, and does not start where one lies.
        if place.socket().exists() {
            std::fs::remove_file(place.socket()).context("remove the socket of a killed etcd")?;
        }
        let log = std::fs::File::options().create(true).append(true).open(&place.log).context("open etcd's log")?;
        let copy = log.try_clone().context("open etcd's log")?;
        let mut command = Command::new(&self.program.etcd);
        command.args(&place.arguments).current_dir(&place.home);
        for (name, _) in std::env::vars_os().filter(|(name, _)| decides(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(copy).stderr(log).kill_on_drop(true);
        *child = Some(command.spawn().context("start etcd")?);
        Ok(())
    }

    /// The members that run.
    fn running(&self) -> impl Iterator<Item = usize> {
        self.members.iter().enumerate().filter(|(_, member)| member.child.is_some()).map(|(index, _)| index)
    }

    fn channel(&self, node: usize) -> Result<Channel> {
        let socket = self.members[node].place.socket();
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name etcd's socket")?;
        Ok(endpoint.connect_lazy())
    }

    async fn status(&self, node: usize) -> Result<wire::StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel(node)?);
        let reply = timeout(CALL_TIME, client.status(wire::StatusRequest {})).await.context("no answer")?;
        Ok(reply?.into_inner())
    }

    /// The running member that all running ones take for the leader, and what each of them has applied.
    async fn agreed(&self) -> Result<(usize, Vec<u64>)> {
        let (mut members, mut leaders, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        for node in self.running() {
            let status = self.status(node).await.with_context(|| format!("member {node}"))?;
            members.push((node, status.header.map(|header| header.member_id).context("no header")?));
            leaders.push(status.leader);
            applied.push(status.raft_applied_index);
        }
        leaders.dedup();
        let [leader] = leaders[..] else { bail!("members name different leaders: {leaders:?}") };
        ensure!(leader != 0, "no leader");
        let node = members.iter().find(|(_, id)| *id == leader).map(|(node, _)| *node);
        Ok((node.context("the leader does not run")?, applied))
    }

    pub(crate) async fn leader(&self) -> Result<usize> {
        wait::until("one leader of etcd", PATIENCE, || self.agreed()).await.map(|(leader, _)| leader)
    }

    /// Waits until all members run, agree on a leader and have applied the same.
    pub(crate) async fn whole(&self) -> Result<()> {
        ensure!(self.running().count() == NODES, "a member of etcd does not run");
        let equal = wait::until("equal members of etcd", PATIENCE, || async {
            let (_, applied) = self.agreed().await?;
            ensure!(applied.windows(2).all(|pair| pair[0] == pair[1]), "applied: {applied:?}");
            Ok(())
        });
        equal.await.with_context(|| self.logs())
    }

    pub(crate) fn door(&self, node: usize) -> Result<Door> {
        Ok(Door::Etcd(KvClient::new(self.channel(node)?)))
    }

    fn pid(&self, node: usize) -> Result<u32> {
        self.members[node].child.as_ref().and_then(Child::id).with_context(|| format!("member {node} has ended"))
    }

    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        self.running().map(|node| self.pid(node)).collect()
    }

    pub(crate) async fn kill(&mut self, node: usize) -> Result<()> {
        self.signal(node, Signal::SIGKILL)?;
        self.ended(node).await
    }

    /// SIGTERM: a leader hands over first.
    pub(crate) async fn stop(&mut self, node: usize) -> Result<()> {
        self.signal(node, Signal::SIGTERM)?;
        self.ended(node).await
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid(node)?).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to member {node}"))
    }

    async fn ended(&mut self, node: usize) -> Result<()> {
        let Some(child) = &mut self.members[node].child else { bail!("member {node} does not run") };
        let ended = timeout(PATIENCE, child.wait()).await;
        ended.with_context(|| format!("member {node} still runs after {PATIENCE:?}"))?.context("wait for etcd")?;
        self.members[node].child = None;
        Ok(())
    }

    pub(crate) async fn hand_over(&self, from: usize, to: usize) -> Result<()> {
        let target_id = self.status(to).await?.header.map(|header| header.member_id).context("no header")?;
        let mut client = MaintenanceClient::new(self.channel(from)?);
        let moved = client.move_leader(wire::MoveLeaderRequest { target_id });
        timeout(CALL_TIME, moved).await.context("no answer")?.context("hand leadership over")?;
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: usize) -> Result<()> {
        ensure!(self.members[node].child.is_none(), "member {node} runs already");
        self.spawn(node)
    }

    /// What the members have counted themselves.
    pub(crate) async fn counts(&self) -> Result<Vec<Counts>> {
        let mut counts = Vec::new();
        for member in &self.members {
            let answer = self.http.call(Method::GET, &member.place.metrics, "").await?;
            let text = answer.text().await.context("read etcd's metrics")?;
            let fsyncs = FSYNCS.iter().map(|name| value(&text, name)).sum::<Option<f64>>();
            counts.push(Counts {
                fsyncs: fsyncs.with_context(|| format!("etcd does not show {}", FSYNCS.join(" and ")))?,
                groups: None,
                grouped: None,
            });
        }
        Ok(counts)
    }

    /// The last lines of all logs.
    fn logs(&self) -> String {
        let tails = self.members.iter().map(|member| {
            let text = std::fs::read_to_string(&member.place.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        });
        format!("etcd's logs:\n{}", tails.collect::<Vec<_>>().join("\n\n"))
    }

    pub(crate) async fn finish(mut self) -> Result<()> {
        for node in self.running().collect::<Vec<_>>() {
            self.kill(node).await?;
        }
        self.directory.close().context("remove etcd's directory")
    }
}

/// Whether a variable of the environment would change what etcd does.
fn decides(name: &str) -> bool {
    name.starts_with("ETCD_") || name.to_lowercase().ends_with("_proxy")
}

/// The value of a metric without labels.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.trim().parse().ok()
}

/// One certificate for all members, which is also the authority that all of them trust.
async fn certificate(program: &Program, directory: &Path) -> Result<()> {
    let output = Command::new(&program.openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "7", "-subj", "/CN=ollamax-bench", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-keyout"])
        .arg(directory.join(arguments::KEY))
        .arg("-out")
        .arg(directory.join(arguments::CERTIFICATE))
        .stdin(Stdio::null())
        .output()
        .await
        .context("start openssl")?;
    ensure!(output.status.success(), "make a certificate: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

pub(crate) fn put(key: &str, value: &[u8]) -> wire::PutRequest {
    wire::PutRequest { key: key.into(), value: value.to_vec() }
}

pub(crate) fn swap(key: &str, modified: u64, value: &[u8]) -> wire::TxnRequest {
    // Revisions of etcd are never negative.
    let modified = i64::try_from(modified).unwrap_or(i64::MAX);
    let compare = wire::Compare {
        result: wire::compare::CompareResult::Equal.into(),
        target: wire::compare::CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(wire::compare::TargetUnion::ModRevision(modified)),
    };
    let put = wire::RequestOp { request: Some(wire::request_op::Request::RequestPut(put(key, value))) };
    wire::TxnRequest { compare: vec![compare], success: vec![put] }
}

pub(crate) fn get(key: &str, fresh: Fresh) -> wire::RangeRequest {
    let serializable = fresh == Fresh::Stale;
    wire::RangeRequest { key: key.into(), range_end: Vec::new(), limit: 0, serializable }
}

pub(crate) fn list(prefix: &str, rows: u32) -> wire::RangeRequest {
    let key = prefix.as_bytes().to_vec();
    let range_end = behind(&key);
    wire::RangeRequest { key, range_end, limit: i64::from(rows), serializable: false }
}

/// The first key behind all that begin with a prefix, which must not end with the largest byte.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

#[cfg(test)]
mod tests;
