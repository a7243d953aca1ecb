//! Backups of the replicated state, made by this node: when an administrator asks, and by the schedule while it leads.
//!
//! One is written at a time. A backup that was begun ends whole under its name, or leaves nothing; a caller who goes,
//! and a node that stops, break it off. The cluster's settings hold the public half of the key and what the schedule
//! made last; the secret half passes through here once, when it is made, and is kept nowhere.

#[cfg(test)]
pub(crate) mod alone;
pub(crate) mod daily;
mod depot;
mod folder;
pub(crate) mod metrics;
pub(crate) mod place;

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use ollamax_core::backup::{LAST_SETTING, Lying, Made, RECIPIENT_SETTING, surplus};
use ollamax_core::catalog::Command;
use ollamax_gateway::grpc::{AdminError, backup};
use ollamax_metadata as metadata;
use ollamax_metadata::backup::{BackupError, Order, Page, Progress};
use ollamax_outbound::bucket::Bucket;
use ollamax_proto::v1;
use ollamax_security::{BackupKey, BackupRecipient};
use ollamax_store as store;
use ollamax_types::{Clock, ErrorCode, RequestId};

use crate::config::BackupSection;
use crate::slot::Slot;
use depot::{Depot, of_bucket};
use folder::{Found, Job};
use metrics::Metrics;
use place::Place;

/// Messages about a backup on its way that may wait for their reader.
const PROGRESS_WAITING_MAX: usize = 16;
/// Folder in the data directory where backups lie unless another place is named.
const FOLDER: &str = "backups";
/// Folder in the data directory where backups wait for a bucket, or come from one.
pub(crate) const WAITING: &str = "backups-waiting";

/// The backups of this node. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Backups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slot: Slot,
    config: BackupSection,
    store: store::Config,
    data_dir: PathBuf,
    clock: Clock,
    metrics: Metrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Held while one is written.
    turn: Arc<Mutex<()>>,
}

/// What backups are made of and with.
pub(crate) struct Parts {
    /// Where the engines are.
    pub(crate) slot: Slot,
    /// `[backup]` of the configuration.
    pub(crate) config: BackupSection,
    /// The store's numbers.
    pub(crate) store: store::Config,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Wall time.
    pub(crate) clock: Clock,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Tasks that end with the engines.
    pub(crate) tasks: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
}

/// A backup that was made.
struct Done {
    view: v1::BackupView,
    removed: u64,
}

/// Everything that one backup needs, taken at its beginning.
struct Making {
    metadata: metadata::Handle,
    order: Order,
    depot: Depot,
    /// Older ones go when this one is there, and the cluster hears of it.
    scheduled: bool,
    _turn: OwnedMutexGuard<()>,
}

// === impl Backups ===

