//! A pull that the runtime does by itself, line by line.
//!
//! It has no deadline: how long the runtime may say nothing is the caller's to decide, and dropping the stream ends the
//! pull at the runtime. A stream ends with [`PullStep::Done`] or with an error, never with less.

use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use reqwest::{Method, Response};

use ollamax_types::ModelName;

use crate::cause::deepest;
use crate::error::{Broken, RuntimeError};
use crate::wire;

use super::{Client, PROGRESS_LINE_BYTES_MAX, TAGS_TIMEOUT};

const PATH: &str = "/api/pull";

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullStep {
    /// The runtime does something.
    Went {
        /// In its words.
        status: String,
        /// Bytes that it has of that, where it is a file.
        completed_bytes: u64,
    },
    /// It has the model.
    Done,
}

/// A pull on its way.
struct Pulling {
    client: Client,
    name: ModelName,
    /// `None` before it was asked for.
    response: Option<Response>,
    /// What came of the next line.
    pending: BytesMut,
    is_over: bool,
}

impl Client {
    /// `POST /api/pull`: the runtime fetches a model from where its name says, by plain HTTP.
    #[must_use]
    pub fn pull(&self, name: &ModelName) -> BoxStream<'static, Result<PullStep, RuntimeError>> {
        let (client, name, pending) = (self.clone(), name.clone(), BytesMut::new());
        let pulling = Pulling { client, name, response: None, pending, is_over: false };
        stream::try_unfold(pulling, Pulling::next).boxed()
    }
}

// === impl Pulling ===

impl Pulling {
    async fn next(mut self) -> Result<Option<(PullStep, Self)>, RuntimeError> {
        if self.is_over {
            return Ok(None);
        }
        let mut response = match self.response.take() {
            Some(response) => response,
            None => begin(&self.client, &self.name).await?,
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
                return Err(RuntimeError::TooLarge { path: PATH.to_owned(), limit_bytes: PROGRESS_LINE_BYTES_MAX });
            }
            match response.chunk().await.map_err(|error| Broken { reason: deepest(&error) })? {
                Some(chunk) => {
                    self.client.heard();
                    self.pending.extend_from_slice(&chunk);
                }
                None => return self.last(),
            }
        }
    }

    /// The body has ended; a last line may lack its end.
    fn last(mut self) -> Result<Option<(PullStep, Self)>, RuntimeError> {
        let line = self.pending.split();
        match self.step(&line)? {
            Some(PullStep::Done) => Ok(Some((PullStep::Done, self))),
            _ => Err(Broken { reason: "the pull ended without success".to_owned() }.into()),
        }
    }

    /// What a line says; an empty one says nothing.
    fn step(&mut self, line: &[u8]) -> Result<Option<PullStep>, RuntimeError> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let told: wire::PullLine = self.client.parse(PATH, line)?;
        if !told.error.is_empty() {
            return Err(RuntimeError::Refused { path: PATH.to_owned(), status: 200, message: told.error });
        }
        if told.status != "success" {
            let completed_bytes = u64::try_from(told.completed).unwrap_or_default();
            return Ok(Some(PullStep::Went { status: told.status, completed_bytes }));
        }
        self.is_over = true;
        self.client.note_models_changed();
        Ok(Some(PullStep::Done))
    }
}

/// Asks for it.
async fn begin(client: &Client, name: &ModelName) -> Result<Response, RuntimeError> {
    let body = wire::Pull { model: &name.to_string(), insecure: true, stream: true };
    let sent = client.request(Method::POST, PATH).json(&body).send().await;
    let response = sent.map_err(|error| client.failed(PATH, &error))?;
    client.refuse_ollamamax(&response)?;
    client.heard();
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = client.within(PATH, TAGS_TIMEOUT, client.read(response, PATH)).await?;
    Err(client.refusal(PATH, status.as_u16(), &body))
}
