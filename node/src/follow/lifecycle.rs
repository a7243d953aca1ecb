//! The leader carries out what the rules ask, one act at a time, and keeps the record of files within its bounds.
//!
//! The plan is that of `core::retention`, which people see too. Always holds: nothing is done while the rules are off;
//! each act is the first of a plan that was made behind the one before; it lands only while this node leads, and
//! `apply` keeps the same guards again. A node that a new leader has not heard yet loses nothing. An act that is
//! refused is left out until the next look, since what speaks against it may pass. Of files that no node has hashed
//! again for long the record forgets some when it is nearly full; whoever holds one binds it again when it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Fault, View, read};
use ollamax_core::retention::{ACTS_MAX, Act, Facts, Rules, SiteFacts, plan};
use ollamax_gateway::rules;
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_types::limits::{BLOBS_MAX, FORGET_BLOBS_MAX};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Timestamp};

use crate::follow::presence::leading_term;

/// Who does what a rule asks, in the log and in events.
const PRINCIPAL: &str = "rules";
/// Time between two looks while the rules are the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// Time between two questions whether the rules are others.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How full the record of files may be, percent of what it may hold, before old ones are forgotten.
const BLOBS_PERCENT_MAX: u64 = 90;
/// How long a file stays on record at least.
const BLOBS_KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// Most steps by which one look goes through the record of files.
const FORGET_STEPS_MAX: usize = 1_024;

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Warden {
    /// The replicated state.
    pub(crate) metadata: metadata::Handle,
    /// Who is there, and what is loaded.
    pub(crate) scheduler: scheduler::Handle,
}

/// Carries the rules out while this node leads, until `stop`.
pub(crate) async fn follow(warden: Warden, stop: CancellationToken) {
    let mut looked: Option<(u64, Rules, Instant)> = None;
    loop {
        if stop.run_until_cancelled(sleep(ASK_INTERVAL)).await.is_none() {
            return;
        }
        let Some(term) = leading_term(&warden.metadata) else {
            looked = None;
            continue;
        };
        let rules = match rules::of(&*warden.metadata.view()) {
            Ok(rules) => rules,
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the rules for models");
                continue;
            }
        };
        let is_fresh = looked
            .as_ref()
            .is_some_and(|(in_term, known, at)| (*in_term, known) == (term, &rules) && at.elapsed() < LOOK_INTERVAL);
        if is_fresh {
            continue;
        }
        looked = Some((term, rules, Instant::now()));
        match stop.run_until_cancelled(warden.look(term)).await {
            Some(Ok(())) => {}
            Some(Err(fault)) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read what the rules are about");
            }
            None => return,
        }
    }
}

/// The first act of the plan of now, but for these models; none while the rules are off.
fn next_act(
    view: &dyn View,
    now: Timestamp,
    sites: BTreeMap<NodeId, SiteFacts>,
    refused: &BTreeSet<ModelName>,
) -> Result<Option<Act>, Fault> {
    let rules = rules::of(view)?;
    if !rules.on {
        return Ok(None);
    }
    let facts = Facts::of(view, now, sites)?;
    Ok(plan(&facts, &rules).into_iter().find(|act| !refused.contains(&act.name)))
}

// === impl Warden ===

impl Warden {
    async fn look(&self, term: u64) -> Result<(), Fault> {
        let mut refused = BTreeSet::new();
        for _ in 0..ACTS_MAX {
            let sites = self.sites()?;
            let act = next_act(&*self.metadata.view(), self.metadata.log_time(), sites, &refused)?;
            let Some(act) = act else { break };
            match self.change(act.command(), PRINCIPAL, term).await {
                Ok(_) => tracing::info!(model = %act.name, node = ?act.node, why = act.why, "a rule was carried out"),
                Err(ProposeError::Refused(refusal)) => {
                    tracing::info!(model = %act.name, why = act.why, error = %refusal, "a rule was not carried out");
                    refused.insert(act.name);
                }
                Err(error) => {
                    tracing::debug!(code = %error.code(), %error, "carry out a rule; decided anew");
                    return Ok(());
                }
            }
        }
        self.forget_files(term).await
    }

    fn sites(&self) -> Result<BTreeMap<NodeId, SiteFacts>, Fault> {
        rules::sites(&*self.metadata.view(), &self.scheduler.beat(), &self.scheduler.peers())
    }

    /// Goes once through the record of files where it is nearly full.
    async fn forget_files(&self, term: u64) -> Result<(), Fault> {
        if read::counts(&*self.metadata.view())?.blobs < BLOBS_MAX / 100 * BLOBS_PERCENT_MAX {
            return Ok(());
        }
        let before = Timestamp(self.metadata.log_time().0.saturating_sub(BLOBS_KEPT_MS));
        let principal = format!("node/{}", self.metadata.node());
        let mut after: Option<Digest> = None;
        for _ in 0..FORGET_STEPS_MAX {
            // So many at least are looked at by one step, and no more of them forgotten.
            let page = read::blobs(&*self.metadata.view(), after, FORGET_BLOBS_MAX)?;
            let limit = u32::try_from(FORGET_BLOBS_MAX).unwrap_or(u32::MAX);
            let command = Command::ForgetBlobs { before, after, limit };
            match self.change(command, &principal, term).await {
                Ok(Answer::More) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::debug!(code = %error.code(), %error, "forget files on record; tried again later");
                    return Ok(());
                }
            }
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
        }
        Ok(())
    }

    /// Makes one change as the leader of this term.
    async fn change(&self, command: Command, principal: &str, term: u64) -> Result<Answer, ProposeError> {
        let change = metadata::Change::new(draw_request_id(), principal, command);
        let change = metadata::Change { fence_term: Some(term), ..change };
        let made = self.metadata.propose_change(change).await.and_then(metadata::Committed::accepted);
        made.map(|committed| committed.answer)
    }
}

#[cfg(test)]
mod tests;
