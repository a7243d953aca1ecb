//! Memory for the copies of a row, in which a file lay just before it begins.
//!
//! A virtual machine gives memory back that nobody uses, within two seconds, and has it again page by page, which costs
//! more than all the rest of a copy. The kernel takes whole blocks for a file's pages, and takes those that other pages
//! left only later; so it is a file that goes just before a row. What a row needs later than two seconds after it began
//! is new again: rows that are long pay for it, in all systems alike.

use std::io::Write as _;

use anyhow::{Context, Result};
use tokio::time::Instant;

/// How much memory there is.
const MEMORY: &str = "/proc/meminfo";
/// So much is written at once.
const BLOCK_BYTES: usize = 4 << 20;

/// The moment from which a row counts, in which that many bytes will be written where copies lie. At most a quarter of
/// the memory that can be had is used before it.
pub(super) async fn begin(copies: usize, size_bytes: u64) -> Result<Instant> {
    let wanted_bytes = u64::try_from(copies).unwrap_or(u64::MAX).saturating_mul(size_bytes);
    let used_bytes = wanted_bytes.min(available_bytes().await? / 4);
    let blocks = used_bytes.div_ceil(BLOCK_BYTES as u64);
    let using = tokio::task::spawn_blocking(move || a_file_comes_and_goes(blocks));
    using.await?.context("use the memory of a row")?;
    Ok(Instant::now())
}

/// The file has no name, so that nothing stays of it.
fn a_file_comes_and_goes(blocks: u64) -> std::io::Result<()> {
    let mut file = tempfile::tempfile()?;
    let block = vec![1; BLOCK_BYTES];
    (0..blocks).try_for_each(|_| file.write_all(&block))
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
