//! Where a test's chance comes from: one number, printed, and replayed through `OLLAMAX_SEED`.

use std::fmt;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Name of the environment variable that replays a run.
pub const SEED_VARIABLE: &str = "OLLAMAX_SEED";

/// The one source of chance of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// `OLLAMAX_SEED` when it is set, else `fixed`; printed either way, so that a failing log names it.
    #[must_use]
    pub fn choose(test: &str, fixed: u64) -> Self {
        let seed = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(fixed);
        eprintln!("{test}: seed={seed} (replay: {SEED_VARIABLE}={seed})");
        Self(seed)
    }

    /// A generator for one purpose; different purposes do not disturb each other.
    #[must_use]
    pub fn generator(self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ purpose.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_purposes_differ() {
        let draw = |seed: u64, purpose| Seed(seed).generator(purpose).next_u64();
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }
}
