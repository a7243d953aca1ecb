//! Pulls a model in Ollama's words.
//!
//! Head and first line go out before anybody is asked, so what fails later is told inside HTTP 200, where clients look
//! for it. What the client wants goes on record: the nodes that the model is wanted on already, else two where two can
//! have it. It is told of the node that is furthest, of each file by the one that has most of it, with success when the
//! first one has the model. Of a file the bytes that are told never go back, whatever node starts again or takes
//! another's place meanwhile. A client that leaves stops listening and nothing else. When this node stops, it tells the
//! client so at once, since its answer could take hours. Who may have models pulled is decided by address, host and
//! headers, before the body is read: callers have no keys in this release.

use std::future::ready;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::Replicas;
use ollamax_core::placement::choose_puller;
use ollamax_transfer as transfer;
use ollamax_transfer::{Ask, BlobProgress, Overview, PullError, PullProgress, PullSpec, Stage, Wait};
use ollamax_types::{ErrorCode, ModelName, NodeId};

use crate::config::Pull;
use crate::error::{ApiError, Shape, words_of};
use crate::http::loopback::is_of_this_machine;
use crate::http::progress::{Line, SUCCESS, text};
use crate::http::request::{Change, read_change_fields};
use crate::http::serve::{ClientAddress, Stopping};
use crate::http::{NODE_HEADER, OpenDoor, body, edge, progress};
use crate::order::{self, Order};

/// What is told first.
const BEGIN: &str = "pulling manifest";
/// What is told behind the files, in this order.
const LAST_STEPS: &[&str] = &["verifying sha256 digest", "writing manifest", SUCCESS];
/// Who asked, for people.
const ASKED_BY: &str = "api";

/// What a client is told of: what is done, and how far each file is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    stage: Stage,
    blobs: Arc<[BlobProgress]>,
    /// What it waits for that does not come by itself.
    lacks: Option<String>,
    /// Why the version may not be the newest.
    remark: Option<Arc<str>>,
}

type States = BoxStream<'static, Told>;

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
    let fields = read_change_fields(Change::Pull, &held.bytes).map_err(|error| bad(error.to_string()))?;
    drop(held);
    // Ollama says the same where no model is named.
    let name: ModelName = fields.model().parse().map_err(|_| bad("invalid model name".to_owned()))?;
    let (states, puller) = begin(door, name, fields.is_insecure())?;
    let stop = head.extensions.get::<Stopping>().map(|Stopping(stop)| stop.clone()).unwrap_or_default();
    let states = while_serving(states, stop);
    let mut response = if fields.streams() { streamed(states) } else { whole(states).await? };
    if let Some(node) = puller {
        let puller = door.parts.node.name_of(node).and_then(|name| HeaderValue::from_str(&name).ok());
        let puller = puller.unwrap_or_else(|| HeaderValue::from(node.0));
        response.headers_mut().insert(HeaderName::from_static(NODE_HEADER), puller);
    }
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

/// Has the model pulled as the cluster knows to, with the node that pulls where it is known before.
fn begin(door: &OpenDoor, name: ModelName, insecure: bool) -> Result<(States, Option<NodeId>), ApiError> {
    let transfer = door.parts.node.transfer().ok_or_else(|| ApiError::without_engines(&*door.parts.node))?;
    let view = door.parts.node.view().ok_or_else(|| ApiError::without_engines(&*door.parts.node))?;
    let sites = door.parts.node.sites(&name);
    let node = choose_puller(&sites).ok_or_else(|| {
        let text = "no node can take a model: none that holds models has a runtime that is up; ollamax node list";
        ApiError::new(ErrorCode::RuntimeUnavailable, text)
    })?;
    let asked_by = ASKED_BY.to_owned();
    if order::cluster_version(&*view)? >= order::WISHES_VERSION {
        let replicas = Replicas::Count(order::REPLICAS);
        let ask = Ask { name, replicas, is_said: false, want: None, insecure, version: None, asked_by, once: None };
        return Ok((wished(transfer, ask), None));
    }
    let order = Order { transfer, node, spec: PullSpec { name, insecure, asked_by } };
    Ok((order.states().map(|progress| Told::of_job(&progress)).boxed(), Some(node)))
}

