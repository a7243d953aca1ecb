//! Whole-cluster suites: real processes, real sockets, seeded chance. They run one at a time.
//!
//! They need the workspace's binaries beside the test binary (`cargo build --workspace --bins`); `stock_clients` needs
//! the Python clients too, which `cargo xtask setup` installs. A failing test keeps its directory and prints the logs'
//! places and its seed; `OLLAMAX_SEED=N cargo test --workspace --test it -- NAME` replays it.

mod bad_input;
mod cut_off_minority;
mod gateway_cancel;
mod gateway_lists;
mod gateway_retries;
mod gateway_streams;
mod lagging_node_snapshot;
mod lifecycle;
mod model_owners;
mod no_false_suspicion;
mod paused_leader;
mod paused_node_is_routed_around;
mod removed_member;
mod stock_clients;
mod thirty_days_off;
mod thirty_kills;

use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

/// Cluster suites share two cores, so they take turns.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Whether the long forms of the suites are wanted (`OLLAMAX_SOAK=1`).
pub(crate) fn soak() -> bool {
    std::env::var("OLLAMAX_SOAK").is_ok_and(|text| text == "1")
}
