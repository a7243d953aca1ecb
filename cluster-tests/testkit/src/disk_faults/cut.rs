//! A power cut as a plan: from the journal and what is there now to what a hard cut could have left.
//!
//! The plan is data and nothing is done here. It first keeps every file that has to come back under another name, then
//! takes away what must not stand where it stands, children before parents, then puts back what must, parents before
//! children, and last treats the bytes behind the promised ones. The same state and seed give the same plan. What
//! cannot be brought back is said in the report and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::disk_faults::journal::Record;
use crate::disk_faults::lasting::{Lasting, Node, Step};
use crate::disk_faults::report::{CutReport, LostTail};
use crate::disk_faults::tree::{self, Entries, Entry, Found, Inode, Kind, Paths, Tree};
use crate::seed::Seed;

/// What a disk writes at once.
const SECTOR_BYTES: u64 = 512;
/// Purposes for which chance is drawn.
const NAMES_PURPOSE: u64 = 0x006e_616d_6573;
const TAILS_PURPOSE: u64 = 0x0074_6169_6c73;
const VARIANT_PURPOSE: u64 = 0x6375_745f_6b69_6e64;

/// What becomes of bytes that were written and never promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// They are gone.
    Cut,
    /// The file is as long as it was, with zeros in their place: its length reached the disk, its bytes did not.
    Zeroed,
    /// The file is as long as it was, with bytes of chance in their place.
    Garbled,
    /// Some of them are there, up to a border between sectors, or all, or none.
    Torn,
}

/// What becomes of changes of names that no sync has made last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// They are undone: new files are gone, renamed ones stand where they stood, removed ones are back.
    Undone,
    /// They are kept, although the bytes of the files are not: new files may be empty.
    Kept,
    /// The first of them are kept, as file systems with a journal do that write it in order; chance says how many.
    Drawn,
}

/// Which of the states that a power cut may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// What becomes of bytes.
    pub tail: Tail,
    /// What becomes of names.
    pub names: Names,
}

/// One thing to do. Paths are from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Give a file a second name in the graveyard, because it has to come back.
    Keep { path: PathBuf, inode: Inode },
    /// Move a directory into the graveyard, with what stays in it, because it has to come back.
    Lift { path: PathBuf, inode: Inode },
    /// Take a name away.
    Remove { path: PathBuf, kind: Kind },
    /// Put a kept file back.
    PutFile { path: PathBuf, inode: Inode },
    /// Put a lifted directory back.
    PutDirectory { path: PathBuf, inode: Inode },
    /// Make a directory that had been removed.
    MakeDirectory { path: PathBuf },
    /// Bring a file back that the library has buried.
    Raise { path: PathBuf, grave: OsString },
    /// Make a file shorter.
    Shorten { path: PathBuf, to: u64 },
    /// Write zeros.
    Zero { path: PathBuf, from: u64, to: u64 },
    /// Write bytes that this seed gives.
    Garble { path: PathBuf, from: u64, to: u64, seed: u64 },
}

/// What to do, and what will have been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Files and directories below the root afterwards.
    pub(crate) expected: BTreeMap<PathBuf, Kind>,
    pub(crate) report: CutReport,
}

// === impl Variant ===

impl Variant {
    /// Nothing is left but what was promised.
    pub const STRICT: Self = Self { tail: Tail::Cut, names: Names::Undone };

    /// One that chance chooses.
    #[must_use]
    pub fn drawn(seed: Seed) -> Self {
        let mut chance = seed.generator(VARIANT_PURPOSE);
        let tail = [Tail::Cut, Tail::Zeroed, Tail::Garbled, Tail::Torn][chance.random_range(0..4_usize)];
        let names = [Names::Undone, Names::Kept, Names::Drawn][chance.random_range(0..3_usize)];
        Self { tail, names }
    }
}

/// All names, by path and by place.
struct View {
    root: Node,
    paths: Paths<Node>,
    places: Entries<Node>,
    present: BTreeSet<Entry<Node>>,
}

// === impl View ===

impl View {
    fn of(root: Node, entries: &Entries<Node>) -> Self {
        let paths = tree::paths(root, entries);
        let places = paths.values().cloned().collect();
        let present = paths.values().map(|(_, entry)| *entry).collect();
        Self { root, paths, places, present }
    }

    fn has_directory(&self, node: Node) -> bool {
        node == self.root || self.present.contains(&Entry { node, kind: Kind::Directory })
    }
}

