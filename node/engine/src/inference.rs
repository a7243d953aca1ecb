//! From a request to a running job: find the model, merge the options, wait for the runner, hand over the order.
//!
//! Errors before the first piece of an answer come from here, each with what the client is to be told; `http::error`
//! gives them their status.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use crate::gguf::Arrays;
use crate::keep_alive::KeepAlive;
use crate::name::Name;
use crate::options::{OptionError, Options, Sampling};
use crate::pool::{AcquireError, Job, JobError, Label, Pool, Wanted};
use crate::protocol::{Event, Order};
use crate::store::{Model, Store, StoreError};

/// The engine as the HTTP handlers see it.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// Models on disk.
    pub(crate) store: Arc<Store>,
    /// Models in memory.
    pub(crate) pool: Pool,
}

/// What a model must be able to do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Continue a text, for `/api/generate`.
    Generate,
    /// Continue a conversation.
    Chat,
    /// Make vectors.
    Embed,
    /// Leave the memory.
    Nothing,
}

/// A model ready to be used by a request.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The model.
    pub(crate) model: Model,
    /// How to choose tokens.
    pub(crate) sampling: Sampling,
    wanted: Wanted,
}

/// An order under way; dropping it cancels the order.
#[derive(Debug)]
pub(crate) struct Running {
    first: Option<Event>,
    job: Job,
    /// Time spent on loading.
    pub(crate) load: Duration,
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferenceError {
    /// The name breaks the grammar.
    #[error("invalid model name")]
    InvalidName,
    /// There is no such model.
    #[error("model '{0}' not found")]
    NotFound(String),
    /// The model cannot do that.
    #[error("{model:?} does not support {ability}")]
    Unsupported {
        /// As the client wrote it.
        model: String,
        /// What it cannot do.
        ability: &'static str,
    },
    /// An option of the wrong type.
    #[error("{0}")]
    Option(#[from] OptionError),
    /// The disk, or what is on it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no runner.
    #[error("{0}")]
    Acquire(#[from] AcquireError),
    /// The runner gave no answer.
    #[error("{0}")]
    Job(#[from] JobError),
}

// === impl Engine ===

impl Engine {
    /// Runs something that waits for the disk where waiting is allowed.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Option<T> {
        let store = Arc::clone(&self.store);
        spawn_blocking(move || work(&store)).await.ok()
    }

    /// Finds the model and works out how it is to be run.
    pub(crate) async fn prepare(
        &self,
        asked: &str,
        need: Need,
        options: Map<String, Value>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Prepared, InferenceError> {
        let missing = || InferenceError::NotFound(asked.to_owned());
        if asked.is_empty() {
            return Err(missing());
        }
        let name = Name::parse(asked).ok_or(InferenceError::InvalidName)?;
        let read = move |store: &Store| -> Result<_, StoreError> {
            let model = store.open_model(&name)?;
            let head = model.head(store, Arrays::Short)?;
            Ok((store.blob_path(&model.weights), model, head.number("context_length"), head.is_embedding()))
        };
        let (path, model, trained, embeds) = match self.on_disk(read).await.ok_or_else(missing)? {
            Err(StoreError::NotFound) => return Err(missing()),
            result => result?,
        };
        let ability = match need {
            Need::Generate if embeds => Some("generate"),
            Need::Chat if embeds => Some("chat"),
            _ => None,
        };
        if let Some(ability) = ability {
            return Err(InferenceError::Unsupported { model: asked.to_owned(), ability });
        }
        let options = Options::from_maps([&model.parameters, &options])?;
        let label =
            Label { name: model.name.to_string(), digest: model.digest.clone(), details: model.details.clone() };
        let settings = options.settings(trained);
        let wanted = Wanted { weights: model.weights.clone(), path, settings, keep_alive, label };
        Ok(Prepared { model, sampling: options.sampling, wanted })
    }

    /// Loads the model and does nothing with it.
    pub(crate) async fn load(&self, prepared: &Prepared) -> Result<(), InferenceError> {
        self.pool.acquire(&prepared.wanted).await?.release();
        Ok(())
    }

    /// Starts an order and waits for its first result. A runner that died before it saw the order is replaced once,
    /// unseen; one that died of the order is not.
    pub(crate) async fn start(&self, prepared: &Prepared, order: Order) -> Result<Running, InferenceError> {
        let mut lease = self.pool.acquire(&prepared.wanted).await?;
        let mut load = lease.load;
        let mut job = lease.start(order.clone());
        let mut accepted = job.next().await;
        if matches!(accepted, Err(JobError::Stopped(_))) {
            lease = self.pool.acquire(&prepared.wanted).await?;
            load = lease.load;
            job = lease.start(order);
            accepted = job.next().await;
        }
        let first = match accepted? {
            Event::Accepted => job.next().await?,
            other => other,
        };
        Ok(Running { first: Some(first), job, load })
    }
}

// === impl Running ===

impl Running {
    /// The next event; nothing may be asked for after the last one or an error.
    pub(crate) async fn next(&mut self) -> Result<Event, JobError> {
        match self.first.take() {
            Some(event) => Ok(event),
            None => self.job.next().await,
        }
    }
}
