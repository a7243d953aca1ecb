//! Transfer through its public door, over a folder in Ollama's layout and a paused clock.

mod adoption;
