//! Nodes in one process: the real door and scheduler, and runtimes whose answers a test writes piece by piece.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use ollamax_core::catalog::mem::MemView;
use ollamax_core::catalog::{Cluster, Key, Location, Member, MemberState, Model, Mutation, Phase, Pin, Record, Since};
use ollamax_gateway::http::{Parts, router};
use ollamax_gateway::mem::MemNode;
use ollamax_gateway::{Config, Metrics, Toolbox};
use ollamax_scheduler as scheduler;
use ollamax_scheduler::mem::{MemPlacements, MemRemote};
use ollamax_scheduler::{Broken, Runtime, RuntimeError, RuntimeReport};
use ollamax_types::{
    Applies, Clock, ClusterId, Digest, Incarnation, InferenceRequest, ModelName, ModelRecord, NodeId, PeerId,
    Residency, Role, RuntimeKind, RuntimeState, Timestamp,
};

pub(crate) type Piece = Result<Bytes, Broken>;

/// One answer to come: its head, and where its pieces come from.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) pieces: mpsc::Receiver<Piece>,
}

/// A runtime that a test speaks for. Clones are the same runtime.
#[derive(Clone)]
pub(crate) struct TestRuntime {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    pub(crate) requests: Arc<Mutex<Vec<InferenceRequest>>>,
    live: Arc<watch::Sender<usize>>,
}

struct Live(Arc<watch::Sender<usize>>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.send_modify(|live| *live -= 1);
    }
}

impl TestRuntime {
    fn new() -> Self {
        let (answers, requests) = (Arc::default(), Arc::default());
        Self { answers, requests, live: Arc::new(watch::channel(0).0) }
    }

    /// The next request gets this head; the pieces are sent through what is returned.
    pub(crate) fn answer(&self, status: u16, content_type: &'static str) -> mpsc::Sender<Piece> {
        let (sender, pieces) = mpsc::channel(64);
        self.answers.lock().expect("not poisoned").push_back(Answer { status, content_type, pieces });
        sender
    }

    /// The next request gets this whole answer.
    pub(crate) fn answer_whole(&self, status: u16, content_type: &'static str, pieces: &[&'static str]) {
        let sender = self.answer(status, content_type);
        for piece in pieces {
            sender.try_send(Ok(Bytes::from_static(piece.as_bytes()))).expect("room");
        }
    }

    /// Resolves when no request is inside.
    pub(crate) async fn idle(&self) {
        let mut live = self.live.subscribe();
        live.wait_for(|live| *live == 0).await.expect("the runtime lives");
    }

    pub(crate) async fn busy(&self) {
        let mut live = self.live.subscribe();
        live.wait_for(|live| *live > 0).await.expect("the runtime lives");
    }
}

impl Runtime for TestRuntime {
    fn send(&self, request: InferenceRequest) -> BoxFuture<'static, Result<scheduler::Response, RuntimeError>> {
        self.live.send_modify(|live| *live += 1);
        let live = Live(Arc::clone(&self.live));
        self.requests.lock().expect("not poisoned").push(request);
        let answer = self.answers.lock().expect("not poisoned").pop_front();
        async move {
            let Some(Answer { status, content_type, mut pieces }) = answer else {
                let _live = live;
                return std::future::pending().await;
            };
            let headers = vec![
                ("content-type".to_owned(), content_type.as_bytes().to_vec()),
                ("x-internal".to_owned(), b"stays inside".to_vec()),
            ];
            let body = futures::stream::poll_fn(move |cx| pieces.poll_recv(cx));
            let body = body.inspect(move |_| {
                let _held = &live;
            });
            Ok(scheduler::Response { status, headers, node: NodeId(0), body: body.boxed() })
        }
        .boxed()
    }
}

pub(crate) fn model(name: &str, digest: u8, modified_ms: u64) -> ModelRecord {
    ModelRecord {
        name: name.parse().expect("valid"),
        digest: Digest([digest; 32]),
        weights: Digest([digest; 32]),
        size_bytes: 1_000,
        modified_at: Timestamp(modified_ms),
        details_json: r#"{"family":"llama"}"#.to_owned(),
        capabilities: Vec::new(),
    }
}

pub(crate) fn resident(name: &str, digest: u8, expires_at: &str) -> Residency {
    Residency {
        name: name.parse().expect("valid"),
        digest: Digest([digest; 32]),
        weights: Digest([digest; 32]),
        size_bytes: 2_000,
        size_vram_bytes: 500,
        context_length: 4_096,
        expires_at: expires_at.to_owned(),
        details_json: r#"{"family":"llama"}"#.to_owned(),
    }
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("peer-{id}")),
        incarnation: Incarnation([1; 16]),
        role: Role::Voter,
        state: MemberState::Active,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
        joined_at: Timestamp(0),
        labels: Default::default(),
        own_labels: Default::default(),
        cordon: Default::default(),
    }
}

/// One node of the world.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) scheduler: scheduler::Handle,
    pub(crate) runtime: TestRuntime,
}

/// Nodes 1, 2, …; the door is that of node 1.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) door: MemNode,
    view: MemView,
    placements: MemPlacements,
    _tasks: TaskTracker,
}

