//! Opening and closing: what is checked before anything is served.
//!
//! Order: lock, high-water file, database, format, identity, vote, log, generation of the state. Each step refuses with
//! its own words; nothing is changed before all that can be refused was looked at, save that a fresh directory gets
//! its first files and a damaged tail of the write-ahead log is cut. Layout under `raft/`: `lock`, `high-water`, `db/`
//! (RocksDB), `incoming/` (a snapshot arriving, or what a cut has left of one), `cut-tail` (bytes that a power cut had
//! left at the end of the log), `ballast`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rocksdb::WriteBatch;
use tokio::sync::watch;

use ollamax_types::{ClusterId, Incarnation, NodeId};

use crate::Config;
use crate::ballast::Ballast;
use crate::database::{Database, META};
use crate::error::{DiskError, OpenError, SyncError, WriteError};
use crate::flush::Flusher;
use crate::framing::Malformed;
use crate::health::Health;
use crate::high_water::{HighWater, Promises, sync_directory};
use crate::lock::DirectoryLock;
use crate::log::{Log, Positions, recovery};
use crate::marks;
use crate::metrics::Metrics;
use crate::shared::{Inner, Shared};
use crate::snapshot::sweep;
use crate::state::applied::{KEY as APPLIED_KEY, Standing};
use crate::state::{Current, State};
use crate::sync::{SyncThread, SyncTimes};
use crate::wal_tail;

/// Where a snapshot arrives, under `raft/`.
const INCOMING: &str = "incoming";

/// Whose data directory it is. All three are bound together for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's id in it.
    pub node: NodeId,
    /// The data directory.
    pub incarnation: Incarnation,
}

/// What was found, before anything works on it.
struct Opened {
    database: Database,
    config: Config,
    mark: HighWater,
    positions: Positions,
    current: Current,
}

/// An open store. Cheap to clone; it closes when the last handle, view, batch, export and import is gone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

// === impl Store ===

impl Store {
    /// Opens the store under `dir/raft`, or makes it. With an identity, the directory must have the same one or none
    /// yet, and is bound to it; without, it is opened as what it is.
    ///
    /// # Errors
    /// When the directory is in use, belongs to another node, is of a newer format, has lost what was promised, or the
    /// disk refuses. Each says what to do.
    pub fn open(dir: &Path, identity: Option<StoreIdentity>, config: Config) -> Result<Self, OpenError> {
        let problems = config.validate();
        if !problems.is_empty() {
            return Err(OpenError::Config(problems));
        }
        let raft = dir.join("raft");
        fs::create_dir_all(&raft).map_err(|error| DiskError::io("make the data directory", &error))?;
        let lock = DirectoryLock::take(&raft.join("lock"))?;
        let (mut mark, database_path) = (open_mark(&raft)?, raft.join("db"));
        check_identity(dir, mark.promises().identity.as_ref(), identity.as_ref())?;
        let judge = |left: &Database| judge(left, mark.promises(), &config);
        let database = Database::open(&database_path, &config, lock, judge)?;
        check_format(dir, &database)?;
        check_identity(dir, marks::read_identity(&database)?.as_ref(), identity.as_ref())?;
        check_vote(marks::read_vote(&database)?.as_ref(), mark.promises())?;
        let positions = recovery::recover(&database, mark.promises().last_synced)?;
        let current = open_state(&database)?;
        check_replay(&positions, &current, &config)?;
        sweep(&raft.join(INCOMING), current.flushed)?;
        bind(&database, &mut mark, identity)?;
        Self::start(Opened { database, config, mark, positions, current }, &raft)
    }

    /// Opens what lies under `dir/raft` to be read, and changes nothing there but the lock file and RocksDB's own text
    /// log: what a crash left is neither cut nor flushed, and the state is as the last flush left it. Every write
    /// fails.
    ///
    /// # Errors
    /// As [`Store::open`], and when nothing is there.
    pub fn open_read_only(dir: &Path, config: Config) -> Result<Self, OpenError> {
        let problems = config.validate();
        if !problems.is_empty() {
            return Err(OpenError::Config(problems));
        }
        let raft = dir.join("raft");
        let missing = || OpenError::Missing { path: raft.clone() };
        if !Database::exists(&raft.join("db")) {
            return Err(missing());
        }
        let lock = DirectoryLock::take(&raft.join("lock"))?;
        let mark = open_mark(&raft)?;
        let path = raft.join("db");
        let database = Database::open_read_only(&path, &config, Some(lock)).map_err(|error| unread(&path, error))?;
        let format = marks::read_format(&database)?.ok_or_else(missing)?;
        check_known(dir, format)?;
        let identity = marks::read_identity(&database)?;
        check_identity(dir, mark.promises().identity.as_ref(), identity.as_ref())?;
        check_vote(marks::read_vote(&database)?.as_ref(), mark.promises())?;
        let (positions, _left_as_it_is) = recovery::look(&database, mark.promises().last_synced)?;
        let generation = marks::read_generation(&database)?.ok_or_else(missing)?;
        let current = read_state(&database, generation)?;
        check_replay(&positions, &current, &config)?;
        Self::start(Opened { database, config, mark, positions, current }, &raft)
    }

