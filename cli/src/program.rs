//! The programs that are installed beside this one.

use std::path::PathBuf;

use crate::error::Failure;

/// The program of this name beside the running one.
pub(crate) fn sibling(name: &str) -> Result<PathBuf, Failure> {
    let next = "install ollamax-node and ollamax-engine beside ollamax, or: cargo build --workspace";
    let own = std::env::current_exe();
    let own = own.map_err(|error| Failure::new(1, "find this program", error.to_string(), next))?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    let why = "this command starts the programs beside this one";
    Err(Failure::new(1, format!("{} is not there", path.display()), why, next))
}