impl Backups {
    /// Puts them together.
    #[must_use]
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { slot, config, store, data_dir, clock, metrics, tasks, stop } = parts;
        Self(Arc::new(Inner { slot, config, store, data_dir, clock, metrics, tasks, stop, turn: Arc::default() }))
    }

    /// How often the schedule makes one, milliseconds; 0: never.
    #[must_use]
    pub(crate) fn every_ms(&self) -> u64 {
        self.0.config.every_ms()
    }

    /// Writes one and tells how far it is; the last message says what was made.
    ///
    /// # Errors
    /// When there is no state, or one that differs from the majority's; when there is no key or no such place; or when
    /// another one is being written.
    pub(crate) async fn create(
        &self,
        request: v1::CreateBackupRequest,
    ) -> Result<BoxStream<'static, Result<v1::CreateBackupProgress, Status>>, AdminError> {
        let making = self.begin(&request.to)?;
        // Without a majority there is still a state, and it may be the last one: its age is told.
        let asked = making.metadata.read_barrier().await;
        let age_ms = asked.is_err().then(|| making.metadata.age_ms().unwrap_or(u64::MAX));
        let (tell, told) = mpsc::channel(PROGRESS_WAITING_MAX);
        let backups = self.clone();
        // Ends with the backup, which ends when nobody hears of it any more or the node stops.
        self.0.tasks.spawn(async move {
            let reader = tell.clone();
            let watch = move |progress: Progress| match reader.is_closed() {
                true => Err(BackupError::BrokenOff),
                false => {
                    let doing = "writing".to_owned();
                    let message = v1::CreateBackupProgress {
                        written_bytes: progress.bytes,
                        records: progress.records,
                        doing,
                        ..v1::CreateBackupProgress::default()
                    };
                    // A reader that is behind misses a number, not the end.
                    drop(reader.try_send(Ok(message)));
                    Ok(())
                }
            };
            let last = backups.make(making, watch).await.map(|done| v1::CreateBackupProgress {
                written_bytes: done.view.size_bytes,
                doing: "done".to_owned(),
                made: Some(done.view),
                removed: done.removed,
                age_ms,
                ..v1::CreateBackupProgress::default()
            });
            // Whoever asked may have gone.
            drop(tell.send(last.map_err(Status::from)).await);
        });
        Ok(ReceiverStream::new(told).boxed())
    }

    /// The backups at a place.
    ///
    /// # Errors
    /// When there is no such place, or it cannot be read.
    pub(crate) async fn list(&self, request: v1::ListBackupsRequest) -> Result<v1::ListBackupsReply, AdminError> {
        let depot = self.depot(&request.from)?;
        let (found, more) = depot.list().await?;
        let backups = found.into_iter().map(|found| shown(found, &depot)).collect();
        Ok(v1::ListBackupsReply { backups, place: depot.shown(), more })
    }

    /// Makes a key and keeps its public half. Older backups still need the key before.
    ///
    /// # Errors
    /// When the cluster does not take the change.
    pub(crate) async fn new_key(&self, id: RequestId) -> Result<v1::NewBackupKeyReply, AdminError> {
        let metadata = self.metadata()?;
        let key = BackupKey::generate();
        let recipient = key.recipient().to_string();
        let replaced = backup::recipient(&*metadata.view())?.unwrap_or_default();
        let command = Command::SetSetting { key: RECIPIENT_SETTING.to_owned(), value: recipient.clone().into_bytes() };
        metadata.propose(id, "admin", command).await?.accepted()?;
        tracing::info!(recipient, replaced, "made a backup key");
        Ok(v1::NewBackupKeyReply { secret: key.text().expose().to_owned(), recipient, replaced })
    }

    /// Takes the turn and looks whether everything is there.
    fn begin(&self, to: &str) -> Result<Making, AdminError> {
        let metadata = self.metadata()?;
        metadata.check_agreement()?;
        let depot = self.depot(to)?;
        let recipient = backup::recipient(&*metadata.view())?.ok_or_else(AdminError::no_backup_key)?;
        let recipient = BackupRecipient::parse(&recipient).map_err(|error| {
            let what = format!("the setting {RECIPIENT_SETTING} holds no key");
            AdminError::new(ErrorCode::PreconditionFailed, what, error.to_string(), "ollamax backup new-key")
        })?;
        let turn = Arc::clone(&self.0.turn).try_lock_owned().map_err(|_| {
            let what = "another backup is being written on this node";
            AdminError::new(ErrorCode::Overloaded, what, "", "repeat the command when it is done")
        })?;
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let order = Order { taken_at: self.0.clock.now(), release, recipient };
        Ok(Making { metadata, order, depot, scheduled: to.is_empty(), _turn: turn })
    }

    /// Writes it; then, at the place of the schedule, tells the cluster and lets the oldest go.
    async fn make(
        &self,
        making: Making,
        watch: impl FnMut(Progress) -> Result<(), BackupError> + Send + 'static,
    ) -> Result<Done, AdminError> {
        let made = self.write(making, watch).await;
        self.0.metrics.made(made.as_ref().ok().map(|done| done.view.size_bytes));
        match &made {
            Ok(Done { view, removed }) => {
                let v1::BackupView { place, revision, size_bytes, .. } = view;
                tracing::info!(place, revision, size_bytes, removed, "made a backup");
            }
            Err(error) => tracing::warn!(code = %error.code, error = error.what, why = error.why, "make a backup"),
        }
        made
    }

    async fn write(
        &self,
        making: Making,
        mut watch: impl FnMut(Progress) -> Result<(), BackupError> + Send + 'static,
    ) -> Result<Done, AdminError> {
        let (inner, scheduled, metadata) = (Arc::clone(&self.0), making.scheduled, making.metadata.clone());
        let cluster_time = metadata.log_time();
        let (making, written, path) = blocking(move || {
            let mut look = |progress: Progress| match inner.stop.is_cancelled() {
                true => Err(BackupError::BrokenOff),
                false => watch(progress),
            };
            let Making { metadata, order, depot, .. } = &making;
            let folder = depot.make_folder()?;
            let (written, path) = Job { metadata, order, store: &inner.store, folder }.write(&mut look)?;
            Ok((making, written, path))
        })
        .await?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        making.depot.deliver(&path, &name, &self.0.stop).await?;
        let removed = match scheduled {
            true => self.prune(&making.depot, &written.page).await,
            false => 0,
        };
        if scheduled {
            let revision = written.page.revision;
            let made = Made { at: cluster_time, revision, node: metadata.node(), name: name.clone() };
            // The backup is there, told or not; untold, the next one is only made sooner.
            if let Err(error) = note(&metadata, &made).await {
                tracing::warn!(code = %error.code(), %error, "tell the cluster of a backup");
            }
        }
        let place = making.depot.place_of(&name);
        Ok(Done { view: of_page(name, place, written.bytes, &written.page), removed })
    }

    /// Removes what is too old of this cluster's. What cannot be removed stays, and is told.
    async fn prune(&self, depot: &Depot, page: &Page) -> u64 {
        let pruned = async {
            let lying: Vec<Lying> = depot.list().await?.0.into_iter().map(lying).collect();
            let old = surplus(&lying, page.cluster, self.0.config.keep);
            let removed = old.len() as u64;
            depot.remove(old).await.map(|()| removed)
        };
        let pruned: Result<u64, AdminError> = pruned.await;
        pruned.unwrap_or_else(|error| {
            tracing::warn!(code = %error.code, error = error.what, "remove old backups");
            0
        })
    }

    fn metadata(&self) -> Result<metadata::Handle, AdminError> {
        self.0.slot.get().map(|engines| engines.metadata).ok_or_else(AdminError::not_initialised)
    }

    /// The place that a text means: what was asked for, else what the configuration says.
    fn depot(&self, asked: &str) -> Result<Depot, AdminError> {
        let Inner { config, data_dir, clock, .. } = &*self.0;
        let text = if asked.is_empty() { config.to.as_str() } else { asked };
        let place = Place::parse(text).map_err(|error| {
            let next = "name a folder by its whole path, or a bucket: s3://BUCKET/PREFIX";
            AdminError::new(ErrorCode::BadRequest, error.to_string(), "", next)
        })?;
        match place {
            Place::Default => Ok(Depot::Folder(data_dir.join(FOLDER))),
            Place::Folder(folder) => Ok(Depot::Folder(folder)),
            Place::Bucket { bucket: name, prefix } => {
                let secret = config.s3.secret(|variable| std::env::var(variable).ok()).map_err(of_bucket)?;
                let bucket = Bucket::open(&config.s3, &name, &secret, clock.clone()).map_err(of_bucket)?;
                Ok(Depot::Bucket { bucket: Box::new(bucket), name, prefix, waiting: data_dir.join(WAITING) })
            }
        }
    }
}

