//! The administrator's unix socket: who may connect is decided by the file's owner, group and mode.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::unistd::{Group, chown};
use tokio::net::UnixListener;

/// Longest path that a unix socket takes, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The data directory lies too deep.
    #[error("{0} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a unix socket takes\ntry: a shorter --data-dir")]
    TooLong(String),
    /// What the system said.
    #[error("admin socket {path}: {source}")]
    Unusable {
        /// Which path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds the socket: mode 0660 in the admin group where the machine has it and lets us give it away, else 0600. The
/// caller holds the directory's lock, so a socket that lies there is a dead one and makes room.
///
/// # Errors
/// When the path is too long or the system refuses.
pub(crate) fn bind(path: &Path, admin_group: &str) -> Result<UnixListener, SocketError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::TooLong(path.display().to_string()));
    }
    let unusable = |source: io::Error| SocketError::Unusable { path: path.display().to_string(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    let mode = if give_to_group(path, admin_group) { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
    Ok(listener)
}

/// Whether the socket now belongs to the group; without it nobody but the owner may use it.
fn give_to_group(path: &Path, name: &str) -> bool {
    let group = if name.is_empty() { None } else { Group::from_name(name).ok().flatten() };
    let Some(group) = group else { return false };
    match chown(path, None, Some(group.gid)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, group = name, "give the admin socket to its group");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    use nix::unistd::getgid;
    use tokio::net::UnixStream;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("admin.sock");
        (temp, path)
    }

    #[tokio::test]
    async fn only_the_admin_group_may_use_it_besides_its_owner() {
        // The one group that everybody may give a file to.
        let own = Group::from_gid(getgid()).expect("readable").expect("the group of this process has a name");
        let check = |group: &str, mode: u32| {
            let (_temp, path) = place();
            let _listener = bind(&path, group).expect("bound");
            let about = fs::metadata(&path).expect("there");
            assert_eq!(about.mode() & 0o7777, mode, "{group:?}");
            assert!(mode == 0o600 || about.gid() == own.gid.as_raw(), "{group:?}");
        };
        check(&own.name, 0o660);
        check("no-such-group-here", 0o600);
        check("", 0o600);
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_daemon_left_makes_room() {
        let (_temp, path) = place();
        drop(bind(&path, "").expect("bound"));
        let refused = UnixStream::connect(&path).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = bind(&path, "").expect("bound again");
        let (called, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(called.is_ok() && accepted.is_ok(), "{called:?} {accepted:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_a_socket_is_told_with_its_path() {
        let (temp, path) = place();
        fs::create_dir(&path).expect("made");
        let text = bind(&path, "").expect_err("a folder lies there").to_string();
        assert!(text.starts_with(&format!("admin socket {}: ", path.display())), "{text}");
        let deep = temp.path().join("d".repeat(SOCKET_PATH_BYTES_MAX)).join("admin.sock");
        let text = bind(&deep, "").expect_err("too long").to_string();
        assert!(text.starts_with(&deep.display().to_string()) && text.contains("107 bytes"), "{text}");
        assert!(text.ends_with("try: a shorter --data-dir"), "{text}");
    }
}
