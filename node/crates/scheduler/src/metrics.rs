//! The scheduler's metrics: name, unit, labels, meaning.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_scheduler_owned_total` | requests | `outcome`: ok, broken, cancelled, refused | at this node's runtime |
//! | `ollamax_scheduler_dispatched_total` | requests | `outcome`: answered, or an error code | that came in here |
//! | `ollamax_scheduler_attempts_total` | attempts | `result`: answered, or a reason code | nodes tried for a request |
//! | `ollamax_scheduler_running` | requests | – | requests that this node's runtime works on |
//! | `ollamax_scheduler_waiting` | requests | – | requests that wait for this node's runtime |
//! | `ollamax_scheduler_wait_seconds` | seconds | – | time from entering this node's queue to the slot |

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// Handles on the scheduler's metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    owned: IntCounterVec,
    dispatched: IntCounterVec,
    attempts: IntCounterVec,
    running: IntGauge,
    waiting: IntGauge,
    wait_seconds: Histogram,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let counter = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid name and one label")
        };
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a valid name");
        let buckets = vec![0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
        let owned = counter("ollamax_scheduler_owned_total", "Requests at this node's runtime.", "outcome");
        let dispatched = counter("ollamax_scheduler_dispatched_total", "Requests that came in here.", "outcome");
        let attempts = counter("ollamax_scheduler_attempts_total", "Nodes that requests were tried on.", "result");
        // What is shown from the start has a first value for whoever computes rates.
        for (counter, label) in [(&owned, "ok"), (&dispatched, "answered"), (&attempts, "answered")] {
            counter.with_label_values(&[label]);
        }
        let wait = HistogramOpts::new("ollamax_scheduler_wait_seconds", "Time in this node's queue.").buckets(buckets);
        Self {
            owned,
            dispatched,
            attempts,
            running: gauge("ollamax_scheduler_running", "Requests that this node's runtime works on."),
            waiting: gauge("ollamax_scheduler_waiting", "Requests that wait for this node's runtime."),
            wait_seconds: Histogram::with_opts(wait).expect("a valid name and rising buckets"),
        }
    }
}

impl Metrics {
    /// Shows the metrics in a registry.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.owned.clone()))?;
        registry.register(Box::new(self.dispatched.clone()))?;
        registry.register(Box::new(self.attempts.clone()))?;
        registry.register(Box::new(self.running.clone()))?;
        registry.register(Box::new(self.waiting.clone()))?;
        registry.register(Box::new(self.wait_seconds.clone()))
    }

    pub(crate) fn owned(&self, outcome: &str) {
        self.owned.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn dispatched(&self, outcome: &str) {
        self.dispatched.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn attempted(&self, result: &str) {
        self.attempts.with_label_values(&[result]).inc();
    }

    pub(crate) fn queue(&self, running: usize, waiting: usize) {
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.wait_seconds.observe(time.as_secs_f64());
    }
}
