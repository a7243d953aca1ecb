//! Where the daemon on this machine keeps its data: what was asked for, else the default places that have a socket.

use std::path::PathBuf;

use ollamax_types::place::{SERVICE_DATA_DIR, default_data_dir};

use crate::args::Global;
use crate::error::Failure;

/// The data directory of the daemon that commands speak to.
pub(crate) fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(given) = &global.data_dir {
        return std::path::absolute(given).map_err(|error| Failure::other("data directory", error.to_string()));
    }
    let (xdg, home) = (std::env::var("XDG_DATA_HOME").ok(), std::env::var("HOME").ok());
    let own = default_data_dir(false, xdg.as_deref(), home.as_deref());
    let service = PathBuf::from(SERVICE_DATA_DIR);
    let running = own.iter().chain([&service]).find(|dir| dir.join("admin.sock").exists()).cloned();
    running.or(own).ok_or_else(|| Failure::usage("no data directory: HOME is not set", "--data-dir DIR"))
}

/// One field of the running daemon's `node.json`.
pub(crate) fn node_file(global: &Global) -> Result<serde_json::Value, Failure> {
    let path = data_dir(global)?.join("node.json");
    let text =
        std::fs::read_to_string(&path).map_err(|error| not_running(&path.display().to_string(), &error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| Failure::other(format!("read {}", path.display()), error.to_string()))
}

/// No daemon answers at a place.
pub(crate) fn not_running(place: &str, why: &str) -> Failure {
    let next = "start it with: ollamax-node run; or name its directory with --data-dir";
    Failure::new(7, format!("no daemon answers at {place}"), why, next)
}
