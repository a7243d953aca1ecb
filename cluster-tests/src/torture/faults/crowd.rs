//! A crowd of clients that write as fast as they are let, to keys that nobody watches: overload, and help to make a log
//! long. What comes of each write is counted and of no other interest; that a crowd breaks nothing is judged by those
//! who keep their history.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use futures::future::join_all;
use tokio::time::timeout;

use ollamax_testkit::cluster::Values;
use ollamax_testkit::{Cluster, wait};

use crate::clients::{REQUEST_TIME, doors};
use crate::faults::{Done, Stage, proof};
use crate::traffic::{ROOT, Traffic, bytes_of};

/// Clients that share one connection to a node.
const CLIENTS_PER_CONNECTION: usize = 32;
/// Fewest writes for each of the crowd that make an overload.
const WRITES_EACH_MIN: u64 = 2;

/// What came of a crowd's writes.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    enough: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
}

// === impl Crowd ===

impl Crowd {
    pub(super) fn stop(&self) {
        self.enough.store(true, Ordering::SeqCst);
    }

    /// Writes with so many clients until it is enough.
    pub(super) async fn work(&self, cluster: &Cluster, traffic: &Traffic<'_>, clients: usize) {
        // Every door can be named: the clients of the round have named them before.
        let connections = (0..clients.div_ceil(CLIENTS_PER_CONNECTION)).filter_map(|_| doors(cluster).ok());
        let connections: Vec<Vec<Values>> = connections.collect();
        let one = |number: usize| {
            let doors = connections.get(number / CLIENTS_PER_CONNECTION);
            let door = doors.and_then(|doors| doors.get(number % doors.len()));
            Box::pin(self.write(door, traffic, number))
        };
        join_all((0..clients).map(one)).await;
    }

    async fn write(&self, door: Option<&Values>, traffic: &Traffic<'_>, number: usize) {
        let Some(door) = door else { return };
        let key = format!("{ROOT}crowd/{number}");
        while !self.enough.load(Ordering::SeqCst) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let written = timeout(REQUEST_TIME, door.put(&key, &bytes_of(traffic.run.fresh_value()), 0, None)).await;
            match written {
                Ok(Ok(_)) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                // Also a refusal at once must not become a loop that only burns the machine.
                Ok(Err(_)) | Err(_) => wait::pause(wait::POLL_INTERVAL).await,
            }
        }
    }
}

impl Stage<'_> {
    pub(super) async fn overload(&mut self, clients: usize) -> Result<Done> {
        let crowd = Crowd::default();
        let lasting = async {
            self.last().await;
            crowd.stop();
        };
        let ((), ()) = futures::join!(crowd.work(self.cluster, self.traffic, clients), lasting);
        let (asked, answered) = (crowd.asked.into_inner(), crowd.answered.into_inner());
        let what = format!("{clients} more clients asked for {asked} writes and got {answered}");
        Ok(Done::now(proof(asked >= clients as u64 * WRITES_EACH_MIN, what)))
    }
}
