//! The knobs of replication: how patient the leader is with copies of models, how much it moves at once, and how long
//! it remembers names that nobody has any more.
//!
//! Every knob is one setting of the whole cluster, as those of [`crate::autopilot`] are, and read as strictly. What is
//! not set has its default; a text in the state that is no value of its knob changes nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::autopilot::{KnobError, Unit};
use crate::clock::DAY_MS;

/// What the names of the settings begin with.
pub const PREFIX: &str = "models/";

const MINUTE_MS: u64 = 60_000;

/// One knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knob {
    /// Silence after which copies of a node are made anew elsewhere.
    RepairAfter,
    /// How long a node must have been heard without interruption before it gets copies or loses any.
    SteadyFor,
    /// Copies that nobody asked for just now, of models under way at once.
    MovesMax,
    /// How full the disk of a node may become by such a copy, percent.
    DiskPercentMax,
    /// Whether copies go from full disks to empty ones by themselves.
    Rebalance,
    /// Difference of disk use between two nodes that is worth a move, percent.
    RebalancePercent,
    /// How long the record of a name stays that nobody has, asks for or pins any more.
    ForgetAfter,
}

/// All knobs as they are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knobs {
    /// [`Knob::RepairAfter`].
    pub repair_after: Duration,
    /// [`Knob::SteadyFor`].
    pub steady_for: Duration,
    /// [`Knob::MovesMax`].
    pub moves_max: usize,
    /// [`Knob::DiskPercentMax`].
    pub disk_percent_max: u64,
    /// [`Knob::Rebalance`].
    pub rebalance: bool,
    /// [`Knob::RebalancePercent`].
    pub rebalance_percent: u64,
    /// [`Knob::ForgetAfter`].
    pub forget_after: Duration,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            repair_after: Duration::from_millis(10 * MINUTE_MS),
            steady_for: Duration::from_millis(5 * MINUTE_MS),
            moves_max: 2,
            disk_percent_max: 90,
            rebalance: false,
            rebalance_percent: 20,
            forget_after: Duration::from_millis(30 * DAY_MS),
        }
    }
}

// === impl Knob ===

impl Knob {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::RepairAfter,
        Self::SteadyFor,
        Self::MovesMax,
        Self::DiskPercentMax,
        Self::Rebalance,
        Self::RebalancePercent,
        Self::ForgetAfter,
    ];

    /// The word that people type. No knob of [`crate::autopilot`] has the same.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RepairAfter => "repair_after",
            Self::SteadyFor => "steady_for",
            Self::MovesMax => "moves_max",
            Self::DiskPercentMax => "disk_percent_max",
            Self::Rebalance => "rebalance",
            Self::RebalancePercent => "rebalance_percent",
            Self::ForgetAfter => "forget_after",
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
            Self::RepairAfter | Self::SteadyFor | Self::ForgetAfter => Unit::Millis,
            Self::Rebalance => Unit::Switch,
            Self::MovesMax | Self::DiskPercentMax | Self::RebalancePercent => Unit::Count,
        }
    }

    /// The numbers that it takes.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::RepairAfter => 1_000..=30 * DAY_MS,
            Self::SteadyFor => 0..=DAY_MS,
            Self::MovesMax => 1..=64,
            Self::DiskPercentMax => 1..=100,
            Self::Rebalance => 0..=1,
            Self::RebalancePercent => 1..=100,
            Self::ForgetAfter => MINUTE_MS..=365 * DAY_MS,
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

// === impl Knobs ===

impl Knobs {
    /// The number of a knob.
    #[must_use]
    pub fn number(&self, knob: Knob) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match knob {
            Knob::RepairAfter => millis(self.repair_after),
            Knob::SteadyFor => millis(self.steady_for),
            Knob::MovesMax => self.moves_max as u64,
            Knob::DiskPercentMax => self.disk_percent_max,
            Knob::Rebalance => u64::from(self.rebalance),
            Knob::RebalancePercent => self.rebalance_percent,
            Knob::ForgetAfter => millis(self.forget_after),
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
            Knob::RepairAfter => self.repair_after = Duration::from_millis(number),
            Knob::SteadyFor => self.steady_for = Duration::from_millis(number),
            Knob::MovesMax => self.moves_max = usize::try_from(number).unwrap_or(usize::MAX),
            Knob::DiskPercentMax => self.disk_percent_max = number,
            Knob::Rebalance => self.rebalance = number != 0,
            Knob::RebalancePercent => self.rebalance_percent = number,
            Knob::ForgetAfter => self.forget_after = Duration::from_millis(number),
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
            repair_after: Duration::ZERO,
            steady_for: Duration::ZERO,
            moves_max: 0,
            disk_percent_max: 0,
            rebalance: true,
            rebalance_percent: 0,
            forget_after: Duration::ZERO,
        };
        for knob in Knob::ALL {
            assert_eq!(Knob::of_name(knob.name()), Some(knob));
            assert_eq!(Knob::of_setting(&knob.setting()), Some(knob));
            assert_eq!(crate::autopilot::Knob::of_name(knob.name()), None, "a name means one knob");
            let number = Knobs::default().number(knob);
            let text = knob.text(number);
            assert_eq!(knob.parse(&text), Ok(number), "{knob:?} {text}");
            again.take(&knob.setting(), text.as_bytes()).expect("its own text");
        }
        assert_eq!(again, Knobs::default());
        assert_eq!(Knob::RepairAfter.setting(), "models/repair_after_ms");
        assert_eq!(Knob::MovesMax.setting(), "models/moves_max");
    }

    #[test]
    fn what_is_no_value_is_refused_and_changes_nothing() {
        let check = |key: &str, text: &[u8], expected: &str| {
            let mut knobs = Knobs::default();
            let error = knobs.take(key, text).expect_err("no value");
            assert_eq!(error.to_string(), expected);
            assert_eq!(knobs, Knobs::default());
        };
        check("models/rebalance", b"on", "models/rebalance must be true or false");
        check("models/moves_max", b"0", "models/moves_max must be a number between 1 and 64");
        check("models/disk_percent_max", b"101", "models/disk_percent_max must be a number between 1 and 100");
        let range = "models/repair_after_ms must be milliseconds between 1000 and 2592000000";
        check("models/repair_after_ms", b"10m", range);
        check("models/repair_after_ms", b"\xff", range);
        let mut knobs = Knobs::default();
        knobs.take("models/rules", b"1").expect("no knob's");
        knobs.take("repair_after", b"1").expect("no knob's");
        assert_eq!(knobs, Knobs::default());
    }
}
