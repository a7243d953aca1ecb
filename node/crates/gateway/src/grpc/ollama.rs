//! Ollama's words that change models, over HTTP on the administrator's socket: `/api/create`, `/api/blobs`,
//! `/api/copy`, `/api/delete` and `/api/push`.
//!
//! Whoever may open the socket may ask, as over gRPC beside it, and the same pieces do it (`port`). Paths, bodies,
//! statuses and texts are Ollama's. Making and pushing end when the caller leaves, and so does a file on its way; a
//! change that is on record does not. What fails before the first line has its own status, what fails behind it is the
//! last line. A change that is on record and that no node has carried out in time is answered 202. No answer waits for
//! a body that nobody reads, and each reaches a client that is still sending. When this node stops, what is under way
//! ends with that word. Files on their way are bounded in number, and one of which nothing comes any more ends.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::{delete, get, head, post};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use ollamax_proto::v1;
use ollamax_types::limits::{BLOB_BYTES_MAX, CREATE_BODY_BYTES_MAX, UPLOADS_MAX};
use ollamax_types::{ErrorCode, ModelName, RequestId};

use super::AdminError;
use super::management::{FileBytes, ProgressStream};
use super::pulls::Pulls;
use crate::error::{ApiError, Shape};
use crate::http::progress::{Line, SUCCESS, streamed, succeeded, text};
use crate::http::request::{BodyError, Change, ChangeFields, read_change_fields};
use crate::http::{NODE_HEADER, REQUEST_ID_HEADER, Stopping, body, json_text, plain};

mod port;
mod recipe;
mod rest;

use port::{Cluster, Place};
use recipe::{Recipe, digest_of};
use rest::{read_rest, with_rest_read};

/// The routes, in the order in which people are told of them.
const ROUTES: &str = "/api/create, /api/blobs/DIGEST, /api/copy, /api/delete and /api/push";

/// How long a client that sends a file may be silent: as long as one at the clients' door, where nobody sets that.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What the routes work with.
#[derive(Clone)]
struct Door {
    cluster: Arc<dyn Cluster>,
    /// Places for files on their way.
    uploads: Arc<Semaphore>,
}

/// Where what goes on beside an answer is tracked.
#[derive(Clone, Default)]
pub(super) struct Beside(pub(super) TaskTracker);

/// What a work tells.
type Lines = BoxStream<'static, Result<Line, ApiError>>;
type Reply = Result<Response<Body>, ApiError>;

/// Adds these routes to those of gRPC, and what is said of all other paths.
pub(super) fn with_routes(grpc: Router, pulls: Pulls) -> Router {
    let cluster: Arc<dyn Cluster> = Arc::new(pulls);
    with_elsewhere(grpc.merge(router(Arc::clone(&cluster))), cluster)
}

/// Routes where no answer waits for a body that nobody reads.
pub(super) fn reading_rest(routes: Router) -> Router {
    routes.layer(middleware::from_fn(read_rest))
}

fn with_elsewhere(routes: Router, cluster: Arc<dyn Cluster>) -> Router {
    routes.fallback(move |request: Request| answer_elsewhere(cluster.place(), request))
}

impl FromRef<Door> for Arc<dyn Cluster> {
    fn from_ref(door: &Door) -> Self {
        Self::clone(&door.cluster)
    }
}