    fn start(opened: Opened, raft: &Path) -> Result<Self, OpenError> {
        let Opened { database, config, mark, positions, current } = opened;
        let shared = Arc::new(Shared {
            database: Arc::new(database),
            config,
            metrics: Metrics::default(),
            health: Health::new(),
            high_water: Mutex::new(mark),
            positions: RwLock::new(positions),
            current: RwLock::new(current),
            maintenance: Mutex::new(()),
            importing: AtomicBool::new(false),
            incoming: raft.join(INCOMING),
            ballast: Ballast::default(),
            sync_times: SyncTimes::default(),
        });
        let (flusher, sync) = (Flusher::start(Arc::clone(&shared))?, SyncThread::start(Arc::clone(&shared))?);
        Ok(Self { inner: Arc::new(Inner { flusher, sync, shared }) })
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::new(Arc::clone(&self.inner))
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        State::new(Arc::clone(&self.inner))
    }

    /// Whose directory it is, if it was bound.
    #[must_use]
    pub fn identity(&self) -> Option<StoreIdentity> {
        let mark = self.inner.shared.high_water.lock().unwrap_or_else(PoisonError::into_inner);
        mark.promises().identity.clone()
    }

    /// Holds the reason once a write or sync has failed. The node must stop then: no later write is taken.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<SyncError>> {
        self.inner.shared.health.watch()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.shared.config
    }

    pub(crate) fn ballast(&self) -> &Ballast {
        &self.inner.shared.ballast
    }

    pub(crate) fn path(&self) -> &Path {
        self.inner.shared.database.rocks().path()
    }

    /// What the store counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.shared.metrics
    }

    /// How long the slowest sync took since this was last asked, one that still runs included. `None`: there was none.
    #[must_use]
    pub fn slowest_sync(&self) -> Option<Duration> {
        self.inner.shared.sync_times.take_longest()
    }

    /// Makes everything durable, the state included, and takes no more writes. A second call does nothing.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn close(&self) -> Result<(), WriteError> {
        if !self.inner.shared.health.close() {
            return Ok(());
        }
        self.state().flush().map_err(|cause| WriteError::Stopped(SyncError { cause }))?;
        self.log().settle()
    }
}

/// Reads the high-water file, or begins one for a fresh directory.
fn open_mark(raft: &Path) -> Result<HighWater, OpenError> {
    let path = raft.join("high-water");
    let database_exists = Database::exists(&raft.join("db"));
    match HighWater::read(&path)? {
        Some(promises) if !database_exists && (promises.vote_number > 0 || promises.last_synced.is_some()) => {
            Err(OpenError::BehindHighWater { reason: "there is no database beside them".to_owned() })
        }
        Some(promises) => Ok(HighWater::new(path, promises)),
        None if database_exists => Err(OpenError::HighWater { path, problem: "missing".to_owned() }),
        None => {
            let mut mark = HighWater::new(path, Promises::default());
            mark.save()?;
            Ok(mark)
        }
    }
}

/// Whether a database that lost a damaged tail still holds what was promised.
fn judge(left: &Database, promises: &Promises, config: &Config) -> Result<(), OpenError> {
    check_vote(marks::read_vote(left)?.as_ref(), promises)?;
    let (positions, _left_as_it_is) = recovery::look(left, promises.last_synced)?;
    match marks::read_generation(left)? {
        Some(generation) => check_replay(&positions, &read_state(left, generation)?, config),
        None => Ok(()),
    }
}

/// Why a database cannot be read as it is: a start would cut what damages it, or it is damaged for good.
fn unread(path: &Path, error: DiskError) -> OpenError {
    match wal_tail::find(path) {
        Ok(Some(tail)) if matches!(error, DiskError::Damaged { .. }) => OpenError::Tail { bytes: tail.len() },
        _ => error.into(),
    }
}

