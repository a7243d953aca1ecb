//! The record of a cluster in memory: wishes, plans and files, as several nodes see them.
//!
//! It plans at once what can be planned, in the order in which the members were named, and keeps the rules of the real
//! one as far as a node can run into them. Nothing is lost but an answer where a test says so, and nobody sees less
//! than all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;

use ollamax_blobs::BlobSpec;
use ollamax_core::catalog::{CopyCourse, Failure, OnceKey, Plan, PlanKind, Refusal, Replicas, Wish};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Root, Timestamp};

use crate::error::PullError;
use crate::ports::{Ask, Assignment, Bound, Duty, Ledger, LedgerError};

use super::lock;

/// The version of a cluster from which on it knows wishes.
const WISHES_VERSION: u32 = 4;
/// Copies of a model where nobody says how many, and no more than there are nodes.
const COPIES_USUAL: u32 = 2;

/// The record of one cluster.
#[derive(Debug, Clone)]
pub struct MemCluster {
    state: Arc<Mutex<State>>,
}

/// The record as one node sees it.
#[derive(Debug, Clone)]
pub struct MemLedger {
    cluster: MemCluster,
    node: NodeId,
}

#[derive(Debug)]
struct State {
    members: Vec<NodeId>,
    has_quorum: bool,
    version: u32,
    rounds: u64,
    log_time: Timestamp,
    loses_answer: bool,
    /// The rounds of questions that have effect once.
    answered: BTreeMap<[u8; 32], u64>,
    wishes: BTreeMap<ModelName, Wish>,
    blobs: BTreeMap<Digest, Bound>,
    /// Which node has which version of what.
    held: BTreeSet<(ModelName, Digest, NodeId)>,
    /// Who is taken for dead.
    away: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, watch::Sender<Arc<Vec<Assignment>>>>,
    /// What nodes told of their copies.
    courses: Vec<(NodeId, CopyCourse)>,
}

// === impl MemCluster ===

