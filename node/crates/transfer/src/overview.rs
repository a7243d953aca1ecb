//! A wish as whoever asked for it sees it: the pulls of many nodes as one.
//!
//! What the record says decides: which nodes have a part in it, which version it is, and who has failed. How far each
//! node is, it says itself, and it is asked again for as long as somebody watches, over lost connections and restarts.
//! One that is not heard has the model when that is on record. Whoever asks the registry for the others is heard too,
//! for what it says of the version.
//! What was told of a file is not taken back while the version stays the same. It is over when all nodes of the plan
//! hold the version, when the others have failed for good, or when nobody wishes it any more; a new round of the same
//! name is followed like the one before. Whoever said nothing of places waits for no node that is taken for dead, as
//! soon as another one has the version.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Plan, Replicas, Wish};
use ollamax_core::placement::is_of_the_node;
use ollamax_core::transfer_plan::Patience;
use ollamax_types::{Digest, ModelName, NodeId};

use crate::error::PullError;
use crate::ports::{PeerError, Peers};
use crate::progress::{BlobProgress, PullProgress, Stage, Watch};
use crate::pull::course::PLAN_WAIT;
use crate::service::Service;

/// Time between two looks at the record.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);
/// How long a node may take to say how far it is, where it is asked once.
const PERMILLE_WAIT: Duration = Duration::from_secs(1);
/// How long a wish that was put on record may take to be seen here: this node may be behind the others.
const SEEN_WAIT: Duration = Duration::from_secs(30);
/// How long a node says nothing before the record speaks for it.
const UNHEARD_WAIT: Duration = Duration::from_secs(10);
/// Longest wait before a node is asked again.
const ASK_WAIT_MAX: Duration = Duration::from_secs(2);

/// How far a wish is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The model.
    pub name: ModelName,
    /// Which round of the wish.
    pub round: u64,
    /// Which version; `None` while it is not known.
    pub digest: Option<Digest>,
    /// How many copies, or where.
    pub replicas: Replicas,
    /// The nodes of the plan, in its order; none while there is no plan.
    pub copies: Vec<NodeCopy>,
    /// Nothing more will happen that is worth waiting for.
    pub is_over: bool,
}

/// One node's part of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCopy {
    /// Which node.
    pub node: NodeId,
    /// How far it is. [`Stage::Waiting`] while nothing was heard of it.
    pub progress: PullProgress,
}

/// A wish that somebody watches. Dropping it ends the watching, not the wish.
#[derive(Debug)]
pub struct OverviewWatch {
    receiver: watch::Receiver<Arc<Overview>>,
    is_over: bool,
}

/// Whoever follows a wish for one watcher.
pub(crate) struct Follower {
    service: Arc<Service>,
    overview: Overview,
    began: Instant,
    /// The record of this node knows the wish.
    is_seen: bool,
    /// When each node was last heard.
    heard: BTreeMap<NodeId, Instant>,
    /// Nodes that are taken for dead are not waited for.
    leaves_the_dead: bool,
    /// Since when nothing more can come unless the leader plans anew.
    failed_at: Option<Instant>,
    /// Whoever asks the registry for others alone, and gets no copy.
    outsider: Option<NodeId>,
    /// What that one says of the version.
    aside: Option<Arc<str>>,
}

/// What one node says of its pull, for as long as somebody listens.
type Told = BoxStream<'static, (NodeId, PullProgress)>;

/// A node that is asked again and again.
struct Asking {
    peers: Arc<dyn Peers>,
    service: Arc<Service>,
    node: NodeId,
    name: ModelName,
    patience: Patience,
    failures: u32,
    open: Option<Open>,
}

