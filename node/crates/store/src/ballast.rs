//! The ballast: a file that holds some of the disk, so that there is something to give back when the disk fills.
//!
//! `raft/ballast` is allocated for real. It is deleted while few bytes are free, and made again when so many are that
//! it does not come and go. Its size is all that is known of it: one of another size than is wanted is what a crash or
//! a changed configuration left, and goes. Nothing depends on it: what cannot be made or deleted is told and tried
//! again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::room::Space;
use crate::store::Store;

/// Name of the file in the Raft directory.
const FILE: &str = "ballast";
/// How many times its size must be free beyond the mark before it is made: after that, three are left.
const ROOM_FACTOR: u64 = 4;
/// After what could not be done, nothing is tried for so long.
const RETRY_AFTER: Duration = Duration::from_secs(600);

/// What is to be done about the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Keep,
    /// Allocate it: there is room.
    Make,
    /// Delete it: the disk fills.
    Release,
    /// Delete it: it is not the one that is wanted.
    Discard,
}

/// A ballast that was released and not made again since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedBallast {
    /// What was given back.
    pub bytes: u64,
    /// Less than this was free.
    pub released_below_bytes: u64,
    /// It is made again when this much is free.
    pub made_from_bytes: u64,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Ballast(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    released: bool,
    /// Nothing is tried before.
    retry_at: Option<Instant>,
}

impl Config {
    /// Free bytes below which the ballast is released: in any case before changes are refused.
    fn ballast_mark(&self) -> u64 {
        self.ballast_release_bytes.max(self.reserve_bytes)
    }

    /// Free bytes from which on it is made.
    fn ballast_room(&self) -> u64 {
        self.ballast_mark().saturating_add(self.ballast_bytes.saturating_mul(ROOM_FACTOR))
    }
}

/// Decides, from what is free and the size of the file; 0: there is none.
fn plan_ballast(free_bytes: u64, held_bytes: u64, config: &Config) -> Step {
    let wanted = config.ballast_bytes;
    if held_bytes == 0 {
        let make = wanted > 0 && free_bytes >= config.ballast_room();
        return if make { Step::Make } else { Step::Keep };
    }
    if wanted > 0 && free_bytes < config.ballast_mark() {
        Step::Release
    } else if held_bytes != wanted {
        Step::Discard
    } else {
        Step::Keep
    }
}

impl Store {
    /// Makes, keeps or deletes the ballast, whatever the disk asks for now. Blocks while it is made. Ask from time to
    /// time, from one place.
    pub fn tend_ballast(&self) {
        let Some(Space { free_bytes, .. }) = Space::of(self.path()) else { return };
        let path = self.path().with_file_name(FILE);
        let step = plan_ballast(free_bytes, size_of(&path), self.config());
        if step != Step::Keep && self.ballast().may_try() {
            self.change_ballast(&path, step, free_bytes);
        }
        self.metrics().ballast_bytes.set(i64::try_from(size_of(&path)).unwrap_or(i64::MAX));
    }

    fn change_ballast(&self, path: &Path, step: Step, free_bytes: u64) {
        let bytes = if step == Step::Make { self.config().ballast_bytes } else { size_of(path) };
        let done = if step == Step::Make { allocate(path, bytes) } else { fs::remove_file(path) };
        if let Err(error) = done {
            tracing::warn!(%error, ?step, bytes, free_bytes, "change the ballast");
            self.ballast().lock().retry_at = Some(Instant::now() + RETRY_AFTER);
            return;
        }
        *self.ballast().lock() = Remembered { released: step == Step::Release, retry_at: None };
        match step {
            Step::Keep => {}
            Step::Make => tracing::info!(bytes, free_bytes, "ballast made"),
            Step::Discard => tracing::info!(bytes, free_bytes, "ballast of another size deleted"),
            Step::Release => {
                self.metrics().ballast_releases_total.inc();
                tracing::warn!(bytes, free_bytes, "ballast released: the disk fills");
            }
        }
    }

    /// The ballast, if this process released it and has not made it again.
    #[must_use]
    pub fn released_ballast(&self) -> Option<ReleasedBallast> {
        let config = self.config();
        self.ballast().lock().released.then(|| ReleasedBallast {
            bytes: config.ballast_bytes,
            released_below_bytes: config.ballast_mark(),
            made_from_bytes: config.ballast_room(),
        })
    }
}

// === impl Ballast ===

impl Ballast {
    fn may_try(&self) -> bool {
        self.lock().retry_at.is_none_or(|at| at <= Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the file; 0: there is none.
fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Makes the file with all its bytes on the disk; what could not be made whole goes again.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let made = take_room(&file, bytes).and_then(|()| file.sync_all());
    if made.is_err() {
        drop(fs::remove_file(path));
    }
    made
}

/// The system sets the room aside.
#[cfg(target_os = "linux")]
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    let length = bytes.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    nix::fcntl::posix_fallocate(file, 0, length).map_err(io::Error::from)
}

/// Zeros are written: where there is no call for it, nothing else takes room for certain.
#[cfg(not(target_os = "linux"))]
fn take_room(mut file: &File, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut file).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_is_made_where_there_is_much_room_and_released_where_there_is_little() {
        let config = Config { ballast_bytes: 256 * MIB, ballast_release_bytes: 2_048 * MIB, ..Config::default() };
        let check = |free_mib: u64, held_mib: u64, expected: Step| {
            let step = plan_ballast(free_mib * MIB, held_mib * MIB, &config);
            assert_eq!(step, expected, "{free_mib} MiB free, {held_mib} MiB held");
        };
        check(3_072, 0, Step::Make);
        check(3_071, 0, Step::Keep);
        check(100, 0, Step::Keep);
        // What making it leaves does not release it, and what releasing it gives back does not make it.
        check(3_072 - 256, 256, Step::Keep);
        check(2_048, 256, Step::Keep);
        check(2_047, 256, Step::Release);
        check(2_047 + 256, 0, Step::Keep);
        // A crash while it was made, or another configuration.
        check(5_000, 100, Step::Discard);
        check(5_000, 300, Step::Discard);
        check(1_000, 100, Step::Release);
    }

    #[test]
    fn none_is_kept_where_none_is_wanted() {
        let config = Config { ballast_bytes: 0, ..Config::default() };
        assert_eq!(plan_ballast(u64::MAX, 0, &config), Step::Keep);
        assert_eq!(plan_ballast(u64::MAX, MIB, &config), Step::Discard);
        assert_eq!(plan_ballast(0, MIB, &config), Step::Discard);
    }

    #[test]
    fn it_is_released_before_changes_are_refused_whatever_the_mark_says() {
        let config = Config { reserve_bytes: 64 * MIB, ballast_release_bytes: 0, ..Config::default() };
        assert_eq!(plan_ballast(64 * MIB - 1, config.ballast_bytes, &config), Step::Release);
        assert_eq!(plan_ballast(64 * MIB, config.ballast_bytes, &config), Step::Keep);
        let endless = Config { reserve_bytes: u64::MAX, ..Config::default() };
        assert_eq!(plan_ballast(u64::MAX - 1, 0, &endless), Step::Keep);
    }
}
