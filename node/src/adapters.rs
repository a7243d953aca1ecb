//! Each service port implemented over a door, and the receiving sides of what goes between nodes.
//!
//! Adapters translate: no decision is taken here.

pub(crate) mod changes_over_admin;
pub(crate) mod clients_over_slot;
pub(crate) mod haves_over_net;
pub(crate) mod inference_over_net;
pub(crate) mod join_over_net;
pub(crate) mod keys_over_net;
pub(crate) mod lab_over_admin;
pub(crate) mod ledger_over_metadata;
pub(crate) mod liveness_over_net;
pub(crate) mod origin_over_registry;
pub(crate) mod outgoing;
pub(crate) mod outlook_over_net;
pub(crate) mod peers_over_net;
pub(crate) mod placements_over_metadata;
pub(crate) mod raft_over_net;
pub(crate) mod request_id;
pub(crate) mod rescan_over_net;
pub(crate) mod runtime_over_ollama;
pub(crate) mod state_keys_over_metadata;
pub(crate) mod status;
pub(crate) mod store_over_runtime;
pub(crate) mod tasks_over_metadata;
pub(crate) mod transfer_over_net;