/// The states of a wish, until one node has the model or none will.
fn wished(transfer: transfer::Handle, ask: Ask) -> States {
    let asked = stream::once(async move { transfer.ask(ask).await });
    let told = asked.flat_map(|asked| match asked {
        Ok(watch) => order::followed(watch).map(|overview| Told::of_wish(&overview)).boxed(),
        Err(error) => stream::once(ready(Told::failed(error))).boxed(),
    });
    // Where the watch ends before the wish does, this node stops.
    let told = told.chain(stream::once(ready(Told::failed(PullError::Stopping)))).boxed();
    let until_over = stream::unfold(Some(told), |told| async move {
        let mut told = told?;
        let now = told.next().await?;
        let rest = (!now.is_over()).then_some(told);
        Some((now, rest))
    });
    until_over.boxed()
}

/// The states of a pull, and when this node stops, that it does so in place of the next one.
fn while_serving(states: States, stop: CancellationToken) -> States {
    let states = stream::unfold(Some((states, stop)), |serving| async move {
        let (mut states, stop) = serving?;
        tokio::select! {
            biased;
            state = states.next() => {
                let state = state?;
                Some((state, Some((states, stop))))
            }
            () = stop.cancelled() => Some((Told::failed(PullError::Stopping), None)),
        }
    });
    states.boxed()
}

/// Line by line, as it happens.
fn streamed(states: States) -> Response<Body> {
    let first = stream::once(ready(text(&[Line::Step { status: BEGIN }])));
    let rest = states.scan(None, |told: &mut Option<Told>, now| {
        let now = never_back(told.as_ref(), now);
        let text = text(&lines(told.as_ref(), &now));
        *told = Some(now);
        ready(Some(text))
    });
    // A look at which nothing is new must not end up as an empty piece.
    let pieces = first.chain(rest.filter(|text| ready(!text.is_empty())));
    progress::streamed(pieces)
}

/// One answer at the end.
async fn whole(states: States) -> Result<Response<Body>, ApiError> {
    let last = states.fold(None, |_, now| ready(Some(now))).await;
    match last.as_ref().map(|last| &last.stage) {
        Some(Stage::Done) => Ok(progress::succeeded()),
        Some(Stage::Failed(error)) => Err(ApiError::of_pull(error)),
        _ => Err(ApiError::of_pull(&PullError::Stopping)),
    }
}

/// What is new since the state that was told last.
fn lines(before: Option<&Told>, now: &Told) -> Vec<Line> {
    let blobs = now.blobs.iter().enumerate();
    let new = blobs.filter(|(index, blob)| told_of(before, *index, blob) != Some(blob.verified_bytes));
    let mut lines: Vec<Line> = new.map(|(_, blob)| Line::of_blob(blob)).collect();
    let steps = |told: &Told| steps_done(&told.stage, &told.blobs);
    let steps = LAST_STEPS.get(before.map_or(0, steps)..steps(now)).unwrap_or_default();
    lines.extend(steps.iter().copied().map(|status| Line::Step { status }));
    let heard = before.and_then(|told| told.remark.as_ref());
    if let Some(remark) = now.remark.as_ref().filter(|remark| heard != Some(*remark)) {
        lines.insert(0, Line::of_wait(remark));
    }
    let known = before.and_then(|told| told.lacks.as_ref());
    if let Some(lacks) = now.lacks.as_ref().filter(|lacks| known != Some(*lacks)) {
        lines.push(Line::of_wait(lacks));
    }
    if let Stage::Failed(error) = &now.stage {
        lines.push(Line::Error { error: words_of(error) });
    }
    lines
}

/// How many of [`LAST_STEPS`] a state has reached. Each file is verified when it is there; that is told when all are.
fn steps_done(stage: &Stage, blobs: &[BlobProgress]) -> usize {
    match stage {
        Stage::Waiting | Stage::Resolving | Stage::Checking | Stage::Fetching | Stage::Failed(_) => 0,
        Stage::Verifying => usize::from(blobs.iter().all(|blob| blob.verified_bytes == blob.blob.size_bytes)),
        Stage::Publishing | Stage::Settling => 2,
        Stage::Done => 3,
    }
}

