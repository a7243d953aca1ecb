//! The engine as its clients meet it: the real program, the demo model, real sockets.

mod server;

mod edge;
mod inference;
mod lifecycle;
mod models;
mod openai;