fn check_identity(path: &Path, found: Option<&StoreIdentity>, wanted: Option<&StoreIdentity>) -> Result<(), OpenError> {
    match (found, wanted) {
        (Some(found), Some(wanted)) if found != wanted => Err(OpenError::OtherIdentity {
            path: path.to_path_buf(),
            found_cluster: found.cluster.to_string(),
            found_node: found.node,
            found_incarnation: found.incarnation,
            wanted_cluster: wanted.cluster.to_string(),
            wanted_node: wanted.node,
            wanted_incarnation: wanted.incarnation,
        }),
        _ => Ok(()),
    }
}

fn check_format(path: &Path, database: &Database) -> Result<(), OpenError> {
    match marks::read_format(database)? {
        Some(found) => check_known(path, found),
        None => {
            let mut batch = WriteBatch::default();
            batch.put_cf(&database.fixed_family(META), marks::KEY_FORMAT, [marks::FORMAT]);
            Ok(database.write_synced(batch, "write the format")?)
        }
    }
}

fn check_known(path: &Path, found: u8) -> Result<(), OpenError> {
    if found > marks::FORMAT {
        let (found, known) = (found.into(), marks::FORMAT.into());
        return Err(OpenError::NewerFormat { path: PathBuf::from(path), found, known });
    }
    Ok(())
}

fn check_vote(found: Option<&(u64, Vec<u8>)>, promises: &Promises) -> Result<(), OpenError> {
    let number = found.map_or(0, |(number, _)| *number);
    let differs = number == promises.vote_number && found.is_some_and(|(_, vote)| *vote != promises.vote);
    if number < promises.vote_number || differs {
        let reason =
            format!("vote number {} was promised, and the database holds number {number}", promises.vote_number);
        return Err(OpenError::BehindHighWater { reason });
    }
    Ok(())
}

/// The state that the pointer names; other generations are leftovers of a crash and go.
fn open_state(database: &Database) -> Result<Current, OpenError> {
    let pointed = marks::read_generation(database)?;
    for generation in database.generations()? {
        if Some(generation) != pointed {
            database.drop_state(generation)?;
        }
    }
    let generation = match pointed {
        Some(generation) => generation,
        None => {
            database.create_state(1)?;
            let mut batch = WriteBatch::default();
            batch.put_cf(&database.fixed_family(META), marks::KEY_GENERATION, marks::seal_generation(1));
            database.write_synced(batch, "begin the state")?;
            1
        }
    };
    read_state(database, generation)
}

/// How far a generation is.
fn read_state(database: &Database, generation: u64) -> Result<Current, OpenError> {
    let found = {
        let family = database.state_family(generation)?;
        database.rocks().get_cf(&family, APPLIED_KEY).map_err(|error| DiskError::rocks("read the state", &error))?
    };
    let damaged = |malformed: Malformed| DiskError::malformed("read the state", &malformed);
    let standing = found.map(|bytes| Standing::unseal(&bytes).map_err(damaged)).transpose()?.unwrap_or_default();
    let flushed = standing.index();
    Ok(Current { generation, standing, flushed, unflushed_entries: 0, unflushed_bytes: 0 })
}

/// The log must lead on from the state on disk.
fn check_replay(positions: &Positions, current: &Current, config: &Config) -> Result<(), OpenError> {
    match positions.purged_index() {
        Some(purged) if config.purge_only_flushed && current.flushed < Some(purged) => Err(OpenError::LogGap {
            from: current.flushed.map_or(0, |flushed| flushed + 1),
            to: purged,
            synced: purged,
            reason: "they were purged, and the state on disk does not hold them".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn bind(database: &Database, mark: &mut HighWater, identity: Option<StoreIdentity>) -> Result<(), OpenError> {
    if let Some(identity) = identity.filter(|identity| mark.promises().identity.as_ref() != Some(identity)) {
        let mut batch = WriteBatch::default();
        batch.put_cf(&database.fixed_family(META), marks::KEY_IDENTITY, marks::seal_identity(&identity));
        database.write_synced(batch, "bind the data directory")?;
        mark.bind(identity);
        mark.save()?;
        let raft = database.rocks().path().parent().map_or(Ok(()), sync_directory);
        raft.map_err(|error| DiskError::io("bind the data directory", &error))?;
    }
    Ok(())
}
