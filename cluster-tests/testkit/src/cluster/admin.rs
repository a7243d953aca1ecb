//! A node's admin API over its unix socket, with every call bounded and every error taken apart.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use ollamax_proto::v1;
use ollamax_proto::v1::admin_client::AdminClient;
use ollamax_types::ErrorCode;

/// Longest wait for an ordinary answer. A node must answer `no_quorum` well before.
pub(super) const CALL_TIME: Duration = Duration::from_secs(5);
/// Longest wait for `init` and `join`.
const FORM_TIME: Duration = Duration::from_secs(30);
/// Most settings asked for at once.
const PAGE: u32 = 500;

/// The metadata key under which a node sends its error code.
const CODE_KEY: &str = "ollamax-code";
/// The metadata key under which a node tells the id of a call.
const REQUEST_ID_KEY: &str = "ollamax-request-id";
/// The metadata keys under which it says why, and what to do.
const WHY_KEY: &str = "ollamax-why-bin";
const NEXT_KEY: &str = "ollamax-next-bin";

/// A change that the cluster has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Index of the entry.
    pub revision: u64,
    /// Its term.
    pub term: u64,
    /// From asking to hearing.
    pub took: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// Which node was asked.
    pub node: String,
    /// Its error code; `None` when the connection failed or nobody answered in time.
    pub code: Option<ErrorCode>,
    /// In words.
    pub message: String,
    /// How that came; empty when the node does not say.
    pub why: String,
    /// What to do; empty when the node does not say.
    pub next: String,
    /// From asking to hearing.
    pub took: Duration,
}

impl CallError {
    pub(crate) fn not_running(node: &str) -> Self {
        Self::unsaid(node, "does not run".to_owned(), Duration::ZERO)
    }

    /// A failure of which no node has said anything.
    fn unsaid(node: &str, message: String, took: Duration) -> Self {
        Self { node: node.to_owned(), code: None, message, why: String::new(), next: String::new(), took }
    }

    fn from_status(node: &str, status: &Status, took: Duration) -> Self {
        let named = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok());
        let code = named.and_then(ErrorCode::from_text);
        let message = format!("{}: {}", status.code(), status.message());
        let said = |key: &str| {
            let bytes = status.metadata().get_bin(key).and_then(|value| value.to_bytes().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { node: node.to_owned(), code, message, why: said(WHY_KEY), next: said(NEXT_KEY), took }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or("no code", ErrorCode::as_str);
        write!(f, "{} answered after {:?}: {code}: {}", self.node, self.took, self.message)?;
        let said = [("why", &self.why), ("try", &self.next)].into_iter().filter(|(_, text)| !text.is_empty());
        said.into_iter().try_for_each(|(word, text)| write!(f, "; {word}: {text}"))
    }
}

impl std::error::Error for CallError {}

/// The id of a call, from the metadata of its answer or its error.
///
/// # Errors
/// When there is none.
pub fn request_id(metadata: &MetadataMap) -> anyhow::Result<String> {
    let id = metadata.get(REQUEST_ID_KEY).context("no request id")?.to_str()?;
    ensure!(!id.is_empty(), "an empty request id");
    Ok(id.to_owned())
}

/// The answer of a call, within `limit`.
pub(super) async fn bounded<T>(
    node: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    let begin = Instant::now();
    match timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::from_status(node, &status, begin.elapsed())),
        Err(_) => {
            let message = format!("{}: no answer", Code::DeadlineExceeded);
            Err(CallError::unsaid(node, message, begin.elapsed()))
        }
    }
}

/// A node's admin API. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Admin {
    node: String,
    client: AdminClient<Channel>,
}

// === impl Admin ===

