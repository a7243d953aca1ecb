//! A node behind the administrators' door: consensus on a real disk, its scheduler and its transfer over ports in
//! memory, and other members that are on record and for which a test speaks.
//!
//! What is asked goes through the whole door, so the id of a call, the metadata of an error and the entry in the log
//! are those of a running node.

mod elsewhere;
mod house;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Response, Status};

use ollamax_core::catalog::{
    Answer, CLUSTER_VERSION, Command, How, Model, NewMember, PlanKind, Replicas, Want, Wish, read,
};
use ollamax_gateway::grpc::daemon::CODE_KEY;
use ollamax_gateway::grpc::{Admin, Engines};
use ollamax_metadata as metadata;
use ollamax_metadata::mem::{Link, Network};
use ollamax_proto::v1::admin_client::AdminClient;
use ollamax_proto::v1::models_client::ModelsClient;
use ollamax_scheduler as scheduler;
use ollamax_scheduler::RuntimeReport;
use ollamax_scheduler::mem::{MemPlacements, MemRemote};
use ollamax_transfer as transfer;
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemPeers, MemRuntime};
use ollamax_transfer::{KeptVersion, Place};
use ollamax_types::{
    Applies, Beat, Clock, ClusterId, Digest, ErrorCode, Incarnation, ModelName, ModelRecord, NodeId, PeerId, RequestId,
    Role, RuntimeState, Timestamp, TokenId,
};

pub(crate) use elsewhere::Elsewhere;
pub(crate) use house::House;

const CLUSTER: ClusterId = ClusterId([9; 16]);
/// The members beside node 1. None of them votes, so node 1 is its own majority.
const OTHERS: [(u64, Role); 3] = [(2, Role::Learner), (3, Role::Learner), (4, Role::Gateway)];
/// What each version of a model takes.
pub(crate) const SIZE_BYTES: u64 = 10;
/// Longest wait for another node to follow.
const PATIENCE: Duration = Duration::from_secs(30);
/// No member is looked at within a test, and none is taken for silent that a test has heard.
const NEVER_MS: u64 = 3_600_000;
/// Time between two looks of a leader that is to take in another node.
const LOOK_MS: u64 = 50;
/// How much later a node hears what it hears late: less than any election waits.
const LATE_BY: Duration = Duration::from_millis(200);

/// One node of a cluster. The folder goes last.
pub(crate) struct Desk {
    pub(crate) metadata: metadata::Handle,
    pub(crate) scheduler: scheduler::Handle,
    /// What its transfer has on record.
    pub(crate) wished: MemCluster,
    pub(crate) elsewhere: Elsewhere,
    /// The one beside it, which has no store.
    pub(crate) runtime: MemRuntime,
    pub(crate) house: Arc<House>,
    network: Network,
    tasks: TaskTracker,
    stop: CancellationToken,
    _folder: TempDir,
}

/// What an error tells an administrator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: String,
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) next: String,
}

pub(crate) fn named(name: &str) -> ModelName {
    name.parse().expect("a name")
}

/// The digest of a version.
pub(crate) const fn digest(version: u8) -> Digest {
    Digest([version; 32])
}

/// A version that a node keeps as long as it is pinned.
pub(crate) fn kept(name: &str, version: u8) -> KeptVersion {
    KeptVersion {
        name: named(name),
        digest: digest(version),
        size_bytes: SIZE_BYTES,
        kept_at: Timestamp(1),
        until: None,
    }
}

/// What a call was told that did not do what it was asked for.
pub(crate) fn refused<T>(result: Result<Response<T>, Status>) -> Told {
    let status = result.err().expect("refused");
    let metadata = status.metadata();
    let text = |key: &str| {
        let value = metadata.get_bin(key).and_then(|value| value.to_bytes().ok()).unwrap_or_default();
        String::from_utf8(value.to_vec()).expect("text")
    };
    let code = metadata.get(CODE_KEY).and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned();
    let (why, next) = (text("ollamax-why-bin"), text("ollamax-next-bin"));
    Told { code, what: status.message().to_owned(), why, next }
}

/// Checks what a call was told that was refused: the code, what happened, and what to do next.
#[track_caller]
pub(crate) fn check_refused<T>(result: Result<Response<T>, Status>, code: ErrorCode, what: &str, next: &str) {
    let told = refused(result);
    assert_eq!((told.code.as_str(), told.what.as_str(), told.next.as_str()), (code.as_str(), what, next), "{told:?}");
}

fn incarnation(node: u64) -> Incarnation {
    Incarnation([u8::try_from(node).expect("few nodes"); 16])
}

fn new_member(node: u64) -> NewMember {
    NewMember {
        name: format!("n{node}"),
        peer_id: PeerId(format!("peer-{node}")),
        incarnation: incarnation(node),
        peer_addresses: Vec::new(),
        p2p_addresses: Vec::new(),
        api_addresses: Vec::new(),
    }
}