fn router(cluster: Arc<dyn Cluster>) -> Router {
    let door = Door { cluster: Arc::clone(&cluster), uploads: Arc::new(Semaphore::new(UPLOADS_MAX)) };
    Router::new()
        // Ollama's own command asks for this before anything else.
        .route("/", get(|| ready(plain(StatusCode::OK, "Ollama is running"))))
        .route("/api/create", post(create))
        .route("/api/blobs/{digest}", head(find_blob).post(take_blob))
        .route("/api/copy", post(copy))
        .route("/api/delete", delete(remove))
        .route("/api/push", post(push))
        .route("/api/me", post(|| ready(nobody())))
        .method_not_allowed_fallback(|| ready(plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")))
        .layer(middleware::from_fn(read_rest))
        .layer(middleware::from_fn_with_state(cluster, name_node))
        .with_state(door)
}

/// Says on every answer which node gave it, and to which request.
async fn name_node(State(cluster): State<Arc<dyn Cluster>>, request: Request, next: Next) -> Response<Body> {
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_default();
    let mut response = next.run(request).await;
    for (header, text) in [(NODE_HEADER, cluster.place().name), (REQUEST_ID_HEADER, id.0)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(HeaderName::from_static(header), value);
        }
    }
    response
}

async fn answer_elsewhere(place: Place, request: Request) -> Response<Body> {
    // Over HTTP/2 a call that is refused ends by itself.
    if speaks_grpc(&request) {
        return elsewhere(&place, &request);
    }
    with_rest_read(request, move |request| ready(elsewhere(&place, &request))).await
}

/// All other paths: gRPC's answer to who speaks it, else where the rest of Ollama's API is.
fn elsewhere(place: &Place, request: &Request) -> Response<Body> {
    if speaks_grpc(request) {
        return Status::unimplemented("").into_http();
    }
    let (path, Place { api_url, .. }) = (request.uri().path(), place);
    // Ollama's own command goes on where something is not found before it deletes.
    let text = format!("{path} not found: the admin socket has gRPC and {ROUTES}; the rest is at {api_url}");
    ApiError { status: 404, ..ApiError::new(ErrorCode::NotImplemented, text) }.into_response(Shape::Ollama)
}

fn speaks_grpc(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/grpc")
}

async fn create(State(cluster): State<Arc<dyn Cluster>>, request: Request) -> Response<Body> {
    answered(try_create(&*cluster, request).await)
}

async fn try_create(cluster: &dyn Cluster, request: Request) -> Reply {
    let stop = stop_of(request.extensions());
    let (_, body) = read(request).await?;
    let recipe = Recipe::read(&body)?;
    let streams = recipe.streams;
    let told = cluster.create(recipe).await.map_err(|error| of_admin(&error))?;
    tell(told, streams, stop).await
}

async fn push(State(cluster): State<Arc<dyn Cluster>>, request: Request) -> Response<Body> {
    answered(try_push(&*cluster, request).await)
}

async fn try_push(cluster: &dyn Cluster, request: Request) -> Reply {
    let stop = stop_of(request.extensions());
    let (_, fields) = asked(Change::Push, request).await?;
    let sent = fields.model();
    if sent.is_empty() {
        return Err(bad("model is required"));
    }
    let name: ModelName = sent.parse().map_err(|_| bad("invalid model name"))?;
    let told = cluster.push(&name, fields.is_insecure()).await;
    let told = told.map_err(|error| or_not_found(&error, || format!("model '{sent}' not found")))?;
    tell(told, fields.streams(), stop).await
}

/// Who is signed in, which Ollama's own command asks before it pushes to Ollama's registry: nobody is here. The account
/// that counts is that of the runtime that pushes, and that one says by itself where it is none.
fn nobody() -> Response<Body> {
    json_text(StatusCode::OK, "{}")
}

async fn copy(State(cluster): State<Arc<dyn Cluster>>, request: Request) -> Response<Body> {
    answered(try_copy(&*cluster, request).await)
}

async fn try_copy(cluster: &dyn Cluster, request: Request) -> Reply {
    let (id, fields) = asked(Change::Copy, request).await?;
    let (source, destination) = (fields.source(), fields.destination());
    let from: ModelName = source.parse().map_err(|_| bad(format!("source {source:?} is invalid")))?;
    let to: ModelName = destination.parse().map_err(|_| bad(format!("destination {destination:?} is invalid")))?;
    match cluster.copy(id, &from, &to).await {
        Ok(is_seen) => Ok(changed(is_seen)),
        Err(error) => Err(or_not_found(&error, || format!("model {source:?} not found"))),
    }
}

async fn remove(State(cluster): State<Arc<dyn Cluster>>, request: Request) -> Response<Body> {
    answered(try_remove(&*cluster, request).await)
}

async fn try_remove(cluster: &dyn Cluster, request: Request) -> Reply {
    let (id, fields) = asked(Change::Delete, request).await?;
    let sent = fields.model();
    let name: ModelName = sent.parse().map_err(|_| bad(format!("name {sent:?} is invalid")))?;
    match cluster.delete(id, &name).await {
        Ok(is_gone) => Ok(changed(is_gone)),
        Err(error) => Err(or_not_found(&error, || format!("model '{sent}' not found"))),
    }
}

async fn find_blob(State(cluster): State<Arc<dyn Cluster>>, Path(digest): Path<String>) -> Response<Body> {
    answered(try_find_blob(&*cluster, &digest).await)
}

async fn try_find_blob(cluster: &dyn Cluster, digest: &str) -> Reply {
    let sha256 = digest_of(digest).ok_or_else(|| bad("invalid digest format"))?;
    let is_here = cluster.has_blob(sha256).await.map_err(|error| of_admin(&error))?;
    Ok(empty(if is_here { StatusCode::OK } else { StatusCode::NOT_FOUND }))
}

async fn take_blob(State(door): State<Door>, Path(digest): Path<String>, request: Request) -> Response<Body> {
    answered(try_take_blob(&door, &digest, request).await)
}

async fn try_take_blob(Door { cluster, uploads }: &Door, digest: &str, request: Request) -> Reply {
    let sha256 = digest_of(digest).ok_or_else(|| bad("invalid digest format"))?;
    let (head, body) = request.into_parts();
    body::check_encoding(&head.headers)?;
    let size_bytes = announced(&head.headers);
    if size_bytes.is_some_and(|size_bytes| size_bytes > BLOB_BYTES_MAX) {
        return Err(ApiError::new(ErrorCode::BodyTooLarge, too_large()));
    }
    if cluster.has_blob(sha256).await.map_err(|error| of_admin(&error))? {
        return Ok(empty(StatusCode::OK));
    }
    // The runtime throws away what it has of a file when this is dropped.
    let _place = uploads.try_acquire().map_err(|_| crowded())?;
    let taking = cluster.take_blob(sha256, size_bytes, pieces(body));
    let taken = stop_of(&head.extensions).run_until_cancelled(taking).await.ok_or_else(stopping)?;
    taken.map_err(|error| of_admin(&error))?;
    Ok(empty(StatusCode::CREATED))
}

/// What the head says of the length; nothing where the body comes in chunks.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The bytes of a file; an error where there is no end to them, or where none comes.
fn pieces(body: Body) -> FileBytes {
    let begin = Some((body.into_data_stream(), 0_u64));
    let pieces = stream::unfold(begin, |coming| async move {
        let (mut pieces, taken_bytes) = coming?;
        let piece = match timeout(SILENCE_MAX, pieces.next()).await {
            Ok(piece) => piece?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, silent())),
        };
        let taken_bytes = taken_bytes.saturating_add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        let piece = if taken_bytes > BLOB_BYTES_MAX { Err(io::Error::other(too_large())) } else { piece };
        let rest = piece.is_ok().then_some((pieces, taken_bytes));
        Some((piece, rest))
    });
    pieces.boxed()
}

