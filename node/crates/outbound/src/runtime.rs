//! The one runtime of this node, from choice to report: gathers the facts, chooses, starts or finds it, watches it.
//!
//! Callers hold a [`RuntimeHandle`]: the current [`Client`] (none while there is no address) and the current
//! [`Report`]. Nothing here fails for good: a runtime that is missing, hung or broken is a report that says so. The
//! choice is stored when a runtime of it answered for the first time, or when the engine is chosen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use ollamax_types::{RuntimeKind, RuntimeState};

use crate::address;
use crate::choice::{Choice, Facts, Probe, Stored, choose};
use crate::client::Client;
use crate::config::{Config, Kind};
use crate::engine::{self, EngineSpec, EngineState};
use crate::facts::{self, Environment};
use crate::metrics::Metrics;
use crate::poll::{PollService, Report, publish};

/// Places on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The stored choice, a file in the data directory.
    pub choice: PathBuf,
    /// The engine's model store.
    pub models: PathBuf,
    /// The engine's program, unless `runtime.engine_binary` names another.
    pub engine_binary: PathBuf,
}

/// Things that the assembly hands in.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What the process's environment says of Ollama.
    pub environment: Environment,
    /// The address of this node's own client door: a runtime there would be ourselves.
    pub own_api: Option<Url>,
    /// Where to count.
    pub metrics: Metrics,
    /// The group that the loops run in.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

/// What callers hold. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RuntimeHandle {
    client: watch::Receiver<Option<Client>>,
    report: watch::Receiver<Report>,
}

/// The loop behind the handle.
#[derive(Debug)]
struct RuntimeService {
    config: Config,
    paths: Paths,
    around: Surroundings,
    client: watch::Sender<Option<Client>>,
    report: watch::Sender<Report>,
}

/// What is known of a running engine besides its address.
#[derive(Debug, Clone, Copy)]
struct EngineFacts {
    pid: u32,
    gpu: Option<bool>,
}

// === impl RuntimeHandle ===

impl RuntimeHandle {
    /// The runtime to talk to; `None` while none has an address.
    #[must_use]
    pub fn client(&self) -> Option<Client> {
        self.client.borrow().clone()
    }

    /// What is known of it. Receivers wake when it matters; a borrowed report is always the newest.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }
}

/// Starts the loop. It ends when `stop` is cancelled, and an engine that it started ends with it.
#[must_use]
pub fn spawn_runtime(config: Config, paths: Paths, surroundings: Surroundings) -> RuntimeHandle {
    let kind = if config.kind == Kind::Engine { RuntimeKind::Engine } else { RuntimeKind::Ollama };
    let (client, client_receiver) = watch::channel(None);
    let (report, report_receiver) = watch::channel(Report::absent(kind));
    let tasks = surroundings.tasks.clone();
    let service = RuntimeService { config, paths, around: surroundings, client, report };
    // Never fails: it reports. Ends with `stop`; an engine is ended first.
    tasks.spawn(service.run());
    RuntimeHandle { client: client_receiver, report: report_receiver }
}

// === impl RuntimeService ===

impl RuntimeService {
    async fn run(self) {
        let stop = self.around.stop.clone();
        let facts = tokio::select! {
            () = stop.cancelled() => return,
            facts = self.gather() => facts,
        };
        let choice = choose(&facts);
        tracing::info!(%choice, probe = %facts.probe, "chose the model runtime");
        match choice {
            Choice::None => {}
            Choice::Ollama { url } => {
                self.remember(&facts, Stored::Ollama { url: url.clone() });
                self.follow(url, None, None).await;
            }
            Choice::Wait { url, reason } => {
                let waiting = self.follow(url.clone(), None, Some(reason));
                tokio::join!(waiting, self.remember_once_up(&facts, url));
            }
            Choice::Engine => {
                self.remember(&facts, Stored::Engine);
                self.run_engine().await;
            }
        }
        if stop.is_cancelled() {
            self.client.send_replace(None);
            let kind = self.report.borrow().kind;
            self.show_down(kind, "this node uses it no more".to_owned());
        }
    }

    async fn gather(&self) -> Facts {
        let url = (!self.config.url.is_empty()).then(|| address::parse(&self.config.url).ok()).flatten();
        let mut facts = Facts {
            kind: self.config.kind,
            url,
            ollama_host: self.around.environment.ollama_host_url(),
            own_api: self.around.own_api.clone(),
            installed: self.around.environment.installed(),
            stored: facts::load_choice(&self.paths.choice),
            probe: Probe::Nothing("not asked".to_owned()),
        };
        if !matches!(facts.kind, Kind::Auto | Kind::Ollama) {
            return facts;
        }
        if let Some(host) = facts.overruled_host() {
            let used = facts.candidate();
            tracing::warn!(%host, %used, "OLLAMA_HOST is ignored; to use another runtime set runtime.url");
        }
        facts.probe = self.probe(&facts).await;
        if facts.host_is_a_node() {
            let host = facts.candidate();
            tracing::warn!(%host, "OLLAMA_HOST is ignored: a node of OllamaMax answers there, which is no runtime");
            facts.ollama_host = None;
            facts.probe = self.probe(&facts).await;
        }
        facts
    }

