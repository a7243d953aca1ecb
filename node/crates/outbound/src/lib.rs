#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod address;
pub mod error;
mod wire;
pub mod client;
pub mod poll;
pub mod choice;
pub mod facts;
pub mod engine;
pub mod runtime;
pub mod metrics;

pub use client::{Client, RuntimeResponse};
pub use config::{Config, Kind};
pub use error::{Broken, RuntimeError};
pub use metrics::Metrics;
pub use poll::Report;
pub use facts::Environment;
pub use runtime::{Paths, RuntimeHandle, Surroundings, spawn_runtime};
