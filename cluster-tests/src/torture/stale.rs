//! Whether stale reads were as young as they said.
//!
//! A read that says that it may be so many milliseconds old misses nothing that was acknowledged longer ago, save for
//! the time that the leader's word was on its way to the node that answered. That way is short, and as long as the
//! fault where a fault holds bytes or processes back.

use std::time::Duration;

use ollamax_testkit::history::{Call, Level, Operation, Outcome};

/// How long the leader's word may be on its way on a busy machine.
const WAY: Duration = Duration::from_secs(1);

/// Holds the age of each stale read against what had been acknowledged by then. Returns the faults, and how many reads
/// were judged.
pub(crate) fn check(history: &[Operation], held_back: Duration) -> (Vec<String>, u64) {
    let slack_ns = nanos(WAY + held_back);
    let mut acknowledged: Vec<(u64, u64)> = history.iter().filter_map(acknowledged).collect();
    acknowledged.sort_unstable();
    // The greatest revision that had been acknowledged up to each of these moments.
    let mut newest = 0;
    for (_, revision) in &mut acknowledged {
        newest = newest.max(*revision);
        *revision = newest;
    }
    let (mut faults, mut judged) = (Vec::new(), 0);
    for read in history.iter().filter(|read| matches!(read.call, Call::Get { level: Level::Stale })) {
        let Outcome::Read { at, age_ms: Some(age_ms), .. } = read.outcome else { continue };
        judged += 1;
        let as_of_ns = read.invoked_ns.saturating_sub(age_ms.saturating_mul(1_000_000)).saturating_sub(slack_ns);
        let before = acknowledged.partition_point(|(returned_ns, _)| *returned_ns < as_of_ns);
        let Some((returned_ns, revision)) = before.checked_sub(1).map(|last| acknowledged[last]) else { continue };
        if revision > at {
            let late_ms = read.invoked_ns.saturating_sub(returned_ns) / 1_000_000;
            let what = format!("says that it is {age_ms} ms old, and misses revision {revision} of {late_ms} ms ago");
            faults.push(format!("{read} {what}"));
        }
    }
    (faults, judged)
}

/// When a change was acknowledged, and its revision.
fn acknowledged(operation: &Operation) -> Option<(u64, u64)> {
    let revision = match operation.outcome {
        Outcome::Written { revision, .. } | Outcome::Deleted { revision, .. } => revision,
        Outcome::Read { .. } | Outcome::Refused | Outcome::Unknown => return None,
    };
    Some((operation.returned_ns?, revision))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn operation(call: Call, at_ms: u64, outcome: Outcome) -> Operation {
        let (invoked_ns, returned_ns) = (at_ms * MS, Some((at_ms + 1) * MS));
        Operation { client: 1, key: "k".to_owned(), call, invoked_ns, returned_ns, outcome }
    }

    fn put(at_ms: u64, revision: u64) -> Operation {
        let outcome = Outcome::Written { revision, happened: true, observed_modified: None };
        operation(Call::Put { value: revision }, at_ms, outcome)
    }

    fn read(level: Level, at_ms: u64, at: u64, age_ms: Option<u64>) -> Operation {
        let outcome = Outcome::Read { value: None, modified: 0, at, age_ms };
        operation(Call::Get { level }, at_ms, outcome)
    }

    #[test]
    fn a_read_that_is_older_than_it_says_is_caught() {
        let second = Duration::from_secs(1);
        let check = |read: Operation, held_back: Duration, faults: usize, judged: u64| {
            let found = super::check(&[put(100, 11), put(50, 10), put(4_000, 12), read], held_back);
            assert_eq!((found.0.len(), found.1), (faults, judged), "{found:?}");
        };
        check(read(Level::Stale, 1_500, 10, Some(100)), Duration::ZERO, 1, 1);
        // Within what it says, within the way, and within what was held back.
        check(read(Level::Stale, 1_500, 10, Some(500)), Duration::ZERO, 0, 1);
        check(read(Level::Stale, 1_050, 10, Some(0)), Duration::ZERO, 0, 1);
        check(read(Level::Stale, 1_500, 10, Some(100)), second, 0, 1);
        check(read(Level::Stale, 9_000, 12, Some(0)), Duration::ZERO, 0, 1);
        check(read(Level::Stale, 9_000, 11, Some(0)), Duration::ZERO, 1, 1);
        // It promises nothing, or something else.
        check(read(Level::Stale, 9_000, 1, None), Duration::ZERO, 0, 0);
        check(read(Level::Lease, 9_000, 1, None), Duration::ZERO, 0, 0);
    }
}
