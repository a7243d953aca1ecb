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

/// Binds the socket with mode 0660, in the admin group where the machine has it. The caller holds the directory's
/// lock, so a socket that lies there is a dead one.
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
    let group = if admin_group.is_empty() { None } else { Group::from_name(admin_group).ok().flatten() };
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some(group) = group
        && let Err(error) = chown(path, None, Some(group.gid))
    {
        tracing::warn!(%error, group = admin_group, "give the admin socket to its group");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
    Ok(listener)
}
