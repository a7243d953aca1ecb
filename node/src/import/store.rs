//! The models of one runtime, as an import and Ollama's management words change them: a port, filled by the runtime's
//! client and in memory.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

use ollamax_outbound::{Client, RuntimeError, WorkStep};
use ollamax_types::{Digest, ModelName};

use crate::import::plan::{Listed, Step};

/// What is asked of a runtime to change its models.
pub(crate) trait ModelStore: Send + Sync {
    /// Every model.
    fn list(&self) -> impl Future<Output = Result<Vec<Listed>, RuntimeError>> + Send;

    /// Whether the file with this SHA-256 is there.
    fn has_file(&self, sha256: Digest) -> impl Future<Output = Result<bool, RuntimeError>> + Send;

    /// Takes a file, of a size that may not be known; a source that breaks off, or other bytes, leave nothing.
    fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes a model of a file.
    fn create(&self, name: &ModelName, sha256: Digest) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Changes names.
    fn take_step(&self, step: &Step) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes a model as the body of Ollama's `/api/create` says; dropping the stream ends it.
    fn make(&self, body: Bytes) -> BoxStream<'static, Result<WorkStep, RuntimeError>>;

    /// Gives a model to the registry of its name; dropping the stream ends it.
    fn give(&self, name: &ModelName, insecure: bool) -> BoxStream<'static, Result<WorkStep, RuntimeError>>;
}

impl ModelStore for Client {
    async fn list(&self) -> Result<Vec<Listed>, RuntimeError> {
        let models = self.tags().await?;
        Ok(models.into_iter().map(|model| Listed { name: model.name, digest: model.digest }).collect())
    }

    async fn has_file(&self, sha256: Digest) -> Result<bool, RuntimeError> {
        self.has_blob(sha256).await
    }

    async fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), RuntimeError> {
        self.push_blob(sha256, size_bytes, bytes).await
    }

    async fn create(&self, name: &ModelName, sha256: Digest) -> Result<(), RuntimeError> {
        Self::create(self, name, sha256).await
    }

    async fn take_step(&self, step: &Step) -> Result<(), RuntimeError> {
        match step {
            Step::Copy { from, to } => self.copy(from, to).await,
            Step::Delete(name) => self.delete(name).await,
        }
    }

    fn make(&self, body: Bytes) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        self.create_with(body)
    }

    fn give(&self, name: &ModelName, insecure: bool) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        self.push(name, insecure)
    }
}
