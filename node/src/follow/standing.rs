//! Learns that this node was removed while it could not hear it.
//!
//! A member that was off while it was removed is let in nowhere any more, and its own log will never say why. Whoever
//! hears no leader asks the members that it knows. Only they are believed: the connection proves a member's key. One
//! answer is enough, because a departure is never taken back. Here only the phase changes; `removal.rs` does the
//! rest.

use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_gateway::grpc::Phase;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_types::{ClusterId, NodeId};

use crate::slot::MemberEngines;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long one member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Members that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Asker {
    /// The engines of this member.
    pub(crate) engines: MemberEngines,
    /// The connections.
    pub(crate) net: NetHandle,
    /// Where this node stands.
    pub(crate) phase: watch::Sender<Phase>,
}

// === impl Asker ===

impl Asker {
    /// Looks until `stop`, or until this node is no member any more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let removed = async {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if self.was_removed().await {
                    return;
                }
            }
        };
        if stop.run_until_cancelled(removed).await.is_none() {
            return;
        }
        // A node that stops or leaves is on its way out already.
        self.phase.send_if_modified(|phase| {
            let takes_part = matches!(phase, Phase::Joining | Phase::Member);
            if takes_part {
                *phase = Phase::Removed;
            }
            takes_part
        });
    }

    /// Who hears a leader hears of its own removal through the log; `members.rs` sees it there.
    async fn was_removed(&self) -> bool {
        let MemberEngines { metadata, cluster, node, .. } = &self.engines;
        !metadata.status().has_quorum && is_told(&self.net, *cluster, *node).await
    }
}

/// Whether one of the members that this node knows says that it has departed.
async fn is_told(net: &NetHandle, cluster: ClusterId, node: NodeId) -> bool {
    let others = net.members().into_iter().filter(|member| *member != node);
    let answers: Vec<_> = others.map(|member| ask(net, member)).collect();
    let answers = stream::iter(answers).buffer_unordered(ASKED_AT_ONCE);
    let mut answers = pin!(answers);
    while let Some(reply) = answers.next().await {
        if reply.is_some_and(|reply| departs(&reply, cluster, node)) {
            return true;
        }
    }
    false
}

async fn ask(net: &NetHandle, member: NodeId) -> Option<v1::StandingReply> {
    let mut client = JoinClient::new(net.channel(member, Class::Forward));
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.standing(v1::StandingRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}

fn departs(reply: &v1::StandingReply, cluster: ClusterId, node: NodeId) -> bool {
    reply.departed && reply.cluster == cluster.0 && reply.node_id == node.0
}

#[cfg(test)]
mod tests;
