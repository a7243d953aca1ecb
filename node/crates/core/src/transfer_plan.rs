//! Which chunk next, from whom, and when to stop.
//!
//! A plan is told what happened and answers what to ask for; it moves no byte and knows no clock but the one it is
//! told, in milliseconds that only grow. Whatever happens, it ends: all is there, or it says that there is no use.

pub mod origin;
pub mod swarm;

/// Chunks that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// How long to wait for what does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Before the second attempt, milliseconds; each further wait is twice as long.
    pub first_wait_ms: u64,
    /// Longest wait between two attempts, milliseconds.
    pub wait_ms_max: u64,
    /// Time without a gained chunk after which it is given up, milliseconds.
    pub silence_ms: u64,
}

// === impl Extent ===

impl Extent {
    /// The chunk behind the last.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }

    /// Its chunks, in order.
    #[must_use]
    pub const fn chunks(self) -> std::ops::Range<u32> {
        self.first..self.end()
    }
}

// === impl Patience ===

impl Patience {
    /// The wait behind so many failures in a row.
    #[must_use]
    pub const fn wait_ms(&self, failures: u32) -> u64 {
        let doubled = if failures >= u64::BITS { None } else { self.first_wait_ms.checked_mul(1 << failures) };
        match doubled {
            Some(wait_ms) if wait_ms < self.wait_ms_max => wait_ms,
            _ => self.wait_ms_max,
        }
    }
}