impl MemCluster {
    /// A cluster of these nodes, at the version that knows wishes, with a quorum.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = NodeId>) -> Self {
        let state = State {
            members: members.into_iter().collect(),
            has_quorum: true,
            version: WISHES_VERSION,
            rounds: 0,
            answered: BTreeMap::new(),
            log_time: Timestamp(0),
            loses_answer: false,
            wishes: BTreeMap::new(),
            blobs: BTreeMap::new(),
            held: BTreeSet::new(),
            away: BTreeSet::new(),
            nodes: BTreeMap::new(),
            courses: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The record as this node sees it.
    #[must_use]
    pub fn ledger(&self, node: NodeId) -> MemLedger {
        MemLedger { cluster: self.clone(), node }
    }

    /// What nodes told of their copies, in order.
    #[must_use]
    pub fn courses(&self) -> Vec<(NodeId, CopyCourse)> {
        self.lock().courses.clone()
    }

    /// Whether changes are taken from now on.
    pub fn set_quorum(&self, has_quorum: bool) {
        self.lock().has_quorum = has_quorum;
    }

    /// The next wish goes on record, and whoever asked for it does not hear of that.
    pub fn lose_answer(&self) {
        self.lock().loses_answer = true;
    }

    /// The version that the cluster runs from now on.
    pub fn set_version(&self, version: u32) {
        self.lock().version = version;
    }

    /// The record's own time, from now on; it stands still. 0, as at first: no wish says when it was asked for.
    pub fn set_log_time(&self, now: Timestamp) {
        self.lock().log_time = now;
    }

    /// These nodes are taken for dead from now on, and no others.
    pub fn set_away(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.lock().away = nodes.into_iter().collect();
    }

    /// A node has this version of a model from now on.
    pub fn hold(&self, node: NodeId, name: &ModelName, digest: Digest) {
        let mut state = self.lock();
        state.held.insert((name.clone(), digest, node));
        state.tell_all();
    }

    /// Another plan takes the place of the one that there is.
    pub fn plan(&self, name: &ModelName, ingester: NodeId, targets: Vec<NodeId>) {
        self.plan_for(name, ingester, targets, PlanKind::Asked);
    }

    /// The same, where copies are missing and nobody asked for the plan just now.
    pub fn repair(&self, name: &ModelName, ingester: NodeId, targets: Vec<NodeId>) {
        self.plan_for(name, ingester, targets, PlanKind::Repair);
    }

    fn plan_for(&self, name: &ModelName, ingester: NodeId, targets: Vec<NodeId>, kind: PlanKind) {
        let mut state = self.lock();
        if let Some(wish) = state.wishes.get_mut(name) {
            wish.failures.remove(&ingester);
            wish.plan = Some(Plan { ingester, targets, made_at: Timestamp(0), kind });
        }
        state.tell_all();
    }

    /// A new round of the wish for a model begins, whose version is known from the start.
    pub fn fix(&self, name: &ModelName, digest: Digest, size_bytes: u64) {
        let mut state = self.lock();
        state.rounds += 1;
        let round = state.rounds;
        if let Some(wish) = state.wishes.get_mut(name) {
            (wish.round, wish.digest, wish.size_bytes) = (round, Some(digest), size_bytes);
            wish.failures.clear();
        }
        state.tell_all();
    }

    /// The wish for a model.
    #[must_use]
    pub fn wish(&self, name: &ModelName) -> Option<Wish> {
        self.lock().wishes.get(name).cloned()
    }

    /// Puts a file on record, whoever says so.
    pub fn put(&self, blob: BlobSpec, root: Root) {
        self.lock().blobs.insert(blob.sha256, Bound { size_bytes: blob.size_bytes, root });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

// === impl State ===

impl State {
    fn check(&self) -> Result<(), LedgerError> {
        if !self.has_quorum {
            return Err(LedgerError::NoQuorum("no majority of voters answers".to_owned()));
        }
        if self.version < WISHES_VERSION {
            return Err(LedgerError::NeedsVersion { needed: WISHES_VERSION, actual: self.version });
        }
        Ok(())
    }

    /// The wish, if this is its round.
    fn wish(&mut self, name: &ModelName, round: u64) -> Result<&mut Wish, LedgerError> {
        let Some(wish) = self.wishes.get_mut(name) else {
            return Err(LedgerError::Refused(Refusal::WishNotFound(name.clone())));
        };
        if wish.round != round {
            return Err(LedgerError::Refused(Refusal::RoundPassed { name: name.clone(), round }));
        }
        Ok(wish)
    }

    fn ask(&mut self, ask: Ask) -> Result<u64, LedgerError> {
        self.check()?;
        let Some(OnceKey { key, .. }) = ask.once else { return self.ask_anew(ask) };
        if let Some(round) = self.answered.get(&key) {
            return Ok(*round);
        }
        let round = self.ask_anew(ask)?;
        self.answered.insert(key, round);
        Ok(round)
    }

    fn ask_anew(&mut self, ask: Ask) -> Result<u64, LedgerError> {
        let fixed = ask.version.map(|version| version.digest);
        let running = self.wishes.get(&ask.name).filter(|wish| wish.replicas == ask.replicas);
        let running = running.filter(|wish| fixed.is_none() || wish.digest == fixed);
        if let Some(wish) = running.filter(|wish| wish.failures.is_empty() && !self.is_met(wish)) {
            return Ok(wish.round);
        }
        let plan = self.choose(&ask)?;
        self.rounds += 1;
        let round = self.rounds;
        let wish = Wish {
            name: ask.name.clone(),
            round,
            insecure: ask.insecure,
            replicas: ask.replicas,
            digest: fixed,
            size_bytes: ask.version.map_or(0, |version| version.size_bytes),
            plan: Some(plan),
            failures: BTreeMap::new(),
            asked_at: self.log_time,
            asked_by: ask.asked_by,
            want: ask.want.unwrap_or_default(),
            declared: false,
            surplus: Default::default(),
            shared: false,
        };
        self.wishes.insert(ask.name, wish);
        Ok(round)
    }

    fn choose(&self, ask: &Ask) -> Result<Plan, LedgerError> {
        let holds = |node: &NodeId| self.held.iter().any(|(name, _, holder)| *name == ask.name && holder == node);
        let (holders, others): (Vec<NodeId>, Vec<NodeId>) = self.members.iter().copied().partition(|node| holds(node));
        let mut fit = [holders, others].concat();
        let fits = fit.len();
        let of = match &ask.replicas {
            Replicas::All => fits,
            Replicas::Count(COPIES_USUAL) => fits.min(COPIES_USUAL as usize),
            Replicas::Count(count) => *count as usize,
            Replicas::Nodes(nodes) => {
                fit.retain(|node| nodes.contains(node));
                nodes.len()
            }
        };
        if of > fit.len() || fit.is_empty() {
            let replicas = ask.replicas.clone();
            return Err(LedgerError::Impossible { replicas, fits: fit.len(), of, why: Vec::new() });
        }
        fit.truncate(of);
        Ok(Plan { ingester: fit[0], targets: fit, made_at: Timestamp(0), kind: Default::default() })
    }

    fn is_met(&self, wish: &Wish) -> bool {
        let Some((plan, digest)) = wish.plan.as_ref().zip(wish.digest) else { return false };
        plan.targets.iter().all(|node| self.held.contains(&(wish.name.clone(), digest, *node)))
    }

    fn resolve(&mut self, node: NodeId, name: &ModelName, round: u64, told: (Digest, u64)) -> Result<(), LedgerError> {
        self.check()?;
        let wish = self.wish(name, round)?;
        let (digest, size_bytes) = told;
        if wish.plan.as_ref().is_none_or(|plan| plan.ingester != node) {
            return Err(LedgerError::Refused(Refusal::NotPlanned { name: name.clone(), node }));
        }
        if let Some(wanted) = wish.digest.filter(|wanted| *wanted != digest) {
            let (name, found) = (name.clone(), digest);
            return Err(LedgerError::Refused(Refusal::VersionMoved { name, wanted, found }));
        }
        (wish.digest, wish.size_bytes) = (Some(digest), size_bytes);
        Ok(())
    }

    fn bind(&mut self, blobs: Vec<(BlobSpec, Root)>) -> Result<(), LedgerError> {
        self.check()?;
        let bound = |blob: &BlobSpec, root: Root| Bound { size_bytes: blob.size_bytes, root };
        let other = blobs.iter().find(|(blob, root)| {
            self.blobs.get(&blob.sha256).is_some_and(|on_record| *on_record != bound(blob, *root))
        });
        if let Some((blob, _)) = other {
            return Err(LedgerError::Refused(Refusal::RootConflict { sha256: blob.sha256 }));
        }
        self.blobs.extend(blobs.iter().map(|(blob, root)| (blob.sha256, bound(blob, *root))));
        Ok(())
    }

    /// What a node has to do for a wish.
    fn assignment(&self, node: NodeId, wish: &Wish) -> Option<Assignment> {
        let plan = wish.plan.as_ref()?;
        let holds =
            |node: &NodeId| wish.digest.is_some_and(|digest| self.held.contains(&(wish.name.clone(), digest, *node)));
        let duty = if plan.ingester == node { Duty::Ingest } else { Duty::Receive };
        let is_open = match duty {
            Duty::Ingest => !self.is_met(wish),
            Duty::Receive => plan.targets.contains(&node) && !holds(&node),
        };
        let has_failed = |node: &NodeId| wish.failures.contains_key(node) && !holds(node);
        if !is_open || has_failed(&node) {
            return None;
        }
        let receives = |node: &NodeId| *node != plan.ingester && !has_failed(node);
        let receivers: Vec<NodeId> = plan.targets.iter().copied().filter(receives).collect();
        let place = receivers.iter().position(|receiver| *receiver == node).unwrap_or_default();
        let (rank, of) = match duty {
            Duty::Ingest => (0, 1),
            Duty::Receive => (count(place), count(receivers.len())),
        };
        let holders = self
            .held
            .iter()
            .filter(|(name, digest, _)| *name == wish.name && wish.digest.is_none_or(|wanted| *digest == wanted));
        let mut others: BTreeSet<NodeId> = holders.map(|(_, _, holder)| *holder).collect();
        others.extend(&plan.targets);
        others.insert(plan.ingester);
        others.remove(&node);
        let Wish { name, round, insecure, digest, .. } = wish;
        let others = others.into_iter().collect();
        let (name, round, insecure, digest, ingester) = (name.clone(), *round, *insecure, *digest, plan.ingester);
        Some(Assignment {
            name,
            round,
            insecure,
            digest,
            duty,
            rank,
            of,
            ingester,
            others,
            in_background: plan.kind != PlanKind::Asked,
            disk_free_bytes_min: wish.want.disk_free_bytes_min,
        })
    }

    fn assignments(&self, node: NodeId) -> Arc<Vec<Assignment>> {
        Arc::new(self.wishes.values().filter_map(|wish| self.assignment(node, wish)).collect())
    }

    /// Tells each node what it has to do, where that is something else than before.
    fn tell_all(&mut self) {
        for (node, sender) in &self.nodes {
            let now = self.assignments(*node);
            sender.send_if_modified(|told| {
                let differs = **told != *now;
                *told = now;
                differs
            });
        }
    }
}

// === impl MemLedger ===

impl MemLedger {
    /// Changes the record, and tells everybody.
    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, LedgerError>,
    ) -> BoxFuture<'static, Result<T, LedgerError>> {
        let mut state = self.cluster.lock();
        let changed = change(&mut state);
        state.tell_all();
        async { changed }.boxed()
    }
}

impl Ledger for MemLedger {
    fn assignments(&self) -> watch::Receiver<Arc<Vec<Assignment>>> {
        let mut state = self.cluster.lock();
        let now = state.assignments(self.node);
        state.nodes.entry(self.node).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    fn bound(&self, sha256: Digest) -> Option<Bound> {
        self.cluster.lock().blobs.get(&sha256).copied()
    }

    fn bind(&self, blobs: Vec<(BlobSpec, Root)>) -> BoxFuture<'static, Result<(), LedgerError>> {
        self.change(|state| state.bind(blobs))
    }

