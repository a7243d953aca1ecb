//! RocksDB's library, compiled once per version and kept in the target directory.
//!
//! The crate `librocksdb-sys` compiles some 340 files one by one, and most of that time goes into reading the same
//! headers again and again. Here the same source is compiled with the same settings in a few groups, as RocksDB's own
//! `unity_test` does: a quarter of the time, and no build profile pays twice. Every cargo command of this program is
//! told where the library lies; `cargo xtask env` tells a shell. Where there is no Linux, `librocksdb-sys` does its own
//! work. A library is there whole or not at all: it is made beside its place and moved there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::waiting::{Stopwatch, seconds};
use crate::workspace::{Workspace, succeed};

/// The crate that brings the source.
const CRATE: &str = "librocksdb-sys";
/// Counted up when the settings below change.
const MADE_AS: u32 = 1;
/// Groups of files; one needs up to 1.5 GB of memory.
const GROUPS: usize = 12;
const GROUP_MEMORY_KB: usize = 2 << 20;
/// Its build script brings a version of this file with the version filled in, `build_version.cc`.
const VERSION_TEMPLATE: &str = "util/build_version.cc";
/// What the build script of the crate defines on Linux, with the features `lz4` and `zstd`.
const DEFINES: &[&str] = &[
    "LZ4=1",
    "ZSTD=1",
    "NDEBUG=1",
    "HAVE_ALIGNED_NEW",
    "HAVE_UINT128_EXTENSION",
    "OS_LINUX",
    "ROCKSDB_PLATFORM_POSIX",
    "ROCKSDB_LIB_IO_POSIX",
    "ROCKSDB_SCHED_GETCPU_PRESENT",
    "ROCKSDB_AUXV_GETAUXVAL_PRESENT",
    "ROCKSDB_FALLOCATE_PRESENT",
    "ROCKSDB_RANGESYNC_PRESENT",
];

/// Where the source lies.
struct Sources {
    rocksdb: PathBuf,
    lz4: PathBuf,
    zstd: PathBuf,
}

/// The folder of the library that goes with this lock file; `None` where the crate compiles it itself.
pub(crate) fn folder(lock_file: &str, target_dir: &Path) -> Option<PathBuf> {
    let version = locked_version(lock_file, CRATE)?;
    let folder = format!("rocksdb-{version}-{}-{MADE_AS}", env::consts::ARCH);
    cfg!(target_os = "linux").then(|| target_dir.join(folder))
}

/// Makes the library unless it is there.
pub(crate) fn make(workspace: &Workspace) -> Result<()> {
    let Some(folder) = workspace.rocksdb() else { return Ok(()) };
    if library(folder).is_file() {
        return Ok(());
    }
    let watch = Stopwatch::start();
    let sources = find(workspace)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let making = folder.with_file_name(format!("{name}.making-{}", std::process::id()));
    fs::create_dir_all(&making).with_context(|| format!("make {}", making.display()))?;
    let made = compile(&sources, &making).and_then(|()| put_in_place(&making, folder));
    fs::remove_dir_all(&making).ok();
    made.context("compile RocksDB")?;
    eprintln!("RocksDB is compiled: {} in {}", folder.display(), seconds(watch.elapsed()));
    Ok(())
}

fn library(folder: &Path) -> PathBuf {
    folder.join("librocksdb.a")
}

/// The version of a package in a lock file.
fn locked_version<'a>(lock_file: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let after = lock_file.lines().skip_while(|line| *line != name).nth(1)?;
    after.strip_prefix("version = \"")?.strip_suffix('"')
}

/// Asks cargo where the crates lie; it downloads what is missing.
fn find(workspace: &Workspace) -> Result<Sources> {
    let mut command = workspace.cargo(["metadata", "--locked", "--format-version", "1"]);
    let output = command.stderr(Stdio::inherit()).output().context("start `cargo metadata`")?;
    ensure!(output.status.success(), "`cargo metadata` ended with {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read what `cargo metadata` says")?;
    let folder_of = |name: &str| {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let found = packages.filter(|package| package["name"] == name).find_map(|it| it["manifest_path"].as_str());
        let manifest = found.with_context(|| format!("{name} is no dependency any more"))?;
        Ok::<PathBuf, anyhow::Error>(Path::new(manifest).with_file_name(""))
    };
    Ok(Sources {
        rocksdb: folder_of(CRATE)?,
        lz4: folder_of("lz4-sys")?.join("liblz4/lib"),
        zstd: folder_of("zstd-sys")?.join("zstd/lib"),
    })
}

