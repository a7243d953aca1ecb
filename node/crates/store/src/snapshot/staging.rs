//! The folder `raft/incoming`: what an import has written so far, kept over a cut for the same snapshot's next attempt.
//!
//! `<n>.sst` hold the records from the first on, in key order. `mark` names the state that they belong to and each
//! file's BLAKE3; it is replaced in one step after each file, so that what it names is whole and synced. It stands
//! behind a version byte and a crc32c. Nothing else is believed: a file that does not fit its hash, a mark that cannot
//! be read and files of another state are deleted, and the import begins anew. There is one folder, so that no more
//! than one unfinished state takes room; it goes as soon as the log has led past it ([`sweep`]), and when the disk is
//! full.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ollamax_proto::disk;

use crate::error::DiskError;
use crate::framing::{Malformed, fixed, seal_checked, unseal_checked};
use crate::high_water::replace;
use crate::shared::Shared;
use crate::state::applied::Standing;
use crate::state::hash::StateHash;

const MARK: &str = "mark";
const VERSION: u8 = 1;
const WHAT: &str = "mark of an unfinished snapshot";
const SWEEP: &str = "remove what is left of a snapshot";

/// BLAKE3 of a file.
pub(super) type Fingerprint = [u8; 32];

/// How far the records in the files reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) last_key: Vec<u8>,
    pub(super) count: u64,
    pub(super) hash: StateHash,
}

/// What is there of which state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) standing: Standing,
    pub(super) reached: Reached,
    pub(super) files: Vec<Fingerprint>,
}

/// Where an import begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With the first record; what is there goes.
    Anew,
    /// Behind the records that these files hold, if they are whole.
    Behind { reached: Reached, files: Vec<Fingerprint> },
}

/// Whether what is there is the beginning of the wanted state.
pub(super) fn choose_start(wanted: &Standing, found: Option<Mark>) -> Start {
    match found {
        Some(Mark { standing, reached, files })
            if standing == *wanted && !files.is_empty() && reached.count <= wanted.count =>
        {
            Start::Behind { reached, files }
        }
        _ => Start::Anew,
    }
}

/// The name of a file.
pub(super) fn file(incoming: &Path, number: usize) -> PathBuf {
    incoming.join(format!("{number}.sst"))
}

/// What the mark says; `None` when there is none that can be read.
pub(super) fn find(incoming: &Path) -> Option<Mark> {
    let bytes = fs::read(incoming.join(MARK)).ok()?;
    let mark = decode(&bytes);
    if let Err(error) = &mark {
        tracing::warn!(%error, "what there is of a snapshot is not used");
    }
    mark.ok()
}

/// Notes what is there; durable on return, and with it the names of the files.
pub(super) fn note(incoming: &Path, mark: &Mark) -> io::Result<()> {
    replace(&incoming.join(MARK), &encode(mark))
}

/// Reads a file whole.
pub(super) fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Whether every file is there and holds what was written.
pub(super) fn are_whole(incoming: &Path, files: &[Fingerprint]) -> bool {
    let damaged = files
        .iter()
        .enumerate()
        .find(|(number, expected)| !fingerprint(&file(incoming, *number)).is_ok_and(|found| found == **expected));
    if let Some((number, _)) = damaged {
        let error = Malformed::new(WHAT, format!("{number}.sst is not what it names"));
        tracing::warn!(%error, "what there is of a snapshot is not used");
    }
    damaged.is_none()
}

/// Deletes everything.
pub(super) fn clear(incoming: &Path) -> io::Result<()> {
    if incoming.exists() { fs::remove_dir_all(incoming) } else { Ok(()) }
}

/// Deletes what is of no use to a state that has come this far. Nobody else works on the folder.
pub(crate) fn sweep(incoming: &Path, applied: Option<u64>) -> Result<(), DiskError> {
    let is_ahead = |mark: &Mark| mark.standing.index() > applied;
    if !incoming.exists() || find(incoming).is_some_and(|mark| is_ahead(&mark)) {
        return Ok(());
    }
    clear(incoming).map_err(|error| DiskError::io(SWEEP, &error))
}

/// The same beside a running import, which has the folder to itself.
pub(crate) fn sweep_unless_busy(shared: &Shared, applied: Option<u64>) {
    unless_busy(shared, |incoming| sweep(incoming, applied));
}

/// Deletes everything, unless an import is running.
pub(crate) fn clear_unless_busy(shared: &Shared) {
    unless_busy(shared, |incoming| clear(incoming).map_err(|error| DiskError::io(SWEEP, &error)));
}

