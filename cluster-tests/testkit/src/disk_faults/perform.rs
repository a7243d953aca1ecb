//! Carries out the plan of a power cut.
//!
//! The first action that the system refuses ends it, and names itself; what was done until then stays.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk_faults::cut::Action;
use crate::disk_faults::tree::{Inode, Kind};

/// Bytes written at once.
const PIECE_BYTES: usize = 64 << 10;

/// Does all of it, in order.
pub(crate) fn perform(root: &Path, graveyard: &Path, actions: &[Action]) -> Result<()> {
    actions.iter().try_for_each(|action| perform_one(root, graveyard, action).with_context(|| format!("{action:?}")))
}

fn perform_one(root: &Path, graveyard: &Path, action: &Action) -> io::Result<()> {
    let at = |path: &PathBuf| root.join(path);
    // The library's own graves have other names.
    let aside = |inode: &Inode| graveyard.join(format!("aside-{}", inode.0));
    match action {
        Action::Keep { path, inode } => fs::hard_link(at(path), aside(inode)),
        Action::Lift { path, inode } => fs::rename(at(path), aside(inode)),
        Action::Remove { path, kind: Kind::Directory } => fs::remove_dir(at(path)),
        Action::Remove { path, .. } => fs::remove_file(at(path)),
        Action::PutFile { path, inode } => fs::hard_link(aside(inode), at(path)),
        Action::PutDirectory { path, inode } => fs::rename(aside(inode), at(path)),
        Action::MakeDirectory { path } => fs::create_dir(at(path)),
        Action::Raise { path, grave } => fs::hard_link(graveyard.join(grave), at(path)),
        Action::Shorten { path, to } => File::options().write(true).open(at(path))?.set_len(*to),
        Action::Zero { path, from, to } => fill(&at(path), *from, *to, |piece| piece.fill(0)),
        Action::Garble { path, from, to, seed } => {
            let mut chance = StdRng::seed_from_u64(*seed);
            fill(&at(path), *from, *to, |piece| chance.fill_bytes(piece))
        }
    }
}

fn fill(path: &Path, from: u64, to: u64, mut next: impl FnMut(&mut [u8])) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut bytes = vec![0; PIECE_BYTES];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = &mut bytes[..length];
        next(piece);
        file.write_all_at(piece, at)?;
        at += length as u64;
    }
    Ok(())
}
