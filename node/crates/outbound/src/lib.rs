#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod address;
pub mod bucket;
mod cause;
pub mod choice;
pub mod client;
pub mod config;
pub mod engine;
pub mod error;
pub mod facts;
pub mod metrics;
pub mod pace;
pub mod poll;
pub mod registry;
pub mod runtime;
mod weights;
mod wire;

pub use client::{Client, PullStep, RuntimeResponse, UPLOAD_TIMEOUT, WorkStep};
pub use config::{Config, Kind};
pub use error::{Broken, RuntimeError};
pub use facts::Environment;
pub use metrics::Metrics;
pub use poll::Report;
pub use registry::{Registry, RegistryError};
pub use runtime::{Paths, RuntimeHandle, Surroundings, spawn_runtime};
