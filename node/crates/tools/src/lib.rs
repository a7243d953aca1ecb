//! The tool contract: what a tool is, who may call it, and how a call is admitted, run and answered.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod error;
pub mod mem;
pub mod page;
pub mod ports;
pub mod principal;
pub mod schema;
pub mod tool;
pub mod views;

mod rate;

pub use catalogue::{Catalogue, Families};
pub use error::{CallError, DeclarationError, ToolError};
pub use ports::Lab;
pub use principal::{Caller, Permission, Principal, Subject};
pub use schema::{SECRET_MARK, Schema};
pub use tool::{Class, Example, Hints, Idempotency, Limits, Spec, Tool};
