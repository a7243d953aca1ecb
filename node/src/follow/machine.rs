//! Readings of this machine: for its metrics from the start, for its frames once it is a member. Also the term that log
//! lines carry.
//!
//! What cannot be read is told as not known; the rest goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{View, read};
use ollamax_metadata as metadata;
use ollamax_outbound::{Environment, Report};
use ollamax_scheduler::Machine;
use ollamax_store::Space;
use ollamax_types::{ErrorCode, Gpu, ModelName, NodeId};

use crate::metrics::Metrics;
use crate::model_place::{ModelPlace, listed, model_place};
use crate::slot::Slot;
use crate::telemetry::Standing;

/// Time between two readings.
const READ_INTERVAL: Duration = Duration::from_secs(2);
/// How long the disk of the models may take to say what is free before all else is told without it.
const ROOM_TIMEOUT: Duration = Duration::from_millis(500);

/// What is read, and who is told.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The engines, once there are any.
    pub(crate) slot: Slot,
    /// Whose disk is read.
    pub(crate) data_dir: PathBuf,
    /// The runtime beside this node, which says where the models lie.
    pub(crate) runtime: watch::Receiver<Report>,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
    /// The GPUs, as last read.
    pub(crate) gpus: watch::Receiver<Vec<Gpu>>,
    /// How full the disk is; `None` while that is not known.
    pub(crate) disk: watch::Sender<Option<Space>>,
    /// What `/metrics` shows of it.
    pub(crate) metrics: Metrics,
}

/// What is known of the place where models lie.
#[derive(Debug, Default)]
struct Room {
    /// How full its disk is; `None` where there is no such place here, or it does not say.
    space: Option<Space>,
    /// Where the store was looked for, if it is not there.
    no_store_at: Option<String>,
}

/// Keeps the term that log lines carry, from the moment in which it changes, until `stop`.
pub(crate) async fn keep_term(metadata: metadata::Handle, standing: Arc<Standing>, stop: CancellationToken) {
    let mut term = 0;
    while let Some(next) = stop.run_until_cancelled(metadata.next_term(term)).await {
        term = next;
        standing.term.store(term, Ordering::Relaxed);
    }
}

/// Reads until `stop`.
pub(crate) async fn follow(reader: Reader, stop: CancellationToken) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(kinds)
        .inspect_err(|error| tracing::warn!(%error, "read this machine's memory and CPU"))
        .ok();
    let mut placed = reader.slot.subscribe();
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    let mut asking = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            // The first frames of a member say something, too.
            _ = placed.changed() => {}
        }
        if let Some(system) = &mut system {
            system.refresh_specifics(kinds);
        }
        let room = answered(&mut asking, || reader.ask_for_room()).await;
        reader.read(system.as_ref(), room);
    }
}

// === impl Reader ===

impl Reader {
    /// Asks how full the disk is on which models lie.
    fn ask_for_room(&self) -> JoinHandle<Room> {
        let report = self.runtime.borrow().clone();
        let (data_dir, environment) = (self.data_dir.clone(), self.environment.clone());
        spawn_blocking(move || room_for_models(&report, &data_dir, &environment))
    }

    fn read(&self, system: Option<&System>, room: Room) {
        let Room { space: models, no_store_at } = room;
        let disk = Space::of(&self.data_dir);
        self.disk.send_replace(disk);
        self.metrics.show_disk(disk);
        let Some(engines) = self.slot.get() else { return };
        self.metrics.show_members(&engines.scheduler.others());
        let (sharing, aside_bytes) = (engines.transfer.sharing(), engines.transfer.aside_bytes());
        let damaged = engines.transfer.damaged_manifests();
        let (here, stray) = counted_on(&*engines.metadata.view(), engines.node, &damaged);
        let mut machine = Machine {
            disk_free_bytes: disk.map(|space| space.free_bytes),
            // What is kept of old versions makes way for what somebody wants.
            models_free_bytes: models.map(|space| space.free_bytes.saturating_add(engines.transfer.spare_bytes())),
            models_total_bytes: models.map(size_bytes),
            models_aside_bytes: Some(aside_bytes),
            models_spare: Some(engines.transfer.spare_rule()),
            no_store_at,
            gpus: self.gpus.borrow().clone(),
            applied_index: engines.metadata.status().applied,
            quarantined: engines.transfer.quarantined(),
            suspect_files: engines.transfer.suspect_files().saturating_add(here),
            damaged_manifests: stray,
            models_bytes: sharing.apparent_bytes,
            models_unique_bytes: sharing.unique_bytes,
            ..Machine::default()
        };
        if let Some(system) = system {
            machine.memory_used_bytes = system.used_memory();
            machine.memory_total_bytes = system.total_memory();
            machine.cpu_permille = permille(system.global_cpu_usage());
        }
        engines.scheduler.set_machine(machine);
    }
}

/// Of the models whose manifest here is damaged, how many the record has here, so that the cluster counts on them, and
/// how many it has not: the runtime does not list any of them, and the record follows it while it answers.
fn counted_on(view: &dyn View, node: NodeId, damaged: &[ModelName]) -> (u32, u32) {
    // What cannot be read is counted on.
    let is_here = |name: &&ModelName| !matches!(read::node_model(view, node, &name.key()), Ok(None));
    let (here, stray): (Vec<&ModelName>, Vec<&ModelName>) = damaged.iter().partition(is_here);
    let count = |names: Vec<&ModelName>| u32::try_from(names.len()).unwrap_or(u32::MAX);
    (count(here), count(stray))
}