impl Admin {
    /// Prepares a connection; it is made with the first call.
    ///
    /// # Errors
    /// When the path cannot be written as an address.
    pub fn connect(node: &str, socket: &Path) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name the admin socket")?;
        let client = AdminClient::new(endpoint.connect_lazy());
        Ok(Self { node: node.to_owned(), client })
    }

    /// The connection itself, for what an answer carries beside its message.
    #[must_use]
    pub fn client(&self) -> AdminClient<Channel> {
        self.client.clone()
    }

    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        bounded(&self.node, limit, call).await
    }

    /// The picture that `ollamax status` draws.
    ///
    /// # Errors
    /// With the node's code and message.
    pub async fn status(&self) -> Result<v1::StatusReply, CallError> {
        self.call(CALL_TIME, self.client.clone().status(v1::StatusRequest {})).await
    }

    /// Makes the node the first of a cluster. Returns the token that it prints.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn init(&self, cluster: &str, name: &str) -> Result<v1::InitReply, CallError> {
        let request = v1::InitRequest { cluster_name: cluster.to_owned(), node_name: name.to_owned() };
        self.call(FORM_TIME, self.client.clone().init(request)).await
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn create_token(&self, role: &str, uses: u32) -> Result<String, CallError> {
        let request = v1::CreateTokenRequest { role: role.to_owned(), ttl_ms: 0, uses };
        Ok(self.create_token_as(request).await?.token)
    }

    /// Makes a join token with a life of its own.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn create_token_as(&self, request: v1::CreateTokenRequest) -> Result<v1::CreateTokenReply, CallError> {
        self.call(CALL_TIME, self.client.clone().create_token(request)).await
    }

    /// The tokens on record.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn tokens(&self) -> Result<Vec<v1::Token>, CallError> {
        Ok(self.call(CALL_TIME, self.client.clone().list_tokens(v1::ListTokensRequest {})).await?.tokens)
    }

    /// Makes the node a member.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn join(&self, token: &str, seeds: Vec<String>, name: &str) -> Result<v1::JoinReply, CallError> {
        let request =
            v1::JoinRequest { token: token.to_owned(), seeds, role: String::new(), node_name: name.to_owned() };
        self.call(FORM_TIME, self.client.clone().join(request)).await
    }

    /// Takes the node out of its cluster; its daemon ends by itself afterwards.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn leave(&self) -> Result<(), CallError> {
        self.call(FORM_TIME, self.client.clone().leave(v1::LeaveRequest { force: false })).await.map(drop)
    }

    /// Sets a configuration key.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn set(&self, key: &str, value: &[u8]) -> Result<Ack, CallError> {
        let begin = Instant::now();
        let request = v1::SetSettingRequest { key: key.to_owned(), value: value.to_vec(), delete: false };
        let reply = self.call(CALL_TIME, self.client.clone().set_setting(request)).await?;
        Ok(Ack { revision: reply.revision, term: reply.term, took: begin.elapsed() })
    }

    /// Reads a configuration key; `None` when it does not exist.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn get(&self, key: &str, local: bool) -> Result<Option<Vec<u8>>, CallError> {
        let request = v1::GetSettingRequest { key: key.to_owned(), local };
        match self.call(CALL_TIME, self.client.clone().get_setting(request)).await {
            Ok(reply) => Ok(reply.setting.map(|setting| setting.value)),
            Err(error) if error.code == Some(ErrorCode::SettingNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All configuration keys with a prefix, page by page.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn settings(&self, prefix: &str, local: bool) -> Result<Vec<v1::Setting>, CallError> {
        let mut all: Vec<v1::Setting> = Vec::new();
        loop {
            let after = all.last().map(|setting| setting.key.clone()).unwrap_or_default();
            let request = v1::ListSettingsRequest { prefix: prefix.to_owned(), after, limit: PAGE, local };
            let reply = self.call(CALL_TIME, self.client.clone().list_settings(request)).await?;
            let last_page = !reply.more || reply.settings.is_empty();
            all.extend(reply.settings);
            if last_page {
                return Ok(all);
            }
        }
    }

    /// Models as the cluster knows them.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn models(&self, name: &str) -> Result<Vec<v1::ModelView>, CallError> {
        let request = v1::ListModelsRequest { name: name.to_owned() };
        Ok(self.call(CALL_TIME, self.client.clone().list_models(request)).await?.models)
    }

    /// Drains or undrains a node.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn drain(&self, node: &str, undrain: bool) -> Result<(), CallError> {
        let request = v1::DrainNodeRequest { node: node.to_owned(), undrain };
        self.call(CALL_TIME, self.client.clone().drain_node(request)).await.map(|_| ())
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn remove(&self, node: &str, force: bool) -> Result<(), CallError> {
        let request = v1::RemoveNodeRequest { node: node.to_owned(), force };
        self.call(CALL_TIME, self.client.clone().remove_node(request)).await.map(|_| ())
    }

    /// Hands leadership to a member, by id.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn transfer_leader(&self, to: u64) -> Result<(), CallError> {
        let request = v1::TransferLeaderRequest { to };
        self.call(CALL_TIME, self.client.clone().transfer_leader(request)).await.map(|_| ())
    }
}
