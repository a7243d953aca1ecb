//! Whole doors in one process, on loopback: who reaches what, and what happens when peers come, go and misbehave.

mod harness;
mod joining;
mod members;
mod misbehaving;
mod twins;
