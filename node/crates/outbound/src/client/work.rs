//! A work that the runtime does by itself and tells of line by line: a model that it makes, fetches or pushes.
//!
//! A stream ends with [`WorkStep::Done`] or with an error, never with less, and dropping it ends the work at the
//! runtime. How long the runtime may say nothing is bounded where nobody else bounds it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;

use ollamax_types::ModelName;

use crate::cause::deepest;
use crate::error::{Broken, RuntimeError};
use crate::wire;

use super::{CREATE_IDLE_TIMEOUT, Client, JSON, PROGRESS_LINE_BYTES_MAX, TAGS_TIMEOUT, essence};

/// Bounded by whoever reads it: a registry may be slow.
pub(super) const PULL: Kind = Kind { path: "/api/pull", idle: None, refused_as: 200, changes_store: true };
/// What it refuses in the midst of it is wrong with what it was given.
const CREATE: Kind =
    Kind { path: "/api/create", idle: Some(CREATE_IDLE_TIMEOUT), refused_as: 400, changes_store: true };
const PUSH: Kind = Kind { path: "/api/push", idle: Some(CREATE_IDLE_TIMEOUT), refused_as: 200, changes_store: false };

/// How far a work is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkStep {
    /// The runtime does something.
    Went {
        /// In its words.
        status: String,
        /// The file that it speaks of; empty where it does not.
        layer: String,
        /// How many bytes that file has.
        total_bytes: u64,
        /// How many of them are done.
        completed_bytes: u64,
    },
    /// It has done it.
    Done,
}

/// What is asked of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    path: &'static str,
    /// How long it may say nothing.
    idle: Option<Duration>,
    /// The status of what it refuses after its answer began.
    refused_as: u16,
    /// Whether its models are other ones afterwards.
    changes_store: bool,
}

/// A work on its way.
struct Work {
    client: Client,
    kind: Kind,
    body: Bytes,
    /// `None` before it was asked for.
    response: Option<Response>,
    /// What came of the next line.
    pending: BytesMut,
    is_over: bool,
}

/// What is sent, as JSON.
pub(super) fn body(fields: &impl Serialize) -> Bytes {
    serde_json::to_vec(fields).expect("texts and flags become JSON").into()
}

// === impl Client ===

impl Client {
    /// `POST /api/create` with a body that says all of it; it must ask for a stream.
    #[must_use]
    pub fn create_with(&self, body: Bytes) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        self.work(CREATE, body)
    }

    /// `POST /api/push`: the runtime gives a model to the registry of its name, with its own account.
    #[must_use]
    pub fn push(&self, name: &ModelName, insecure: bool) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        self.work(PUSH, body(&wire::Push { model: &name.to_string(), insecure, stream: true }))
    }

    pub(super) fn work(&self, kind: Kind, body: Bytes) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        let (client, response, pending) = (self.clone(), None, BytesMut::new());
        let work = Work { client, kind, body, response, pending, is_over: false };
        stream::try_unfold(work, Work::next).boxed()
    }
}

// === impl Work ===

impl Work {
    async fn next(mut self) -> Result<Option<(WorkStep, Self)>, RuntimeError> {
        if self.is_over {
            return Ok(None);
        }
        let mut response = match self.response.take() {
            Some(response) => response,
            None => begin(&self.client, self.kind, self.body.clone()).await?,
        };
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end + 1);
                if let Some(step) = self.step(&line)? {
                    self.response = Some(response);
                    return Ok(Some((step, self)));
                }
            }
            if self.pending.len() > PROGRESS_LINE_BYTES_MAX {
                let (path, limit_bytes) = (self.kind.path.to_owned(), PROGRESS_LINE_BYTES_MAX);
                return Err(RuntimeError::TooLarge { path, limit_bytes });
            }
            let chunk = async { response.chunk().await.map_err(|error| Broken { reason: deepest(&error) }.into()) };
            match bounded(&self.client, self.kind, chunk).await? {
                Some(chunk) => {
                    self.client.heard();
                    self.pending.extend_from_slice(&chunk);
                }
                None => return self.last(),
            }
        }
    }

    /// The body has ended; a last line may lack its end.
    fn last(mut self) -> Result<Option<(WorkStep, Self)>, RuntimeError> {
        let line = self.pending.split();
        match self.step(&line)? {
            Some(WorkStep::Done) => Ok(Some((WorkStep::Done, self))),
            _ => Err(Broken { reason: "the progress ended without success".to_owned() }.into()),
        }
    }

    /// What a line says; an empty one says nothing.
    fn step(&mut self, line: &[u8]) -> Result<Option<WorkStep>, RuntimeError> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let told: wire::WorkLine = self.client.parse(self.kind.path, line)?;
        if !told.error.is_empty() {
            let (path, status) = (self.kind.path.to_owned(), self.kind.refused_as);
            return Err(RuntimeError::Refused { path, status, message: told.error });
        }
        if told.status != "success" {
            return Ok(Some(WorkStep::Went {
                status: told.status,
                layer: told.digest,
                total_bytes: u64::try_from(told.total).unwrap_or_default(),
                completed_bytes: u64::try_from(told.completed).unwrap_or_default(),
            }));
        }
        self.is_over = true;
        if self.kind.changes_store {
            self.client.note_models_changed();
        }
        Ok(Some(WorkStep::Done))
    }
}

/// Asks for it.
async fn begin(client: &Client, kind: Kind, body: Bytes) -> Result<Response, RuntimeError> {
    let path = kind.path;
    let request = client.request(Method::POST, path).header(CONTENT_TYPE, JSON).body(body);
    let send = async { request.send().await.map_err(|error| client.failed(path, &error)) };
    let response = bounded(client, kind, send).await?;
    client.refuse_ollamamax(&response)?;
    client.heard();
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::NOT_FOUND && essence(response.headers()) != Some("application/json") {
        let message = format!("it has no {path}");
        return Err(RuntimeError::Refused { path: path.to_owned(), status: 501, message });
    }
    let body = client.within(path, TAGS_TIMEOUT, client.read(response, path)).await?;
    Err(client.refusal(path, status.as_u16(), &body))
}

async fn bounded<T>(
    client: &Client,
    kind: Kind,
    work: impl Future<Output = Result<T, RuntimeError>>,
) -> Result<T, RuntimeError> {
    match kind.idle {
        Some(idle) => client.within(kind.path, idle, work).await,
        None => work.await,
    }
}
