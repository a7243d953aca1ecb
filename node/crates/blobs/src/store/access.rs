//! Whether this process can publish into a store, and if not why and what would allow it.
//!
//! Publishing links files into `blobs`, renames one into `manifests`, and lets them grow beside `blobs` before; all on
//! one disk. What is published must stay the runtime's to replace and delete: so this process has to be the owner of
//! the store, or root, or share its group with the right to write. A right that everybody has, or a list of rights that
//! names this user, is not enough, since the files would then be ours alone. `look` gathers the facts, [`judge`] says
//! what they mean; nothing is tried out and nothing kept, so a right that was given counts from the next question on.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Gid, Group, User, eaccess, getegid, geteuid, getgroups};

use crate::store::{Owner, Store, is_absent};

/// Only owners may remove names from such a folder.
const STICKY: u32 = 0o1000;
/// The owner may write.
const OWNER_WRITES: u32 = 0o200;
/// The group may write.
const GROUP_WRITES: u32 = 0o020;
/// What gives a process new groups.
const RESTART: &str = "sudo systemctl restart ollamax-node";

/// What this process may do in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Publish; files get the store's owner as far as `how` allows.
    Direct {
        /// Whose files the store's are.
        owner: Owner,
        /// By which right.
        how: How,
    },
    /// Read only: the runtime itself has to fetch.
    Locked {
        /// Whose files the store's are.
        owner: Owner,
        /// Why nothing can be published.
        reason: String,
        /// What would allow it.
        remedy: String,
    },
    /// Not even read.
    Hidden {
        /// Why.
        reason: String,
        /// What would allow it.
        remedy: String,
    },
}

/// The right by which files are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The store is this process's own.
    Owner,
    /// Root gives the files to the store's owner.
    Root,
    /// The store's group may write: files stay this process's own, and the group may replace them.
    Group,
}

/// What [`judge`] decides on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// This process's user.
    pub euid: u32,
    /// This process's group.
    pub egid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// What people call this process's user.
    pub user: String,
    /// What people call this process's group.
    pub user_group: String,
    /// What people call the group of the blobs.
    pub store_group: String,
    /// Where blobs are linked.
    pub blobs: Folder,
    /// Where manifests are renamed to.
    pub manifests: Folder,
    /// Where files grow.
    pub staging: Folder,
    /// Whether all three lie on one disk.
    pub same_device: bool,
}

/// One folder that publishing needs. One that is not there yet has the rights of the folder in which it will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Whether the system lets this process list it.
    pub readable: bool,
    /// Whether the system lets this process change it.
    pub writable: bool,
}

/// What the facts mean.
#[must_use]
pub fn judge(facts: &Facts) -> Access {
    let Facts { blobs, manifests, staging, .. } = facts;
    if let Some(hidden) = [blobs, manifests].into_iter().find(|folder| !folder.readable) {
        let reason = format!("{} cannot be read by {}", hidden.path.display(), facts.user);
        return Access::Hidden { reason, remedy: facts.remedy(&format!("sudo chmod g+rx {}", hidden.path.display())) };
    }
    let owner = Owner { uid: blobs.uid, gid: blobs.gid };
    let locked = |reason: String, remedy: String| Access::Locked { owner, reason, remedy };
    if !facts.same_device {
        let reason = format!("{} lies on another disk than {}", manifests.path.display(), blobs.path.display());
        return locked(reason, "put the manifests and the blobs of the store on one disk".to_owned());
    }
    if let Some(closed) = [blobs, manifests, staging].into_iter().find(|folder| !folder.writable) {
        let path = closed.path.display();
        if facts.has_bits(closed) {
            let reason = format!("{path} takes no changes, although its rights allow them to {}", facts.user);
            let remedy = format!("mount it writable, and name it in ReadWritePaths= of the unit; then {RESTART}");
            return locked(reason, remedy);
        }
        return locked(format!("{path} cannot be written by {}", facts.user), facts.share());
    }
    if facts.owns_store() {
        return Access::Direct { owner, how: How::Owner };
    }
    if facts.euid == 0 {
        return Access::Direct { owner, how: How::Root };
    }
    let foreign: Vec<&Folder> = [blobs, manifests].into_iter().filter(|folder| folder.uid != facts.euid).collect();
    if let Some(sticky) = foreign.iter().find(|folder| folder.mode & STICKY != 0) {
        let path = sticky.path.display();
        let reason = format!("in {path} only the owner of a file may replace it (sticky bit)");
        return locked(reason, format!("sudo chmod -t {path}"));
    }
    if let Some(unshared) = foreign.iter().find(|folder| !facts.shares(folder)) {
        let path = unshared.path.display();
        let reason =
            format!("{path} is open to {}, but not through its group: only this node could replace", facts.user);
        return locked(format!("{reason} what it publishes there"), facts.share());
    }
    Access::Direct { owner, how: How::Group }
}

