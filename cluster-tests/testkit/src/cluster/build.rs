//! What a cluster is to be, and how it comes up.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use crate::cluster::daemon::Daemon;
use crate::cluster::process::{Beside, Node, Place, binary, shut_above, store_of};
use crate::cluster::{Cluster, PATIENCE};
use crate::fake_ollama::Script;
use crate::http::HttpClient;
use crate::link::{Gate, Links};
use crate::{FakeOllama, Room, wait};

/// How often the leader compares members and voters, unless a test says otherwise; a tenth of the default.
const AUTOPILOT_MS: u64 = 50;
/// How long a node must be healthy to get a later seat, as the setting's text; a fiftieth of the default.
const STABILIZATION_MS: &[u8] = b"200";
/// Where a fake Ollama listens in a room with a network of its own.
const INSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 11_434);

/// What stands beside a node.
#[derive(Debug, Clone, Default)]
pub enum Runtime {
    /// Nothing; the node is told so.
    #[default]
    None,
    /// A fake Ollama in the test's process.
    Fake(Box<Script>),
    /// The same, with its models in [`Node::store`], in Ollama's layout; the script's models lie there from the start.
    /// Beside a node with a network of its own it is a process in that network, and nobody sees its record.
    FakeStore(Box<Script>),
    /// The bundled engine, started by the node.
    Engine,
    /// Something else that answers at this URL.
    Url(String),
}

/// One node of the plan.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// What stands beside it.
    pub runtime: Runtime,
    /// The role it joins with.
    pub role: String,
    /// Configuration keys with their values, after those of the cluster.
    pub settings: Vec<(String, String)>,
    /// The room it runs in; in one with a network of its own it finds its addresses and the other nodes by itself.
    pub room: Option<Arc<Room>>,
    /// The daemon of another release that it runs; `None`: that of this workspace.
    pub daemon: Option<Daemon>,
    /// The user as whom it runs, which only root can plan; `None`: that of the test.
    pub user: Option<u32>,
    /// Variables of its environment, after those that every node gets.
    pub environment: Vec<(String, String)>,
}

impl Default for NodePlan {
    fn default() -> Self {
        let (role, settings, environment) = ("voter".to_owned(), Vec::new(), Vec::new());
        Self { runtime: Runtime::None, role, settings, room: None, daemon: None, user: None, environment }
    }
}

/// Plans a cluster.
#[derive(Debug, Clone)]
pub struct Builder {
    test: String,
    nodes: Vec<NodePlan>,
    settings: Vec<(String, String)>,
    links: bool,
    form: bool,
    hurried: bool,
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new(test: &str) -> Self {
        Self {
            test: test.to_owned(),
            nodes: vec![NodePlan::default(); 3],
            settings: Vec::new(),
            links: false,
            form: true,
            hurried: true,
        }
    }

