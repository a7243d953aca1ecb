//! Transfer's `Ledger` port over the replicated state: what this node has to do for wishes, and what it tells of them.
//!
//! What is read is what this node has applied, without a leader. What is told goes to the leader and is acknowledged by
//! a majority; nothing is tried again here, and telling the same twice changes nothing. A wish that no choice of nodes
//! can meet is refused before it is asked for; where a member that is not heard yet may change that, it is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::BlobSpec;
use ollamax_core::catalog::models::{holders, pin_of};
use ollamax_core::catalog::{
    Answer, BoundBlob, Command, CopyCourse, Fault, How, OnceKey, PlanKind, Refusal, Replicas, UNSAID_VERSION, View,
    Want, Wish, places_kept, read,
};
use ollamax_core::health::Health;
use ollamax_core::placement::{Planned, Site, Unfit, plan_pull};
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_transfer::PullError;
use ollamax_transfer::ports::{Ask, AskedVersion, Assignment, Bound, Duty, Ledger, LedgerError};
use ollamax_types::limits::{BIND_BLOBS_MAX, HEAR_TIMEOUT, IDENTIFIER_BYTES_MAX};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Root, Timestamp};

use crate::follow::pause_after;
use crate::sites::Sites;

/// How often it is looked whether a member was heard that makes a wish possible.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A cheap handle on the record, for one node.
#[derive(Debug, Clone)]
pub(crate) struct LedgerOverMetadata {
    metadata: metadata::Handle,
    scheduler: scheduler::Handle,
    assignments: watch::Receiver<Arc<Vec<Assignment>>>,
    /// Since when members can be heard.
    since: Instant,
}

// === impl LedgerOverMetadata ===

impl LedgerOverMetadata {
    /// Follows the wishes until `stop`.
    #[must_use]
    pub(crate) fn start(
        metadata: metadata::Handle,
        scheduler: scheduler::Handle,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (sender, assignments) = watch::channel(Arc::default());
        // Cannot fail: what cannot be read is told, and read again at the next change.
        tasks.spawn(follow(metadata.clone(), sender, stop));
        Self { metadata, scheduler, assignments, since: Instant::now() }
    }

    /// A change that this node asks for on behalf of whoever this is.
    async fn propose(&self, principal: &str, command: Command, once: Option<OnceKey>) -> Result<Answer, LedgerError> {
        self.check_version(command.least_version())?;
        let change = metadata::Change::new(draw_request_id(), principal, command);
        let done = self.metadata.propose_change(metadata::Change { once, ..change }).await;
        let accepted = done.and_then(metadata::Committed::accepted).map_err(ledger_error)?;
        Ok(accepted.answer)
    }

    /// A change that this node asks for itself.
    async fn tell_own(&self, command: Command) -> Result<(), LedgerError> {
        self.propose(&own_principal(self.metadata.node()), command, None).await.map(|_| ())
    }

    /// Whether this node knows that a question was asked before: then it is too late to judge it.
    fn is_answered(&self, once: Option<&OnceKey>) -> Result<bool, LedgerError> {
        let Some(OnceKey { key, .. }) = once else { return Ok(false) };
        let held = read::once(&*self.metadata.view(), key).map_err(unreadable)?;
        Ok(held.is_some_and(|held| held.ends_at > self.metadata.log_time()))
    }

    /// The leader checks this too; its answer from afar is only a text.
    fn check_version(&self, needed: u32) -> Result<(), LedgerError> {
        match read::cluster(&*self.metadata.view()).map_err(unreadable)? {
            Some(cluster) if cluster.version < needed => {
                Err(LedgerError::NeedsVersion { needed, actual: cluster.version })
            }
            _ => Ok(()),
        }
    }

    /// Those that are not on record as they are told.
    fn not_bound(&self, blobs: Vec<(BlobSpec, Root)>) -> Vec<BoundBlob> {
        let told = blobs.into_iter().map(|(blob, root)| {
            let BlobSpec { sha256, size_bytes } = blob;
            BoundBlob { sha256, size_bytes, root }
        });
        let is_bound =
            |blob: &BoundBlob| self.bound(blob.sha256) == Some(Bound { size_bytes: blob.size_bytes, root: blob.root });
        told.filter(|blob| !is_bound(blob)).collect()
    }