/// What it says just now.
enum Open {
    Here(Watch),
    There(BoxStream<'static, Result<PullProgress, PeerError>>),
}

/// How a pull of a model goes or went at a node; `None` where that knows of none, or does not say it soon.
pub(crate) async fn told_by(service: &Service, node: NodeId, name: &ModelName) -> Option<PullProgress> {
    if node == service.node {
        return service.watch(name).map(|watch| PullProgress::clone(&watch.now()));
    }
    let mut told = service.means.peers.watch(node, name.clone());
    timeout(PERMILLE_WAIT, told.next()).await.ok().flatten().and_then(Result::ok)
}

/// How much of a version of a model these nodes have, permille; of those that say it soon.
pub(crate) async fn permille_of(
    service: &Service,
    name: &ModelName,
    digest: Digest,
    nodes: &[NodeId],
) -> BTreeMap<NodeId, u16> {
    let ask = |node: NodeId| async move {
        let told = told_by(service, node, name).await.filter(|told| told.digest == Some(digest))?;
        let permille = told.verified_bytes().saturating_mul(1_000).checked_div(told.total_bytes());
        Some((node, permille.and_then(|permille| u16::try_from(permille).ok()).unwrap_or(1_000)))
    };
    join_all(nodes.iter().copied().map(ask)).await.into_iter().flatten().collect()
}

// === impl Overview ===

impl Overview {
    /// Whether some node has the model.
    #[must_use]
    pub fn has_copy(&self) -> bool {
        self.copies.iter().any(|copy| copy.progress.stage == Stage::Done)
    }

    /// Whether all nodes of the plan have it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.copies.is_empty() && self.copies.iter().all(|copy| copy.progress.stage == Stage::Done)
    }

    /// Why no node has it, once it is over.
    #[must_use]
    pub fn error(&self) -> Option<PullError> {
        if !self.is_over || self.has_copy() {
            return None;
        }
        let failed = self.copies.iter().find_map(|copy| match &copy.progress.stage {
            Stage::Failed(error) => Some(error.clone()),
            _ => None,
        });
        Some(failed.unwrap_or(PullError::Cancelled))
    }

    /// Takes in what is on record.
    fn take_record(&mut self, wish: &Wish) {
        let Wish { round, replicas, digest, .. } = wish.clone();
        if round != self.round && (digest.is_none() || digest != self.digest) {
            self.copies.clear();
        }
        (self.round, self.replicas, self.digest) = (round, replicas, digest);
        let targets = wish.plan.as_ref().map_or(&[][..], |plan| plan.targets.as_slice());
        let mut before: BTreeMap<NodeId, PullProgress> =
            self.copies.drain(..).map(|copy| (copy.node, copy.progress)).collect();
        for node in targets {
            let mut progress = before.remove(node).unwrap_or_else(|| waiting(&self.name, *node));
            // A failure of an earlier round, or one that is not on record.
            let failure = wish.failures.get(node);
            match (&progress.stage, failure) {
                (Stage::Done, _) => {}
                (_, Some(failure)) => {
                    let (node, code, text) = (*node, failure.code, failure.text.clone());
                    progress.stage = Stage::Failed(PullError::Elsewhere { node, code, text });
                }
                (Stage::Failed(_), None) => progress.stage = Stage::Waiting,
                _ => {}
            }
            // What another one heard of the registry was in an earlier round.
            if wish.plan.as_ref().is_none_or(|plan| plan.ingester != *node) {
                progress.remark = None;
            }
            self.copies.push(NodeCopy { node: *node, progress });
        }
    }

    /// Takes in what a node says of itself.
    fn take_progress(&mut self, node: NodeId, told: PullProgress) {
        let is_other = told.digest.is_some() && self.digest.is_some() && told.digest != self.digest;
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.node == node) else { return };
        // Of an earlier round, or the end of one; what has failed is on record.
        if is_other || matches!(copy.progress.stage, Stage::Done | Stage::Failed(_)) {
            return;
        }
        let mut progress = told.not_before(&copy.progress);
        match &progress.stage {
            Stage::Failed(_) => return,
            Stage::Done if self.digest.is_none() || progress.digest != self.digest => return,
            _ => {}
        }
        if progress.blobs.is_empty() {
            // It has begun anew, and will find what it had.
            progress.blobs = Arc::clone(&copy.progress.blobs);
            progress.digest = progress.digest.or(copy.progress.digest);
        }
        progress.name.clone_from(&self.name);
        progress.node = node;
        copy.progress = progress;
    }

    /// What a node says of the version that gets no copy is told with the first one.
    fn take_remark(&mut self, remark: Option<&Arc<str>>) {
        if let (Some(remark), Some(first)) = (remark, self.copies.first_mut()) {
            first.progress.remark = Some(Arc::clone(remark));
        }
    }

    /// A node has the version, whatever it said last.
    fn take_holder(&mut self, node: NodeId) {
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.node == node) else { return };
        let progress = &mut copy.progress;
        let whole = |told: &BlobProgress| BlobProgress { blob: told.blob, verified_bytes: told.blob.size_bytes };
        progress.blobs = progress.blobs.iter().map(whole).collect();
        progress.digest = self.digest;
        progress.wait = None;
        progress.stage = Stage::Done;
    }

    /// The nodes that nothing final is known of.
    fn open_nodes(&self) -> BTreeSet<NodeId> {
        let open = self.copies.iter().filter(|copy| !copy.progress.is_over());
        open.map(|copy| copy.node).collect()
    }

    /// Ends what goes on, for watchers.
    fn end(&mut self, error: &PullError) {
        for copy in self.copies.iter_mut().filter(|copy| !copy.progress.is_over()) {
            copy.progress.stage = Stage::Failed(error.clone());
        }
        self.is_over = true;
    }
}