    /// How many nodes; three when nothing is said. Plans made before are kept.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes.resize(count, NodePlan::default());
        self
    }

    /// A fake Ollama with this script beside every node.
    #[must_use]
    pub fn fakes(mut self, script: &Script) -> Self {
        for node in &mut self.nodes {
            node.runtime = Runtime::Fake(Box::new(script.clone()));
        }
        self
    }

    /// Every node runs this daemon of another release, until a test says otherwise.
    #[must_use]
    pub fn daemon(mut self, daemon: &Daemon) -> Self {
        for node in &mut self.nodes {
            node.daemon = Some(daemon.clone());
        }
        self
    }

    /// Changes the plan of one node.
    #[must_use]
    pub fn node(mut self, index: usize, plan: impl FnOnce(&mut NodePlan)) -> Self {
        plan(&mut self.nodes[index]);
        self
    }

    /// A configuration key for all nodes, as on the command line without `--`.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Puts a gate before every node, so that links can be broken.
    #[must_use]
    pub const fn with_links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Starts the nodes without `init` and `join`.
    #[must_use]
    pub const fn unformed(mut self) -> Self {
        self.form = false;
        self
    }

    /// Leaves the nodes the pace that a daemon has by itself. Benchmarks do: what a node costs is what they ask.
    #[must_use]
    pub const fn unhurried(mut self) -> Self {
        self.hurried = false;
        self
    }

    /// Starts everything and waits until the cluster stands.
    ///
    /// # Errors
    /// When a process does not come up or the cluster does not form in time. The directory is kept.
    pub async fn start(self) -> Result<Cluster> {
        let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().context("make the test's directory")?;
        eprintln!("{}: in {}", self.test, directory.path().display());
        let mut cluster = Cluster {
            test: self.test.clone(),
            nodes: Vec::new(),
            links: Links::default(),
            http: HttpClient::new(),
            directory: Some(directory),
        };
        for (index, plan) in self.nodes.iter().enumerate() {
            let node = self.place(index, plan, &cluster).await?;
            cluster.nodes.push(node);
        }
        try_join_all(cluster.nodes.iter().map(|node| node.start(&cluster.links))).await?;
        if self.form {
            let roles: Vec<String> = self.nodes.iter().map(|plan| plan.role.clone()).collect();
            let stabilization_ms = self.hurried.then_some(STABILIZATION_MS);
            cluster.form(&roles, stabilization_ms).await?;
        }
        Ok(cluster)
    }

    /// Decides a node's addresses, starts its fake and its gate, and writes down its flags.
    async fn place(&self, index: usize, plan: &NodePlan, cluster: &Cluster) -> Result<Node> {
        let name = format!("n{}", index + 1);
        let network = plan.room.as_ref().and_then(|room| room.address());
        let bind = if network.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let at = |ip: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(ip), port);
        let peer_port = crate::port::free()?;
        let peer = at(network.unwrap_or(bind), peer_port);
        let mut flags = vec![
            ("node.name".to_owned(), name.clone()),
            ("api.listen".to_owned(), at(Ipv4Addr::LOCALHOST, crate::port::free()?).to_string()),
            ("peer.listen".to_owned(), at(bind, peer_port).to_string()),
            ("p2p.listen".to_owned(), at(bind, crate::port::free()?).to_string()),
            ("p2p.mdns".to_owned(), network.is_some().to_string()),
            // Many nodes share one disk here.
            ("store.ballast_bytes".to_owned(), "0".to_owned()),
            // Nobody keeps a key for a cluster that lives for one test.
            ("backup.every_hours".to_owned(), "0".to_owned()),
        ];
        // What a cut link holds back must not come over a libp2p connection.
        flags.extend(self.links.then(|| ("p2p.lanes".to_owned(), "false".to_owned())));
        // Most of the time that a cluster takes to form is the wait for this look.
        flags.extend(self.hurried.then(|| ("raft.autopilot_ms".to_owned(), AUTOPILOT_MS.to_string())));
        let gate = match self.links {
            true => Some(Gate::open(cluster.links.clone(), index, peer).await?),
            false => None,
        };
        let advertised = gate.as_ref().map_or(peer, Gate::address).to_string();
        if network.is_none() {
            flags.push(("peer.advertise".to_owned(), advertised.clone()));
        }
        let is_outside = matches!(plan.runtime, Runtime::Fake(_) | Runtime::Url(_));
        let may_reach = network.is_none() || !is_outside;
        ensure!(may_reach, "{name}: a node with a network of its own cannot reach a runtime outside");
        let home = cluster.directory().to_owned();
        let store = store_of(&home, &name);
        let room = plan.room.as_deref().filter(|_| network.is_some());
        let (found_at, beside) = start_runtime(&plan.runtime, &store, room).await?;
        flags.extend(found_at);
        for (key, value) in self.settings.iter().chain(&plan.settings) {
            flags.retain(|(known, _)| known != key);
            flags.push((key.clone(), value.clone()));
        }
        let lent = match plan.user {
            Some(user) => {
                move_in(&home, &name, user)?;
                lend(&home)?
            }
            None => None,
        };
        let (room, user) = (plan.room.clone(), plan.user);
        let node = Node::new(Place { index, name, home, flags, advertised, room, user, lent }, beside, gate);
        node.set_daemon(plan.daemon.clone());
        // Whatever Ollama this machine has is not to be seen.
        node.set_environment("OLLAMA_MODELS", store.display());
        plan.environment.iter().for_each(|(name, value)| node.set_environment(name, value));
        Ok(node)
    }
}

