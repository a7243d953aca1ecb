//! Free room on a disk, and what of it is promised.
//!
//! Whoever wants room asks before the first byte, and is told in numbers when there is too little. Room that is
//! promised and not yet taken from the disk is counted for the others as if it were taken, by device; it is given back
//! when its [`Promise`] is dropped, whatever the way. A disk that cannot be asked is not called full.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::statvfs;

/// How much is free on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for this user, without what the system keeps for its administrator.
    pub free_bytes: u64,
}

/// What somebody wants of a disk.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// What will be written.
    pub bytes: u64,
    /// What stays free beside it: so much of it, percent.
    pub spare_percent: u32,
    /// What stays free beside it at least.
    pub spare_bytes_min: u64,
}

/// The disk has too little room. Nothing was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed_bytes} bytes are needed ({bytes} and {spare_bytes} to spare), {free_bytes} are free and \
     {promised_bytes} of them promised"
)]
pub struct NoRoom {
    /// What would have to be free and promised to nobody.
    pub needed_bytes: u64,
    /// What would be written.
    pub bytes: u64,
    /// What would have to stay free beside it.
    pub spare_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
    /// What of that is promised to others.
    pub promised_bytes: u64,
}

/// What is promised of each disk. Clones see the same promises.
#[derive(Debug, Clone, Default)]
pub struct Promises(Arc<Mutex<BTreeMap<u64, u64>>>);

/// Room that nobody else gets; it is given back when this is dropped.
#[derive(Debug)]
pub struct Promise {
    promises: Promises,
    device: u64,
    bytes: u64,
}

// === impl Space ===

impl Space {
    /// The file system of a path; `None` when it cannot be asked, or says of itself that it has no size at all.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let system = statvfs(path).ok()?;
        let free_bytes = system.blocks_available().saturating_mul(system.fragment_size());
        (system.blocks() > 0).then_some(Self { free_bytes })
    }
}

// === impl Need ===

impl Need {
    fn spare_bytes(self) -> u64 {
        let share = u128::from(self.bytes) * u128::from(self.spare_percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).max(self.spare_bytes_min)
    }
}

// === impl Promises ===

impl Promises {
    /// Promises room on a device (`st_dev`). Who needs nothing gets it from a full disk too; of a disk that could not
    /// be asked (`space` is `None`) everything is promised.
    ///
    /// # Errors
    /// When less is free and promised to nobody than is needed.
    pub fn take(&self, device: u64, space: Option<Space>, need: Need) -> Result<Promise, NoRoom> {
        let mut promised = self.lock();
        let promised_bytes = promised.get(&device).copied().unwrap_or_default();
        if let Some(Space { free_bytes }) = space
            && need.bytes > 0
        {
            let spare_bytes = need.spare_bytes();
            let needed_bytes = need.bytes.saturating_add(spare_bytes);
            if needed_bytes > free_bytes.saturating_sub(promised_bytes) {
                return Err(NoRoom { needed_bytes, bytes: need.bytes, spare_bytes, free_bytes, promised_bytes });
            }
        }
        promised.insert(device, promised_bytes.saturating_add(need.bytes));
        Ok(Promise { promises: self.clone(), device, bytes: need.bytes })
    }

    /// Takes back what was promised.
    fn give_back(&self, device: u64, bytes: u64) {
        let mut promised = self.lock();
        let left = promised.get(&device).copied().unwrap_or_default().saturating_sub(bytes);
        if left == 0 {
            promised.remove(&device);
        } else {
            promised.insert(device, left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Promise ===

impl Promise {
    /// What of it the disk has not given yet.
    #[must_use]
    pub const fn left_bytes(&self) -> u64 {
        self.bytes
    }

    /// So much of it was taken from the disk, whose free room shows it from now on.
    pub fn allocated(&mut self, bytes: u64) {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        self.promises.give_back(self.device, taken);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promises.give_back(self.device, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u64 = 7;

    fn need(bytes: u64) -> Need {
        Need { bytes, spare_percent: 0, spare_bytes_min: 0 }
    }

    fn free(free_bytes: u64) -> Option<Space> {
        Some(Space { free_bytes })
    }

    #[test]
    fn room_is_promised_once() {
        let promises = Promises::default();
        let mut first = promises.take(HERE, free(100), need(60)).expect("there is room");
        let refused = promises.take(HERE, free(100), need(41)).expect_err("most is promised");
        assert_eq!((refused.free_bytes, refused.promised_bytes, refused.needed_bytes), (100, 60, 41));
        let elsewhere = promises.take(HERE + 1, free(100), need(100)).expect("another disk");
        let second = promises.take(HERE, free(100), need(40)).expect("what is left");
        assert!(promises.take(HERE, free(100), need(1)).is_err());
        // The first begins to write: the disk shows it, so the promise no longer does.
        first.allocated(50);
        assert_eq!((first.left_bytes(), second.left_bytes()), (10, 40));
        assert_eq!(promises.take(HERE, free(50), need(1)).expect_err("the rest is promised").promised_bytes, 50);
        first.allocated(1_000);
        drop(second);
        drop(promises.take(HERE, free(40), need(40)).expect("the second gave its room back"));
        drop((first, elsewhere));
        assert!(promises.lock().is_empty(), "nothing is left of promises that are over");
    }

    #[test]
    fn what_stays_free_is_the_larger_of_share_and_least() {
        let check = |bytes: u64, percent: u32, least: u64, expected: u64| {
            let need = Need { bytes, spare_percent: percent, spare_bytes_min: least };
            assert_eq!(need.spare_bytes(), expected, "{need:?}");
            let promises = Promises::default();
            let needed = bytes.saturating_add(expected);
            assert!(promises.take(HERE, free(needed), need).is_ok(), "{need:?}");
            let refused = promises.take(HERE, free(needed - 1), need).expect_err("one byte is missing");
            assert_eq!((refused.needed_bytes, refused.bytes, refused.spare_bytes), (needed, bytes, expected));
        };
        check(1_000, 5, 10, 50);
        check(1_000, 5, 51, 51);
        check(1_000, 0, 0, 0);
        check(1, 5, 0, 0);
        check(u64::MAX, 50, 0, u64::MAX / 2);
        check(u64::MAX, u32::MAX, 0, u64::MAX);
    }

    #[test]
    fn too_little_room_is_told_in_numbers() {
        let wanted = Need { bytes: 100, spare_percent: 5, spare_bytes_min: 0 };
        let refused = Promises::default().take(HERE, free(104), wanted).expect_err("too little");
        let text = "105 bytes are needed (100 and 5 to spare), 104 are free and 0 of them promised";
        assert_eq!(refused.to_string(), text);
    }

    #[test]
    fn unknown_is_not_zero() {
        let promises = Promises::default();
        let unknown = promises.take(HERE, None, need(u64::MAX)).expect("nobody knows better");
        assert!(promises.take(HERE, free(1_000), need(1)).is_err(), "what was promised blindly counts");
        assert!(promises.take(HERE, free(0), need(0)).is_ok(), "who needs nothing gets it");
        drop(unknown);
        assert!(Space::of(Path::new("/")).is_some_and(|space| space.free_bytes > 0));
        assert_eq!(Space::of(Path::new("/no/such/place")), None);
    }
}
