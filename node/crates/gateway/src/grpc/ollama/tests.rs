//! Each route by call, with a cluster that says what a test wants: statuses, texts, lines, and what it is asked.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::{Mutex, MutexGuard};

use axum::http::Method;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use ollamax_types::Digest;

use super::*;
use crate::grpc::{REQUEST_ID_KEY, identify};

/// A cluster that a test speaks for. Clones are the same one.
#[derive(Clone, Default)]
struct TestCluster(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    /// What it was asked, in order.
    asked: Vec<String>,
    /// What it tells of work.
    told: Vec<Result<v1::RuntimeProgress, AdminError>>,
    /// What it says to everything.
    refusal: Option<AdminError>,
    /// Whether changes are carried out in time.
    is_slow: bool,
    /// What the runtime has.
    blobs: BTreeSet<Digest>,
    /// Whether it refuses files before it reads a byte of them.
    is_full: bool,
    /// Whether work goes on for ever behind what is told of it.
    is_endless: bool,
}

// === impl TestCluster ===

impl TestCluster {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics with it")
    }

    fn telling(self, told: Vec<Result<v1::RuntimeProgress, AdminError>>) -> Self {
        self.script().told = told;
        self
    }

    fn refusing(self, code: ErrorCode, what: &str) -> Self {
        self.script().refusal = Some(AdminError::new(code, what, "", ""));
        self
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.script().asked)
    }

    fn hears(&self, asked: String) -> Result<(), AdminError> {
        let mut script = self.script();
        script.asked.push(asked);
        script.refusal.clone().map_or(Ok(()), Err)
    }

    fn tells(&self, asked: String) -> Result<ProgressStream, AdminError> {
        self.hears(asked)?;
        let (told, is_endless) = {
            let script = self.script();
            (script.told.clone(), script.is_endless)
        };
        let told = stream::iter(told).map(|line| line.map_err(Status::from));
        Ok(if is_endless { told.chain(stream::pending()).boxed() } else { told.boxed() })
    }

    fn changes(&self, asked: String) -> BoxFuture<'static, Result<bool, AdminError>> {
        let changed = self.hears(asked).map(|()| !self.script().is_slow);
        ready(changed).boxed()
    }

    fn router(&self) -> Router {
        let cluster: Arc<dyn Cluster> = Arc::new(self.clone());
        with_elsewhere(router(Arc::clone(&cluster)), cluster).layer(middleware::from_fn(identify))
    }
}

impl Cluster for TestCluster {
    fn place(&self) -> Place {
        Place { name: "n1".to_owned(), api_url: "http://127.0.0.1:11435".to_owned() }
    }

    fn create(&self, recipe: Recipe) -> BoxFuture<'_, Result<ProgressStream, AdminError>> {
        let body = String::from_utf8_lossy(&recipe.head.body).into_owned();
        ready(self.tells(format!("create {} of {} files: {body}", recipe.head.name, recipe.files.len()))).boxed()
    }

    fn push(&self, name: &ModelName, insecure: bool) -> BoxFuture<'_, Result<ProgressStream, AdminError>> {
        ready(self.tells(format!("push {name} insecure {insecure}"))).boxed()
    }

    fn copy<'a>(
        &'a self,
        _: RequestId,
        from: &'a ModelName,
        to: &'a ModelName,
    ) -> BoxFuture<'a, Result<bool, AdminError>> {
        self.changes(format!("copy {from} to {to}"))
    }

    fn delete<'a>(&'a self, _: RequestId, name: &'a ModelName) -> BoxFuture<'a, Result<bool, AdminError>> {
        self.changes(format!("delete {name}"))
    }

    fn has_blob(&self, sha256: Digest) -> BoxFuture<'_, Result<bool, AdminError>> {
        ready(Ok(self.script().blobs.contains(&sha256))).boxed()
    }

    fn take_blob(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        mut bytes: FileBytes,
    ) -> BoxFuture<'_, Result<(), AdminError>> {
        let taking = async move {
            if self.script().is_full {
                return Err(AdminError::new(ErrorCode::DiskFull, "the disk is full", "", "free some space"));
            }
            let mut whole = Vec::new();
            while let Some(piece) = bytes.next().await {
                let broken = |error: io::Error| AdminError::new(ErrorCode::BadRequest, error.to_string(), "", "");
                whole.extend_from_slice(&piece.map_err(broken)?);
            }
            self.hears(format!("take {size_bytes:?}: {}", String::from_utf8_lossy(&whole)))?;
            self.script().blobs.insert(sha256);
            Ok::<(), AdminError>(())
        };
        taking.boxed()
    }
}

