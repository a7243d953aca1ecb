//! One `ollamax-node` process: start, signals, end, and what it writes into `node.json`.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::cluster::PATIENCE;
use crate::cluster::admin::Admin;
use crate::cluster::daemon::Daemon;
use crate::cluster::tools::Tools;
use crate::cluster::values::Values;
use crate::fake_ollama::lock;
use crate::link::{Gate, Links};
use crate::{FakeOllama, Room, wait};

/// Lines of a log that an error shows.
const LOG_LINES: usize = 15;

/// What a node says of itself in `<data>/node.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Facts {
    /// Process id.
    pub pid: u32,
    /// `api` address or URL.
    #[serde(default)]
    pub api: String,
    /// `peer` address.
    #[serde(default)]
    pub peer: String,
    /// The runtime beside it.
    #[serde(default)]
    pub runtime: Option<RuntimeFacts>,
    /// Its id; absent or 0 before it is a member.
    #[serde(default)]
    pub node_id: Option<u64>,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
}

/// The runtime's part of `node.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RuntimeFacts {
    /// `engine` or `ollama`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Where it answers.
    #[serde(default)]
    pub url: Option<String>,
    /// Process id of the engine; 0 or absent when the node did not start it.
    #[serde(default)]
    pub pid: Option<u32>,
}

/// Where a node lives and how it is started.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) flags: Vec<(String, String)>,
    pub(crate) advertised: String,
    pub(crate) room: Option<Arc<Room>>,
    pub(crate) user: Option<u32>,
    /// The daemon of this workspace where its user gets to it; `None`: where it was built.
    pub(crate) lent: Option<PathBuf>,
}

impl Place {
    /// The data directory as the node itself calls it.
    fn data_dir(&self) -> PathBuf {
        let disk = self.room.as_ref().and_then(|room| room.disk());
        disk.unwrap_or(&self.home).join(&self.name)
    }
}

/// The fake runtime beside a node: in this process, or as one in the node's room. It ends with the node's handle.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub(crate) fake: Option<FakeOllama>,
    pub(crate) _process: Option<Child>,
}

/// Where the runtime beside a node keeps its models.
pub(crate) fn store_of(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}-store"))
}

/// One node of a cluster, running or not.
#[derive(Debug)]
pub struct Node {
    place: Place,
    log: PathBuf,
    beside: Beside,
    _gate: Option<Gate>,
    environment: Mutex<Vec<(String, String)>>,
    daemon: Mutex<Option<Daemon>>,
    child: tokio::sync::Mutex<Option<Child>>,
    running: Mutex<Option<(Facts, Admin)>>,
}

// === impl Node ===

impl Node {
    pub(crate) fn new(place: Place, beside: Beside, gate: Option<Gate>) -> Self {
        let log = place.home.join(format!("{}.log", place.name));
        Self {
            place,
            log,
            beside,
            _gate: gate,
            environment: Mutex::default(),
            daemon: Mutex::default(),
            child: tokio::sync::Mutex::new(None),
            running: Mutex::new(None),
        }
    }

