//! The scheduler's `Runtime` port over the client of the runtime beside this node.

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use ollamax_outbound::RuntimeHandle;
use ollamax_scheduler::{Broken, Response, Runtime, RuntimeError};
use ollamax_types::{InferenceRequest, NodeId};

/// Sends to whatever runtime this node has now.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeOverOllama {
    runtime: RuntimeHandle,
    node: NodeId,
}

// === impl RuntimeOverOllama ===

impl RuntimeOverOllama {
    /// Answers in this node's name.
    #[must_use]
    pub(crate) const fn new(runtime: RuntimeHandle, node: NodeId) -> Self {
        Self { runtime, node }
    }
}

impl Runtime for RuntimeOverOllama {
    fn send(&self, request: InferenceRequest) -> BoxFuture<'static, Result<Response, RuntimeError>> {
        let (client, node) = (self.runtime.client(), self.node);
        async move {
            let Some(client) = client else {
                return Err(RuntimeError::Unreachable("no runtime is known".to_owned()));
            };
            let answer = client.infer(request.api, request.body, request.trace.as_ref()).await.map_err(|error| {
                if error.has_started() {
                    RuntimeError::Failed(error.to_string())
                } else {
                    RuntimeError::Unreachable(error.to_string())
                }
            })?;
            let body = answer.body.map(|chunk| chunk.map_err(|broken| Broken { message: broken.to_string() }));
            Ok(Response { status: answer.status, headers: answer.headers, node, body: body.boxed() })
        }
        .boxed()
    }
}
