//! Boot to drain on one page.
//!
//! Boot: the directory, the key, the listeners, the runtime, then what the node was. Nothing is announced before it
//! works. Drain: nothing new, leadership handed over while answers finish within the grace, engines, connections, exit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::Registry;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use ollamax_gateway as gateway;
use ollamax_gateway::grpc::{Admin, Phase};
use ollamax_net as net;
use ollamax_net::{NetHandle, NetService, PeerStream};
use ollamax_outbound as outbound;
use ollamax_outbound::RuntimeHandle;
use ollamax_security::NodeKey;
use ollamax_store::Space;
use ollamax_tools::ports::Ports;
use ollamax_transfer as transfer;
use ollamax_types::limits::ADDRESSES_MAX;
use ollamax_types::{Clock, ErrorCode, Gpu, Incarnation};

use crate::adapters::changes_over_admin::ChangesOverAdmin;
use crate::adapters::clients_over_slot::ClientsOverSlot;
use crate::adapters::inference_over_net::InferenceService;
use crate::adapters::join_over_net::JoinService;
use crate::adapters::keys_over_net::{KeysService, Signer};
use crate::adapters::lab_over_admin::LabOverAdmin;
use crate::adapters::liveness_over_net::LivenessService;
use crate::adapters::outlook_over_net::PlacementService;
use crate::adapters::raft_over_net::RaftService;
use crate::adapters::rescan_over_net::{InventoryService, Rescans};
use crate::adapters::state_keys_over_metadata::StateKeysOverMetadata;
use crate::adapters::tasks_over_metadata::TasksOverMetadata;
use crate::adapters::transfer_over_net::TransferService;
use crate::admin_socket;
use crate::backups::{self, Backups};
use crate::config::NodeConfig;
use crate::data_dir::DataDir;
use crate::doctor::Doctor;
use crate::follow::members::Addresses;
use crate::follow::{self, gpus, machine};
use crate::import::Importer;
use crate::import::runtime_side::Imports;
use crate::lifecycle::{Node, phase_at_start};
use crate::management::Management;
use crate::member::Around;
use crate::metrics::{self, CopyMetrics, GpuMetrics, Metrics};
use crate::node_file::{self, Ends};
use crate::removal;
use crate::shelf;
use crate::shutdown;
use crate::slot::Slot;
use crate::telemetry::{self, Ring, Standing};
use crate::toolbox;
use crate::unattended;

/// Streams for chunks that members have opened and that nobody has taken yet.
const BULK_WAITING_MAX: usize = 64;
/// How long machines that are no members may finish what they fetch when the node stops; they fetch the rest later.
const REGISTRY_GRACE: Duration = Duration::from_secs(5);
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
    registry: Option<TcpListener>,
    admin: UnixListener,
    service: NetService,
    net: NetHandle,
}

/// What the parts of the process share.
struct Shared {
    start: Start,
    standing: Arc<Standing>,
    ring: Ring,
    registry: Registry,
    tasks: TaskTracker,
    stops: Stops,
}