    /// The targets of the round that runs for which nobody waits.
    fn away_from(&self, name: &ModelName) -> BTreeSet<NodeId> {
        let targets = self.plan(name).and_then(|wish| wish.plan).map(|plan| plan.targets).unwrap_or_default();
        let away = self.away();
        targets.into_iter().filter(|node| away.contains(node)).collect()
    }

    /// Whether the cluster, as this node sees it, has room for what is asked. Soon after a start, its own or another
    /// node's, that may show late. Of a round that goes on with its nodes one will do, where the record says on which
    /// nodes (`unsaid`).
    async fn check_placement(&self, ask: &Ask, unsaid: bool) -> Result<(), LedgerError> {
        let asked_at = Instant::now();
        let mut looks = interval(LOOK_INTERVAL);
        loop {
            looks.tick().await;
            let view = self.metadata.view();
            let (ask, goes_on) =
                if unsaid { on_record(&*view, ask).map_err(unreadable)? } else { (ask.clone(), false) };
            let sites = Sites::now(&*view, &self.scheduler).map_err(unreadable)?;
            let copies = read::locations_of(&*view, &ask.name).map_err(unreadable)?;
            let pin = pin_of(&*view, &ask.name).map_err(unreadable)?;
            let since = if sites.are_changing { asked_at } else { self.since };
            match judge(&ask, &sites, &holders(None, pin, &copies), since.elapsed()) {
                Judgement::Fits => return Ok(()),
                Judgement::Impossible(LedgerError::Impossible { fits, .. }) if goes_on && fits > 0 => return Ok(()),
                Judgement::Impossible(error) => return Err(error),
                Judgement::NotKnownYet => {}
            }
        }
    }
}

impl Ledger for LedgerOverMetadata {
    fn assignments(&self) -> watch::Receiver<Arc<Vec<Assignment>>> {
        self.assignments.clone()
    }

    fn bound(&self, sha256: Digest) -> Option<Bound> {
        let blob = read::blob(&*self.metadata.view(), &sha256).ok().flatten()?;
        Some(Bound { size_bytes: blob.size_bytes, root: blob.root })
    }

    fn bind(&self, blobs: Vec<(BlobSpec, Root)>) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        async move {
            let node = ledger.metadata.node();
            for batch in ledger.not_bound(blobs).chunks(BIND_BLOBS_MAX) {
                ledger.tell_own(Command::BindBlobs { node, blobs: batch.to_vec() }).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn resolve(
        &self,
        name: ModelName,
        round: u64,
        digest: Digest,
        size_bytes: u64,
    ) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        let command = Command::ResolveWish { node: ledger.metadata.node(), name, round, digest, size_bytes };
        async move { ledger.tell_own(command).await }.boxed()
    }

    fn tell(&self, name: ModelName, round: u64, error: PullError) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        let (node, code, text) = (ledger.metadata.node(), error.code(), error.to_string());
        async move { ledger.tell_own(Command::TellPull { node, name, round, code, text }).await }.boxed()
    }

