//! The connection to the daemon on this machine: gRPC over its unix socket.

use tonic::transport::Channel;

use ollamax_proto::v1::admin_client::AdminClient;
use ollamax_proto::v1::backup_client::BackupClient;
use ollamax_proto::v1::events_client::EventsClient;
use ollamax_proto::v1::kv_client::KvClient;
use ollamax_proto::v1::models_client::ModelsClient;
use ollamax_proto::v1::raft_admin_client::RaftAdminClient;
use ollamax_proto::v1::tasks_client::TasksClient;
use ollamax_proto::v1::tools_client::ToolsClient;
use ollamax_proto::v1::versions_client::VersionsClient;

use crate::args::Global;
use crate::error::Failure;
use crate::place;

/// A client of the admin API.
pub(crate) type Admin = AdminClient<Channel>;
/// A client of the values' API.
pub(crate) type Kv = KvClient<Channel>;
/// A client of the backups' API.
pub(crate) type Backups = BackupClient<Channel>;
/// A client of the API of consensus.
pub(crate) type Raft = RaftAdminClient<Channel>;
/// A client of the events' API.
pub(crate) type Events = EventsClient<Channel>;
/// A client of the API of pulls.
pub(crate) type Models = ModelsClient<Channel>;
/// A client of the API of tasks.
pub(crate) type Tasks = TasksClient<Channel>;
/// A client of the API of tools.
pub(crate) type Tools = ToolsClient<Channel>;
/// A client of the API of versions.
pub(crate) type Versions = VersionsClient<Channel>;

/// Largest answer, bytes: listings of large clusters.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Connects to the daemon.
pub(crate) async fn connect(global: &Global) -> Result<Admin, Failure> {
    Ok(AdminClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for its values.
pub(crate) async fn connect_kv(global: &Global) -> Result<Kv, Failure> {
    let client = KvClient::new(channel(global).await?);
    Ok(client.max_decoding_message_size(ANSWER_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for its backups.
pub(crate) async fn connect_backup(global: &Global) -> Result<Backups, Failure> {
    Ok(BackupClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for its consensus.
pub(crate) async fn connect_raft(global: &Global) -> Result<Raft, Failure> {
    Ok(RaftAdminClient::new(channel(global).await?))
}

/// Connects to the daemon for its events.
pub(crate) async fn connect_events(global: &Global) -> Result<Events, Failure> {
    Ok(EventsClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for its pulls.
pub(crate) async fn connect_models(global: &Global) -> Result<Models, Failure> {
    Ok(ModelsClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for the tasks of its tools.
pub(crate) async fn connect_tasks(global: &Global) -> Result<Tasks, Failure> {
    Ok(TasksClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for its tools.
pub(crate) async fn connect_tools(global: &Global) -> Result<Tools, Failure> {
    Ok(ToolsClient::new(channel(global).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// Connects to the daemon for migrations and what is said before an upgrade.
pub(crate) async fn connect_versions(global: &Global) -> Result<Versions, Failure> {
    Ok(VersionsClient::new(channel(global).await?))
}

#[cfg(unix)]
async fn channel(global: &Global) -> Result<Channel, Failure> {
    channel_at(&place::socket(&place::data_dir(global)?)).await
}

/// Connects to the socket at a path.
#[cfg(unix)]
pub(crate) async fn connect_at(path: &std::path::Path) -> Result<Admin, Failure> {
    Ok(AdminClient::new(channel_at(path).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

#[cfg(unix)]
async fn channel_at(path: &std::path::Path) -> Result<Channel, Failure> {
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;
    use tonic::transport::{Endpoint, Uri};

    // Connecting once by hand gives the system's own words; tonic would hide them.
    if let Err(error) = UnixStream::connect(path).await {
        return Err(place::unusable(path, &error));
    }
    let shown = path.display().to_string();
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let endpoint = Endpoint::from_static("http://admin.sock");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| place::not_running(&shown, &error.to_string()).caused_by(&error))
}

/// Unix sockets are what keeps strangers out; without them there is no admin door yet.
#[cfg(not(unix))]
#[expect(clippy::unused_async, reason = "same shape as on unix")]
async fn channel(_global: &Global) -> Result<Channel, Failure> {
    let next = "run it on a node; `ollamax run` and `ollamax ps` work from here with --api";
    Err(Failure::new(1, "administration goes through the daemon's unix socket", "this system has none", next))
}