// === impl OverviewWatch ===

impl OverviewWatch {
    pub(crate) fn new(receiver: watch::Receiver<Arc<Overview>>) -> Self {
        let is_over = receiver.borrow().is_over;
        Self { receiver, is_over }
    }

    /// How far it is.
    #[must_use]
    pub fn now(&self) -> Arc<Overview> {
        Arc::clone(&self.receiver.borrow())
    }

    /// Waits for news. False: it is over, and that was seen.
    pub async fn changed(&mut self) -> bool {
        if self.is_over || self.receiver.changed().await.is_err() {
            return false;
        }
        self.is_over = self.receiver.borrow_and_update().is_over;
        true
    }
}

// === impl Follower ===

impl Follower {
    pub(crate) fn new(service: Arc<Service>, name: ModelName, round: u64, replicas: Replicas) -> Self {
        let overview = Overview { name, round, digest: None, replicas, copies: Vec::new(), is_over: false };
        let (began, heard) = (Instant::now(), BTreeMap::new());
        let (is_seen, leaves_the_dead, failed_at, outsider, aside) = (false, false, None, None, None);
        let mut follower =
            Self { service, overview, began, is_seen, heard, leaves_the_dead, failed_at, outsider, aside };
        follower.look();
        follower
    }

    /// The same for somebody who said nothing of places: nodes that are taken for dead get it when they are back.
    pub(crate) fn without_the_dead(self) -> Self {
        Self { leaves_the_dead: true, ..self }
    }

    /// What is known at the beginning.
    pub(crate) fn overview(&self) -> &Overview {
        &self.overview
    }

    /// Follows it to its end, until nobody watches, or until the node ends.
    pub(crate) async fn run(mut self, sender: watch::Sender<Arc<Overview>>, stop: CancellationToken) {
        tokio::select! {
            () = sender.closed() => {}
            () = self.follow(&sender) => {}
            () = stop.cancelled() => {
                self.overview.end(&PullError::Stopping);
                show(&sender, &self.overview);
            }
        }
    }

    async fn follow(&mut self, sender: &watch::Sender<Arc<Overview>>) {
        let mut told: SelectAll<Told> = SelectAll::new();
        let mut asked: BTreeMap<NodeId, CancellationToken> = BTreeMap::new();
        loop {
            self.look();
            show(sender, &self.overview);
            if self.overview.is_over {
                return;
            }
            let mut open = self.overview.open_nodes();
            open.extend(self.outsider);
            asked.retain(|node, over| {
                let stays = open.contains(node);
                if !stays {
                    over.cancel();
                }
                stays
            });
            for node in open {
                if let Entry::Vacant(place) = asked.entry(node) {
                    let over = place.insert(CancellationToken::new()).clone();
                    told.push(self.ask(node).take_until(over.cancelled_owned()).boxed());
                }
            }
            tokio::select! {
                () = sleep(RECORD_INTERVAL) => {}
                Some((node, progress)) = told.next() => {
                    self.heard.insert(node, Instant::now());
                    if Some(node) != self.outsider {
                        self.overview.take_progress(node, progress);
                    } else if !progress.is_over() {
                        // The end that it tells may be that of an earlier round.
                        self.aside = progress.remark;
                    }
                }
            }
        }
    }