    fn note_copy(
        &self,
        name: ModelName,
        round: u64,
        course: CopyCourse,
    ) -> BoxFuture<'static, Result<(), LedgerError>> {
        let ledger = self.clone();
        let command = Command::NoteCopy { node: ledger.metadata.node(), name, round, course: Box::new(course) };
        async move { ledger.tell_own(command).await }.boxed()
    }

    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<u64, LedgerError>> {
        let ledger = self.clone();
        async move {
            let principal = principal_of(ledger.metadata.node(), &ask.asked_by);
            let want = ask.want.clone().or_else(|| ledger.plan(&ask.name).map(|wish| wish.want)).unwrap_or_default();
            let mut ask = Ask { want: Some(want.clone()), ..ask };
            let unsaid = !ask.is_said && ask.version.is_none();
            let knows_unsaid = ledger.check_version(UNSAID_VERSION).is_ok();
            if unsaid && !knows_unsaid {
                // An older cluster takes what this node reads from the record.
                (ask, _) = on_record(&*ledger.metadata.view(), &ask).map_err(unreadable)?;
            }
            let away = if unsaid && knows_unsaid { Some(ledger.away_from(&ask.name)) } else { None };
            let command = asking(&ask, want, away);
            ledger.check_version(command.least_version())?;
            if !ledger.is_answered(ask.once.as_ref())? {
                ledger.check_placement(&ask, unsaid && knows_unsaid).await?;
            }
            match ledger.propose(&principal, command, ask.once).await? {
                Answer::Wish { round } => Ok(round),
                other => Err(LedgerError::Failed {
                    code: ErrorCode::Internal,
                    text: format!("the cluster answered a wish with {other:?}"),
                }),
            }
        }
        .boxed()
    }

    fn forget(&self, name: ModelName) -> BoxFuture<'static, Result<bool, LedgerError>> {
        let ledger = self.clone();
        async move {
            match ledger.tell_own(Command::ForgetWish { name, round: None }).await {
                Ok(()) => Ok(true),
                Err(LedgerError::Refused(Refusal::WishNotFound(_))) => Ok(false),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn plan(&self, name: &ModelName) -> Option<Wish> {
        read::wish(&*self.metadata.view(), name).ok().flatten()
    }

    fn wishes(&self) -> Vec<Wish> {
        read::wishes(&*self.metadata.view()).unwrap_or_default()
    }

    fn log_time(&self) -> Timestamp {
        self.metadata.log_time()
    }

    fn holders(&self, name: &ModelName, digest: Digest) -> BTreeSet<NodeId> {
        let copies = read::locations_of(&*self.metadata.view(), name).unwrap_or_default();
        holders(Some(digest), None, &copies)
    }

    fn away(&self) -> BTreeSet<NodeId> {
        let Ok(sites) = Sites::now(&*self.metadata.view(), &self.scheduler) else { return BTreeSet::new() };
        // One that was not heard in all that time since this node began is off too.
        let is_unheard = self.since.elapsed() >= HEAR_TIMEOUT;
        let is_away = |site: &&Site| match site.health {
            Health::Dead => !site.is_self,
            Health::Unknown => is_unheard && !site.is_self,
            Health::Alive | Health::Suspect => false,
        };
        sites.all().iter().filter(is_away).map(|site| site.node).collect()
    }
}

/// The change that puts on record what somebody asks for. A version that is known is the round's from its start, and
/// the registry is not asked; which nodes come into question stays as it was then.
///
/// Where nobody says on which nodes, there are those of the round that runs for which nobody waits (`away`).
fn asking(ask: &Ask, want: Want, away: Option<BTreeSet<NodeId>>) -> Command {
    let (name, replicas, insecure) = (ask.name.clone(), ask.replicas.clone(), ask.insecure);
    match ask.version {
        None => {
            let (unsaid, away) = (away.is_some(), away.unwrap_or_default());
            Command::AskModel { name, replicas, insecure, want, declared: false, unsaid, away }
        }
        Some(AskedVersion { digest, size_bytes }) => {
            Command::FixVersion { name, digest, size_bytes, replicas: Some(replicas), how: How::Found }
        }
    }
}

/// Keeps what this node has to do, until `stop`.
async fn follow(metadata: metadata::Handle, sender: watch::Sender<Arc<Vec<Assignment>>>, stop: CancellationToken) {
    let mut changes = metadata.changes();
    loop {
        changes.borrow_and_update();
        let began = Instant::now();
        let found = assignments(&*metadata.view(), metadata.node());
        match found {
            Ok(found) => {
                sender.send_if_modified(|known| {
                    let changed = **known != found;
                    if changed {
                        *known = Arc::new(found);
                    }
                    changed
                });
            }
            Err(fault) => tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the wishes"),
        }
        let pause = pause_after(began.elapsed());
        let changed = async {
            tokio::time::sleep(pause).await;
            changes.changed().await
        };
        if !matches!(stop.run_until_cancelled(changed).await, Some(Ok(()))) {
            return;
        }
    }
}

/// What a node has to do, by model. Only for wishes that name it more is read than the wish.
fn assignments(view: &dyn View, node: NodeId) -> Result<Vec<Assignment>, Fault> {
    let mut found = Vec::new();
    for wish in read::wishes(view)? {
        if wish.plan.as_ref().is_some_and(|plan| plan.names(node)) {
            let (copies, pin) = (read::locations_of(view, &wish.name)?, pin_of(view, &wish.name)?);
            found.extend(assignment(node, &wish, &holders(wish.digest, pin, &copies)));
        }
    }
    Ok(found)
}

/// What a node has to do for a wish; `None`: nothing, or nothing more in this round. Who brings the model into the
/// cluster is done when all that shall have it do; whoever receives it, when it has it; both, when they have failed.
fn assignment(node: NodeId, wish: &Wish, holders: &BTreeSet<NodeId>) -> Option<Assignment> {
    let plan = wish.plan.as_ref().filter(|plan| plan.names(node))?;
    let holds = |node: &NodeId| wish.digest.is_some() && holders.contains(node);
    let has_failed = |node: &NodeId| wish.failures.contains_key(node) && !holds(node);
    let ingests = plan.ingester == node;
    let is_done = if ingests { plan.targets.iter().all(holds) } else { holds(&node) };
    if is_done || has_failed(&node) {
        return None;
    }
    let receives = |target: &NodeId| *target != plan.ingester && !has_failed(target);
    // Whoever has failed gets no stripe.
    let receivers: Vec<NodeId> = plan.targets.iter().copied().filter(receives).collect();
    let place = receivers.iter().position(|receiver| *receiver == node);
    let whole = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (rank, of) = place.map_or((0, 1), |place| (whole(place), whole(receivers.len())));
    let everybody: BTreeSet<NodeId> = plan.targets.iter().chain([&plan.ingester]).chain(holders).copied().collect();
    Some(Assignment {
        name: wish.name.clone(),
        round: wish.round,
        insecure: wish.insecure,
        digest: wish.digest,
        duty: if ingests { Duty::Ingest } else { Duty::Receive },
        rank,
        of,
        ingester: plan.ingester,
        others: everybody.into_iter().filter(|other| *other != node).collect(),
        in_background: plan.kind != PlanKind::Asked,
        disk_free_bytes_min: wish.want.disk_free_bytes_min,
    })
}

/// What somebody asks for who says nothing of places, as the record has it, and whether the new round goes on with the
/// nodes of the one before. What a file says is said.
fn on_record(view: &dyn View, ask: &Ask) -> Result<(Ask, bool), Fault> {
    let Some(wish) = read::wish(view, &ask.name)? else { return Ok((ask.clone(), false)) };
    let Some(replicas) = places_kept(view, &wish)? else { return Ok((ask.clone(), false)) };
    let is_of_version = pin_of(view, &ask.name)?.is_none_or(|pin| wish.digest == Some(pin));
    let goes_on = is_of_version && wish.plan.is_some() && ask.want.as_ref() == Some(&wish.want);
    Ok((Ask { replicas, is_said: wish.declared, ..ask.clone() }, goes_on))
}

/// What is thought of a wish.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Fits,
    /// Somebody was not heard yet, and without that one it is impossible.
    NotKnownYet,
    Impossible(LedgerError),
}

