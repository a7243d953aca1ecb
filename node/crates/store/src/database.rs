//! RocksDB and its options.
//!
//! Column families: `log` and `meta` go through the WAL; `sm-<generation>` is written without it and flushed together
//! with the others (`atomic_flush`), so that the disk always holds a state and the log that leads to it. Recovery
//! refuses damage in the middle of the WAL and cuts a torn or garbled tail; whether that tail had been synced, the
//! high-water file tells. Memory is bounded: write buffers and block cache have fixed sizes for all families together.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode,
    DBWithThreadMode, ErrorKind, FlushOptions, IngestExternalFileOptions, LogLevel, MultiThreaded, Options, WriteBatch,
    WriteOptions,
};

use crate::Config;
use crate::closing::Counted;
use crate::error::{DiskError, OpenError};
use crate::lock::DirectoryLock;
use crate::wal_tail;

/// Column family of the Raft log.
pub(crate) const LOG: &str = "log";
/// Column family of the marks.
pub(crate) const META: &str = "meta";
/// Beside the database: what was cut off the write-ahead log last.
const CUT_TAIL: &str = "cut-tail";
/// What names of state families begin with.
const STATE_PREFIX: &str = "sm-";

/// Open files that RocksDB keeps.
const OPEN_FILES_MAX: i32 = 256;
/// Size at which RocksDB's own text log rolls, bytes, and how many are kept.
const INFO_LOG_BYTES_MAX: usize = 1 << 20;
const INFO_LOG_FILES_MAX: usize = 3;
/// WAL size at which families are flushed to let old files go, bytes.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// Size at which the manifest is rewritten, bytes.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Threads for flushes and compactions.
const BACKGROUND_JOBS_MAX: i32 = 2;

pub(crate) type Rocks = DBWithThreadMode<MultiThreaded>;

/// The open database. Closes when the last view is gone; the directory lock goes after it.
pub(crate) struct Database {
    rocks: Rocks,
    cache: Cache,
    write_buffer_bytes: usize,
    _lock: Option<DirectoryLock>,
    /// Fields go in the order in which they stand: RocksDB has closed when this goes.
    _counted: Counted,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.rocks.path()).finish_non_exhaustive()
    }
}

/// The name of a generation's family.
pub(crate) fn state_family(generation: u64) -> String {
    format!("{STATE_PREFIX}{generation}")
}

// === impl Database ===

impl Database {
    /// Whether a database was ever made here.
    pub(crate) fn exists(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// Opens a database, or makes it. A damaged tail is cut only if `judge` finds what is left whole.
    pub(crate) fn open(
        path: &Path,
        config: &Config,
        lock: DirectoryLock,
        judge: impl FnOnce(&Self) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let (counted, cache) = (Counted::one(), Cache::new_lru_cache(config.block_cache_bytes));
        let opened = match open_families(path, config, &cache) {
            Err(error) if error.kind() == ErrorKind::Corruption => match wal_tail::find(path)? {
                Some(tail) => {
                    tail.cut(&path.with_file_name(CUT_TAIL))?;
                    // RocksDB deletes files when it opens to write, so that it must not before this.
                    let left = Self::open_read_only(path, config, None).map_err(OpenError::from);
                    if let Err(refusal) = left.and_then(|left| judge(&left)) {
                        tail.put_back()?;
                        return Err(refusal);
                    }
                    let bytes = tail.len();
                    tracing::warn!(bytes, reason = %error, "a damaged tail of the log is cut and kept in cut-tail");
                    open_families(path, config, &cache)
                }
                None => Err(error),
            },
            opened => opened,
        };
        let rocks = opened.map_err(|error| DiskError::rocks("open the database", &error))?;
        Ok(Self { rocks, cache, write_buffer_bytes: config.write_buffer_bytes, _lock: Some(lock), _counted: counted })
    }

    /// Opens a database to look at it: no byte on disk changes, and what only the WAL holds is seen as well.
    pub(crate) fn open_read_only(path: &Path, config: &Config, lock: Option<DirectoryLock>) -> Result<Self, DiskError> {
        let (counted, cache) = (Counted::one(), Cache::new_lru_cache(config.block_cache_bytes));
        let mut options = database_options(config);
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let names = Rocks::list_cf(&options, path).map_err(|error| DiskError::rocks("read the manifest", &error))?;
        if let Some(missing) = [LOG, META].into_iter().find(|fixed| !names.iter().any(|name| name == fixed)) {
            let reason = format!("there is no column family {missing}");
            return Err(DiskError::Damaged { action: "open the database", reason });
        }
        let families = descriptors(names, &cache, config);
        let rocks = Rocks::open_cf_descriptors_read_only(&options, path, families, false)
            .map_err(|error| DiskError::rocks("open the database", &error))?;
        Ok(Self { rocks, cache, write_buffer_bytes: config.write_buffer_bytes, _lock: lock, _counted: counted })
    }

    pub(crate) const fn rocks(&self) -> &Rocks {
        &self.rocks
    }

    pub(crate) fn family(&self, name: &str) -> Option<Arc<BoundColumnFamily<'_>>> {
        self.rocks.cf_handle(name)
    }

