//! When a backup is due, which old ones go, and what wants a decision about them.
//!
//! Time is log time: one clock for the whole cluster, so that a new leader neither makes a backup again nor waits anew.
//! What was made last stands in a replicated setting. There is no chance in it: the same facts give the same answer.

use ollamax_types::{ClusterId, NodeId, Timestamp};

/// The setting that holds the public half of the backup key.
pub const RECIPIENT_SETTING: &str = "backup.recipient";
/// The setting that says what the schedule made last: [`Made::text`].
pub const LAST_SETTING: &str = "backup.last";
/// What every backup's name begins with.
const NAME_START: &str = "ollamax-";
/// What every backup's name ends with.
const NAME_END: &str = ".oxb.age";
/// Version of the text of [`Made`].
const MADE_VERSION: &str = "1";

/// What the schedule made last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Log time.
    pub at: Timestamp,
    /// Log index that it reaches.
    pub revision: u64,
    /// Who made it.
    pub node: NodeId,
    /// Its name.
    pub name: String,
}

/// What wants a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no key to seal a backup for.
    NoRecipient,
    /// The last one is older than twice the interval.
    Late {
        /// Its age, or that of the cluster when there was none; milliseconds.
        age_ms: u64,
        /// Whether there was one.
        any: bool,
    },
}

/// A backup that lies somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    /// Its name.
    pub name: String,
    /// Whose state it holds; `None` when its first page cannot be read.
    pub cluster: Option<ClusterId>,
    /// Log index that it reaches.
    pub revision: u64,
    /// Wall time at which it was made.
    pub taken_at: Timestamp,
}

// === impl Made ===

impl Made {
    /// As the setting holds it: version, time, revision, node, name.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{MADE_VERSION} {} {} {} {}", self.at.0, self.revision, self.node, self.name)
    }

    /// Reads it back; `None` when it is of another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        if words.next()? != MADE_VERSION {
            return None;
        }
        Some(Self {
            at: Timestamp(words.next()?.parse().ok()?),
            revision: words.next()?.parse().ok()?,
            node: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    }
}

/// Whether the schedule makes one now. The first is due an interval after the cluster was made.
#[must_use]
pub const fn is_due(now: Timestamp, created: Timestamp, last: Option<Timestamp>, every_ms: u64) -> bool {
    every_ms > 0 && now.ms_since(newest(created, last)) >= every_ms
}

/// What an administrator should hear about backups. A schedule that is off is a decision that was taken.
#[must_use]
pub const fn trouble(
    now: Timestamp,
    created: Timestamp,
    last: Option<Timestamp>,
    every_ms: u64,
    has_recipient: bool,
) -> Option<Trouble> {
    if every_ms == 0 {
        return None;
    }
    if !has_recipient {
        return Some(Trouble::NoRecipient);
    }
    let age_ms = now.ms_since(newest(created, last));
    if age_ms > every_ms.saturating_mul(2) { Some(Trouble::Late { age_ms, any: last.is_some() }) } else { None }
}

const fn newest(created: Timestamp, last: Option<Timestamp>) -> Timestamp {
    match last {
        Some(last) if last.0 > created.0 => last,
        _ => created,
    }
}

/// The names of those that go when the newest `keep` of a cluster stay; 0 keeps all. What is another cluster's, or
/// cannot be read, is never named.
#[must_use]
pub fn surplus(lying: &[Lying], cluster: ClusterId, keep: usize) -> Vec<String> {
    if keep == 0 {
        return Vec::new();
    }
    let mut own: Vec<&Lying> = lying.iter().filter(|backup| backup.cluster == Some(cluster)).collect();
    own.sort_by(|a, b| (b.revision, b.taken_at, &b.name).cmp(&(a.revision, a.taken_at, &a.name)));
    own.into_iter().skip(keep).map(|backup| backup.name.clone()).collect()
}

/// The name of a backup: whose, when (as `20260102T030405Z`), and up to where.
#[must_use]
pub fn name(cluster: &str, at: &str, revision: u64) -> String {
    format!("{NAME_START}{cluster}-{at}-{revision}{NAME_END}")
}

