//! Whole-cluster suites: real processes, real sockets, seeded chance. They run one at a time.
//!
//! They need the workspace's binaries beside the test binary (`cargo build --workspace --bins`); `stock_clients` and
//! `mcp_clients` need the Python clients too, which `cargo xtask setup` installs. A failing test keeps its directory
//! and prints the logs' places and its seed; `OLLAMAX_SEED=N cargo test --workspace --test it -- NAME` replays it.

mod a_copy_that_its_user_removes;
mod a_flipped_byte_in_flight;
mod a_flipped_byte_on_a_peers_disk;
mod a_hundred_models_at_start;
mod a_pull_over_power_cuts;
mod a_receiver_killed_at_half;
mod a_receivers_disk_fills;
mod a_store_of_another_user;
mod acknowledged;
mod adoption;
mod backup;
mod bad_input;
mod bad_models;
mod bundle_between_two_clusters;
mod create_and_push;
mod cut_off_minority;
mod damaged_models;
mod dev_cluster;
mod disaster;
mod doctor;
mod engine_without_its_node;
mod full_disk;
mod full_disk_engine;
mod gateway_cancel;
mod gateway_lists;
mod gateway_retries;
mod gateway_streams;
mod health;
mod huge_bodies;
mod import_conflict;
mod lagging_node_snapshot;
mod leader_changes_in_mid_transfer;
mod lifecycle;
mod limits;
mod mcp_clients;
mod membership;
mod met_by_mdns;
mod model_owners;
mod no_false_suspicion;
mod ollama_program;
mod one_pull_three_nodes;
mod paused_leader;
mod paused_node_is_routed_around;
mod power_cuts;
mod proxy_variables;
mod pull_bad_origins;
mod pull_from_a_registry;
mod pull_full_disk;
mod pull_resumes;
mod reach_back;
mod real_ollama;
mod receivers_follow_the_ingester;
mod registry_for_the_lab;
mod registry_of_models;
mod relay_only;
mod removed_member;
mod replication;
mod request_ids;
mod runtime_prunes_meanwhile;
mod silent_members;
mod single_node;
mod snapshot_goes_on;
mod spread;
mod state_deviates;
mod static_peers;
mod steady;
mod stock_clients;
mod stopping;
mod tasks;
mod the_log_is_not_starved_by_a_pull;
mod the_seed_killed_after_one_copy;
mod thirty_days_off;
mod thirty_kills;
mod two_pulls_of_one_tag;
mod two_releases;
mod upgrade;
mod upkeep_of_models;
mod values;

use std::io::Write as _;

use anyhow::{Result, ensure};
use tokio::sync::{Mutex, MutexGuard};

use ollamax_testkit::room::{self, Need};

/// Set to `required`, it makes a failure of what a system withholds. `.ci/run` sets it.
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

/// Whether a test has to be left out because this system withholds what it needs. That is told, with the way to allow
/// it, and is a failure where `OLLAMAX_ROOMS=required`.
pub(crate) async fn left_out(test: &str, need: Need) -> Result<bool> {
    let Some(reason) = room::withheld(need).await? else { return Ok(false) };
    let why = format!("this system refuses it {need:?}: {reason}");
    may_be_left_out(test, &why)?;
    say_left_out(test, &why)?;
    Ok(true)
}

/// A failure where nothing may be left out that a system can be made to give (`OLLAMAX_ROOMS=required`).
pub(crate) fn may_be_left_out(test: &str, why: &str) -> Result<()> {
    let required = std::env::var(ROOMS_VARIABLE).is_ok_and(|text| text == "required");
    ensure!(!required, "{test}: {ROOMS_VARIABLE}=required, but {why}");
    Ok(())
}

/// Says that a test was not run, where cargo does not hide it. In these words `cargo xtask test` finds it and lists it
/// at the end (`cluster-tests/xtask/src/closing.rs`).
pub(crate) fn say_left_out(test: &str, why: &str) -> Result<()> {
    // In one piece, so that no other line comes between.
    let text = format!("\nWARNING: {test} WAS NOT RUN: {why}\n\n");
    Ok(std::io::stderr().write_all(text.as_bytes())?)
}
