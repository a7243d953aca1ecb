//! The liveness streams: this node's frames for whoever watches, and a watch on every other member.
//!
//! One frame is made each `BEAT_INTERVAL`, and one at once when the runtime's report says something new; all watchers
//! share it. A watch that breaks is reported at once and opened again after a short wait; silence is judged by the
//! scheduler's book, not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use ollamax_gateway::grpc::status as wire;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::liveness_client::LivenessClient;
use ollamax_proto::v1::liveness_server::{Liveness, LivenessServer};
use ollamax_scheduler as scheduler;
use ollamax_types::limits::{BEAT_INTERVAL, GPUS_MAX, QUARANTINED_MAX};
use ollamax_types::{
    Applies, Beat, Digest, Gpu, NodeId, Quarantine, Residency, RunnerLoad, RuntimeKind, RuntimeState, Timestamp,
};

/// Wait before a broken watch is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);

/// The newest frame of this node.
pub(crate) type Frames = watch::Receiver<Arc<v1::Beat>>;

/// Makes this node's frames until `stop`.
pub(crate) fn spawn_frames(scheduler: scheduler::Handle, tasks: &TaskTracker, stop: CancellationToken) -> Frames {
    let mut reports = scheduler.runtime_changes();
    let (sender, frames) = watch::channel(Arc::new(to_wire(&scheduler.beat())));
    // Cannot fail; ends with the engines.
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                changed = reports.changed() => match changed {
                    Ok(()) => ticks.reset(),
                    // The scheduler is gone.
                    Err(_) => return,
                },
            }
            sender.send_replace(Arc::new(to_wire(&scheduler.beat())));
        }
    });
    frames
}

/// Serves this node's frames.
#[derive(Debug, Clone)]
pub(crate) struct LivenessService {
    frames: watch::Receiver<Option<Frames>>,
}

// === impl LivenessService ===

impl LivenessService {
    /// The service for members' routes; the frames appear once this node is a member.
    #[must_use]
    pub(crate) fn server(frames: watch::Receiver<Option<Frames>>) -> LivenessServer<Self> {
        LivenessServer::new(Self { frames })
    }
}

#[tonic::async_trait]
impl Liveness for LivenessService {
    type WatchStream = BoxStream<'static, Result<v1::Beat, Status>>;

    async fn watch(&self, _request: Request<v1::WatchBeatsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let frames = self.frames.borrow().clone();
        let frames = frames.ok_or_else(|| Status::unavailable("this node is not ready"))?;
        Ok(Response::new(WatchStream::new(frames).map(|frame| Ok(frame.as_ref().clone())).boxed()))
    }
}

/// Watches every member in the list, and only those, until `stop`.
pub(crate) async fn watch_members(
    net: NetHandle,
    scheduler: scheduler::Handle,
    mut members: watch::Receiver<Vec<NodeId>>,
    stop: CancellationToken,
) {
    let own = scheduler.node();
    let watches = TaskTracker::new();
    let mut open: BTreeMap<NodeId, CancellationToken> = BTreeMap::new();
    loop {
        let wanted: Vec<NodeId> = members.borrow_and_update().iter().copied().filter(|node| *node != own).collect();
        open.retain(|node, token| {
            let stays = wanted.contains(node);
            if !stays {
                token.cancel();
            }
            stays
        });
        for node in wanted {
            open.entry(node).or_insert_with(|| {
                let token = stop.child_token();
                let watching = watch_one(net.clone(), scheduler.clone(), node);
                let until = token.clone();
                // Cannot fail: it opens its stream again for ever. Ends with its token.
                watches.spawn(async move { until.run_until_cancelled(watching).await });
                token
            });
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = members.changed() => if changed.is_err() { break },
        }
    }
    watches.close();
    watches.wait().await;
}

