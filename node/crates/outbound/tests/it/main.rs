//! The runtime client, the watch, the engine supervisor, buckets and registries against real sockets and processes.
mod bucket;
mod client;
mod engine;
mod registry;
mod server;
mod watch;
