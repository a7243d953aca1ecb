#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

mod cli;

mod http;
mod inference;

mod child;
mod pool;
mod protocol;
mod runner;
mod shortage;

mod gguf;
mod keep_alive;
mod name;
mod options;
mod store;
mod template;

mod limits;

pub use crate::cli::run;
