//! How a member leaves the catalog: what is on record of its models goes in steps, then the member.
//!
//! A repeated call goes on where it stopped. The Raft group follows by itself: the autopilot takes the vote and the
//! place of a departed member.

use ollamax_core::catalog::{Answer, Command, Refusal};
use ollamax_types::{NodeId, RequestId};

use crate::error::ProposeError;
use crate::handle::{Change, Committed, Handle};

/// How often a removal starts again because the node reported models meanwhile.
const ATTEMPTS_MAX: usize = 5;
/// Model records that one step forgets.
const FORGET_STEP: u32 = 256;

// === impl Handle: members ===

impl Handle {
    /// Removes a member for good; its id is never used again. With `fence_term`, only while the leader's term is this
    /// one.
    ///
    /// # Errors
    /// As [`Handle::propose`]; a refusal is an error.
    pub async fn remove_member(
        &self,
        request: &RequestId,
        principal: &str,
        fence_term: Option<u64>,
        node: NodeId,
    ) -> Result<(), ProposeError> {
        let change = |command| Change { fence_term, ..Change::new(request.clone(), principal, command) };
        // A living node may report a model between the two steps.
        for _ in 0..ATTEMPTS_MAX {
            let forget = || change(Command::ForgetModels { node, limit: FORGET_STEP });
            while self.propose_change(forget()).await?.accepted()?.answer == Answer::More {}
            match self.propose_change(change(Command::RemoveMember { node })).await.and_then(Committed::accepted) {
                Err(ProposeError::Refused(Refusal::ModelsRemain(_))) => {}
                removed => return removed.map(|_| ()),
            }
        }
        Err(ProposeError::Refused(Refusal::ModelsRemain(node)))
    }
}
