//! How many bytes may move now: limits with windows, and a bucket that says how long to wait.
//!
//! A limit is a rate for all times, and others for windows of the week; it is told the minute of the week and knows no
//! zone and no clock. A bucket keeps one class of bytes to what its limit allows at the moment. Always: what waits is
//! told for how long, at most a second, and asks again; nothing is kept for it, so who goes away leaves nothing behind.

mod bucket;
mod text;

use ollamax_types::Rate;

pub use bucket::{Bucket, Shares, Take, Urgency};
pub use text::LimitProblem;

/// Minutes of a day.
pub const MINUTES_PER_DAY: u32 = 24 * 60;
/// Minutes of a week.
pub const MINUTES_PER_WEEK: u32 = 7 * MINUTES_PER_DAY;

/// What a class of bytes may take at which time. The default is everything, always.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limit {
    windows: Vec<Window>,
    rest: Allowed,
}

/// What is allowed at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allowed {
    /// As fast as it goes.
    #[default]
    Everything,
    /// So much.
    Rate(Rate),
    /// Not one byte.
    Nothing,
}

/// A time of some days, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// On which days it begins; Monday is the first.
    days: [bool; 7],
    /// Minute of the day in which it begins.
    from: u32,
    /// Minute of the day in which it is over; not behind `from`: on the day after.
    until: u32,
    allowed: Allowed,
}

// === impl Limit ===

impl Limit {
    /// What it allows in this minute of the week; 0 is Monday 00:00. The first window that holds counts.
    #[must_use]
    pub fn at(&self, minute_of_week: u32) -> Allowed {
        let holding = self.windows.iter().find(|window| window.holds(minute_of_week));
        holding.map_or(self.rest, |window| window.allowed)
    }

    /// Minutes until it allows something else than now; `None`: never. It looks at each minute of a week.
    #[must_use]
    pub fn until(&self, minute_of_week: u32) -> Option<u32> {
        if self.windows.is_empty() {
            return None;
        }
        let now = self.at(minute_of_week);
        let minute = minute_of_week % MINUTES_PER_WEEK;
        (1..MINUTES_PER_WEEK).find(|ahead| self.at(minute + ahead) != now)
    }

    /// It keeps nothing back, at no time.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.rest == Allowed::Everything && self.windows.iter().all(|window| window.allowed == Allowed::Everything)
    }
}

// === impl Allowed ===

impl Allowed {
    /// The rate, where it is one.
    #[must_use]
    pub const fn rate(self) -> Option<Rate> {
        match self {
            Self::Rate(rate) => Some(rate),
            Self::Everything | Self::Nothing => None,
        }
    }
}

// === impl Window ===

impl Window {
    fn holds(&self, minute_of_week: u32) -> bool {
        let minute = minute_of_week % MINUTES_PER_DAY;
        let begins = |days_ago: u32| {
            let day = (minute_of_week / MINUTES_PER_DAY + 7 - days_ago) % 7;
            self.days.get(day as usize).copied().unwrap_or(false)
        };
        if self.from < self.until {
            return begins(0) && (self.from..self.until).contains(&minute);
        }
        (begins(0) && minute >= self.from) || (begins(1) && minute < self.until)
    }
}

#[cfg(test)]
mod tests;