/// How much of a file was told before; files keep their place in the list.
fn told_of(before: Option<&Told>, index: usize, blob: &BlobProgress) -> Option<u64> {
    let told = before?.blobs.get(index).filter(|told| told.blob == blob.blob)?;
    Some(told.verified_bytes)
}

/// The state with no file behind what was told of it: a node that starts again looks through what it has from the
/// beginning, and another may take the place of the one that was furthest.
fn never_back(before: Option<&Told>, now: Told) -> Told {
    let Some(before) = before else { return now };
    if now.blobs.is_empty() {
        return Told { blobs: Arc::clone(&before.blobs), ..now };
    }
    let told = |index: usize, blob: &BlobProgress| told_of(Some(before), index, blob).unwrap_or(0);
    if now.blobs.iter().enumerate().all(|(index, blob)| told(index, blob) <= blob.verified_bytes) {
        return now;
    }
    raised(before, now)
}

/// The state with as much of each file as the other one has of it.
fn raised(other: &Told, now: Told) -> Told {
    let raised = now.blobs.iter().enumerate().map(|(index, blob)| {
        let verified_bytes = blob.verified_bytes.max(told_of(Some(other), index, blob).unwrap_or(0));
        BlobProgress { verified_bytes, ..*blob }
    });
    Told { blobs: raised.collect(), ..now }
}

// === impl Told ===

impl Told {
    /// Of a node that pulls for itself.
    fn of_job(progress: &PullProgress) -> Self {
        let lacks = progress.wait.as_ref().filter(|wait| matches!(wait, Wait::Store { .. }));
        let lacks = lacks.map(ToString::to_string);
        let (stage, blobs, remark) = (progress.stage.clone(), Arc::clone(&progress.blobs), progress.remark.clone());
        Self { stage, blobs, lacks, remark }
    }

    /// Of all nodes that are to have the model: of the one that is furthest. With the first that has it, it is there.
    fn of_wish(overview: &Overview) -> Self {
        let copies = overview.copies.iter().map(|copy| &copy.progress);
        let going = copies.filter(|progress| !matches!(progress.stage, Stage::Failed(_)));
        let how_far = |progress: &&PullProgress| {
            let steps = steps_done(&progress.stage, &progress.blobs);
            (progress.stage == Stage::Done, progress.verified_bytes(), steps, progress.total_bytes())
        };
        let furthest = going.clone().max_by_key(how_far).map(Self::of_job);
        let furthest = furthest.map(|furthest| going.map(Self::of_job).fold(furthest, |told, of| raised(&of, told)));
        let remark = overview.copies.iter().find_map(|copy| copy.progress.remark.clone());
        let furthest = furthest.map(|furthest| Self { remark, ..furthest });
        let is_there = furthest.as_ref().is_some_and(|told| told.stage == Stage::Done);
        if overview.is_over && !is_there {
            return Self::failed(overview.error().unwrap_or(PullError::Cancelled));
        }
        furthest.unwrap_or_else(|| Self::of_stage(Stage::Waiting))
    }

    fn failed(error: PullError) -> Self {
        Self::of_stage(Stage::Failed(error))
    }

    fn of_stage(stage: Stage) -> Self {
        Self { stage, blobs: Arc::default(), lacks: None, remark: None }
    }

