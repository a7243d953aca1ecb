//! The loops that keep a member in step: with the catalog, with its runtime, with its machine, with its wishes.
//!
//! Each loop awaits a change, decides with a pure function, and performs. None of them fails the node: what cannot
//! be done now is tried again at the next change or tick.

pub(crate) mod ballast;
pub(crate) mod gpus;
pub(crate) mod machine;
pub(crate) mod members;
pub(crate) mod models;
pub(crate) mod standing;
pub(crate) mod strain;
pub(crate) mod wishes;
