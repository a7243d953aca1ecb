//! Free ports below the kernel's ephemeral range, so that no outgoing connection can take one between a node's
//! death and its restart. Given out once per process; whether a port is free is asked of the kernel.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

const FIRST: u16 = 16_400;
const COUNT: u16 = 16_000;

static GIVEN: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1 that nobody listens on, for TCP and UDP.
///
/// # Errors
/// When all candidates are taken.
pub fn free() -> Result<u16> {
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let offset = (u32::from(start) + u32::from(GIVEN.fetch_add(1, Ordering::Relaxed)) * 7) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).unwrap_or(0);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}
