//! Boot to drain on one page.
//!
//! Boot: the directory, the key, the listeners, the runtime, then what the node was. Nothing is announced before it
//! works. Drain: not ready, leadership handed over while answers finish within the grace, engines, connections, exit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use ollamax_gateway as gateway;
use ollamax_gateway::grpc::{Admin, Phase};
use ollamax_net as net;
use ollamax_net::{NetHandle, NetService};
use ollamax_outbound as outbound;
use ollamax_outbound::RuntimeHandle;
use ollamax_security::NodeKey;
use ollamax_types::{Clock, Incarnation};

use crate::adapters::clients_over_slot::ClientsOverSlot;
use crate::adapters::inference_over_net::InferenceService;
use crate::adapters::join_over_net::JoinService;
use crate::adapters::keys_over_net::{KeysService, Signer};
use crate::adapters::liveness_over_net::{Frames, LivenessService};
use crate::adapters::raft_over_net::RaftService;
use crate::admin_socket;
use crate::config::NodeConfig;
use crate::data_dir::DataDir;
use crate::doctor::Doctor;
use crate::follow::members::Addresses;
use crate::import::Importer;
use crate::import::runtime_side::Imports;
use crate::lifecycle::Node;
use crate::member::Around;
use crate::node_file::{self, Ends};
use crate::shutdown;
use crate::slot::Slot;
use crate::telemetry::{self, Standing};
use crate::unattended;

/// How long connections and tasks may take to end after the grace is over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// What `run` is started with.
#[derive(Debug)]
pub(crate) struct Start {
    /// The whole configuration, valid.
    pub(crate) config: NodeConfig,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Wall time.
    pub(crate) clock: Clock,
}

