//! Whether a request comes from a program on this machine, as far as its address and headers tell.

use axum::http::HeaderMap;
use axum::http::request::Parts as Head;

use ollamax_tools::{Caller, Principal};
use ollamax_types::{RequestId, Trace};

use crate::http::serve::ClientAddress;
use crate::http::{OpenDoor, edge};

/// What proxies add: with one of them the caller is somebody behind this machine.
pub(crate) const FORWARDED: [&str; 9] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
];

/// Whether the caller is on this machine. Who asks has checked that the host names it, too: a browser here calls for
/// any page whose name was pointed here.
pub(crate) fn is_of_this_machine(client: Option<ClientAddress>, headers: &HeaderMap) -> bool {
    let is_loopback = client.is_some_and(|ClientAddress(address)| address.ip().to_canonical().is_loopback());
    is_loopback && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// Who calls a tool; `None`: nobody whom this release lets in, since callers have no keys.
pub(crate) fn caller_of(door: &OpenDoor, head: &Head, host: &str) -> Option<Caller> {
    let client = head.extensions.get::<ClientAddress>().copied();
    let client = client.filter(|_| edge::names_this_machine(door, host));
    let request = head.extensions.get::<RequestId>().cloned().unwrap_or_default();
    let trace = head.extensions.get::<Trace>().cloned();
    is_of_this_machine(client, &head.headers).then(|| Caller { principal: Principal::loopback(), request, trace })
}
