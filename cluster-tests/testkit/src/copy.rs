//! Copies of directories: a data directory on a second machine, a database as it was.

use std::fs;
use std::io;
use std::path::Path;

/// Copies a directory with its permissions, its files and what lies below; sockets stay behind.
///
/// # Errors
/// When something cannot be read or written, or `to` exists.
pub fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn files_go_along_with_what_lies_below_and_sockets_do_not() {
        let folder = tempfile::tempdir().expect("a directory");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("below")).expect("made");
        fs::write(from.join("one"), "1").expect("written");
        fs::write(from.join("below").join("two"), "2").expect("written");
        let _socket = UnixListener::bind(from.join("socket")).expect("bound");
        copy_directory(&from, &to).expect("copied");
        let read = |name: &str| fs::read_to_string(to.join(name)).ok();
        assert_eq!((read("one").as_deref(), read("below/two").as_deref()), (Some("1"), Some("2")));
        assert!(!to.join("socket").exists());
        assert!(copy_directory(&from, &to).is_err(), "it is there already");
    }
}