/// Whether a wish can be met. Of a member that was not heard in all that time nothing good is known, and nobody is left
/// to wait for it.
fn judge(ask: &Ask, sites: &Sites, holders: &BTreeSet<NodeId>, waited: Duration) -> Judgement {
    let (wish, places) = (not_asked_yet(ask), sites.with_holders(holders));
    let of = looked_at(&wish.replicas, places.len());
    let why = match plan_pull(&wish, &places, None) {
        Planned::Impossible(why) => why,
        Planned::Plan { targets, .. } if is_too_few(ask, targets.len()) => unfit(wish, &places),
        Planned::Plan { .. } | Planned::Nothing => return Judgement::Fits,
    };
    if !sites.are_clear && waited < HEAR_TIMEOUT {
        return Judgement::NotKnownYet;
    }
    let (replicas, fits) = (ask.replicas.clone(), of.saturating_sub(why.len()));
    Judgement::Impossible(LedgerError::Impossible { replicas, fits, of, why })
}

/// Whether so many copies are fewer than somebody said. The plan would make them without a word.
fn is_too_few(ask: &Ask, targets: usize) -> bool {
    matches!(ask.replicas, Replicas::Count(count) if ask.is_said && targets < count as usize)
}

/// What is wrong with each node that cannot have the model.
fn unfit(wish: Wish, places: &[Site]) -> Vec<(NodeId, Unfit)> {
    let everywhere = Replicas::Nodes(places.iter().map(|place| place.node).collect());
    match plan_pull(&Wish { replicas: everywhere, ..wish }, places, None) {
        Planned::Impossible(why) => why,
        Planned::Plan { .. } | Planned::Nothing => Vec::new(),
    }
}

