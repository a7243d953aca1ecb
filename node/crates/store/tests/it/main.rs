//! The store on real RocksDB in temporary directories.

mod ballast;
mod log;
mod open;
mod snapshot;
mod state;
mod verify;
mod world;