    const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed(_))
    }
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

    /// A status alone.
    fn of_wait(status: &str) -> Self {
        Self::Blob { status: status.to_owned(), digest: String::new(), total: 0, completed: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ollamax_transfer::{BlobSpec, NodeCopy};
    use ollamax_types::Digest;

    use super::*;
    use crate::http::loopback::FORWARDED;

    const GIB: u64 = 1 << 30;

    fn state(stage: Stage, blobs: &[(u8, u64, u64)]) -> Told {
        let blobs = blobs.iter().map(|&(byte, size_bytes, verified_bytes)| {
            let blob = BlobSpec { sha256: Digest([byte; 32]), size_bytes };
            BlobProgress { blob, verified_bytes }
        });
        Told { stage, blobs: blobs.collect(), lacks: None, remark: None }
    }

    /// Nodes 1, 2, … of a wish.
    fn overview(states: Vec<Told>, is_over: bool) -> Overview {
        let name: ModelName = "m".parse().expect("a name");
        let copies = (1..).zip(states).map(|(id, Told { stage, blobs, .. })| {
            let (node, digest, sources) = (NodeId(id), None, Vec::new());
            let (name, bytes_per_second, left, wait, remark) = (name.clone(), None, None, None, None);
            let progress =
                PullProgress { name, node, stage, digest, blobs, sources, bytes_per_second, left, wait, remark };
            NodeCopy { node, progress }
        });
        let copies = copies.collect();
        Overview { name: name.clone(), round: 7, digest: None, replicas: Replicas::Count(2), copies, is_over }
    }

    fn blob(byte: u8, numbers: &str) -> String {
        let hex = format!("{byte:02x}");
        format!(r#"{{"status":"pulling {}","digest":"sha256:{}"{numbers}}}"#, hex.repeat(6), hex.repeat(32))
    }

    #[test]
    fn pull_lines_are_ollamas() {
        let check = |before: Option<&Told>, now: &Told, expected: &[&str]| {
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
        let mut overview = overview(vec![begun.clone()], false);
        overview.copies[0].progress.wait = Some(Wait::Store { reason: "none at /models".to_owned() });
        let waiting = Told::of_wish(&overview);
        check(Some(&begun), &waiting, &[r#"{"status":"waiting for the model store: none at /models"}"#]);
        check(Some(&waiting), &waiting, &[]);
        overview.copies[0].progress.wait = None;
        overview.copies[0].progress.remark = Some("the registry did not answer".into());
        let remarked = Told::of_wish(&overview);
        check(Some(&begun), &remarked, &[r#"{"status":"the registry did not answer"}"#]);
        check(Some(&remarked), &remarked, &[]);
    }

    #[test]
    fn what_was_told_of_a_file_never_goes_back() {
        let told = |before: &[(u8, u64, u64)], now: &[(u8, u64, u64)]| -> Vec<u64> {
            let before = state(Stage::Fetching, before);
            let now = never_back(Some(&before), state(Stage::Checking, now));
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
    fn of_all_nodes_the_one_that_is_furthest_is_told_of_and_the_first_copy_is_success() {
        let check = |states: Vec<Told>, is_over: bool, expected: Told| {
            assert_eq!(Told::of_wish(&overview(states.clone(), is_over)), expected, "{states:?} {is_over}");
        };
        let at = |stage: Stage, verified_bytes: u64| state(stage, &[(1, 9, verified_bytes)]);
        let failed = |error: PullError| state(Stage::Failed(error), &[]);
        check(vec![], false, state(Stage::Waiting, &[]));
        check(vec![state(Stage::Waiting, &[]), at(Stage::Fetching, 0)], false, at(Stage::Fetching, 0));
        check(vec![at(Stage::Fetching, 3), at(Stage::Fetching, 5)], false, at(Stage::Fetching, 5));
        check(vec![at(Stage::Done, 9), at(Stage::Verifying, 9)], false, at(Stage::Done, 9));
        // A receiver had one of two files before, and less of the other than the node that fetches it.
        let [ingester, receiver] =
            [[5, 0], [3, 5]].map(|[one, two]| state(Stage::Fetching, &[(1, 9, one), (2, 5, two)]));
        check(vec![ingester, receiver], false, state(Stage::Fetching, &[(1, 9, 5), (2, 5, 5)]));
        // Else a client would be told of one step twice.
        check(vec![at(Stage::Publishing, 9), at(Stage::Verifying, 9)], false, at(Stage::Publishing, 9));
        // One that fails is no end while others go on or may take its place.
        check(vec![failed(PullError::Cancelled), at(Stage::Fetching, 5)], false, at(Stage::Fetching, 5));
        check(vec![failed(PullError::Cancelled)], false, state(Stage::Waiting, &[]));
        check(vec![failed(PullError::Cancelled), at(Stage::Done, 9)], true, at(Stage::Done, 9));
        check(vec![failed(PullError::Stopping)], true, failed(PullError::Stopping));
        check(vec![], true, failed(PullError::Cancelled));
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
