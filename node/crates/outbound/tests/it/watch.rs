//! A runtime is chosen, found, lost and found again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_outbound::config::Kind;
use ollamax_outbound::{Config, Environment, Metrics, Paths, Report, RuntimeHandle, Surroundings, spawn_runtime};
use ollamax_types::{Api, RuntimeKind, RuntimeState};

use crate::server::{Reply, Server, json, whole};

const DIGEST: &str = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1";

pub(crate) struct World {
    pub(crate) handle: RuntimeHandle,
    pub(crate) folder: tempfile::TempDir,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    /// Starts in an empty machine whose `OLLAMA_HOST` is this.
    pub(crate) fn start(ollama_host: Option<&str>, config: Config, engine_binary: &Path) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let environment = Environment {
            ollama_host: ollama_host.map(str::to_owned),
            root: folder.path().join("root"),
            ..Environment::default()
        };
        let paths = Paths {
            choice: folder.path().join("runtime.json"),
            models: folder.path().join("models"),
            engine_binary: engine_binary.to_owned(),
        };
        let surroundings = Surroundings {
            environment,
            own_api: None,
            metrics: Metrics::new(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        Self { handle: spawn_runtime(config, paths, surroundings), folder, tasks, stop }
    }

    pub(crate) async fn wait_for(&self, what: &str, wanted: impl FnMut(&Report) -> bool) -> Report {
        let mut report = self.handle.report();
        let found = timeout(Duration::from_secs(30), report.wait_for(wanted)).await;
        let found = found.unwrap_or_else(|_| unreachable!("{what}: {:?}", self.handle.report().borrow()));
        found.expect("the loop lives").clone()
    }

    pub(crate) async fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.tasks.close();
        timeout(Duration::from_secs(10), self.tasks.wait()).await.expect("all loops end");
        self.folder
    }
}

pub(crate) fn quick() -> Config {
    Config { residency_interval_ms: 100, models_interval_ms: 100, health_timeout_ms: 300, ..Config::default() }
}

fn is_down(report: &Report) -> bool {
    matches!(report.state, RuntimeState::Down(_))
}

