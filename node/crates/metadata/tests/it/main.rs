//! Whole clusters in one process: real stores in temporary folders, the in-memory network between them.

mod backup;
mod cluster;
mod faults;
mod membership;
mod snapshots;
mod world;
