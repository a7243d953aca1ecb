//! Debian's packages, unpacked below the target directory instead of installed: installing a server would start it as a
//! service and leave it running. apt checks a package's signature.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{apt_get, is_root};
use crate::workspace::{Workspace, succeed};

/// A package of which one program is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: &'static str,
    /// Folder of the target directory.
    pub(super) folder: &'static str,
    /// Where programs lie in the package.
    pub(super) programs: &'static str,
    pub(super) program: &'static str,
}

// === impl Package ===

impl Package {
    /// Whether an earlier run has fetched it.
    pub(super) fn is_unpacked(&self, workspace: &Workspace) -> bool {
        self.program_in(&self.folder_in(workspace)).is_file()
    }

    /// Fetches it where it is missing, and lets a command's PATH begin with its programs.
    pub(super) fn lead_to(&self, workspace: &Workspace, command: &mut Command) -> Result<()> {
        let folder = self.folder_in(workspace);
        if !self.is_unpacked(workspace) {
            self.fetch(&folder)?;
        }
        command.env("PATH", path_with(&folder.join(self.programs), env::var_os("PATH"))?);
        Ok(())
    }

    fn folder_in(&self, workspace: &Workspace) -> PathBuf {
        workspace.target_dir().join(self.folder)
    }

    fn program_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.programs).join(self.program)
    }

    /// Downloads the package and unpacks it; the folder appears when all of it is there.
    fn fetch(&self, folder: &Path) -> Result<()> {
        let Self { name, programs, program, .. } = *self;
        let downloads = folder.with_extension("download");
        if downloads.exists() {
            fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))?;
        }
        fs::create_dir_all(&downloads).with_context(|| format!("make {}", downloads.display()))?;
        eprintln!("fetching Debian's {name} into {}", folder.display());
        if let Err(problem) = self.download(&downloads) {
            // The lists may name a package that is not there any more, or there are none yet.
            eprintln!("updating the package lists: {problem:#}");
            let mut update = apt_get(is_root(), &["update"]);
            update.stdout(Stdio::null());
            succeed(update).context("update the package lists; by hand: `apt-get update` as root")?;
            self.download(&downloads).with_context(|| format!("download {name}, or have `{program}` in PATH"))?;
        }
        let package = self.package_in(&downloads)?;
        let unpacked = downloads.join("unpacked");
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(&package).arg(&unpacked).stdin(Stdio::null()).stdout(Stdio::null());
        succeed(unpack)?;
        if !self.program_in(&unpacked).is_file() {
            bail!("{name} holds no {programs}/{program}; have `{program}` in PATH");
        }
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::rename(&unpacked, folder).with_context(|| format!("move what was unpacked to {}", folder.display()))?;
        fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))
    }

    /// Needs no root: the package is only put into a folder.
    fn download(&self, into: &Path) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(["download", self.name]).current_dir(into).stdin(Stdio::null()).stdout(Stdio::null());
        succeed(command)
    }

    fn package_in(&self, folder: &Path) -> Result<PathBuf> {
        let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
        let mut packages = entries.flatten().map(|entry| entry.path()).filter(|path| self.is_in(path));
        packages.next().with_context(|| format!("apt-get put no package into {}", folder.display()))
    }

    fn is_in(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{}_", self.name)) && name.ends_with(".deb")
    }
}

/// The folder before all others, so that it is found there.
fn path_with(folder: &Path, path: Option<OsString>) -> Result<OsString> {
    let others: Vec<PathBuf> = path.iter().flat_map(env::split_paths).collect();
    env::join_paths(std::iter::once(folder.to_owned()).chain(others)).context("name a folder of programs in PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_programs_stands_first_in_the_path() {
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
        let package = Package { name: "etcd-server", folder: "etcd", programs: "usr/bin", program: "etcd" };
        let check = |path: &str, expected: bool| assert_eq!(package.is_in(Path::new(path)), expected, "{path}");
        check("/x/etcd-server_3.4.23-4+b4_amd64.deb", true);
        check("/x/etcd-server_3.4.23-4+b4_amd64.deb.partial", false);
        check("/x/etcd-server-extra_3.4.23-4+b4_amd64.deb", false);
        check("/x/etcd-client_3.4.23-4+b4_amd64.deb", false);
    }
}