fn too_large() -> String {
    format!("a file of a model has {} TiB at most", BLOB_BYTES_MAX >> 40)
}

fn silent() -> String {
    format!("no byte of it came for {} s", SILENCE_MAX.as_secs())
}

/// A file that this node has no place for now.
fn crowded() -> ApiError {
    let text = format!("this node takes {UPLOADS_MAX} files at once; send this one again when another is there");
    ApiError::overloaded(text)
}

/// The id of a request, and its body, whole.
async fn read(request: Request) -> Result<(RequestId, Bytes), ApiError> {
    let (head, body) = request.into_parts();
    let id = head.extensions.get::<RequestId>().cloned().unwrap_or_default();
    Ok((id, body::read_small(&head.headers, body, CREATE_BODY_BYTES_MAX).await?))
}

/// The id of a request, and what it asks for.
async fn asked(change: Change, request: Request) -> Result<(RequestId, ChangeFields), ApiError> {
    let (id, body) = read(request).await?;
    Ok((id, read_change_fields(change, &body).map_err(unread)?))
}

/// Tells a work line by line, or its end alone.
async fn tell(told: ProgressStream, streams: bool, stop: CancellationToken) -> Reply {
    let lines = told.map(|line| match line {
        Ok(progress) => Ok(line_of(progress)),
        Err(status) => Err(of_admin(&AdminError::from(&status))),
    });
    let mut lines = while_serving(lines.boxed(), stop);
    if !streams {
        return whole(lines).await;
    }
    // What fails before anything was done has its own status.
    let first = lines.next().await.ok_or_else(unfinished)??;
    let rest = lines.map(|line| line.unwrap_or_else(|error| Line::Error { error: error.message }));
    Ok(streamed(stream::once(ready(first)).chain(rest).map(|line| text(&[line]))))
}

