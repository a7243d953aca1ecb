//! The metrics of this crate: name, unit, labels, meaning.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_blobs_models` | models | – | models in the store beside this node, all their files there |
//! | `ollamax_blobs_unhashed_bytes` | bytes | – | of files in that store that are not hashed yet |
//! | `ollamax_blobs_hashed_bytes_total` | bytes | – | read from that store to hash them |
//! | `ollamax_blobs_suspect` | files | – | in that store whose bytes are not what their name says |
//! | `ollamax_blobs_scrubbed_bytes_total` | bytes | – | read from that store again, to compare them |
//! | `ollamax_blobs_repairs_total` | files | `outcome`: done, failed | damaged, that were to be replaced |
//! | `ollamax_transfer_pulls` | pulls | `stage` | pulls of this node that are not over, by what they do |
//! | `ollamax_transfer_pull_bytes` | bytes | `model`, `state`: total, verified | of each pull that is not over |
//! | `ollamax_transfer_pull_source_bytes` | bytes | `model`, `source` | of each such pull, by where they are from |
//! | `ollamax_transfer_pulls_total` | pulls | `outcome`: done, failed, cancelled | pulls of this node that are over |
//! | `ollamax_transfer_received_bytes_total` | bytes | `source`: origin, node | of chunks that came |
//! | `ollamax_transfer_sent_bytes_total` | bytes | – | of chunks that other nodes got |
//! | `ollamax_transfer_asks_total` | requests | `outcome`: served, busy, absent, failed | of other nodes for chunks |
//! | `ollamax_transfer_links` | streams | – | between this node and others, for chunks either way |
//! | `ollamax_transfer_steals_total` | requests | – | for chunks that another node was asked for already |
//! | `ollamax_transfer_peer_strikes_total` | chunks | `peer` | that came from a node and were not what they must be |
//! | `ollamax_transfer_peers_quarantined` | nodes | – | that are asked for nothing for a while |
//! | `ollamax_transfer_doubts_total` | files | `direction`: told, heard | to be read again, as a node told another |
//! | `ollamax_transfer_wishes` | wishes | `state`: held, under_way, impossible, failed | of the cluster, if it leads |
//! | `ollamax_transfer_origin_retries_total` | attempts | `reason`: cut, stalled, busy, refused | in vain |
//! | `ollamax_transfer_chunks_damaged_total` | chunks | – | that a disk gave back other than they were |
//! | `ollamax_transfer_moved_bytes_total` | bytes | `class`, `urgency`: asked, background | that limits let pass |
//! | `ollamax_transfer_limited_seconds_total` | seconds | `class` | that limits held bytes back |
//! | `ollamax_transfer_strained` | – | – | 1 while the cluster's log waits for its disk |
//! | `ollamax_transfer_lab_streams` | ranges | – | of files that machines which are no members read just now |
//! | `ollamax_transfer_lab_fetches_total` | models | `source`: peers, origin | got because such a machine asked |
//! | `ollamax_transfer_staged_bytes` | bytes | – | that files on their way took when a pull ended last |
//! | `ollamax_models_bytes` | bytes | – | of the complete models beside this node, each counted by itself |
//! | `ollamax_models_shared_bytes` | bytes | – | of these that are on the disk once and counted more than once |
//! | `ollamax_models_kept_bytes` | bytes | – | of kept versions that nothing else on the disk holds |

mod pull_bytes;

use std::time::Duration;

use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use ollamax_core::rates::Urgency;
use ollamax_core::retention::Sharing;
use ollamax_core::transfer_plan::origin::End;
use ollamax_types::{ModelName, NodeId};

use crate::bulk::frame::Outcome;
use crate::class::Class;
use crate::progress::{PullProgress, Stage};

use self::pull_bytes::PullBytes;

/// The states of wishes.
const WISH_STATES: [&str; 4] = ["held", "under_way", "impossible", "failed"];

/// Handles on the metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    models: IntGauge,
    unhashed: IntGauge,
    hashed: IntCounter,
    suspect: IntGauge,
    scrubbed: IntCounter,
    repairs: IntCounterVec,
    pulls: IntGaugeVec,
    pull_bytes: PullBytes,
    pulls_over: IntCounterVec,
    received: IntCounterVec,
    retries: IntCounterVec,
    damaged: IntCounter,
    staged: IntGauge,
    models_bytes: IntGauge,
    shared_bytes: IntGauge,
    kept_bytes: IntGauge,
    sent: IntCounter,
    asks: IntCounterVec,
    links: IntGauge,
    steals: IntCounter,
    strikes: IntCounterVec,
    quarantined: IntGauge,
    doubts: IntCounterVec,
    wishes: IntGaugeVec,
    moved: IntCounterVec,
    limited: CounterVec,
    strained: IntGauge,
    lab_streams: IntGauge,
    lab_fetches: IntCounterVec,
}

