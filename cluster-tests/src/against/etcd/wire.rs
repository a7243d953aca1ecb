//! Rust made from `proto/etcd.proto`: the messages and calls of etcd that the benchmark uses.
#![allow(
    dead_code,
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]

tonic::include_proto!("etcdserverpb");
