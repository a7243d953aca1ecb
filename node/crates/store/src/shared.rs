//! What all handles of one store share.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};

use crate::Config;
use crate::ballast::Ballast;
use crate::database::Database;
use crate::flush::Flusher;
use crate::health::Health;
use crate::high_water::HighWater;
use crate::log::Positions;
use crate::metrics::Metrics;
use crate::state::Current;
use crate::sync::{SyncThread, SyncTimes};

/// Shared with the threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) database: Arc<Database>,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) high_water: Mutex<HighWater>,
    /// Where the log begins and ends. Taken before `high_water` when both are needed.
    pub(crate) positions: RwLock<Positions>,
    /// Which state is read and written, and how far it is.
    pub(crate) current: RwLock<Current>,
    /// Held while the state is flushed or its generation is switched. Taken before `current`.
    pub(crate) maintenance: Mutex<()>,
    /// A snapshot is being installed, or what is left of one is swept away.
    pub(crate) importing: AtomicBool,
    /// Where its files are made.
    pub(crate) incoming: PathBuf,
    /// What is remembered of the file that holds some of the disk.
    pub(crate) ballast: Ballast,
    /// How long the log waits for its disk.
    pub(crate) sync_times: SyncTimes,
}

/// Shared by the handles. Dropping the last one empties the queues and ends the threads.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) flusher: Flusher,
    pub(crate) sync: SyncThread,
    pub(crate) shared: Arc<Shared>,
}
