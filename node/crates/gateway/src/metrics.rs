//! The metrics of the clients' door.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_gateway_requests_total` | requests | `route`, `status` | answered, by pattern of the route |
//! | `ollamax_gateway_in_flight` | requests | | requests whose answer has not ended |
//! | `ollamax_gateway_first_byte_seconds` | seconds | `route` | until the first byte of the answer's body |
//! | `ollamax_gateway_duration_seconds` | seconds | `route` | until the answer ended or the client left |
//! | `ollamax_gateway_connections` | connections | | open client connections |
//! | `ollamax_gateway_connections_refused_total` | connections | | refused because of `api.connections_max` |
//! | `ollamax_gateway_tool_calls_total` | calls | `tool`, `outcome` | calls of tools, by how they ended |
//! | `ollamax_gateway_tool_duration_seconds` | seconds | `tool` | until a call ended |

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Upper bounds of the time histograms, seconds: from a local answer to a long generation.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// The handles, shared by all requests.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) first_byte: HistogramVec,
    pub(crate) duration: HistogramVec,
    pub(crate) connections: IntGauge,
    pub(crate) refused: IntCounter,
}

/// What a tool is called here that does not exist: callers' words are no labels.
pub(crate) const UNKNOWN_TOOL: &str = "unknown";

/// Where calls of tools are counted, through whatever door they come.
#[derive(Debug, Clone)]
pub(crate) struct ToolMetrics {
    pub(crate) calls: IntCounterVec,
    pub(crate) duration: HistogramVec,
}

/// Where the connections of a listener are counted.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    /// Those that are open.
    pub(crate) connections: IntGauge,
    /// Those too many.
    pub(crate) refused: IntCounter,
}

// === impl ToolMetrics ===

impl Default for ToolMetrics {
    fn default() -> Self {
        let calls = Opts::new("ollamax_gateway_tool_calls_total", "Calls of tools");
        let duration = HistogramOpts::new("ollamax_gateway_tool_duration_seconds", "Time until a call of a tool ended");
        let metrics = Self {
            calls: IntCounterVec::new(calls, &["tool", "outcome"]).expect("names and labels are sane"),
            duration: HistogramVec::new(duration.buckets(SECONDS.to_vec()), &["tool"])
                .expect("names and labels are sane"),
        };
        // They are there before the first call.
        metrics.calls.with_label_values(&[UNKNOWN_TOOL, UNKNOWN_TOOL]);
        metrics.duration.with_label_values(&[UNKNOWN_TOOL]);
        metrics
    }
}

impl ToolMetrics {
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.calls.clone()))?;
        registry.register(Box::new(self.duration.clone()))
    }
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name: &str, help: &str| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), &["route"])
        };
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("ollamax_gateway_requests_total", "Answered client requests"),
                &["route", "status"],
            )?,
            in_flight: IntGauge::new("ollamax_gateway_in_flight", "Client requests whose answer has not ended")?,
            first_byte: seconds(
                "ollamax_gateway_first_byte_seconds",
                "Time until the first byte of the answer's body",
            )?,
            duration: seconds("ollamax_gateway_duration_seconds", "Time until the answer ended or the client left")?,
            connections: IntGauge::new("ollamax_gateway_connections", "Open client connections")?,
            refused: IntCounter::new(
                "ollamax_gateway_connections_refused_total",
                "Client connections refused because of api.connections_max",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.first_byte.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        Ok(metrics)
    }

    /// Where the door's connections are counted.
    pub(crate) fn counts(&self) -> Counts {
        Counts { connections: self.connections.clone(), refused: self.refused.clone() }
    }
}
