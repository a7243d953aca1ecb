//! A lab: rooms with networks of their own on one switch, each behind a link of the same speed.
//!
//! Both ends of a link are shaped, so what a room sends and what it gets are bounded alike, and the switch itself is as
//! fast as the machine. The switch is a namespace too. All of it ends with this value, or with the process that made
//! it: nothing of it has a name in the system.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::{CABLE, Part, Room, enter, hold};

/// What shows whether a lab can be made.
pub(super) const PROBE: &str = "ip link add lab0 type bridge && ip link set lo up && \
    tc qdisc replace dev lo root tbf rate 1mbit burst 256kb latency 50ms";
/// Most rooms of one lab: their addresses end with their number.
const ROOMS_MAX: usize = 64;
const SWITCH: &str = "switch0";
/// What may go at once, and how long a packet may wait.
const BURST: &str = "256kb";
const LATENCY: &str = "50ms";

/// Rooms on one switch.
#[derive(Debug)]
pub struct Lab {
    rooms: Vec<Arc<Room>>,
    switch: Room,
}

// === impl Lab ===

impl Lab {
    /// So many rooms, each with a link of so many Mbit/s, both ways.
    ///
    /// # Errors
    /// When the system does not allow it; ask [`super::withheld`] before.
    pub async fn with_links(rooms: usize, mbit: u32) -> Result<Self> {
        ensure!((1..=ROOMS_MAX).contains(&rooms), "a lab has 1 to {ROOMS_MAX} rooms, not {rooms}");
        let script = format!("ip link set lo up && ip link add {SWITCH} type bridge && ip link set {SWITCH} up");
        let (holder, pid) = hold(&[], &["--user", "--map-root-user", "--net"], &script).await.context("the switch")?;
        let switch = Room { _holder: holder, pid, part: Part::Network(Vec::new()) };
        let mut lab = Self { rooms: Vec::with_capacity(rooms), switch };
        for number in (1..=u8::MAX).take(rooms) {
            let room = lab.join(number, mbit).await.with_context(|| format!("room {number}"))?;
            lab.rooms.push(Arc::new(room));
        }
        Ok(lab)
    }

    /// The rooms, in order.
    #[must_use]
    pub fn rooms(&self) -> &[Arc<Room>] {
        &self.rooms
    }

    /// Makes a room and plugs it in.
    async fn join(&self, number: u8, mbit: u32) -> Result<Room> {
        let owner = enter(self.switch.pid, &["--user"]);
        let (holder, pid) = hold(&owner, &["--net"], "ip link set lo up").await?;
        let address = Ipv4Addr::new(10, 77, 0, number);
        let room = Room { _holder: holder, pid, part: Part::Network(vec![address]) };
        let (port, other) = (format!("port{number}"), pid.to_string());
        self.switch.run(&["ip", "link", "add", &port, "type", "veth", "peer", "name", CABLE, "netns", &other]).await?;
        self.switch.run(&["ip", "link", "set", &port, "master", SWITCH, "up"]).await?;
        room.run(&["ip", "addr", "add", &format!("{address}/24"), "dev", CABLE]).await?;
        room.run(&["ip", "link", "set", CABLE, "up"]).await?;
        for (end, cable) in [(&self.switch, port.as_str()), (&room, CABLE)] {
            let rate = format!("{mbit}mbit");
            let shape = ["tc", "qdisc", "replace", "dev", cable, "root", "tbf", "rate", &rate, "burst", BURST];
            end.run(&[&shape[..], &["latency", LATENCY]].concat()).await.context("set the speed of a link")?;
        }
        Ok(room)
    }
}
