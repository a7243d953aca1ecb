//! The administrator's door: the admin API, the values', the events', the backups', that of consensus, that of versions
//! and that of pulls over gRPC, on the node's unix socket; and beside them, over HTTP, Ollama's words that change
//! models and `/mcp`.
//!
//! Handlers only translate: parse, ask an engine, translate back. Reads answer from this node's own state and say
//! how old it is, so they work without a leader and before a cluster exists; changes go through
//! [`metadata::Handle::propose`] from any node. Every error carries an error code, what happened, why, and the next
//! command. Every call has a request id: it stands on each of its log lines, in the entry of each change it makes,
//! and in the metadata of its answer.

use std::sync::Arc;

use axum::Extension;
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::{
    admin_server, backup_server, events_server, kv_server, models_server, raft_admin_server, tasks_server,
    tools_server, versions_server,
};
use ollamax_scheduler as scheduler;
use ollamax_tools::catalogue::ARGUMENTS_BYTES_MAX;
use ollamax_types::RequestId;
use ollamax_types::limits::COMMAND_BYTES_MAX;

use crate::error::ERROR_HEADER;
use crate::http::{Stopping, mcp};
use crate::toolbox::Toolbox;

pub mod attention;
pub mod backup;
mod bundles;
mod changes;
mod cordon;
pub mod daemon;
mod events;
mod kv;
pub mod management;
mod migrations;
mod models;
mod moves;
pub mod nodes;
mod ollama;
pub mod outlook;
pub mod pulls;
mod raft;
mod registry;
mod settings;
pub mod status;
mod tasks;
mod tokens;
mod tools;
mod upgrade;
mod wishes;

pub use changes::{By, PullStates, TakenBack};
pub use daemon::{AdminError, Daemon, Engines, Facts, NotDone, Path, Phase};

/// gRPC metadata key under which every answer, errors included, carries the id of its call.
pub const REQUEST_ID_KEY: &str = "ollamax-request-id";

/// Largest request about values: one command and what frames it.
const REQUEST_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;

/// Largest call of a tool: as many arguments as one may have, and what frames them.
const TOOL_REQUEST_BYTES_MAX: usize = 2 * ARGUMENTS_BYTES_MAX;

/// The user whose program opened the socket; an extension of every call that came over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketUser(pub u32);

/// The admin API of one node.
#[derive(Clone)]
pub struct Admin {
    daemon: Arc<dyn Daemon>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

// === impl Admin ===

impl Admin {
    /// The API for who tells what it says in other words than gRPC's.
    #[must_use]
    pub fn of(daemon: Arc<dyn Daemon>) -> Self {
        Self { daemon }
    }

    /// The pulls of the cluster, as this node hears of them within a second.
    ///
    /// # Errors
    /// When this node has no engines, or its state cannot be read.
    pub async fn pulls(&self) -> Result<v1::ListPullsReply, AdminError> {
        pulls::Pulls(self.clone()).of_all().await
    }

    /// The routes for a tonic server that takes HTTP/1.1 too, of a node without tools.
    #[must_use]
    pub fn routes(daemon: Arc<dyn Daemon>) -> Routes {
        Self::routes_with(daemon, Toolbox::default())
    }

    /// As [`Admin::routes`], with tools.
    #[must_use]
    pub fn routes_with(daemon: Arc<dyn Daemon>, tools: Toolbox) -> Routes {
        let admin = Self::of(daemon);
        let values = kv::Values::new(admin.clone());
        let consensus = raft::Consensus::new(admin.clone());
        let happenings = events::Happenings::new(admin.clone());
        let backups = backup::Backups(admin.clone());
        let upkeep = migrations::Upkeep::new(admin.clone());
        let pulls = pulls::Pulls(admin.clone());
        let routes = Routes::new(admin_server::AdminServer::new(admin));
        let routes = routes.add_service(events_server::EventsServer::new(happenings));
        let routes = routes.add_service(backup_server::BackupServer::new(backups));
        let routes = routes.add_service(kv_server::KvServer::new(values).max_decoding_message_size(REQUEST_BYTES_MAX));
        let routes = routes.add_service(raft_admin_server::RaftAdminServer::new(consensus));
        let routes = routes.add_service(versions_server::VersionsServer::new(upkeep));
        let routes = routes.add_service(models_server::ModelsServer::new(pulls.clone()));
        let routes = routes.add_service(tasks_server::TasksServer::new(tasks::Tasks(tools.clone())));
        let assistants = ollama::reading_rest(mcp::socket::route(tools.clone()));
        let tools = tools_server::ToolsServer::new(tools::Tools(tools));
        let routes = routes.add_service(tools.max_decoding_message_size(TOOL_REQUEST_BYTES_MAX));
        let routes = routes.into_axum_router().merge(assistants);
        ollama::with_routes(routes, pulls).layer(middleware::from_fn(identify)).into()
    }

