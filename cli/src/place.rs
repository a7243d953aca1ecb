//! Where the daemon on this machine keeps its data: what was asked for, else the default places that have a socket.
//!
//! A place that this user may not look into is named as such; it is never taken for one without a daemon.

use std::io;
use std::path::{Path, PathBuf};

use ollamax_types::place::{SERVICE_DATA_DIR, default_data_dir};

use crate::args::Global;
use crate::error::Failure;

const SOCKET: &str = "admin.sock";
/// What every directory of a node has, whether its daemon runs or not.
const IDENTITY: &str = "identity.json";

/// The data directory of the daemon that commands speak to.
pub(crate) fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(given) = &global.data_dir {
        return std::path::absolute(given)
            .map_err(|error| Failure::new(1, "data directory", error.to_string(), "--data-dir DIR"));
    }
    default_with(SOCKET)
}

/// The data directory of this machine's node, whether its daemon runs or not.
pub(crate) fn offline_dir(global: &Global) -> Result<PathBuf, Failure> {
    if global.data_dir.is_some() { data_dir(global) } else { default_with(IDENTITY) }
}

/// The first default place that has this file, else that of a daemon that this user starts.
fn default_with(file: &str) -> Result<PathBuf, Failure> {
    let own = own_data_dir();
    let candidates = own.iter().cloned().chain([PathBuf::from(SERVICE_DATA_DIR)]);
    let looked = candidates.map(|dir| {
        let found = dir.join(file).try_exists();
        (dir, found)
    });
    match choose(looked, file)? {
        Some(found) => Ok(found),
        None => own.ok_or_else(|| Failure::usage("no data directory: HOME is not set", "--data-dir DIR")),
    }
}

/// The place of a daemon that this user starts.
pub(crate) fn own_data_dir() -> Option<PathBuf> {
    let (xdg, home) = (std::env::var("XDG_DATA_HOME").ok(), std::env::var("HOME").ok());
    default_data_dir(false, xdg.as_deref(), home.as_deref())
}

/// The first directory with the file. Where there is none, one that could not be looked into is an error.
fn choose(looked: impl Iterator<Item = (PathBuf, io::Result<bool>)>, file: &str) -> Result<Option<PathBuf>, Failure> {
    let mut hidden = None;
    for (dir, found) in looked {
        match found {
            Ok(true) => return Ok(Some(dir)),
            Ok(false) => {}
            Err(error) => hidden = hidden.or(Some((dir, error))),
        }
    }
    hidden.map_or(Ok(None), |(dir, error)| Err(unusable(&dir.join(file), &error)))
}

/// The admin socket of a data directory.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// The running daemon's `node.json`.
pub(crate) fn node_file(global: &Global) -> Result<serde_json::Value, Failure> {
    let path = data_dir(global)?.join("node.json");
    let text = std::fs::read_to_string(&path).map_err(|error| unusable(&path, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(1, format!("read {}", path.display()), error.to_string(), "start the daemon again; it writes it")
    })
}

/// Why a file of the daemon could not be used: the user may not, or no daemon is there.
pub(crate) fn unusable(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        let what = format!("{shown} may not be used by this user");
        return Failure::new(6, what, error.to_string(), way_in(group_with_rights(path).as_deref()));
    }
    not_running(&shown.to_string(), &error.to_string())
}

/// No daemon answers at a place.
pub(crate) fn not_running(place: &str, why: &str) -> Failure {
    let next = "start it with: ollamax-node run; or name its directory with --data-dir";
    Failure::new(7, format!("no daemon answers at {place}"), why, next)
}

fn way_in(group: Option<&str>) -> String {
    match group {
        Some(group) => {
            format!("repeat it with sudo; or join the group: sudo usermod -aG {group} $USER, then log in again")
        }
        None => "repeat it with sudo, or as the user that runs the daemon".to_owned(),
    }
}

/// The group whose members may use a path, as far as this user can see: that of the path, else of its directory.
#[cfg(unix)]
fn group_with_rights(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    use nix::unistd::{Gid, Group};

    let about = path.metadata().or_else(|_| path.parent().unwrap_or(path).metadata()).ok()?;
    let may = about.mode() & 0o070 != 0 && about.gid() != 0;
    Group::from_gid(Gid::from_raw(about.gid())).ok().flatten().map(|group| group.name).filter(|_| may)
}

#[cfg(not(unix))]
fn group_with_rights(_path: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> io::Result<bool> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn a_place_that_may_not_be_looked_into_is_not_taken_for_an_empty_one() {
        let check = |own: io::Result<bool>, service: io::Result<bool>, expected: Result<Option<&str>, u8>| {
            let looked = [(PathBuf::from("/own"), own), (PathBuf::from("/service"), service)];
            let chosen = choose(looked.into_iter(), SOCKET);
            let expected = expected.map(|dir| dir.map(PathBuf::from));
            assert_eq!(chosen.map_err(|failure| failure.exit()), expected);
        };
        check(Ok(true), denied(), Ok(Some("/own")));
        check(Ok(false), Ok(true), Ok(Some("/service")));
        check(denied(), Ok(true), Ok(Some("/service")));
        check(Ok(false), Ok(false), Ok(None));
        check(Ok(false), denied(), Err(6));
        check(denied(), Ok(false), Err(6));
    }

    #[test]
    fn missing_rights_name_the_path_and_the_way_in() {
        let refused = unusable(Path::new("/nowhere/admin.sock"), &io::ErrorKind::PermissionDenied.into());
        let expected = "/nowhere/admin.sock may not be used by this user";
        let next = "repeat it with sudo, or as the user that runs the daemon";
        assert_eq!(refused, Failure::new(6, expected, "permission denied", next));
        let member = "repeat it with sudo; or join the group: sudo usermod -aG ollamax $USER, then log in again";
        assert_eq!(way_in(Some("ollamax")), member);
        assert_eq!(unusable(Path::new("/nowhere"), &io::ErrorKind::NotFound.into()).exit(), 7);
    }

    #[cfg(unix)]
    #[test]
    fn only_a_group_that_has_rights_is_named() {
        use std::os::unix::fs::{PermissionsExt as _, chown};

        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join(SOCKET);
        std::fs::write(&path, "").expect("written");
        let check = |mode: u32, may: bool| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let gid = nix::unistd::getgid();
            // Only root may give files away; the group of anybody else is not root's anyway.
            let gid = if gid.as_raw() == 0 { 1 } else { gid.as_raw() };
            chown(&path, None, Some(gid)).expect("given");
            let name = nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|group| group.name);
            assert_eq!(group_with_rights(&path), name.filter(|_| may), "{mode:o}");
        };
        check(0o660, true);
        check(0o600, false);
    }
}
