//! The metrics of the registry for the lab.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_registry_requests_total` | requests | `kind`, `outcome` | answered: `manifest`, `blob`, `ping`, `other` |
//! | `ollamax_registry_sent_bytes_total` | bytes | | of files, as clients took them |
//! | `ollamax_registry_connections` | connections | | open connections |
//! | `ollamax_registry_refused_connections_total` | connections | | closed because of `registry.connections_max` |
//!
//! An outcome is `served`, `redirected` (to where a file is sent), `absent`, `denied` (by `registry.allow`), or for all
//! else `failed`.

use axum::http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::metrics::Counts;
use crate::registry::words::Wanted;

/// The handles, shared by all requests.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) sent: IntCounter,
    pub(super) counts: Counts,
    requests: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new("ollamax_registry_requests_total", "Answered requests of machines that pull models");
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["kind", "outcome"])?,
            sent: IntCounter::new("ollamax_registry_sent_bytes_total", "Bytes of files that were sent")?,
            counts: Counts {
                connections: IntGauge::new("ollamax_registry_connections", "Open connections of the registry")?,
                refused: IntCounter::new(
                    "ollamax_registry_refused_connections_total",
                    "Connections closed because of registry.connections_max",
                )?,
            },
        };
        // What is shown from the start has a first value for whoever computes rates.
        metrics.requests.with_label_values(&["manifest", "served"]);
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.counts.connections.clone()))?;
        registry.register(Box::new(metrics.counts.refused.clone()))?;
        Ok(metrics)
    }

    /// Counts an answer.
    pub(super) fn answered(&self, wanted: &Wanted<'_>, status: StatusCode) {
        let kind = match wanted {
            Wanted::Root => "ping",
            Wanted::Manifest { .. } => "manifest",
            Wanted::File { .. } => "blob",
            Wanted::Nothing => "other",
        };
        let outcome = match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => "served",
            StatusCode::TEMPORARY_REDIRECT => "redirected",
            StatusCode::NOT_FOUND => "absent",
            StatusCode::FORBIDDEN => "denied",
            _ => "failed",
        };
        self.requests.with_label_values(&[kind, outcome]).inc();
    }
}