/// Everything that is open before the node is anything.
struct Opened {
    dir: DataDir,
    key: NodeKey,
    api: TcpListener,
    admin: UnixListener,
    service: NetService,
    net: NetHandle,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When something that it needs cannot be opened; the text says what to do.
pub(crate) async fn run(start: Start) -> anyhow::Result<()> {
    let Start { config, data_dir, clock } = start;
    let standing = Arc::new(Standing::default());
    let ring = telemetry::init(&config.log.level, config.log.format, Arc::clone(&standing), clock.clone())?;
    let (tasks, exit) = (TaskTracker::new(), CancellationToken::new());
    let stop_net = CancellationToken::new();
    let stop_engines = CancellationToken::new();
    let opened = open(&config, &data_dir, &tasks, &stop_net).await?;
    let api_url = format!("http://{}", opened.api.local_addr()?);
    let name = node_name(&config, &opened.dir);
    let registry = Registry::new();
    let runtime = spawn_runtime(&config, &opened, &api_url, &registry, &tasks, &stop_engines)?;

    let slot = Slot::default();
    let fatal = watch::Sender::new(None);
    let (phase, frames) = (watch::Sender::new(Phase::Waiting), watch::Sender::new(None));
    let signer = Signer::new(opened.net.clone(), data_dir.join("keys").join("cluster.key"));
    let imports = Imports::new(runtime.clone());
    let services = Services {
        slot: slot.clone(),
        net: opened.net.clone(),
        signer: signer.clone(),
        clock: clock.clone(),
        imports: imports.clone(),
        frames: frames.subscribe(),
    };
    let (members, strangers) = services.routes();
    tasks.spawn(opened.service.serve(members, strangers));

    let local = opened.net.local().clone();
    let addresses = Addresses {
        peer: local.advertise.clone(),
        p2p: local.p2p_addresses.clone(),
        api: advertised_api(&config, opened.api.local_addr()?, &local.advertise),
    };
    let peer_id = opened.key.peer_id().clone();
    let around = Arc::new(Around {
        incarnation: opened.dir.incarnation(),
        data_dir: data_dir.clone(),
        net: opened.net.clone(),
        runtime: runtime.clone(),
        phase: phase.clone(),
        stop: stop_engines.clone(),
        tasks: tasks.clone(),
        registry: registry.clone(),
        config: config.clone(),
        slot: slot.clone(),
        clock,
        signer,
        addresses,
        frames,
        standing,
    });
    let node = Arc::new(Node {
        around: Arc::clone(&around),
        dir: Mutex::new(opened.dir),
        peer_id,
        name: name.clone(),
        api_url: api_url.clone(),
        api_open: config.api.allow_unauthenticated && !opened.api.local_addr()?.ip().is_loopback(),
        ring,
        importer: Importer { net: opened.net.clone(), local: imports, tasks: tasks.clone() },
        doctor: Doctor {
            slot: slot.clone(),
            net: opened.net.clone(),
            runtime: runtime.clone(),
            data_dir: data_dir.clone(),
            model_store: model_store(&data_dir, &runtime),
        },
        exit: exit.clone(),
        fatal: fatal.clone(),
    });
    let clients =
        ClientsOverSlot { name: name.clone(), slot: slot.clone(), phase: phase.subscribe(), runtime: runtime.clone() };
    let grace = Duration::from_secs(config.shutdown.grace_s);
    let stop_api = CancellationToken::new();
    let api = gateway::http::spawn(
        gateway::http::Door {
            listener: opened.api,
            config: config.api.clone(),
            node: Arc::new(clients),
            registry,
            grace,
        },
        &tasks,
        stop_api.clone(),
    )?;
    tasks.spawn(serve_admin(opened.admin, Arc::clone(&node), stop_net.clone()));
    let ends = Ends {
        api: api_url.clone(),
        peer: local.peer.to_string(),
        p2p: local.p2p_addresses.join(","),
        name: name.clone(),
    };
    tasks.spawn(node_file::keep(data_dir.clone(), ends, slot, runtime, stop_net.clone()));

    node.resume().await.map_err(|error| anyhow::anyhow!("{}: {}\ntry: {}", error.what, error.why, error.next))?;
    tracing::info!(api = api_url, peer = %local.peer, name, data_dir = %data_dir.display(), "the node runs");
    warn_if_open(&node);
    tasks.spawn(unattended::take_part(Arc::clone(&node), exit.clone()));

    shutdown::wait_for_signal(&exit).await;
    phase.send_replace(Phase::Stopping);
    shutdown::drain(&around, stop_api, api, grace).await;
    shutdown::close(&[stop_engines, stop_net, exit], &tasks, CLOSE_TIMEOUT).await;
    tracing::info!("the node has stopped");
    match fatal.borrow().clone() {
        Some(reason) => Err(anyhow::anyhow!("the node stopped because its state cannot be trusted: {reason}")),
        None => Ok(()),
    }
}

async fn open(
    config: &NodeConfig,
    data_dir: &std::path::Path,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Opened> {
    let dir = DataDir::open(data_dir, Incarnation(ollamax_security::random_bytes()?))?;
    let key = NodeKey::load_or_create(&dir.root().join("keys").join("node.key"))?;
    let listen = config.api.listen_address().ok_or_else(|| anyhow::anyhow!("api.listen: not an address"))?;
    let api = gateway::http::bind(listen).map_err(|error| {
        anyhow::anyhow!(
            "listen on {listen} (api.listen): {error}\ntry: stop what uses the port, or set another with --api.listen"
        )
    })?;
    let net_config = net::Config { peer: config.peer.clone(), p2p: config.p2p.clone() };
    let (service, net) =
        NetService::bind(net_config, key.clone(), tasks.clone(), stop.clone()).await.map_err(|error| {
            anyhow::anyhow!("{error}\ntry: stop what uses the port, or set another in the configuration")
        })?;
    let admin = admin_socket::bind(&dir.root().join("admin.sock"), &config.node.admin_group)?;
    Ok(Opened { dir, key, api, admin, service, net })
}

fn spawn_runtime(
    config: &NodeConfig,
    opened: &Opened,
    api_url: &str,
    registry: &Registry,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<RuntimeHandle> {
    let metrics = outbound::Metrics::new();
    metrics.register(registry)?;
    opened.net.metrics().register(registry)?;
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    let paths = outbound::Paths {
        choice: opened.dir.root().join("runtime.json"),
        models: opened.dir.root().join("models"),
        engine_binary: sibling("ollamax-engine")?,
    };
    let surroundings = outbound::Surroundings {
        environment: outbound::Environment::of_this_process(),
        own_api: api_url.parse().ok(),
        metrics,
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    Ok(outbound::spawn_runtime(config.runtime.clone(), paths, surroundings))
}

/// The program of this name beside the running one.
fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

struct Services {
    slot: Slot,
    net: NetHandle,
    signer: Signer,
    clock: Clock,
    imports: Imports,
    frames: watch::Receiver<Option<Frames>>,
}

impl Services {
    /// What members reach, and what everybody else does.
    fn routes(self) -> (Routes, Routes) {
        let join = JoinService::server(self.slot.clone(), self.net, self.signer.clone(), self.clock);
        let members = Routes::new(RaftService::server(self.slot.clone()))
            .add_service(LivenessService::server(self.frames))
            .add_service(InferenceService::server(self.slot.clone(), self.imports))
            .add_service(KeysService::server(self.slot, self.signer))
            .add_service(join.clone());
        (members, Routes::new(join))
    }
}

async fn serve_admin(listener: UnixListener, node: Arc<Node>, stop: CancellationToken) {
    let served = Server::builder()
        .add_service(Admin::service(node))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(code = "storage_failed", %error, "serve the admin socket");
    }
}

/// The name this node joined under, else what the configuration says, else the machine's.
fn node_name(config: &NodeConfig, dir: &DataDir) -> String {
    if let Some(membership) = dir.membership() {
        return membership.name.clone();
    }
    if !config.node.name.is_empty() {
        return config.node.name.clone();
    }
    let host = sysinfo::System::host_name().unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default();
    if crate::config::is_label(short) { short.to_owned() } else { "node".to_owned() }
}

/// What the configuration says; else where the listener is bound, which for all addresses means those of the `peer`
/// listener with this port.
fn advertised_api(config: &NodeConfig, bound: SocketAddr, peer: &[String]) -> Vec<String> {
    let given = &config.api.advertise;
    if !given.is_empty() {
        return given
            .iter()
            .map(|text| if text.contains("://") { text.clone() } else { format!("http://{text}") })
            .collect();
    }
    if !bound.ip().is_unspecified() {
        return vec![format!("http://{bound}")];
    }
    let hosts = peer.iter().filter_map(|address| address.rsplit_once(':'));
    hosts.map(|(host, _)| format!("http://{host}:{}", bound.port())).collect()
}

/// The engine's store is ours; an Ollama's is where its environment says, when it runs on this machine.
fn model_store(data_dir: &std::path::Path, runtime: &RuntimeHandle) -> Option<PathBuf> {
    match runtime.report().borrow().kind {
        ollamax_types::RuntimeKind::Engine => Some(data_dir.join("models")),
        ollamax_types::RuntimeKind::Ollama => {
            let environment = outbound::Environment::of_this_process();
            environment.ollama_models.or_else(|| environment.home.map(|home| home.join(".ollama/models")))
        }
    }
}

fn warn_if_open(node: &Node) {
    if node.api_open {
        tracing::warn!(
            api = node.api_url,
            "api.allow_unauthenticated is true: everybody who reaches this address may use the models of the cluster"
        );
    }
}
