//! The guard of the demo: a second process that stops the cluster when the first one ends, however it ends.
//!
//! It waits for the end of its standard input, which comes when the demo closes it, is interrupted, or is killed. It
//! stands in a process group of its own, so that Ctrl-C does not reach it. Then it runs `ollamax dev down`.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::succeed;

/// The word by which this program is started as a guard.
pub(crate) const GUARD: &str = "demo-guard";
/// What the demo writes when the folder is to be kept, because something in it failed.
const KEEP: &str = "keep";

/// The demo's hold on its guard.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    folder: PathBuf,
}

// === impl Guard ===

impl Guard {
    /// Starts the guard of the cluster that `program` will start in `folder`.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        let this = this_program()?;
        let mut command = Command::new(this);
        command.arg(GUARD).arg(program).arg(folder).stdin(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("start the guard of the demo")?;
        Ok(Self { child, folder: folder.to_owned() })
    }

    /// Has everything stopped, and the folder removed unless it is wanted for finding out what failed.
    pub(crate) fn finish(mut self, keep: bool) -> Result<()> {
        let mut input = self.child.stdin.take().context("the guard's standard input is gone")?;
        if keep {
            input.write_all(KEEP.as_bytes()).context("tell the guard to keep the logs")?;
            eprintln!("the nodes' logs are kept in {}", self.folder.display());
        }
        drop(input);
        let status = self.child.wait().context("wait for the guard of the demo")?;
        if !status.success() {
            bail!("the demo's cluster could not be stopped; what is left lies in {}", self.folder.display());
        }
        Ok(())
    }
}

/// This program, also when the build has just replaced its file: Linux keeps the running one at a name of its own.
fn this_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe().context("find this program") }
}

/// The guard itself.
pub(crate) fn guard(program: &Path, folder: &Path) -> Result<ExitCode> {
    let mut said = String::new();
    io::stdin().read_to_string(&mut said).context("wait for the end of the demo")?;
    if !folder.exists() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut down = Command::new(program);
    down.args(["dev", "down", "--data-dir"]).arg(folder).stdin(Stdio::null());
    // Its words would be mixed with the demo's; its exit code and its complaints are enough.
    down.stdout(Stdio::null());
    succeed(down)?;
    if said != KEEP {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
