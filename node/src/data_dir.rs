//! The data directory: who may use it, and whether it is the one that this node had.
//!
//! ```text
//! lock            held while a daemon runs; carries its pid
//! identity.json   incarnation, place, membership
//! keys/           node key, cluster key (mode 0600)
//! raft/           the replicated state (`store`); `raft/recovered` while a recovery is under way
//! backups/        backups of it, unless `backup.to` names another place
//! backups-waiting/  backups on their way to a bucket
//! models/         the bundled engine's models
//! transfer/       what is known of the runtime's model files, made again where it is missing; pulls under way
//! node.json       addresses and pid of the running daemon, for tools
//! admin.sock      the administrator's door
//! ```
//!
//! What always holds: one daemon at a time; `identity.json` is replaced whole (write, sync, rename, sync); a
//! directory that was copied, or whose Raft part was lost, is refused with the command that mends it, before
//! anything speaks to the network. A recovery that was cut off is finished, or what it left is thrown away, when the
//! directory is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use ollamax_types::{ClusterId, Incarnation, NodeId, PeerId, Role};

use crate::recovery::staging::Staging;

const IDENTITY_FORMAT: u32 = 1;
/// Stands for no place at all; no file has this number.
const NO_INODE: u64 = 0;

/// Why a data directory cannot be used. Each text ends with what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// It cannot be made or read.
    #[error(
        "data directory {path}: {source}\ntry: create it, owned by the user that runs the daemon, or choose another with --data-dir"
    )]
    Unusable {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon runs on it.
    #[error(
        "data directory {path} is in use by process {pid}\ntry: stop that daemon, or choose another directory with --data-dir"
    )]
    Locked {
        /// Which directory.
        path: PathBuf,
        /// Who holds it, as far as known.
        pid: String,
    },
    /// `identity.json` is not readable as such.
    #[error(
        "{path}: {reason}\ntry: restore the file from a backup of this machine, or remove this node on another member (ollamax node remove) and start with an empty data directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer release.
    #[error("{path} has format {found}; this release knows {known}\ntry: run the release that wrote it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The directory was copied or restored.
    #[error(
        "data directory {path} was copied or restored from elsewhere; two nodes with one identity would damage the cluster\ntry: if the original is gone for good: ollamax-node adopt --data-dir {path}\n     else: start this machine with an empty data directory and join it as a new node"
    )]
    Copied {
        /// Which directory.
        path: PathBuf,
    },
    /// The node had joined, but its Raft directory is gone.
    #[error(
        "node {node} had joined cluster {cluster}, but its replicated state in {path} is gone; its vote could be counted twice\ntry: on another member: ollamax node remove {node}\n     then start this machine with an empty data directory and join it again"
    )]
    Wiped {
        /// Its id.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
        /// What is missing.
        path: PathBuf,
    },
    /// Nothing of this product lies there.
    #[error("{path} is no data directory of a node\ntry: name the right one with --data-dir")]
    NotOurs {
        /// Which directory.
        path: PathBuf,
    },
}

/// What a member keeps of its membership outside the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Membership {
    /// 32 hex digits.
    pub(crate) cluster: String,
    /// For people.
    pub(crate) cluster_name: String,
    /// Ed25519, 64 hex digits.
    pub(crate) cluster_public_key: String,
    /// This node's id.
    pub(crate) node: NodeId,
    /// This node's name.
    pub(crate) name: String,
    /// What it may become.
    pub(crate) role: Role,
    /// Signed membership credential, hex.
    pub(crate) credential: String,
    /// Members known at the time of joining; the replicated state is newer as soon as there is one.
    pub(crate) known: Vec<KnownMember>,
    /// Set once the Raft directory exists: from then on an empty one is refused.
    pub(crate) raft_opened: bool,
    /// Set once this node has learnt that it was removed: from then on it takes part in nothing.
    #[serde(default)]
    pub(crate) removed: bool,
    /// The cluster that this one was recovered from, 32 hex digits. Since 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recovered_from: Option<String>,
}