/// How many nodes are looked at: those that are named, else all.
const fn looked_at(replicas: &Replicas, all: usize) -> usize {
    match replicas {
        Replicas::Nodes(nodes) => nodes.len(),
        Replicas::Count(_) | Replicas::All => all,
    }
}

/// As a record has them: by id, each once.
fn in_order(replicas: &Replicas) -> Replicas {
    match replicas {
        Replicas::Nodes(nodes) => {
            let nodes: BTreeSet<NodeId> = nodes.iter().copied().collect();
            Replicas::Nodes(nodes.into_iter().collect())
        }
        Replicas::Count(_) | Replicas::All => replicas.clone(),
    }
}

/// The record that asking would make.
pub(crate) fn not_asked_yet(ask: &Ask) -> Wish {
    Wish {
        name: ask.name.clone(),
        round: 0,
        insecure: ask.insecure,
        replicas: in_order(&ask.replicas),
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: BTreeMap::new(),
        asked_at: Timestamp(0),
        asked_by: ask.asked_by.clone(),
        want: ask.want.clone().unwrap_or_default(),
        declared: false,
        surplus: Default::default(),
        shared: false,
    }
}

fn own_principal(node: NodeId) -> String {
    format!("node/{node}")
}

/// Whoever asked, as one word; this node, where that can be nobody's name.
fn principal_of(node: NodeId, asked_by: &str) -> String {
    let word = asked_by.split_whitespace().collect::<Vec<_>>().join("-");
    let is_name = !word.is_empty() && word.len() <= IDENTIFIER_BYTES_MAX && !word.contains(char::is_control);
    if is_name && !word.starts_with("node/") { word } else { own_principal(node) }
}

fn unreadable(fault: Fault) -> LedgerError {
    LedgerError::Failed { code: ErrorCode::StorageFailed, text: fault.to_string() }
}

fn ledger_error(error: ProposeError) -> LedgerError {
    let (code, text) = (error.code(), error.to_string());
    match error {
        ProposeError::NoQuorum(_) => LedgerError::NoQuorum(text),
        ProposeError::Refused(Refusal::VersionTooLow { needed, actual }) => {
            LedgerError::NeedsVersion { needed, actual }
        }
        ProposeError::Refused(refusal) => LedgerError::Refused(refusal),
        ProposeError::OutcomeUnknown(_)
        | ProposeError::Overloaded
        | ProposeError::DiskFull(_)
        | ProposeError::TooLarge { .. }
        | ProposeError::AlreadyInitialised
        | ProposeError::Fatal(_)
        | ProposeError::Leader { .. } => LedgerError::Failed { code, text },
    }
}

#[cfg(test)]
mod tests;
