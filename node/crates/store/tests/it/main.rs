//! The store on real RocksDB in temporary directories.

mod log;
mod open;
mod snapshot;
mod state;
mod verify;
mod world;