/// Makes the data directory of a node that runs as another user, which is let through to it.
fn move_in(home: &Path, name: &str, user: u32) -> Result<()> {
    let data_dir = home.join(name);
    let made = std::fs::set_permissions(home, Permissions::from_mode(0o711))
        .and_then(|()| std::fs::create_dir(&data_dir))
        .and_then(|()| chown(&data_dir, Some(user), Some(user)));
    made.with_context(|| format!("make {} for user {user}", data_dir.display()))
}

/// Puts the daemon into a folder to which every user gets, if other users do not get to where it was built.
fn lend(home: &Path) -> Result<Option<PathBuf>> {
    let program = binary("ollamax-node")?;
    if shut_above(&program).is_none() {
        return Ok(None);
    }
    let folder = home.join("programs");
    let lent = folder.join("ollamax-node");
    let put = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        // It is large; on one disk a second name for it will do.
        if !lent.exists() && std::fs::hard_link(&program, &lent).is_err() {
            std::fs::copy(&program, &lent)?;
        }
        Ok(())
    };
    put().with_context(|| format!("lend {} to another user", program.display()))?;
    Ok(Some(lent))
}

/// Starts what stands beside a node, as far as it is not the node's to start; with the flags by which the node finds
/// it.
async fn start_runtime(
    runtime: &Runtime,
    store: &Path,
    room: Option<&Room>,
) -> Result<(Vec<(String, String)>, Beside)> {
    let (kind, url, beside) = match runtime {
        Runtime::None => ("none", None, Beside::default()),
        Runtime::Engine => ("engine", None, Beside::default()),
        Runtime::Url(url) => ("ollama", Some(url.clone()), Beside::default()),
        Runtime::Fake(script) => {
            let fake = FakeOllama::start((**script).clone()).await?;
            ("ollama", Some(fake.url()), Beside { fake: Some(fake), _process: None })
        }
        Runtime::FakeStore(script) => {
            for folder in ["blobs", "manifests"].map(|name| store.join(name)) {
                std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            }
            let script = Script { store: Some(store.to_owned()), ..(**script).clone() };
            let (url, beside) = start_with_store(script, room, &store.with_extension("json")).await?;
            ("ollama", Some(url), beside)
        }
    };
    let mut flags = vec![("runtime.kind".to_owned(), kind.to_owned())];
    flags.extend(url.map(|url| ("runtime.url".to_owned(), url)));
    Ok((flags, beside))
}

/// A fake Ollama in this process, or as one in a room, which reads its script from a file; with its address.
async fn start_with_store(script: Script, room: Option<&Room>, file: &Path) -> Result<(String, Beside)> {
    let Some(room) = room else {
        let fake = FakeOllama::start(script).await?;
        return Ok((fake.url(), Beside { fake: Some(fake), _process: None }));
    };
    let text = serde_json::to_vec(&script).context("write a script as JSON")?;
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    let mut command = room.command(&binary("fake-ollama")?);
    command.arg("--listen").arg(INSIDE.to_string()).arg("--script").arg(file);
    let process = command.spawn().context("start a fake Ollama in a room")?;
    let listens = || async { room.listens(INSIDE.port()).unwrap_or(false) };
    wait::until_true("a fake Ollama to listen in its room", PATIENCE, listens).await?;
    Ok((format!("http://{INSIDE}"), Beside { fake: None, _process: Some(process) }))
}
