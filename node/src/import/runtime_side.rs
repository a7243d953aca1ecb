//! The half of an import that happens beside one runtime: take the file, create the model, say its digest.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::Status;

use ollamax_outbound::{Client, RuntimeError, RuntimeHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::import_chunk::Part;
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::adapters::status::refusal;

/// Creates models in the runtime beside this node.
#[derive(Debug, Clone)]
pub(crate) struct Imports {
    runtime: RuntimeHandle,
}

// === impl Imports ===

impl Imports {
    /// Works with whatever runtime this node has.
    #[must_use]
    pub(crate) const fn new(runtime: RuntimeHandle) -> Self {
        Self { runtime }
    }

    /// Takes header and bytes, creates the model, answers its manifest digest. An upload that breaks off leaves
    /// nothing behind: the runtime checks the digest before it keeps a blob.
    ///
    /// # Errors
    /// A status with an error code.
    pub(crate) async fn receive(
        &self,
        mut chunks: BoxStream<'static, Result<v1::ImportChunk, Status>>,
    ) -> Result<Digest, Status> {
        let Some(Part::Header(header)) = chunks.next().await.transpose()?.and_then(|chunk| chunk.part) else {
            return Err(refusal(ErrorCode::BadRequest, "an import begins with a header"));
        };
        let (name, sha256) = (parse_name(&header.name)?, parse_digest(header.sha256)?);
        let client = self.client()?;
        let broke: Arc<Mutex<Option<String>>> = Arc::default();
        let noted = Arc::clone(&broke);
        let bytes = chunks.map(move |chunk| -> io::Result<Bytes> {
            match chunk {
                Ok(v1::ImportChunk { part: Some(Part::Data(data)) }) => Ok(data),
                other => {
                    let why = other.map_or_else(|status| status.message().to_owned(), |_| "no data".to_owned());
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
                }
            }
        });
        client.push_blob(sha256, header.size_bytes, bytes.boxed()).await.map_err(|error| {
            match broke.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(why) => refusal(ErrorCode::DeadlineExceeded, &format!("the upload broke off: {why}")),
                None => runtime_status(&error),
            }
        })?;
        create(&client, &name, sha256).await
    }

    /// Gives an imported file its final name and answers the manifest digest.
    ///
    /// # Errors
    /// A status with an error code.
    pub(crate) async fn publish(&self, request: v1::PublishModelRequest) -> Result<Digest, Status> {
        create(&self.client()?, &parse_name(&request.name)?, parse_digest(request.sha256)?).await
    }

    /// Deletes a model. One that is not there counts as deleted.
    ///
    /// # Errors
    /// A status with an error code.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        let (client, name) = (self.client()?, parse_name(name)?);
        if digest_of(&client, &name).await?.is_none() {
            return Ok(());
        }
        client.delete(&name).await.map_err(|error| runtime_status(&error))
    }

    fn client(&self) -> Result<Client, Status> {
        let none =
            || refusal(ErrorCode::RuntimeUnavailable, "there is no runtime beside this node; run ollamax doctor there");
        self.runtime.client().ok_or_else(none)
    }
}

async fn create(client: &Client, name: &ModelName, sha256: Digest) -> Result<Digest, Status> {
    client.create(name, sha256).await.map_err(|error| runtime_status(&error))?;
    let missing = || refusal(ErrorCode::RuntimeFailed, "the runtime created the model, but does not list it");
    digest_of(client, name).await?.ok_or_else(missing)
}

async fn digest_of(client: &Client, name: &ModelName) -> Result<Option<Digest>, Status> {
    let models = client.tags().await.map_err(|error| runtime_status(&error))?;
    Ok(models.into_iter().find(|model| model.name == *name).map(|model| model.digest))
}

fn runtime_status(error: &RuntimeError) -> Status {
    refusal(error.code(), &error.to_string())
}

fn parse_name(text: &str) -> Result<ModelName, Status> {
    text.parse().map_err(|_| refusal(ErrorCode::BadRequest, &format!("{text:?} is not a model name")))
}

fn parse_digest(bytes: Vec<u8>) -> Result<Digest, Status> {
    let bytes = bytes.try_into().map_err(|_| refusal(ErrorCode::BadRequest, "a SHA-256 digest has 32 bytes"))?;
    Ok(Digest(bytes))
}
