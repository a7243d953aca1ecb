//! What lasts: which names and how many bytes a power cut cannot take away, told from the journal.
//!
//! The rules are POSIX's and no file system's, so what holds here holds on every disk:
//! - Bytes of a file last up to the length that it had when its last good sync began.
//! - A change of names lasts once a directory that it touches was synced after it. A sync of the file is not enough,
//!   although ext4, XFS and btrfs would then keep a new name too.
//! - A rename is one step, also between two directories: the sync of either makes both ends last.
//! - A change that lasts takes with it the earlier changes of the same file and of the same names, for without them it
//!   would be none.
//! - Whatever was there when the journal began lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;

use crate::disk_faults::journal::{Change, Record};
use crate::disk_faults::tree::{Entries, Entry, Inode, Kind, Place, Tree};

/// One file or directory for as long as it lives. The next one with the same number is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) inode: Inode,
    life: u32,
}

/// What is known of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bytes {
    /// How many last.
    pub(crate) synced: u64,
    /// Some of those were written anew by the change of this number, and no sync has caught it.
    overwritten: Option<u64>,
    /// The file was cut below what lasts, and no sync has caught it.
    shortened: Option<Shortened>,
    mapped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shortened {
    sequence: u64,
    length: u64,
}

/// One change of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    sequence: u64,
    /// For people.
    pub(crate) text: String,
    node: Node,
    removes: Option<Place<Node>>,
    sets: Vec<(Place<Node>, Entry<Node>)>,
}

/// What lasts, and what may or may not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lasting {
    lives: BTreeMap<Inode, u32>,
    /// The names that last.
    pub(crate) entries: Entries<Node>,
    bytes: BTreeMap<Node, Bytes>,
    /// Changes that no sync has made last, in order.
    pub(crate) pending: Vec<Step>,
    /// Everything that ever stood anywhere, as far as the journal knows.
    known: BTreeSet<(Place<Node>, Node)>,
}

// === impl Bytes ===

impl Bytes {
    /// Whether a cut may have left bytes that nobody can know any more.
    pub(crate) const fn are_inexact(&self) -> bool {
        self.overwritten.is_some() || self.shortened.is_some() || self.mapped
    }

    fn sync(&mut self, length: u64, began: u64) {
        // What was cut off while the sync ran may be gone or not; the file is as short as it was then at least.
        self.shortened = self.shortened.filter(|shortened| shortened.sequence >= began);
        self.synced = self.shortened.map_or(length, |shortened| shortened.length.min(length));
        self.overwritten = self.overwritten.filter(|sequence| *sequence >= began);
    }

    fn shorten(&mut self, length: u64, sequence: u64) {
        if length < self.synced || self.shortened.is_some() {
            let shortest = self.shortened.map_or(length, |shortened| shortened.length.min(length));
            self.shortened = Some(Shortened { sequence, length: shortest });
            self.synced = self.synced.min(length);
        }
    }
}

// === impl Step ===

impl Step {
    fn places(&self) -> impl Iterator<Item = &Place<Node>> {
        self.removes.iter().chain(self.sets.iter().map(|(place, _)| place))
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        once(self.node).chain(self.sets.iter().map(|(_, entry)| entry.node))
    }
}

// === impl Lasting ===

impl Lasting {
    /// Follows the records, which are in order, from what was there before them.
    pub(crate) fn replay(before: &Tree, records: &[Record]) -> Self {
        let mut lasting = Self::default();
        lasting.entries = lasting.as_nodes(&before.entries);
        // What is neither file nor directory comes and goes without the library seeing it.
        lasting.entries.retain(|_, entry| entry.kind != Kind::Other);
        lasting.known = lasting.entries.iter().map(|(place, entry)| (place.clone(), entry.node)).collect();
        for (inode, length) in &before.lengths {
            let node = lasting.node(*inode);
            lasting.bytes.insert(node, Bytes { synced: *length, ..Bytes::default() });
        }
        for record in records {
            lasting.follow(record);
        }
        lasting
    }

    /// Which file or directory has this number now.
    pub(crate) fn node(&self, inode: Inode) -> Node {
        Node { inode, life: self.lives.get(&inode).copied().unwrap_or_default() }
    }

    /// Names as they are now.
    pub(crate) fn as_nodes(&self, entries: &Entries<Inode>) -> Entries<Node> {
        let named = entries.iter();
        named
            .map(|(place, entry)| (self.place(place), Entry { node: self.node(entry.node), kind: entry.kind }))
            .collect()
    }

    /// What is known of a file's bytes; of one that no record names, none last.
    pub(crate) fn bytes(&self, node: Node) -> Bytes {
        self.bytes.get(&node).cloned().unwrap_or_default()
    }