// === impl Desk ===

impl Desk {
    /// Node 1, with the members 2 and 3 that hold models and the gateway 4.
    pub(crate) async fn start() -> Self {
        Self::start_with(CLUSTER_VERSION, NEVER_MS).await
    }

    /// The same in a cluster of an older version.
    pub(crate) async fn start_at(version: u32) -> Self {
        Self::start_with(version, NEVER_MS).await
    }

    /// The same where other nodes may follow.
    pub(crate) async fn start_to_lead() -> Self {
        Self::start_with(CLUSTER_VERSION, LOOK_MS).await
    }

    async fn start_with(version: u32, autopilot_ms: u64) -> Self {
        // Else it would raise the version by itself.
        let config = metadata::Config { version_max: version, autopilot_ms, ..metadata::Config::default() };
        let desk = Self::open(NodeId(1), Network::default(), config).await;
        let (cluster, name, public_key, first) = (CLUSTER, "lab".to_owned(), [3; 32], new_member(1));
        let init = Command::InitCluster { cluster, name, public_key, first, version };
        desk.metadata.init_cluster(RequestId::default(), init).await.expect("a cluster");
        for (node, role) in OTHERS {
            let (id, secret_sha256, ttl_ms) = (TokenId(format!("t{node}")), [5; 32], NEVER_MS);
            desk.change(Command::CreateToken { id: id.clone(), secret_sha256, role, uses: 1, ttl_ms }).await;
            let added = Command::AddMember { token: id, secret_sha256, role, member: new_member(node) };
            let expected = Answer::Member { node: NodeId(node), name: format!("n{node}"), already: false };
            assert_eq!(desk.change(added).await, expected);
        }
        desk
    }

    /// Node 2, which follows node 1.
    pub(crate) async fn follower(&self) -> Self {
        let config = metadata::Config { autopilot_ms: LOOK_MS, ..metadata::Config::default() };
        let follower = Self::open(NodeId(2), self.network.clone(), config).await;
        self.network.plug(self.metadata.clone());
        self.network.plug(follower.metadata.clone());
        let (_, applied) = self.metadata.view_at();
        let mut changes = follower.metadata.changes();
        let followed = timeout(PATIENCE, changes.wait_for(|index| *index >= applied)).await;
        drop(followed.expect("it follows in time").expect("it runs"));
        follower
    }

