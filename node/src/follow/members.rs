//! Follows the members in the replicated state: who may connect, who is watched, where this node itself stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Fault, Member, MemberState, read};
use ollamax_gateway::grpc::Phase;
use ollamax_metadata::Committed;
use ollamax_net::{NetHandle, PeerEntry};
use ollamax_security::draw_request_id;
use ollamax_types::limits::ADDRESSES_MAX;
use ollamax_types::{ErrorCode, Incarnation, NodeId};

use crate::adapters::keys_over_net::Signer;
use crate::slot::MemberEngines;

/// Least time between two looks at the members, whatever changes.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Look again although nothing changed: for what could not be done the last time.
const LOOK_ANYWAY_AFTER: Duration = Duration::from_secs(2);

/// Where this node can be reached, as it knows itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// `host:port`.
    pub(crate) peer: Vec<String>,
    /// Multiaddresses.
    pub(crate) p2p: Vec<String>,
    /// Base URLs.
    pub(crate) api: Vec<String>,
}

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Follower {
    /// The engines of this member.
    pub(crate) engines: MemberEngines,
    /// Its data directory's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Where it can be reached.
    pub(crate) addresses: Addresses,
    /// What others shall dial at its `p2p` listener, as it changes; before anything is told, what `addresses` says.
    pub(crate) told: watch::Receiver<Vec<String>>,
    /// The connections.
    pub(crate) net: NetHandle,
    /// The cluster key.
    pub(crate) signer: Signer,
    /// The members to watch.
    pub(crate) members: watch::Sender<Vec<NodeId>>,
    /// Where this node stands.
    pub(crate) phase: watch::Sender<Phase>,
    /// The cluster refused this node's addresses.
    pub(crate) addresses_refused: AtomicBool,
}

// === impl Follower ===

impl Follower {
    /// Follows until `stop`, or until this node is no member any more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.engines.metadata.changes();
        let mut told = self.told.clone();
        loop {
            changes.borrow_and_update();
            match self.look().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(fault) => tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the members"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_ANYWAY_AFTER) => {}
                // Where the p2p part has ended, the last word stands.
                Ok(()) = told.changed() => self.addresses_refused.store(false, Ordering::Relaxed),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// One look; false when this node was removed.
    async fn look(&self) -> Result<bool, Fault> {
        let view = self.engines.metadata.view();
        if read::has_departed(&*view, self.engines.node)? {
            self.phase.send_replace(Phase::Removed);
            return Ok(false);
        }
        let members = read::members(&*view)?;
        let own = members.iter().find(|member| member.id == self.engines.node);
        let Some(own) = own else { return Ok(true) };
        if let Some(cluster) = read::cluster(&*view)? {
            self.net.set_next_node_id(NodeId(cluster.next_node_id));
        }
        let present: Vec<&Member> = members.iter().filter(|member| member.is_standing()).collect();
        // A departed member stays reachable until Raft has let it go: taking its vote away may need that vote.
        let raft = self.engines.metadata.status();
        let in_raft = |id: &NodeId| raft.voters.contains(id) || raft.learners.contains(id);
        let reachable = members.iter().filter(|member| member.is_standing() || in_raft(&member.id));
        self.net.set_members(reachable.map(entry).collect());
        let ids: Vec<NodeId> = present.iter().map(|member| member.id).collect();
        self.engines.scheduler.set_members(&ids);
        self.members.send_if_modified(|watched| {
            let changed = *watched != ids;
            *watched = ids;
            changed
        });
        self.engines
            .scheduler
            .set_draining(own.state == MemberState::Drained || *self.phase.borrow() == Phase::Stopping);
        self.phase.send_if_modified(|phase| {
            let joins = *phase == Phase::Joining;
            if joins {
                *phase = Phase::Member;
            }
            joins
        });
        self.tell_addresses(own).await;
        self.signer.fetch_key(&self.engines).await;
        Ok(true)
    }

    async fn tell_addresses(&self, own: &Member) {
        if self.addresses_refused.load(Ordering::Relaxed) {
            return;
        }
        let Addresses { peer, p2p, api } = &self.addresses;
        let told = fitting(&self.told.borrow());
        let p2p = if told.is_empty() { p2p } else { &told };
        if own.peer_addresses == *peer && own.p2p_addresses == *p2p && own.api_addresses == *api {
            return;
        }
        let command = Command::SetAddresses {
            node: own.id,
            incarnation: self.incarnation,
            peer_addresses: peer.clone(),
            p2p_addresses: p2p.clone(),
            api_addresses: api.clone(),
        };
        let principal = format!("node/{}", own.id);
        let id = draw_request_id();
        let span = tracing::error_span!("addresses", request_id = id.0);
        let told = self.engines.metadata.propose(id, &principal, command).await;
        span.in_scope(|| match told {
            Ok(Committed { answer: Answer::Refused(refusal), .. }) => {
                // Told once: the same addresses would be refused again until the configuration changes.
                self.addresses_refused.store(true, Ordering::Relaxed);
                tracing::warn!(code = %refusal.code(), error = %refusal, "the cluster refuses this node's addresses");
            }
            Ok(_) => {
                let (peer, p2p, api) = (peer.join(", "), p2p.join(", "), api.join(", "));
                tracing::info!(peer, p2p, api, "told the cluster where this node can be reached");
            }
            Err(error) => tracing::debug!(code = %error.code(), %error, "tell addresses; tried again soon"),
        });
    }
}

/// As much of what this node may tell as the catalog takes, circuits first: who has none cannot be reached otherwise.
fn fitting(told: &[String]) -> Vec<String> {
    let (circuits, direct): (Vec<&String>, Vec<&String>) = told.iter().partition(|text| text.contains("/p2p-circuit"));
    circuits.into_iter().chain(direct).take(ADDRESSES_MAX).cloned().collect()
}

fn entry(member: &Member) -> PeerEntry {
    PeerEntry {
        node: member.id,
        peer_id: member.peer_id.clone(),
        addresses: member.peer_addresses.clone(),
        p2p_addresses: member.p2p_addresses.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuits_are_told_although_there_are_many_addresses() {
        let direct = |number: usize| format!("/ip4/10.0.0.{number}/tcp/11437");
        let circuit = "/p2p/12D3KooWrelay/p2p-circuit/p2p/12D3KooWown".to_owned();
        let few = [direct(1), circuit.clone()];
        assert_eq!(fitting(&few), [circuit.clone(), direct(1)]);
        let many: Vec<String> = (0..2 * ADDRESSES_MAX).map(direct).chain([circuit.clone()]).collect();
        let told = fitting(&many);
        assert_eq!((told.len(), &told[0], &told[1]), (ADDRESSES_MAX, &circuit, &direct(0)));
        assert_eq!(fitting(&many[..2]), [direct(0), direct(1)]);
    }
}
