//! `reset`: makes a node nothing again. Its state, identity and keys go; models, and what is not ours, stay.
//!
//! The membership goes first, so that a directory that was half emptied is no member and can be started or reset again;
//! `keys/place`, by which it is known as ours, goes last. A running daemon, and a directory that is not ours or belongs
//! to another user, are refused. Without `--confirm` it only says what would go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::data_dir::{DataDirError, Held, empty_folder};
use crate::offline::{Failure, Form, code_of, refuse_foreign, show};

/// What goes, in this order, after the membership in `identity.json`.
const GOES: [&str; 9] = [
    "keys/cluster.key",
    "raft",
    "keys/node.key",
    "identity.json",
    "node.json",
    "admin.sock",
    "backups-waiting",
    "transfer",
    "keys",
];
/// What stays although it is ours, and why.
const STAYS: [(&str, &str); 3] = [
    ("backups", "sealed backups"),
    ("models", "the bundled engine's models"),
    ("runtime.json", "which runtime is used"),
];
/// Holds the lock of the command itself; empty of meaning without it.
const LOCK: &str = "lock";

/// What `reset` is asked.
#[derive(Debug)]
pub(crate) struct ResetArgs {
    /// The node's data directory.
    pub(crate) data_dir: PathBuf,
    /// Whether it shall be done.
    pub(crate) confirm: bool,
    /// How to show it.
    pub(crate) form: Form,
}

/// What lies in a data directory.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    goes: Vec<String>,
    stays: Vec<String>,
}

/// Empties a node, or says what that would mean.
///
/// # Errors
/// While a daemon runs, for a directory that is not ours or another user's, and when the disk refuses.
pub(crate) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    if args.confirm {
        refuse_foreign(&args.data_dir, "reset --confirm")?;
    }
    let mut held = Held::take(&args.data_dir)?;
    let who = match held.membership() {
        Ok(None) => "This node belongs to no cluster.\n".to_owned(),
        Ok(Some(member)) => format!(
            "This is node {} ({}) of cluster {}, which is not told: on another member, ollamax node remove {}\n",
            member.node, member.name, member.cluster_name, member.node
        ),
        Err(DataDirError::Damaged { reason, .. }) => format!("What it was cannot be read ({reason}).\n"),
        Err(error) => return Err(error.into()),
    };
    let content = content_of(held.root()).map_err(|error| refused(held.root(), &error))?;
    let (text, done) = (who + &page(&content, args.confirm), args.confirm);
    if done {
        empty(&mut held)?;
    }
    show(args.form, "Reset", &text, json!({"reset": done, "goes": content.goes, "stays": content.stays}))
}

fn content_of(root: &Path) -> io::Result<Content> {
    let goes = GOES.into_iter().filter(|name| root.join(name).symlink_metadata().is_ok()).map(str::to_owned).collect();
    let mut stays = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !GOES.contains(&name.as_str()) && name != LOCK {
            stays.push(name);
        }
    }
    stays.sort_unstable();
    Ok(Content { goes, stays })
}

fn page(content: &Content, done: bool) -> String {
    let (goes, stays) = if done { ("Removed", "Left") } else { ("Would be removed", "Would stay") };
    let mut page = format!("{goes}:\n");
    for name in &content.goes {
        page += &format!("  {name}\n");
    }
    if !content.stays.is_empty() {
        page += &format!("{stays}:\n");
    }
    for name in &content.stays {
        let why = STAYS.iter().find(|(known, _)| known == name).map(|(_, why)| format!(" ({why})"));
        page += &format!("  {name}{}\n", why.unwrap_or_default());
    }
    if !done {
        page += "Next: ollamax reset --confirm\n";
    }
    page
}

/// Removes everything, the membership first.
fn empty(held: &mut Held) -> Result<(), Failure> {
    held.forget_membership()?;
    for name in GOES {
        let path = held.root().join(name);
        remove(&path).map_err(|error| half_done(held, &path, &error))?;
    }
    let synced = fs::File::open(held.root()).and_then(|root| root.sync_all());
    synced.map_err(|error| half_done(held, held.root(), &error))
}

/// What a disk that refuses half-way leaves: what is not removed, and that the membership went first.
fn half_done(held: &Held, path: &Path, error: &io::Error) -> Failure {
    let left: Vec<&str> = GOES.into_iter().filter(|name| held.root().join(name).symlink_metadata().is_ok()).collect();
    let left = if left.is_empty() { "nothing, but a power cut may bring it back".to_owned() } else { left.join(", ") };
    let member = match held.membership() {
        Ok(_) => "this node is no member any more",
        Err(_) => "what this node was cannot be read",
    };
    let what = format!("remove {}: {error}; {member}, and not removed is: {left}", path.display());
    Failure::told(code_of(error), what, "mend the disk or the rights there, then repeat: ollamax reset --confirm")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(found) if found.is_dir() => empty_folder(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) => return Err(error),
    }
    // Gone for good before the next one goes.
    path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

fn refused(path: &Path, source: &io::Error) -> Failure {
    let path = path.to_owned();
    let again = io::Error::new(source.kind(), source.to_string());
    Failure::from(DataDirError::Unusable { path, source: again })
}