/// A stream that is open, for as long as this is held.
#[derive(Debug)]
pub(crate) struct OpenLink(IntGauge);

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a valid name");
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a valid name");
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid name and one label")
        };
        let hashed = "Bytes of the model store beside this node that were read to hash them.";
        let stages = Opts::new("ollamax_transfer_pulls", "Pulls of this node that are not over, by what they do.");
        let over = counters("ollamax_transfer_pulls_total", "Pulls of this node that are over.", "outcome");
        let received = counters("ollamax_transfer_received_bytes_total", "Bytes of chunks that came.", "source");
        let retries = counters("ollamax_transfer_origin_retries_total", "Attempts that brought nothing.", "reason");
        let damaged = "Chunks on their way whose bytes on disk were not what was written.";
        // What is shown from the start has a first value for whoever computes rates.
        let asks = counters("ollamax_transfer_asks_total", "Requests of other nodes for chunks.", "outcome");
        let doubts = "Files that other nodes were told to read again, or told this node to.";
        let doubts = counters("ollamax_transfer_doubts_total", doubts, "direction");
        let lent = "Models that were got because a machine asked that is no member.";
        let lab_fetches = counters("ollamax_transfer_lab_fetches_total", lent, "source");
        let first = [
            (&over, "done"),
            (&over, "failed"),
            (&received, "origin"),
            (&received, "node"),
            (&retries, "cut"),
            (&asks, "served"),
            (&doubts, "told"),
            (&doubts, "heard"),
            (&lab_fetches, "peers"),
            (&lab_fetches, "origin"),
        ];
        for (counter, label) in first {
            counter.with_label_values(&[label]);
        }
        let wishes = Opts::new("ollamax_transfer_wishes", "Wishes for models, where this node leads.");
        let wishes = IntGaugeVec::new(wishes, &["state"]).expect("a valid name and one label");
        for state in WISH_STATES {
            wishes.with_label_values(&[state]);
        }
        let moved = Opts::new("ollamax_transfer_moved_bytes_total", "Bytes that limits let pass.");
        let moved = IntCounterVec::new(moved, &["class", "urgency"]).expect("a valid name and two labels");
        let limited = Opts::new("ollamax_transfer_limited_seconds_total", "Time that bytes were held back by limits.");
        let limited = CounterVec::new(limited, &["class"]).expect("a valid name and one label");
        for class in Class::ALL {
            moved.with_label_values(&[class.word(), word_of_urgency(Urgency::Asked)]);
            limited.with_label_values(&[class.word()]);
        }
        let strained = "1 while the cluster's log waits for its disk and files are written slowly.";
        let steals = "Requests for chunks that another node was asked for already.";
        let strikes = "Chunks that came from a node and were not what they must be.";
        let pulls = IntGaugeVec::new(stages, &["stage"]).expect("a valid name and one label");
        pulls.with_label_values(&["fetching"]);
        Self {
            models: gauge("ollamax_blobs_models", "Complete models in the store beside this node."),
            unhashed: gauge("ollamax_blobs_unhashed_bytes", "Bytes of that store that are not hashed yet."),
            hashed: counter("ollamax_blobs_hashed_bytes_total", hashed),
            suspect: gauge("ollamax_blobs_suspect", "Files of that store whose bytes are not what their name says."),
            scrubbed: counter("ollamax_blobs_scrubbed_bytes_total", "Bytes of that store that were read again."),
            repairs: repairs(),
            pulls,
            pull_bytes: PullBytes::default(),
            pulls_over: over,
            received,
            retries,
            damaged: counter("ollamax_transfer_chunks_damaged_total", damaged),
            staged: gauge("ollamax_transfer_staged_bytes", "Bytes that files on their way take of the disk."),
            models_bytes: gauge("ollamax_models_bytes", "Bytes of the models beside this node, each by itself."),
            shared_bytes: gauge("ollamax_models_shared_bytes", "Bytes of them that are stored only once."),
            kept_bytes: gauge("ollamax_models_kept_bytes", "Bytes of versions that their names do not mean any more."),
            sent: counter("ollamax_transfer_sent_bytes_total", "Bytes of chunks that other nodes got."),
            asks,
            links: gauge("ollamax_transfer_links", "Streams for chunks between this node and others."),
            steals: counter("ollamax_transfer_steals_total", steals),
            strikes: counters("ollamax_transfer_peer_strikes_total", strikes, "peer"),
            quarantined: gauge("ollamax_transfer_peers_quarantined", "Nodes that are asked for nothing for a while."),
            doubts,
            wishes,
            moved,
            limited,
            strained: gauge("ollamax_transfer_strained", strained),
            lab_streams: gauge("ollamax_transfer_lab_streams", "Ranges that machines read which are no members."),
            lab_fetches,
        }
    }
}

