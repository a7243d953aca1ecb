//! Pulls a model in Ollama's words.
//!
//! Head and first line go out before anybody is asked, so what fails later is told inside HTTP 200, where clients look
//! for it. Of a file the bytes that are told never go back, whatever node starts again meanwhile. A client that leaves
//! stops listening and nothing else: the pull is a job of the node that runs it. When this node stops, it tells the
//! client so at once, since its answer could take hours. Who may have models pulled is decided by address, host and
//! headers, before the body is read: callers have no keys in this release.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_core::placement::choose_puller;
use ollamax_transfer as transfer;
use ollamax_transfer::{BlobProgress, PullError, PullProgress, PullSpec, Stage, Watch};
use ollamax_types::{ErrorCode, ModelName, NodeId};

use crate::config::Pull;
use crate::error::{ApiError, Shape, words_of};
use crate::http::request::read_pull_fields;
use crate::http::serve::{ClientAddress, Stopping};
use crate::http::{NODE_HEADER, OpenDoor, body, edge};

/// A pull is looked at once in this time; what happened between two looks is told at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What is told first.
const BEGIN: &str = "pulling manifest";
/// What is told behind the files, in this order.
const LAST_STEPS: &[&str] = &["verifying sha256 digest", "writing manifest", SUCCESS];
/// The last one.
const SUCCESS: &str = "success";
/// What proxies add: with one of them the caller is somebody behind this machine.
const FORWARDED: [&str; 9] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
];
/// Who asked, for the log of the node that pulls.
const ASKED_BY: &str = "api";

/// A pull, and the node that is to be asked for it.
pub(crate) struct Order {
    pub(crate) transfer: transfer::Handle,
    pub(crate) node: NodeId,
    pub(crate) spec: PullSpec,
}

type States = BoxStream<'static, Arc<PullProgress>>;

/// An order on its way.
enum Following {
    Ordered(Order),
    Watched { watch: Watch, next_look: Instant },
    Over,
}

/// One line of the answer, its keys in Ollama's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Line {
    Step {
        status: &'static str,
    },
    Blob {
        status: String,
        digest: String,
        #[serde(skip_serializing_if = "is_zero")]
        total: u64,
        #[serde(skip_serializing_if = "is_zero")]
        completed: u64,
    },
    Error {
        error: String,
    },
}

/// Go leaves such numbers out.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `POST /api/pull`
pub(crate) async fn answer(State(door): State<Arc<OpenDoor>>, request: Request) -> Response<Body> {
    try_answer(&door, request).await.unwrap_or_else(|error| error.into_response(Shape::Ollama))
}

async fn try_answer(door: &OpenDoor, request: Request) -> Result<Response<Body>, ApiError> {
    let host = edge::host_of(&request);
    let (head, client_body) = request.into_parts();
    let client = head.extensions.get::<ClientAddress>().copied();
    // A browser on this machine calls from here for any page, but by the page's own name where that was pointed here.
    let client = client.filter(|_| edge::names_this_machine(door, &host));
    check_caller(door.parts.config.pull, client, &head.headers)?;
    let held = body::read(door, &head.headers, client_body).await?;
    let bad = |text: String| ApiError::new(ErrorCode::BadRequest, text);
    let fields = read_pull_fields(&held.bytes).map_err(|error| bad(error.to_string()))?;
    drop(held);
    // Ollama says the same where no model is named.
    let name: ModelName = fields.model().parse().map_err(|_| bad("invalid model name".to_owned()))?;
    let order = order(door, name, fields.is_insecure())?;
    let node = order.node;
    let stop = head.extensions.get::<Stopping>().map(|Stopping(stop)| stop.clone()).unwrap_or_default();
    let states = while_serving(order, stop);
    let mut response = if fields.streams() { streamed(states) } else { whole(states).await? };
    let puller = door.parts.node.name_of(node).and_then(|name| HeaderValue::from_str(&name).ok());
    let puller = puller.unwrap_or_else(|| HeaderValue::from(node.0));
    response.headers_mut().insert(HeaderName::from_static(NODE_HEADER), puller);
    Ok(response)
}

fn check_caller(pull: Pull, client: Option<ClientAddress>, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = match pull {
        Pull::Everybody => return Ok(()),
        Pull::Loopback if is_of_this_machine(client, headers) => return Ok(()),
        Pull::Loopback => {
            "pulls are taken over the loopback address alone; set api.pull = \"everybody\", or run ollamax model pull \
             NAME on the node"
        }
        Pull::Nobody => "pulls are not taken here: api.pull is \"nobody\"; run ollamax model pull NAME on the node",
    };
    Err(ApiError::new(ErrorCode::Forbidden, text))
}

