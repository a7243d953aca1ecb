//! What the store counts. Names start with `ollamax_store_`; none has labels.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// Buckets of one sync, seconds: from a fast NVMe drive to a disk that is about to fail.
const SYNC_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Buckets of the number of writes that shared one sync.
const GROUP_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The store's metrics. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `ollamax_store_sync_seconds`: time of one sync of the log.
    pub sync_seconds: Histogram,
    /// `ollamax_store_sync_group_size`: writes that one sync made durable.
    pub sync_group_size: Histogram,
    /// `ollamax_store_syncs_total`: syncs of the log. Divided by writes it gives fsyncs per write.
    pub syncs_total: IntCounter,
    /// `ollamax_store_high_water_writes_total`: rewrites of the high-water file (two fsyncs each).
    pub high_water_writes_total: IntCounter,
    /// `ollamax_store_appended_entries_total`: log entries appended.
    pub appended_entries_total: IntCounter,
    /// `ollamax_store_appended_bytes_total`: bytes of them.
    pub appended_bytes_total: IntCounter,
    /// `ollamax_store_state_commits_total`: batches written to the state.
    pub state_commits_total: IntCounter,
    /// `ollamax_store_state_flushes_total`: flushes of the state to disk.
    pub state_flushes_total: IntCounter,
    /// `ollamax_store_snapshots_installed_total`: snapshots installed.
    pub snapshots_installed_total: IntCounter,
    /// `ollamax_store_ballast_bytes`: bytes that the ballast holds now; 0: it is released, or there is none.
    pub ballast_bytes: IntGauge,
    /// `ollamax_store_ballast_releases_total`: times that the ballast was deleted because the disk filled.
    pub ballast_releases_total: IntCounter,
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(format!("ollamax_store_{name}"), help).expect("the name is a constant and valid")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(format!("ollamax_store_{name}"), help).expect("the name is a constant and valid")
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(format!("ollamax_store_{name}"), help).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("name and buckets are constants and valid")
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sync_seconds: histogram("sync_seconds", "Time of one sync of the log, seconds.", SYNC_BUCKETS),
            sync_group_size: histogram("sync_group_size", "Writes that one sync made durable.", GROUP_BUCKETS),
            syncs_total: counter("syncs_total", "Syncs of the log."),
            high_water_writes_total: counter("high_water_writes_total", "Rewrites of the high-water file."),
            appended_entries_total: counter("appended_entries_total", "Log entries appended."),
            appended_bytes_total: counter("appended_bytes_total", "Bytes of log entries appended."),
            state_commits_total: counter("state_commits_total", "Batches written to the state."),
            state_flushes_total: counter("state_flushes_total", "Flushes of the state to disk."),
            snapshots_installed_total: counter("snapshots_installed_total", "Snapshots installed."),
            ballast_bytes: gauge("ballast_bytes", "Bytes that the ballast holds."),
            ballast_releases_total: counter("ballast_releases_total", "Times that the ballast was released."),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Adds all of them to a registry.
    ///
    /// # Errors
    /// When one is registered there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 11] = [
            Box::new(self.sync_seconds.clone()),
            Box::new(self.sync_group_size.clone()),
            Box::new(self.syncs_total.clone()),
            Box::new(self.high_water_writes_total.clone()),
            Box::new(self.appended_entries_total.clone()),
            Box::new(self.appended_bytes_total.clone()),
            Box::new(self.state_commits_total.clone()),
            Box::new(self.state_flushes_total.clone()),
            Box::new(self.snapshots_installed_total.clone()),
            Box::new(self.ballast_bytes.clone()),
            Box::new(self.ballast_releases_total.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// The time within which a share `q` (0 to 1) of all syncs ended, rounded up to the histogram's bucket; `None`
    /// before the first sync.
    #[must_use]
    pub fn sync_quantile(&self, q: f64) -> Option<Duration> {
        let families = self.sync_seconds.collect();
        let histogram = families.first()?.get_metric().first()?.get_histogram();
        let total = histogram.get_sample_count();
        if total == 0 {
            return None;
        }
        let wanted = q.clamp(0.0, 1.0) * total as f64;
        let bucket = histogram.get_bucket().iter().find(|bucket| bucket.cumulative_count() as f64 >= wanted);
        let last = SYNC_BUCKETS.last().copied().unwrap_or_default();
        let bound = bucket.map_or(last, prometheus::proto::Bucket::upper_bound);
        Some(Duration::from_secs_f64(if bound.is_finite() { bound } else { last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_register_once_under_the_crates_prefix() {
        let registry = Registry::new();
        let metrics = Metrics::default();
        metrics.register(&registry).expect("first time");
        assert!(metrics.register(&registry).is_err(), "a second time is refused");
        let families = registry.gather();
        assert_eq!(families.len(), 11);
        assert!(families.iter().all(|family| family.name().starts_with("ollamax_store_")));
    }

    #[test]
    fn a_quantile_is_the_bound_of_the_bucket_it_falls_into() {
        let metrics = Metrics::default();
        assert_eq!(metrics.sync_quantile(0.5), None);
        for _ in 0..9 {
            metrics.sync_seconds.observe(0.0035);
        }
        metrics.sync_seconds.observe(0.3);
        assert_eq!(metrics.sync_quantile(0.5), Some(Duration::from_millis(4)));
        assert_eq!(metrics.sync_quantile(0.99), Some(Duration::from_millis(500)));
    }
}
