//! One request to a model runtime, on its way from a client's door to the node that answers.

use bytes::Bytes;

use crate::digest::Digest;
use crate::id::RequestId;
use crate::name::ModelName;
use crate::trace::Trace;

/// The runtime routes that are routed to a node which has the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// `POST /api/generate`
    Generate,
    /// `POST /api/chat`
    Chat,
    /// `POST /api/embed`
    Embed,
    /// `POST /api/show`
    Show,
    /// `POST /v1/chat/completions`
    OpenAiChat,
    /// `POST /v1/embeddings`
    OpenAiEmbeddings,
}

impl Api {
    /// All of them, in the order of their stored numbers.
    pub const ALL: [Self; 6] =
        [Self::Generate, Self::Chat, Self::Embed, Self::Show, Self::OpenAiChat, Self::OpenAiEmbeddings];

    /// The path at the runtime.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Generate => "/api/generate",
            Self::Chat => "/api/chat",
            Self::Embed => "/api/embed",
            Self::Show => "/api/show",
            Self::OpenAiChat => "/v1/chat/completions",
            Self::OpenAiEmbeddings => "/v1/embeddings",
        }
    }

    /// Finds the route for a path.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.path() == path)
    }

    /// Whether a request occupies a slot of the model's runner (`/api/show` only reads files).
    #[must_use]
    pub const fn needs_runner(self) -> bool {
        !matches!(self, Self::Show)
    }
}

/// What routing needs to know, and the body exactly as the client sent it.
#[derive(Debug, Clone)]
pub struct InferenceRequest {
    /// Follows the request through the logs of all nodes.
    pub id: RequestId,
    /// The trace that its client named, under the span of whoever sends the request on.
    pub trace: Option<Trace>,
    /// Which route of the runtime.
    pub api: Api,
    /// The model asked for, canonical.
    pub model: ModelName,
    /// Set by the router: the manifest that the owner must hold, else it refuses with `stale_placement`.
    pub digest: Option<Digest>,
    /// `options.num_ctx`, where the client set it.
    pub num_ctx: Option<u32>,
    /// Whether the answer is a stream of lines or events.
    pub stream: bool,
    /// The client's body, untouched.
    pub body: Bytes,
}
