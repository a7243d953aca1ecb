//! On what a benchmark ran, and which programs are there. What the system does not tell is left empty.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

/// The machine and the build.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) system: String,
    /// How this program was built, and the daemons beside it.
    pub(crate) profile: &'static str,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_bytes: kib * 1_024,
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            profile: if cfg!(debug_assertions) { "dev (see Cargo.toml)" } else { "release" },
        }
    }
}

/// A program that is installed: in PATH, where those for administrators are, or where cargo puts what it installs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    folders.chain(cargo_folder()).map(|folder| folder.join(name)).find(|binary| binary.is_file())
}

fn cargo_folder() -> Option<PathBuf> {
    let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    Some(own.or_else(home)?.join("bin"))
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory_bytes >> 30;
        write!(f, "{} x {}, {gib} GiB, {}, profile {}", self.cores, self.cpu, self.system, self.profile)
    }
}
