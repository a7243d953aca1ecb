//! Tells the cluster which labels this node gives itself, so that wishes can ask for them.
//!
//! Always holds: what people say of a node wins over what it says itself. What is not known any more is not taken back:
//! a driver or a runtime that does not answer for a while would make models move. What differs is told once in ten
//! minutes at most; what cannot be told just now is told at a later look.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Command, Fault, Member, read};
use ollamax_metadata as metadata;
use ollamax_metadata::{Committed, ProposeError};
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_types::{Beat, ErrorCode, RuntimeState};

/// Time between two looks, and before the first: the runtime and the driver of the GPUs have answered by then.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two changes of what this node says of itself.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Teller {
    /// The replicated state.
    pub(crate) metadata: metadata::Handle,
    /// What this node knows of its machine.
    pub(crate) scheduler: scheduler::Handle,
}

/// Looks until `stop`.
pub(crate) async fn follow(teller: Teller, stop: CancellationToken) {
    let mut told_at: Option<Instant> = None;
    while stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_some() {
        if told_at.is_some_and(|at| at.elapsed() < TELL_AGAIN_AFTER) {
            continue;
        }
        match stop.run_until_cancelled(teller.look()).await {
            None => return,
            Some(Ok(true)) => told_at = Some(Instant::now()),
            Some(Ok(false)) => {}
            Some(Err(fault)) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read what this node says of itself");
            }
        }
    }
}

// === impl Teller ===

impl Teller {
    /// Tells what is not on record yet. False: nothing, or it could not be told.
    async fn look(&self) -> Result<bool, Fault> {
        let Some(command) = self.due()? else { return Ok(false) };
        let (id, principal) = (draw_request_id(), format!("node/{}", self.metadata.node()));
        let span = tracing::error_span!("labels", request_id = id.0);
        let told = self.metadata.propose(id, &principal, command).await.and_then(Committed::accepted);
        Ok(span.in_scope(|| match told {
            Ok(_) => {
                tracing::info!("told the cluster the labels of this node");
                true
            }
            Err(ProposeError::Refused(refusal)) => {
                tracing::warn!(code = %refusal.code(), error = %refusal, "the cluster refuses this node's labels");
                true
            }
            Err(error) => {
                tracing::debug!(code = %error.code(), %error, "tell labels; tried again soon");
                false
            }
        }))
    }

    fn due(&self) -> Result<Option<Command>, Fault> {
        let (view, node) = (self.metadata.view(), self.metadata.node());
        let Some(member) = read::member(&*view, node)?.filter(Member::is_standing) else { return Ok(None) };
        let set = news(&member.own_labels, labels_of(&self.scheduler.beat()));
        let command = Command::SetLabels { node, own: true, set: set.clone(), unset: Vec::new() };
        let version = read::cluster(&*view)?.map_or(0, |cluster| cluster.version);
        Ok(Some(command).filter(|command| !set.is_empty() && command.least_version() <= version))
    }
}

/// What a node says of itself.
fn labels_of(beat: &Beat) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("os".to_owned(), std::env::consts::OS.to_owned()),
        ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
    ]);
    if beat.runtime_state != RuntimeState::Absent {
        labels.insert("runtime".to_owned(), beat.runtime_kind.as_str().to_owned());
    }
    if !beat.gpus.is_empty() {
        // They are read through the library of this vendor's driver.
        labels.insert("gpu.vendor".to_owned(), "nvidia".to_owned());
    }
    if let Some(bytes) = beat.gpus.iter().filter_map(|gpu| gpu.memory_total_bytes).max() {
        labels.insert("gpu.memory_gb".to_owned(), nominal_gb(bytes).to_string());
    }
    labels
}

/// The memory of a GPU as its box says it: the driver keeps a little.
const fn nominal_gb(bytes: u64) -> u64 {
    bytes.saturating_add(1 << 29) >> 30
}

/// Those that are not on record so.
fn news(record: &BTreeMap<String, String>, mut now: BTreeMap<String, String>) -> BTreeMap<String, String> {
    now.retain(|key, value| record.get(key) != Some(value));
    now
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::CLUSTER_VERSION;
    use ollamax_types::{Gpu, RuntimeKind};

    use super::*;
    use crate::cluster_of_one::{NODE, World};

    fn own_labels(world: &World) -> BTreeMap<String, String> {
        read::member(&*world.metadata.view(), NODE).expect("readable").expect("a member").own_labels
    }

    #[tokio::test]
    async fn a_node_tells_what_it_is_once_and_takes_nothing_back() {
        let world = World::start(CLUSTER_VERSION).await;
        let teller = Teller { metadata: world.metadata.clone(), scheduler: world.scheduler.clone() };
        world.let_models_in(1 << 40);
        assert_eq!(teller.look().await, Ok(true));
        let told = own_labels(&world);
        let keys: Vec<&str> = told.keys().map(String::as_str).collect();
        assert_eq!(keys, ["arch", "os", "runtime"]);
        assert_eq!(told["runtime"], "ollama");
        assert_eq!(teller.look().await, Ok(false), "nothing is new");
        world.scheduler.set_runtime(scheduler::RuntimeReport::default());
        assert_eq!(teller.look().await, Ok(false), "a runtime that is gone may come back");
        assert_eq!(own_labels(&world), told);
        world.finish().await;
    }

    #[tokio::test]
    async fn a_cluster_of_an_older_version_is_told_nothing() {
        let world = World::start(3).await;
        let teller = Teller { metadata: world.metadata.clone(), scheduler: world.scheduler.clone() };
        assert_eq!(teller.look().await, Ok(false));
        assert!(own_labels(&world).is_empty());
        world.finish().await;
    }

    #[tokio::test]
    async fn gpus_are_told_by_the_largest() {
        let world = World::start(CLUSTER_VERSION).await;
        let gpu = |memory_total_bytes| Gpu {
            uuid: "GPU-1".to_owned(),
            name: "NVIDIA H100".to_owned(),
            memory_total_bytes,
            memory_used_bytes: None,
            use_permille: None,
        };
        let check = |gpus: Vec<Gpu>, vendor: Option<&str>, memory_gb: Option<&str>| {
            let beat = Beat { gpus, runtime_kind: RuntimeKind::Engine, ..world.scheduler.beat() };
            let told = labels_of(&beat);
            let said = |key: &str| told.get(key).map(String::as_str);
            assert_eq!((said("gpu.vendor"), said("gpu.memory_gb")), (vendor, memory_gb), "{:?}", beat.gpus);
        };
        check(vec![], None, None);
        check(vec![gpu(None)], Some("nvidia"), None);
        check(vec![gpu(Some(24 << 30)), gpu(Some(85_520_809_984)), gpu(None)], Some("nvidia"), Some("80"));
        world.finish().await;
    }

    #[test]
    fn only_what_differs_is_told() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let record = labels(&[("os", "linux"), ("gpu.memory_gb", "24")]);
        let now = labels(&[("os", "linux"), ("gpu.memory_gb", "80"), ("arch", "x86_64")]);
        assert_eq!(news(&record, now), labels(&[("gpu.memory_gb", "80"), ("arch", "x86_64")]));
        assert!(news(&record, labels(&[("os", "linux")])).is_empty());
    }
}
