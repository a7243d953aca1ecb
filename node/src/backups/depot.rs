//! A place that can be used: a folder, or a bucket with a folder beside it in which files wait to be put there.
//!
//! What lies in a depot under a backup's name is whole: a folder gets it by rename, a bucket by the request that
//! ends an upload. A file that waited for a bucket goes in any case; what a crash left there goes before the next.

use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use futures::stream;
use tokio_util::sync::CancellationToken;

use ollamax_core::backup;
use ollamax_gateway::grpc::AdminError;
use ollamax_metadata::backup::{BackupError, PAGE_BYTES, read_page};
use ollamax_outbound::bucket::{Bucket, BucketError, Object};

use super::folder::{self, Found, LISTED_MAX};
use super::{blocking, place};

/// First pages that are read at once from a bucket.
const READ_AT_ONCE: usize = 16;

/// A place that can be used.
#[derive(Debug, Clone)]
pub(super) enum Depot {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A prefix in a bucket.
    Bucket {
        /// Where it goes.
        bucket: Box<Bucket>,
        /// The bucket's name.
        name: String,
        /// Before the names of backups.
        prefix: String,
        /// Where files wait.
        waiting: PathBuf,
    },
}

// === impl Depot ===

impl Depot {
    /// As people write it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Bucket { name, prefix, .. } => place::shown(name, prefix),
        }
    }

    /// The place of one backup.
    pub(super) fn place_of(&self, name: &str) -> String {
        format!("{}/{name}", self.shown().trim_end_matches('/'))
    }

    /// The folder in which a backup is written first; empty where it only waits there. Waits for the disk.
    pub(super) fn make_folder(&self) -> Result<&Path, BackupError> {
        match self {
            Self::Folder(folder) => Ok(folder),
            Self::Bucket { waiting, .. } => {
                let cleared = if waiting.exists() { fs::remove_dir_all(waiting) } else { Ok(()) };
                cleared.map_err(|source| BackupError::Io { action: "clear the folder of waiting backups", source })?;
                Ok(waiting)
            }
        }
    }

    /// Brings a backup that was written to where it belongs. `stop` breaks it off.
    pub(super) async fn deliver(&self, path: &Path, name: &str, stop: &CancellationToken) -> Result<(), AdminError> {
        let Self::Bucket { bucket, prefix, .. } = self else { return Ok(()) };
        let put = bucket.put(&format!("{prefix}{name}"), path, stop).await;
        if let Err(error) = tokio::fs::remove_file(path).await {
            tracing::warn!(%error, "remove a backup that waited for its bucket");
        }
        put.map_err(of_bucket)
    }

    /// The backups that lie here, the newest first, and whether there are more.
    pub(super) async fn list(&self) -> Result<(Vec<Found>, bool), AdminError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder::list(&folder)).await
            }
            Self::Bucket { bucket, prefix, .. } => {
                let (objects, more) = bucket.list(prefix).await.map_err(of_bucket)?;
                let mut named = backups_among(objects, prefix);
                let more = more || named.len() > LISTED_MAX;
                named.truncate(LISTED_MAX);
                let looks = named.into_iter().map(|(name, bytes)| look_at(bucket, prefix, name, bytes));
                let mut found: Vec<Found> = stream::iter(looks).buffered(READ_AT_ONCE).collect().await;
                folder::sort(&mut found);
                Ok((found, more))
            }
        }
    }

    /// Removes some.
    pub(super) async fn remove(&self, names: Vec<String>) -> Result<(), AdminError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || names.iter().try_for_each(|name| folder::remove(&folder, name))).await
            }
            Self::Bucket { bucket, prefix, .. } => {
                for name in names {
                    bucket.remove(&format!("{prefix}{name}")).await.map_err(of_bucket)?;
                }
                Ok(())
            }
        }
    }
}

/// Names and lengths of the backups among objects, the newest name first.
fn backups_among(objects: Vec<Object>, prefix: &str) -> Vec<(String, u64)> {
    let named = objects.into_iter().filter_map(|object| {
        let name = object.key.strip_prefix(prefix)?;
        backup::is_name(name).then(|| (name.to_owned(), object.bytes))
    });
    let mut named: Vec<_> = named.collect();
    named.sort_unstable();
    named.reverse();
    named
}

async fn look_at(bucket: &Bucket, prefix: &str, name: String, bytes: u64) -> Found {
    let page = match bucket.beginning(&format!("{prefix}{name}"), PAGE_BYTES).await {
        Ok(beginning) => read_page(&mut beginning.as_slice()),
        Err(error) => Err(BackupError::NotABackup(error.to_string())),
    };
    Found { name, bytes, page }
}

/// What an administrator can do about a bucket.
pub(super) fn of_bucket(error: BucketError) -> AdminError {
    let next = match &error {
        BucketError::Config { .. } => "set backup.s3.endpoint and backup.s3.access_key_id, and start the node again",
        BucketError::Secret { .. } => "write the secret into a file of mode 0600 and name it: backup.s3.secret_file",
        BucketError::File { .. } | BucketError::Unwritten { .. } => "look at the disk of the data directory",
        BucketError::TooLarge { .. } => "ollamax backup create --to DIR",
        BucketError::BrokenOff => "repeat the command when the node runs again",
        BucketError::Unreachable { .. }
        | BucketError::Cut { .. }
        | BucketError::Refused { .. }
        | BucketError::Garbled { .. } => {
            "look at backup.s3.* and at the store; meanwhile: ollamax backup create --to DIR"
        }
    };
    AdminError::new(error.code(), error.to_string(), "", next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_backups_right_below_the_prefix_count() {
        let object = |key: &str| Object { key: key.to_owned(), bytes: 1 };
        let (old, new) = ("ollamax-lab-20260101T030405Z-1.oxb.age", "ollamax-lab-20260102T030405Z-2.oxb.age");
        let objects = vec![
            object(&format!("lab/{old}")),
            object("lab/readme"),
            object(&format!("lab/deeper/{new}")),
            object(&format!("lab/{new}")),
            object(&format!("other/{new}")),
        ];
        assert_eq!(backups_among(objects, "lab/"), [(new.to_owned(), 1), (old.to_owned(), 1)]);
    }
}
