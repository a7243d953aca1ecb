//! Pulls that somebody slows down: each node that has a part in it is told.
//!
//! A node that cannot be told goes as fast as its own limits say, and the log says so; nothing else fails for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::timeout;

use ollamax_transfer as transfer;
use ollamax_transfer::{Overview, PullLimit};
use ollamax_types::{ErrorCode, ModelName, NodeId, Rate};

use crate::grpc::daemon::AdminError;

/// How long one node may take to take note of a limit.
const TELL_WAIT: Duration = Duration::from_secs(5);
/// How many nodes are told at once.
const TELL_AT_ONCE: usize = 16;

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
    let orders: Vec<_> = nodes.into_iter().map(|node| tell_one(transfer.clone(), node, limit.clone())).collect();
    let heard = stream::iter(orders).buffer_unordered(TELL_AT_ONCE);
    heard.fold(0, |sum, is_found| async move { sum + u32::from(is_found) }).await
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
    let begin = (looks, BTreeSet::new());
    let slowed = stream::unfold(begin, move |(mut looks, mut told)| {
        let (transfer, limit) = (transfer.clone(), limit.clone());
        async move {
            let now = looks.next().await?;
            let copies = now.copies.iter().filter(|copy| !copy.progress.is_over());
            let new: Vec<NodeId> = copies.map(|copy| copy.node).filter(|node| told.insert(*node)).collect();
            tell(&transfer, new, &limit).await;
            Some((now, (looks, told)))
        }
    });
    slowed.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

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
