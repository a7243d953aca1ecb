//! How long no change was acknowledged to anybody.

use serde::Serialize;

use ollamax_testkit::history::{Operation, Outcome};

/// Two acknowledgements that are further apart than this have an outage between them.
const OUTAGE_NS: u64 = 250_000_000;

/// The times without an acknowledged change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Outage {
    pub(crate) longest_ms: u64,
    pub(crate) total_ms: u64,
}

// === impl Outage ===

impl Outage {
    /// Of what was acknowledged from one moment to another; the borders count as acknowledgements.
    pub(crate) fn of(history: &[Operation], from_ns: u64, until_ns: u64) -> Self {
        let written =
            |operation: &&Operation| matches!(operation.outcome, Outcome::Written { .. } | Outcome::Deleted { .. });
        let told = history.iter().filter(written).filter_map(|operation| operation.returned_ns);
        let mut moments: Vec<u64> = told.filter(|moment| (from_ns..until_ns).contains(moment)).collect();
        moments.extend([from_ns, until_ns.max(from_ns)]);
        moments.sort_unstable();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > OUTAGE_NS);
        let mut outage = Self::default();
        for gap in gaps {
            outage.longest_ms = outage.longest_ms.max(gap / 1_000_000);
            outage.total_ms += gap / 1_000_000;
        }
        outage
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { longest_ms: self.longest_ms.max(other.longest_ms), total_ms: self.total_ms + other.total_ms }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_testkit::history::{Call, Level};

    use super::*;

    const MS: u64 = 1_000_000;

    fn told(at_ms: u64, outcome: Outcome) -> Operation {
        let call = Call::Get { level: Level::Stale };
        Operation { client: 0, key: String::new(), call, invoked_ns: 0, returned_ns: Some(at_ms * MS), outcome }
    }

    #[test]
    fn only_acknowledged_changes_end_an_outage_and_short_gaps_are_none() {
        let written = |at_ms| told(at_ms, Outcome::Written { revision: 1, happened: true, observed_modified: None });
        let check = |history: &[Operation], longest_ms: u64, total_ms: u64| {
            assert_eq!(Outage::of(history, 0, 1_000 * MS), Outage { longest_ms, total_ms }, "{history:?}");
        };
        check(&[], 1_000, 1_000);
        check(&[written(100), written(300), written(500), written(750), written(900)], 0, 0);
        check(&[written(900), written(600), written(100)], 500, 800);
        let read = Outcome::Read { value: None, modified: 0, at: 1, age_ms: None };
        check(&[written(200), told(400, read), told(600, Outcome::Unknown), written(900)], 700, 700);
        check(&[written(1_500)], 1_000, 1_000);
    }

    #[test]
    fn outages_of_rounds_are_added() {
        let (a, b) = (Outage { longest_ms: 3, total_ms: 5 }, Outage { longest_ms: 4, total_ms: 4 });
        assert_eq!(a.and(b), Outage { longest_ms: 4, total_ms: 9 });
    }
}
