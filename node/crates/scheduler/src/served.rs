//! Which models were served on this node, and when: a day for each name, for whoever keeps which models are in use.
//!
//! Served is what was asked for through this node, and what its runtime had in memory, whoever asked for it.
//! Memory only; a node that starts anew has served nothing. What is forgotten for want of room was served longest ago.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ollamax_types::{ModelName, Timestamp};

/// Most names that are remembered.
const NAMES_MAX: usize = 4_096;

/// The last day on which each name was served, in days since 1970.
#[derive(Debug, Default)]
pub(crate) struct Served(Mutex<BTreeMap<ModelName, u32>>);

// === impl Served ===

impl Served {
    pub(crate) fn note(&self, model: &ModelName, now: Timestamp) {
        let day = now.day();
        let mut days = self.lock();
        if let Some(known) = days.get_mut(model) {
            *known = day.max(*known);
            return;
        }
        if days.len() >= NAMES_MAX {
            let oldest = days.iter().min_by_key(|(_, day)| **day).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                days.remove(&oldest);
            }
        }
        days.insert(model.clone(), day);
    }

    pub(crate) fn days(&self) -> BTreeMap<ModelName, u32> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelName, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::DAY_MS;

    use super::*;

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    #[test]
    fn the_last_day_counts_however_a_name_is_spelled_and_clocks_that_go_back_change_nothing() {
        let served = Served::default();
        for (text, day, expected) in [("m", 3, 3), ("M:latest", 5, 5), ("m", 4, 5)] {
            served.note(&name(text), Timestamp(day * DAY_MS + 7));
            assert_eq!(served.days(), BTreeMap::from([(name("m"), expected)]), "{text} on day {day}");
        }
    }

    #[test]
    fn without_room_the_name_goes_that_was_served_longest_ago() {
        let served = Served::default();
        served.note(&name("old"), Timestamp(0));
        for number in 0..NAMES_MAX {
            served.note(&name(&format!("m{number}")), Timestamp(DAY_MS));
        }
        let days = served.days();
        assert_eq!((days.len(), days.contains_key(&name("old"))), (NAMES_MAX, false));
    }
}
