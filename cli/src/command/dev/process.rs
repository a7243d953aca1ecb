//! Daemons of a development cluster as processes: started in sessions of their own, recognised by their directory.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::error::Failure;

/// Time between two looks at a process.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Starts a daemon that outlives this process; its log goes to `node.log` in its data directory.
pub(crate) fn start(program: &Path, data_dir: &Path, flags: &[String]) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| {
        let next = format!("look at the disk and the rights of {}", data_dir.display());
        Failure::new(1, format!("start {}", program.display()), error.to_string(), next)
    };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let log = OpenOptions::new().create(true).append(true).open(data_dir.join("node.log")).map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--data-dir").arg(data_dir).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let keep = text == "OLLAMAX_TEST_CLOCK_OFFSET_MS";
        if (text.starts_with("OLLAMAX_") || text == "OLLAMA_HOST") && !keep {
            command.env_remove(&name);
        }
    }
    command.spawn().map_err(failed)
}

/// The pid in the directory's lock file, if that process still runs on it.
pub(crate) fn running(data_dir: &Path) -> Option<u32> {
    let pid = fs::read_to_string(data_dir.join("lock")).ok()?.trim().parse::<u32>().ok()?;
    is_ours(pid, data_dir).then_some(pid)
}

/// Whether a process is a daemon on this directory: its command line says so where the system shows it, else the
/// lock of the directory is held.
fn is_ours(pid: u32, data_dir: &Path) -> bool {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => {
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&data_dir.as_os_str().as_encoded_bytes())
        }
        Err(_) => !Path::new("/proc/self").exists() && lives(pid) && is_locked(data_dir),
    }
}

fn lives(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok())
}

fn is_locked(data_dir: &Path) -> bool {
    use nix::fcntl::{Flock, FlockArg};

    let Ok(file) = fs::File::open(data_dir.join("lock")) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Ends the daemon on a directory: asked first, killed after `patience`. True when one was running.
pub(crate) async fn end(data_dir: &Path, patience: Duration) -> bool {
    let Some(pid) = running(data_dir) else { return false };
    signal(pid, Signal::SIGTERM);
    if !gone_within(data_dir, patience).await {
        signal(pid, Signal::SIGKILL);
        gone_within(data_dir, Duration::from_secs(10)).await;
    }
    true
}

async fn gone_within(data_dir: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if running(data_dir).is_none() {
            return true;
        }
        sleep(LOOK_INTERVAL).await;
    }
    running(data_dir).is_none()
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // A process that has ended meanwhile is as good as ended.
        let _ended = kill(Pid::from_raw(pid), signal);
    }
}

/// The last lines of a daemon's log, for an error.
pub(crate) fn last_lines(data_dir: &Path) -> String {
    let log = fs::read_to_string(data_dir.join("node.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
