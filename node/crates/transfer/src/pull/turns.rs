//! Who works on which file, and who is about to.
//!
//! A turn is shared by all who want a file, from before they set room aside for it until they want it no more. Always
//! holds: what is taken away of a file on its way is taken from nobody who wants it. Between the look whether somebody
//! does and the end of that work nobody begins a part, and whoever comes then finds what is left. Cannot fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ollamax_types::Digest;

/// The right to work on one file; whoever holds the lock in it works.
pub(crate) type Turn = Arc<tokio::sync::Mutex<()>>;

/// The turns of the files that somebody wants.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    turns: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Whoever holds it sets room aside, or takes it away.
    room: Mutex<()>,
}

// === impl Turns ===

impl Turns {
    /// The turn of a file, the same for all who want it now.
    pub(crate) fn of(&self, sha256: Digest) -> Turn {
        let mut turns = self.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&sha256).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Turn::default();
        turns.insert(sha256, Arc::downgrade(&turn));
        turn
    }

    /// The right to set room aside for files whose turns the caller has. Blocks while room is taken away.
    pub(crate) fn setting_aside(&self) -> MutexGuard<'_, ()> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something away of a file, unless its turn has more shares than these, which are the caller's own: then
    /// somebody else wants it. Blocks while room is set aside.
    pub(crate) fn unless_wanted<T>(&self, sha256: Digest, own: usize, take: impl FnOnce() -> T) -> Option<T> {
        let _room = self.setting_aside();
        let is_wanted = self.lock().get(&sha256).is_some_and(|turn| turn.strong_count() > own);
        (!is_wanted).then(take)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Digest = Digest([7; 32]);

    #[test]
    fn all_who_want_a_file_share_its_turn() {
        let turns = Turns::default();
        let (one, two) = (turns.of(FILE), turns.of(FILE));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &turns.of(Digest([8; 32]))));
        drop((one, two));
        assert_eq!(Arc::strong_count(&turns.of(FILE)), 1, "nobody wanted it any more");
    }

    #[test]
    fn nothing_is_taken_from_who_wants_it() {
        let turns = Turns::default();
        let taken = |own| turns.unless_wanted(FILE, own, || ()).is_some();
        assert!(taken(0), "nobody wants it");
        let ours = turns.of(FILE);
        assert!(taken(1) && !taken(0), "what is ours is no other's");
        let theirs = turns.of(FILE);
        assert!(!taken(1));
        drop(theirs);
        assert!(taken(1));
        drop(ours);
        assert!(taken(0));
    }

    #[test]
    fn nobody_begins_while_something_is_taken_away() {
        let turns = Turns::default();
        let is_shut = turns.unless_wanted(FILE, 0, || {
            // Whoever comes now is not seen, and waits.
            drop(turns.of(FILE));
            turns.room.try_lock().is_err()
        });
        assert_eq!(is_shut, Some(true));
        assert!(turns.room.try_lock().is_ok());
    }
}