/// Lets the cluster know, so that nobody makes it again.
async fn note(metadata: &metadata::Handle, made: &Made) -> Result<(), metadata::ProposeError> {
    let command = Command::SetSetting { key: LAST_SETTING.to_owned(), value: made.text().into_bytes() };
    let principal = format!("node/{}", metadata.node());
    metadata.propose(RequestId::default(), &principal, command).await?.accepted().map(drop)
}

/// Runs what waits for the disk where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, AdminError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| {
        let next = "ollamax logs --level error";
        AdminError::new(ErrorCode::Internal, "the work on a backup ended early", error.to_string(), next)
    })?;
    done.map_err(AdminError::from)
}

fn of_page(name: String, place: String, size_bytes: u64, page: &Page) -> v1::BackupView {
    v1::BackupView {
        name,
        place,
        size_bytes,
        cluster: page.cluster.0.to_vec(),
        cluster_name: page.cluster_name.clone(),
        revision: page.revision,
        taken_at_ms: page.taken_at.0,
        release: page.release.clone(),
        recipient: page.recipient.clone(),
        problem: String::new(),
    }
}

fn shown(found: Found, depot: &Depot) -> v1::BackupView {
    let place = depot.place_of(&found.name);
    match found.page {
        Ok(page) => of_page(found.name, place, found.bytes, &page),
        Err(problem) => v1::BackupView {
            name: found.name,
            place,
            size_bytes: found.bytes,
            problem: problem.to_string(),
            ..v1::BackupView::default()
        },
    }
}

fn lying(found: Found) -> Lying {
    let page = found.page.ok();
    Lying {
        name: found.name,
        cluster: page.as_ref().map(|page| page.cluster),
        revision: page.as_ref().map_or(0, |page| page.revision),
        taken_at: page.map_or_else(Default::default, |page| page.taken_at),
    }
}