/// Splits the list of files into at most `count` groups of neighbours.
fn groups(list: &str, count: usize) -> Vec<Vec<&str>> {
    let files: Vec<&str> = list.lines().map(str::trim).filter(|it| !it.is_empty() && *it != VERSION_TEMPLATE).collect();
    files.chunks(files.len().div_ceil(count).max(1)).map(<[&str]>::to_vec).collect()
}

fn compile(sources: &Sources, into: &Path) -> Result<()> {
    let list = sources.rocksdb.join("rocksdb_lib_sources.txt");
    let list = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut files = vec![sources.rocksdb.join("build_version.cc")];
    for (number, group) in groups(&list, GROUPS).iter().enumerate() {
        let file = into.join(format!("group-{number:02}.cc"));
        let text: String = group.iter().map(|file| format!("#include \"{file}\"\n")).collect();
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        files.push(file);
    }
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<PathBuf>> {
        let mut objects = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let object = into.join(file.with_extension("o").file_name().context("a file without a name")?);
            succeed(compiler(sources, file, &object))?;
            eprintln!("RocksDB: compiled {}", object.file_stem().unwrap_or_default().display());
            objects.push(object);
        }
        Ok(objects)
    };
    let objects = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs()).map(|_| scope.spawn(worker)).collect();
        let mut objects = Vec::new();
        for worker in workers {
            objects.extend(worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??);
        }
        Ok::<_, anyhow::Error>(objects)
    })?;
    let mut archive = Command::new("ar");
    archive.arg("crs").arg(library(into)).args(objects).stdin(Stdio::null());
    succeed(archive)
}

/// As many as there are cores, as far as memory goes.
fn jobs() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available_kb = available.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<usize>().ok());
    available_kb.map_or(cores, |kb| cores.min(kb / GROUP_MEMORY_KB)).clamp(1, GROUPS)
}

fn compiler(sources: &Sources, file: &Path, object: &Path) -> Command {
    let mut command = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    command.args(["-std=c++20", "-O2", "-fPIC", "-ffunction-sections", "-fdata-sections", "-w", "-include", "cstdint"]);
    command.args(DEFINES.iter().map(|define| format!("-D{define}")));
    for folder in ["rocksdb/include", "rocksdb", "rocksdb/third-party/gtest-1.8.1/fused-src", "."] {
        command.arg("-I").arg(sources.rocksdb.join(folder));
    }
    command.arg("-I").arg(&sources.lz4).arg("-I").arg(&sources.zstd);
    command.arg("-c").arg(file).arg("-o").arg(object).stdin(Stdio::null());
    command
}

/// Another program may have been quicker; then there are two of the same, and this one goes.
fn put_in_place(making: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(making).with_context(|| format!("read {}", making.display()))? {
        let path = entry?.path();
        if path != library(making) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    match fs::rename(making, folder) {
        Err(_) if library(folder).is_file() => Ok(()),
        Err(problem) => bail!("move {} to {}: {problem}", making.display(), folder.display()),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_lock_file() {
        let lock = "[[package]]\nname = \"librocksdb\"\nversion = \"1.0.0\"\n\n\
                    [[package]]\nname = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\"\n";
        assert_eq!(locked_version(lock, CRATE), Some("0.19.0+11.8.1"));
        assert_eq!(locked_version(lock, "other"), None);
        if cfg!(target_os = "linux") {
            let folder = folder(lock, Path::new("/t")).expect("Linux");
            assert!(folder.to_string_lossy().starts_with("/t/rocksdb-0.19.0+11.8.1-"), "{}", folder.display());
        }
    }

    #[test]
    fn each_file_is_in_exactly_one_group() {
        let list = "a.cc\nb.cc\nutil/build_version.cc\nc.cc\n d.cc\n\ne.cc\n";
        assert_eq!(groups(list, 2), [vec!["a.cc", "b.cc", "c.cc"], vec!["d.cc", "e.cc"]]);
        assert_eq!(groups(list, 100).len(), 5);
        assert_eq!(groups("", 3), Vec::<Vec<&str>>::new());
    }

    #[test]
    fn there_is_always_at_least_one_job_and_never_more_than_work() {
        assert!((1..=GROUPS).contains(&jobs()));
    }
}