async fn watch_one(net: NetHandle, scheduler: scheduler::Handle, node: NodeId) {
    loop {
        let mut client = LivenessClient::new(net.channel(node, Class::Liveness));
        if let Ok(reply) = client.watch(v1::WatchBeatsRequest { from: scheduler.node().0 }).await {
            let mut frames = reply.into_inner();
            while let Ok(Some(frame)) = frames.message().await {
                match from_wire(frame) {
                    Some(beat) if beat.node == node => scheduler.observe(beat),
                    _ => tracing::warn!(peer = %node, "a liveness frame that cannot be read"),
                }
            }
        }
        scheduler.lost_link(node);
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

fn to_wire(beat: &Beat) -> v1::Beat {
    v1::Beat {
        node: beat.node.0,
        sequence: beat.sequence,
        sent_at_ms: beat.sent_at.0,
        draining: beat.draining,
        runtime: Some(wire::runtime(beat)),
        resident: beat.resident.iter().map(wire::resident).collect(),
        runners: beat.runners.iter().map(wire::runner).collect(),
        memory_used_bytes: beat.memory_used_bytes,
        memory_total_bytes: beat.memory_total_bytes,
        cpu_permille: beat.cpu_permille,
        disk_free_bytes: beat.disk_free_bytes,
        models_free_bytes: beat.models_free_bytes,
        gpus: beat.gpus.iter().map(wire::gpu).collect(),
        daemon_version: beat.daemon_version.clone(),
        applies_up_to: beat.applies.up_to,
        applies_known: beat.applies.known,
        applied_index: beat.applied_index,
        quarantined: beat.quarantined.iter().take(QUARANTINED_MAX).map(wire::quarantine).collect(),
        suspect_files: beat.suspect_files,
    }
}

fn from_wire(frame: v1::Beat) -> Option<Beat> {
    let runtime = frame.runtime.unwrap_or_default();
    let runtime_state = match runtime.state() {
        v1::runtime::State::Unspecified => return None,
        v1::runtime::State::Absent => RuntimeState::Absent,
        v1::runtime::State::Up => RuntimeState::Up,
        v1::runtime::State::Down => RuntimeState::Down(runtime.reason.clone()),
    };
    Some(Beat {
        node: NodeId(frame.node),
        sequence: frame.sequence,
        sent_at: Timestamp(frame.sent_at_ms),
        draining: frame.draining,
        runtime_kind: match runtime.kind() {
            v1::runtime::Kind::Engine => RuntimeKind::Engine,
            _ => RuntimeKind::Ollama,
        },
        runtime_version: runtime.version,
        runtime_state,
        resident: frame.resident.into_iter().map(residency).collect::<Option<_>>()?,
        runners: frame.runners.into_iter().map(runner).collect::<Option<_>>()?,
        memory_used_bytes: frame.memory_used_bytes,
        memory_total_bytes: frame.memory_total_bytes,
        cpu_permille: frame.cpu_permille,
        disk_free_bytes: frame.disk_free_bytes,
        models_free_bytes: frame.models_free_bytes,
        gpus: frame.gpus.into_iter().take(GPUS_MAX).map(gpu).collect(),
        daemon_version: frame.daemon_version,
        applies: Applies { up_to: frame.applies_up_to, known: frame.applies_known },
        applied_index: frame.applied_index,
        quarantined: frame.quarantined.into_iter().take(QUARANTINED_MAX).map(quarantine).collect(),
        suspect_files: frame.suspect_files,
    })
}

fn residency(model: v1::Resident) -> Option<Residency> {
    let digest = Digest(model.digest.try_into().ok()?);
    let weights = if model.weights.is_empty() { digest } else { Digest(model.weights.try_into().ok()?) };
    Some(Residency {
        name: model.name.parse().ok()?,
        digest,
        weights,
        size_bytes: model.size_bytes,
        size_vram_bytes: model.size_vram_bytes,
        context_length: model.context_length,
        expires_at: model.expires_at,
        details_json: model.details_json,
    })
}

fn gpu(gpu: v1::Gpu) -> Gpu {
    Gpu {
        uuid: gpu.uuid,
        name: gpu.name,
        memory_total_bytes: gpu.memory_total_bytes,
        memory_used_bytes: gpu.memory_used_bytes,
        use_permille: gpu.use_permille,
    }
}

fn quarantine(told: v1::Quarantine) -> Quarantine {
    Quarantine { node: NodeId(told.node), until: Timestamp(told.until_ms), strikes: told.strikes }
}

fn runner(load: v1::Runner) -> Option<RunnerLoad> {
    Some(RunnerLoad {
        weights: Digest(load.weights.try_into().ok()?),
        running: load.running,
        waiting: load.waiting,
        slots: load.slots,
        service_ms: load.service_ms,
        load_ms: load.load_ms,
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use ollamax_scheduler::mem::{MemPlacements, MemRemote, MemRuntime};
    use ollamax_types::Clock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_is_made_each_interval_and_at_once_when_the_runtime_says_something_new() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = scheduler::Parts {
            node: NodeId(1),
            clock: Clock::manual(Timestamp(0)),
            daemon_version: "0".to_owned(),
            applies: Applies::default(),
            seed: 1,
            runtime: Arc::new(MemRuntime::default()),
            remote: Arc::new(MemRemote::default()),
            placements: Arc::new(MemPlacements::default()),
            metrics: scheduler::Metrics::default(),
        };
        let handle = scheduler::Handle::start(scheduler::Config::default(), parts, &tasks, stop.clone());
        let mut frames = spawn_frames(handle.clone(), &tasks, stop.clone());
        let mut next = async || {
            let asked = Instant::now();
            frames.changed().await.expect("frames are made");
            let version = frames.borrow_and_update().runtime.as_ref().map(|runtime| runtime.version.clone());
            (asked.elapsed(), version.unwrap_or_default())
        };
        assert_eq!(next().await, (Duration::ZERO, String::new()));
        assert_eq!(next().await, (BEAT_INTERVAL, String::new()));
        let report = scheduler::RuntimeReport { version: "2".to_owned(), ..scheduler::RuntimeReport::default() };
        handle.set_runtime(report.clone());
        assert_eq!(next().await, (Duration::ZERO, "2".to_owned()));
        handle.set_runtime(report);
        assert_eq!(next().await, (BEAT_INTERVAL, "2".to_owned()), "the same again is nothing new");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn a_frame_survives_the_way_and_a_damaged_one_is_refused() {
        let beat = Beat {
            node: NodeId(3),
            sequence: 9,
            sent_at: Timestamp(77),
            draining: true,
            runtime_kind: RuntimeKind::Engine,
            runtime_version: "1.2".to_owned(),
            runtime_state: RuntimeState::Down("hangs".to_owned()),
            resident: vec![Residency {
                name: "m:1b".parse().expect("a name"),
                digest: Digest([4; 32]),
                weights: Digest([5; 32]),
                size_bytes: 5,
                size_vram_bytes: 4,
                context_length: 4096,
                expires_at: "2026-01-01T00:00:00Z".to_owned(),
                details_json: "{}".to_owned(),
            }],
            runners: vec![RunnerLoad {
                weights: Digest([5; 32]),
                running: 1,
                waiting: 2,
                slots: 1,
                service_ms: 10,
                load_ms: 20,
            }],
            memory_used_bytes: 1,
            memory_total_bytes: 2,
            cpu_permille: 3,
            disk_free_bytes: Some(0),
            models_free_bytes: Some(7),
            gpus: vec![Gpu {
                uuid: "GPU-1".to_owned(),
                name: "NVIDIA H100".to_owned(),
                memory_total_bytes: Some(80),
                memory_used_bytes: None,
                use_permille: Some(0),
            }],
            daemon_version: "0.1.0".to_owned(),
            applies: Applies { up_to: 2, known: 3 },
            applied_index: 11,
            quarantined: vec![Quarantine { node: NodeId(2), until: Timestamp(78), strikes: 3 }],
            suspect_files: 1,
        };
        assert_eq!(from_wire(to_wire(&beat)), Some(beat.clone()));
        let mut old = to_wire(&beat);
        old.resident[0].weights.clear();
        let told = from_wire(old).expect("as releases send it that ask for no weights");
        assert_eq!(told.resident[0].weights, beat.resident[0].digest, "the manifest stands for them");
        let mut short = to_wire(&beat);
        short.resident[0].digest.pop();
        assert_eq!(from_wire(short), None);
        assert_eq!(from_wire(v1::Beat { runtime: None, ..to_wire(&beat) }), None);
    }
}