fn unless_busy(shared: &Shared, work: impl FnOnce(&Path) -> Result<(), DiskError>) {
    if !shared.incoming.exists() || shared.importing.swap(true, Ordering::AcqRel) {
        return;
    }
    if let Err(error) = work(&shared.incoming) {
        tracing::warn!(%error, "remove the files of an unfinished snapshot");
    }
    shared.importing.store(false, Ordering::Release);
}

fn encode(mark: &Mark) -> Vec<u8> {
    let message = disk::IncomingMark {
        state: Some(mark.standing.message()),
        files: mark.files.iter().map(|fingerprint| fingerprint.to_vec()).collect(),
        last_key: mark.reached.last_key.clone(),
        count: mark.reached.count,
        state_hash: mark.reached.hash.to_bytes().to_vec(),
    };
    seal_checked(VERSION, &message)
}

fn decode(bytes: &[u8]) -> Result<Mark, Malformed> {
    let message = unseal_checked(VERSION, bytes).map_err(|flaw| Malformed::new(WHAT, flaw))?;
    let disk::IncomingMark { state, files, last_key, count, state_hash } = message;
    let hash = StateHash::from_bytes(fixed(WHAT, &state_hash)?);
    Ok(Mark {
        standing: Standing::from_message(state.ok_or_else(|| Malformed::new(WHAT, "of no state"))?)?,
        reached: Reached { last_key, count, hash },
        files: files.iter().map(|fingerprint| fixed::<32>(WHAT, fingerprint)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::state::AppliedMeta;

    fn standing(index: u64, count: u64) -> Standing {
        let meta = AppliedMeta { index, last_applied: vec![1], membership: vec![2] };
        Standing { meta: Some(Arc::new(meta)), hash: StateHash::from_bytes([3; 16]), count }
    }

    fn mark(files: usize, count: u64) -> Mark {
        let reached = Reached { last_key: b"k".to_vec(), count, hash: StateHash::from_bytes([4; 16]) };
        Mark { standing: standing(9, 50), reached, files: vec![[5; 32]; files] }
    }

    #[test]
    fn only_the_beginning_of_the_same_state_is_gone_on_with() {
        let check = |what: &str, found: Option<Mark>, goes_on: bool| {
            let start = choose_start(&standing(9, 50), found.clone());
            let behind = found.map(|Mark { reached, files, .. }| Start::Behind { reached, files });
            assert_eq!(start, behind.filter(|_| goes_on).unwrap_or(Start::Anew), "{what}");
        };
        check("nothing is there", None, false);
        check("a part of it", Some(mark(2, 20)), true);
        check("all of it", Some(mark(2, 50)), true);
        check("no file yet", Some(mark(0, 0)), false);
        check("more than it has", Some(mark(2, 51)), false);
        let other = |standing| Some(Mark { standing, ..mark(2, 20) });
        check("of a later entry", other(standing(10, 50)), false);
        check("of another size", other(standing(9, 51)), false);
        check("of another hash", other(Standing { hash: StateHash::default(), ..standing(9, 50) }), false);
        check("of no state", other(Standing::default()), false);
    }

    #[test]
    fn what_the_log_has_led_past_goes_and_so_does_what_cannot_be_read() {
        let check = |what: &str, bytes: Option<Vec<u8>>, applied: Option<u64>, stays: bool| {
            let dir = tempfile::tempdir().expect("a folder");
            let incoming = dir.path().join("incoming");
            fs::create_dir(&incoming).expect("made");
            if let Some(bytes) = bytes {
                fs::write(incoming.join(MARK), bytes).expect("written");
            }
            sweep(&incoming, applied).expect("swept");
            assert_eq!(incoming.exists(), stays, "{what}");
        };
        let good = encode(&mark(1, 20));
        check("a state ahead", Some(good.clone()), Some(8), true);
        check("a state ahead of none", Some(good.clone()), None, true);
        check("the state that is here", Some(good.clone()), Some(9), false);
        check("an older state", Some(good), Some(10), false);
        check("an empty mark", Some(Vec::new()), None, false);
        check("no mark", None, None, false);
    }

    proptest! {
        #[test]
        fn the_mark_comes_back_as_it_went_and_any_flipped_bit_is_seen(
            files in 0usize..4, count in any::<u64>(), at in 0usize..2_000,
        ) {
            let mut bytes = encode(&mark(files, count));
            prop_assert_eq!(decode(&bytes), Ok(mark(files, count)));
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        let hex: String = encode(&mark(1, 2)).iter().skip(5).map(|byte| format!("{byte:02x}")).collect();
        let state = format!("08091201011a01022210{}2832", "03".repeat(16));
        let expected = format!("0a1c{state}1220{}1a016b20022a10{}", "05".repeat(32), "04".repeat(16));
        assert_eq!(hex, expected);
    }
}
