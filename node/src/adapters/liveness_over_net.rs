//! The liveness streams: this node's frames for whoever watches, and a watch on every other member.
//!
//! One frame is made each `BEAT_INTERVAL`, and one at once when the runtime's report says something new; all watchers
//! share it. A watch that breaks is reported at once and opened again after a short wait; silence is judged by the
//! scheduler's book, not here. When a better way to the member was found, the next stream is opened there before the
//! old one is dropped, so nothing looks like a loss. Beside the frames the round trip is measured with an empty
//! question on the same connection; a member of a release that does not know it is not asked again there.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use ollamax_gateway::grpc::status as wire;
use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::liveness_client::LivenessClient;
use ollamax_proto::v1::liveness_server::{Liveness, LivenessServer};
use ollamax_scheduler as scheduler;
use ollamax_types::limits::{BEAT_INTERVAL, GPUS_MAX, QUARANTINED_MAX};
use ollamax_types::{
    Applies, Beat, Digest, Gpu, NodeId, Quarantine, Residency, RunnerLoad, RuntimeKind, RuntimeState, SpareRule,
    Timestamp,
};

/// Wait before a broken watch is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// Time between two measurements of the round trip, and the longest that one may take.
const ECHO_INTERVAL: Duration = Duration::from_secs(5);

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

    async fn echo(&self, _request: Request<v1::EchoRequest>) -> Result<Response<v1::EchoReply>, Status> {
        Ok(Response::new(v1::EchoReply {}))
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
                let watching = watch_member(net.clone(), scheduler.clone(), node);
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

async fn watch_member(net: NetHandle, scheduler: scheduler::Handle, node: NodeId) {
    // The epoch first: the channel is of it or of a later one.
    let way = || (net.epoch(node), net.channel(node, Class::Liveness));
    let tell = |heard: Heard| match heard {
        Heard::Frame(beat) => scheduler.observe(*beat),
        Heard::RoundTrip(rtt) => net.note_rtt(node, rtt),
        Heard::Lost => scheduler.lost_link(node),
    };
    watch_one((scheduler.node(), node), way, tell).await;
}

/// What a watch tells of its member.
#[derive(Debug)]
enum Heard {
    Frame(Box<Beat>),
    RoundTrip(Duration),
    /// The stream broke, or none could be opened.
    Lost,
}

/// Watches one member for ever. `way` gives the connection to use now, and the epoch since which it is used.
async fn watch_one((own, node): (NodeId, NodeId), way: impl Fn() -> (u64, Channel), tell: impl Fn(Heard)) {
    loop {
        let mut open = Watching::open(own, way()).await.ok();
        while let Some(watching) = open {
            open = watching.follow(node, &way, &tell).await;
        }
        tell(Heard::Lost);
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

/// One stream of frames.
struct Watching {
    own: NodeId,
    epoch: u64,
    client: LivenessClient<Channel>,
    frames: Streaming<v1::Beat>,
}

// === impl Watching ===

impl Watching {
    async fn open(own: NodeId, (epoch, channel): (u64, Channel)) -> Result<Self, Status> {
        let mut client = LivenessClient::new(channel);
        let frames = client.watch(v1::WatchBeatsRequest { from: own.0 }).await?.into_inner();
        Ok(Self { own, epoch, client, frames })
    }

    /// Tells what comes, until the stream ends; or until one on a better way is open, which takes its place.
    async fn follow(mut self, node: NodeId, way: impl Fn() -> (u64, Channel), tell: impl Fn(Heard)) -> Option<Self> {
        let mut next: Option<BoxFuture<'static, Result<Self, Status>>> = None;
        let mut measuring = pin!(measure(self.client.clone(), &tell));
        let mut is_measured = true;
        loop {
            let opening = async {
                match &mut next {
                    Some(opening) => opening.await,
                    None => pending().await,
                }
            };
            let frame = tokio::select! {
                frame = self.frames.message() => frame.ok().flatten()?,
                opened = opening => {
                    if let Ok(watching) = opened {
                        return Some(watching);
                    }
                    // The old stream still brings frames; the next of them tries again.
                    next = None;
                    continue;
                }
                () = &mut measuring, if is_measured => {
                    is_measured = false;
                    continue;
                }
            };
            match from_wire(frame) {
                Some(beat) if beat.node == node => tell(Heard::Frame(Box::new(beat))),
                _ => tracing::warn!(peer = %node, "a liveness frame that cannot be read"),
            }
            let now = way();
            if next.is_none() && now.0 > self.epoch {
                next = Some(Self::open(self.own, now).boxed());
            }
        }
    }
}

/// Measures the round trip again and again; ends when the member knows no such question.
async fn measure(mut client: LivenessClient<Channel>, tell: impl Fn(Heard)) {
    let mut ticks = tokio::time::interval(ECHO_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        match timeout(ECHO_INTERVAL, client.echo(v1::EchoRequest {})).await {
            Ok(Ok(_)) => tell(Heard::RoundTrip(asked.elapsed())),
            Ok(Err(status)) if status.code() == Code::Unimplemented => return,
            // What is wrong shows in the frames.
            Ok(Err(_)) | Err(_) => {}
        }
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
        models_total_bytes: beat.models_total_bytes,
        models_aside_bytes: beat.models_aside_bytes,
        models_spare_bytes_min: beat.models_spare.map(|spare| spare.bytes_min),
        models_spare_percent: beat.models_spare.map(|spare| spare.percent),
        no_store_at: beat.no_store_at.clone(),
        gpus: beat.gpus.iter().map(wire::gpu).collect(),
        daemon_version: beat.daemon_version.clone(),
        applies_up_to: beat.applies.up_to,
        applies_known: beat.applies.known,
        applied_index: beat.applied_index,
        quarantined: beat.quarantined.iter().take(QUARANTINED_MAX).map(wire::quarantine).collect(),
        suspect_files: beat.suspect_files,
        damaged_manifests: beat.damaged_manifests,
        models_bytes: beat.models_bytes,
        models_unique_bytes: beat.models_unique_bytes,
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
    let spare = frame.models_spare_percent.zip(frame.models_spare_bytes_min);
    let models_spare = spare.map(|(percent, bytes_min)| SpareRule { percent, bytes_min });
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
        models_total_bytes: frame.models_total_bytes,
        models_aside_bytes: frame.models_aside_bytes,
        models_spare,
        no_store_at: frame.no_store_at,
        gpus: frame.gpus.into_iter().take(GPUS_MAX).map(gpu).collect(),
        daemon_version: frame.daemon_version,
        applies: Applies { up_to: frame.applies_up_to, known: frame.applies_known },
        applied_index: frame.applied_index,
        quarantined: frame.quarantined.into_iter().take(QUARANTINED_MAX).map(quarantine).collect(),
        suspect_files: frame.suspect_files,
        damaged_manifests: frame.damaged_manifests,
        models_bytes: frame.models_bytes,
        models_unique_bytes: frame.models_unique_bytes,
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
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Endpoint, Server};

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

    /// A member whose frames a test makes, and which may be of a release without the empty question.
    #[derive(Debug, Clone)]
    struct Far {
        frames: watch::Sender<Arc<v1::Beat>>,
        is_old: bool,
        asked: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl Liveness for Far {
        type WatchStream = BoxStream<'static, Result<v1::Beat, Status>>;

        async fn watch(&self, _: Request<v1::WatchBeatsRequest>) -> Result<Response<Self::WatchStream>, Status> {
            let frames = WatchStream::new(self.frames.subscribe());
            Ok(Response::new(frames.map(|frame| Ok(frame.as_ref().clone())).boxed()))
        }

        async fn echo(&self, _: Request<v1::EchoRequest>) -> Result<Response<v1::EchoReply>, Status> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.is_old {
                return Err(Status::unimplemented("this release knows no such question"));
            }
            Ok(Response::new(v1::EchoReply {}))
        }
    }

    impl Far {
        fn new(is_old: bool) -> Self {
            Self { frames: watch::Sender::new(Arc::new(frame(0))), is_old, asked: Arc::default() }
        }

        fn send(&self, sequence: u64) {
            self.frames.send_replace(Arc::new(frame(sequence)));
        }

        /// Its door, open until the end of the test.
        async fn open(&self, tasks: &TaskTracker, stop: &CancellationToken) -> Channel {
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = format!("http://{}", socket.local_addr().expect("bound"));
            let serving = Server::builder()
                .add_service(LivenessServer::new(self.clone()))
                .serve_with_incoming_shutdown(TcpListenerStream::new(socket), stop.clone().cancelled_owned());
            tasks.spawn(serving);
            Endpoint::from_shared(address).expect("an address").connect_lazy()
        }
    }

    /// A frame of node 2.
    fn frame(sequence: u64) -> v1::Beat {
        let mut runtime = v1::Runtime::default();
        runtime.set_state(v1::runtime::State::Absent);
        v1::Beat { node: 2, sequence, runtime: Some(runtime), ..v1::Beat::default() }
    }

    /// The sequence of the next frame that is heard.
    async fn next_frame(heard: &mut mpsc::Receiver<Heard>) -> u64 {
        loop {
            match heard.recv().await.expect("the watch goes on") {
                Heard::Frame(beat) => return beat.sequence,
                Heard::RoundTrip(_) => {}
                Heard::Lost => panic!("the link was given up"),
            }
        }
    }

    #[tokio::test]
    async fn a_watch_moves_to_a_better_way_without_a_loss() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let _stopped = stop.clone().drop_guard();
        let (old, new) = (Far::new(false), Far::new(false));
        let ways = [old.open(&tasks, &stop).await, new.open(&tasks, &stop).await];
        let epoch = Arc::new(AtomicU64::new(0));
        let (sender, mut heard) = mpsc::channel(64);
        let now = Arc::clone(&epoch);
        let way = move || {
            let epoch = now.load(Ordering::Relaxed);
            (epoch, ways[usize::from(epoch > 0)].clone())
        };
        let tell = move |told: Heard| sender.try_send(told).expect("the test reads");
        let watching = watch_one((NodeId(1), NodeId(2)), way, tell);
        tasks.spawn(stop.clone().run_until_cancelled_owned(watching));

        assert_eq!(next_frame(&mut heard).await, 0);
        new.send(70);
        old.send(1);
        assert_eq!(next_frame(&mut heard).await, 1, "from the old way");
        epoch.store(1, Ordering::Relaxed);
        old.send(2);
        assert_eq!(next_frame(&mut heard).await, 2, "it is read until the next stream is open");
        assert_eq!(next_frame(&mut heard).await, 70, "from the new way");
        // The old stream ends without having been missed.
        old.frames.closed().await;
        new.send(71);
        assert_eq!(next_frame(&mut heard).await, 71);
    }

    #[tokio::test]
    async fn the_round_trip_is_measured_unless_the_member_knows_no_such_question() {
        for is_old in [false, true] {
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let _stopped = stop.clone().drop_guard();
            let far = Far::new(is_old);
            let channel = far.open(&tasks, &stop).await;
            let client = LivenessClient::new(channel);
            let (sender, mut heard) = mpsc::channel(64);
            let tell = move |told: Heard| sender.try_send(told).expect("the test reads");
            let mut measuring = pin!(measure(client, tell));
            if is_old {
                measuring.await;
                assert_eq!(far.asked.load(Ordering::Relaxed), 1, "it is not asked again");
                assert!(heard.recv().await.is_none(), "there was no round trip");
                continue;
            }
            let told = tokio::select! {
                told = heard.recv() => told.expect("told"),
                () = &mut measuring => panic!("it knows the question"),
            };
            assert!(matches!(told, Heard::RoundTrip(rtt) if rtt > Duration::ZERO), "{told:?}");
        }
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
            models_total_bytes: Some(9),
            models_aside_bytes: Some(6),
            models_spare: Some(SpareRule { percent: 20, bytes_min: 0 }),
            no_store_at: Some("/models".to_owned()),
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
            damaged_manifests: 2,
            models_bytes: 9,
            models_unique_bytes: 8,
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
