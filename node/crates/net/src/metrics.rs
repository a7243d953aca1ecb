//! What this door counts.
//!
//! | name | labels | meaning |
//! | --- | --- | --- |
//! | `ollamax_peer_handshakes_total` | `outcome`: ok, failed, timed_out | handshakes on the `peer` listener |
//! | `ollamax_peer_refused_total` | `reason`: handshakes, connections, strangers, not_member, twin | turned away |
//! | `ollamax_peer_connections` | `class`, `direction`: in, out | open connections |
//! | `ollamax_peer_dials_total` | `class`, `outcome`: ok, failed | dials to other nodes, all addresses together |

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::connections::Direction;
use crate::peer::Class;

/// The counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    handshakes: IntCounterVec,
    refused: IntCounterVec,
    connections: IntGaugeVec,
    dials: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let counter = |name: &str, text: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, text), labels).expect("the name and labels are valid")
        };
        let connections = Opts::new("ollamax_peer_connections", "Open connections between nodes.");
        let metrics = Self {
            handshakes: counter("ollamax_peer_handshakes_total", "Handshakes on the peer listener.", &["outcome"]),
            refused: counter("ollamax_peer_refused_total", "Connections and requests turned away.", &["reason"]),
            connections: IntGaugeVec::new(connections, &["class", "direction"]).expect("the name and labels are valid"),
            dials: counter("ollamax_peer_dials_total", "Dials to other nodes.", &["class", "outcome"]),
        };
        metrics.show_all();
        metrics
    }

    /// Shows what has not happened yet as 0, so that whoever computes rates has a first value.
    fn show_all(&self) {
        for outcome in ["ok", "failed", "timed_out"] {
            self.handshakes.with_label_values(&[outcome]);
        }
        for reason in ["handshakes", "connections", "strangers", "not_member", "twin"] {
            self.refused.with_label_values(&[reason]);
        }
        for class in Class::ALL {
            for outcome in ["ok", "failed"] {
                self.dials.with_label_values(&[class.as_str(), outcome]);
            }
            for direction in [Direction::In, Direction::Out] {
                self.open_connections(class, direction);
            }
        }
    }

    /// Makes them visible.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.handshakes.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.dials.clone()))
    }

    pub(crate) fn handshake(&self, outcome: &str) {
        self.handshakes.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn open_connections(&self, class: Class, direction: Direction) -> IntGauge {
        self.connections.with_label_values(&[class.as_str(), direction.as_str()])
    }

    pub(crate) fn dial(&self, class: Class, outcome: &str) {
        self.dials.with_label_values(&[class.as_str(), outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_clash() {
        let registry = Registry::new();
        let metrics = Metrics::new();
        metrics.register(&registry).unwrap();
        assert!(metrics.register(&registry).is_err());
        assert!(registry.gather().iter().any(|family| family.name() == "ollamax_peer_handshakes_total"));
    }
}
