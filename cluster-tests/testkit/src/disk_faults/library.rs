//! The library that stands in a process's calls on files: compiled from the C text that this crate carries.
//!
//! It is compiled once per process, in a folder of its own that is gone afterwards, and kept in memory, so that no
//! test's folder has to outlive another test. Without a C compiler the error names what to install.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The C text, by file.
const TEXTS: [(&str, &str); 7] = [
    ("layout.h", include_str!("../../disk-faults/layout.h")),
    ("watch.h", include_str!("../../disk-faults/watch.h")),
    ("disk_faults.c", include_str!("../../disk-faults/disk_faults.c")),
    ("journal.c", include_str!("../../disk-faults/journal.c")),
    ("bytes.c", include_str!("../../disk-faults/bytes.c")),
    ("names.c", include_str!("../../disk-faults/names.c")),
    ("crash.c", include_str!("../../disk-faults/crash.c")),
];
/// The name under which every system that has a C compiler has one.
const COMPILER: &str = "cc";
const FLAGS: [&str; 8] = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread", "-o"];
const RESULT: &str = "disk_faults.so";
/// How a system gets a C compiler.
const REMEDY: &str = "install one: `sudo apt-get install gcc libc6-dev` (Debian, Ubuntu), \
    `sudo dnf install gcc glibc-devel` (Fedora), `sudo apk add gcc musl-dev` (Alpine)";

static COMPILED: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();

/// Lays the library at `path`.
///
/// # Errors
/// When there is no C compiler, or it refuses, or the file cannot be written.
pub(crate) fn place(path: &Path) -> Result<()> {
    // What failed once would fail again, so that is kept too.
    match COMPILED.get_or_init(|| compile().map_err(|error| format!("{error:#}"))) {
        Ok(bytes) => fs::write(path, bytes).with_context(|| format!("write {}", path.display())),
        Err(problem) => bail!("compile the library of disk faults: {problem}"),
    }
}

fn compile() -> Result<Vec<u8>> {
    let folder = tempfile::Builder::new().prefix("ollamax-disk-faults-").tempdir().context("make a folder")?;
    for (name, text) in TEXTS {
        fs::write(folder.path().join(name), text).with_context(|| format!("write {name}"))?;
    }
    let sources = TEXTS.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
    let mut command = Command::new(COMPILER);
    command.args(FLAGS).arg(RESULT).args(sources).arg("-ldl").current_dir(folder.path()).stdin(Stdio::null());
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no `{COMPILER}`; {REMEDY}"),
        output => output.with_context(|| format!("run {COMPILER}"))?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{COMPILER}` refuses (no headers? {REMEDY}):\n{}", said.trim());
    fs::read(folder.path().join(RESULT)).context("read what was compiled")
}
