//! The knobs of the leader's autopilot: names, defaults, limits, and how each stands in the replicated settings.
//!
//! Every knob is one setting of the whole cluster, as text: `true` or `false`, or a number. What is not set has its
//! default. A text that is no value of the knob is refused before it is set; one that lies in the state nevertheless
//! changes nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::DAY_MS;

/// What the names of the settings begin with.
pub const PREFIX: &str = "autopilot.";

const MINUTE_MS: u64 = 60_000;

/// One knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knob {
    /// Whether silent members lose their seat, and later their membership, without an administrator.
    CleanupDead,
    /// The oldest answer of a healthy node.
    LastContact,
    /// Log entries that a healthy node may lie behind.
    MaxTrailingLogs,
    /// How long a node must be healthy without interruption before it gets a seat.
    Stabilization,
    /// Silence after which a voter may lose its seat.
    DeadAfter,
    /// Silence after which a member that may vote is removed.
    RemoveAfter,
    /// Voters that are left in any case.
    MinQuorum,
}

/// What the number of a knob counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 0 is `false`, 1 is `true`.
    Switch,
    /// Milliseconds.
    Millis,
    /// Things.
    Count,
}

/// A text that is no value of its knob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} must be {wanted}")]
pub struct KnobError {
    /// The setting.
    pub setting: String,
    /// What it takes.
    pub wanted: String,
}

// === impl Unit ===

impl Unit {
    /// What the setting of a knob ends with.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Millis => "_ms",
            Self::Switch | Self::Count => "",
        }
    }

    /// A number as the text of a setting.
    #[must_use]
    pub fn text(self, number: u64) -> String {
        match self {
            Self::Switch => (number != 0).to_string(),
            Self::Millis | Self::Count => number.to_string(),
        }
    }

    /// The number that a setting's text holds; `None` when it holds none of these.
    #[must_use]
    pub fn parse(self, text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
        let number = match self {
            Self::Switch => text.parse::<bool>().ok().map(u64::from),
            Self::Millis | Self::Count => text.parse().ok(),
        };
        number.filter(|number| range.contains(number))
    }

    /// What a setting takes whose numbers are these, for people.
    #[must_use]
    pub fn wanted(self, range: &RangeInclusive<u64>) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Millis => format!("milliseconds between {} and {}", range.start(), range.end()),
            Self::Count => format!("a number between {} and {}", range.start(), range.end()),
        }
    }
}

// === impl Knob ===

impl Knob {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::CleanupDead,
        Self::LastContact,
        Self::MaxTrailingLogs,
        Self::Stabilization,
        Self::DeadAfter,
        Self::RemoveAfter,
        Self::MinQuorum,
    ];

    /// The word that people type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CleanupDead => "cleanup_dead",
            Self::LastContact => "last_contact",
            Self::MaxTrailingLogs => "max_trailing_logs",
            Self::Stabilization => "stabilization",
            Self::DeadAfter => "dead_after",
            Self::RemoveAfter => "remove_after",
            Self::MinQuorum => "min_quorum",
        }
    }

    /// The knob of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|knob| knob.name() == name)
    }

    /// The setting that holds it: prefix, name, and the unit of times.
    #[must_use]
    pub fn setting(self) -> String {
        format!("{PREFIX}{}{}", self.name(), self.unit().suffix())
    }

    /// The knob of a setting.
    #[must_use]
    pub fn of_setting(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|knob| knob.setting() == key)
    }

    /// What its number counts.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::CleanupDead => Unit::Switch,
            Self::MaxTrailingLogs | Self::MinQuorum => Unit::Count,
            Self::LastContact | Self::Stabilization | Self::DeadAfter | Self::RemoveAfter => Unit::Millis,
        }
    }

    /// The numbers that it takes.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::CleanupDead => 0..=1,
            Self::LastContact => 100..=MINUTE_MS,
            Self::MaxTrailingLogs => 1..=1_000_000,
            Self::Stabilization => 0..=60 * MINUTE_MS,
            Self::DeadAfter => 1_000..=30 * DAY_MS,
            Self::RemoveAfter => 1_000..=365 * DAY_MS,
            Self::MinQuorum => 1..=5,
        }
    }

    /// A number as the text of its setting.
    #[must_use]
    pub fn text(self, number: u64) -> String {
        self.unit().text(number)
    }

    /// The number that a setting's text holds.
    ///
    /// # Errors
    /// When it holds none that the knob takes.
    pub fn parse(self, text: &str) -> Result<u64, KnobError> {
        self.unit().parse(text, &self.range()).ok_or_else(|| self.refusal())
    }

    /// What it takes, as an error.
    fn refusal(self) -> KnobError {
        KnobError { setting: self.setting(), wanted: self.unit().wanted(&self.range()) }
    }
}