impl Metrics {
    /// Shows the metrics in a registry.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.models.clone()))?;
        registry.register(Box::new(self.unhashed.clone()))?;
        registry.register(Box::new(self.hashed.clone()))?;
        registry.register(Box::new(self.suspect.clone()))?;
        registry.register(Box::new(self.scrubbed.clone()))?;
        registry.register(Box::new(self.repairs.clone()))?;
        registry.register(Box::new(self.pulls.clone()))?;
        self.pull_bytes.register(registry)?;
        registry.register(Box::new(self.pulls_over.clone()))?;
        registry.register(Box::new(self.received.clone()))?;
        registry.register(Box::new(self.retries.clone()))?;
        registry.register(Box::new(self.damaged.clone()))?;
        registry.register(Box::new(self.staged.clone()))?;
        registry.register(Box::new(self.models_bytes.clone()))?;
        registry.register(Box::new(self.shared_bytes.clone()))?;
        registry.register(Box::new(self.kept_bytes.clone()))?;
        registry.register(Box::new(self.sent.clone()))?;
        registry.register(Box::new(self.asks.clone()))?;
        registry.register(Box::new(self.links.clone()))?;
        registry.register(Box::new(self.steals.clone()))?;
        registry.register(Box::new(self.strikes.clone()))?;
        registry.register(Box::new(self.quarantined.clone()))?;
        registry.register(Box::new(self.doubts.clone()))?;
        registry.register(Box::new(self.moved.clone()))?;
        registry.register(Box::new(self.limited.clone()))?;
        registry.register(Box::new(self.strained.clone()))?;
        registry.register(Box::new(self.wishes.clone()))?;
        registry.register(Box::new(self.lab_streams.clone()))?;
        registry.register(Box::new(self.lab_fetches.clone()))
    }

    /// How many wishes are in this state: held, under_way, impossible or failed. Another word shows nothing.
    pub fn show_wishes(&self, state: &str, count: usize) {
        if WISH_STATES.contains(&state) {
            self.wishes.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether the cluster's log waits for its disk.
    pub fn show_strained(&self, is_strained: bool) {
        self.strained.set(i64::from(is_strained));
    }

    pub(crate) fn moved(&self, class: Class, urgency: Urgency, bytes: u64) {
        self.moved.with_label_values(&[class.word(), word_of_urgency(urgency)]).inc_by(bytes);
    }

    pub(crate) fn limited(&self, class: Class, wait: Duration) {
        self.limited.with_label_values(&[class.word()]).inc_by(wait.as_secs_f64());
    }

    pub(crate) fn show(&self, models: usize, suspect: usize) {
        self.models.set(i64::try_from(models).unwrap_or(i64::MAX));
        self.suspect.set(i64::try_from(suspect).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_unhashed(&self, bytes: u64) {
        self.unhashed.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn hashed(&self, bytes: u64) {
        self.hashed.inc_by(bytes);
    }

    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.scrubbed.inc_by(bytes);
    }

    pub(crate) fn repaired(&self, is_done: bool) {
        self.repairs.with_label_values(&[if is_done { "done" } else { "failed" }]).inc();
    }

    pub(crate) fn stage_begins(&self, stage: &Stage) {
        if let Some(word) = word_of(stage) {
            self.pulls.with_label_values(&[word]).inc();
        }
    }

    pub(crate) fn stage_ends(&self, stage: &Stage) {
        if let Some(word) = word_of(stage) {
            self.pulls.with_label_values(&[word]).dec();
        }
    }

    /// How far a pull is that is not over, and what came from where.
    pub(crate) fn show_pull(&self, pull: &PullProgress) {
        let (total_bytes, verified_bytes) = (pull.total_bytes(), pull.verified_bytes());
        self.pull_bytes.show(&pull.name, total_bytes, verified_bytes, pull.bytes_by_kind());
    }

    /// A pull is over, and so are its rows.
    pub(crate) fn forget_pull(&self, model: &ModelName) {
        self.pull_bytes.forget(model);
    }

    pub(crate) fn pull_over(&self, outcome: &str) {
        self.pulls_over.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.with_label_values(&["origin"]).inc_by(bytes);
    }

    pub(crate) fn received_from_node(&self, bytes: u64) {
        self.received.with_label_values(&["node"]).inc_by(bytes);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    pub(crate) fn served(&self, outcome: Outcome) {
        let word = match outcome {
            Outcome::Whole | Outcome::Cancelled => "served",
            Outcome::Busy | Outcome::Closed => "busy",
            Outcome::Absent => "absent",
            Outcome::Failed => "failed",
        };
        self.asks.with_label_values(&[word]).inc();
    }

    pub(crate) fn open_link(&self) -> OpenLink {
        self.links.inc();
        OpenLink(self.links.clone())
    }

    /// A machine reads a range.
    pub(crate) fn open_reading(&self) -> OpenLink {
        self.lab_streams.inc();
        OpenLink(self.lab_streams.clone())
    }

    /// A model is got from `peers` or from the `origin` because a machine asks for it.
    pub(crate) fn lent(&self, source: &str) {
        self.lab_fetches.with_label_values(&[source]).inc();
    }

    pub(crate) fn stolen(&self) {
        self.steals.inc();
    }

    pub(crate) fn struck(&self, peer: NodeId) {
        self.strikes.with_label_values(&[peer.to_string().as_str()]).inc();
    }

    pub(crate) fn show_quarantined(&self, nodes: usize) {
        self.quarantined.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    pub(crate) fn doubt_told(&self) {
        self.doubts.with_label_values(&["told"]).inc();
    }

    pub(crate) fn doubt_heard(&self) {
        self.doubts.with_label_values(&["heard"]).inc();
    }

    pub(crate) fn retried(&self, end: End) {
        let reason = match end {
            End::Whole => return,
            End::Cut => "cut",
            End::Stalled => "stalled",
            End::Busy { .. } => "busy",
            End::Refused => "refused",
        };
        self.retries.with_label_values(&[reason]).inc();
    }

    pub(crate) fn damaged(&self) {
        self.damaged.inc();
    }

    pub(crate) fn show_staged(&self, bytes: u64) {
        self.staged.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_sharing(&self, sharing: Sharing) {
        self.models_bytes.set(i64::try_from(sharing.apparent_bytes).unwrap_or(i64::MAX));
        self.shared_bytes.set(i64::try_from(sharing.saved_bytes()).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_kept(&self, bytes: u64) {
        self.kept_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

// === impl OpenLink ===

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Repairs, with a first value for each outcome.
fn repairs() -> IntCounterVec {
    let help = "Damaged files of that store that were to be replaced by sound ones.";
    let repairs = IntCounterVec::new(Opts::new("ollamax_blobs_repairs_total", help), &["outcome"]);
    let repairs = repairs.expect("a valid name and one label");
    for outcome in ["done", "failed"] {
        repairs.with_label_values(&[outcome]);
    }
    repairs
}

/// The label of a stage; none of one in which nothing happens.
const fn word_of(stage: &Stage) -> Option<&'static str> {
    match stage {
        Stage::Waiting => Some("waiting"),
        Stage::Resolving => Some("resolving"),
        Stage::Checking => Some("checking"),
        Stage::Fetching => Some("fetching"),
        Stage::Verifying => Some("verifying"),
        Stage::Publishing => Some("publishing"),
        Stage::Settling => Some("settling"),
        Stage::Done | Stage::Failed(_) => None,
    }
}

/// The label of an urgency.
const fn word_of_urgency(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Background => "background",
        Urgency::Asked => "asked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_registered_once_under_their_own_names() {
        let registry = Registry::new();
        let metrics = Metrics::default();
        metrics.register(&registry).expect("an empty registry");
        assert_eq!(registry.gather().len(), 27, "strikes are there from the first one on");
        metrics.struck(NodeId(2));
        assert_eq!(registry.gather().len(), 28);
        metrics.register(&registry).expect_err("taken");
    }

    #[test]
    fn links_are_counted_for_as_long_as_they_are_open_and_wishes_by_their_states() {
        let metrics = Metrics::default();
        let (first, second) = (metrics.open_link(), metrics.open_link());
        assert_eq!(metrics.links.get(), 2);
        drop(first);
        drop(second);
        assert_eq!(metrics.links.get(), 0);
        metrics.show_wishes("held", 3);
        metrics.show_wishes("held", 2);
        metrics.show_wishes("hoped", 9);
        let values = WISH_STATES.map(|state| metrics.wishes.with_label_values(&[state]).get());
        assert_eq!(values, [2, 0, 0, 0]);
    }
}
