//! The clients' door with the scheduler behind it and scripted runtimes, by call and over real sockets.
mod lab;
mod lists;
mod overload;
mod pulls;
mod registry;
mod routes;
mod socket;
mod streams;
mod world;
