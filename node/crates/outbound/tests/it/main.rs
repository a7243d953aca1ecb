//! The runtime client, the watch and the engine supervisor against real sockets and processes.
mod bucket;
mod client;
mod engine;
mod server;
mod watch;
