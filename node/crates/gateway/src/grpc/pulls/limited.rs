//! Pulls that somebody slows down: each node that has a part in it is told.
//!
//! A node that cannot be told goes as fast as its own limits say until it can be, and the log says so; nothing else
//! fails for that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{Instant, timeout};

use ollamax_transfer as transfer;
use ollamax_transfer::{Overview, PullLimit};
use ollamax_types::{ErrorCode, ModelName, NodeId, Rate};

use crate::grpc::daemon::AdminError;

/// How long one node may take to take note of a limit.
const TELL_WAIT: Duration = Duration::from_secs(5);
/// How many nodes are told at once.
const TELL_AT_ONCE: usize = 16;
/// Time until a node that could not be told is told again.
const TELL_AGAIN: Duration = Duration::from_secs(20);

/// The nodes that were to be told: `None`: they know; else when they are told again.
#[derive(Debug, Default)]
struct Told(BTreeMap<NodeId, Option<Instant>>);

/// A limit as it was asked for, for pulls that are about to begin.
pub(super) fn limit(name: &ModelName, bytes_per_second: Option<u64>) -> Result<Option<PullLimit>, AdminError> {
    let Some(bytes) = bytes_per_second else { return Ok(None) };
    let Some(rate) = Rate::of(bytes) else {
        let what = format!("{bytes} bytes a second is no rate that can be set");
        let why = format!("it is between {} and {}", Rate::LEAST, Rate::MOST);
        return Err(AdminError::new(ErrorCode::BadRequest, what, why, "write it like 20MB/s"));
    };
    Ok(Some(PullLimit { name: name.clone(), rate: Some(rate), ahead: true }))
}

/// Tells nodes of a limit, and says how many of them pull the model or will.
pub(super) async fn tell(transfer: &transfer::Handle, nodes: Vec<NodeId>, limit: &PullLimit) -> u32 {
    let heard = tell_each(transfer, nodes, limit).await;
    heard.into_iter().map(|(_, is_found)| u32::from(is_found)).sum()
}

/// What each of them says of it; of one that cannot be told: false.
async fn tell_each(transfer: &transfer::Handle, nodes: Vec<NodeId>, limit: &PullLimit) -> Vec<(NodeId, bool)> {
    let tell = |node: NodeId| {
        let (transfer, limit) = (transfer.clone(), limit.clone());
        async move { (node, tell_one(transfer, node, limit).await) }
    };
    let orders: Vec<_> = nodes.into_iter().map(tell).collect();
    stream::iter(orders).buffer_unordered(TELL_AT_ONCE).collect().await
}

async fn tell_one(transfer: transfer::Handle, node: NodeId, limit: PullLimit) -> bool {
    let model = limit.name.clone();
    match timeout(TELL_WAIT, transfer.limit_pull_at(node, limit)).await {
        Ok(Ok(is_found)) => is_found,
        Ok(Err(error)) => {
            tracing::info!(%node, %model, code = %error.code(), %error, "a node was not told of the limit of a pull");
            false
        }
        Err(_) => {
            tracing::info!(%node, %model, "a node took no note of the limit of a pull in time");
            false
        }
    }
}

/// The same looks, while every node that has a part in the wish is told of the limit as it appears.
pub(super) fn slowed(
    looks: BoxStream<'static, Arc<Overview>>,
    transfer: transfer::Handle,
    limit: PullLimit,
) -> BoxStream<'static, Arc<Overview>> {
    let begin = (looks, Told::default());
    let slowed = stream::unfold(begin, move |(mut looks, mut told)| {
        let (transfer, limit) = (transfer.clone(), limit.clone());
        async move {
            let now = looks.next().await?;
            let copies = now.copies.iter().filter(|copy| !copy.progress.is_over());
            let due = told.due(copies.map(|copy| copy.node), Instant::now());
            for (node, is_told) in tell_each(&transfer, due, &limit).await {
                told.note(node, is_told, Instant::now());
            }
            Some((now, (looks, told)))
        }
    });
    slowed.boxed()
}

// === impl Told ===

impl Told {
    /// Which of these are to be told now.
    fn due(&self, nodes: impl Iterator<Item = NodeId>, now: Instant) -> Vec<NodeId> {
        let is_due = |node: &NodeId| self.0.get(node).is_none_or(|again| again.is_some_and(|at| at <= now));
        nodes.filter(is_due).collect()
    }

    fn note(&mut self, node: NodeId, is_told: bool, now: Instant) {
        self.0.insert(node, (!is_told).then(|| now + TELL_AGAIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_could_not_be_told_is_told_again_after_a_while() {
        let (nodes, begun) = ([NodeId(1), NodeId(2)], Instant::now());
        let (mut told, later) = (Told::default(), begun + TELL_AGAIN);
        let due = |told: &Told, now| told.due(nodes.into_iter(), now);
        assert_eq!(due(&told, begun), nodes);
        told.note(NodeId(1), true, begun);
        told.note(NodeId(2), false, begun);
        assert!(due(&told, begun).is_empty());
        assert_eq!(due(&told, later), [NodeId(2)]);
        told.note(NodeId(2), true, later);
        assert!(due(&told, later + TELL_AGAIN).is_empty());
    }

    #[test]
    fn a_rate_is_one_that_can_be_set() {
        let name: ModelName = "m".parse().expect("a name");
        let check = |bytes: Option<u64>| {
            limit(&name, bytes).map(|limit| limit.and_then(|limit| limit.rate)).map_err(|error| (error.code, error.why))
        };
        assert_eq!(check(None), Ok(None));
        assert_eq!(check(Some(20_000_000)), Ok(Rate::of(20_000_000)));
        let why = "it is between 64KiB/s and 1024GiB/s".to_owned();
        for bytes in [0, 65_535, u64::MAX] {
            assert_eq!(check(Some(bytes)), Err((ErrorCode::BadRequest, why.clone())));
        }
    }
}