    async fn probe(&self, facts: &Facts) -> Probe {
        match Client::new(facts.candidate(), self.config.health_timeout()) {
            Ok(client) => facts::probe(&client).await,
            Err(error) => Probe::Nothing(error.to_string()),
        }
    }

    fn remember(&self, facts: &Facts, choice: Stored) {
        if facts.stored.as_ref() == Some(&choice) {
            return;
        }
        if let Err(error) = facts::store_choice(&self.paths.choice, &choice) {
            tracing::warn!(path = %self.paths.choice.display(), %error, "store the choice of a runtime");
        }
    }

    async fn remember_once_up(&self, facts: &Facts, url: Url) {
        let mut report = self.report.subscribe();
        let up = report.wait_for(|report| report.state == RuntimeState::Up);
        tokio::select! {
            () = self.around.stop.cancelled() => return,
            up = up => if up.is_err() { return },
        }
        self.remember(facts, Stored::Ollama { url });
    }

    /// Watches the runtime at one address until `stop`: our engine, where its facts are given, else an Ollama.
    async fn follow(&self, url: Url, engine: Option<EngineFacts>, waiting_because: Option<String>) {
        let kind = if engine.is_some() { RuntimeKind::Engine } else { RuntimeKind::Ollama };
        let client = match Client::new(url, self.config.health_timeout()) {
            Ok(client) => client,
            Err(error) => return self.show_down(kind, error.to_string()),
        };
        publish(&self.report, |report| {
            report.kind = kind;
            report.pid = engine.as_ref().map(|engine| engine.pid);
            report.gpu = engine.and_then(|engine| engine.gpu);
            client.url().clone_into(&mut report.url);
        });
        self.client.send_replace(Some(client.clone()));
        let poll = PollService {
            client: &client,
            config: &self.config,
            waiting_because: waiting_because.as_deref(),
            report: &self.report,
            metrics: &self.around.metrics,
        };
        poll.run(&self.around.stop).await;
    }

    fn show_down(&self, kind: RuntimeKind, reason: String) {
        self.around.metrics.up.set(0);
        publish(&self.report, |report| {
            report.kind = kind;
            report.pid = None;
            report.resident.clear();
            report.state = RuntimeState::Down(reason);
        });
    }

    /// Supervises the engine, and watches each run of it at the address that it says.
    async fn run_engine(&self) {
        let (sender, state) = watch::channel(EngineState::Starting);
        let Surroundings { metrics, tasks, stop, .. } = self.around.clone();
        let supervise = engine::supervise(self.engine_spec(), sender, metrics, tasks, stop);
        tokio::join!(supervise, self.follow_engine(state));
    }

    /// Ends when the supervisor has ended.
    async fn follow_engine(&self, mut state: watch::Receiver<EngineState>) {
        loop {
            let now = state.borrow_and_update().clone();
            let until_it_changes = async {
                match now {
                    EngineState::Running { url, pid, gpu } => {
                        self.follow(url, Some(EngineFacts { pid, gpu }), None).await;
                    }
                    EngineState::Starting => self.show_down(RuntimeKind::Engine, "the engine starts".to_owned()),
                    EngineState::Failed { reason } => self.show_down(RuntimeKind::Engine, reason),
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = until_it_changes => {}
                changed = state.changed() => if changed.is_err() { return },
            }
            self.client.send_replace(None);
        }
    }

    fn engine_spec(&self) -> EngineSpec {
        let configured = &self.config.engine_binary;
        let binary = if configured.is_empty() { self.paths.engine_binary.clone() } else { PathBuf::from(configured) };
        EngineSpec { binary, listen: self.engine_listen(), models: self.paths.models.clone() }
    }

    /// `runtime.url` where it names an IP address and port of this machine, else any free port on loopback.
    fn engine_listen(&self) -> SocketAddr {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        if self.config.url.is_empty() || self.config.kind != Kind::Engine {
            return any;
        }
        let configured = address::parse(&self.config.url).ok();
        let ip: Option<IpAddr> =
            configured.as_ref().and_then(|url| url.host_str()?.trim_matches(['[', ']']).parse().ok());
        let port = configured.as_ref().and_then(Url::port_or_known_default);
        ip.zip(port).map_or(any, SocketAddr::from)
    }
}