// === impl Facts ===

impl Facts {
    fn is_in(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.contains(&gid)
    }

    /// Whether the folder is open to a group of this process.
    fn shares(&self, folder: &Folder) -> bool {
        folder.mode & GROUP_WRITES != 0 && self.is_in(folder.gid)
    }

    /// Whether the permission bits alone would let this process write.
    fn has_bits(&self, folder: &Folder) -> bool {
        let own = folder.uid == self.euid && folder.mode & OWNER_WRITES != 0;
        self.euid == 0 || own || self.shares(folder)
    }

    fn owns_store(&self) -> bool {
        [&self.blobs, &self.manifests].into_iter().all(|folder| folder.uid == self.euid)
    }

    /// The group through which the store can be shared. Root's group opens more than a store, so the process's own
    /// takes its place.
    fn shared_group(&self) -> (u32, &str) {
        match self.blobs.gid {
            0 => (self.egid, self.user_group.as_str()),
            gid => (gid, self.store_group.as_str()),
        }
    }

    /// What opens all folders to this process.
    fn share(&self) -> String {
        let [blobs, manifests, staging] = [&self.blobs, &self.manifests, &self.staging].map(|it| it.path.display());
        let install = format!("sudo install -d -m 700 -o {} {staging}", self.user);
        if self.owns_store() {
            return format!("{install} && sudo chmod u+rwx {blobs} {manifests}");
        }
        let (gid, group) = self.shared_group();
        let chgrp = if self.blobs.gid == gid && self.manifests.gid == gid {
            String::new()
        } else {
            format!("sudo chgrp -R {group} {blobs} {manifests} && ")
        };
        self.remedy(&format!("{install} && {chgrp}sudo chmod g+rwx {blobs} && sudo chmod -R g+w {manifests}"))
    }

    /// Makes this process's user a member of the store's group where it is none, then does `step`.
    fn remedy(&self, step: &str) -> String {
        let (gid, group) = self.shared_group();
        if self.is_in(gid) {
            return step.to_owned();
        }
        format!("sudo usermod -aG {group} {} && {step} && {RESTART}", self.user)
    }
}

/// Gathers the facts of a store.
pub(super) fn look(store: &Store) -> Facts {
    let (euid, egid) = (geteuid(), getegid());
    let place = store.staging_place();
    let (blobs, blobs_device) = folder(&store.blobs, &store.root);
    let (manifests, manifests_device) = folder(&store.manifests(), &store.root);
    let (staging, staging_device) = folder(&place, place.parent().unwrap_or(&store.root));
    Facts {
        euid: euid.as_raw(),
        egid: egid.as_raw(),
        groups: getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect(),
        user: User::from_uid(euid).ok().flatten().map_or_else(|| euid.to_string(), |user| user.name),
        user_group: group_name(egid),
        store_group: group_name(Gid::from_raw(blobs.gid)),
        same_device: blobs_device == manifests_device && blobs_device == staging_device,
        blobs,
        manifests,
        staging,
    }
}

