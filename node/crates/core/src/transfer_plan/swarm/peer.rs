//! What one peer has, what it was asked, and how fast it answers.
//!
//! A request grows with each one that came whole. A peer that says that it is busy is asked for no more at once than it
//! has taken on; a few whole requests later for one more.

use std::collections::BTreeSet;

use ollamax_types::Bits;

use super::Rules;

/// Chunks of the first request to a peer.
const EXTENT_FIRST: u32 = 2;
/// After so many whole requests a peer may be asked for one more at once.
const WHOLE_FOR_MORE: u32 = 4;
/// How often in a row the wait behind a stall doubles.
const STALL_DOUBLINGS_MAX: u32 = 6;

/// A peer that is linked.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) has: Bits,
    /// It brings the file into the swarm, or had it whole when it joined.
    pub(crate) is_source: bool,
    /// Its open requests.
    pub(crate) open: BTreeSet<u64>,
    /// The chunks that they still expect.
    pub(crate) expected: u32,
    /// Not asked before this moment.
    pub(crate) rests_until_ms: u64,
    pub(crate) pace: Pace,
    /// How often in a row it did not answer in time.
    pub(crate) stalls: u32,
}

/// How fast a peer answers, and how much it is asked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    chunk_us: u64,
    last_ms: u64,
    /// Chunks of the next request.
    pub(crate) extent: u32,
    /// Requests at once.
    open_max: u32,
    /// Requests that came whole since that changed.
    whole: u32,
}

/// What is remembered of a peer for as long as the swarm lasts.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) strikes: u32,
    /// Chunks that came damaged from it: they are not asked of it again.
    pub(crate) damaged: BTreeSet<u32>,
    pub(crate) is_distrusted: bool,
}

// === impl Peer ===

impl Peer {
    pub(crate) fn new(len: u32, is_source: bool, rules: &Rules) -> Self {
        let (has, open, pace) = (Bits::new(len), BTreeSet::new(), Pace::new(rules));
        Self { has, is_source, open, expected: 0, rests_until_ms: 0, pace, stalls: 0 }
    }

    /// Whether it may be asked for more, when `share` requests at once are its due.
    pub(crate) fn is_free(&self, now_ms: u64, share: u32) -> bool {
        self.rests_until_ms <= now_ms && self.open.len() < self.pace.open_max.min(share) as usize
    }

    /// Expected time until one more chunk comes; the least where nothing was measured, so that it is tried.
    pub(crate) fn load_us(&self) -> u64 {
        u64::from(self.expected).saturating_add(1).saturating_mul(self.pace.chunk_us.max(1))
    }

    /// A chunk came of a request that was asked then.
    pub(crate) fn answered(&mut self, asked_ms: u64, now_ms: u64) {
        self.stalls = 0;
        self.pace.answered(asked_ms, now_ms);
    }

    /// It takes no more than it has. Whether it has anything.
    pub(crate) fn took_its_fill(&mut self) -> bool {
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        (self.pace.open_max, self.pace.whole) = (open.max(1), 0);
        open > 0
    }

    /// It did not answer in time. How often its usual wait it rests for now.
    pub(crate) fn stalled(&mut self) -> u64 {
        let times = 1 << self.stalls.min(STALL_DOUBLINGS_MAX);
        self.stalls = self.stalls.saturating_add(1);
        self.pace.halve();
        times
    }
}

// === impl Pace ===

impl Pace {
    fn new(rules: &Rules) -> Self {
        let extent = EXTENT_FIRST.min(rules.extent_max);
        Self { chunk_us: 0, last_ms: 0, extent, open_max: rules.per_peer_max, whole: 0 }
    }

    /// Smoothed time between two chunks, microseconds; 0 when not measured.
    pub(crate) const fn chunk_us(&self) -> u64 {
        self.chunk_us
    }

    fn answered(&mut self, asked_ms: u64, now_ms: u64) {
        let took_us = now_ms.saturating_sub(self.last_ms.max(asked_ms)).saturating_mul(1_000);
        let smoothed_us = self.chunk_us.saturating_mul(7).saturating_add(took_us) / 8;
        self.chunk_us = if self.chunk_us == 0 { took_us } else { smoothed_us }.max(1);
        self.last_ms = now_ms;
    }

    /// A whole request came: the next ones are larger, and after some of them more.
    pub(crate) fn grow(&mut self, rules: &Rules) {
        self.extent = self.extent.saturating_mul(2).min(rules.extent_max);
        self.whole += 1;
        if self.whole >= WHOLE_FOR_MORE {
            self.whole = 0;
            self.open_max = self.open_max.saturating_add(1).min(rules.per_peer_max);
        }
    }

    fn halve(&mut self) {
        self.open_max = (self.open_max / 2).max(1);
        self.extent = (self.extent / 2).max(1);
    }
}