    /// Looks at the record, and whether it is over.
    fn look(&mut self) {
        let wish = self.service.means.ledger.plan(&self.overview.name);
        let Some(wish) = wish.filter(|wish| wish.round >= self.overview.round) else {
            if self.is_seen || self.began.elapsed() >= SEEN_WAIT {
                self.overview.end(&PullError::Cancelled);
            }
            return;
        };
        self.is_seen = true;
        let outsider = wish.plan.as_ref().map(|plan| plan.ingester).filter(|node| !is_target(&wish, *node));
        if (wish.round, outsider) != (self.overview.round, self.outsider) {
            (self.outsider, self.aside) = (outsider, None);
        }
        self.overview.take_record(&wish);
        self.overview.take_remark(self.aside.as_ref());
        self.take_holders();
        let Some(plan) = &wish.plan else { return };
        if self.overview.open_nodes().is_empty() {
            let cannot_move = |copy: &NodeCopy| match &copy.progress.stage {
                Stage::Failed(error) => !is_of_the_node(error.code()),
                _ => true,
            };
            let are_named = matches!(self.overview.replicas, Replicas::Nodes(_));
            let is_final = are_named || self.overview.copies.iter().all(cannot_move);
            self.end_when(is_final, &PullError::Cancelled);
        } else if let Some(error) = self.in_vain(&wish, plan) {
            self.end_when(!is_of_the_node(error.code()), &error);
        } else if self.is_left_to_the_dead() {
            // The leader may have others take their places.
            self.overview.is_over = self.has_waited();
        } else {
            self.failed_at = None;
        }
    }

    /// Takes in which of the nodes that are not heard have the version by the record.
    fn take_holders(&mut self) {
        let Some(digest) = self.overview.digest else { return };
        let is_silent = |node: &NodeId| self.heard.get(node).unwrap_or(&self.began).elapsed() >= UNHEARD_WAIT;
        let silent: Vec<NodeId> = self.overview.open_nodes().into_iter().filter(is_silent).collect();
        if silent.is_empty() {
            return;
        }
        let holders = self.service.means.ledger.holders(&self.overview.name, digest);
        for node in silent.into_iter().filter(|node| holders.contains(node)) {
            self.overview.take_holder(node);
        }
    }

    /// Why those that have not failed will not get it either: whoever fetches for all has failed, and nobody has it.
    fn in_vain(&self, wish: &Wish, plan: &Plan) -> Option<PullError> {
        let failure = wish.failures.get(&plan.ingester)?;
        let (node, code, text) = (plan.ingester, failure.code, failure.text.clone());
        (!self.overview.has_copy()).then_some(PullError::Elsewhere { node, code, text })
    }

    /// Whether some node has it, and all that do not yet are taken for dead.
    fn is_left_to_the_dead(&self) -> bool {
        self.leaves_the_dead && self.overview.has_copy() && {
            let away = self.service.means.ledger.away();
            self.overview.open_nodes().is_subset(&away)
        }
    }

    /// Ends it, at once or when the leader has had its time to plan anew.
    fn end_when(&mut self, is_final: bool, error: &PullError) {
        let has_waited = self.has_waited();
        if is_final || has_waited {
            self.overview.end(error);
        }
    }

    /// Whether the leader has had its time to plan anew.
    fn has_waited(&mut self) -> bool {
        self.failed_at.get_or_insert_with(Instant::now).elapsed() >= PLAN_WAIT
    }

    fn ask(&self, node: NodeId) -> Told {
        let means = &self.service.means;
        let asking = Asking {
            peers: Arc::clone(&means.peers),
            service: Arc::clone(&self.service),
            node,
            name: self.overview.name.clone(),
            patience: means.config.patience(),
            failures: 0,
            open: None,
        };
        stream::unfold(asking, Asking::next).boxed()
    }
}

// === impl Asking ===