/// A cluster where all goes well at once.
fn good() -> TestCluster {
    TestCluster::default().telling(vec![Ok(step("parsing GGUF")), Ok(done())])
}

fn step(status: &str) -> v1::RuntimeProgress {
    v1::RuntimeProgress { status: status.to_owned(), ..v1::RuntimeProgress::default() }
}

fn done() -> v1::RuntimeProgress {
    v1::RuntimeProgress { digest: vec![7; 32], ..v1::RuntimeProgress::default() }
}

fn request(method: &Method, path: &str, body: impl Into<Body>) -> Request {
    axum::http::Request::builder().method(method.clone()).uri(path).body(body.into()).expect("a request")
}

async fn call(cluster: &TestCluster, request: Request) -> Response<Body> {
    cluster.router().oneshot(request).await.expect("a router never fails")
}

async fn text_of(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    (status, String::from_utf8(bytes.to_vec()).expect("text"))
}

/// Status and text.
async fn said(cluster: &TestCluster, method: Method, path: &str, body: &str) -> (u16, String) {
    text_of(call(cluster, request(&method, path, body.to_owned())).await).await
}

/// What a client reads that sends all of a request before it reads a byte, over a socket.
async fn read_behind(cluster: &TestCluster, sent: Vec<u8>) -> String {
    let (mut client, server) = UnixStream::pair().expect("two ends");
    let service = TowerToHyperService::new(cluster.router());
    let served = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let spoken = async move {
        client.write_all(&sent).await.expect("all of it is taken");
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.expect("an answer and its end");
        String::from_utf8(read).expect("text")
    };
    let (_, read) = tokio::join!(served, spoken);
    read
}

/// The head of the next answer, which has no body; less where the connection ends before.
async fn read_head(client: &mut UnixStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).await.is_ok_and(|read| read > 0) {
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).expect("text")
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

fn error(text: &str) -> String {
    serde_json::json!({ "error": text }).to_string()
}