/// All knobs as they are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knobs {
    /// [`Knob::CleanupDead`].
    pub cleanup_dead: bool,
    /// [`Knob::LastContact`].
    pub last_contact: Duration,
    /// [`Knob::MaxTrailingLogs`].
    pub max_trailing_logs: u64,
    /// [`Knob::Stabilization`].
    pub stabilization: Duration,
    /// [`Knob::DeadAfter`].
    pub dead_after: Duration,
    /// [`Knob::RemoveAfter`].
    pub remove_after: Duration,
    /// [`Knob::MinQuorum`].
    pub min_quorum: usize,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            cleanup_dead: true,
            last_contact: Duration::from_secs(1),
            max_trailing_logs: 250,
            stabilization: Duration::from_secs(10),
            dead_after: Duration::from_millis(10 * MINUTE_MS),
            remove_after: Duration::from_millis(DAY_MS),
            min_quorum: 3,
        }
    }
}

// === impl Knobs ===

impl Knobs {
    /// The number of a knob.
    #[must_use]
    pub fn number(&self, knob: Knob) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match knob {
            Knob::CleanupDead => u64::from(self.cleanup_dead),
            Knob::LastContact => millis(self.last_contact),
            Knob::MaxTrailingLogs => self.max_trailing_logs,
            Knob::Stabilization => millis(self.stabilization),
            Knob::DeadAfter => millis(self.dead_after),
            Knob::RemoveAfter => millis(self.remove_after),
            Knob::MinQuorum => self.min_quorum as u64,
        }
    }

    /// Takes over one setting. A key that is no knob's, and a text that is no value of it, change nothing.
    ///
    /// # Errors
    /// When the text is no value of the knob.
    pub fn take(&mut self, key: &str, text: &[u8]) -> Result<(), KnobError> {
        let Some(knob) = Knob::of_setting(key) else { return Ok(()) };
        let text = std::str::from_utf8(text).map_err(|_| knob.refusal())?;
        let number = knob.parse(text)?;
        match knob {
            Knob::CleanupDead => self.cleanup_dead = number != 0,
            Knob::LastContact => self.last_contact = Duration::from_millis(number),
            Knob::MaxTrailingLogs => self.max_trailing_logs = number,
            Knob::Stabilization => self.stabilization = Duration::from_millis(number),
            Knob::DeadAfter => self.dead_after = Duration::from_millis(number),
            Knob::RemoveAfter => self.remove_after = Duration::from_millis(number),
            Knob::MinQuorum => self.min_quorum = usize::try_from(number).unwrap_or(usize::MAX),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_settings_are_found_again_and_defaults_are_allowed() {
        let mut again = Knobs {
            cleanup_dead: false,
            last_contact: Duration::ZERO,
            max_trailing_logs: 0,
            stabilization: Duration::ZERO,
            dead_after: Duration::ZERO,
            remove_after: Duration::ZERO,
            min_quorum: 0,
        };
        for knob in Knob::ALL {
            assert_eq!(Knob::of_name(knob.name()), Some(knob));
            assert_eq!(Knob::of_setting(&knob.setting()), Some(knob));
            let number = Knobs::default().number(knob);
            let text = knob.text(number);
            assert_eq!(knob.parse(&text), Ok(number), "{knob:?} {text}");
            again.take(&knob.setting(), text.as_bytes()).expect("its own text");
        }
        assert_eq!(again, Knobs::default());
        assert_eq!(Knob::Stabilization.setting(), "autopilot.stabilization_ms");
        assert_eq!(Knob::MinQuorum.setting(), "autopilot.min_quorum");
    }

    #[test]
    fn what_is_no_value_is_refused_and_changes_nothing() {
        let check = |key: &str, text: &[u8], expected: &str| {
            let mut knobs = Knobs::default();
            let error = knobs.take(key, text).expect_err("no value");
            assert_eq!(error.to_string(), expected);
            assert_eq!(knobs, Knobs::default());
        };
        check("autopilot.cleanup_dead", b"yes", "autopilot.cleanup_dead must be true or false");
        check("autopilot.min_quorum", b"6", "autopilot.min_quorum must be a number between 1 and 5");
        check("autopilot.min_quorum", b"", "autopilot.min_quorum must be a number between 1 and 5");
        let range = "autopilot.last_contact_ms must be milliseconds between 100 and 60000";
        check("autopilot.last_contact_ms", b"99", range);
        check("autopilot.last_contact_ms", b"1s", range);
        check("autopilot.last_contact_ms", b"\xff", range);
        let mut knobs = Knobs::default();
        knobs.take("autopilot.nothing", b"1").expect("no knob's");
        knobs.take("dead_after", b"1").expect("no knob's");
        assert_eq!(knobs, Knobs::default());
    }
}