/// A member to call before the replicated state has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KnownMember {
    /// Its id.
    pub(crate) node: NodeId,
    /// Its key.
    pub(crate) peer_id: PeerId,
    /// `host:port`, best first.
    pub(crate) addresses: Vec<String>,
    /// Multiaddresses of its `p2p` listener; only where this node is reached over its own connections alone, so that
    /// older releases read every other file. Since 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) p2p: Vec<String>,
}

impl Membership {
    /// The cluster's id.
    ///
    /// # Errors
    /// When the stored text was damaged.
    pub(crate) fn cluster_id(&self) -> Result<ClusterId, ollamax_types::id::ParseIdError> {
        self.cluster.parse()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    incarnation: String,
    place: Place,
    membership: Option<Membership>,
    /// A recovery has switched to `membership`, and its files may not be in their places yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    recovering: bool,
}

/// Where the file was made: a copy lies in another inode or on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    machine: String,
    inode: u64,
}

/// An open, locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    identity: IdentityFile,
    incarnation: Incarnation,
    _lock: Flock<File>,
}

/// Whether a directory belongs to a member, without opening it. One that cannot be read counts as one.
#[must_use]
pub(crate) fn has_membership(root: &Path) -> bool {
    match read_identity(&root.join("identity.json")) {
        Ok(identity) => identity.is_some_and(|identity| identity.membership.is_some()),
        Err(_) => true,
    }
}

// === impl DataDir ===

