//! The leader carries out what the rules ask, one act at a time, and keeps the records of files and of names within
//! their bounds.
//!
//! The plan is that of `core::retention`, which people see too. Always holds: nothing is done while the rules are off;
//! each act is the first of a plan that was made behind the one before; a look does something only to models that its
//! first plan was about, once to each, so that disks which are told late make it do no more than people were shown. An
//! act lands only while this node leads, and `apply` keeps the same guards again. A new leader first waits for nodes to
//! be heard; one that it has not heard loses nothing. An act that is refused is left out until the next look, since
//! what speaks against it may pass. Plans are made from all that is on record, so the loop rests between two of them.
//! Of files that no node has hashed again for long the record forgets some when it is nearly full; whoever holds one
//! binds it again when it is needed. Names that nobody has for long go whatever the rules say, some at each look; one
//! that comes back meanwhile stays, since each step is judged again when it is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Fault, View, read};
use ollamax_core::retention::{Act, Facts, Rules, SiteFacts, names_now, plan};
use ollamax_gateway::rules;
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_types::limits::{BLOBS_MAX, FORGET_BLOBS_MAX, HEAR_TIMEOUT};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Timestamp};

use crate::follow::presence::leading_term;
use crate::follow::{change_in_term, pause_after};

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

/// When this node looked, as the leader of one term.
#[derive(Debug)]
struct Watch {
    term: u64,
    since: Instant,
    looked: Option<(Rules, Instant)>,
}

/// Carries the rules out while this node leads, until `stop`.
pub(crate) async fn follow(warden: Warden, stop: CancellationToken) {
    let mut known: Option<Watch> = None;
    loop {
        if stop.run_until_cancelled(sleep(ASK_INTERVAL)).await.is_none() {
            return;
        }
        let Some(term) = leading_term(&warden.metadata) else {
            known = None;
            continue;
        };
        let watch = match known.take().filter(|watch| watch.term == term) {
            Some(same) => known.insert(same),
            None => known.insert(Watch::begun(term)),
        };
        let rules = match rules::of(&*warden.metadata.view()) {
            Ok(rules) => rules,
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the rules for models");
                continue;
            }
        };
        if !watch.is_due(rules) {
            continue;
        }
        match stop.run_until_cancelled(warden.look(term)).await {
            Some(Ok(())) => {}
            Some(Err(fault)) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read what the rules are about");
            }
            None => return,
        }
    }
}

/// The plan of now; empty while the rules are off.
fn plan_now(view: &dyn View, now: Timestamp, sites: BTreeMap<NodeId, SiteFacts>) -> Result<Vec<Act>, Fault> {
    let rules = rules::of(view)?;
    if !rules.on {
        return Ok(Vec::new());
    }
    Ok(plan(&Facts::of(view, now, sites)?, &rules))
}

/// The first act about a model that is still open, which it is not any more then.
fn next_act(acts: Vec<Act>, open: &mut BTreeSet<ModelName>) -> Option<Act> {
    acts.into_iter().find(|act| open.remove(&act.name))
}

// === impl Watch ===

impl Watch {
    fn begun(term: u64) -> Self {
        Self { term, since: Instant::now(), looked: None }
    }

    /// Whether it is time for a look by these rules; one is made then. Nodes have had their time to be heard by then.
    fn is_due(&mut self, rules: Rules) -> bool {
        let is_same = |(known, at): &(Rules, Instant)| *known == rules && at.elapsed() < LOOK_INTERVAL;
        if self.since.elapsed() < HEAR_TIMEOUT || self.looked.as_ref().is_some_and(is_same) {
            return false;
        }
        self.looked = Some((rules, Instant::now()));
        true
    }
}

// === impl Warden ===

impl Warden {
    async fn look(&self, term: u64) -> Result<(), Fault> {
        let (mut acts, mut pause) = self.plan()?;
        let mut open: BTreeSet<ModelName> = acts.iter().map(|act| act.name.clone()).collect();
        while let Some(act) = next_act(acts, &mut open) {
            match self.change(act.command(), PRINCIPAL, term).await {
                Ok(_) => {
                    let node = act.node.map(|node| node.0);
                    tracing::info!(model = %act.name, node, why = act.why, "a rule was carried out");
                }
                Err(ProposeError::Refused(refusal)) => {
                    tracing::info!(model = %act.name, why = act.why, error = %refusal, "a rule was not carried out");
                }
                Err(error) => {
                    tracing::debug!(code = %error.code(), %error, "carry out a rule; decided anew");
                    return Ok(());
                }
            }
            if open.is_empty() {
                break;
            }
            sleep(pause).await;
            (acts, pause) = self.plan()?;
        }
        self.forget_files(term).await?;
        self.forget_names(term).await
    }

    /// The plan of now, and how long to rest before the next one.
    fn plan(&self) -> Result<(Vec<Act>, Duration), Fault> {
        let began = Instant::now();
        let view = self.metadata.view();
        let sites = rules::sites(&*view, &self.scheduler.beat(), &self.scheduler.peers())?;
        let acts = plan_now(&*view, self.metadata.log_time(), sites)?;
        Ok((acts, pause_after(began.elapsed())))
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

    /// Has names go that nobody has for long, step by step. Events tell of each; so does this node's log.
    async fn forget_names(&self, term: u64) -> Result<(), Fault> {
        let plan = names_now(&*self.metadata.view(), self.metadata.log_time())?;
        let principal = format!("node/{}", self.metadata.node());
        for command in plan.commands() {
            if let Err(error) = self.change(command, &principal, term).await {
                tracing::debug!(code = %error.code(), %error, "forget names on record; tried again later");
                return Ok(());
            }
        }
        let view = self.metadata.view();
        for old in &plan.going {
            if read::model(&*view, &old.name)?.is_none() {
                tracing::info!(model = %old.name, since_ms = old.since.0, "a name that nobody has was forgotten");
            }
        }
        Ok(())
    }

    /// Makes one change as the leader of this term.
    async fn change(&self, command: Command, principal: &str, term: u64) -> Result<Answer, ProposeError> {
        let made = change_in_term(&self.metadata, draw_request_id(), principal, command, term).await;
        made.map(|committed| committed.answer)
    }
}

#[cfg(test)]
mod tests;