#[tokio::test]
async fn an_ollama_is_found_lost_and_found_again_and_its_models_are_remembered() {
    // 0: answers with one model; 1: hangs; 2: answers with none.
    let mood = Arc::new(AtomicU8::new(0));
    let now = Arc::clone(&mood);
    let server = Server::start(move |line| match (now.load(Ordering::SeqCst), line) {
        (1, _) => Reply::Hold(Vec::new()),
        (_, line) if line.starts_with("GET /api/version") => json(r#"{"version":"0.12.3"}"#),
        (_, line) if line.starts_with("GET /api/ps") => json(r#"{"models":[]}"#),
        (2, line) if line.starts_with("GET /api/tags") => json(r#"{"models":[]}"#),
        _ => json(&format!(r#"{{"models":[{{"name":"m","digest":"{DIGEST}","size":5}}]}}"#)),
    })
    .await;
    let world = World::start(Some(server.url.as_str()), quick(), Path::new("/nowhere"));
    let report = world.wait_for("found", |report| report.models.is_some()).await;
    assert_eq!(
        (report.kind, report.version.as_str(), &report.state),
        (RuntimeKind::Ollama, "0.12.3", &RuntimeState::Up)
    );
    assert_eq!(report.models.as_ref().map(|models| models.len()), Some(1));
    assert_eq!(format!("{}/", report.url), server.url.as_str());
    mood.store(1, Ordering::SeqCst);
    let report = world.wait_for("hung", is_down).await;
    assert_eq!(report.models.map(|models| models.len()), Some(1), "silence is not an empty list");
    mood.store(2, Ordering::SeqCst);
    world.wait_for("emptied", |report| report.models == Some(Arc::default()) && report.state == RuntimeState::Up).await;
    let folder = world.end().await;
    let stored = std::fs::read_to_string(folder.path().join("runtime.json")).expect("stored");
    assert!(stored.contains(r#""kind":"ollama""#), "{stored}");
}

#[tokio::test]
async fn a_runtime_that_answers_html_is_down_and_says_so_and_nothing_is_stored() {
    let server = Server::start(|_| whole(200, "text/html", "<html>")).await;
    let world = World::start(Some(server.url.as_str()), quick(), Path::new("/nowhere"));
    let report = world.wait_for("down", is_down).await;
    let text = format!("{:?}", report.state);
    assert!(text.contains("text/html") && text.contains("waiting for Ollama: OLLAMA_HOST names it"), "{text}");
    assert!(!world.end().await.path().join("runtime.json").exists());
}

#[tokio::test]
async fn what_a_request_loads_is_seen_before_the_next_interval() {
    let asked = Arc::new(AtomicU8::new(0));
    let loaded = Arc::clone(&asked);
    let server = Server::start(move |line| match line {
        line if line.starts_with("GET /api/version") => json(r#"{"version":"0.12.3"}"#),
        line if line.starts_with("POST /api/chat") => {
            loaded.store(1, Ordering::SeqCst);
            whole(200, "application/x-ndjson", "{\"done\":true}\n")
        }
        line if line.starts_with("GET /api/ps") && loaded.load(Ordering::SeqCst) == 0 => json(r#"{"models":[]}"#),
        _ => json(&format!(r#"{{"models":[{{"name":"m","digest":"{DIGEST}","size":5}}]}}"#)),
    })
    .await;
    // An interval that no test waits for.
    let config = Config { residency_interval_ms: 60_000, ..quick() };
    let world = World::start(Some(server.url.as_str()), config, Path::new("/nowhere"));
    world.wait_for("found", |report| report.state == RuntimeState::Up && report.resident.is_empty()).await;
    let client = world.handle.client().expect("a runtime");
    let response = client.infer(Api::Chat, Bytes::new(), None).await.expect("an answer");
    world.wait_for("loaded", |report| report.resident.len() == 1).await;
    drop(response);
    world.end().await;
}

#[tokio::test]
async fn a_runtime_that_was_there_is_not_waited_for_any_more_when_it_goes() {
    let is_there = Arc::new(AtomicU8::new(0));
    let now = Arc::clone(&is_there);
    let server = Server::start(move |line| match (now.load(Ordering::SeqCst), line) {
        (0, _) => whole(200, "text/html", "<html>"),
        (_, line) if line.starts_with("GET /api/version") => json(r#"{"version":"0.12.3"}"#),
        _ => json(r#"{"models":[]}"#),
    })
    .await;
    let world = World::start(Some(server.url.as_str()), quick(), Path::new("/nowhere"));
    let reason = async |what: &str| match world.wait_for(what, is_down).await.state {
        RuntimeState::Down(reason) => reason,
        other => unreachable!("{other:?}"),
    };
    assert!(reason("waited for").await.starts_with("waiting for Ollama"));
    is_there.store(1, Ordering::SeqCst);
    world.wait_for("up", |report| report.state == RuntimeState::Up).await;
    is_there.store(0, Ordering::SeqCst);
    let reason = reason("lost").await;
    assert!(!reason.contains("waiting for Ollama"), "{reason}");
    world.end().await;
}

/// A list of models by name and the digit that their manifest's digest is made of.
fn listed(models: &[(&str, &str)]) -> Reply {
    let row = |(name, digit): &(&str, &str)| format!(r#"{{"name":"{name}","digest":"{}"}}"#, digit.repeat(64));
    let rows: Vec<String> = models.iter().map(row).collect();
    json(&format!(r#"{{"models":[{}]}}"#, rows.join(",")))
}

#[tokio::test]
async fn weights_are_asked_for_once_for_each_manifest_and_stay_known() {
    const LISTS: usize = 5;
    let (lists, shows) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (listed_so_far, shown) = (Arc::clone(&lists), Arc::clone(&shows));
    let server = Server::start(move |line| match line {
        line if line.starts_with("GET /api/version") => json(r#"{"version":"0.12.3"}"#),
        line if line.starts_with("GET /api/ps") => listed(&[("b", "2")]),
        // The first one fails: that of the smaller digest.
        line if line.starts_with("POST /api/show") => match shown.fetch_add(1, Ordering::SeqCst) {
            0 => whole(500, "application/json", r#"{"error":"no such blob"}"#),
            _ => json(&format!(r#"{{"modelfile":"FROM /blobs/sha256-{DIGEST}\n","capabilities":["tools"]}}"#)),
        },
        _ => match listed_so_far.fetch_add(1, Ordering::SeqCst) {
            0..LISTS => listed(&[("a", "1"), ("b", "2"), ("b-too", "2")]),
            _ => listed(&[("a", "1"), ("b", "2"), ("b-too", "2"), ("late", "2")]),
        },
    })
    .await;
    let world = World::start(Some(server.url.as_str()), quick(), Path::new("/nowhere"));
    let known = |report: &Report, name: &str| {
        let model = report.models.iter().flat_map(|models| models.iter()).find(|model| model.name.to_string() == name);
        model.and_then(|model| model.known_weights()).map(|weights| weights.to_string())
    };
    let can = |report: &Report, name: &str| -> Vec<String> {
        let models = report.models.iter().flat_map(|models| models.iter());
        models.filter(|model| model.name.to_string() == name).flat_map(|model| model.capabilities.clone()).collect()
    };
    let report = world.wait_for("learnt", |report| known(report, "b:latest").is_some()).await;
    assert_eq!((can(&report, "b:latest"), can(&report, "a:latest")), (vec!["tools".to_owned()], vec![]));
    assert_eq!(known(&report, "b-too:latest").as_deref(), Some(DIGEST));
    assert_eq!(known(&report, "a:latest"), None, "it failed: the manifest stands for the weights");
    let is_late = |report: &Report| report.models.as_ref().is_some_and(|models| models.len() == 4);
    let report = world.wait_for("listed again", is_late).await;
    assert_eq!(known(&report, "late:latest").as_deref(), Some(DIGEST), "known from its twins");
    assert_eq!(can(&report, "late:latest"), ["tools"], "and what it can do");
    world
        .wait_for("seen in memory", |report| report.resident.iter().any(|row| row.weights.to_string() == DIGEST))
        .await;
    assert_eq!(shows.load(Ordering::SeqCst), 2, "once for each manifest, however many lists");
    world.end().await;
}

#[tokio::test]
async fn lists_do_not_wait_for_a_question_that_hangs() {
    let shows = Arc::new(AtomicUsize::new(0));
    let shown = Arc::clone(&shows);
    let server = Server::start(move |line| match line {
        line if line.starts_with("GET /api/version") => json(r#"{"version":"0.12.3"}"#),
        line if line.starts_with("GET /api/ps") => listed(&[]),
        line if line.starts_with("POST /api/show") => {
            shown.fetch_add(1, Ordering::SeqCst);
            Reply::Hold(Vec::new())
        }
        _ if shown.load(Ordering::SeqCst) == 0 => listed(&[("a", "1")]),
        _ => listed(&[("a", "1"), ("b", "2")]),
    })
    .await;
    let world = World::start(Some(server.url.as_str()), quick(), Path::new("/nowhere"));
    world.wait_for("listed", |report| report.models.as_ref().is_some_and(|models| models.len() == 2)).await;
    assert_eq!(shows.load(Ordering::SeqCst), 1, "one at a time");
    world.end().await;
}

#[tokio::test]
async fn no_runtime_wanted_is_absent() {
    let config = Config { kind: Kind::None, ..quick() };
    let world = World::start(None, config, Path::new("/nowhere"));
    world.tasks.close();
    timeout(Duration::from_secs(10), world.tasks.wait()).await.expect("nothing to do");
    assert_eq!(world.handle.report().borrow().state, RuntimeState::Absent);
    assert!(world.handle.client().is_none());
}