impl DataDir {
    /// Opens the directory, making it if it is not there, and takes its lock.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub(crate) fn open(root: &Path, fresh_incarnation: Incarnation) -> Result<Self, DataDirError> {
        Self::open_as(root, fresh_incarnation, false)
    }

    /// As [`DataDir::open`], and declares a copied directory to be the only one.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub(crate) fn adopt(root: &Path, fresh_incarnation: Incarnation) -> Result<Self, DataDirError> {
        Self::open_as(root, fresh_incarnation, true)
    }

    fn open_as(root: &Path, fresh: Incarnation, adopt: bool) -> Result<Self, DataDirError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(root);
        made.map_err(|source| DataDirError::Unusable { path: root.to_owned(), source })?;
        let lock = take_lock(root)?;
        Self::open_locked(root, lock, fresh, adopt)
    }

    fn open_locked(root: &Path, lock: Flock<File>, fresh: Incarnation, adopt: bool) -> Result<Self, DataDirError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Unusable { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root.join("keys")).map_err(unusable(root))?;
        let anchor = root.join("keys").join("place");
        if !anchor.exists() {
            // Durable before `identity.json` names it: a power cut must not make the original look like a copy.
            let text = b"Marks this directory as the original; see identity.json.\n";
            let made = replace_file(&anchor, text, 0o644).and_then(|()| File::open(root)?.sync_all());
            made.map_err(unusable(&anchor))?;
        }
        let place = Place { machine: machine_id(), inode: fs::metadata(&anchor).map_err(unusable(&anchor))?.ino() };
        let path = root.join("identity.json");
        let identity = match read_identity(&path)? {
            Some(found) if found.place == place => found,
            Some(found) if adopt => IdentityFile { place, ..found },
            Some(_) => return Err(DataDirError::Copied { path: root.to_owned() }),
            None => IdentityFile {
                format: IDENTITY_FORMAT,
                incarnation: fresh.to_string(),
                place,
                membership: None,
                recovering: false,
            },
        };
        let incarnation = identity
            .incarnation
            .parse()
            .map_err(|error| DataDirError::Damaged { path, reason: format!("incarnation: {error}") })?;
        let mut dir = Self { root: root.to_owned(), identity, incarnation, _lock: lock };
        dir.settle_recovery()?;
        dir.refuse_wiped()?;
        dir.save()?;
        dir.sweep_left_cluster()?;
        Ok(dir)
    }

    /// Puts the files of a recovery that has switched into their places, and throws away those of one that has not.
    fn settle_recovery(&mut self) -> Result<(), DataDirError> {
        let staging = Staging::of(&self.root);
        let settled = if self.identity.recovering { staging.finish() } else { staging.clear() };
        settled.map_err(|source| DataDirError::Unusable { path: staging.store(), source })?;
        self.identity.recovering = false;
        Ok(())
    }

    fn refuse_wiped(&self) -> Result<(), DataDirError> {
        let Some(membership) = &self.identity.membership else { return Ok(()) };
        let raft = self.root.join("raft");
        if membership.raft_opened && !raft.join("high-water").exists() {
            let cluster = membership.cluster_id().unwrap_or_default();
            return Err(DataDirError::Wiped { node: membership.node, cluster, path: raft });
        }
        Ok(())
    }

    /// Where no cluster is, the Raft directory goes when nothing has it open: after `leave`, or after a restore that
    /// was cut off.
    fn sweep_left_cluster(&self) -> Result<(), DataDirError> {
        let raft = self.root.join("raft");
        if self.identity.membership.is_some() {
            return Ok(());
        }
        // What an `init` or a restore left that was cut off before its last step.
        drop(fs::remove_file(self.root.join("keys").join("cluster.key")));
        empty_folder(&raft).map_err(|source| DataDirError::Unusable { path: raft, source })
    }

    /// The directory itself.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Drawn when the directory was made.
    #[must_use]
    pub(crate) const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What this node belongs to, if anything.
    #[must_use]
    pub(crate) const fn membership(&self) -> Option<&Membership> {
        self.identity.membership.as_ref()
    }

    /// Records (or forgets) what this node belongs to; durable on return.
    ///
    /// # Errors
    /// When the file cannot be replaced; the old one then still stands.
    pub(crate) fn set_membership(&mut self, membership: Option<Membership>) -> Result<(), DataDirError> {
        let before = std::mem::replace(&mut self.identity.membership, membership);
        self.save().inspect_err(|_| self.identity.membership = before)
    }

    /// The one switch of a recovery: from here on this node is what `membership` says. The store and the key that lie
    /// ready in [`Staging`] take the places of the old ones; if that is cut off, the next opening goes on with it.
    ///
    /// # Errors
    /// When the file cannot be replaced; the node is what it was then. When a file cannot be moved; repeat it then.
    pub(crate) fn switch_to_recovered(&mut self, membership: Membership) -> Result<(), DataDirError> {
        let before = self.identity.clone();
        self.identity = IdentityFile { membership: Some(membership), recovering: true, ..before.clone() };
        self.save().inspect_err(|_| self.identity = before)?;
        self.settle_recovery()?;
        self.save()
    }

    /// Records that this directory is a copy: from the next start on it is refused until it is adopted.
    ///
    /// # Errors
    /// When the file cannot be replaced; the old one then still stands.
    pub(crate) fn mark_copied(&mut self) -> Result<(), DataDirError> {
        let before = std::mem::replace(&mut self.identity.place.inode, NO_INODE);
        self.save().inspect_err(|_| self.identity.place.inode = before)
    }

    fn save(&self) -> Result<(), DataDirError> {
        write_identity(&self.root, &self.identity)
    }
}

fn write_identity(root: &Path, identity: &IdentityFile) -> Result<(), DataDirError> {
    let path = root.join("identity.json");
    let text = serde_json::to_vec_pretty(identity).expect("plain fields serialise");
    replace_file(&path, &text, 0o600).map_err(|source| DataDirError::Unusable { path, source })
}

/// A data directory under its lock, of which nothing is believed yet: to be looked at, or to be emptied.
#[derive(Debug)]
pub(crate) struct Held {
    root: PathBuf,
    identity: Result<Option<IdentityFile>, DataDirError>,
    lock: Flock<File>,
}

// === impl Held ===

