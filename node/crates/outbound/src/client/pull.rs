//! A pull that the runtime does by itself, line by line.
//!
//! It has no deadline: how long the runtime may say nothing is the caller's to decide, and dropping the stream ends the
//! pull at the runtime. A stream ends with [`PullStep::Done`] or with an error, never with less.

use futures::stream::{BoxStream, StreamExt as _};

use ollamax_types::ModelName;

use crate::error::RuntimeError;
use crate::wire;

use super::Client;
use super::work::{self, WorkStep};

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

impl Client {
    /// `POST /api/pull`: the runtime fetches a model from where its name says, by plain HTTP.
    #[must_use]
    pub fn pull(&self, name: &ModelName) -> BoxStream<'static, Result<PullStep, RuntimeError>> {
        let body = work::body(&wire::Pull { model: &name.to_string(), insecure: true, stream: true });
        self.work(work::PULL, body).map(|step| step.map(PullStep::from)).boxed()
    }
}

// === impl PullStep ===

impl From<WorkStep> for PullStep {
    fn from(step: WorkStep) -> Self {
        match step {
            WorkStep::Went { status, completed_bytes, .. } => Self::Went { status, completed_bytes },
            WorkStep::Done => Self::Done,
        }
    }
}
