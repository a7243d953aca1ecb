//! The clients' door with the scheduler behind it and scripted runtimes, by call and over real sockets; the
//! administrators' door with consensus behind it and other members in memory.
mod approvals;
mod bad_input;
mod desk;
mod lab;
mod lists;
mod mcp;
mod mcp_fixtures;
mod mcp_sse;
mod names;
mod nearly_right;
mod overload;
mod places;
mod pulls;
mod registry;
mod removing;
mod routes;
mod socket;
mod streams;
mod tasks;
mod tokens;
mod tools;
mod traces;
mod wanted;
mod world;
