//! One class of bytes: told what is wanted, it says how long to wait; what it grants is spent.
//!
//! Always, in any time: what is granted is at most the rate times that time, a burst, and one take of each urgency.
//! What somebody waits for goes first: background waits while there is such a demand, and is then given one take in a
//! second, at most one between two takes of the others; so neither waits for more than one take of the other. A clock
//! that goes back fills nothing.

use ollamax_types::Rate;

use super::Allowed;

/// Longest wait that is told; who waits asks again, so that a limit that changed counts soon.
const WAIT_MS_MAX: u64 = 1_000;

/// How long background yields behind the last word of somebody who waits, and how often it has a turn all the same.
const YIELD_MS: u64 = 1_000;

/// Least burst, bytes: one chunk.
const BURST_LEAST: u64 = 4 << 20;

/// Who waits for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Nobody: the cluster repairs, moves or checks.
    Background,
    /// A person, or a program that a person began.
    Asked,
}

/// What a class may take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Both urgencies together.
    pub all: Allowed,
    /// Background; `None`: as much as there is.
    pub background: Option<Rate>,
}

/// The answer to a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It may move, and is spent.
    Now,
    /// Not yet: ask again then. Nothing was spent.
    Wait {
        /// Milliseconds, 1 to 1,000.
        ms: u64,
    },
    /// Nothing of this class moves at this time of the week. Ask again then; nothing was spent.
    Closed {
        /// Milliseconds.
        ms: u64,
    },
}

/// The bytes that one class has left.
#[derive(Debug, Clone)]
pub struct Bucket {
    shared: Level,
    background: Level,
    /// When somebody who waits last wanted something.
    asked_at_ms: Option<u64>,
    /// When background was last granted something; at first when the bucket was made.
    background_at_ms: u64,
    /// Background had its turn since somebody who waits was last granted something.
    had_turn: bool,
}

/// Bytes that are left under one rate; below 0: what is owed.
#[derive(Debug, Clone)]
struct Level {
    bytes: i64,
    /// What the last division left, thousandths of a byte.
    thousandths: u128,
    at_ms: u64,
}

// === impl Bucket ===

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            shared: Level::full(now_ms),
            background: Level::full(now_ms),
            asked_at_ms: None,
            background_at_ms: now_ms,
            had_turn: false,
        }
    }

    /// May so many bytes move? The answer `Now` spends them. A take may be larger than the burst: it leaves a debt.
    pub fn take(&mut self, now_ms: u64, allowed: Shares, urgency: Urgency, bytes: u64) -> Take {
        if allowed.all == Allowed::Nothing {
            self.shared.pass_by(now_ms);
            self.background.pass_by(now_ms);
            return Take::Closed { ms: WAIT_MS_MAX };
        }
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rate = allowed.all.rate();
        self.shared.fill(now_ms, rate);
        self.background.fill(now_ms, allowed.background);
        let ms = match urgency {
            Urgency::Asked => {
                self.asked_at_ms = Some(now_ms);
                self.shared.wait_ms(rate, 0)
            }
            Urgency::Background => self.background_wait_ms(now_ms, allowed, cost),
        };
        if ms > 0 {
            return Take::Wait { ms: ms.min(WAIT_MS_MAX) };
        }
        self.spend(now_ms, urgency, cost);
        Take::Now
    }

    fn background_wait_ms(&self, now_ms: u64, allowed: Shares, cost: i64) -> u64 {
        let rate = allowed.all.rate();
        let own_ms = self.background.wait_ms(allowed.background, 0);
        let yields_ms = self.asked_at_ms.map_or(0, |at| left_ms(at, now_ms));
        if yields_ms == 0 {
            return own_ms.max(self.shared.wait_ms(rate, 0));
        }
        if self.had_turn {
            return own_ms.max(yields_ms);
        }
        // Its turn: it need not find a full level, which the others never leave, but it may not double a debt.
        let turn_ms = left_ms(self.background_at_ms, now_ms).max(self.shared.wait_ms(rate, cost.saturating_neg()));
        own_ms.max(turn_ms.min(yields_ms))
    }

    fn spend(&mut self, now_ms: u64, urgency: Urgency, cost: i64) {
        self.shared.bytes = self.shared.bytes.saturating_sub(cost);
        match urgency {
            Urgency::Asked => self.had_turn = false,
            Urgency::Background => {
                self.background.bytes = self.background.bytes.saturating_sub(cost);
                self.background_at_ms = now_ms;
                self.had_turn = true;
            }
        }
    }
}

// === impl Level ===

impl Level {
    /// As full as any rate allows: the first filling cuts it to its burst.
    const fn full(now_ms: u64) -> Self {
        Self { bytes: i64::MAX, thousandths: 0, at_ms: now_ms }
    }

    /// Time passes in which nothing comes in.
    const fn pass_by(&mut self, now_ms: u64) {
        if now_ms > self.at_ms {
            self.at_ms = now_ms;
        }
    }

    /// What came in since the last look; without a rate it is full at once.
    fn fill(&mut self, now_ms: u64, rate: Option<Rate>) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        self.pass_by(now_ms);
        let Some(rate) = rate else {
            *self = Self::full(self.at_ms);
            return;
        };
        let gained = u128::from(rate.bytes()) * u128::from(elapsed_ms) + self.thousandths;
        let bytes = self.bytes.saturating_add(i64::try_from(gained / 1_000).unwrap_or(i64::MAX));
        let burst = burst(rate);
        self.thousandths = if bytes >= burst { 0 } else { gained % 1_000 };
        self.bytes = bytes.min(burst);
    }

    /// Milliseconds until it is above this floor; 0: it is.
    fn wait_ms(&self, rate: Option<Rate>, floor: i64) -> u64 {
        let Some(rate) = rate.filter(|_| self.bytes <= floor) else { return 0 };
        // Above by one byte; both are far from the ends of 128 bits.
        let missing = i128::from(floor) + 1 - i128::from(self.bytes);
        let missing = u128::try_from(missing).unwrap_or(1) * 1_000;
        u64::try_from(missing.div_ceil(u128::from(rate.bytes()))).unwrap_or(u64::MAX)
    }
}

/// What may come at once after a rest.
fn burst(rate: Rate) -> i64 {
    i64::try_from((rate.bytes() / 4).max(BURST_LEAST)).unwrap_or(i64::MAX)
}

/// What is left of the time of yielding that began then.
const fn left_ms(since_ms: u64, now_ms: u64) -> u64 {
    since_ms.saturating_add(YIELD_MS).saturating_sub(now_ms)
}