impl Held {
    /// Takes the lock of a directory that is one of ours. Nothing else is changed.
    ///
    /// # Errors
    /// When it is none, may not be looked into, or a daemon runs on it.
    pub(crate) fn take(root: &Path) -> Result<Self, DataDirError> {
        let path = root.join("identity.json");
        let there =
            |path: &Path| path.try_exists().map_err(|source| DataDirError::Unusable { path: path.to_owned(), source });
        if !there(&path)? && !there(&root.join("keys").join("place"))? {
            return Err(DataDirError::NotOurs { path: root.to_owned() });
        }
        let lock = take_lock(root)?;
        Ok(Self { root: root.to_owned(), identity: read_identity(&path), lock })
    }

    /// Opens it, still under the same lock.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub(crate) fn open(self, fresh_incarnation: Incarnation) -> Result<DataDir, DataDirError> {
        DataDir::open_locked(&self.root, self.lock, fresh_incarnation, false)
    }

    /// The directory itself.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What this node belongs to, if anything.
    ///
    /// # Errors
    /// When `identity.json` cannot be read as such.
    pub(crate) fn membership(&self) -> Result<Option<&Membership>, &DataDirError> {
        self.identity.as_ref().map(|identity| identity.as_ref()?.membership.as_ref())
    }

    /// Whether a recovery has switched and was not finished.
    #[must_use]
    pub(crate) fn is_recovering(&self) -> bool {
        matches!(&self.identity, Ok(Some(identity)) if identity.recovering)
    }

    /// Forgets what this node belongs to; durable on return. What cannot be read says nothing and is left.
    ///
    /// # Errors
    /// When the file cannot be replaced; the old one then still stands.
    pub(crate) fn forget_membership(&mut self) -> Result<(), DataDirError> {
        let Ok(Some(identity)) = &mut self.identity else { return Ok(()) };
        let forgotten = IdentityFile { membership: None, recovering: false, ..identity.clone() };
        write_identity(&self.root, &forgotten)?;
        *identity = forgotten;
        Ok(())
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes a folder with all that is in it; none is no error.
///
/// # Errors
/// What the system said, when something is left in it.
pub(crate) fn empty_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Another disk that is mounted there cannot go, but it is empty now.
        Err(_) if is_empty(folder) => Ok(()),
        removed => removed,
    }
}

/// Replaces a file whole: a crash leaves the old or the new one, never a part.
///
/// # Errors
/// What the system said; the old file then still stands.
pub(crate) fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = written {
        drop(fs::remove_file(&fresh));
        return Err(error);
    }
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a file lies in; of a bare name the one that this process stands in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn take_lock(root: &Path) -> Result<Flock<File>, DataDirError> {
    let path = root.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
    let mut file = open.map_err(|source| DataDirError::Unusable { path: path.clone(), source })?;
    let mut holder = String::new();
    drop(file.read_to_string(&mut holder));
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| DataDirError::Locked { path: root.to_owned(), pid: holder.trim().to_owned() })?;
    let stamped = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    stamped.map_err(|source| DataDirError::Unusable { path, source })?;
    Ok(lock)
}

fn read_identity(path: &Path) -> Result<Option<IdentityFile>, DataDirError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Unusable { path: path.to_owned(), source }),
    };
    let damaged =
        |reason: serde_json::Error| DataDirError::Damaged { path: path.to_owned(), reason: reason.to_string() };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let found = value["format"].as_u64().and_then(|format| u32::try_from(format).ok()).unwrap_or(0);
    if found > IDENTITY_FORMAT {
        return Err(DataDirError::Newer { path: path.to_owned(), found, known: IDENTITY_FORMAT });
    }
    serde_json::from_value(value).map(Some).map_err(damaged)
}

