//! What is counted of backups.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_backup_bytes` | bytes | | size of the backup that this node made last; 0 before the first |
//! | `ollamax_backup_scheduled_timestamp_seconds` | seconds | | cluster time of the last one |
//! | `ollamax_backups_total` | backups | `outcome` | backups that this node began, `made` or `failed` |

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use ollamax_types::Timestamp;

/// Backups, as this node makes and sees them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    bytes: IntGauge,
    scheduled: IntGauge,
    total: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let total = Opts::new("ollamax_backups_total", "Backups that this node began, by outcome");
        let metrics = Self {
            bytes: IntGauge::new("ollamax_backup_bytes", "Size of the backup that this node made last")?,
            scheduled: IntGauge::new(
                "ollamax_backup_scheduled_timestamp_seconds",
                "Cluster time of the last scheduled backup, whichever node made it",
            )?,
            total: IntCounterVec::new(total, &["outcome"])?,
        };
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.scheduled.clone()))?;
        registry.register(Box::new(metrics.total.clone()))?;
        for outcome in ["made", "failed"] {
            metrics.total.with_label_values(&[outcome]).inc_by(0);
        }
        Ok(metrics)
    }

    /// One was made, of this size, or not.
    pub(crate) fn made(&self, bytes: Option<u64>) {
        let outcome = if bytes.is_some() { "made" } else { "failed" };
        self.total.with_label_values(&[outcome]).inc();
        if let Some(bytes) = bytes {
            self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// When the schedule made the last.
    pub(crate) fn show_scheduled(&self, at: Option<Timestamp>) {
        let seconds = at.map_or(0, |at| at.0 / 1_000);
        self.scheduled.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
