#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod grpc;
pub mod http;
pub mod lab;
pub mod mem;
pub mod metrics;
pub mod ports;
pub mod registry;
pub mod rules;
pub mod wishfile;

mod inference;
mod order;
#[cfg(test)]
mod samples;
mod toolbox;

pub use config::{Config, McpConfig, Pull};
pub use error::{ApiError, Shape};
pub use inference::{InferenceSlot, inference_port};
pub use lab::Config as RegistryConfig;
pub use metrics::Metrics;
pub use toolbox::Toolbox;
