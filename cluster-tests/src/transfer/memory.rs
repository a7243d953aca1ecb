//! Memory for the copies of a row, which was in use just before it begins.
//!
//! A virtual machine gives memory back that nobody uses, within seconds, and has it again page by page, which costs
//! more than all the rest of a copy. So no row pays for being the first, or for having waited.

use anyhow::{Context, Result};
use tokio::time::Instant;

/// How much memory there is.
const MEMORY: &str = "/proc/meminfo";
/// So much is written to at once.
const BLOCK_BYTES: u64 = 64 << 20;

/// The moment from which a row counts, in which that many bytes will be written. At most half of what can be had is
/// used before it.
pub(super) async fn begin(copies: usize, size_bytes: u64) -> Result<Instant> {
    let wanted_bytes = u64::try_from(copies).unwrap_or(u64::MAX).saturating_mul(size_bytes);
    let used_bytes = wanted_bytes.min(available_bytes().await? / 2);
    let blocks = used_bytes.div_ceil(BLOCK_BYTES);
    let using = tokio::task::spawn_blocking(move || drop((0..blocks).map(|_| used_block()).collect::<Vec<_>>()));
    using.await.context("use the memory of a row")?;
    Ok(Instant::now())
}

/// Memory that is really there: each page is written to.
fn used_block() -> Vec<u8> {
    vec![std::hint::black_box(1); usize::try_from(BLOCK_BYTES).unwrap_or(0)]
}

/// Memory that can be had, bytes: `MemAvailable` of the kernel.
async fn available_bytes() -> Result<u64> {
    let text = tokio::fs::read_to_string(MEMORY).await.with_context(|| format!("read {MEMORY}"))?;
    available_in(&text).with_context(|| format!("{MEMORY} says no MemAvailable"))
}

fn available_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let text = "MemTotal:       24684208 kB\nMemFree:        18213432 kB\nMemAvailable:   22755840 kB\n";
        assert_eq!(available_in(text), Some(22_755_840 << 10));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
        assert_eq!(available_in("MemAvailable: much\n"), None);
    }
}
