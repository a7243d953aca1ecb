//! Transfer through its public door, over folders in Ollama's layout and a paused clock.

mod adoption;
mod bundles;
mod damage;
mod disks;
mod elsewhere;
mod handed;
mod haves;
mod kept;
mod lab;
mod limits;
mod origins;
mod pulls;
mod wishes;
mod world;
