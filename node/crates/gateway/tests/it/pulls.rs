//! `POST /api/pull`: who may, what a bad request is told, and what a client reads of a pull, here and on another node.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::{BoxFuture, pending, ready};
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::{Cordon, Replicas};
use ollamax_core::health::Health;
use ollamax_core::placement::Site;
use ollamax_gateway::http::{ClientAddress, Parts, Stopping, router};
use ollamax_gateway::{Config, Pull};
use ollamax_transfer as transfer;
use ollamax_transfer::mem::{MemCluster, MemPeers, MemRuntime};
use ollamax_transfer::{
    BlobProgress, BlobSpec, KeptVersion, Opened, Origin, OriginError, OriginTrouble, Others, Place, PullError,
    PullProgress, PullSpec, Stage, Wanted,
};
use ollamax_types::{Clock, Digest, ErrorCode, ModelName, NodeId, SpareRule, Timestamp};

use crate::world::{World, call, header, post, text};

/// A registry that has nothing.
struct Empty;

/// Another node: it has every model but `big`, and with `slow` it takes forever.
struct Other;

/// A door with an engine behind it, in a cluster that knows no wishes unless somebody says otherwise.
struct Pulling {
    world: World,
    cluster: MemCluster,
    _folder: TempDir,
    _stop: DropGuard,
}

fn absent() -> OriginError {
    let text = "file does not exist".to_owned();
    OriginError { kind: OriginTrouble::Absent, code: ErrorCode::ModelNotFound, text }
}

impl Origin for Empty {
    fn manifest(&self, _: &ModelName, _: bool) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        ready(Err(absent())).boxed()
    }

    fn manifest_of(&self, _: &ModelName, _: Digest, _: bool) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        ready(Err(absent())).boxed()
    }

    fn open(&self, _: Wanted) -> BoxFuture<'static, Result<Opened, OriginError>> {
        ready(Err(absent())).boxed()
    }
}

type States = BoxStream<'static, Result<PullProgress, PullError>>;

impl Others for Other {
    fn pull(&self, to: NodeId, spec: PullSpec) -> BoxFuture<'static, Result<States, PullError>> {
        if spec.name.to_string() == "big:latest" {
            let (code, text) = (ErrorCode::DiskFull, "not enough room".to_owned());
            return ready(Err(PullError::Elsewhere { node: to, code, text })).boxed();
        }
        if spec.name.to_string() == "slow:latest" {
            return pending().boxed();
        }
        let blob = BlobSpec { sha256: Digest([1; 32]), size_bytes: 9 };
        let done = PullProgress {
            name: spec.name,
            node: to,
            stage: Stage::Done,
            digest: Some(Digest([7; 32])),
            blobs: [BlobProgress { blob, verified_bytes: 9 }].into(),
            sources: vec![],
            bytes_per_second: None,
            left: None,
            wait: None,
            remark: None,
        };
        ready(Ok(stream::iter([Ok(done)]).boxed())).boxed()
    }

    fn cancel(&self, _: NodeId, _: ModelName) -> BoxFuture<'static, Result<bool, PullError>> {
        ready(Ok(false)).boxed()
    }

    fn verify(&self, to: NodeId, _: transfer::VerifyOrder) -> transfer::VerifyStream {
        let (code, text) = (ErrorCode::PeerUnreachable, "no connection".to_owned());
        stream::iter([Err(PullError::Elsewhere { node: to, code, text })]).boxed()
    }

    fn limit(&self, _: NodeId, _: transfer::PullLimit) -> BoxFuture<'static, Result<bool, PullError>> {
        ready(Ok(false)).boxed()
    }

    fn kept(&self, _: NodeId, _: Option<ModelName>) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn sweep(&self, _: NodeId, _: bool) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        ready(Ok(Vec::new())).boxed()
    }
}

/// Node 1 of two; the sites are those of these nodes.
fn pulling(sites: &[u64]) -> Pulling {
    let (world, folder, stop) = (World::start(2), tempfile::tempdir().expect("temp"), CancellationToken::new());
    let cluster = MemCluster::new(sites.iter().copied().map(NodeId));
    let parts = transfer::Parts {
        node: NodeId(1),
        clock: Clock::manual(Timestamp(1)),
        data_dir: folder.path().to_owned(),
        origin: Arc::new(Empty),
        runtime: Arc::new(MemRuntime::at(Place::None("no runtime".to_owned()))),
        others: Arc::new(Other),
        peers: Arc::new(MemPeers::default()),
        ledger: Arc::new(cluster.ledger(NodeId(1))),
        seed: 7,
        minute_of_week: |_| 0,
        strain: watch::Sender::new(false).subscribe(),
        metrics: transfer::Metrics::default(),
    };
    let tasks = TaskTracker::new();
    world.door.set_transfer(transfer::Handle::start(transfer::Config::default(), parts, &tasks, stop.clone()));
    let site = |&id: &u64| Site {
        node: NodeId(id),
        health: Health::Alive,
        drained: false,
        gateway: false,
        runtime_up: true,
        disk_free_bytes: None,
        holds: false,
        is_self: id == 1,
        progress_permille: None,
        labels: Arc::default(),
        gpu_memory_bytes: 0,
        cordon: Cordon::Open,
        disk_total_bytes: None,
        aside_bytes: None,
        spare: SpareRule::default(),
        at_hand: false,
        has_damage: false,
        no_store_at: None,
    };
    world.door.set_sites(sites.iter().map(site).collect());
    Pulling { world, cluster, _folder: folder, _stop: stop.drop_guard() }
}

