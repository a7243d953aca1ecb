//! What this door counts.
//!
//! | name | labels | meaning |
//! | --- | --- | --- |
//! | `ollamax_peer_handshakes_total` | `outcome`: ok, failed, timed_out | handshakes at the door, over TCP and lanes |
//! | `ollamax_peer_refused_total` | `reason`: handshakes, connections, strangers, not_member, twin, lanes | |
//! | `ollamax_peer_connections` | `class`, `direction`: in, out | open connections |
//! | `ollamax_peer_dials_total` | `class`, `outcome`: ok, failed | dials to other nodes, all addresses together |
//! | `ollamax_peer_dial_failures_total` | `reason`, as [`Problem::reason`] says | addresses and lanes tried in vain |
//! | `ollamax_peer_bytes_total` | `class`, `direction`: in, out, `way` | bytes of streams between nodes, inside TLS |
//! | `ollamax_peer_ways` | `way`: tcp, p2p, relayed, none | members by what carried the last stream to them |
//! | `ollamax_peer_rtt_seconds` | `node` | last round trip of an empty question; goes with the member |
//! | `ollamax_p2p_connections` | `kind`: direct, relayed | open libp2p connections |
//! | `ollamax_p2p_reach` | `reach`: unknown, direct, relayed | 1 for what this node takes itself for |
//! | `ollamax_p2p_punches_total` | `outcome`: ok, failed | relayed connections that tried to become direct |
//! | `ollamax_relay_held` | | reservations that this node has at others |
//! | `ollamax_relay_reservations`, `ollamax_relay_circuits` | | what others have at this node now |
//! | `ollamax_relay_requests_total` | `what`: reservation, circuit; `outcome`: accepted, denied | asked of this node |

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use ollamax_types::NodeId;

use crate::connections::Direction;
use crate::error::Problem;
use crate::peer::{Class, Reach, Way};

/// What a libp2p connection runs over: to the node itself, or through a relay.
const KINDS: [&str; 2] = ["direct", "relayed"];
/// Members to which no stream has been opened yet.
const NO_WAY: &str = "none";