/// What ends what, in the order in which they are cancelled.
#[derive(Default)]
struct Stops {
    api: CancellationToken,
    engines: CancellationToken,
    net: CancellationToken,
    exit: CancellationToken,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When something that it needs cannot be opened; the text says what to do.
pub(crate) async fn run(start: Start) -> anyhow::Result<()> {
    let mut signals = shutdown::Signals::catch()?;
    let standing = Arc::new(Standing::default());
    let log = &start.config.log;
    let ring = telemetry::init(&log.level, log.format, Arc::clone(&standing), start.clock.clone())?;
    let (registry, tasks, stops) = (Registry::new(), TaskTracker::new(), Stops::default());
    let opened = open(&start.config, &start.data_dir, &tasks, &stops.net).await?;
    let shared = Shared { start, standing, ring, registry, tasks, stops };
    let (node, api) = assemble(&shared, opened)?;

    let Shared { start, tasks, stops, .. } = shared;
    // A long replay can be stopped too.
    let resumed = tokio::select! {
        resumed = node.resume() => Some(resumed),
        () = signals.wait(&stops.exit) => None,
    };
    if let Some(resumed) = resumed {
        resumed.map_err(|error| anyhow::anyhow!("{}: {}\ntry: {}", error.what, error.why, error.next))?;
        tracing::info!(api = node.api_url, name = node.name, data_dir = %start.data_dir.display(), "the node runs");
        warn_if_open(node.api_open, &node.api_url);
        // None of these can fail the node; all end with it.
        tasks.spawn(unattended::take_part(Arc::clone(&node), stops.exit.clone()));
        tasks.spawn(backups::daily::follow(node.backups.clone(), stops.engines.clone()));
        tasks.spawn(removal::retire_when_removed(Arc::clone(&node), stops.exit.clone()));
        tasks.spawn(removal::stop_when_copied(Arc::clone(&node), stops.exit.clone()));
        signals.wait(&stops.exit).await;
    }
    node.around.phase.send_replace(Phase::Stopping);
    let grace = Duration::from_secs(start.config.shutdown.grace_s);
    shutdown::drain(&node.around, stops.api, api, grace).await;
    shutdown::close(&[stops.engines, stops.net, stops.exit], &tasks, CLOSE_TIMEOUT).await;
    tracing::info!("the node has stopped");
    match node.fatal.borrow().clone() {
        Some(reason) => Err(anyhow::anyhow!("the node stopped because its state cannot be trusted: {reason}")),
        None => Ok(()),
    }
}

/// Ties everything together and opens the doors. What comes out is not a member of anything yet.
fn assemble(shared: &Shared, opened: Opened) -> anyhow::Result<(Arc<Node>, JoinHandle<()>)> {
    let Opened { dir, key, api, registry, admin, service, net } = opened;
    let Shared { start, tasks, stops, .. } = shared;
    let bound = api.local_addr()?;
    let api_url = format!("http://{bound}");
    let name = node_name(&start.config, &dir);
    let runtime = spawn_runtime(shared, &dir, &net, &api_url)?;
    let around = Arc::new(around(shared, &dir, &net, &runtime, bound)?);
    let imports = Imports::new(runtime.clone(), around.shelf.clone(), tasks.clone());
    // Never fails: it warns and tries again. Ends with the engines.
    tasks.spawn(imports.clone().sweep_leftovers(stops.engines.clone()));
    let disk = spawn_machine(shared, &around)?;
    let management = Management::new(net.clone(), runtime.clone(), tasks.clone());
    let services = Services { around: Arc::clone(&around), imports: imports.clone(), management: management.clone() };
    let (members, strangers) = services.routes();
    let (bulk, streams) = mpsc::channel(BULK_WAITING_MAX);
    tasks.spawn(service.with_bulk(bulk).serve(members, strangers));
    // Cannot fail: a stream that comes too early or too late is closed, and its node asks again.
    tasks.spawn(hand_out_chunks(streams, around.slot.clone(), stops.engines.clone()));
    let node = Arc::new(Node {
        dir: Mutex::new(dir),
        peer_id: key.peer_id().clone(),
        name: name.clone(),
        api_url: api_url.clone(),
        api_open: start.config.api.allow_unauthenticated && !bound.ip().is_loopback(),
        ring: shared.ring.clone(),
        importer: Importer { net: net.clone(), local: imports, tasks: tasks.clone() },
        management,
        doctor: Doctor {
            slot: around.slot.clone(),
            net: net.clone(),
            api: bound,
            runtime: runtime.clone(),
            gpus: around.gpus.clone(),
            data_dir: start.data_dir.clone(),
            environment: around.environment.clone(),
            shelf: around.shelf.clone(),
            registry: registry.as_ref().map(TcpListener::local_addr).transpose()?,
            registry_config: start.config.registry.clone(),
            lanes: start.config.p2p.lanes,
        },
        backups: make_backups(shared, &around)?,
        exit: stops.exit.clone(),
        fatal: watch::Sender::new(None),
        around,
    });
    let clients = Arc::new(clients(&node, disk));
    if let Some(registry) = registry {
        spawn_registry(shared, registry, Arc::clone(&clients))?;
    }
    let tools = make_tools(shared, &node, &clients)?;
    // Never fails: what it cannot do now it tries again. Ends with the engines; others go on with its tasks.
    tasks.spawn(follow::tasks::follow(node.around.slot.clone(), tools.clone(), stops.engines.clone()));
    let door = gateway::http::Door {
        listener: api,
        config: start.config.door(),
        node: clients,
        tools: tools.clone(),
        registry: shared.registry.clone(),
        grace: Duration::from_secs(start.config.shutdown.grace_s),
    };
    let serving = gateway::http::spawn(door, tasks, stops.api.clone())?;
    let routes = Admin::routes_until(Arc::clone(&node) as _, tools, tasks, stops.api.clone());
    tasks.spawn(serve_admin(admin, routes, stops.net.clone()));
    let local = net.local();
    let ends = Ends { api: api_url, peer: local.peer.to_string(), p2p: local.p2p_addresses.join(","), name };
    let slot = node.around.slot.clone();
    tasks.spawn(node_file::keep(start.data_dir.clone(), ends, slot, runtime, stops.net.clone()));
    Ok((node, serving))
}

fn around(
    shared: &Shared,
    dir: &DataDir,
    net: &NetHandle,
    runtime: &RuntimeHandle,
    bound: SocketAddr,
) -> anyhow::Result<Around> {
    let Shared { start, standing, registry, tasks, stops, .. } = shared;
    let local = net.local();
    Ok(Around {
        config: start.config.clone(),
        data_dir: start.data_dir.clone(),
        incarnation: dir.incarnation(),
        clock: start.clock.clone(),
        net: net.clone(),
        runtime: runtime.clone(),
        environment: outbound::Environment::of_this_process(),
        origin: registries(&start.config)?,
        shelf: shelf::open(tasks, &stops.engines),
        gpus: spawn_gpus(shared)?,
        copies: CopyMetrics::register(registry)?,
        signer: Signer::new(net.clone(), start.data_dir.join("keys").join("cluster.key")),
        addresses: Addresses {
            peer: local.advertise.clone(),
            p2p: local.p2p_advertise.iter().take(ADDRESSES_MAX).cloned().collect(),
            api: advertised_api(&start.config, bound, &local.advertise),
        },
        slot: Slot::default(),
        phase: watch::Sender::new(phase_at_start(dir.membership())),
        frames: watch::Sender::new(None),
        standing: Arc::clone(standing),
        registry: registry.clone(),
        tasks: tasks.clone(),
        stop: stops.engines.clone(),
    })
}

/// Opens no connection by itself.
fn registries(config: &NodeConfig) -> anyhow::Result<outbound::Registry> {
    let transfer::Config { registry_url, stall_ms, .. } = &config.transfer;
    let stall = Duration::from_millis(*stall_ms);
    let mut options = outbound::registry::Options { base: None, stall };
    if !registry_url.is_empty() {
        options.base = Some(registry_url.parse().context("transfer.registry_url is no address")?);
    }
    Ok(outbound::Registry::new(options)?)
}

fn make_backups(shared: &Shared, around: &Around) -> anyhow::Result<Backups> {
    Ok(Backups::new(backups::Parts {
        slot: around.slot.clone(),
        config: around.config.backup.clone(),
        store: around.config.store.clone(),
        data_dir: around.data_dir.clone(),
        clock: around.clock.clone(),
        metrics: backups::metrics::Metrics::register(&shared.registry)?,
        tasks: around.tasks.clone(),
        stop: around.stop.clone(),
    }))
}

/// The tools behind both doors, over what they may see and change.
fn make_tools(shared: &Shared, node: &Arc<Node>, clients: &Arc<ClientsOverSlot>) -> anyhow::Result<gateway::Toolbox> {
    let (admin, slot) = (Admin::of(Arc::clone(node) as _), node.around.slot.clone());
    let rescans = Rescans::new(node.around.net.clone(), node.around.runtime.clone());
    let asking = gateway::InferenceSlot::default();
    let ports = Ports {
        lab: Arc::new(LabOverAdmin::new(admin.clone(), Arc::clone(clients) as _)),
        changes: Arc::new(ChangesOverAdmin::new(admin.clone(), slot.clone(), rescans)),
        tasks: Arc::new(TasksOverMetadata::new(admin, slot.clone())),
        inference: gateway::inference_port(&asking),
    };
    let catalogue = toolbox::fill(&ports, &shared.start.config.tools.families)?;
    let tools = gateway::Toolbox::new(catalogue, &shared.registry)?;
    let keys = Arc::new(StateKeysOverMetadata::new(slot));
    Ok(tools.with_tasks(ports.tasks).with_inference(asking).with_keys(keys))
}

fn clients(node: &Node, disk: watch::Receiver<Option<Space>>) -> ClientsOverSlot {
    let around = &node.around;
    ClientsOverSlot {
        name: node.name.clone(),
        slot: around.slot.clone(),
        phase: around.phase.subscribe(),
        runtime: around.runtime.clone(),
        disk,
        reserve_bytes: around.config.store.reserve_bytes,
    }
}

async fn open(
    config: &NodeConfig,
    data_dir: &std::path::Path,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Opened> {
    if !data_dir.exists() {
        probe_ports(config)?;
    }
    let dir = DataDir::open(data_dir, Incarnation(ollamax_security::random_bytes()?))?;
    let key = NodeKey::load_or_create(&dir.root().join("keys").join("node.key"))?;
    let address = config.api.listen_address().ok_or_else(|| anyhow::anyhow!("api.listen: not an address"))?;
    let api = listen("api.listen", address)?;
    let registry = config.registry.listen_address().map(|address| listen("registry.listen", address)).transpose()?;
    let net_config = net::Config { peer: config.peer.clone(), p2p: config.p2p.clone() };
    let (service, net) =
        NetService::bind(net_config, key.clone(), tasks.clone(), stop.clone()).await.map_err(|error| {
            anyhow::anyhow!("{error}\ntry: stop what uses the port, or set another in the configuration")
        })?;
    let admin = admin_socket::bind(&dir.root().join("admin.sock"), &config.node.admin_group)?;
    Ok(Opened { dir, key, api, registry, admin, service, net })
}

/// A new node whose ports are taken leaves no directory behind.
fn probe_ports(config: &NodeConfig) -> anyhow::Result<()> {
    let listeners = [
        ("api.listen", config.api.listen_address()),
        ("peer.listen", Some(config.peer.listen)),
        ("p2p.listen", Some(config.p2p.listen)),
        ("registry.listen", config.registry.listen_address()),
    ];
    for (key, address) in listeners.into_iter().filter_map(|(key, address)| Some((key, address?))) {
        listen(key, address)?;
    }
    Ok(())
}

/// Opens the listener that a key sets.
fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    gateway::http::bind(address).map_err(|error| {
        anyhow::anyhow!(
            "listen on {address} ({key}): {error}\ntry: stop what uses the port, or set another with --{key}"
        )
    })
}

/// Opens the registry for machines that are no members.
fn spawn_registry(shared: &Shared, listener: TcpListener, node: Arc<ClientsOverSlot>) -> anyhow::Result<()> {
    let Shared { start, registry, tasks, stops, .. } = shared;
    let door = gateway::lab::Door {
        listener,
        config: start.config.registry.clone(),
        node,
        registry: registry.clone(),
        grace: REGISTRY_GRACE.min(Duration::from_secs(start.config.shutdown.grace_s)),
    };
    // The task is tracked; nothing waits for it but the end of the process.
    match gateway::lab::spawn(door, tasks, stops.api.clone()) {
        Ok(_) => Ok(()),
        Err(gateway::lab::OpenError::Tls(error)) => Err(anyhow::anyhow!("{error}\ntry: {}", error.remedy())),
        Err(error) => Err(error.into()),
    }
}

fn spawn_runtime(shared: &Shared, dir: &DataDir, net: &NetHandle, api_url: &str) -> anyhow::Result<RuntimeHandle> {
    let Shared { start, registry, tasks, stops, .. } = shared;
    let mut config = start.config.runtime.clone();
    if dir.membership().is_some_and(|membership| membership.removed) {
        // Nobody may use it.
        config.kind = outbound::Kind::None;
    }
    let counted = outbound::Metrics::new();
    counted.register(registry)?;
    net.metrics().register(registry)?;
    metrics::register_process(registry)?;
    let paths = outbound::Paths {
        choice: start.data_dir.join("runtime.json"),
        models: start.data_dir.join("models"),
        engine_binary: sibling("ollamax-engine")?,
    };
    let surroundings = outbound::Surroundings {
        environment: outbound::Environment::of_this_process(),
        own_api: api_url.parse().ok(),
        metrics: counted,
        tasks: tasks.clone(),
        stop: stops.engines.clone(),
    };
    Ok(outbound::spawn_runtime(config, paths, surroundings))
}

fn spawn_gpus(shared: &Shared) -> anyhow::Result<watch::Receiver<Vec<Gpu>>> {
    let metrics = GpuMetrics::register(&shared.registry)?;
    let (sender, latest) = watch::channel(Vec::new());
    let following = gpus::follow(gpus::Driver::default(), metrics, sender, shared.stops.engines.clone());
    // Without it the list stays as it is, which is empty on most machines.
    shared.tasks.spawn(following);
    Ok(latest)
}

fn spawn_machine(shared: &Shared, around: &Around) -> anyhow::Result<watch::Receiver<Option<Space>>> {
    let (disk, latest) = watch::channel(None);
    let reader = machine::Reader {
        slot: around.slot.clone(),
        data_dir: around.data_dir.clone(),
        runtime: around.runtime.report(),
        environment: around.environment.clone(),
        gpus: around.gpus.clone(),
        disk,
        metrics: Metrics::register(&shared.registry)?,
    };
    // Cannot fail; what cannot be read is not known.
    shared.tasks.spawn(machine::follow(reader, around.stop.clone()));
    Ok(latest)
}

/// The program of this name beside the running one.
fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

struct Services {
    around: Arc<Around>,
    imports: Imports,
    management: Management,
}

impl Services {
    /// What members reach, and what everybody else does.
    fn routes(self) -> (Routes, Routes) {
        let Around { slot, net, signer, clock, frames, runtime, stop, .. } = &*self.around;
        let join = JoinService::server(slot.clone(), net.clone(), signer.clone(), clock.clone());
        let members = Routes::new(RaftService::server(slot.clone(), stop.clone()))
            .add_service(LivenessService::server(frames.subscribe()))
            .add_service(InferenceService::server(slot.clone(), self.imports, self.management))
            .add_service(KeysService::server(slot.clone(), signer.clone()))
            .add_service(TransferService::server(slot.clone()))
            .add_service(PlacementService::server(slot.clone()))
            .add_service(InventoryService::server(slot.clone(), runtime.clone()))
            .add_service(join.clone());
        (members, Routes::new(join))
    }
}

/// Gives each stream of a member to the transfer of this node, while there is one.
async fn hand_out_chunks(mut streams: mpsc::Receiver<PeerStream>, slot: Slot, stop: CancellationToken) {
    while let Some(Some(stream)) = stop.run_until_cancelled(streams.recv()).await {
        match slot.get() {
            Some(engines) => engines.transfer.serve(stream),
            None => tracing::debug!(?stream, "a member wants chunks while this node starts or stops"),
        }
    }
}

async fn serve_admin(listener: UnixListener, routes: Routes, stop: CancellationToken) {
    // Ollama's own words come over HTTP/1.1.
    let served = Server::builder()
        .accept_http1(true)
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        let error = &error as &dyn std::error::Error;
        tracing::error!(code = %ErrorCode::Internal, error, "serve the admin socket");
    }
}

/// The name this node joined under, else what the configuration says, else the machine's.
pub(crate) fn node_name(config: &NodeConfig, dir: &DataDir) -> String {
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

/// At every start, since nobody is asked for a key.
pub(crate) fn warn_if_open(api_open: bool, api_url: &str) {
    if api_open {
        tracing::warn!(
            api = api_url,
            "api.allow_unauthenticated is true: everybody who reaches this address may use the models of the cluster; \
             set api.listen to a loopback address, or keep the port behind a firewall"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_without_an_address_is_told_by_its_key() {
        let at = |registry_url: &str| {
            let transfer = transfer::Config { registry_url: registry_url.to_owned(), ..transfer::Config::default() };
            let made = registries(&NodeConfig { transfer, ..NodeConfig::default() });
            made.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(at(""), Ok(()));
        assert_eq!(at("http://registry.lan:5000"), Ok(()));
        assert_eq!(at("http://["), Err("transfer.registry_url is no address".to_owned()));
    }
}
