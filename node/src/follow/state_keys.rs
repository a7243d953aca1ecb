//! The leader draws a key each day for what clients carry from one round of a call to the next.
//!
//! Whether one is due is read from the record, and `apply` looks again: two leaders, or one that did not hear that its
//! key was taken, add one key and not two. The chance is drawn here and travels in the command. Nothing says what was
//! drawn.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Command, Fault, STATE_KEYS_VERSION, View, read};
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_security::{draw_request_id, random_bytes};
use ollamax_types::{ErrorCode, SecretKey, Timestamp};

use crate::follow::change_in_term;
use crate::follow::presence::leading_term;

/// Time between two looks. Of a new cluster nobody is asked anything before it has its first key.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the cluster shall have another key, and knows what that is.
fn is_due(view: &dyn View, now: Timestamp) -> Result<bool, Fault> {
    let version = read::cluster(view)?.map_or(0, |cluster| cluster.version);
    Ok(version >= STATE_KEYS_VERSION && read::state_keys(view)?.is_due(now))
}

/// Draws while this node leads, until `stop`.
pub(crate) async fn follow(metadata: metadata::Handle, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_some() {
        let Some(term) = leading_term(&metadata) else { continue };
        match is_due(&*metadata.view(), metadata.log_time()) {
            Ok(true) => {
                if stop.run_until_cancelled(draw(&metadata, term)).await.is_none() {
                    return;
                }
            }
            Ok(false) => {}
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the keys of what clients carry");
            }
        }
    }
}

async fn draw(metadata: &metadata::Handle, term: u64) {
    let secret = match random_bytes() {
        Ok(bytes) => SecretKey::new(bytes),
        Err(error) => {
            tracing::error!(code = %ErrorCode::Internal, %error, "draw a key for what clients carry");
            return;
        }
    };
    let principal = format!("node/{}", metadata.node());
    match change_in_term(metadata, draw_request_id(), &principal, Command::AddStateKey { secret }, term).await {
        Ok(_) => tracing::info!("there is another key for what clients carry"),
        Err(ProposeError::Refused(refusal)) => tracing::debug!(%refusal, "the key was not taken; looked at again"),
        Err(error) => tracing::debug!(code = %error.code(), %error, "add a key for what clients carry; tried again"),
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Cluster, Key, Mutation, Record, StateKey, StateKeys};
    use ollamax_types::ClusterId;
    use ollamax_types::limits::STATE_KEY_EVERY;

    use super::*;

    #[test]
    fn a_key_is_due_where_all_members_know_it_and_the_newest_is_a_day_old() {
        let every = STATE_KEY_EVERY.as_secs() * 1_000;
        let check = |version: u32, made_at: Option<u64>, now: u64, expected: bool| {
            let (name, public_key, created_at) = ("lab".to_owned(), [2; 32], Timestamp(0));
            let cluster = Cluster { id: ClusterId([1; 16]), name, public_key, created_at, next_node_id: 2, version };
            let mut view = MemView::default();
            view.write(&[Mutation::Put(Key::Cluster, Record::Cluster(cluster))]);
            if let Some(made_at) = made_at {
                let key = StateKey { number: 3, secret: SecretKey::new([1; 32]), made_at: Timestamp(made_at) };
                let keys = StateKeys::default().with(key);
                view.write(&[Mutation::Put(Key::StateKeys, Record::StateKeys(keys))]);
            }
            assert_eq!(is_due(&view, Timestamp(now)), Ok(expected), "{version} {made_at:?} {now}");
        };
        check(STATE_KEYS_VERSION - 1, None, 5, false);
        check(STATE_KEYS_VERSION, None, 5, true);
        check(STATE_KEYS_VERSION, Some(5), every + 4, false);
        check(STATE_KEYS_VERSION, Some(5), every + 5, true);
        assert_eq!(is_due(&MemView::default(), Timestamp(5)), Ok(false), "there is no cluster");
    }
}