/// Whether a file can be a backup, by its name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let inner = name.strip_prefix(NAME_START).and_then(|rest| rest.strip_suffix(NAME_END));
    let mut parts = inner.unwrap_or_default().rsplitn(3, '-');
    let (revision, at, cluster) = (parts.next(), parts.next(), parts.next());
    revision.is_some_and(|text| text.parse::<u64>().is_ok())
        && at.is_some_and(|text| text.len() == 16 && text.ends_with('Z'))
        && cluster.is_some_and(|text| !text.is_empty() && !text.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    #[test]
    fn a_backup_is_due_when_the_interval_is_over_since_the_last_or_since_the_beginning() {
        let check = |now: u64, last: Option<u64>, every_ms: u64, expected: bool| {
            let due = is_due(Timestamp(now), Timestamp(DAY), last.map(Timestamp), every_ms);
            assert_eq!(due, expected, "{now} {last:?} {every_ms}");
        };
        check(DAY, None, DAY, false);
        check(2 * DAY - 1, None, DAY, false);
        check(2 * DAY, None, DAY, true);
        check(2 * DAY, Some(DAY + 1), DAY, false);
        check(2 * DAY + 1, Some(DAY + 1), DAY, true);
        check(9 * DAY, Some(DAY), 0, false); // off
        check(2 * DAY - 1, Some(5), DAY, false); // a restored state: its cluster began later than its last backup
        check(DAY, Some(3 * DAY), DAY, false); // log time never goes back, but a setting can be written by hand
    }

    #[test]
    fn trouble_is_a_missing_key_or_twice_the_interval() {
        let check = |now: u64, last: Option<u64>, every_ms: u64, key: bool, expected: Option<Trouble>| {
            let found = trouble(Timestamp(now), Timestamp(DAY), last.map(Timestamp), every_ms, key);
            assert_eq!(found, expected, "{now} {last:?}");
        };
        check(DAY, None, DAY, true, None);
        check(DAY, None, DAY, false, Some(Trouble::NoRecipient));
        check(DAY, None, 0, false, None);
        check(3 * DAY, None, DAY, true, None);
        check(3 * DAY + 1, None, DAY, true, Some(Trouble::Late { age_ms: 2 * DAY + 1, any: false }));
        check(5 * DAY, Some(3 * DAY), DAY, true, None);
        check(6 * DAY, Some(3 * DAY), DAY, true, Some(Trouble::Late { age_ms: 3 * DAY, any: true }));
    }

    #[test]
    fn the_newest_of_ones_own_stay_and_nobody_elses_go() {
        let (ours, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let lying = |name: &str, cluster: Option<ClusterId>, revision: u64| Lying {
            name: name.to_owned(),
            cluster,
            revision,
            taken_at: Timestamp(revision),
        };
        let all = [
            lying("b", Some(ours), 2),
            lying("x", Some(other), 1),
            lying("a", Some(ours), 1),
            lying("d", Some(ours), 4),
            lying("?", None, 0),
            lying("c", Some(ours), 3),
        ];
        assert_eq!(surplus(&all, ours, 2), ["b", "a"]);
        assert_eq!(surplus(&all, ours, 4), Vec::<String>::new());
        assert_eq!(surplus(&all, ours, 0), Vec::<String>::new());
        assert_eq!(surplus(&all, ClusterId([3; 16]), 1), Vec::<String>::new());
    }

    #[test]
    fn names_are_made_and_recognised() {
        let made = name("my-lab.1", "20260102T030405Z", 42);
        assert_eq!(made, "ollamax-my-lab.1-20260102T030405Z-42.oxb.age");
        assert!(is_name(&made));
        let others = [
            "ollamax-lab-20260102T030405Z-42.oxb.age.tmp",
            "ollamax-lab-20260102T030405Z-x.oxb.age",
            "ollamax-20260102T030405Z-42.oxb.age",
            "ollamax-a/b-20260102T030405Z-42.oxb.age",
            "ollamax-.oxb.age",
            "",
        ];
        for name in others {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_was_made_last_comes_back_from_its_text() {
        let made = Made { at: Timestamp(5), revision: 7, node: NodeId(3), name: name("a b", "20260102T030405Z", 7) };
        assert_eq!(made.text(), "1 5 7 3 ollamax-a b-20260102T030405Z-7.oxb.age");
        assert_eq!(Made::parse(&made.text()), Some(made));
        for text in ["", "2 5 7 3 x", "1 5 7", "1 5 7 0 x", "1 x 7 3 x"] {
            assert_eq!(Made::parse(text), None, "{text}");
        }
    }
}
