//! What the routes ask of the cluster: a port, filled by what gRPC asks too and, in tests, by what a test says.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use ollamax_proto::v1;
use ollamax_types::{Digest, ModelName, RequestId};

use super::recipe::Recipe;
use crate::grpc::management::{FileBytes, ProgressStream};
use crate::grpc::pulls::Pulls;
use crate::grpc::{AdminError, Facts};

/// The node that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name.
    pub(super) name: String,
    /// Base URL of the clients' door.
    pub(super) api_url: String,
}

/// The cluster, as these routes see it.
pub(super) trait Cluster: Send + Sync + 'static {
    /// The node that answers.
    fn place(&self) -> Place;

    /// Has a model made. Dropping what is told ends it.
    fn create(&self, recipe: Recipe) -> BoxFuture<'_, Result<ProgressStream, AdminError>>;

    /// Has a model pushed. Dropping what is told ends it.
    fn push(&self, name: &ModelName, insecure: bool) -> BoxFuture<'_, Result<ProgressStream, AdminError>>;

    /// Gives a model another name, and says whether a node has it under that one by now.
    fn copy<'a>(
        &'a self,
        id: RequestId,
        from: &'a ModelName,
        to: &'a ModelName,
    ) -> BoxFuture<'a, Result<bool, AdminError>>;

    /// Removes a model everywhere, and says whether it is gone by now.
    fn delete<'a>(&'a self, id: RequestId, name: &'a ModelName) -> BoxFuture<'a, Result<bool, AdminError>>;

    /// Whether the runtime beside this node has a file.
    fn has_blob(&self, sha256: Digest) -> BoxFuture<'_, Result<bool, AdminError>>;

    /// Hands a file to the runtime beside this node. What breaks off, and what is dropped, leaves nothing.
    fn take_blob(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: FileBytes,
    ) -> BoxFuture<'_, Result<(), AdminError>>;
}

impl Cluster for Pulls {
    fn place(&self) -> Place {
        let Facts { name, api_url, .. } = self.0.daemon.facts();
        Place { name, api_url }
    }

    fn create(&self, recipe: Recipe) -> BoxFuture<'_, Result<ProgressStream, AdminError>> {
        async move { self.create_of_files(recipe.head, &recipe.files).await }.boxed()
    }

    fn push(&self, name: &ModelName, insecure: bool) -> BoxFuture<'_, Result<ProgressStream, AdminError>> {
        let asked = v1::PushRequest { name: name.to_string(), node: String::new(), insecure };
        async move { self.push_model(&asked).await }.boxed()
    }

    fn copy<'a>(
        &'a self,
        id: RequestId,
        from: &'a ModelName,
        to: &'a ModelName,
    ) -> BoxFuture<'a, Result<bool, AdminError>> {
        self.copy_until_seen(id, from, to).boxed()
    }

    fn delete<'a>(&'a self, id: RequestId, name: &'a ModelName) -> BoxFuture<'a, Result<bool, AdminError>> {
        self.delete_until_seen(id, name).boxed()
    }

    fn has_blob(&self, sha256: Digest) -> BoxFuture<'_, Result<bool, AdminError>> {
        self.has_file(sha256).boxed()
    }

    fn take_blob(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: FileBytes,
    ) -> BoxFuture<'_, Result<(), AdminError>> {
        self.take_file(sha256, size_bytes, bytes).boxed()
    }
}
