//! How many bytes may move each second.
//!
//! Always between the least and the most that can be set, so that whoever divides by a rate never waits for ever. The
//! text form is a number and a unit; bare numbers are refused, since nobody knows whether they are bits or kilobytes.

use std::fmt;
use std::str::FromStr;

/// The units that a rate may be written in, and their bytes. A bit is an eighth of a byte.
const UNITS: [(&str, u128); 10] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kbit", 125),
    ("Mbit", 125_000),
    ("Gbit", 125_000_000),
];

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// The text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateProblem {
    /// A number alone.
    #[error("{0:?} has no unit; write it like 20MB/s")]
    NoUnit(String),
    /// No number in front, or more digits than anybody needs.
    #[error("{0:?} is no rate like 20MB/s")]
    NoRate(String),
    /// A word behind the number that is none of the units.
    #[error("{0:?} has a unit that is none of B, kB, MB, GB, KiB, MiB, GiB, kbit, Mbit, Gbit")]
    OtherUnit(String),
    /// So slow that nothing would ever end.
    #[error("{0} is less than 64 KiB/s")]
    TooLittle(String),
    /// Faster than any machine.
    #[error("{0} is more than 1024 GiB/s; leave it out")]
    TooMuch(String),
}

// === impl Rate ===

impl Rate {
    /// The slowest: 64 KiB a second.
    pub const LEAST: Self = Self(64 << 10);
    /// The fastest: 1,024 GiB a second.
    pub const MOST: Self = Self(1 << 40);

    /// So many bytes a second; `None` outside what can be set.
    #[must_use]
    pub const fn of(bytes: u64) -> Option<Self> {
        if bytes < Self::LEAST.0 || bytes > Self::MOST.0 { None } else { Some(Self(bytes)) }
    }

    /// Bytes each second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// So many hundredths of it, but never less than the least.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        // At most 2^40 times 2^32 hundredths; divided, and cut to what can be set.
        let part = u128::from(self.0) * u128::from(percent) / 100;
        let cut = u64::try_from(part).unwrap_or(u64::MAX);
        Self(cut.clamp(Self::LEAST.0, Self::MOST.0))
    }
}

impl FromStr for Rate {
    type Err = RateProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let problem = |kind: fn(String) -> RateProblem| kind(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = (1..=15).contains(&whole.len()) && (1..=3).contains(&part.len()) && !part.contains('.');
        if !is_number {
            return Err(problem(RateProblem::NoRate));
        }
        if unit.is_empty() {
            return Err(problem(RateProblem::NoUnit));
        }
        let (_, unit_bytes) =
            UNITS.into_iter().find(|(word, _)| *word == unit).ok_or_else(|| problem(RateProblem::OtherUnit))?;
        // Thousandths of the number: at most 18 digits, times at most 2^30.
        let thousandths: u128 = format!("{whole}{part:0<3}").parse().map_err(|_| problem(RateProblem::NoRate))?;
        let bytes = u64::try_from(thousandths * unit_bytes / 1_000).unwrap_or(u64::MAX);
        if bytes < Self::LEAST.0 {
            return Err(problem(RateProblem::TooLittle));
        }
        Self::of(bytes).ok_or_else(|| problem(RateProblem::TooMuch))
    }
}

impl fmt::Display for Rate {
    /// The largest unit in which it is a whole number: what is shown can be typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GB", 1_000_000_000), ("GiB", 1 << 30), ("MB", 1_000_000), ("MiB", 1 << 20), ("kB", 1_000)];
        let fitting =
            units.into_iter().chain([("KiB", 1 << 10), ("B", 1)]).find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        let (unit, bytes) = fitting.unwrap_or(("B", 1));
        write!(f, "{}{unit}/s", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_are_a_rate() {
        let check = |text: &str, bytes: u64| assert_eq!(text.parse::<Rate>().map(Rate::bytes), Ok(bytes), "{text}");
        check("20MB/s", 20_000_000);
        check("20MB", 20_000_000);
        check(" 20 MB/s ", 20_000_000);
        check("1.5GB/s", 1_500_000_000);
        check("0.125GiB", 128 << 20);
        check("100kB/s", 100_000);
        check("64KiB/s", 64 << 10);
        check("65536B", 64 << 10);
        check("1GiB/s", 1 << 30);
        check("1024GiB/s", 1 << 40);
        check("1000kbit", 125_000);
        check("100Mbit/s", 12_500_000);
        check("2.5Gbit/s", 312_500_000);
    }

    #[test]
    fn everything_else_is_refused_and_says_why() {
        let check = |text: &str, expected: &str| {
            let problem = text.parse::<Rate>().unwrap_err();
            assert_eq!(problem.to_string(), expected, "{text}");
        };
        check("20", "\"20\" has no unit; write it like 20MB/s");
        check("20/s", "\"20/s\" has no unit; write it like 20MB/s");
        check("", "\"\" is no rate like 20MB/s");
        check("fast", "\"fast\" is no rate like 20MB/s");
        check("-5MB", "\"-5MB\" is no rate like 20MB/s");
        check(".5GB", "\".5GB\" is no rate like 20MB/s");
        check("1.GB", "\"1.GB\" is no rate like 20MB/s");
        check("1.2.3GB", "\"1.2.3GB\" is no rate like 20MB/s");
        check("1.0001GB", "\"1.0001GB\" is no rate like 20MB/s");
        check(&format!("{}B", "9".repeat(16)), "\"9999999999999999B\" is no rate like 20MB/s");
        let units = "has a unit that is none of B, kB, MB, GB, KiB, MiB, GiB, kbit, Mbit, Gbit";
        check("20mb/s", &format!("\"20mb/s\" {units}"));
        check("20MB/h", &format!("\"20MB/h\" {units}"));
        check("20MBps", &format!("\"20MBps\" {units}"));
        check("10 B/s", "10 B/s is less than 64 KiB/s");
        check("0MB/s", "0MB/s is less than 64 KiB/s");
        check("65535B/s", "65535B/s is less than 64 KiB/s");
        check("1025GiB/s", "1025GiB/s is more than 1024 GiB/s; leave it out");
        check(&format!("{}GiB", "9".repeat(15)), "999999999999999GiB is more than 1024 GiB/s; leave it out");
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        let check = |text: &str, shown: &str| {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), shown.parse::<Rate>()), (shown, Ok(rate)), "{text}");
        };
        check("20MB/s", "20MB/s");
        check("1.5GB", "1500MB/s");
        check("2000MB", "2GB/s");
        check("8MiB/s", "8MiB/s");
        check("64KiB", "64KiB/s");
        check("100Mbit/s", "12500kB/s");
        check("65537B", "65537B/s");
    }

    #[test]
    fn a_part_of_a_rate_stays_a_rate() {
        let check = |bytes: u64, percent: u32, expected: u64| {
            assert_eq!(Rate::of(bytes).unwrap().percent(percent).bytes(), expected, "{bytes} {percent}");
        };
        check(100_000_000, 25, 25_000_000);
        check(100_000_000, 100, 100_000_000);
        check(100_000, 25, 64 << 10);
        check(1 << 40, u32::MAX, 1 << 40);
        assert_eq!((Rate::of(65_535), Rate::of((1 << 40) + 1)), (None, None));
    }
}
