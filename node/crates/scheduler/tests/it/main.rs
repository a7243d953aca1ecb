//! The scheduler through its public door, over the in-memory ports and a paused clock.

mod cancelling;
mod owning;
mod retrying;
mod routing;
mod taken_back;
mod world;
