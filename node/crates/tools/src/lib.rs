//! The tool contract: what a tool is, who may call it, and how a call is admitted, run and answered.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod error;
pub mod mem;
pub mod once;
pub mod page;
pub mod ports;
pub mod principal;
pub mod progress;
pub mod schema;
pub mod search;
pub mod task;
pub mod tasklist;
pub mod tool;
pub mod views;
pub mod work;

mod rate;

pub use catalogue::{Catalogue, Families, Started, TASK_WAIT_MAX};
pub use error::{CallError, DeclarationError, ToolError};
pub use once::OnceKey;
pub use ports::{Changes, DeleteAsked, Inference, Lab, NewTask, Ports, PullAsked, Tasks};
pub use principal::{Caller, Permission, Principal, Subject};
pub use progress::{Progress, Step};
pub use schema::{SECRET_MARK, Schema};
pub use tasklist::TasksAsked;
pub use tool::{Call, Class, Example, Foreseen, Hints, Idempotency, Limits, Planning, Spec, Tool};
pub use work::Work;