    /// Its place in the cluster, from 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.place.index
    }

    /// Its name in the cluster, `n1` for index 0.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Its data directory, as it is called outside its room.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let inside = self.place.data_dir();
        match self.place.room.as_ref().filter(|room| room.disk().is_some()) {
            Some(room) => room.seen(&inside),
            None => inside,
        }
    }

    /// Where the runtime beside it keeps its models, if its plan has one that keeps them on disk.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        store_of(&self.place.home, &self.place.name)
    }

    /// Where its standard error goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    pub(crate) fn room(&self) -> Option<&Room> {
        self.place.room.as_deref()
    }

    /// `host:port` at which others reach it: its gate where there is one.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.place.advertised.clone()
    }

    pub(crate) const fn fake(&self) -> Option<&FakeOllama> {
        self.beside.fake.as_ref()
    }

    /// Whether it was started and not ended. A paused node runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.running).is_some()
    }

    /// What it last wrote into `node.json`, read anew.
    ///
    /// # Errors
    /// When the file is missing or half-written.
    pub fn facts(&self) -> Result<Facts> {
        let path = self.data_dir().join("node.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Base URL of its `api` listener.
    ///
    /// # Errors
    /// When it is not running.
    pub fn api(&self) -> Result<String> {
        let api = lock(&self.running).as_ref().map(|(facts, _)| facts.api.clone());
        let api = api.with_context(|| format!("{} is not running", self.name()))?;
        Ok(if api.starts_with("http") { api.trim_end_matches('/').to_owned() } else { format!("http://{api}") })
    }

    /// Address of its `api` listener.
    ///
    /// # Errors
    /// When it is not running, or listens at a name.
    pub fn api_address(&self) -> Result<SocketAddr> {
        let url = self.api()?;
        url.trim_start_matches("http://").parse().with_context(|| format!("{url} is no address"))
    }

    /// Its admin API.
    ///
    /// # Errors
    /// When it is not running.
    pub fn admin(&self) -> Result<Admin, crate::cluster::CallError> {
        let admin = lock(&self.running).as_ref().map(|(_, admin)| admin.clone());
        admin.ok_or_else(|| crate::cluster::CallError::not_running(self.name()))
    }

    /// Its values, over a connection of their own.
    ///
    /// # Errors
    /// When its socket has no usable name.
    pub fn values(&self) -> Result<Values> {
        Values::connect(self.name(), &self.data_dir().join("admin.sock"))
    }

    /// Its tools and the tasks of its cluster, over a connection of their own.
    ///
    /// # Errors
    /// When its socket has no usable name.
    pub fn tools(&self) -> Result<Tools> {
        Tools::connect(self.name(), &self.data_dir().join("admin.sock"))
    }

    /// Sets an environment variable for the next start.
    pub fn set_environment(&self, name: &str, value: impl ToString) {
        let mut environment = lock(&self.environment);
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_string()));
    }

    /// Runs the daemon of another release from the next start on; `None`: that of this workspace.
    pub fn set_daemon(&self, daemon: Option<Daemon>) {
        *lock(&self.daemon) = daemon;
    }

    /// The command that starts it. A daemon of another release is not told what it does not know.
    fn command(&self) -> Result<Command> {
        let daemon = lock(&self.daemon).clone();
        let own = || self.place.lent.clone().map_or_else(|| binary("ollamax-node"), Ok);
        let node = daemon.as_ref().map_or_else(own, |daemon| Ok(daemon.program().to_owned()))?;
        let entrance = self.place.room.as_ref().map(|room| room.entrance()).unwrap_or_default();
        let mut command = match entrance.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(node);
                command
            }
            None => Command::new(node),
        };
        command.arg("run").arg("--data-dir").arg(self.place.data_dir());
        let known = |key: &str| daemon.as_ref().is_none_or(|daemon| daemon.knows(key));
        for (key, value) in self.place.flags.iter().filter(|(key, _)| known(key)) {
            command.arg(format!("--{key}")).arg(value);
        }
        if let Some(user) = self.place.user {
            command.uid(user).gid(user);
        }
        clean_environment(&mut command);
        command.envs(lock(&self.environment).iter().cloned());
        Ok(command)
    }

    pub(crate) async fn start(&self, links: &Links) -> Result<()> {
        let mut held = self.child.lock().await;
        ensure!(held.is_none(), "{} runs already", self.name());
        let stale = self.data_dir().join("node.json");
        if stale.exists() {
            std::fs::remove_file(&stale).with_context(|| format!("remove {}", stale.display()))?;
        }
        let log = File::options().create(true).append(true).open(&self.log).context("open the log file")?;
        let copy = log.try_clone().context("open the log file")?;
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(copy).stderr(log).kill_on_drop(true);
        let child = held.insert(command.spawn().with_context(|| format!("start {}", self.name()))?);
        let pid = child.id().context("the process ended at once")?;
        links.register(pid, self.index());
        let what = format!("{} to listen", self.name());
        let ready = wait::until(&what, PATIENCE, || async {
            let facts = self.facts()?;
            ensure!(facts.pid == pid, "node.json names process {}", facts.pid);
            let admin = Admin::connect(self.name(), &self.data_dir().join("admin.sock"))?;
            admin.status().await?;
            Ok((facts, admin))
        });
        let ready = tokio::select! {
            ready = ready => ready,
            exit = child.wait() => Err(anyhow::anyhow!("{} exited: {}", self.name(), describe(exit.ok()))),
        };
        match ready {
            Ok(found) => *lock(&self.running) = Some(found),
            Err(error) => {
                // Dropping the child ends it.
                *held = None;
                return Err(error.context(format!("log of {}:\n{}", self.name(), tail(&self.log))));
            }
        }
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        lock(&self.running)
            .as_ref()
            .map(|(facts, _)| facts.pid)
            .with_context(|| format!("{} does not run", self.name()))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name()))
    }

    pub(crate) fn signal_kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// SIGSTOP: the process stands still, its connections stay.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for a killed process and forgets it, and makes sure that its engine is gone too.
    pub(crate) async fn reap(&self) -> Result<ExitStatus> {
        let status = self.reap_alone().await?;
        self.end_engine();
        Ok(status)
    }

    async fn reap_alone(&self) -> Result<ExitStatus> {
        let mut held = self.child.lock().await;
        let child = held.as_mut().with_context(|| format!("{} does not run", self.name()))?;
        let status = child.wait().await.context("wait for the process")?;
        *held = None;
        *lock(&self.running) = None;
        Ok(status)
    }

    /// SIGKILL to the daemon and to nothing else: its engine has to end by itself, and the test has to see to that.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_alone(&self) -> Result<ExitStatus> {
        self.signal_kill()?;
        self.reap_alone().await
    }

    /// Runs `ollamax` with these words at this node until it exits by itself.
    ///
    /// # Errors
    /// When it still runs at the deadline; it is ended then.
    pub async fn ollamax(&self, words: &[&str], deadline: Duration) -> Result<Output> {
        let data_dir = self.data_dir().display().to_string();
        let words: Vec<&str> = ["--data-dir", &data_dir].into_iter().chain(words.iter().copied()).collect();
        run_to_exit("ollamax", &words, deadline).await
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// When it has not ended at the deadline.
    pub async fn stop(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.ended(deadline).await.context("after SIGTERM")
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn ended(&self, deadline: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(deadline, self.reap()).await;
        ended.with_context(|| format!("{} still runs after {deadline:?}", self.name()))?
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// The engine of a killed node ends by itself; this makes sure of it.
    fn end_engine(&self) {
        let Ok(facts) = self.facts() else { return };
        let Some(runtime) = facts.runtime.filter(|runtime| runtime.kind.as_deref() == Some("engine")) else { return };
        if let Some(pid) = runtime.pid.filter(|pid| *pid > 1).and_then(|pid| i32::try_from(pid).ok()) {
            // Gone already is what is hoped for.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    pub(crate) async fn end(&self) {
        if self.signal_kill().is_ok() {
            // It was ours and was killed; how it ended is of no interest.
            let _status = self.reap().await;
        }
    }

    pub(crate) fn end_at_once(&self) {
        if self.signal_kill().is_ok() {
            self.end_engine();
        }
    }

    /// CPU time that the process has used, user and system.
    ///
    /// # Errors
    /// When it does not run, or this is not Linux.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid()?)
    }

    /// Bytes of memory that the process holds now.
    ///
    /// # Errors
    /// When it does not run, or this is not Linux.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Most bytes of memory that the process has held since its start, or since [`Node::forget_peak`].
    ///
    /// # Errors
    /// As [`Node::resident_bytes`].
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// Lets the most that the process has held be what it holds now.
    ///
    /// # Errors
    /// As [`Node::resident_bytes`].
    pub fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid()?);
        std::fs::write(&path, "5").with_context(|| format!("write {path}"))
    }

    /// Files, sockets and pipes that the process holds open.
    ///
    /// # Errors
    /// As [`Node::resident_bytes`].
    pub fn open_files(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid()?);
        Ok(std::fs::read_dir(&path).with_context(|| format!("read {path}"))?.count())
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no {field} in {path}"))? * 1_024)
    }
}

