//! What came of requests, by their kind, of all of them and of those that were due while nobody had just been killed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::plan::Kind;
use crate::against::Histogram;

/// Of which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    All,
    /// Those that were not due shortly after a kill.
    Undisturbed,
}

// === impl Of ===

impl Of {
    pub(crate) const BOTH: [Self; 2] = [Self::All, Self::Undisturbed];
}

/// Requests of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Of those that succeeded.
    pub(crate) latencies: Histogram,
    pub(crate) failed: u64,
}

/// All requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tallies {
    by_kind: BTreeMap<(Of, Kind), Tally>,
    /// How many failed for each reason.
    pub(crate) reasons: BTreeMap<&'static str, u64>,
}

// === impl Tallies ===

impl Tallies {
    /// Counts one request, by its latency or by the reason why it failed.
    pub(crate) fn count(&mut self, kind: Kind, is_undisturbed: bool, result: Result<Duration, &'static str>) {
        let both = Of::BOTH.into_iter().filter(|of| is_undisturbed || *of == Of::All);
        for of in both {
            let tally = self.by_kind.entry((of, kind)).or_default();
            match result {
                Ok(latency) => tally.latencies.add(latency),
                Err(_) => tally.failed += 1,
            }
        }
        if let Err(reason) = result {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Adds all that others have counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (key, more) in &other.by_kind {
            let tally = self.by_kind.entry(*key).or_default();
            tally.latencies.merge(&more.latencies);
            tally.failed += more.failed;
        }
        for (reason, more) in &other.reasons {
            *self.reasons.entry(*reason).or_default() += more;
        }
    }

    /// `None`: there was no such request.
    pub(crate) fn of(&self, of: Of, kind: Kind) -> Option<&Tally> {
        self.by_kind.get(&(of, kind))
    }

    /// How many succeeded, and how many failed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let all = Kind::ALL.into_iter().filter_map(|kind| self.of(Of::All, kind));
        all.fold((0, 0), |(good, bad), tally| (good + tally.latencies.total(), bad + tally.failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_request_counts_once_and_an_undisturbed_one_in_both_rows() {
        let ms = Duration::from_millis;
        let mut tallies = Tallies::default();
        tallies.count(Kind::Put, true, Ok(ms(2)));
        tallies.count(Kind::Put, false, Ok(ms(1_000)));
        tallies.count(Kind::Put, false, Err("no_quorum"));
        let mut other = Tallies::default();
        other.count(Kind::Put, true, Err("no_quorum"));
        other.count(Kind::List, true, Err("no answer"));
        tallies.merge(&other);
        let check = |of: Of, kind: Kind, expected: Option<(u64, Option<f64>, u64)>| {
            let found = tallies.of(of, kind);
            let found = found.map(|it| (it.latencies.total(), it.latencies.largest_ms(), it.failed));
            assert_eq!(found, expected, "{of:?} {kind:?}");
        };
        check(Of::All, Kind::Put, Some((2, Some(1_000.0), 2)));
        check(Of::Undisturbed, Kind::Put, Some((1, Some(2.0), 1)));
        check(Of::All, Kind::List, Some((0, None, 1)));
        check(Of::All, Kind::PointRead, None);
        assert_eq!(tallies.totals(), (2, 3));
        assert_eq!(tallies.reasons, BTreeMap::from([("no_quorum", 2), ("no answer", 1)]));
    }
}
