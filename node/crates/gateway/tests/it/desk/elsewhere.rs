//! The other nodes, as the one behind the door asks them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt as _, ready};
use futures::stream::{self, StreamExt as _};

use ollamax_transfer::{KeptVersion, Others, PullError, PullLimit, PullSpec, PullStream, VerifyOrder, VerifyStream};
use ollamax_types::{ErrorCode, ModelName, NodeId, Rate};

/// All of them. Who keeps nothing here cannot be asked. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Elsewhere(Arc<Mutex<Rooms>>);

#[derive(Default)]
struct Rooms {
    kept: BTreeMap<NodeId, Vec<KeptVersion>>,
    asked: Vec<String>,
}

// === impl Elsewhere ===

impl Elsewhere {
    /// A node can be asked from now on, and keeps this.
    pub(crate) fn keeps(&self, node: u64, kept: Vec<KeptVersion>) {
        self.rooms().kept.insert(NodeId(node), kept);
    }

    /// What was asked of whom, in the order of the nodes.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = self.rooms().asked.clone();
        asked.sort();
        asked
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, node: NodeId, what: String) -> Result<Vec<KeptVersion>, PullError> {
        let mut rooms = self.rooms();
        rooms.asked.push(format!("n{node}: {what}"));
        rooms.kept.get(&node).cloned().ok_or_else(|| unreachable_node(node))
    }
}

fn unreachable_node(node: NodeId) -> PullError {
    PullError::Elsewhere { node, code: ErrorCode::PeerUnreachable, text: "no connection".to_owned() }
}

impl Others for Elsewhere {
    fn pull(&self, to: NodeId, _: PullSpec) -> BoxFuture<'static, Result<PullStream, PullError>> {
        ready(Err(unreachable_node(to))).boxed()
    }

    fn cancel(&self, to: NodeId, name: ModelName) -> BoxFuture<'static, Result<bool, PullError>> {
        ready(self.answer(to, format!("cancel {name}")).map(|_| true)).boxed()
    }

    fn verify(&self, to: NodeId, _: VerifyOrder) -> VerifyStream {
        stream::iter([Err(unreachable_node(to))]).boxed()
    }

    fn limit(&self, to: NodeId, limit: PullLimit) -> BoxFuture<'static, Result<bool, PullError>> {
        let bytes = limit.rate.map_or(0, Rate::bytes);
        ready(self.answer(to, format!("limit {} to {bytes}", limit.name)).map(|_| true)).boxed()
    }

    fn kept(&self, to: NodeId, name: Option<ModelName>) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let is_meant = |kept: &KeptVersion| name.as_ref().is_none_or(|name| kept.name == *name);
        let kept = self.answer(to, "what is kept".to_owned());
        ready(kept.map(|kept| kept.into_iter().filter(is_meant).collect())).boxed()
    }

    fn sweep(&self, to: NodeId, dry_run: bool) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let what = if dry_run { "what would go" } else { "let go" };
        ready(self.answer(to, what.to_owned())).boxed()
    }
}