impl World {
    pub(crate) fn start(count: u64) -> Self {
        Self::start_with(count, &scheduler::Config { parallel: 64, ..scheduler::Config::default() })
    }

    pub(crate) fn start_with(count: u64, config: &scheduler::Config) -> Self {
        let (remote, placements, tasks) = (MemRemote::default(), MemPlacements::default(), TaskTracker::new());
        let mut view = MemView::default();
        let nodes: Vec<Node> = (1..=count)
            .map(|id| {
                let runtime = TestRuntime::new();
                let parts = scheduler::Parts {
                    node: NodeId(id),
                    clock: Clock::manual(Timestamp(1)),
                    daemon_version: "0.1.0".to_owned(),
                    applies: Applies::default(),
                    seed: id,
                    runtime: Arc::new(runtime.clone()),
                    remote: Arc::new(remote.clone()),
                    placements: Arc::new(placements.clone()),
                    metrics: scheduler::Metrics::default(),
                };
                let scheduler = scheduler::Handle::start(config.clone(), parts, &tasks, CancellationToken::new());
                remote.connect(scheduler.clone());
                view.write(&[Mutation::Put(Key::Member(NodeId(id)), Record::Member(member(id)))]);
                Node { id: NodeId(id), scheduler, runtime }
            })
            .collect();
        let world = Self { nodes, door: MemNode::new("n1"), view, placements, _tasks: tasks };
        world.join();
        world
    }

    /// Makes the door see the current state.
    fn join(&self) {
        self.door.join(self.nodes[0].scheduler.clone(), self.view.clone());
    }

    /// Sets which version the cluster runs.
    pub(crate) fn set_cluster_version(&mut self, version: u32) {
        let cluster = Cluster {
            id: ClusterId([7; 16]),
            name: "lab".to_owned(),
            public_key: [0; 32],
            created_at: Timestamp(0),
            next_node_id: 1 + self.nodes.len() as u64,
            version,
        };
        self.view.write(&[Mutation::Put(Key::Cluster, Record::Cluster(cluster))]);
        self.join();
    }

    /// Sets where a model stands in its life.
    pub(crate) fn set_phase(&mut self, name: &str, phase: fn(Since) -> Phase, note: &str) {
        let name: ModelName = name.parse().expect("valid");
        let since = Since { at: Timestamp(1), by: "node/1 for admin".to_owned(), note: note.to_owned() };
        let model = Model { phase: phase(since), ..Model::new(name.clone(), Timestamp(1)) };
        self.view.write(&[Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model)))]);
        self.join();
    }

    /// Pins a name.
    pub(crate) fn pin(&mut self, name: &str, digest: Digest) {
        let name: ModelName = name.parse().expect("valid");
        let pin = Pin { digest, by: "node/1 for admin".to_owned(), at: Timestamp(1) };
        let model = Model { pin: Some(pin), ..Model::new(name.clone(), Timestamp(1)) };
        self.view.write(&[Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model)))]);
        self.join();
    }

    /// Sets what one node's runtime has, and tells everybody.
    pub(crate) fn set(&mut self, id: u64, version: &str, models: &[ModelRecord], loaded: &[Residency]) {
        for model in models {
            let location = Location { node: NodeId(id), model: model.clone() };
            let key = Key::Location(model.name.key(), NodeId(id));
            self.view.write(&[Mutation::Put(key, Record::Location(location))]);
            self.placements.place(NodeId(id), model.clone());
        }
        let node = self.nodes.iter().find(|node| node.id == NodeId(id)).expect("of this world");
        node.scheduler.set_runtime(RuntimeReport {
            kind: RuntimeKind::Engine,
            version: version.to_owned(),
            state: RuntimeState::Up,
            models: Arc::new(models.to_vec()),
            resident: loaded.to_vec(),
        });
        for other in self.nodes.iter().filter(|other| other.id != NodeId(id)) {
            other.scheduler.observe(node.scheduler.beat());
        }
        self.join();
    }

    pub(crate) fn router(&self) -> Router {
        router(self.parts(Config::default()))
    }

    pub(crate) fn parts(&self, config: Config) -> Parts {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("an empty registry");
        Parts {
            node: Arc::new(self.door.clone()),
            tools: Toolbox::default(),
            config,
            bound: "127.0.0.1:11435".parse().expect("an address"),
            hostname: "gpu-1".to_owned(),
            registry,
            metrics,
            seed: 7,
        }
    }
}

/// A world of one node that has the model `m`.
pub(crate) fn with_m() -> World {
    let mut world = World::start(1);
    world.set(1, "0.12.0", &[model("m", 1, 5)], &[]);
    world
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("host", "localhost").body(body.into()).expect("a request")
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost").body(Body::empty()).expect("a request")
}

pub(crate) async fn call(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.expect("a router never fails")
}

/// Status and text of an answer.
pub(crate) async fn text(router: &Router, request: Request<Body>) -> (u16, String) {
    let response = call(router, request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    (status, String::from_utf8(bytes.to_vec()).expect("text"))
}

pub(crate) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("text"))
}