    fn resolve(
        &self,
        name: ModelName,
        round: u64,
        digest: Digest,
        size_bytes: u64,
    ) -> BoxFuture<'static, Result<(), LedgerError>> {
        self.change(|state| state.resolve(self.node, &name, round, (digest, size_bytes)))
    }

    fn tell(&self, name: ModelName, round: u64, error: PullError) -> BoxFuture<'static, Result<(), LedgerError>> {
        self.change(|state| {
            state.check()?;
            let failure = Failure { code: error.code(), text: error.to_string(), at: Timestamp(0), by_hand: false };
            state.wish(&name, round)?.failures.insert(self.node, failure);
            Ok(())
        })
    }

    fn note_copy(
        &self,
        name: ModelName,
        round: u64,
        course: CopyCourse,
    ) -> BoxFuture<'static, Result<(), LedgerError>> {
        self.change(|state| {
            state.check()?;
            state.wish(&name, round)?;
            state.courses.push((self.node, course));
            Ok(())
        })
    }

    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<u64, LedgerError>> {
        self.change(|state| {
            let round = state.ask(ask)?;
            if std::mem::take(&mut state.loses_answer) {
                let (code, text) = (ErrorCode::OutcomeUnknown, "the leader went away".to_owned());
                return Err(LedgerError::Failed { code, text });
            }
            Ok(round)
        })
    }

    fn forget(&self, name: ModelName) -> BoxFuture<'static, Result<bool, LedgerError>> {
        self.change(|state| {
            state.check()?;
            Ok(state.wishes.remove(&name).is_some())
        })
    }

    fn plan(&self, name: &ModelName) -> Option<Wish> {
        self.cluster.wish(name)
    }

    fn wishes(&self) -> Vec<Wish> {
        self.cluster.lock().wishes.values().cloned().collect()
    }

    fn log_time(&self) -> Timestamp {
        self.cluster.lock().log_time
    }

    fn holders(&self, name: &ModelName, digest: Digest) -> BTreeSet<NodeId> {
        let state = self.cluster.lock();
        let copies = state.held.iter().filter(|(of, version, _)| of == name && *version == digest);
        copies.map(|(_, _, node)| *node).collect()
    }

    fn away(&self) -> BTreeSet<NodeId> {
        self.cluster.lock().away.clone()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::ports::AskedVersion;

    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    fn name() -> ModelName {
        "llama3.2".parse().expect("a name")
    }

    fn ask(replicas: Replicas) -> Ask {
        let asked_by = "a test".to_owned();
        Ask { name: name(), replicas, is_said: true, want: None, insecure: false, version: None, asked_by, once: None }
    }

    fn duties(ledger: &MemLedger) -> Vec<(Duty, u32, u32, Vec<NodeId>)> {
        let now = ledger.assignments().borrow().clone();
        now.iter().map(|one| (one.duty, one.rank, one.of, one.others.clone())).collect()
    }

    #[tokio::test]
    async fn a_question_with_a_key_is_asked_once_whatever_became_of_its_wish() {
        let ledger = MemCluster::new([ONE]).ledger(ONE);
        let keyed = Ask { once: Some(OnceKey { key: [1; 32], digest: [1; 32] }), ..ask(Replicas::All) };
        let round = ledger.ask(keyed.clone()).await.expect("it fits");
        assert_eq!(ledger.forget(name()).await, Ok(true));
        assert_eq!((ledger.ask(keyed).await, ledger.plan(&name())), (Ok(round), None));
    }

    #[tokio::test]
    async fn each_node_is_told_its_part_until_it_has_done_it() {
        let cluster = MemCluster::new([ONE, TWO, THREE]);
        let [one, two, three] = [ONE, TWO, THREE].map(|node| cluster.ledger(node));
        let news = two.assignments();
        let round = one.ask(ask(Replicas::All)).await.expect("they fit");
        assert!(news.has_changed().expect("it is there"));
        assert_eq!(duties(&one), [(Duty::Ingest, 0, 1, vec![TWO, THREE])]);
        assert_eq!(duties(&two), [(Duty::Receive, 0, 2, vec![ONE, THREE])]);
        assert_eq!(duties(&three), [(Duty::Receive, 1, 2, vec![ONE, TWO])]);
        assert_eq!(two.ask(ask(Replicas::All)).await, Ok(round), "it runs");
        let digest = Digest([7; 32]);
        let stranger = two.resolve(name(), round, digest, 5).await;
        assert!(matches!(stranger, Err(LedgerError::Refused(Refusal::NotPlanned { node: TWO, .. }))));
        one.resolve(name(), round, digest, 5).await.expect("it is the ingester");
        let moved = one.resolve(name(), round, Digest([8; 32]), 5).await;
        assert!(matches!(moved, Err(LedgerError::Refused(Refusal::VersionMoved { .. }))));
        let passed = one.resolve(name(), round + 1, digest, 5).await;
        assert!(matches!(passed, Err(LedgerError::Refused(Refusal::RoundPassed { .. }))));
        for node in [ONE, TWO] {
            cluster.hold(node, &name(), digest);
        }
        assert_eq!([duties(&one).len(), duties(&two).len(), duties(&three).len()], [1, 0, 1]);
        cluster.hold(THREE, &name(), digest);
        assert_eq!([duties(&one).len(), duties(&three).len()], [0, 0]);
        assert_eq!(one.ask(ask(Replicas::All)).await, Ok(round + 1), "what is done is asked for anew");
    }

    #[tokio::test]
    async fn a_version_that_is_asked_for_is_known_from_the_start() {
        let cluster = MemCluster::new([ONE, TWO]);
        let one = cluster.ledger(ONE);
        let round = one.ask(ask(Replicas::All)).await.expect("they fit");
        let version = AskedVersion { digest: Digest([7; 32]), size_bytes: 5 };
        let known = Ask { version: Some(version), ..ask(Replicas::All) };
        assert_eq!(one.ask(known.clone()).await, Ok(round + 1), "the one before is not known to spread it");
        let wish = cluster.wish(&name()).expect("it is on record");
        assert_eq!((wish.digest, wish.size_bytes), (Some(version.digest), version.size_bytes));
        assert_eq!(one.ask(known).await, Ok(round + 1), "it runs");
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let cluster = MemCluster::new([ONE, TWO]);
        let one = cluster.ledger(ONE);
        let three = one.ask(ask(Replicas::Count(3))).await;
        let (replicas, why) = (Replicas::Count(3), Vec::new());
        assert_eq!(three, Err(LedgerError::Impossible { replicas, fits: 2, of: 3, why }));
        let elsewhere = one.ask(ask(Replicas::Nodes(vec![THREE]))).await;
        assert!(matches!(elsewhere, Err(LedgerError::Impossible { fits: 0, of: 1, .. })));
        cluster.set_quorum(false);
        assert!(matches!(one.ask(ask(Replicas::All)).await, Err(LedgerError::NoQuorum(_))));
        cluster.set_quorum(true);
        cluster.set_version(3);
        let old = one.ask(ask(Replicas::All)).await;
        assert_eq!(old, Err(LedgerError::NeedsVersion { needed: 4, actual: 3 }));
        assert_eq!(cluster.wish(&name()), None);
        cluster.set_version(4);
        let blob = BlobSpec { sha256: Digest([1; 32]), size_bytes: 9 };
        one.bind(vec![(blob, Root([1; 32]))]).await.expect("it is new");
        one.bind(vec![(blob, Root([1; 32]))]).await.expect("it is the same");
        let other = one.bind(vec![(blob, Root([2; 32]))]).await;
        assert_eq!(other, Err(LedgerError::Refused(Refusal::RootConflict { sha256: blob.sha256 })));
        assert_eq!(one.bound(blob.sha256), Some(Bound { size_bytes: 9, root: Root([1; 32]) }));
    }
}
