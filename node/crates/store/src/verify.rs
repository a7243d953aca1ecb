//! Looking at a data directory without changing a byte of it: is everything that was promised there, and whole?
//!
//! The database is opened read-only, under a shared lock that a running daemon does not give. Everything is read once:
//! the high-water file, the marks, every entry of the log, every record of the state. What is found broken is listed
//! with its place and what to do; what a start would put right by itself (entries behind the high-water mark, older
//! generations, an unfinished snapshot) is no damage. Deliberately absent: any repair.

mod log;
mod state;

use std::path::Path;

use crate::database::Database;
use crate::error::{DiskError, OpenError, VerifyError};
use crate::high_water::{HighWater, Promises};
use crate::lock::DirectoryLock;
use crate::{Config, StoreIdentity};
use crate::{marks, wal_tail};

/// Damages that are listed; the others are counted.
const DAMAGES_MAX: usize = 100;

/// What to do with a directory that lost what was promised, or holds something else.
const REJOIN: &str = "on another member: ollamax node remove; then join again with an empty data directory";

/// What was found in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Whose it is, as far as it says.
    pub identity: Option<StoreIdentity>,
    /// What the log holds.
    pub log: LogCounts,
    /// What the state holds.
    pub state: StateCounts,
    /// What is broken, in the order in which it was found.
    pub damages: Vec<Damage>,
    /// Further damages that are not listed.
    pub damages_unlisted: u64,
}

/// What the log of a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// First entry.
    pub first: Option<u64>,
    /// Last entry.
    pub last: Option<u64>,
    /// Entries up to this one were purged.
    pub purged: Option<u64>,
    /// The last entry that the high-water file promises.
    pub synced: Option<u64>,
    /// Whole entries.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Entries that were never promised and that the next start cuts, because they do not follow or are not whole.
    pub surplus: u64,
    /// Votes that were saved since the directory was made.
    pub votes: u64,
}

/// What the state of a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateCounts {
    /// Everything up to this entry is applied in it; `None` where nothing is.
    pub index: Option<u64>,
    /// Hash of all records, computed anew.
    pub hash: [u8; 16],
    /// All records.
    pub records: u64,
    /// Records of each family that has any, by its name.
    pub families: Vec<(&'static str, u64)>,
}

/// Something broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub place: String,
    /// How it shows.
    pub problem: String,
    /// What to do.
    pub next: String,
}

// === impl Verification ===

impl Verification {
    /// Whether nothing is broken.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }

    fn damaged(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        if self.damages.len() == DAMAGES_MAX {
            self.damages_unlisted += 1;
            return;
        }
        self.damages.push(Damage { place: place.into(), problem: problem.into(), next: REJOIN.to_owned() });
    }

    /// The value of a mark; one that cannot be read is damage, and taken for none.
    fn mark<T>(&mut self, name: &str, read: Result<Option<T>, DiskError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.damaged(format!("mark {name}"), error.to_string());
            None
        })
    }
}

/// Looks at the data directory `dir`, whose daemon must not run. Reads everything once.
///
/// # Errors
/// When there is nothing to look at, a daemon has it, a later release wrote it, or the system refuses to read.
pub fn verify(dir: &Path) -> Result<Verification, VerifyError> {
    let raft = dir.join("raft");
    let (mark, path) = (raft.join("high-water"), raft.join("db"));
    let lock = DirectoryLock::look(&raft.join("lock"))?;
    let (has_mark, has_database) = (mark.exists(), Database::exists(&path));
    if !has_mark && !has_database {
        return Err(VerifyError::NothingThere { path: raft });
    }
    let mut found = Verification::default();
    let promises = promises(&mark, &mut found)?;
    let Promises { identity, last_synced, .. } = &promises;
    (found.identity, found.log.synced) = (identity.clone(), *last_synced);
    if !has_database {
        let promised = promises.vote_number > 0 || last_synced.is_some();
        if promised {
            found.damaged("raft/db", "there is no database, and votes or entries were promised");
        }
        return Ok(found);
    }
    match Database::open_read_only(&path, &Config::default(), lock) {
        Ok(database) => examine(dir, &database, &promises, &mut found)?,
        Err(error) => match wal_tail::find(&path) {
            Ok(Some(tail)) => found.damages.push(Damage {
                place: "raft/db".to_owned(),
                problem: format!("the log ends in {} damaged bytes, as a power cut leaves them", tail.len()),
                next: "start ollamax-node once: it cuts them, or says why not; then look again".to_owned(),
            }),
            _ => found.damaged("raft/db", error.to_string()),
        },
    }
    Ok(found)
}

/// What the high-water file promises; nothing where it is broken.
fn promises(mark: &Path, found: &mut Verification) -> Result<Promises, VerifyError> {
    match HighWater::read(mark) {
        Ok(Some(promises)) => return Ok(promises),
        Ok(None) => found.damaged("raft/high-water", "missing beside a database"),
        Err(OpenError::Disk(error)) => return Err(error.into()),
        Err(error) => found.damaged("raft/high-water", error.to_string()),
    }
    Ok(Promises::default())
}

fn examine(dir: &Path, database: &Database, promises: &Promises, found: &mut Verification) -> Result<(), VerifyError> {
    match found.mark("format", marks::read_format(database)) {
        Some(format) if format > marks::FORMAT => {
            let (found, known) = (format.into(), marks::FORMAT.into());
            return Err(VerifyError::NewerFormat { path: dir.to_path_buf(), found, known });
        }
        Some(_) => {}
        None => found.damaged("mark format", "missing"),
    }
    let identity = found.mark("identity", marks::read_identity(database));
    if let (Some(promised), Some(held)) = (&promises.identity, &identity)
        && promised != held
    {
        let (node, other) = (held.node, promised.node);
        found.damaged("mark identity", format!("it is that of node {node}, and the high-water file's of node {other}"));
    }
    found.identity = found.identity.take().or(identity);
    vote(database, promises, found);
    if let Err(error) = marks::read_committed(database) {
        found.damaged("mark committed", error.to_string());
    }
    log::examine(database, promises.last_synced, found);
    state::examine(database, found);
    Ok(())
}

/// The vote must be the one that was promised, or a later one.
fn vote(database: &Database, promises: &Promises, found: &mut Verification) {
    let vote = found.mark("vote", marks::read_vote(database));
    let number = vote.as_ref().map_or(0, |(number, _)| *number);
    found.log.votes = number;
    if number < promises.vote_number {
        let promised = promises.vote_number;
        found.damaged("mark vote", format!("vote number {promised} was promised, and number {number} is there"));
    } else if number == promises.vote_number && vote.is_some_and(|(_, vote)| vote != promises.vote) {
        found.damaged("mark vote", format!("vote number {number} is not the one that was promised"));
    }
}