/// The machine's id as systemd and D-Bus know it; empty where there is none (then only the inode tells copies).
fn machine_id() -> String {
    let read =
        ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().find_map(|path| fs::read_to_string(path).ok());
    read.map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// That of node 2 of a cluster "lab", whose Raft directory exists.
    pub(crate) fn membership() -> Membership {
        Membership {
            cluster: ClusterId([1; 16]).to_string(),
            cluster_name: "lab".to_owned(),
            cluster_public_key: "00".repeat(32),
            node: NodeId(2),
            name: "n2".to_owned(),
            role: Role::Voter,
            credential: String::new(),
            known: Vec::new(),
            raft_opened: true,
            removed: false,
            recovered_from: None,
        }
    }

    pub(crate) fn copy_tree(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("listed").map(|entry| entry.expect("entry")) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_tree(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).expect("copied");
            }
        }
    }

    #[test]
    fn a_file_by_its_bare_name_lies_where_the_process_stands() {
        for (path, folder) in [("n3.json", "."), ("a/n3.json", "a"), ("/n3.json", "/"), ("./n3.json", ".")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_its_neighbours_are_left_alone() {
        let temp = tempfile::tempdir().expect("temp");
        let (path, neighbour) = (temp.path().join("n3.json"), temp.path().join("n3.new"));
        fs::write(&neighbour, "mine").expect("written");
        for text in ["one", "two"] {
            replace_file(&path, text.as_bytes(), 0o600).expect("replaced");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        assert_eq!(fs::read_to_string(&neighbour).expect("there"), "mine");
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 2);
    }

    #[test]
    fn keeps_its_identity_across_restarts_and_allows_one_daemon() {
        let temp = tempfile::tempdir().expect("temp");
        let mut first = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        let second = DataDir::open(temp.path(), Incarnation([8; 16])).expect_err("locked");
        assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
        fs::create_dir(temp.path().join("raft")).expect("made");
        fs::write(temp.path().join("raft/high-water"), "x").expect("written");
        first.set_membership(Some(membership())).expect("saved");
        drop(first);
        let again = DataDir::open(temp.path(), Incarnation([8; 16])).expect("opens");
        assert_eq!(again.incarnation(), Incarnation([7; 16]));
        assert_eq!(again.membership(), Some(&membership()));
    }

    #[test]
    fn a_copied_directory_is_refused_until_it_is_adopted() {
        let temp = tempfile::tempdir().expect("temp");
        let (original, copy) = (temp.path().join("a"), temp.path().join("b"));
        drop(DataDir::open(&original, Incarnation([7; 16])).expect("opens"));
        copy_tree(&original, &copy);
        let refused = DataDir::open(&copy, Incarnation([8; 16])).expect_err("copied");
        assert!(matches!(refused, DataDirError::Copied { .. }));
        assert!(refused.to_string().contains("ollamax-node adopt --data-dir"), "{refused}");
        drop(DataDir::adopt(&copy, Incarnation([8; 16])).expect("adopted"));
        DataDir::open(&copy, Incarnation([8; 16])).expect("now the only one");
    }

    #[test]
    fn a_directory_that_turned_out_to_be_a_copy_is_refused_until_it_is_adopted() {
        let temp = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        dir.mark_copied().expect("saved");
        drop(dir);
        for _ in 0..2 {
            let refused = DataDir::open(temp.path(), Incarnation([8; 16])).expect_err("a copy");
            assert!(matches!(refused, DataDirError::Copied { .. }), "{refused}");
        }
        drop(DataDir::adopt(temp.path(), Incarnation([8; 16])).expect("adopted"));
        DataDir::open(temp.path(), Incarnation([8; 16])).expect("now the only one");
    }

    #[test]
    fn a_membership_of_before_says_nothing_of_a_removal() {
        let mut value = serde_json::to_value(membership()).expect("plain fields serialise");
        value.as_object_mut().expect("an object").remove("removed");
        assert_eq!(serde_json::from_value::<Membership>(value).expect("read"), membership());
    }

    #[test]
    fn a_membership_of_before_was_not_recovered_and_is_written_as_before() {
        let text = serde_json::to_string(&membership()).expect("plain fields serialise");
        assert!(!text.contains("recover"), "{text}");
        assert_eq!(serde_json::from_str::<Membership>(&text).expect("read"), membership());
    }

    #[test]
    fn known_members_are_written_as_before_unless_their_p2p_listeners_are_known() {
        let known = |p2p: &[&str]| KnownMember {
            node: NodeId(1),
            peer_id: PeerId("12D3KooWn1".to_owned()),
            addresses: vec!["10.0.0.1:11436".to_owned()],
            p2p: p2p.iter().map(|text| (*text).to_owned()).collect(),
        };
        let before = r#"{"node":1,"peer_id":"12D3KooWn1","addresses":["10.0.0.1:11436"]}"#;
        assert_eq!(serde_json::to_string(&known(&[])).expect("plain fields serialise"), before);
        assert_eq!(serde_json::from_str::<KnownMember>(before).expect("read"), known(&[]));
        let told = known(&["/ip4/10.0.0.1/tcp/11437"]);
        let text = serde_json::to_string(&told).expect("plain fields serialise");
        assert_eq!(serde_json::from_str::<KnownMember>(&text).expect("read"), told);
    }

    #[test]
    fn what_a_left_cluster_wrote_goes_at_the_next_start() {
        let temp = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        fs::create_dir(temp.path().join("raft")).expect("made");
        fs::write(temp.path().join("raft/high-water"), "x").expect("written");
        dir.set_membership(Some(membership())).expect("saved");
        dir.set_membership(None).expect("saved");
        drop(dir);
        drop(DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens"));
        assert!(!temp.path().join("raft").exists());
    }

    #[test]
    fn a_recovery_that_was_cut_off_is_finished_after_its_switch_and_thrown_away_before() {
        for switched in [false, true] {
            let temp = tempfile::tempdir().expect("temp");
            let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
            let staging = Staging::of(temp.path());
            let (old, new) = (temp.path().join("raft"), staging.store().join("raft"));
            for (folder, text) in [(&old, "old"), (&new, "new")] {
                fs::create_dir_all(folder.join("db")).expect("made");
                fs::write(folder.join("db").join("CURRENT"), text).expect("written");
                fs::write(folder.join("high-water"), text).expect("written");
            }
            fs::write(staging.key(), "new").expect("written");
            dir.identity.recovering = switched;
            dir.set_membership(Some(membership())).expect("saved");
            drop(dir);
            let held = Held::take(temp.path()).expect("ours");
            assert_eq!(held.is_recovering(), switched);
            drop(held);
            for _ in 0..2 {
                drop(DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens"));
                let expected = if switched { "new" } else { "old" };
                for name in ["db/CURRENT", "high-water"] {
                    assert_eq!(fs::read_to_string(old.join(name)).expect("there"), expected, "{name}");
                }
                assert_eq!(temp.path().join("keys").join("cluster.key").exists(), switched);
                assert!(!staging.store().exists() && !staging.key().exists());
                assert!(!Held::take(temp.path()).expect("ours").is_recovering());
            }
        }
    }

    #[test]
    fn a_directory_that_is_not_ours_is_not_touched() {
        let temp = tempfile::tempdir().expect("temp");
        fs::write(temp.path().join("letter.txt"), "dear").expect("written");
        let refused = Held::take(temp.path()).expect_err("not ours");
        assert!(matches!(refused, DataDirError::NotOurs { .. }), "{refused}");
        assert!(!temp.path().join("lock").exists());
    }

    #[test]
    fn a_member_without_its_raft_directory_is_refused() {
        let temp = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        dir.set_membership(Some(membership())).expect("saved");
        drop(dir);
        let refused = DataDir::open(temp.path(), Incarnation([7; 16])).expect_err("wiped");
        assert!(refused.to_string().contains("ollamax node remove 2"), "{refused}");
    }

    #[test]
    fn damaged_and_newer_identity_files_are_refused_and_left_alone() {
        for (content, needle) in [("{\"format\":1,", "EOF"), ("{\"format\":99}", "format 99"), ("{}", "missing field")]
        {
            let temp = tempfile::tempdir().expect("temp");
            fs::write(temp.path().join("identity.json"), content).expect("written");
            let refused = DataDir::open(temp.path(), Incarnation([7; 16])).expect_err("refused");
            assert!(refused.to_string().contains(needle), "{refused}");
            assert_eq!(fs::read_to_string(temp.path().join("identity.json")).expect("still there"), content);
        }
    }
}