    /// Whether the journal tells how this came to stand there.
    pub(crate) fn explains(&self, place: &Place<Node>, node: Node) -> bool {
        self.known.contains(&(place.clone(), node))
    }

    /// Lets the first `count` of the pending changes last, and answers them.
    pub(crate) fn keep(&mut self, count: usize) -> Vec<Step> {
        let count = count.min(self.pending.len());
        let kept: Vec<Step> = self.pending.drain(..count).collect();
        for step in &kept {
            perform(&mut self.entries, step);
        }
        kept
    }

    fn place(&self, place: &Place<Inode>) -> Place<Node> {
        Place { directory: self.node(place.directory), name: place.name.clone() }
    }

    fn follow(&mut self, record: &Record) {
        let sequence = record.sequence;
        match &record.change {
            Change::Created { place, inode, kind } => {
                self.begin(*inode);
                if let Some(place) = place {
                    self.change(sequence, "create", None, &[(place, *inode, *kind)]);
                }
            }
            Change::Linked { place, inode } => {
                self.change(sequence, "link", None, &[(place, *inode, Kind::File)]);
            }
            Change::Renamed { from, to, inode, kind } => {
                self.change(sequence, "rename", Some((from, *inode)), &[(to, *inode, *kind)]);
            }
            Change::Exchanged { first: (first, inode, kind), second: (second, other, other_kind) } => {
                let sets = [(second, *inode, *kind), (first, *other, *other_kind)];
                self.change(sequence, "exchange", None, &sets);
            }
            Change::Unlinked { place, inode } => self.change(sequence, "remove", Some((place, *inode)), &[]),
            Change::FileSynced { inode, length, began } => self.bytes_of(*inode).sync(*length, *began),
            Change::DirectorySynced { inode, began } => {
                let directory = self.node(*inode);
                self.sync_directory(directory, *began);
            }
            Change::Truncated { inode, length } => self.bytes_of(*inode).shorten(*length, sequence),
            Change::Overwritten { inode } => {
                let bytes = self.bytes_of(*inode);
                // The library cannot know what another process synced; where nothing lasts, nothing was lost.
                bytes.overwritten = Some(sequence).filter(|_| bytes.synced > 0);
            }
            Change::Mapped { inode } => self.bytes_of(*inode).mapped = true,
        }
    }

    /// A new file or directory has this number; no byte of it lasts.
    fn begin(&mut self, inode: Inode) {
        *self.lives.entry(inode).or_default() += 1;
    }

    fn bytes_of(&mut self, inode: Inode) -> &mut Bytes {
        let node = self.node(inode);
        self.bytes.entry(node).or_default()
    }

    fn change(
        &mut self,
        sequence: u64,
        verb: &str,
        removes: Option<(&Place<Inode>, Inode)>,
        sets: &[(&Place<Inode>, Inode, Kind)],
    ) {
        let named = removes.iter().map(|(place, _)| *place).chain(sets.iter().map(|(place, ..)| *place));
        let names: Vec<String> = named.map(|place| place.name.display().to_string()).collect();
        let first = removes.map(|(_, inode)| inode).or_else(|| sets.first().map(|(_, inode, _)| *inode));
        let Some(first) = first else { return };
        let entry = |node: &Inode, kind: &Kind| Entry { node: self.node(*node), kind: *kind };
        let step = Step {
            sequence,
            text: format!("{verb} {}", names.join(" to ")),
            node: self.node(first),
            removes: removes.map(|(place, _)| self.place(place)),
            sets: sets.iter().map(|(place, inode, kind)| (self.place(place), entry(inode, kind))).collect(),
        };
        self.known.extend(step.sets.iter().map(|(place, entry)| (place.clone(), entry.node)));
        self.pending.push(step);
    }

    fn sync_directory(&mut self, directory: Node, began: u64) {
        let (mut nodes, mut places) = (BTreeSet::new(), BTreeSet::new());
        let (mut last, mut wait) = (Vec::new(), Vec::new());
        for step in std::mem::take(&mut self.pending).into_iter().rev() {
            let synced = step.sequence < began && step.places().any(|place| place.directory == directory);
            let precedes =
                step.nodes().any(|node| nodes.contains(&node)) || step.places().any(|at| places.contains(at));
            if synced || precedes {
                nodes.extend(step.nodes());
                places.extend(step.places().cloned());
                last.push(step);
            } else {
                wait.push(step);
            }
        }
        last.iter().rev().for_each(|step| perform(&mut self.entries, step));
        wait.reverse();
        self.pending = wait;
    }
}

fn perform(entries: &mut Entries<Node>, step: &Step) {
    if let Some(place) = &step.removes {
        entries.remove(place);
    }
    entries.extend(step.sets.iter().cloned());
}
