//! Whole doors in one process, on loopback: who reaches what, and what happens when peers come, go and misbehave.

mod harness;
mod joining;
mod lanes;
mod members;
mod misbehaving;
mod relayed;
mod twins;