/// CPU time of a process, from `/proc`.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
    let after = text.rsplit_once(") ").with_context(|| format!("parse {path}"))?.1;
    let ticks: u64 = after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts in hundredths of a second on every architecture that it shows to programs.
    Ok(Duration::from_millis(ticks * 10))
}

/// Time that the cores of this machine have spent idle since it started, all of them together, from `/proc`.
///
/// # Errors
/// When there is no `/proc`.
pub fn idle_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    // After the name: user, nice, system, idle, waiting for disks.
    let ticks: u64 = line.split_whitespace().skip(4).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The living children of a process, from `/proc`.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let mut fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ')).into_iter().flatten();
        fields.next() != Some("Z") && fields.next().and_then(|field| field.parse().ok()) == Some(parent)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// SIGABRT: what native code does to its own process when it finds itself in a state that cannot be.
///
/// # Errors
/// When there is no such process.
pub fn abort(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).context("process id")?;
    kill(Pid::from_raw(pid), Signal::SIGABRT).with_context(|| format!("abort process {pid}"))
}

/// A binary of this workspace: named by `OLLAMAX_NODE_BINARY` and the like, else beside the test's own.
///
/// # Errors
/// When there is none.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BINARY", name.to_uppercase().replace('-', "_"));
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find the test's own binary")?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not beside {} (build it: cargo build -p {name}; or set {variable})", own.display())
    })
}

/// The first folder above a file through which other users do not get.
#[must_use]
pub fn shut_above(file: &Path) -> Option<PathBuf> {
    let is_shut = |folder: &&Path| std::fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 == 0);
    file.ancestors().skip(1).find(is_shut).map(Path::to_owned)
}

/// Runs a program of this workspace with these arguments until it exits by itself.
///
/// # Errors
/// When it still runs at the deadline; it is ended then.
pub async fn run_to_exit(program: &str, arguments: &[&str], deadline: Duration) -> Result<Output> {
    let mut command = Command::new(binary(program)?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    clean_environment(&mut command);
    match tokio::time::timeout(deadline, command.output()).await {
        Ok(output) => output.with_context(|| format!("run {program}")),
        Err(_) => bail!("{program} {arguments:?} still runs after {deadline:?}"),
    }
}

/// Takes away what decides about nodes in the caller's environment, proxies too: nothing of it may change what a test
/// sees.
pub fn clean_environment(command: &mut Command) {
    let foreign = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy().to_lowercase();
        name.starts_with("ollama") || name.ends_with("_proxy")
    });
    for (name, _) in foreign {
        command.env_remove(name);
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "unknown".to_owned(), |status| status.to_string())
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
