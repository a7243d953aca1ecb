//! The end of a membership that nobody asked this node about: it was removed, or its data directory is a copy.
//!
//! A removed node writes that down before anything else, so that it starts as a removed one from then on. It answers
//! nobody any more, but votes until the others have taken its vote away; then its engines and its runtime end, and what
//! is left is the administrator's socket, which names the way back. A copy writes down that it is one, and the process
//! ends.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use ollamax_gateway::grpc::{AdminError, Phase};
use ollamax_net::Refuser;
use ollamax_types::ErrorCode;

use crate::data_dir::{DataDir, DataDirError, Membership};
use crate::lifecycle::Node;
use crate::member::Around;
use crate::shutdown;
use crate::slot::MemberEngines;

/// How long a node waits for its vote to be taken away.
const VOTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at it.
const VOTE_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Ends this node's part in its cluster once it was removed.
pub(crate) async fn retire_when_removed(node: Arc<Node>, stop: CancellationToken) {
    let mut phase = node.around.phase.subscribe();
    let retiring = async {
        if phase.wait_for(|phase| *phase == Phase::Removed).await.is_ok() {
            node.retire().await;
        }
    };
    // When the process ends meanwhile, it ends all of this too.
    stop.run_until_cancelled(retiring).await;
}

/// Ends the process once a member has refused it for another live one with the same identity.
pub(crate) async fn stop_when_copied(node: Arc<Node>, stop: CancellationToken) {
    let mut refused = node.around.net.refused_as_twin();
    let refuser = async { refused.wait_for(Option::is_some).await.ok().and_then(|refuser| refuser.clone()) };
    if let Some(Some(refuser)) = stop.run_until_cancelled(refuser).await {
        node.stop_as_copy(&refuser).await;
    }
}

// === impl Node ===

impl Node {
    /// Does nothing on a node that left by itself: `leave` holds the directory until the membership is forgotten.
    async fn retire(&self) {
        let mut dir = self.dir.lock().await;
        let Some(membership) = dir.membership().cloned() else { return };
        tracing::warn!(
            code = %ErrorCode::NotMember, id = %membership.node, cluster = membership.cluster_name,
            next = AdminError::removed().next, "this node was removed from its cluster"
        );
        if let Err(error) = remember_removal(&mut dir, membership) {
            // The next start learns it anew.
            tracing::error!(code = %ErrorCode::StorageFailed, %error, "store that this node was removed");
        }
        drop(dir);
        self.around.end_membership().await;
    }

    async fn stop_as_copy(&self, refuser: &Refuser) {
        let mut dir = self.dir.lock().await;
        let marked = dir.mark_copied();
        let Refuser { node, address } = refuser;
        let copied = DataDirError::Copied { path: dir.root().to_owned() };
        let reason = format!("node {node} at {address} hears another live process with this node's identity: {copied}");
        tracing::error!(code = %ErrorCode::IdentityConflict, error = reason, "the node stops: its identity is in use");
        if let Err(error) = marked {
            tracing::error!(code = %ErrorCode::StorageFailed, %error, "store that this data directory is a copy");
        }
        self.fatal.send_replace(Some(reason));
        self.exit.cancel();
    }
}

/// From the next start on this node takes part in nothing; the key that vouches for members goes at once.
fn remember_removal(dir: &mut DataDir, membership: Membership) -> Result<(), DataDirError> {
    forget_cluster_key(dir);
    if membership.removed {
        return Ok(());
    }
    dir.set_membership(Some(Membership { removed: true, ..membership }))
}

/// Who is no member must not vouch for any.
pub(crate) fn forget_cluster_key(dir: &DataDir) {
    // Only voters hold it.
    drop(fs::remove_file(dir.root().join("keys").join("cluster.key")));
}

// === impl Around ===

impl Around {
    /// Ends the engines in good order, then everything that hangs on them.
    async fn end_membership(&self) {
        let engines = self.slot.get();
        if let Some(engines) = &engines {
            engines.scheduler.set_draining(true);
            let grace = Duration::from_secs(self.config.shutdown.grace_s);
            tokio::join!(wait_until_no_voter(engines), shutdown::finish_answers(engines, grace));
        }
        self.slot.set(None);
        self.stop.cancel();
        if let Some(engines) = engines {
            shutdown::close_engines(&engines).await;
        }
        self.net.set_cluster(None);
        self.net.set_members(Vec::new());
    }
}

/// The others can only take this node's vote away while it still answers: ending earlier would leave them without a
/// majority. Bounded, because the last change of the configuration need not reach a node that it removes.
pub(crate) async fn wait_until_no_voter(engines: &MemberEngines) {
    let gone = async {
        while engines.metadata.status().voters.contains(&engines.node) {
            tokio::time::sleep(VOTE_LOOK_INTERVAL).await;
        }
    };
    drop(tokio::time::timeout(VOTE_TIMEOUT, gone).await);
}

#[cfg(test)]
mod tests {
    use ollamax_security::ClusterKey;
    use ollamax_types::Incarnation;

    use super::*;
    use crate::data_dir::tests::membership;

    #[test]
    fn a_removal_is_kept_over_restarts_and_takes_the_cluster_key() {
        let temp = tempfile::tempdir().expect("temp");
        let mut dir = DataDir::open(temp.path(), Incarnation([7; 16])).expect("opens");
        let key = temp.path().join("keys").join("cluster.key");
        ClusterKey::generate().expect("key").seal(&key).expect("sealed");
        let membership = Membership { raft_opened: false, ..membership() };
        dir.set_membership(Some(membership.clone())).expect("saved");
        for _ in 0..2 {
            let stored = dir.membership().cloned().expect("kept");
            remember_removal(&mut dir, stored).expect("saved");
            drop(dir);
            dir = DataDir::open(temp.path(), Incarnation([8; 16])).expect("opens");
            assert_eq!(dir.membership(), Some(&Membership { removed: true, ..membership.clone() }));
            assert!(!key.exists(), "a removed node vouches for nobody");
        }
    }
}