/// The counters; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    handshakes: IntCounterVec,
    refused: IntCounterVec,
    connections: IntGaugeVec,
    dials: IntCounterVec,
    dial_failures: IntCounterVec,
    bytes: IntCounterVec,
    ways: IntGaugeVec,
    rtt: GaugeVec,
    p2p_connections: IntGaugeVec,
    reach: IntGaugeVec,
    punches: IntCounterVec,
    relay_held: IntGauge,
    relay_reservations: IntGauge,
    relay_circuits: IntGauge,
    relay_requests: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            handshakes: counter("ollamax_peer_handshakes_total", "Handshakes on the peer listener.", &["outcome"]),
            refused: counter("ollamax_peer_refused_total", "Connections and requests turned away.", &["reason"]),
            connections: gauge("ollamax_peer_connections", "Open connections between nodes.", &["class", "direction"]),
            dials: counter("ollamax_peer_dials_total", "Dials to other nodes.", &["class", "outcome"]),
            dial_failures: counter(
                "ollamax_peer_dial_failures_total",
                "Addresses and lanes of other nodes that were tried in vain.",
                &["reason"],
            ),
            bytes: counter(
                "ollamax_peer_bytes_total",
                "Bytes of streams between nodes, inside TLS.",
                &["class", "direction", "way"],
            ),
            ways: gauge("ollamax_peer_ways", "Members by what carried the last stream to them.", &["way"]),
            rtt: GaugeVec::new(
                Opts::new("ollamax_peer_rtt_seconds", "Last round trip of an empty question to a member."),
                &["node"],
            )
            .expect(VALID),
            p2p_connections: gauge("ollamax_p2p_connections", "Open libp2p connections.", &["kind"]),
            reach: gauge("ollamax_p2p_reach", "1 for what this node takes itself for.", &["reach"]),
            punches: counter(
                "ollamax_p2p_punches_total",
                "Relayed connections that tried to become direct.",
                &["outcome"],
            ),
            relay_held: single("ollamax_relay_held", "Reservations that this node has at other members."),
            relay_reservations: single("ollamax_relay_reservations", "Reservations that others have at this node."),
            relay_circuits: single("ollamax_relay_circuits", "Circuits of others that run through this node."),
            relay_requests: counter(
                "ollamax_relay_requests_total",
                "Reservations and circuits that others asked of this node.",
                &["what", "outcome"],
            ),
        };
        metrics.show_all();
        metrics
    }

    /// Shows what has not happened yet as 0, so that whoever computes rates has a first value.
    fn show_all(&self) {
        for outcome in ["ok", "failed", "timed_out"] {
            self.handshakes.with_label_values(&[outcome]);
        }
        for reason in ["handshakes", "connections", "strangers", "not_member", "twin", "lanes"] {
            self.refused.with_label_values(&[reason]);
        }
        for reason in Problem::REASONS {
            self.dial_failures.with_label_values(&[reason]);
        }
        for class in Class::ALL {
            for outcome in ["ok", "failed"] {
                self.dials.with_label_values(&[class.as_str(), outcome]);
            }
            for direction in [Direction::In, Direction::Out] {
                self.open_connections(class, direction);
                for way in Way::ALL {
                    self.bytes(class, direction, way);
                }
            }
        }
        self.ways(&Way::ALL.map(|_| 0), 0);
        for kind in KINDS {
            self.p2p_connections(kind);
        }
        self.reach(Reach::default());
        for outcome in ["ok", "failed"] {
            self.punches.with_label_values(&[outcome]);
        }
        for what in ["reservation", "circuit"] {
            for outcome in ["accepted", "denied"] {
                self.relay_requests.with_label_values(&[what, outcome]);
            }
        }
    }

    /// Makes them visible.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 15] = [
            Box::new(self.handshakes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.dials.clone()),
            Box::new(self.dial_failures.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.ways.clone()),
            Box::new(self.rtt.clone()),
            Box::new(self.p2p_connections.clone()),
            Box::new(self.reach.clone()),
            Box::new(self.punches.clone()),
            Box::new(self.relay_held.clone()),
            Box::new(self.relay_reservations.clone()),
            Box::new(self.relay_circuits.clone()),
            Box::new(self.relay_requests.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
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

    pub(crate) fn dial_failed(&self, problem: &Problem) {
        self.dial_failures.with_label_values(&[problem.reason()]).inc();
    }

    /// The bytes that came in, or went out, on streams of one class over one way.
    pub(crate) fn bytes(&self, class: Class, direction: Direction, way: Way) -> IntCounter {
        self.bytes.with_label_values(&[class.as_str(), direction.as_str(), way.as_str()])
    }

    /// How many members are reached by each way, in the order of [`Way::ALL`], and how many by none yet.
    pub(crate) fn ways(&self, counts: &[usize; Way::ALL.len()], none: usize) {
        let named = Way::ALL.map(Way::as_str).into_iter().zip(counts.iter().copied());
        for (way, count) in named.chain([(NO_WAY, none)]) {
            self.ways.with_label_values(&[way]).set(whole(count));
        }
    }

    pub(crate) fn rtt(&self, node: NodeId, rtt: Duration) {
        self.rtt.with_label_values(&[&node.to_string()]).set(rtt.as_secs_f64());
    }

    /// The series of a member that has departed.
    pub(crate) fn forget_rtt(&self, node: NodeId) {
        // There is none where no question has ever been answered.
        let _was_there = self.rtt.remove_label_values(&[&node.to_string()]);
    }

    /// Open libp2p connections of one kind: direct, relayed.
    pub(crate) fn p2p_connections(&self, kind: &str) -> IntGauge {
        self.p2p_connections.with_label_values(&[kind])
    }

    pub(crate) fn reach(&self, now: Reach) {
        for reach in Reach::ALL {
            self.reach.with_label_values(&[reach.as_str()]).set(i64::from(reach == now));
        }
    }

    pub(crate) fn punched(&self, is_direct: bool) {
        self.punches.with_label_values(&[if is_direct { "ok" } else { "failed" }]).inc();
    }

    pub(crate) fn relay_held(&self, count: usize) {
        self.relay_held.set(whole(count));
    }

    pub(crate) fn relay_reservations(&self, count: usize) {
        self.relay_reservations.set(whole(count));
    }

    pub(crate) fn relay_circuits(&self, more: i64) {
        self.relay_circuits.add(more);
    }

    /// `what`: reservation, circuit. `outcome`: accepted, denied.
    pub(crate) fn relay_request(&self, what: &str, outcome: &str) {
        self.relay_requests.with_label_values(&[what, outcome]).inc();
    }
}

const VALID: &str = "the name and labels are valid";

fn counter(name: &str, text: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, text), labels).expect(VALID)
}

fn gauge(name: &str, text: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, text), labels).expect(VALID)
}

fn single(name: &str, text: &str) -> IntGauge {
    IntGauge::new(name, text).expect(VALID)
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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

    /// Label values of each series of a metric with its value.
    fn shown(registry: &Registry, name: &str) -> Vec<(String, f64)> {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let series = family.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        let labels = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().map(|label| label.value().to_owned()).collect::<Vec<_>>().join(" ")
        };
        series.iter().map(|metric| (labels(metric), metric.get_gauge().value())).collect()
    }

    #[test]
    fn the_round_trip_of_a_departed_member_is_shown_no_more() {
        let (registry, metrics) = (Registry::new(), Metrics::new());
        metrics.register(&registry).unwrap();
        metrics.rtt(NodeId(2), Duration::from_millis(500));
        metrics.rtt(NodeId(3), Duration::from_millis(250));
        metrics.forget_rtt(NodeId(2));
        metrics.forget_rtt(NodeId(9));
        assert_eq!(shown(&registry, "ollamax_peer_rtt_seconds"), [("3".to_owned(), 0.25)]);
    }

    #[test]
    fn a_node_takes_itself_for_one_thing_at_a_time() {
        let (registry, metrics) = (Registry::new(), Metrics::new());
        metrics.register(&registry).unwrap();
        for reach in Reach::ALL {
            metrics.reach(reach);
            let set = shown(&registry, "ollamax_p2p_reach").into_iter().filter(|(_, value)| *value > 0.5);
            assert_eq!(set.map(|(shown, _)| shown).collect::<Vec<_>>(), [reach.as_str()]);
        }
    }
}
