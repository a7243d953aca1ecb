//! Backups: written and listed by the node that is asked, for a key of which the cluster keeps the public half alone.
//!
//! Where files lie is the assembly's; here is what an administrator is told when something is in the way.

use futures::stream::BoxStream;
use tonic::{Request, Status};

use ollamax_core::backup::{LAST_SETTING, Made, RECIPIENT_SETTING, Trouble, trouble};
use ollamax_core::catalog::{View, read};
use ollamax_metadata::backup::BackupError;
use ollamax_proto::v1;
use ollamax_proto::v1::backup_server::Backup;
use ollamax_types::{ErrorCode, Timestamp};

use super::daemon::AdminError;
use super::{Admin, Reply, id_of, reply};

/// The backups of the cluster, at one node.
#[derive(Clone)]
pub(super) struct Backups(pub(super) Admin);

#[tonic::async_trait]
impl Backup for Backups {
    type CreateBackupStream = BoxStream<'static, Result<v1::CreateBackupProgress, Status>>;

    async fn create_backup(&self, request: Request<v1::CreateBackupRequest>) -> Reply<Self::CreateBackupStream> {
        reply(self.0.daemon.create_backup(request.into_inner()).await)
    }

    async fn list_backups(&self, request: Request<v1::ListBackupsRequest>) -> Reply<v1::ListBackupsReply> {
        reply(self.0.daemon.list_backups(request.into_inner()).await)
    }

    async fn new_backup_key(&self, request: Request<v1::NewBackupKeyRequest>) -> Reply<v1::NewBackupKeyReply> {
        reply(self.0.daemon.new_backup_key(id_of(&request)).await)
    }
}

/// What the schedule made last, as the state has it.
///
/// # Errors
/// When the state cannot be read.
pub fn last_made(view: &dyn View) -> Result<Option<Made>, AdminError> {
    Ok(text(view, LAST_SETTING)?.and_then(|text| Made::parse(&text)))
}

/// The public half of the backup key, as the state has it.
///
/// # Errors
/// When the state cannot be read.
pub fn recipient(view: &dyn View) -> Result<Option<String>, AdminError> {
    Ok(text(view, RECIPIENT_SETTING)?.filter(|text| !text.is_empty()))
}

fn text(view: &dyn View, key: &str) -> Result<Option<String>, AdminError> {
    let setting = read::setting(view, key)?;
    Ok(setting.map(|setting| String::from_utf8_lossy(&setting.value).into_owned()))
}

/// What wants a decision about the schedule of this node's configuration; nothing before there is a cluster.
pub(super) fn wanting(view: &dyn View, now: Timestamp, every_ms: u64) -> Result<Option<Trouble>, AdminError> {
    let Some(cluster) = read::cluster(view)? else { return Ok(None) };
    let last = last_made(view)?.map(|made| made.at);
    Ok(trouble(now, cluster.created_at, last, every_ms, recipient(view)?.is_some()))
}

impl AdminError {
    /// Nobody has made a backup key yet.
    #[must_use]
    pub fn no_backup_key() -> Self {
        Self::new(
            ErrorCode::PreconditionFailed,
            "there is no backup key to seal a backup for",
            "this cluster was made without one",
            "ollamax backup new-key; it shows the secret half once",
        )
    }
}

impl From<BackupError> for AdminError {
    fn from(error: BackupError) -> Self {
        let next = match &error {
            BackupError::NoCluster => return Self::not_initialised(),
            BackupError::Io { .. } => "look at the disk and at the rights of the folder that backups go to (backup.to)",
            BackupError::Full(_) => "free some space there, or name another place: ollamax backup create --to DIR",
            BackupError::BrokenOff => "repeat the command",
            BackupError::OtherKey { .. } => "use the key that was shown when that public half was made",
            BackupError::NotABackup(_) => "name a file that ollamax backup create has made",
            BackupError::Newer { .. } | BackupError::ClusterTooNew { .. } => "use the release that made it",
            BackupError::Damaged { .. } => "use another backup: ollamax backup list",
            BackupError::Export(_)
            | BackupError::State(_)
            | BackupError::Open(_)
            | BackupError::Import(_)
            | BackupError::Lineage(_) => "ollamax logs --level error",
        };
        Self::new(error.code(), error.to_string(), "", next)
    }
}