    /// As [`Admin::routes_with`], where what may take hours in Ollama's words ends when `stop` is cancelled, and says
    /// so; what still comes of a request that is answered is read among `tasks`, and seconds longer.
    #[must_use]
    pub fn routes_until(
        daemon: Arc<dyn Daemon>,
        tools: Toolbox,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Routes {
        let routes = Self::routes_with(daemon, tools).into_axum_router().layer(Extension(Stopping(stop)));
        routes.layer(Extension(ollama::Beside(tasks.clone()))).into()
    }

    /// The engines, or the error that says how to get some.
    fn engines(&self) -> Result<Engines, AdminError> {
        let missing = || AdminError::without_engines(self.daemon.facts().phase);
        self.daemon.engines().ok_or_else(missing)
    }

    fn metadata(&self) -> Result<metadata::Handle, AdminError> {
        Ok(self.engines()?.metadata)
    }

    /// What the other nodes last said; empty before this node is a member.
    fn peers(&self) -> Vec<scheduler::PeerLoad> {
        self.daemon.engines().map(|engines| engines.scheduler.peers()).unwrap_or_default()
    }
}

/// Gives a call its id and its user, and writes its line in the log. Where no id can be drawn, the call goes on
/// without.
async fn identify(mut request: axum::extract::Request, next: Next) -> axum::response::Response {
    let id = ollamax_security::draw_request_id();
    request.extensions_mut().insert(id.clone());
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    if let Some(peer) = peer {
        request.extensions_mut().insert(SocketUser(peer.uid()));
    }
    let span = tracing::error_span!("admin", request_id = id.0);
    let (call, started_at) = (request.uri().path().to_owned(), Instant::now());
    let mut response = next.run(request).instrument(span.clone()).await;
    let took_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let code = response.headers().get(daemon::CODE_KEY).or_else(|| response.headers().get(ERROR_HEADER));
    let code = code.and_then(|code| code.to_str().ok());
    span.in_scope(|| tracing::debug!(call, code, took_ms, "answered an administrator"));
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID_KEY, id);
    }
    response
}

/// The id that [`identify`] gave a call.
fn id_of<T>(request: &Request<T>) -> RequestId {
    request.extensions().get().cloned().unwrap_or_default()
}

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(result: Result<T, AdminError>) -> Reply<T> {
    result.map(Response::new).map_err(Status::from)
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    type ImportModelStream = BoxStream<'static, Result<v1::ImportModelProgress, Status>>;
    type LogsStream = BoxStream<'static, Result<v1::LogLine, Status>>;

    async fn status(&self, _request: Request<v1::StatusRequest>) -> Reply<v1::StatusReply> {
        reply(self.status_reply())
    }

    async fn init(&self, request: Request<v1::InitRequest>) -> Reply<v1::InitReply> {
        reply(self.daemon.init(id_of(&request), request.into_inner()).await)
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Reply<v1::JoinReply> {
        reply(self.daemon.join(id_of(&request), request.into_inner()).await)
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Reply<v1::LeaveReply> {
        reply(self.daemon.leave(id_of(&request), request.into_inner()).await)
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Reply<v1::CreateTokenReply> {
        reply(self.daemon.create_token(id_of(&request), request.into_inner()).await)
    }

    async fn list_tokens(&self, _request: Request<v1::ListTokensRequest>) -> Reply<v1::ListTokensReply> {
        reply(self.tokens())
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Reply<v1::RevokeTokenReply> {
        reply(self.revoke(id_of(&request), &request.into_inner().id).await)
    }

    async fn drain_node(&self, request: Request<v1::DrainNodeRequest>) -> Reply<v1::DrainNodeReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.drain(id, &request.node, !request.undrain).await)
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Reply<v1::RemoveNodeReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.remove(&id, &request.node, request.force).await)
    }

    async fn list_models(&self, request: Request<v1::ListModelsRequest>) -> Reply<v1::ListModelsReply> {
        reply(self.models(&request.into_inner().name))
    }

    async fn import_model(
        &self,
        request: Request<Streaming<v1::ImportModelRequest>>,
    ) -> Reply<Self::ImportModelStream> {
        reply(self.daemon.import_model(request.into_inner()).await)
    }

    async fn get_setting(&self, request: Request<v1::GetSettingRequest>) -> Reply<v1::GetSettingReply> {
        let request = request.into_inner();
        reply(self.setting(request.key, request.local).await)
    }

    async fn set_setting(&self, request: Request<v1::SetSettingRequest>) -> Reply<v1::SetSettingReply> {
        reply(self.set_setting(id_of(&request), request.into_inner()).await)
    }

    async fn list_settings(&self, request: Request<v1::ListSettingsRequest>) -> Reply<v1::ListSettingsReply> {
        reply(self.settings(request.into_inner()).await)
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Reply<Self::LogsStream> {
        reply(Ok(self.daemon.logs(request.into_inner())))
    }

    async fn doctor(&self, _request: Request<v1::DoctorRequest>) -> Reply<v1::DoctorReply> {
        reply(Ok(self.daemon.doctor().await))
    }

    async fn transfer_leader(&self, request: Request<v1::TransferLeaderRequest>) -> Reply<v1::TransferLeaderReply> {
        reply(self.transfer(request.into_inner().to).await)
    }

    async fn label_node(&self, request: Request<v1::LabelNodeRequest>) -> Reply<v1::LabelNodeReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.label(id, request).await)
    }

    async fn cordon_node(&self, request: Request<v1::CordonNodeRequest>) -> Reply<v1::CordonNodeReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.cordon(id, &request).await)
    }
}