fn is_of_this_machine(client: Option<ClientAddress>, headers: &HeaderMap) -> bool {
    let is_loopback = client.is_some_and(|ClientAddress(address)| address.ip().to_canonical().is_loopback());
    is_loopback && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// Who pulls, from what this node holds.
fn order(door: &OpenDoor, name: ModelName, insecure: bool) -> Result<Order, ApiError> {
    let transfer = door.parts.node.transfer().ok_or_else(ApiError::not_initialised)?;
    let sites = door.parts.node.sites(&name);
    let node = choose_puller(&sites).ok_or_else(|| {
        let text = "no node can take a model: none that holds models has a runtime that is up; ollamax node list";
        ApiError::new(ErrorCode::RuntimeUnavailable, text)
    })?;
    Ok(Order { transfer, node, spec: PullSpec { name, insecure, asked_by: ASKED_BY.to_owned() } })
}

/// The states of a pull, and when this node stops, that it does so in place of the next one.
fn while_serving(order: Order, stop: CancellationToken) -> States {
    let stopped = Arc::new(refused(order.spec.name.clone(), order.node, PullError::Stopping));
    let serving = Some((order.states().boxed(), stop, stopped));
    let states = stream::unfold(serving, |serving| async move {
        let (mut states, stop, stopped) = serving?;
        tokio::select! {
            biased;
            state = states.next() => {
                let state = state?;
                Some((state, Some((states, stop, stopped))))
            }
            () = stop.cancelled() => Some((stopped, None)),
        }
    });
    states.boxed()
}

/// Line by line, as it happens.
fn streamed(states: States) -> Response<Body> {
    let first = stream::once(ready(text(&[Line::Step { status: BEGIN }])));
    let rest = states.scan(None, |told: &mut Option<Arc<PullProgress>>, now| {
        let now = never_back(told.as_deref(), now);
        let text = text(&lines(told.as_deref(), &now));
        *told = Some(now);
        ready(Some(text))
    });
    // A look at which nothing is new must not end up as an empty piece.
    let pieces = first.chain(rest.filter(|text| ready(!text.is_empty())));
    let pieces = pieces.map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    answered(Body::from_stream(pieces), "application/x-ndjson")
}

/// One answer at the end.
async fn whole(states: States) -> Result<Response<Body>, ApiError> {
    let last = states.fold(None, |_, now| ready(Some(now))).await;
    match last.as_ref().map(|last| &last.stage) {
        Some(Stage::Done) => {
            let done = text(&[Line::Step { status: SUCCESS }]);
            Ok(answered(Body::from(done.trim_end().to_owned()), "application/json; charset=utf-8"))
        }
        Some(Stage::Failed(error)) => Err(ApiError::of_pull(error)),
        _ => Err(ApiError::of_pull(&PullError::Stopping)),
    }
}

fn answered(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(lines: &[Line]) -> String {
    let line = |line: &Line| serde_json::to_string(line).expect("texts and numbers can be written") + "\n";
    lines.iter().map(line).collect()
}

/// What is new since the state that was told last.
fn lines(before: Option<&PullProgress>, now: &PullProgress) -> Vec<Line> {
    let blobs = now.blobs.iter().enumerate();
    let new = blobs.filter(|(index, blob)| told_of(before, *index, blob) != Some(blob.verified_bytes));
    let mut lines: Vec<Line> = new.map(|(_, blob)| Line::of_blob(blob)).collect();
    let steps = LAST_STEPS.get(before.map_or(0, steps_done)..steps_done(now)).unwrap_or_default();
    lines.extend(steps.iter().copied().map(|status| Line::Step { status }));
    if let Stage::Failed(error) = &now.stage {
        lines.push(Line::Error { error: words_of(error) });
    }
    lines
}

/// How many of [`LAST_STEPS`] a state has reached. Each file is verified when it is there; that is told when all are.
fn steps_done(progress: &PullProgress) -> usize {
    match &progress.stage {
        Stage::Waiting | Stage::Resolving | Stage::Checking | Stage::Fetching | Stage::Failed(_) => 0,
        Stage::Verifying => usize::from(progress.verified_bytes() == progress.total_bytes()),
        Stage::Publishing | Stage::Settling => 2,
        Stage::Done => 3,
    }
}

/// How much of a file was told before; files keep their place in the list.
fn told_of(before: Option<&PullProgress>, index: usize, blob: &BlobProgress) -> Option<u64> {
    let told = before?.blobs.get(index).filter(|told| told.blob == blob.blob)?;
    Some(told.verified_bytes)
}

/// The state with no file behind what was told of it: a node that starts again looks through what it has from the
/// beginning.
fn never_back(before: Option<&PullProgress>, now: Arc<PullProgress>) -> Arc<PullProgress> {
    let Some(before) = before else { return now };
    if now.blobs.is_empty() {
        return Arc::new(PullProgress { blobs: Arc::clone(&before.blobs), ..(*now).clone() });
    }
    let told = |index: usize, blob: &BlobProgress| told_of(Some(before), index, blob).unwrap_or(0);
    if now.blobs.iter().enumerate().all(|(index, blob)| told(index, blob) <= blob.verified_bytes) {
        return now;
    }
    let raised = now.blobs.iter().enumerate().map(|(index, blob)| {
        let verified_bytes = blob.verified_bytes.max(told(index, blob));
        BlobProgress { verified_bytes, ..*blob }
    });
    Arc::new(PullProgress { blobs: raised.collect(), ..(*now).clone() })
}

// === impl Order ===

impl Order {
    /// How far it is, once in [`LOOK_INTERVAL`]; the last state is over. Dropping it leaves the pull as it is.
    pub(crate) fn states(self) -> impl Stream<Item = Arc<PullProgress>> + Send + 'static {
        stream::unfold(Following::Ordered(self), Following::step)
    }
}

// === impl Following ===

impl Following {
    async fn step(self) -> Option<(Arc<PullProgress>, Self)> {
        let watch = match self {
            Self::Over => return None,
            Self::Ordered(order) => {
                let Order { transfer, node, spec } = order;
                let name = spec.name.clone();
                match transfer.pull_at(node, spec).await {
                    Ok(watch) => watch,
                    Err(error) => return Some((Arc::new(refused(name, node, error)), Self::Over)),
                }
            }
            Self::Watched { mut watch, next_look } => {
                let goes_on = watch.changed().await;
                let now = watch.now();
                if !goes_on && !now.is_over() {
                    let stage = Stage::Failed(PullError::Stopping);
                    return Some((Arc::new(PullProgress { stage, ..(*now).clone() }), Self::Over));
                }
                if !now.is_over() {
                    sleep_until(next_look).await;
                }
                watch
            }
        };
        let now = watch.now();
        let next_look = Instant::now() + LOOK_INTERVAL;
        let next = if now.is_over() { Self::Over } else { Self::Watched { watch, next_look } };
        Some((now, next))
    }
}

/// A pull that did not begin.
fn refused(name: ModelName, node: NodeId, error: PullError) -> PullProgress {
    let (stage, digest, blobs) = (Stage::Failed(error), None, Arc::default());
    PullProgress { name, node, stage, digest, blobs, sources: Vec::new(), bytes_per_second: None, left: None }
}

// === impl Line ===

impl Line {
    fn of_blob(blob: &BlobProgress) -> Self {
        let sha256 = blob.blob.sha256;
        Self::Blob {
            status: format!("pulling {}", sha256.short()),
            digest: format!("sha256:{sha256}"),
            total: blob.blob.size_bytes,
            completed: blob.verified_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ollamax_transfer::BlobSpec;
    use ollamax_types::Digest;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn state(stage: Stage, blobs: &[(u8, u64, u64)]) -> PullProgress {
        let blobs = blobs.iter().map(|&(byte, size_bytes, verified_bytes)| {
            let blob = BlobSpec { sha256: Digest([byte; 32]), size_bytes };
            BlobProgress { blob, verified_bytes }
        });
        let begun = refused("m".parse().expect("a name"), NodeId(1), PullError::Cancelled);
        PullProgress { stage, blobs: blobs.collect(), ..begun }
    }

    fn blob(byte: u8, numbers: &str) -> String {
        let hex = format!("{byte:02x}");
        format!(r#"{{"status":"pulling {}","digest":"sha256:{}"{numbers}}}"#, hex.repeat(6), hex.repeat(32))
    }

    #[test]
    fn pull_lines_are_ollamas() {
        let check = |before: Option<&PullProgress>, now: &PullProgress, expected: &[&str]| {
            let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
            assert_eq!(text(&lines(before, now)), expected, "{before:?} {now:?}");
        };
        let [verifying, writing, success] =
            [r#"{"status":"verifying sha256 digest"}"#, r#"{"status":"writing manifest"}"#, r#"{"status":"success"}"#];
        check(None, &state(Stage::Waiting, &[]), &[]);
        check(None, &state(Stage::Resolving, &[]), &[]);
        // What is 0 is left out, as Go does it.
        let begun = state(Stage::Checking, &[(0xaa, 4_661_211_424, 0), (0xbb, 0, 0)]);
        check(None, &begun, &[&blob(0xaa, r#","total":4661211424"#), &blob(0xbb, "")]);
        check(Some(&begun), &begun, &[]);
        let half = state(Stage::Fetching, &[(0xaa, 4_661_211_424, 104_857_600), (0xbb, 0, 0)]);
        check(Some(&begun), &half, &[&blob(0xaa, r#","total":4661211424,"completed":104857600"#)]);
        // A file that is there is no reason to say that all are verified.
        let one = state(Stage::Verifying, &[(0xaa, 9, 9), (0xbb, 5, 0)]);
        check(None, &one, &[&blob(0xaa, r#","total":9,"completed":9"#), &blob(0xbb, r#","total":5"#)]);
        let both = state(Stage::Verifying, &[(0xaa, 9, 9), (0xbb, 5, 5)]);
        let second = blob(0xbb, r#","total":5,"completed":5"#);
        check(Some(&one), &both, &[&second, verifying]);
        check(Some(&both), &state(Stage::Publishing, &[(0xaa, 9, 9), (0xbb, 5, 5)]), &[writing]);
        let settling = state(Stage::Settling, &[(0xaa, 9, 9), (0xbb, 5, 5)]);
        check(Some(&both), &settling, &[writing]);
        let done = state(Stage::Done, &[(0xaa, 9, 9), (0xbb, 5, 5)]);
        check(Some(&settling), &done, &[success]);
        // Between two looks a small model is through, or it was there all the time.
        check(Some(&one), &done, &[&second, verifying, writing, success]);
        check(None, &state(Stage::Done, &[]), &[verifying, writing, success]);
        let failed = state(Stage::Failed(PullError::Cancelled), &[(0xaa, 9, 9), (0xbb, 5, 0)]);
        check(Some(&one), &failed, &[r#"{"error":"the pull was cancelled"}"#]);
    }

    #[test]
    fn what_was_told_of_a_file_never_goes_back() {
        let told = |before: &[(u8, u64, u64)], now: &[(u8, u64, u64)]| -> Vec<u64> {
            let before = state(Stage::Fetching, before);
            let now = never_back(Some(&before), Arc::new(state(Stage::Checking, now)));
            assert_eq!(now.stage, Stage::Checking);
            now.blobs.iter().map(|blob| blob.verified_bytes).collect()
        };
        assert_eq!(told(&[(1, GIB, 7), (2, 5, 0)], &[(1, GIB, 9), (2, 5, 1)]), [9, 1]);
        assert_eq!(told(&[(1, GIB, 7), (2, 5, 3)], &[(1, GIB, 4), (2, 5, 5)]), [7, 5]);
        // Its manifest is not read again yet.
        assert_eq!(told(&[(1, GIB, 7)], &[]), [7]);
        // The same place with another file.
        assert_eq!(told(&[(1, GIB, 7)], &[(3, GIB, 2)]), [2]);
        assert_eq!(told(&[], &[(3, GIB, 2)]), [2]);
    }

    #[test]
    fn pulls_from_other_machines_are_refused_unless_allowed() {
        let taken = |pull: Pull, client: Option<&str>, header: Option<&'static str>| {
            let client = client.map(|text| ClientAddress(SocketAddr::new(text.parse().expect("an address"), 4_711)));
            let mut headers = HeaderMap::new();
            if let Some(name) = header {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static("10.0.0.9"));
            }
            check_caller(pull, client, &headers).map_err(|error| (error.status, error.code))
        };
        let refused = Err((403, ErrorCode::Forbidden));
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(taken(Pull::Loopback, Some(local), None), Ok(()), "{local}");
            assert_eq!(taken(Pull::Nobody, Some(local), None), refused, "{local}");
            for name in FORWARDED {
                assert_eq!(taken(Pull::Loopback, Some(local), Some(name)), refused, "{local} {name}");
                assert_eq!(taken(Pull::Everybody, Some(local), Some(name)), Ok(()), "{local} {name}");
            }
        }
        for other in [Some("10.0.0.9"), Some("::ffff:10.0.0.9"), Some("fd00::9"), None] {
            assert_eq!(taken(Pull::Loopback, other, None), refused, "{other:?}");
            assert_eq!(taken(Pull::Everybody, other, None), Ok(()), "{other:?}");
            assert_eq!(taken(Pull::Nobody, other, None), refused, "{other:?}");
        }
    }
}
