//! Rust made from the `.proto` files: the wire package (`v1`) and the disk package (`disk`).
//!
//! Generated types stop at the doors (`gateway`, `net`, adapters) and at the disk (`store`, `metadata`).
#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]

/// What travels: the peer services and the admin API.
pub mod v1 {
    tonic::include_proto!("ollamax.v1");
}

/// What outlives the process.
pub mod disk {
    tonic::include_proto!("ollamax.disk.v1");
}