/// Plans the cut. `before` is what was there when the journal began, and `found` what is there now.
pub(crate) fn plan_cut(before: &Tree, records: &[Record], found: &Found, seed: Seed, variant: Variant) -> Plan {
    let mut lasting = Lasting::replay(before, records);
    let mut report = CutReport::new(seed, variant);
    let count = match variant.names {
        Names::Undone => 0,
        Names::Kept => lasting.pending.len(),
        Names::Drawn => seed.generator(NAMES_PURPOSE).random_range(0..=lasting.pending.len()),
    };
    report.kept = texts(&lasting.keep(count));
    report.undone = texts(&lasting.pending);

    let root = lasting.node(before.root);
    let now = View::of(root, &lasting.as_nodes(&found.tree.entries));
    let want = View::of(root, &lasting.entries);
    let strange = now
        .paths
        .iter()
        .filter(|(_, (place, entry))| entry.kind != Kind::Other && !lasting.explains(place, entry.node));
    report.unexplained = strange.map(|(path, _)| path.clone()).collect();

    let mut actions = take_away(&now, &want);
    actions.extend(put_back(&now, &want, found, &mut report));
    actions.extend(treat_tails(&now, &want, found, &lasting, &mut report));
    for action in &actions {
        match action {
            Action::Remove { path, .. } | Action::Lift { path, .. } => report.removed.push(path.clone()),
            Action::PutFile { path, .. }
            | Action::PutDirectory { path, .. }
            | Action::MakeDirectory { path }
            | Action::Raise { path, .. } => report.restored.push(path.clone()),
            Action::Keep { .. } | Action::Shorten { .. } | Action::Zero { .. } | Action::Garble { .. } => {}
        }
    }
    let there = want.paths.into_iter().filter(|(path, _)| !report.missing.contains(path));
    let expected = there.map(|(path, (_, entry))| (path, entry.kind)).collect();
    Plan { actions, expected, report }
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.text.clone()).collect()
}

/// What must not stand where it stands. What is neither file nor directory is let be, unless it stands in the way.
fn take_away(now: &View, want: &View) -> Vec<Action> {
    let misplaced = want.paths.iter().filter(|(_, (place, entry))| now.places.get(place) != Some(entry));
    let mut needed: BTreeSet<Node> =
        misplaced.filter(|(_, (_, entry))| entry.kind == Kind::File).map(|(_, (_, entry))| entry.node).collect();
    let mut actions = Vec::new();
    for (path, (_, entry)) in &now.paths {
        if entry.kind == Kind::File && needed.remove(&entry.node) {
            actions.push(Action::Keep { path: path.clone(), inode: entry.node.inode });
        }
    }
    for (path, (place, entry)) in now.paths.iter().rev() {
        let is_let_be =
            entry.kind == Kind::Other && want.has_directory(place.directory) && !want.places.contains_key(place);
        if want.places.get(place) == Some(entry) || is_let_be {
            continue;
        }
        let path = path.clone();
        actions.push(if entry.kind == Kind::Directory && want.present.contains(entry) {
            Action::Lift { path, inode: entry.node.inode }
        } else {
            Action::Remove { path, kind: entry.kind }
        });
    }
    actions
}

/// What must stand where it does not.
fn put_back(now: &View, want: &View, found: &Found, report: &mut CutReport) -> Vec<Action> {
    let mut actions = Vec::new();
    for (path, (place, entry)) in &want.paths {
        if now.places.get(place) == Some(entry) {
            continue;
        }
        let (path, inode) = (path.clone(), entry.node.inode);
        match (entry.kind, now.present.contains(entry), found.graves.get(&inode)) {
            (Kind::Directory, true, _) => actions.push(Action::PutDirectory { path, inode }),
            (Kind::Directory, false, _) => actions.push(Action::MakeDirectory { path }),
            (_, true, _) => actions.push(Action::PutFile { path, inode }),
            (_, false, Some(grave)) => actions.push(Action::Raise { path, grave: grave.file.clone() }),
            (_, false, None) => report.missing.push(path),
        }
    }
    actions
}

/// What becomes of the bytes of each file that is there, once per file, in the order of paths.
fn treat_tails(now: &View, want: &View, found: &Found, lasting: &Lasting, report: &mut CutReport) -> Vec<Action> {
    let mut chance = report.seed.generator(TAILS_PURPOSE);
    let mut actions = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, (_, entry)) in &want.paths {
        if entry.kind != Kind::File || !seen.insert(entry.node) {
            continue;
        }
        let inode = entry.node.inode;
        let living = found.tree.lengths.get(&inode).filter(|_| now.present.contains(entry));
        let Some(written) = living.or_else(|| found.graves.get(&inode).map(|grave| &grave.length)).copied() else {
            continue;
        };
        let bytes = lasting.bytes(entry.node);
        if bytes.are_inexact() || written < bytes.synced {
            report.inexact.push(path.clone());
        }
        if written > bytes.synced {
            let action = treat_tail(path.clone(), bytes.synced, written, report.variant.tail, &mut chance);
            let left_bytes = match &action {
                Some(Action::Shorten { to, .. }) => *to,
                _ => written,
            };
            let (path, synced_bytes) = (path.clone(), bytes.synced);
            report.tails.push(LostTail { path, synced_bytes, written_bytes: written, left_bytes });
            actions.extend(action);
        }
    }
    actions
}

/// What becomes of the bytes `from..to`; nothing when all of them are left.
fn treat_tail(path: PathBuf, from: u64, to: u64, tail: Tail, chance: &mut StdRng) -> Option<Action> {
    match tail {
        Tail::Cut => Some(Action::Shorten { path, to: from }),
        Tail::Zeroed => Some(Action::Zero { path, from, to }),
        Tail::Garbled => Some(Action::Garble { path, from, to, seed: chance.next_u64() }),
        Tail::Torn => {
            // Where the tail may end: where it begins, at each border inside, where it ends.
            let first = from / SECTOR_BYTES + 1;
            let borders = ((to - 1) / SECTOR_BYTES + 1).saturating_sub(first);
            let end = match chance.random_range(0..borders + 2) {
                0 => from,
                border if border <= borders => (first + border - 1) * SECTOR_BYTES,
                _ => to,
            };
            (end < to).then_some(Action::Shorten { path, to: end })
        }
    }
}

#[cfg(test)]
mod tests;
