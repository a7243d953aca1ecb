//! `transfer.*`: how fast files of the store are hashed in the background.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Slowest hashing that can be set, bytes each second. Below it one piece of a file would take longer than anybody
/// waits for.
const HASH_BYTES_PER_SECOND_LEAST: u64 = 1 << 20;

/// The numbers of transfer. Every default is what a lab needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of adopted models that are read each second to hash them in the background; 0 sets no limit. Since 0.1.
    pub hash_bytes_per_second_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { hash_bytes_per_second_max: 256 << 20 }
    }
}

// === impl Config ===

impl Config {
    /// Everything that is wrong, one sentence each; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let rate = self.hash_bytes_per_second_max;
        let is_wrong = rate != 0 && rate < HASH_BYTES_PER_SECOND_LEAST;
        let key = "transfer.hash_bytes_per_second_max";
        is_wrong
            .then(|| format!("{key}: {rate} is neither 0 (no limit) nor at least {HASH_BYTES_PER_SECOND_LEAST}"))
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_and_a_usable_one_are_valid() {
        let check = |rate, problems| {
            let found = Config { hash_bytes_per_second_max: rate }.validate();
            assert_eq!(found.len(), problems, "{rate}: {found:?}");
        };
        check(Config::default().hash_bytes_per_second_max, 0);
        check(0, 0);
        check(1 << 20, 0);
        check(u64::MAX, 0);
        check((1 << 20) - 1, 1);
        check(1, 1);
    }
}
