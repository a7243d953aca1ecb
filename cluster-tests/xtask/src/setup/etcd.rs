//! etcd, for the benchmark that compares with it: the one in PATH, else Debian's package, unpacked below the target
//! directory. It is not installed as a service: installing the package would start one and leave it running.
//!
//! apt checks the package's signature. What the comparison also uses is installed where it is missing: openssl, and
//! strace if that can be had.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Need, apt_get, install, is_debian, is_root, on_path};
use crate::workspace::{Workspace, succeed};

const PACKAGE: &str = "etcd-server";
const OPENSSL: Need = Need { package: "openssl", what_for: "openssl, which makes the certificate of etcd's members" };
const STRACE: Need = Need { package: "strace", what_for: "strace, which counts the fsyncs of both" };
/// Where the program lies in the unpacked package.
const PROGRAMS: &str = "usr/bin";

/// Has etcd ready for a command: its PATH leads to it.
pub(crate) fn make_ready(workspace: &Workspace, command: &mut Command) -> Result<()> {
    let has_apt = is_debian(&fs::read_to_string("/etc/os-release").unwrap_or_default()) && on_path("apt-get");
    if has_apt && !on_path(OPENSSL.package) {
        install(&[OPENSSL])?;
    }
    if has_apt && !on_path(STRACE.package) {
        // Without it the daemons' own counters are taken, and the report says so.
        if let Err(problem) = install(&[STRACE]) {
            eprintln!("going on without strace: {problem:#}");
        }
    }
    if on_path("etcd") {
        return Ok(());
    }
    let folder = workspace.target_dir().join("etcd");
    if !folder.join(PROGRAMS).join("etcd").is_file() {
        if !has_apt {
            bail!("there is no `etcd` in PATH: install etcd 3.4 or newer, then run this again");
        }
        fetch(&folder)?;
    }
    command.env("PATH", path_with(&folder.join(PROGRAMS), env::var_os("PATH"))?);
    Ok(())
}

/// The folder before all others, so that it is found there.
fn path_with(folder: &Path, path: Option<OsString>) -> Result<OsString> {
    let others: Vec<PathBuf> = path.iter().flat_map(env::split_paths).collect();
    env::join_paths(std::iter::once(folder.to_owned()).chain(others)).context("name the folder of etcd in PATH")
}

/// Downloads the package and unpacks it; the folder appears when all of it is there.
fn fetch(folder: &Path) -> Result<()> {
    let downloads = folder.with_extension("download");
    if downloads.exists() {
        fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))?;
    }
    fs::create_dir_all(&downloads).with_context(|| format!("make {}", downloads.display()))?;
    eprintln!("fetching Debian's {PACKAGE} into {}", folder.display());
    if let Err(problem) = download(&downloads) {
        // The lists may name a package that is not there any more, or there are none yet.
        eprintln!("updating the package lists: {problem:#}");
        let mut update = apt_get(is_root(), &["update"]);
        update.stdout(Stdio::null());
        succeed(update).context("update the package lists; by hand: `apt-get update` as root")?;
        download(&downloads).with_context(|| format!("download {PACKAGE}, or have `etcd` in PATH"))?;
    }
    let package = package_in(&downloads)?;
    let unpacked = downloads.join("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&package).arg(&unpacked).stdin(Stdio::null()).stdout(Stdio::null());
    succeed(unpack)?;
    if !unpacked.join(PROGRAMS).join("etcd").is_file() {
        bail!("{PACKAGE} holds no {PROGRAMS}/etcd; have `etcd` in PATH");
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::rename(&unpacked, folder).with_context(|| format!("move what was unpacked to {}", folder.display()))?;
    fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))
}

/// Needs no root: the package is only put into a folder.
fn download(into: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["download", PACKAGE]).current_dir(into).stdin(Stdio::null()).stdout(Stdio::null());
    succeed(command)
}

fn package_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut packages = entries.flatten().map(|entry| entry.path()).filter(|path| is_package(path));
    packages.next().with_context(|| format!("apt-get put no package into {}", folder.display()))
}

fn is_package(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PACKAGE) && name.ends_with(".deb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_etcd_stands_first_in_the_path() {
        let check = |path: Option<&str>, expected: &str| {
            let found = path_with(Path::new("/t/etcd/usr/bin"), path.map(OsString::from)).expect("no colon in it");
            assert_eq!(found, OsString::from(expected));
        };
        check(Some("/usr/bin:/bin"), "/t/etcd/usr/bin:/usr/bin:/bin");
        check(None, "/t/etcd/usr/bin");
        assert!(path_with(Path::new("/a:b"), None).is_err());
    }

    #[test]
    fn the_package_is_told_from_what_else_lies_there() {
        assert!(is_package(Path::new("/x/etcd-server_3.4.23-4+b4_amd64.deb")));
        assert!(!is_package(Path::new("/x/etcd-server_3.4.23-4+b4_amd64.deb.partial")));
        assert!(!is_package(Path::new("/x/etcd-client_3.4.23-4+b4_amd64.deb")));
    }
}
