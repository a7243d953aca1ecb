//! Everything the node decides, nothing it does: pure, synchronous, deterministic.
//!
//! No IO, no clock, no randomness, no hash order: time and chance come in as arguments.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod backup;
pub mod catalog;
pub mod health;
pub mod integrity;
pub mod placement;
pub mod rates;
pub mod recover;
pub mod retention;
pub mod routing;
pub mod stability;
pub mod tasks;
pub mod transfer_plan;
pub mod trust;
pub mod voters;
