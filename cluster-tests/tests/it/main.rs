//! Whole-cluster suites: real processes, real sockets, seeded chance. They run one at a time.
//!
//! They need the workspace's binaries beside the test binary (`cargo build --workspace --bins`); `stock_clients` needs
//! the Python clients too, which `cargo xtask setup` installs. A failing test keeps its directory and prints the logs'
//! places and its seed; `OLLAMAX_SEED=N cargo test --workspace --test it -- NAME` replays it.

mod bad_input;
mod bad_models;
mod cut_off_minority;
mod full_disk;
mod gateway_cancel;
mod gateway_lists;
mod gateway_retries;
mod gateway_streams;
mod health;
mod huge_bodies;
mod lagging_node_snapshot;
mod lifecycle;
mod membership;
mod met_by_mdns;
mod model_owners;
mod no_false_suspicion;
mod paused_leader;
mod paused_node_is_routed_around;
mod proxy_variables;
mod removed_member;
mod request_ids;
mod single_node;
mod stock_clients;
mod thirty_days_off;
mod thirty_kills;

use std::io::Write as _;

use anyhow::{Result, ensure};
use tokio::sync::{Mutex, MutexGuard};

use ollamax_testkit::room::{self, Need};

/// Set to `required`, it makes a failure of what a system withholds. Continuous integration sets it.
const ROOMS_VARIABLE: &str = "OLLAMAX_ROOMS";

static TURN: Mutex<()> = Mutex::const_new(());

/// Cluster suites share two cores, so they take turns.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Whether the long forms of the suites are wanted (`OLLAMAX_SOAK=1`).
pub(crate) fn soak() -> bool {
    std::env::var("OLLAMAX_SOAK").is_ok_and(|text| text == "1")
}

/// Whether a test has to be left out because this system withholds what it needs. That is told where cargo does not
/// hide it, with the way to allow it, and is a failure where `OLLAMAX_ROOMS=required`.
pub(crate) async fn left_out(test: &str, need: Need) -> Result<bool> {
    let Some(reason) = room::withheld(need).await? else { return Ok(false) };
    let required = std::env::var(ROOMS_VARIABLE).is_ok_and(|text| text == "required");
    ensure!(!required, "{test}: {ROOMS_VARIABLE}=required, but this system refuses {need:?}: {reason}");
    writeln!(std::io::stderr(), "\nWARNING: {test} WAS NOT RUN: this system refuses it {need:?}: {reason}\n")?;
    Ok(true)
}
