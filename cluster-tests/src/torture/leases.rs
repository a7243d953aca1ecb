//! One client that keeps a lease alive for a while, lets it go, and takes the next; and the judgement of how each
//! ended.
//!
//! A lease counts log time, which runs at most twice as fast as any clock of ours. So what goes with it must not be
//! gone before half of its time has passed since the last sign of life that was acknowledged. And once it is gone, no
//! sign of life is acknowledged any more.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use ollamax_proto::v1;
use ollamax_testkit::cluster::Values;
use ollamax_testkit::{Cluster, wait};

use crate::clients::{REQUEST_TIME, is_certain};
use crate::traffic::{Fate, LeaseSign, SideWrite, Traffic, bytes_of};

const TTL: Duration = Duration::from_secs(2);
/// How long one lease is kept alive, and how often.
const KEPT_FOR: Duration = Duration::from_millis(2_400);
const RENEWED_EACH: Duration = Duration::from_millis(400);
/// Log time goes at most this much faster than a clock.
const LOG_TIME_SPEED: u64 = 2;

/// Takes leases, one after the other, until the traffic is over.
pub(crate) async fn work(doors: Vec<Values>, cluster: &Cluster, traffic: &Traffic<'_>) {
    let mut number = 0;
    while !traffic.is_over() {
        let index = number % doors.len();
        if cluster.node(index).is_running() {
            Box::pin(one(&doors[index], traffic, traffic.lease_key(number))).await;
        }
        number += 1;
        wait::pause(RENEWED_EACH).await;
    }
}

/// One lease, from its grant until it is let go.
async fn one(door: &Values, traffic: &Traffic<'_>, key: String) {
    let (asked, begin) = (v1::GrantLeaseRequest { ttl_ms: millis(TTL) }, Instant::now());
    let mut client = door.client();
    let Ok(Ok(granted)) = timeout(REQUEST_TIME, client.grant_lease(asked)).await else { return };
    let v1::GrantLeaseReply { header, id, ttl_ms } = granted.into_inner();
    let sign = |revision: u64, begin: Instant| {
        let invoked_ns = traffic.run.ns_of(begin);
        traffic.aside().leases.push(LeaseSign { key: key.clone(), ttl_ms, invoked_ns, revision });
    };
    sign(header.map_or(0, |header| header.revision), begin);

    let value = traffic.run.fresh_value();
    let fate = match timeout(REQUEST_TIME, door.put(&key, &bytes_of(value), id, None)).await {
        Ok(Ok(done)) => Fate::At(done.header.revision),
        Ok(Err(error)) if is_certain(&error) => Fate::Refused,
        Ok(Err(_)) | Err(_) => Fate::Unknown,
    };
    traffic.aside().writes.push(SideWrite { keys: vec![key.clone()], value, fate });
    while begin.elapsed() < KEPT_FOR && !traffic.is_over() {
        wait::pause(RENEWED_EACH).await;
        let asked_at = Instant::now();
        let renewed = timeout(REQUEST_TIME, client.renew_lease(v1::RenewLeaseRequest { id })).await;
        if let Ok(Ok(renewed)) = renewed {
            sign(renewed.into_inner().header.map_or(0, |header| header.revision), asked_at);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The end of a lease, as a watcher saw what went with it vanish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) key: String,
    pub(crate) revision: u64,
    /// When it was told; it happened before.
    pub(crate) seen_ns: u64,
}

/// Holds ends against signs of life. Returns the faults, and how many ends were judged.
pub(crate) fn check(signs: &[LeaseSign], ends: &[Ended]) -> (Vec<String>, u64) {
    let (mut faults, mut judged) = (Vec::new(), 0);
    for end in ends {
        let mut own = signs.iter().filter(|sign| sign.key == end.key).peekable();
        judged += u64::from(own.peek().is_some());
        for sign in own {
            let LeaseSign { key, ttl_ms, invoked_ns, revision } = sign;
            let earliest_ns = invoked_ns + ttl_ms * 1_000_000 / LOG_TIME_SPEED;
            if *revision > end.revision {
                faults.push(format!("{key}: gone at {}, and renewed at {revision}", end.revision));
            } else if end.seen_ns < earliest_ns {
                let after_ms = end.seen_ns.saturating_sub(*invoked_ns) / 1_000_000;
                let what =
                    format!("of {ttl_ms} ms, alive at {revision}, was gone at {} after {after_ms} ms", end.revision);
                faults.push(format!("{key}: a lease {what}"));
            }
        }
    }
    (faults, judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sign(invoked_ms: u64, revision: u64) -> LeaseSign {
        LeaseSign { key: "l/1".to_owned(), ttl_ms: 2_000, invoked_ns: invoked_ms * MS, revision }
    }

    fn end(key: &str, seen_ms: u64, revision: u64) -> Ended {
        Ended { key: key.to_owned(), revision, seen_ns: seen_ms * MS }
    }

    #[test]
    fn a_lease_that_ends_too_early_or_lives_on_after_its_end_is_caught() {
        let signs = [sign(0, 10), sign(400, 20), sign(800, 30)];
        let check = |ends: &[Ended], faults: usize, judged: u64| {
            let found = super::check(&signs, ends);
            assert_eq!((found.0.len(), found.1), (faults, judged), "{found:?}");
        };
        check(&[end("l/1", 2_900, 40)], 0, 1);
        check(&[end("l/1", 1_800, 40)], 0, 1);
        // 999 ms after the last sign of life.
        check(&[end("l/1", 1_799, 40)], 1, 1);
        // Gone, and then a sign of life was acknowledged.
        check(&[end("l/1", 2_900, 25)], 1, 1);
        check(&[end("l/2", 10, 40)], 0, 0);
        check(&[], 0, 0);
    }
}