#[tokio::test]
async fn a_model_is_made_and_told_line_by_line_or_by_its_end() {
    let cluster = good();
    let body = r#"{"name":"mine","from":"base","system":"Be brief."}"#;
    let response = call(&cluster, request(&Method::POST, "/api/create", body)).await;
    assert_eq!(header(&response, "content-type"), "application/x-ndjson");
    assert_eq!((header(&response, NODE_HEADER), header(&response, REQUEST_ID_HEADER).is_empty()), ("n1", false));
    assert_eq!(header(&response, REQUEST_ID_HEADER), header(&response, REQUEST_ID_KEY));
    let lines = "{\"status\":\"parsing GGUF\"}\n{\"status\":\"success\"}\n";
    assert_eq!(text_of(response).await, (200, lines.to_owned()));
    assert_eq!(cluster.asked(), [r#"create mine of 0 files: {"from":"base","system":"Be brief."}"#]);

    let file = format!("sha256:{}", "ab".repeat(32));
    let body = format!(r#"{{"model":"mine","files":{{"a.gguf":"{file}"}},"stream":false}}"#);
    let response = call(&cluster, request(&Method::POST, "/api/create", body.clone())).await;
    assert_eq!(header(&response, "content-type"), "application/json; charset=utf-8");
    assert_eq!(text_of(response).await, (200, r#"{"status":"success"}"#.to_owned()));
    assert_eq!(cluster.asked(), [format!("create mine of 1 files: {body}")]);
}

#[tokio::test]
async fn a_create_that_makes_no_sense_is_asked_of_nobody() {
    let cluster = good();
    for (body, text) in [
        ("", "missing request body"),
        (r#"{"model":"mine""#, "unexpected EOF"),
        (r#"{"model":"mine"}"#, "neither 'from' or 'files' was specified"),
        (r#"{"model":"mine","files":{"a":"ab"}}"#, "invalid digest format"),
        (r#"{"model":"a b","from":"base"}"#, "invalid model name"),
    ] {
        assert_eq!(said(&cluster, Method::POST, "/api/create", body).await, (400, error(text)), "{body}");
    }
    let large = "x".repeat(CREATE_BODY_BYTES_MAX + 1);
    let expected = (413, error("the request body is larger than 1 MiB"));
    assert_eq!(said(&cluster, Method::POST, "/api/create", &large).await, expected);
    let mut encoded = request(&Method::POST, "/api/create", "x");
    encoded.headers_mut().insert("content-encoding", HeaderValue::from_static("zstd"));
    assert_eq!(call(&cluster, encoded).await.status(), 415);
    assert!(cluster.asked().is_empty());
}

#[tokio::test]
async fn what_fails_at_once_has_its_status_and_what_fails_later_is_the_last_line() {
    let (streamed, whole) = (r#"{"model":"m","from":"b"}"#, r#"{"model":"m","from":"b","stream":false}"#);
    let refusal = || AdminError::new(ErrorCode::BadRequest, "node n2 could not make m:latest", "invalid file", "");
    let text = "node n2 could not make m:latest: invalid file";
    let early = TestCluster::default().telling(vec![Err(refusal())]);
    let late = TestCluster::default().telling(vec![Ok(step("parsing GGUF")), Err(refusal())]);
    for (cluster, body, expected) in [
        (&early, streamed, (400, error(text))),
        (&early, whole, (400, error(text))),
        (&late, streamed, (200, format!("{{\"status\":\"parsing GGUF\"}}\n{}\n", error(text)))),
        (&late, whole, (400, error(text))),
    ] {
        assert_eq!(said(cluster, Method::POST, "/api/create", body).await, expected, "{body}");
    }
    // Nothing that ends without a word looks done.
    let silent = TestCluster::default().telling(vec![Ok(step("parsing GGUF"))]);
    let expected = (500, error("it ended before it had done it"));
    assert_eq!(said(&silent, Method::POST, "/api/create", whole).await, expected);
    let nothing = TestCluster::default();
    assert_eq!(said(&nothing, Method::POST, "/api/create", streamed).await, expected);
    let alone = TestCluster::default().refusing(ErrorCode::NotInitialised, "no cluster");
    let response = call(&alone, request(&Method::POST, "/api/create", streamed)).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ollamamax-error")), (503, "not_initialised"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work() {
    let (held, mut watched) = mpsc::channel::<()>(1);
    let told = stream::once(ready(Ok(step("parsing GGUF")))).chain(stream::once(async move {
        let _held = held;
        pending().await
    }));
    let response = tell(told.boxed(), true, CancellationToken::new()).await.expect("it begins");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a line").expect("whole").into_data().expect("bytes");
    assert_eq!(first, "{\"status\":\"parsing GGUF\"}\n");
    drop(body);
    assert_eq!(watched.recv().await, None, "what the work held is gone");
}

#[tokio::test]
async fn what_is_under_way_when_the_node_stops_ends_with_that_word() {
    let cluster = TestCluster::default().telling(vec![Ok(step("pushing manifest"))]);
    cluster.script().is_endless = true;
    let text = "this node is stopping; repeat it when it runs again, or over the socket of another node";
    let cases = [
        ("/api/create", r#"{"model":"m","from":"b"}"#, r#"{"model":"m","from":"b","stream":false}"#),
        ("/api/push", r#"{"model":"m"}"#, r#"{"model":"m","stream":false}"#),
    ];
    for (path, streamed, whole) in cases {
        let stop = CancellationToken::new();
        let router = cluster.router().layer(axum::Extension(Stopping(stop.clone())));
        let response = router.clone().oneshot(request(&Method::POST, path, streamed)).await.expect("answered");
        let late = router.oneshot(request(&Method::POST, path, whole));
        stop.cancel();
        let lines = format!("{{\"status\":\"pushing manifest\"}}\n{}\n", error(text));
        assert_eq!(text_of(response).await, (200, lines), "{path}");
        let response = late.await.expect("answered");
        assert_eq!(header(&response, "x-ollamamax-error"), "draining");
        assert_eq!(text_of(response).await, (503, error(text)), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_under_way_when_the_node_stops_ends_with_that_word() {
    let (cluster, stop) = (good(), CancellationToken::new());
    let router = cluster.router().layer(axum::Extension(Stopping(stop.clone())));
    let mut upload = router.oneshot(stuck(7)).boxed();
    assert!(futures::poll!(&mut upload).is_pending(), "it waits for more");
    let begun = Instant::now();
    stop.cancel();
    let (status, text) = text_of(upload.await.expect("answered")).await;
    assert!(status == 503 && text.contains("this node is stopping"), "{status} {text}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "what still comes of it is not waited for");
    assert!(cluster.asked().is_empty() && cluster.script().blobs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_still_comes_of_an_answered_file_is_read_until_it_ends_falls_silent_or_the_node_stops() {
    let (cluster, here) = (good(), Digest([7; 32]));
    cluster.script().blobs.insert(here);
    let (second, limit) = (Duration::from_secs(1), Duration::from_secs(3_600));
    let coming = |pieces: usize| {
        let pieces = stream::iter(0..pieces).then(move |_| async move {
            sleep(second).await;
            Ok::<_, io::Error>(Bytes::from_static(b"GG"))
        });
        request(&Method::POST, &format!("/api/blobs/sha256:{here}"), Body::from_stream(pieces))
    };
    for (upload, stops, expected_s) in
        [(coming(20), false, 20), (stuck(7), false, 5), (coming(1_000_000), true, 5), (stuck(7), true, 5)]
    {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let router = cluster.router().layer(axum::Extension(Stopping(stop.clone())));
        let router = router.layer(axum::Extension(Beside(tasks.clone())));
        let begun = Instant::now();
        assert_eq!(text_of(router.oneshot(upload).await.expect("answered")).await, (200, String::new()));
        assert_eq!(begun.elapsed(), Duration::ZERO, "its answer waits for nothing");
        if stops {
            stop.cancel();
        }
        tasks.close();
        timeout(limit, tasks.wait()).await.expect("it ends");
        assert_eq!(begun.elapsed().as_secs(), expected_s, "stops {stops}");
    }
    assert!(cluster.asked().is_empty());
}

#[tokio::test]
async fn a_model_is_pushed_with_what_the_runtime_says_of_each_file() {
    let layer = v1::RuntimeProgress {
        layer: "sha256:0a0b".to_owned(),
        total_bytes: 9,
        completed_bytes: 4,
        ..step("pushing 0a0b")
    };
    let cluster = TestCluster::default().telling(vec![Ok(step("retrieving manifest")), Ok(layer), Ok(done())]);
    let expected = "{\"status\":\"retrieving manifest\"}\n\
                    {\"status\":\"pushing 0a0b\",\"digest\":\"sha256:0a0b\",\"total\":9,\"completed\":4}\n\
                    {\"status\":\"success\"}\n";
    let body = r#"{"model":"me/mine","insecure":true}"#;
    assert_eq!(said(&cluster, Method::POST, "/api/push", body).await, (200, expected.to_owned()));
    let body = r#"{"name":"me/mine","stream":false}"#;
    let expected = (200, r#"{"status":"success"}"#.to_owned());
    assert_eq!(said(&cluster, Method::POST, "/api/push", body).await, expected);
    assert_eq!(cluster.asked(), ["push me/mine:latest insecure true", "push me/mine:latest insecure false"]);

    for (body, text) in [
        ("", "missing request body"),
        ("{}", "model is required"),
        (r#"{"model":"a b"}"#, "invalid model name"),
        (
            r#"{"model":"m","stream":1}"#,
            "json: cannot unmarshal number into Go struct field PushRequest.stream of type bool",
        ),
    ] {
        assert_eq!(said(&cluster, Method::POST, "/api/push", body).await, (400, error(text)), "{body}");
    }
    assert!(cluster.asked().is_empty());
    let missing = TestCluster::default().refusing(ErrorCode::ModelNotFound, "m:latest is not on any node");
    let expected = (404, error("model 'M' not found"));
    assert_eq!(said(&missing, Method::POST, "/api/push", r#"{"model":"M"}"#).await, expected);
    let failed = AdminError::new(ErrorCode::RuntimeFailed, "node n2 could not push m", "not yours", "ollamax doctor");
    let failed = TestCluster::default().telling(vec![Err(failed)]);
    let expected = (500, error("node n2 could not push m: not yours; try: ollamax doctor"));
    assert_eq!(said(&failed, Method::POST, "/api/push", r#"{"model":"m"}"#).await, expected);
}

#[tokio::test]
async fn a_copy_is_answered_when_a_node_has_it() {
    let cluster = good();
    let body = r#"{"source":"base","destination":"lab/mine:1"}"#;
    assert_eq!(said(&cluster, Method::POST, "/api/copy", body).await, (200, String::new()));
    assert_eq!(cluster.asked(), ["copy base:latest to lab/mine:1"]);
    cluster.script().is_slow = true;
    assert_eq!(said(&cluster, Method::POST, "/api/copy", body).await, (202, String::new()));
    cluster.asked();
    for (body, text) in [
        ("", "missing request body"),
        ("{", "unexpected EOF"),
        (r#"{"destination":"b"}"#, r#"source "" is invalid"#),
        (r#"{"source":"a b","destination":"b"}"#, r#"source "a b" is invalid"#),
        (r#"{"source":"a","destination":"b c"}"#, r#"destination "b c" is invalid"#),
    ] {
        assert_eq!(said(&cluster, Method::POST, "/api/copy", body).await, (400, error(text)), "{body}");
    }
    assert!(cluster.asked().is_empty());
    let missing = TestCluster::default().refusing(ErrorCode::ModelNotFound, "model base:latest not found");
    assert_eq!(said(&missing, Method::POST, "/api/copy", body).await, (404, error(r#"model "base" not found"#)));
    let taken = TestCluster::default().refusing(ErrorCode::DigestConflict, "lab/mine:1 is another version");
    assert_eq!(said(&taken, Method::POST, "/api/copy", body).await, (409, error("lab/mine:1 is another version")));
}

#[tokio::test]
async fn a_model_is_deleted_by_either_key_of_its_name() {
    let cluster = good();
    for body in [r#"{"model":"base"}"#, r#"{"name":"base"}"#] {
        assert_eq!(said(&cluster, Method::DELETE, "/api/delete", body).await, (200, String::new()), "{body}");
        assert_eq!(cluster.asked(), ["delete base:latest"]);
    }
    cluster.script().is_slow = true;
    assert_eq!(said(&cluster, Method::DELETE, "/api/delete", r#"{"model":"base"}"#).await, (202, String::new()));
    cluster.asked();
    for (body, text) in [
        ("", "missing request body"),
        ("{}", r#"name "" is invalid"#),
        (r#"{"model":"a b"}"#, r#"name "a b" is invalid"#),
    ] {
        assert_eq!(said(&cluster, Method::DELETE, "/api/delete", body).await, (400, error(text)), "{body}");
    }
    assert!(cluster.asked().is_empty());
    let missing = TestCluster::default().refusing(ErrorCode::ModelNotFound, "model base:latest not found");
    let expected = (404, error("model 'Base' not found"));
    assert_eq!(said(&missing, Method::DELETE, "/api/delete", r#"{"model":"Base"}"#).await, expected);
}

#[tokio::test]
async fn a_file_is_taken_once_in_chunks_or_with_its_length() {
    let cluster = good();
    let sha256 = Digest([0xab; 32]);
    let path = format!("/api/blobs/sha256:{sha256}");
    assert_eq!(said(&cluster, Method::HEAD, &path, "").await, (404, String::new()));
    let chunks = ["GG", "UF"].map(|chunk| Ok::<_, io::Error>(Bytes::from_static(chunk.as_bytes())));
    let chunked = request(&Method::POST, &path, Body::from_stream(stream::iter(chunks)));
    assert_eq!(text_of(call(&cluster, chunked).await).await, (201, String::new()));
    assert_eq!(cluster.asked(), ["take None: GGUF"]);
    assert_eq!(said(&cluster, Method::HEAD, &path.replace(':', "-"), "").await, (200, String::new()));
    assert_eq!(said(&cluster, Method::POST, &path, "GGUF").await, (200, String::new()));
    assert!(cluster.asked().is_empty(), "it is there already");

    let path = format!("/api/blobs/sha256:{}", Digest([0xcd; 32]));
    let mut sized = request(&Method::POST, &path, "GGUF");
    sized.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(4));
    assert_eq!(text_of(call(&cluster, sized).await).await, (201, String::new()));
    assert_eq!(cluster.asked(), ["take Some(4): GGUF"]);
}

/// A file that has begun and goes no further.
fn stuck(byte: u8) -> Request {
    let begun = stream::once(ready(Ok::<_, io::Error>(Bytes::from_static(b"GG")))).chain(stream::pending());
    request(&Method::POST, &format!("/api/blobs/sha256:{}", Digest([byte; 32])), Body::from_stream(begun))
}

#[tokio::test(start_paused = true)]
async fn a_file_of_which_nothing_comes_any_more_is_given_up() {
    let (cluster, begun) = (good(), Instant::now());
    let told = text_of(call(&cluster, stuck(7)).await).await;
    assert_eq!(told, (400, error("no byte of it came for 30 s")));
    assert!(begun.elapsed() >= SILENCE_MAX, "{:?}", begun.elapsed());
    assert!(cluster.asked().is_empty() && cluster.script().blobs.is_empty());
    // One that comes slowly is no such file.
    let slow = stream::iter(["GG", "U", "F"]).then(|piece| async move {
        sleep(SILENCE_MAX / 10 * 9).await;
        Ok::<_, io::Error>(Bytes::from_static(piece.as_bytes()))
    });
    let path = format!("/api/blobs/sha256:{}", Digest([7; 32]));
    let slow = request(&Method::POST, &path, Body::from_stream(slow));
    assert_eq!(text_of(call(&cluster, slow).await).await, (201, String::new()));
    assert_eq!(cluster.asked(), ["take None: GGUF"]);
}

#[tokio::test]
async fn a_file_too_many_is_refused_until_one_has_ended_or_its_client_has_left() {
    let (cluster, sha256) = (good(), Digest([0xab; 32]));
    let router = cluster.router();
    let mut held = Vec::new();
    for _ in 0..UPLOADS_MAX {
        let mut upload = router.clone().oneshot(stuck(7)).boxed();
        assert!(futures::poll!(&mut upload).is_pending(), "it waits for more");
        held.push(upload);
    }
    let send = async || {
        let request = request(&Method::POST, &format!("/api/blobs/sha256:{sha256}"), "GGUF");
        let response = router.clone().oneshot(request).await.expect("answered");
        let after = header(&response, "retry-after").to_owned();
        (text_of(response).await, after)
    };
    let text = "this node takes 128 files at once; send this one again when another is there";
    assert_eq!(send().await, ((503, error(text)), "10".to_owned()));
    // One client leaves, and with it what the runtime was told of its file.
    drop(held.pop());
    assert_eq!(send().await, ((201, String::new()), String::new()));
    assert_eq!(cluster.asked(), ["take None: GGUF"]);
    // What is there already needs no place.
    held.push(router.clone().oneshot(stuck(7)).boxed());
    assert!(futures::poll!(held.last_mut().expect("one")).is_pending(), "it waits for more");
    assert_eq!(send().await.0, (200, String::new()));
}

#[tokio::test]
async fn a_client_that_is_answered_before_its_body_is_read_gets_its_answer() {
    let cluster = good();
    let here = Digest([0xab; 32]);
    cluster.script().blobs.insert(here);
    cluster.script().is_full = true;
    let (here, other) =
        (format!("POST /api/blobs/sha256:{here}"), format!("POST /api/blobs/sha256-{}", Digest([7; 32])));
    // More than all buffers between the two ends.
    let body = vec![b'x'; 8 << 20];
    for (line, field, status, text) in [
        (here.as_str(), "", 200, ""),
        ("POST /api/blobs/ab", "", 400, "invalid digest format"),
        (other.as_str(), "content-encoding: zstd\r\n", 415, "send it unencoded"),
        (other.as_str(), "", 507, "the disk is full; try: free some space"),
        ("POST /api/create", "", 413, "larger than 1 MiB"),
        ("PUT /api/push", "", 405, "405 method not allowed"),
        ("POST /api/generate", "", 404, "the rest is at http://127.0.0.1:11435"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{field}");
        let (begin, end) = (format!("{:x}\r\n", body.len()), b"\r\n0\r\n\r\n");
        let chunks = [begin.as_bytes(), body.as_slice(), end.as_slice()].concat();
        for (length, body) in
            [(format!("content-length: {}", body.len()), &body), ("transfer-encoding: chunked".to_owned(), &chunks)]
        {
            let read =
                read_behind(&cluster, [format!("{head}{length}\r\n\r\n").as_bytes(), body.as_slice()].concat()).await;
            let is_right = read.starts_with(&format!("HTTP/1.1 {status} ")) && read.contains(text);
            assert!(is_right, "{line} {length}: {read}");
        }
    }
    // Who waits to be asked for a file that is there is not asked for it.
    let head = format!("{here} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\n");
    let read = read_behind(&cluster, format!("{head}content-length: 9\r\n\r\n").into_bytes()).await;
    assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
}

#[tokio::test]
async fn a_client_that_reads_first_has_its_answer_before_it_sends_its_body() {
    let (cluster, here) = (good(), Digest([0xab; 32]));
    cluster.script().blobs.insert(here);
    let (mut client, server) = UnixStream::pair().expect("two ends");
    let served =
        http1::Builder::new().serve_connection(TokioIo::new(server), TowerToHyperService::new(cluster.router()));
    let head = format!("POST /api/blobs/sha256:{here} HTTP/1.1\r\nhost: localhost\r\n");
    let spoken = async move {
        client.write_all(format!("{head}content-length: 4\r\n\r\n").as_bytes()).await.expect("the head is taken");
        let first = read_head(&mut client).await;
        // It may send the file all the same, and go on over the same connection.
        client.write_all(b"GGUF").await.expect("the body is taken");
        let next = format!("{head}connection: close\r\ncontent-length: 0\r\n\r\n");
        client.write_all(next.as_bytes()).await.expect("the next head is taken");
        let second = read_head(&mut client).await;
        [first, second]
    };
    let (_, read) = tokio::join!(served, spoken);
    assert!(read.iter().all(|head| head.starts_with("HTTP/1.1 200 ")), "{read:?}");
}

#[tokio::test]
async fn a_file_that_is_another_one_or_breaks_off_is_refused() {
    let cluster = good();
    for digest in ["ab", "sha256:ab", &"ab".repeat(32), &format!("sha512:{}", "ab".repeat(32))] {
        for method in [Method::HEAD, Method::POST] {
            let (status, text) = said(&cluster, method.clone(), &format!("/api/blobs/{digest}"), "").await;
            let expected = if method == Method::HEAD { String::new() } else { error("invalid digest format") };
            assert_eq!((status, text), (400, expected), "{method} {digest}");
        }
    }
    let path = format!("/api/blobs/sha256:{}", Digest([0xab; 32]));
    let chunks = [Ok(Bytes::from_static(b"GG")), Err(io::Error::other("the client left"))];
    let broken = request(&Method::POST, &path, Body::from_stream(stream::iter(chunks)));
    assert_eq!(text_of(call(&cluster, broken).await).await, (400, error("the client left")));
    let mut endless = request(&Method::POST, &path, "");
    endless.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(BLOB_BYTES_MAX + 1));
    let expected = (413, error("a file of a model has 16 TiB at most"));
    assert_eq!(text_of(call(&cluster, endless).await).await, expected);
    assert!(cluster.asked().is_empty() && cluster.script().blobs.is_empty());
    let mismatch = "digest mismatch, expected \"sha256:ab\", got \"sha256:cd\"";
    let cluster = good().refusing(ErrorCode::BadRequest, mismatch);
    assert_eq!(said(&cluster, Method::POST, &path, "GGUF").await, (400, error(mismatch)));
    assert!(cluster.script().blobs.is_empty());
}

#[tokio::test]
async fn ollamas_own_command_finds_a_server_that_runs() {
    let cluster = good();
    assert_eq!(said(&cluster, Method::HEAD, "/", "").await, (200, String::new()));
    assert_eq!(said(&cluster, Method::GET, "/", "").await, (200, "Ollama is running".to_owned()));
    // Before it pushes it asks who is signed in: no name is one that it goes on with.
    assert_eq!(said(&cluster, Method::POST, "/api/me", "").await, (200, "{}".to_owned()));
    // What it asks for besides, to unload a model before it deletes it, may be missing.
    let (status, text) = said(&cluster, Method::POST, "/api/generate", r#"{"model":"m","keep_alive":0}"#).await;
    assert!(status == 404 && text.contains("/api/generate not found"), "{status} {text}");
}

#[tokio::test]
async fn another_method_is_405_and_another_path_says_where_it_is() {
    let cluster = good();
    for (method, path) in [(Method::GET, "/api/create"), (Method::POST, "/api/delete"), (Method::PUT, "/api/push")] {
        let expected = (405, "405 method not allowed".to_owned());
        assert_eq!(said(&cluster, method, path, "").await, expected, "{path}");
    }
    let place = cluster.place();
    let response = elsewhere(&place, &request(&Method::GET, "/api/tags", ""));
    assert_eq!(header(&response, "content-type"), "application/json; charset=utf-8");
    let (status, text) = text_of(response).await;
    let expected = "/api/tags not found: the admin socket has gRPC and /api/create, /api/blobs/DIGEST, /api/copy, \
                    /api/delete and /api/push; the rest is at http://127.0.0.1:11435";
    assert_eq!((status, text), (404, error(expected)));
    let mut grpc = request(&Method::POST, "/ollamax.v9.Admin/Status", "");
    grpc.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let response = elsewhere(&place, &grpc);
    assert_eq!((response.status().as_u16(), header(&response, "grpc-status")), (200, "12"));
}