/// What the disk says on which models lie. It may take its time, or never answer: nothing is known meanwhile, and it is
/// not asked a second time.
async fn answered<T: Default>(asking: &mut Option<JoinHandle<T>>, ask: impl FnOnce() -> JoinHandle<T>) -> T {
    let mut asked = asking.take().unwrap_or_else(ask);
    let answer = timeout(ROOM_TIMEOUT, &mut asked).await;
    match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::error!(code = %ErrorCode::Internal, %error, "ask how much room models have");
            T::default()
        }
        Err(_) => {
            *asking = Some(asked);
            T::default()
        }
    }
}

/// What there is where the runtime of this report keeps its models.
fn room_for_models(report: &Report, data_dir: &Path, environment: &Environment) -> Room {
    match model_place(report, data_dir, environment) {
        ModelPlace::Store(place) => Room { space: Space::of(&place), no_store_at: None },
        ModelPlace::Elsewhere(_) => Room::default(),
        ModelPlace::NotFound(places) => Room { space: None, no_store_at: Some(listed(&places)) },
    }
}

/// What is kept back from this user counts as little as what is not there.
const fn size_bytes(space: Space) -> u64 {
    space.free_bytes.saturating_add(space.used_bytes)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 before the cast")]
fn permille(percent: f32) -> u32 {
    (percent * 10.0).clamp(0.0, 1000.0) as u32
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::sync::oneshot;
    use tokio_util::task::TaskTracker;

    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Key, Location, Mutation, Record};
    use ollamax_types::{Digest, ModelRecord, RuntimeKind, Timestamp};

    use super::*;

    #[test]
    fn a_damaged_manifest_that_the_record_has_here_is_told_from_a_stray_one() {
        let names = ["a", "b", "c"].map(|name| name.parse::<ModelName>().expect("a name"));
        let model = ModelRecord {
            name: names[0].clone(),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let mut view = MemView::default();
        let location = Location { node: NodeId(1), model };
        view.write(&[Mutation::Put(Key::NodeModel(NodeId(1), names[0].key()), Record::Location(location))]);
        assert_eq!(counted_on(&view, NodeId(1), &names), (1, 2));
        assert_eq!(counted_on(&view, NodeId(2), &names), (0, 3));
        assert_eq!(counted_on(&view, NodeId(1), &[]), (0, 0));
    }

    #[tokio::test]
    async fn a_node_without_a_cluster_knows_its_disk() {
        let folder = tempfile::tempdir().expect("temp");
        let (disk, mut latest) = watch::channel(None);
        let reader = Reader {
            slot: Slot::default(),
            data_dir: folder.path().to_owned(),
            runtime: watch::channel(Report::absent(RuntimeKind::Engine)).1,
            environment: Environment::default(),
            gpus: watch::channel(Vec::new()).1,
            disk,
            metrics: Metrics::register(&Registry::new()).expect("new names"),
        };
        let stop = CancellationToken::new();
        let looking = async {
            let space = latest.wait_for(Option::is_some).await.expect("still followed").expect("read");
            stop.cancel();
            space
        };
        let ((), space) = tokio::join!(follow(reader, stop.clone()), looking);
        assert!(space.used_bytes > 0, "{space:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_asked_once_and_holds_nothing_up() {
        let (mut asking, mut asked) = (None, 0);
        let (answer, answers) = oneshot::channel();
        let tasks = TaskTracker::new();
        let mut disk = Some(tasks.spawn(async { answers.await.ok() }));
        for _ in 0..3 {
            let space = answered(&mut asking, || {
                asked += 1;
                disk.take().expect("it is asked once")
            });
            assert_eq!(space.await, None);
        }
        let [first, second] = [7, 8].map(|free_bytes| Space { free_bytes, used_bytes: 3 });
        answer.send(first).expect("it still waits");
        assert_eq!(answered(&mut asking, || unreachable!("it was asked")).await, Some(first));
        assert_eq!(asked, 1);
        assert_eq!(answered(&mut asking, || tasks.spawn(async move { Some(second) })).await, Some(second));
        assert_eq!(size_bytes(first), 10);
    }

    #[test]
    fn models_have_the_room_of_the_disk_on_which_they_lie() {
        let folder = tempfile::tempdir().expect("temp");
        let environment = Environment { root: folder.path().to_owned(), ..Environment::default() };
        let room = |report: &Report| room_for_models(report, folder.path(), &environment);
        let space = |kind| room(&Report::absent(kind)).space;
        assert_eq!(space(RuntimeKind::Engine), None, "the engine has no store yet");
        assert_eq!(space(RuntimeKind::Ollama), None, "there is no Ollama");
        let mut other = Report::absent(RuntimeKind::Ollama);
        other.url = "http://127.0.0.1:11434/".to_owned();
        let looked_at = listed(&environment.model_stores());
        assert_eq!(room(&other).no_store_at, Some(looked_at), "it keeps its models where nobody looks");
        assert_eq!(room(&Report::absent(RuntimeKind::Ollama)).no_store_at, None, "it is not known whose store it is");
        std::fs::create_dir(folder.path().join("models")).expect("made");
        assert!(space(RuntimeKind::Engine).is_some_and(|space| space.free_bytes > 0));
    }
}