fn group_name(gid: Gid) -> String {
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// A folder and its device. What cannot be asked is not readable; what is not there has the rights of what is above.
fn folder(path: &Path, above: &Path) -> (Folder, Option<u64>) {
    let asked = fs::metadata(path);
    let rights_of = match &asked {
        Ok(_) => Some(path),
        Err(error) if is_absent(error) => Some(above),
        Err(_) => None,
    };
    let metadata = asked.or_else(|_| fs::metadata(above)).ok();
    let may = |flags: AccessFlags| rights_of.is_some_and(|path| eaccess(path, flags | AccessFlags::X_OK).is_ok());
    let of = |ask: fn(&Metadata) -> u32| metadata.as_ref().map_or(0, ask);
    let folder = Folder {
        path: path.to_path_buf(),
        uid: of(Metadata::uid),
        gid: of(Metadata::gid),
        mode: of(Metadata::mode) & 0o7777,
        readable: may(AccessFlags::R_OK),
        writable: may(AccessFlags::W_OK),
    };
    (folder, metadata.as_ref().map(Metadata::dev))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const OWNER: Owner = Owner { uid: 998, gid: 997 };
    const JOIN: &str = "sudo usermod -aG ollama ollamax && ";
    const INSTALL: &str = "sudo install -d -m 700 -o ollamax /m/.ollamax && ";
    const OPEN: &str = "sudo chmod g+rwx /m/blobs && sudo chmod -R g+w /m/manifests";

    /// A folder of the packaged Ollama, as this process may use it.
    fn folder_of(path: &str, mode: u32, writable: bool) -> Folder {
        Folder { path: PathBuf::from(path), uid: OWNER.uid, gid: OWNER.gid, mode, readable: true, writable }
    }

    /// The packaged Ollama's store and a daemon of its own user.
    fn facts(mode: u32, writable: bool) -> Facts {
        Facts {
            euid: 500,
            egid: 500,
            groups: vec![],
            user: "ollamax".to_owned(),
            user_group: "lab".to_owned(),
            store_group: "ollama".to_owned(),
            blobs: folder_of("/m/blobs", mode, writable),
            manifests: folder_of("/m/manifests", mode, writable),
            staging: folder_of("/m/.ollamax", mode, writable),
            same_device: true,
        }
    }

    fn in_group(mode: u32, writable: bool) -> Facts {
        Facts { groups: vec![7, OWNER.gid], ..facts(mode, writable) }
    }

    fn check_direct(facts: &Facts, how: How) {
        assert_eq!(judge(facts), Access::Direct { owner: OWNER, how }, "{facts:?}");
    }

    fn check_locked(facts: &Facts, reason: &str, remedy: &str) {
        let (reason, remedy) = (reason.to_owned(), remedy.to_owned());
        assert_eq!(judge(facts), Access::Locked { owner: OWNER, reason, remedy }, "{facts:?}");
    }

    #[test]
    fn owner_root_and_a_group_that_may_write_publish() {
        check_direct(&Facts { euid: OWNER.uid, ..facts(0o755, true) }, How::Owner);
        check_direct(&Facts { euid: OWNER.uid, ..facts(0o1755, true) }, How::Owner);
        check_direct(&Facts { euid: 0, ..facts(0o755, true) }, How::Root);
        check_direct(&Facts { euid: 0, ..facts(0o1700, true) }, How::Root);
        check_direct(&in_group(0o775, true), How::Group);
        check_direct(&Facts { egid: OWNER.gid, ..facts(0o2770, true) }, How::Group);
        let mut half = in_group(0o775, true);
        half.manifests.uid = half.euid;
        half.manifests.mode = 0o755;
        check_direct(&half, How::Group);
    }

    #[test]
    fn who_may_only_read_is_told_how_to_get_more() {
        let cannot = "/m/blobs cannot be written by ollamax";
        let joined = format!("{JOIN}{INSTALL}{OPEN} && {RESTART}");
        check_locked(&facts(0o755, false), cannot, &joined);
        check_locked(&facts(0o775, false), cannot, &joined);
        let member = format!("{INSTALL}{OPEN}");
        check_locked(&in_group(0o755, false), cannot, &member);
        let mut staging = in_group(0o775, true);
        staging.staging = folder_of("/m/.ollamax", 0o755, false);
        check_locked(&staging, "/m/.ollamax cannot be written by ollamax", &member);
        let mut parted = in_group(0o755, false);
        parted.manifests.gid = 5;
        check_locked(&parted, cannot, &format!("{INSTALL}sudo chgrp -R ollama /m/blobs /m/manifests && {OPEN}"));
        let own = Facts { euid: OWNER.uid, ..facts(0o555, false) };
        check_locked(&own, cannot, &format!("{INSTALL}sudo chmod u+rwx /m/blobs /m/manifests"));
    }

    #[test]
    fn nobody_is_told_to_join_the_group_of_root() {
        let mut facts = facts(0o755, false);
        (facts.blobs.uid, facts.manifests.uid) = (0, 0);
        (facts.blobs.gid, facts.manifests.gid) = (0, 0);
        let Access::Locked { remedy, .. } = judge(&facts) else { panic!("only root may write") };
        assert_eq!(remedy, format!("{INSTALL}sudo chgrp -R lab /m/blobs /m/manifests && {OPEN}"));
    }

    #[test]
    fn a_right_that_is_not_the_groups_is_not_enough() {
        let reason = "/m/blobs is open to ollamax, but not through its group: only this node could replace what it \
                      publishes there";
        check_locked(&facts(0o777, true), reason, &format!("{JOIN}{INSTALL}{OPEN} && {RESTART}"));
        check_locked(&in_group(0o757, true), reason, &format!("{INSTALL}{OPEN}"));
        let sticky = "in /m/blobs only the owner of a file may replace it (sticky bit)";
        check_locked(&in_group(0o1775, true), sticky, "sudo chmod -t /m/blobs");
    }

    #[test]
    fn a_disk_that_takes_no_changes_is_not_a_matter_of_rights() {
        let reason = "/m/blobs takes no changes, although its rights allow them to ollamax";
        let remedy = "mount it writable, and name it in ReadWritePaths= of the unit; then sudo systemctl restart \
                      ollamax-node";
        check_locked(&Facts { euid: OWNER.uid, ..facts(0o755, false) }, reason, remedy);
        check_locked(&Facts { euid: 0, ..facts(0o755, false) }, reason, remedy);
        check_locked(&in_group(0o775, false), reason, remedy);
    }

    #[test]
    fn a_store_on_two_disks_is_locked_whoever_asks() {
        let parted = Facts { euid: 0, same_device: false, ..facts(0o755, true) };
        let remedy = "put the manifests and the blobs of the store on one disk";
        check_locked(&parted, "/m/manifests lies on another disk than /m/blobs", remedy);
    }

    #[test]
    fn what_cannot_be_read_is_hidden() {
        let mut hidden = facts(0o700, false);
        hidden.manifests.readable = false;
        let reason = "/m/manifests cannot be read by ollamax".to_owned();
        let remedy = format!("{JOIN}sudo chmod g+rx /m/manifests && {RESTART}");
        assert_eq!(judge(&hidden), Access::Hidden { reason, remedy });
    }

    #[test]
    fn our_own_folder_is_ours_with_and_without_what_will_be_made_in_it() {
        let folder = tempfile::tempdir().expect("temp");
        let store = Store::open(folder.path()).expect("a folder");
        let asked = fs::metadata(folder.path()).expect("ours");
        let owner = Owner { uid: asked.uid(), gid: asked.gid() };
        assert_eq!(store.access(), Access::Direct { owner, how: How::Owner });
        for name in ["blobs", "manifests", ".ollamax"] {
            fs::create_dir(folder.path().join(name)).expect("room");
            assert_eq!(store.access(), Access::Direct { owner, how: How::Owner }, "{name}");
        }
        // Root may write whatever the bits say.
        if !geteuid().is_root() {
            let access_with = |mode: u32| {
                let set = fs::set_permissions(folder.path().join("blobs"), fs::Permissions::from_mode(mode));
                set.expect("ours");
                store.access()
            };
            let (closed, hidden) = (access_with(0o500), access_with(0o300));
            assert!(matches!(closed, Access::Locked { .. }), "{closed:?}");
            assert!(matches!(hidden, Access::Hidden { .. }), "{hidden:?}");
            assert!(matches!(access_with(0o700), Access::Direct { .. }));
        }
    }
}