/// As a program on this machine asks.
fn local(body: &str) -> Request<Body> {
    let mut request = post("/api/pull", body.to_owned());
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

#[tokio::test]
async fn a_pull_is_refused_before_its_body_is_read_unless_it_may_be_asked_for() {
    let world = World::start(1);
    let door = |pull: Pull| router(world.parts(Config { pull, ..Config::default() }));
    let check = async |router: Router, request: Request<Body>, status: u16, code: &str, words: &str| {
        let response = call(&router, request).await;
        let found = (response.status().as_u16(), header(&response, "x-ollamamax-error").map(str::to_owned));
        assert_eq!(found, (status, Some(code.to_owned())), "{words}");
        let bytes = response.into_body().collect().await.expect("whole").to_bytes();
        assert!(String::from_utf8_lossy(&bytes).contains(words), "{bytes:?}");
    };
    let strange = || post("/api/pull", "{");
    let alone = "{\"error\":\"pulls are taken over the loopback address alone; set api.pull = \\\"everybody\\\", or \
                 run ollamax model pull NAME on the node\"}";
    check(door(Pull::Loopback), strange(), 403, "forbidden", alone).await;
    check(door(Pull::Nobody), local("{"), 403, "forbidden", "api.pull is \\\"nobody\\\"").await;
    check(door(Pull::Everybody), strange(), 400, "bad_request", "unexpected EOF").await;
    check(door(Pull::Loopback), local("{"), 400, "bad_request", "unexpected EOF").await;
    check(door(Pull::Loopback), local(r#"{"model":"m"}"#), 503, "not_initialised", "ollamax init").await;
}

#[tokio::test]
async fn a_page_whose_name_was_pointed_at_this_machine_may_have_nothing_pulled() {
    let world = World::start(1);
    let on_the_network = |pull: Pull| {
        let bound = "0.0.0.0:11435".parse().expect("an address");
        router(Parts { bound, ..world.parts(Config { pull, ..Config::default() }) })
    };
    let check = async |pull: Pull, host: &'static str, status: u16, code: &str| {
        let mut request = local(r#"{"model":"m"}"#);
        request.headers_mut().insert("host", HeaderValue::from_static(host));
        let origin: HeaderValue = format!("http://{host}").parse().expect("a header");
        request.headers_mut().insert("origin", origin);
        let response = call(&on_the_network(pull), request).await;
        let found = (response.status().as_u16(), header(&response, "x-ollamamax-error"));
        assert_eq!(found, (status, Some(code)), "{pull:?} {host}");
    };
    for foreign in ["evil.com:11435", "evil.com", "localhost.evil.com:11435", "203.0.113.7:11435"] {
        check(Pull::Loopback, foreign, 403, "forbidden").await;
        // Others may call by any name where everybody may.
        check(Pull::Everybody, foreign, 503, "not_initialised").await;
    }
    for own in ["localhost:11435", "127.0.0.1:11435", "[::1]:11435", "gpu-1:11435", "gpu-1.local", "192.168.1.5:11435"]
    {
        check(Pull::Loopback, own, 503, "not_initialised").await;
    }
}

#[tokio::test]
async fn bad_pulls_get_ollamas_texts() {
    let router = pulling(&[1]).world.router();
    let check = async |body: &str, status: u16, expected: &str| {
        assert_eq!(text(&router, local(body)).await, (status, expected.to_owned()), "{body}");
    };
    check("", 400, r#"{"error":"missing request body"}"#).await;
    check("{}", 400, r#"{"error":"invalid model name"}"#).await;
    check(r#"{"model":"a b"}"#, 400, r#"{"error":"invalid model name"}"#).await;
    check(r#"{"model":"../../etc/passwd"}"#, 400, r#"{"error":"invalid model name"}"#).await;
    let wrong = r#"{"error":"json: cannot unmarshal string into Go struct field PullRequest.stream of type bool"}"#;
    check(r#"{"model":"m","stream":"no"}"#, 400, wrong).await;
}

#[tokio::test]
async fn an_unknown_name_is_told_inside_the_stream_or_with_500() {
    let pulling = pulling(&[1]);
    let router = pulling.world.router();
    let response = call(&router, local(r#"{"name":"nothing"}"#)).await;
    assert_eq!(header(&response, "content-type"), Some("application/x-ndjson"));
    assert_eq!(header(&response, "x-ollamamax-node"), Some("n1"));
    let lines = "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n";
    assert_eq!(text(&router, local(r#"{"name":"nothing"}"#)).await, (200, lines.to_owned()));
    let response = call(&router, local(r#"{"name":"nothing","stream":false}"#)).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ollamamax-error")), (500, Some("model_not_found")));
    let whole = r#"{"error":"pull model manifest: file does not exist"}"#;
    assert_eq!(text(&router, local(r#"{"name":"nothing","stream":false}"#)).await, (500, whole.to_owned()));
}

#[tokio::test]
async fn a_pull_on_another_node_reads_as_one_here() {
    let pulling = pulling(&[2]);
    let router = pulling.world.router();
    let response = call(&router, local(r#"{"model":"m","stream":false}"#)).await;
    assert_eq!(header(&response, "x-ollamamax-node"), Some("n2"));
    assert_eq!(header(&response, "content-type"), Some("application/json; charset=utf-8"));
    let whole = (200, r#"{"status":"success"}"#.to_owned());
    assert_eq!(text(&router, local(r#"{"model":"m","stream":false}"#)).await, whole);
    let blob =
        format!(r#"{{"status":"pulling 010101010101","digest":"sha256:{}","total":9,"completed":9}}"#, "01".repeat(32));
    let lines = [
        r#"{"status":"pulling manifest"}"#,
        blob.as_str(),
        r#"{"status":"verifying sha256 digest"}"#,
        r#"{"status":"writing manifest"}"#,
        r#"{"status":"success"}"#,
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(text(&router, local(r#"{"model":"m"}"#)).await, (200, lines));
    let refused = "{\"status\":\"pulling manifest\"}\n{\"error\":\"not enough room\"}\n";
    assert_eq!(text(&router, local(r#"{"model":"big"}"#)).await, (200, refused.to_owned()));
}

#[tokio::test]
async fn a_wish_reads_as_the_pull_of_one_node() {
    let mut pulling = pulling(&[1]);
    pulling.world.set_cluster_version(4);
    let router = pulling.world.router();
    let response = call(&router, local(r#"{"model":"nothing"}"#)).await;
    // Who pulls is not known before the leader has chosen.
    assert_eq!(header(&response, "x-ollamamax-node"), Some("n1"));
    let (status, lines) = text(&router, local(r#"{"model":"nothing"}"#)).await;
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!((status, lines.first()), (200, Some(&r#"{"status":"pulling manifest"}"#)));
    assert!(lines.len() == 2 && lines[1].contains("file does not exist"), "{lines:?}");
    let response = call(&router, local(r#"{"model":"nothing","stream":false}"#)).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ollamamax-error")), (500, Some("model_not_found")));
    let wish = pulling.cluster.wish(&"nothing".parse().expect("a name")).expect("on record");
    assert_eq!((wish.replicas, wish.insecure), (Replicas::Count(2), false));
}

#[tokio::test]
async fn a_wish_that_cannot_be_put_on_record_is_told_inside_the_stream() {
    let mut pulling = pulling(&[1]);
    pulling.world.set_cluster_version(4);
    pulling.cluster.set_quorum(false);
    let router = pulling.world.router();
    let lines = "{\"status\":\"pulling manifest\"}\n{\"error\":\"no majority of voters answers\"}\n";
    assert_eq!(text(&router, local(r#"{"model":"m"}"#)).await, (200, lines.to_owned()));
    let response = call(&router, local(r#"{"model":"m","stream":false}"#)).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ollamamax-error")), (500, Some("no_quorum")));
    assert!(pulling.cluster.wish(&"m".parse().expect("a name")).is_none(), "nothing was begun");
}

#[tokio::test]
async fn a_node_that_stops_ends_the_answer_and_not_the_pull() {
    let pulling = pulling(&[2]);
    let stop = CancellationToken::new();
    let ask = async |body: &str| {
        let mut request = local(body);
        request.extensions_mut().insert(Stopping(stop.clone()));
        call(&pulling.world.router(), request).await
    };
    let mut body = ask(r#"{"model":"slow"}"#).await.into_body();
    let frame = body.frame().await.expect("a frame").expect("no break");
    assert_eq!(frame.into_data().expect("data"), "{\"status\":\"pulling manifest\"}\n");
    stop.cancel();
    let rest = body.collect().await.expect("whole").to_bytes();
    assert_eq!(rest, "{\"error\":\"this node is stopping; the pull goes on when it starts again\"}\n");
    let response = ask(r#"{"model":"slow","stream":false}"#).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ollamamax-error")), (500, Some("draining")));
}

#[tokio::test]
async fn where_no_node_can_pull_the_client_is_told_before_the_stream() {
    let pulling = pulling(&[]);
    let response = call(&pulling.world.router(), local(r#"{"model":"m"}"#)).await;
    assert_eq!(
        (response.status().as_u16(), header(&response, "x-ollamamax-error")),
        (503, Some("runtime_unavailable"))
    );
}