#[cfg(test)]
mod tests {
    use ollamax_types::{ErrorCode, Incarnation};

    use super::*;
    use crate::data_dir::DataDir;
    use crate::data_dir::tests::membership;
    use crate::offline::{EXIT_CONFLICT, EXIT_FAILED, EXIT_USAGE};

    /// The directory of a member that has everything.
    fn member() -> tempfile::TempDir {
        let temp = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        for name in [
            "keys/node.key",
            "keys/cluster.key",
            "raft/high-water",
            "raft/db/CURRENT",
            "backups/one.oxb.age",
            "backups-waiting/one.oxb.age",
            "transfer/trees/sha256-1.tree",
            "models/blobs/sha256-1",
            "runtime.json",
            "node.json",
            "notes.txt",
        ] {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, name).expect("written");
        }
        dir.set_membership(Some(membership())).expect("saved");
        temp
    }

    fn names(root: &Path) -> Vec<String> {
        let names = fs::read_dir(root).expect("listed").map(|entry| entry.expect("listed").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    fn run(root: &Path, confirm: bool) -> Result<(), Failure> {
        reset(&ResetArgs { data_dir: root.to_owned(), confirm, form: Form::Json })
    }

    #[test]
    fn without_consent_it_is_only_shown_and_with_it_everything_of_ours_goes() {
        let temp = member();
        let before = names(temp.path());
        run(temp.path(), false).expect("only shown");
        assert_eq!(names(temp.path()), before);
        let content = content_of(temp.path()).expect("listed");
        let goes = [
            "keys/cluster.key",
            "raft",
            "keys/node.key",
            "identity.json",
            "node.json",
            "backups-waiting",
            "transfer",
            "keys",
        ];
        assert_eq!(content.goes, goes);
        assert_eq!(content.stays, ["backups", "models", "notes.txt", "runtime.json"]);
        let shown = page(&content, false);
        assert!(shown.contains("  models (the bundled engine's models)\n"), "{shown}");
        assert!(shown.ends_with("Next: ollamax reset --confirm\n"), "{shown}");
        assert!(!page(&content, true).contains("Next"));

        run(temp.path(), true).expect("reset");
        assert_eq!(names(temp.path()), ["backups", "lock", "models", "notes.txt", "runtime.json"]);
        assert!(temp.path().join("models/blobs/sha256-1").exists());
        // It is nobody now, and may become somebody else.
        let refused = run(temp.path(), true).expect_err("nothing of ours is left");
        assert_eq!(refused.exit, EXIT_USAGE, "{}", refused.text);
        let dir = DataDir::open(temp.path(), Incarnation([8; 16])).expect("opens");
        assert_eq!((dir.membership(), dir.incarnation()), (None, Incarnation([8; 16])));
    }

    #[test]
    fn wherever_it_is_cut_off_the_directory_is_no_member_and_can_be_reset_again() {
        for gone in 0..GOES.len() {
            let temp = member();
            let mut held = Held::take(temp.path()).expect("ours");
            held.forget_membership().expect("saved");
            for name in &GOES[..gone] {
                remove(&temp.path().join(name)).expect("removed");
            }
            drop(held);
            let held = Held::take(temp.path()).expect("still ours");
            assert!(matches!(held.membership(), Ok(None)), "after {gone}");
            drop(held);
            run(temp.path(), true).expect("reset");
            assert_eq!(names(temp.path()), ["backups", "lock", "models", "notes.txt", "runtime.json"], "after {gone}");
        }
    }

    #[test]
    fn a_disk_that_refuses_half_way_is_told_with_what_is_left_and_how_to_go_on() {
        let temp = member();
        let mut held = Held::take(temp.path()).expect("ours");
        held.forget_membership().expect("saved");
        remove(&temp.path().join("keys/cluster.key")).expect("removed");
        let error = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let told = half_done(&held, &temp.path().join("raft"), &error);
        assert_eq!(told.exit, EXIT_FAILED, "{}", told.text);
        let left = "not removed is: raft, keys/node.key, identity.json, node.json, backups-waiting, transfer, keys\n";
        for part in ["this node is no member any more", left, "repeat: ollamax reset --confirm"] {
            assert!(told.text.contains(part), "{part:?} in {}", told.text);
        }
        let denied = half_done(&held, temp.path(), &io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.code, Some(ErrorCode::Forbidden));
    }

    #[test]
    fn a_running_daemon_is_left_alone_and_a_damaged_identity_is_not() {
        let temp = member();
        let dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        let refused = run(temp.path(), true).expect_err("in use");
        assert!(refused.exit == EXIT_CONFLICT && refused.text.contains("in use"), "{}", refused.text);
        drop(dir);
        fs::write(temp.path().join("identity.json"), "{\"format\":1,").expect("written");
        run(temp.path(), true).expect("reset");
        assert!(!temp.path().join("identity.json").exists() && !temp.path().join("raft").exists());

        let newer = member();
        fs::write(newer.path().join("identity.json"), "{\"format\":99}").expect("written");
        let refused = run(newer.path(), true).expect_err("of a newer release");
        assert!(refused.text.contains("format 99"), "{}", refused.text);
        assert!(newer.path().join("raft").exists());
    }
}