impl Asking {
    /// What the node says next, however long that takes.
    async fn next(mut self) -> Option<((NodeId, PullProgress), Self)> {
        loop {
            match self.open.take() {
                Some(Open::Here(mut watch)) => {
                    if watch.changed().await {
                        return Some(self.heard(PullProgress::clone(&watch.now()), Open::Here(watch)));
                    }
                }
                Some(Open::There(mut stream)) => {
                    if let Some(Ok(progress)) = stream.next().await {
                        return Some(self.heard(progress, Open::There(stream)));
                    }
                }
                None if self.node == self.service.node => {
                    if let Some(watch) = self.service.watch(&self.name) {
                        return Some(self.heard(PullProgress::clone(&watch.now()), Open::Here(watch)));
                    }
                }
                None => {
                    let mut stream = self.peers.watch(self.node, self.name.clone());
                    if let Some(Ok(progress)) = stream.next().await {
                        return Some(self.heard(progress, Open::There(stream)));
                    }
                }
            }
            // Nothing yet, the end of an earlier pull, or a connection that was lost.
            sleep(Duration::from_millis(self.patience.wait_ms(self.failures)).min(ASK_WAIT_MAX)).await;
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn heard(mut self, progress: PullProgress, open: Open) -> ((NodeId, PullProgress), Self) {
        if !progress.is_over() {
            self.failures = 0;
        }
        self.open = Some(open);
        ((self.node, progress), self)
    }
}

/// Tells watchers what is new.
fn show(sender: &watch::Sender<Arc<Overview>>, overview: &Overview) {
    sender.send_if_modified(|known| {
        let differs = **known != *overview;
        if differs {
            *known = Arc::new(overview.clone());
        }
        differs
    });
}

/// Whether a node is to get a copy.
fn is_target(wish: &Wish, node: NodeId) -> bool {
    wish.plan.as_ref().is_some_and(|plan| plan.targets.contains(&node))
}

/// A node of which nothing was heard.
fn waiting(name: &ModelName, node: NodeId) -> PullProgress {
    PullProgress {
        name: name.clone(),
        node,
        stage: Stage::Waiting,
        wait: None,
        digest: None,
        blobs: Arc::default(),
        sources: Vec::new(),
        bytes_per_second: None,
        left: None,
        remark: None,
    }
}

#[cfg(test)]
mod tests {
    use ollamax_blobs::BlobSpec;
    use ollamax_core::catalog::Failure;
    use ollamax_types::{ErrorCode, Timestamp};

    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    fn name() -> ModelName {
        "tiny".parse().expect("a name")
    }

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    fn wish(round: u64, version: Option<u8>, targets: &[NodeId]) -> Wish {
        Wish {
            name: name(),
            round,
            insecure: false,
            replicas: Replicas::All,
            digest: version.map(digest),
            size_bytes: 0,
            plan: Some(Plan {
                ingester: ONE,
                targets: targets.to_vec(),
                made_at: Timestamp(0),
                kind: Default::default(),
            }),
            failures: BTreeMap::new(),
            asked_at: Timestamp(0),
            asked_by: "a test".to_owned(),
            want: Default::default(),
            declared: false,
            surplus: Default::default(),
            shared: false,
        }
    }

    fn overview() -> Overview {
        let (replicas, copies) = (Replicas::All, Vec::new());
        Overview { name: name(), round: 1, digest: None, replicas, copies, is_over: false }
    }

    /// A pull of one file of ten bytes.
    fn told(node: NodeId, stage: Stage, version: u8, verified_bytes: u64) -> PullProgress {
        let blob = BlobSpec { sha256: digest(version), size_bytes: 10 };
        let blobs = Arc::new([BlobProgress { blob, verified_bytes }]);
        PullProgress { stage, digest: Some(digest(version)), blobs, ..waiting(&name(), node) }
    }

    fn stages(overview: &Overview) -> Vec<(NodeId, Stage, u64)> {
        let copies = overview.copies.iter();
        copies.map(|copy| (copy.node, copy.progress.stage.clone(), copy.progress.verified_bytes())).collect()
    }

    #[test]
    fn how_far_a_node_is_it_says_itself_and_takes_nothing_back() {
        let mut overview = overview();
        overview.take_record(&wish(1, None, &[ONE, TWO]));
        assert_eq!(stages(&overview), [(ONE, Stage::Waiting, 0), (TWO, Stage::Waiting, 0)]);
        overview.take_progress(ONE, told(ONE, Stage::Fetching, 7, 6));
        overview.take_progress(ONE, told(ONE, Stage::Fetching, 7, 4));
        overview.take_progress(ONE, PullProgress { stage: Stage::Resolving, ..waiting(&name(), ONE) });
        assert_eq!(stages(&overview)[0], (ONE, Stage::Resolving, 6), "it has started again");
        overview.take_progress(NodeId(9), told(NodeId(9), Stage::Done, 7, 10));
        // What is done counts from when it is known that it is the right version.
        overview.take_progress(ONE, told(ONE, Stage::Done, 7, 10));
        assert!(!overview.has_copy());
        overview.take_record(&wish(1, Some(7), &[ONE, TWO]));
        overview.take_progress(TWO, told(TWO, Stage::Done, 8, 10));
        overview.take_progress(ONE, told(ONE, Stage::Done, 7, 10));
        assert!(overview.has_copy() && !overview.is_held());
        overview.take_progress(ONE, told(ONE, Stage::Resolving, 7, 0));
        assert_eq!(stages(&overview), [(ONE, Stage::Done, 10), (TWO, Stage::Waiting, 0)]);
        assert_eq!(overview.open_nodes(), BTreeSet::from([TWO]));
        overview.take_progress(TWO, told(TWO, Stage::Done, 7, 10));
        assert!(overview.is_held());
        assert_eq!(overview.error(), None);
    }

    #[test]
    fn who_has_failed_the_record_says() {
        let mut overview = overview();
        overview.take_record(&wish(1, Some(7), &[ONE, TWO]));
        overview.take_progress(TWO, told(TWO, Stage::Failed(PullError::Cancelled), 7, 0));
        assert_eq!(stages(&overview)[1], (TWO, Stage::Waiting, 0), "perhaps of an earlier round");
        let failure = Failure { code: ErrorCode::DiskFull, text: "full".to_owned(), at: Timestamp(0), by_hand: false };
        let failed = Wish { failures: BTreeMap::from([(TWO, failure)]), ..wish(1, Some(7), &[ONE, TWO]) };
        overview.take_record(&failed);
        let error = PullError::Elsewhere { node: TWO, code: ErrorCode::DiskFull, text: "full".to_owned() };
        assert_eq!(stages(&overview)[1].1, Stage::Failed(error.clone()));
        overview.take_progress(TWO, told(TWO, Stage::Fetching, 7, 5));
        assert_eq!(overview.open_nodes(), BTreeSet::from([ONE]));
        overview.end(&PullError::Cancelled);
        assert_eq!(overview.error(), Some(PullError::Cancelled), "that of the first node");
        // A failure that is off the record is none.
        overview.take_record(&wish(1, Some(7), &[TWO]));
        assert_eq!(stages(&overview), [(TWO, Stage::Waiting, 0)]);
    }

    #[test]
    fn who_is_not_heard_has_what_the_record_says() {
        let mut overview = overview();
        overview.take_record(&wish(1, Some(7), &[ONE, TWO]));
        overview.take_progress(ONE, told(ONE, Stage::Fetching, 7, 6));
        for node in [ONE, TWO, NodeId(9)] {
            overview.take_holder(node);
        }
        assert_eq!(stages(&overview), [(ONE, Stage::Done, 10), (TWO, Stage::Done, 0)]);
        assert!(overview.is_held() && overview.copies.iter().all(|copy| copy.progress.digest == Some(digest(7))));
    }

    #[test]
    fn only_who_asks_the_registry_has_a_say_in_how_new_the_version_is_and_with_no_copy_it_is_told_with_the_first() {
        let remarks = |overview: &Overview| -> Vec<Option<String>> {
            overview.copies.iter().map(|copy| copy.progress.remark.as_deref().map(str::to_owned)).collect()
        };
        let remark: Arc<str> = "the registry did not answer".into();
        let remarked = |node| PullProgress { remark: Some(Arc::clone(&remark)), ..told(node, Stage::Fetching, 7, 1) };
        let mut overview = overview();
        overview.take_record(&wish(1, None, &[ONE, TWO]));
        overview.take_progress(ONE, remarked(ONE));
        overview.take_progress(TWO, remarked(TWO));
        overview.take_record(&wish(1, None, &[ONE, TWO]));
        assert_eq!(remarks(&overview), [Some(remark.to_string()), None]);
        overview.take_record(&wish(1, None, &[TWO]));
        assert!(!is_target(&wish(1, None, &[TWO]), ONE));
        overview.take_remark(None);
        assert_eq!(remarks(&overview), [None]);
        overview.take_remark(Some(&remark));
        assert_eq!(remarks(&overview), [Some(remark.to_string())]);
    }

    #[test]
    fn a_new_round_keeps_what_is_of_the_same_version() {
        let check = |version: Option<u8>, expected: Stage| {
            let mut overview = overview();
            overview.take_record(&wish(1, Some(7), &[ONE]));
            overview.take_progress(ONE, told(ONE, Stage::Done, 7, 10));
            overview.take_record(&wish(2, version, &[ONE]));
            assert_eq!((overview.round, stages(&overview)[0].1.clone()), (2, expected), "{version:?}");
        };
        check(Some(7), Stage::Done);
        check(Some(8), Stage::Waiting);
        check(None, Stage::Waiting);
    }
}