    async fn open(node: NodeId, network: Network, config: metadata::Config) -> Self {
        let (folder, tasks, stop) = (tempfile::tempdir().expect("temp"), TaskTracker::new(), CancellationToken::new());
        let parts = metadata::Parts {
            config,
            // Its type is the store's, which is none of this crate's imports.
            store: Default::default(),
            identity: metadata::Identity { cluster: CLUSTER, node, incarnation: incarnation(node.0) },
            dir: folder.path().to_owned(),
            clock: Clock::system(),
            peers: network.peers_of(node),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let metadata = metadata::Service::open(parts).await.expect("opens");
        let scheduler = scheduler_of(node, &tasks, &stop);
        let runtime = MemRuntime::at(Place::None("no runtime".to_owned()));
        let (wished, elsewhere) = (MemCluster::new([1, 2, 3].map(NodeId)), Elsewhere::default());
        let parts = transfer::Parts {
            node,
            clock: Clock::manual(Timestamp(1)),
            data_dir: folder.path().to_owned(),
            origin: Arc::new(MemOrigin::default()),
            runtime: Arc::new(runtime.clone()),
            others: Arc::new(elsewhere.clone()),
            peers: Arc::new(MemPeers::default()),
            ledger: Arc::new(wished.ledger(node)),
            seed: 7,
            minute_of_week: |_| 0,
            strain: watch::Sender::new(false).subscribe(),
            metrics: transfer::Metrics::default(),
        };
        let transfer = transfer::Handle::start(transfer::Config::default(), parts, &tasks, stop.clone());
        let engines = Engines { metadata: metadata.clone(), scheduler: scheduler.clone(), transfer };
        let house = House::of(engines);
        Self { metadata, scheduler, wished, elsewhere, runtime, house, network, tasks, stop, _folder: folder }
    }

    /// What an administrator asks of models.
    pub(crate) fn models(&self) -> ModelsClient<Routes> {
        ModelsClient::new(Admin::routes(self.house.clone()))
    }

    /// What an administrator asks of nodes.
    pub(crate) fn admin(&self) -> AdminClient<Routes> {
        AdminClient::new(Admin::routes(self.house.clone()))
    }

    /// Makes a change that is taken.
    pub(crate) async fn change(&self, command: Command) -> Answer {
        let changed = self.metadata.propose(RequestId::default(), "test", command).await;
        changed.and_then(metadata::Committed::accepted).expect("accepted").answer
    }

    /// A node has a version of a model from now on. The larger version is the newer one.
    pub(crate) async fn has(&self, node: u64, name: &str, version: u8) {
        let model = ModelRecord {
            name: named(name),
            digest: digest(version),
            weights: digest(version),
            size_bytes: SIZE_BYTES,
            modified_at: Timestamp(u64::from(version)),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let (present, absent, removed) = (vec![model], Vec::new(), Vec::new());
        self.change(Command::ReportModels { node: NodeId(node), present, absent, removed }).await;
    }

    /// A version is in the history of a name from now on.
    pub(crate) async fn note(&self, name: &str, version: u8) {
        let (digest, size_bytes, how) = (digest(version), SIZE_BYTES, How::Found);
        self.change(Command::NoteVersion { name: named(name), digest, size_bytes, how }).await;
    }

    /// `m` at version 1 on nodes 1 and 2, and then at version 2 on node 1, all of it noted.
    pub(crate) async fn with_history() -> Self {
        let desk = Self::start().await;
        for (node, version) in [(1, 1), (2, 1), (1, 2)] {
            desk.has(node, "m", version).await;
            desk.note("m", version).await;
        }
        desk
    }

    /// Somebody asks for a model; gives the round.
    pub(crate) async fn ask(&self, name: &str, replicas: Replicas, want: Want) -> u64 {
        let ask = Command::AskModel {
            name: named(name),
            replicas,
            insecure: false,
            want,
            declared: false,
            unsaid: false,
            away: Default::default(),
        };
        let Answer::Wish { round } = self.change(ask).await else { unreachable!("a wish is answered with its round") };
        round
    }

    /// `m` at version 1 on nodes 1 and 2, which were asked for.
    pub(crate) async fn with_wish() -> Self {
        let desk = Self::start().await;
        let round = desk.ask("m", Replicas::Count(2), Want::default()).await;
        let (targets, kind) = (vec![NodeId(1), NodeId(2)], PlanKind::Asked);
        desk.change(Command::PlanPull { name: named("m"), round, ingester: NodeId(1), targets, kind }).await;
        let (node, digest, size_bytes) = (NodeId(1), digest(1), SIZE_BYTES);
        desk.change(Command::ResolveWish { node, name: named("m"), round, digest, size_bytes }).await;
        for node in [1, 2] {
            desk.has(node, "m", 1).await;
        }
        desk
    }

    /// Another node is heard.
    pub(crate) fn hear(&self, node: u64) {
        self.scheduler.observe(Beat { node: NodeId(node), ..self.scheduler.beat() });
    }

    pub(crate) fn model(&self, name: &str) -> Option<Model> {
        read::model(&*self.metadata.view(), &named(name)).expect("readable")
    }

    pub(crate) fn wish(&self, name: &str) -> Option<Wish> {
        read::wish(&*self.metadata.view(), &named(name)).expect("readable")
    }

    /// Up to which entry the state is applied: where it stays the same, nothing was written.
    pub(crate) fn revision(&self) -> u64 {
        self.metadata.view_at().1
    }

    /// Lets no message of this node through any more, in either direction.
    pub(crate) fn cut_off(&self) {
        self.network.set_all(self.metadata.node(), Link::Cut);
    }

    /// Another node hears all that this one says a moment later.
    pub(crate) fn is_heard_late_by(&self, other: &Self) {
        self.network.set(self.metadata.node(), other.metadata.node(), Link::Delayed(LATE_BY));
    }

    /// Ends it in good order, so that nothing is written into a folder that is gone.
    pub(crate) async fn finish(self) {
        self.network.unplug(self.metadata.node());
        self.metadata.shutdown().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A scheduler beside a runtime that answers.
fn scheduler_of(node: NodeId, tasks: &TaskTracker, stop: &CancellationToken) -> scheduler::Handle {
    let parts = scheduler::Parts {
        node,
        clock: Clock::manual(Timestamp(1)),
        daemon_version: "0.1.0".to_owned(),
        applies: Applies::default(),
        seed: 1,
        runtime: Arc::new(scheduler::mem::MemRuntime::default()),
        remote: Arc::new(MemRemote::default()),
        placements: Arc::new(MemPlacements::default()),
        metrics: scheduler::Metrics::default(),
    };
    let config =
        scheduler::Config { suspect_after_ms: NEVER_MS, dead_after_ms: 2 * NEVER_MS, ..scheduler::Config::default() };
    let scheduler = scheduler::Handle::start(config, parts, tasks, stop.clone());
    scheduler.set_runtime(RuntimeReport { state: RuntimeState::Up, ..RuntimeReport::default() });
    scheduler
}
