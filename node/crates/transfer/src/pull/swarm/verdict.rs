//! Why it is no use to go on with a file that comes from other nodes.
//!
//! It is no use when every node that was attended sent damaged chunks, and when nothing came and nothing new was heard
//! of for `transfer.silence_ms`, unless it is for others to come first.

use tokio::time::Instant;

use crate::error::PullError;

use super::{Conduct, Receiving};

// === impl Conduct ===

impl Conduct {
    /// Why it is no use to go on.
    pub(super) fn verdict(&mut self) -> Option<PullError> {
        let sha256 = self.shared.blob().sha256;
        let blob = || sha256.short();
        if self.swarm.have().is_full() {
            return None;
        }
        if !self.attended.is_empty() && self.attended.keys().all(|peer| self.distrusted.contains(peer)) {
            let told = self.swarm.strikes().map(|(peer, chunks)| format!("node {peer} sent {chunks} damaged chunks"));
            return Some(PullError::Peers { blob: blob(), text: told.collect::<Vec<_>>().join(", ") });
        }
        if self.heard_at.elapsed() < self.silence {
            return None;
        }
        if self.is_for_others_to_come() {
            self.heard_at = Instant::now();
            return None;
        }
        Some(PullError::Silent { blob: blob(), silence: self.silence, last: self.last.clone() })
    }

    /// Whether no node has anything that is missing here, while the file is on its way into the cluster. Whoever brings
    /// it may wait for a registry or for a time of the week; that it has failed or is gone, the record says. One that
    /// sends damaged chunks is waited for no longer than others; nor is, once the file is on record, one that was not
    /// linked for so long or has failed.
    fn is_for_others_to_come(&self) -> bool {
        let Receiving { name, ingester, has_registry, ledger, .. } = &self.shared.receiving;
        let has_failed = || ledger.plan(name).is_some_and(|wish| wish.failures.contains_key(ingester));
        let is_there = || self.linked.contains_key(ingester) || self.broke_off_at.elapsed() < self.silence;
        let is_at_it = || is_there() && !has_failed();
        let is_on_its_way = self.shared.told().is_some() && !has_registry && !self.distrusted.contains(ingester);
        let is_waited_for = is_on_its_way && (ledger.bound(self.shared.blob().sha256).is_none() || is_at_it());
        is_waited_for && !self.has.keys().any(|peer| self.is_useful(*peer))
    }
}