/// The lines, and when this node stops, that it does so in place of the next one.
fn while_serving(lines: Lines, stop: CancellationToken) -> Lines {
    let lines = stream::unfold(Some((lines, stop)), |serving| async move {
        let (mut lines, stop) = serving?;
        tokio::select! {
            biased;
            line = lines.next() => {
                let line = line?;
                Some((line, Some((lines, stop))))
            }
            () = stop.cancelled() => Some((Err(stopping()), None)),
        }
    });
    lines.boxed()
}

/// Cancelled when this node stops.
fn stop_of(extensions: &Extensions) -> CancellationToken {
    extensions.get::<Stopping>().map(|Stopping(stop)| stop.clone()).unwrap_or_default()
}

async fn whole(mut lines: Lines) -> Reply {
    let mut last = None;
    while let Some(line) = lines.next().await {
        last = Some(line?);
    }
    let is_done = last.is_some_and(|last| last == Line::Step { status: SUCCESS });
    if is_done { Ok(succeeded()) } else { Err(unfinished()) }
}

fn line_of(progress: v1::RuntimeProgress) -> Line {
    if !progress.digest.is_empty() {
        return Line::Step { status: SUCCESS };
    }
    let v1::RuntimeProgress { status, layer, total_bytes, completed_bytes, .. } = progress;
    Line::Blob { status, digest: layer, total: total_bytes, completed: completed_bytes }
}

fn answered(reply: Reply) -> Response<Body> {
    reply.unwrap_or_else(|error| error.into_response(Shape::Ollama))
}

/// A change that is on record: carried out, or still to be.
fn changed(is_seen: bool) -> Response<Body> {
    empty(if is_seen { StatusCode::OK } else { StatusCode::ACCEPTED })
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A body that makes no sense.
fn bad(text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, text)
}

/// A body that cannot be read.
fn unread(error: BodyError) -> ApiError {
    bad(error.to_string())
}

/// A work that this node does not live to see.
fn stopping() -> ApiError {
    let text = "this node is stopping; repeat it when it runs again, or over the socket of another node";
    ApiError::new(ErrorCode::Draining, text)
}

/// A work that ended without saying how.
fn unfinished() -> ApiError {
    ApiError { status: 500, ..ApiError::new(ErrorCode::RuntimeFailed, "it ended before it had done it") }
}

/// Ollama's text where no node has a model, else what there is to say.
fn or_not_found(error: &AdminError, text: impl FnOnce() -> String) -> ApiError {
    if error.code == ErrorCode::ModelNotFound { ApiError::new(error.code, text()) } else { of_admin(error) }
}

/// An error in one line: what happened, why, and what to do. A failure of a runtime is 500, as of Ollama itself.
fn of_admin(error: &AdminError) -> ApiError {
    let AdminError { code, what, why, next } = error;
    if *code == ErrorCode::NotInitialised {
        return ApiError::not_initialised();
    }
    let told = [("", what), (": ", why), ("; try: ", next)].into_iter().filter(|(_, text)| !text.is_empty());
    let message: String = told.flat_map(|(before, text)| [before, text.as_str()]).collect();
    let status = if *code == ErrorCode::RuntimeFailed { 500 } else { code.http_status() };
    ApiError { status, ..ApiError::new(*code, message) }
}

#[cfg(test)]
mod tests;