    /// A family that is always there.
    pub(crate) fn fixed_family(&self, name: &'static str) -> Arc<BoundColumnFamily<'_>> {
        self.rocks.cf_handle(name).expect("log and meta are opened with the database and never dropped")
    }

    pub(crate) fn get(
        &self,
        family: &'static str,
        key: &[u8],
        action: &'static str,
    ) -> Result<Option<Vec<u8>>, DiskError> {
        self.rocks.get_cf(&self.fixed_family(family), key).map_err(|error| DiskError::rocks(action, &error))
    }

    /// Through the WAL, not yet synced.
    pub(crate) fn write(&self, batch: WriteBatch, action: &'static str) -> Result<(), DiskError> {
        self.rocks.write(batch).map_err(|error| DiskError::rocks(action, &error))
    }

    /// Through the WAL; durable on return.
    pub(crate) fn write_synced(&self, batch: WriteBatch, action: &'static str) -> Result<(), DiskError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.rocks.write_opt(batch, &options).map_err(|error| DiskError::rocks(action, &error))
    }

    /// Into memory only; durable after [`Database::flush`].
    pub(crate) fn write_unlogged(&self, batch: WriteBatch, action: &'static str) -> Result<(), DiskError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.rocks.write_opt(batch, &options).map_err(|error| DiskError::rocks(action, &error))
    }

    /// Makes everything written through the WAL durable.
    pub(crate) fn sync_wal(&self) -> Result<(), DiskError> {
        self.rocks.flush_wal(true).map_err(|error| DiskError::rocks("sync the log", &error))
    }

    /// Writes the memory of all families to disk, at one point in the order of writes.
    pub(crate) fn flush(&self, generation: u64) -> Result<(), DiskError> {
        let (log, meta) = (self.fixed_family(LOG), self.fixed_family(META));
        let state = self.state_family(generation)?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.rocks
            .flush_cfs_opt(&[&log, &meta, &state], &options)
            .map_err(|error| DiskError::rocks("flush the state", &error))
    }

    pub(crate) fn state_family(&self, generation: u64) -> Result<Arc<BoundColumnFamily<'_>>, DiskError> {
        self.family(&state_family(generation)).ok_or_else(|| DiskError::Damaged {
            action: "find the state",
            reason: format!("there is no column family {}", state_family(generation)),
        })
    }

    /// How the tables of a state are made.
    pub(crate) fn state_options(&self) -> Options {
        family_options(&self.cache, self.write_buffer_bytes, true)
    }

    pub(crate) fn create_state(&self, generation: u64) -> Result<(), DiskError> {
        self.rocks
            .create_cf(state_family(generation), &self.state_options())
            .map_err(|error| DiskError::rocks("create a generation of the state", &error))
    }

    pub(crate) fn drop_state(&self, generation: u64) -> Result<(), DiskError> {
        self.rocks
            .drop_cf(&state_family(generation))
            .map_err(|error| DiskError::rocks("drop a generation of the state", &error))
    }

    /// Generations that are there, whole or not.
    pub(crate) fn generations(&self) -> Result<Vec<u64>, DiskError> {
        let names = Rocks::list_cf(&Options::default(), self.rocks.path())
            .map_err(|error| DiskError::rocks("read the manifest", &error))?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(STATE_PREFIX)?.parse().ok()).collect())
    }

    /// Takes finished table files into a generation, all or none, durable on return.
    pub(crate) fn ingest(&self, generation: u64, files: Vec<PathBuf>) -> Result<(), DiskError> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.rocks
            .ingest_external_file_cf_opts(&self.state_family(generation)?, &options, files)
            .map_err(|error| DiskError::rocks("take in the snapshot", &error))
    }
}

/// Opens the database with all families that it has, or makes it.
fn open_families(path: &Path, config: &Config, cache: &Cache) -> Result<Rocks, rocksdb::Error> {
    let options = database_options(config);
    let mut names = vec!["default".to_owned(), LOG.to_owned(), META.to_owned()];
    if Database::exists(path) {
        let held = Rocks::list_cf(&options, path)?;
        names.extend(held.into_iter().filter(|name| name.starts_with(STATE_PREFIX)));
    }
    Rocks::open_cf_descriptors(&options, path, descriptors(names, cache, config))
}

fn descriptors(names: Vec<String>, cache: &Cache, config: &Config) -> Vec<ColumnFamilyDescriptor> {
    let descriptor = |name: String| {
        let compress = name.starts_with(STATE_PREFIX);
        ColumnFamilyDescriptor::new(name, family_options(cache, config.write_buffer_bytes, compress))
    };
    names.into_iter().map(descriptor).collect()
}

fn database_options(config: &Config) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_atomic_flush(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_wal_bytes_per_sync(0);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    options.set_db_write_buffer_size(config.write_buffer_bytes);
    options.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_keep_log_file_num(INFO_LOG_FILES_MAX);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

pub(crate) fn family_options(cache: &Cache, write_buffer_bytes: usize, compress: bool) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(write_buffer_bytes / 2);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(if compress { DBCompressionType::Lz4 } else { DBCompressionType::None });
    options
}
