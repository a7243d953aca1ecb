//! Histories of a key-value store with one revision counter: what clients asked and were told, and whether a store
//! that keeps its promises could have told it.
//!
//! Two checkers look at the same records from different sides. [`wgl`] searches, key by key, for an order of the
//! operations in which each has the effect that its client saw; it trusts nothing but values and their revisions.
//! [`revisions`] takes the revisions at their word and holds every answer against them, over all keys and in
//! `O(n log n)`, so it also judges histories of hours, stale reads and what a read says of its own freshness. Each
//! finds faults that the other cannot see: a history is good when both accept it and [`Evidence`] shows that something
//! happened at all. Neither ever blames a good store: what a client could not know is decided in the store's favour.
//!
//! A history is written as one JSON object per [`Operation`] and line, so that a failed run can be judged again.

mod record;
mod writes;

pub mod evidence;
pub mod revisions;
pub mod wgl;

pub use evidence::Evidence;
pub use record::{Call, Level, Operation, Outcome};

#[cfg(test)]
mod tests;
