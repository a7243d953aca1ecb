//! Checks of this machine and its way to the others, each with what was found and how to mend it.
//!
//! Gathers the facts; [`verdict`] says what they mean. Every look is bounded in time and changes nothing but a probe
//! file in the data directory, which it removes.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use ollamax_core::catalog::{Member, read};
use ollamax_core::health::Health;
use ollamax_net::{Class, NetHandle};
use ollamax_outbound::{Environment, Report, RuntimeHandle, address};
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_proto::v1::{Check, DoctorReply, ReachBackRequest};
use ollamax_store::Space;
use ollamax_types::{Gpu, RuntimeKind, RuntimeState};

use crate::slot::{MemberEngines, Slot};

mod verdict;

use verdict::{Driver, ModelStore, Port, Quorum, ReachBack};

/// Syncs that are measured.
const FSYNC_PROBES: usize = 11;
/// How long one end may take to answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a member may take to try all addresses of this node.
const REACH_BACK_TIMEOUT: Duration = Duration::from_secs(15);
/// Files that a GPU's driver brings, of those makes that the GPU list does not know too.
const GPU_SIGNS: [&str; 3] = ["/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/kfd"];

/// What the checks look at.
#[derive(Debug, Clone)]
pub(crate) struct Doctor {
    /// The engines, if any.
    pub(crate) slot: Slot,
    /// Connections between nodes.
    pub(crate) net: NetHandle,
    /// Where the `api` listener is bound.
    pub(crate) api: SocketAddr,
    /// The runtime beside this node.
    pub(crate) runtime: RuntimeHandle,
    /// The GPUs of this machine.
    pub(crate) gpus: watch::Receiver<Vec<Gpu>>,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
}

// === impl Doctor ===

impl Doctor {
    /// Runs every check.
    pub(crate) async fn check(&self) -> DoctorReply {
        let engines = self.slot.get();
        let report = self.runtime.report().borrow().clone();
        let (ports, back, others, fsync) = tokio::join!(
            self.ports(),
            self.reach_back(engines.as_ref()),
            self.reachability(engines.as_ref()),
            self.fsync()
        );
        let mut checks = vec![
            verdict::quorum(quorum(engines.as_ref())),
            verdict::clock(worst_clock(engines.as_ref())),
            verdict::ports(&ports, &self.net.local().advertise),
            verdict::reach_back(&back),
            verdict::disk(Space::of(&self.data_dir).map(|space| space.free_bytes), &self.data_dir),
            verdict::fsync(&fsync),
            verdict::runtime(&report),
            verdict::gpu(&self.driver(), &report),
            verdict::model_store(&model_store(&report, &self.data_dir, &self.environment)),
        ];
        checks.extend(others);
        DoctorReply { checks }
    }

    /// Connects to this node's own listeners, each at one address at which it must answer.
    async fn ports(&self) -> Vec<Port> {
        let local = self.net.local();
        let p2p = local.p2p_addresses.iter().find_map(|text| tcp_address(text));
        let ends = [("api", Some(self.api)), ("peer", Some(local.peer)), ("p2p", p2p)];
        join_all(ends.map(|(name, end)| async move {
            let Some(end) = end.map(from_here) else {
                return Port { name, address: "no TCP address".to_owned(), problem: Some("it is not open".to_owned()) };
            };
            let problem = match timeout(REACH_TIMEOUT, TcpStream::connect(end)).await {
                Ok(connected) => connected.err().map(|error| error.to_string()),
                Err(_) => Some(silence()),
            };
            Port { name, address: end.to_string(), problem }
        }))
        .await
    }

    /// Has one member that is alive connect back to each address that this node advertises.
    async fn reach_back(&self, engines: Option<&MemberEngines>) -> ReachBack {
        let Some(engines) = engines else { return ReachBack::Nobody("not a member of a cluster yet") };
        let peers = engines.scheduler.peers();
        let Some(peer) = peers.iter().find(|peer| peer.health == Health::Alive) else {
            return ReachBack::Nobody("no other node is alive");
        };
        let by = peer.beat.node;
        let request = ReachBackRequest {
            peer_addresses: self.net.local().advertise.clone(),
            // Members need none.
            token_id: String::new(),
        };
        let mut client = JoinClient::new(self.net.channel(by, Class::Forward));
        match timeout(REACH_BACK_TIMEOUT, client.reach_back(request)).await {
            Ok(Ok(reply)) => {
                let probes = reply.into_inner().probes.into_iter();
                let found = probes.map(|probe| (probe.address, (!probe.reached).then_some(probe.problem)));
                ReachBack::Tried { by, port: self.net.local().peer_port, found: found.collect() }
            }
            Ok(Err(status)) => ReachBack::Failed { by, problem: status.message().to_owned() },
            Err(_) => {
                let problem = format!("no answer within {} s", REACH_BACK_TIMEOUT.as_secs());
                ReachBack::Failed { by, problem }
            }
        }
    }

    async fn reachability(&self, engines: Option<&MemberEngines>) -> Vec<Check> {
        let Some(engines) = engines else {
            return vec![verdict::skipped("reachability", "not a member of a cluster yet")];
        };
        let members = read::members(&*engines.metadata.view()).unwrap_or_default();
        let others = members.into_iter().filter(|member| member.id != engines.node);
        let present = others.filter(Member::is_standing);
        join_all(present.map(|member| async move { verdict::reachability(&member.name, &self.reach(&member).await) }))
            .await
    }

    /// The first address at which a member answers with its key.
    async fn reach(&self, member: &Member) -> Result<String, String> {
        let mut problem = "it has told no address".to_owned();
        for address in &member.peer_addresses {
            match timeout(REACH_TIMEOUT, self.net.probe(address, &member.peer_id)).await {
                Ok(Ok(())) => return Ok(address.clone()),
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("{address}: {}", silence()),
            }
        }
        Err(problem)
    }

    async fn fsync(&self) -> Result<Duration, String> {
        let path = self.data_dir.join("fsync-probe");
        let measured = tokio::task::spawn_blocking(move || median_sync(&path)).await;
        measured.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn driver(&self) -> Driver {
        let sign = GPU_SIGNS.into_iter().find(|path| Path::new(path).exists());
        Driver { gpus: self.gpus.borrow().clone(), sign }
    }
}

/// How consensus stands here, by what this node knows itself.
fn quorum(engines: Option<&MemberEngines>) -> Option<Quorum> {
    let status = engines?.metadata.status();
    Some(Quorum {
        leader: status.leader,
        has_quorum: status.has_quorum,
        voters: status.voters.len(),
        applied: status.applied,
        silent_ms: status.last_leader_contact_ms,
    })
}

/// The other node whose clock is furthest from this one's.
fn worst_clock(engines: Option<&MemberEngines>) -> Option<(ollamax_types::NodeId, i64)> {
    let peers = engines?.scheduler.peers();
    let worst = peers.iter().max_by_key(|peer| peer.clock_skew_ms.unsigned_abs())?;
    Some((worst.beat.node, worst.clock_skew_ms))
}

/// Where the runtime of this report keeps its models: the engine's store is ours, an Ollama's is looked for where its
/// environment and its packages put it, when it runs on this machine.
fn model_store(report: &Report, data_dir: &Path, environment: &Environment) -> ModelStore {
    let places = match (&report.state, report.kind) {
        (RuntimeState::Absent, _) => return ModelStore::Elsewhere("no runtime beside this node"),
        (_, RuntimeKind::Engine) if !data_dir.join("models").exists() => {
            return ModelStore::Elsewhere("the engine has not made its store yet");
        }
        (_, RuntimeKind::Engine) => vec![data_dir.join("models")],
        (_, RuntimeKind::Ollama) if address::parse(&report.url).is_ok_and(|url| address::is_loopback(&url)) => {
            environment.model_stores()
        }
        (_, RuntimeKind::Ollama) => return ModelStore::Elsewhere("the runtime runs on another machine"),
    };
    let Some(place) = places.iter().find(|place| place.exists()) else { return ModelStore::NotFound(places) };
    let access = nix::unistd::access(place, nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK);
    ModelStore::Found(place.clone(), access.map_err(|error| error.to_string()))
}

/// The address of a TCP multiaddress, such as `/ip4/10.0.0.7/tcp/11437`.
fn tcp_address(multiaddr: &str) -> Option<SocketAddr> {
    let mut parts = multiaddr.strip_prefix('/')?.split('/');
    let (family, ip, transport, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_tcp = matches!(family, "ip4" | "ip6") && transport == "tcp";
    is_tcp.then(|| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))).flatten()
}

/// Where this machine itself connects to a listener that is bound here. One on all addresses takes IPv4 too.
fn from_here(bound: SocketAddr) -> SocketAddr {
    let ip = if bound.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
    SocketAddr::new(ip, bound.port())
}

fn silence() -> String {
    format!("no answer within {} s", REACH_TIMEOUT.as_secs())
}

fn median_sync(path: &Path) -> std::io::Result<Duration> {
    let mut file = std::fs::File::create(path)?;
    let mut times = Vec::with_capacity(FSYNC_PROBES);
    let measured = (|| {
        for _ in 0..FSYNC_PROBES {
            file.write_all(&[0; 512])?;
            let started = Instant::now();
            file.sync_data()?;
            times.push(started.elapsed());
        }
        Ok(())
    })();
    drop(std::fs::remove_file(path));
    measured.map(|()| {
        times.sort_unstable();
        times[FSYNC_PROBES / 2]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sync_probe_leaves_nothing_behind_and_fails_clearly_without_rights() {
        let temp = tempfile::tempdir().expect("temp");
        let path = temp.path().join("probe");
        assert!(median_sync(&path).expect("measured") > Duration::ZERO);
        assert!(!path.exists());
        assert!(median_sync(Path::new("/proc/no-such-place/probe")).is_err());
    }

    #[test]
    fn the_model_store_is_that_of_the_runtime_as_it_is_now() {
        let root = tempfile::tempdir().expect("temp");
        let data_dir = root.path().join("data");
        let packaged = root.path().join("usr/share/ollama/.ollama/models");
        let own = data_dir.join("models");
        let environment = Environment {
            home: Some(root.path().join("var/lib/ollamax")),
            root: root.path().to_owned(),
            ..Environment::default()
        };
        let look = |kind, state, url: &str| {
            let report = Report { state, url: url.to_owned(), ..Report::absent(kind) };
            model_store(&report, &data_dir, &environment)
        };
        let local = "http://127.0.0.1:11434/";
        let found = |store: ModelStore, place: &Path| {
            assert!(matches!(&store, ModelStore::Found(found, Ok(())) if found == place), "{store:?}");
        };

        let store = look(RuntimeKind::Ollama, RuntimeState::Absent, "");
        assert!(matches!(store, ModelStore::Elsewhere(_)), "{store:?}");
        let store = look(RuntimeKind::Engine, RuntimeState::Down("it starts".to_owned()), "");
        assert!(matches!(store, ModelStore::Elsewhere(_)), "{store:?}");
        let store = look(RuntimeKind::Ollama, RuntimeState::Up, "http://gpu.lan:11434/");
        assert!(matches!(store, ModelStore::Elsewhere(_)), "{store:?}");
        let store = look(RuntimeKind::Ollama, RuntimeState::Up, local);
        assert!(matches!(&store, ModelStore::NotFound(places) if places.contains(&packaged)), "{store:?}");

        std::fs::create_dir_all(&packaged).expect("made");
        std::fs::create_dir_all(&own).expect("made");
        found(look(RuntimeKind::Ollama, RuntimeState::Up, local), &packaged);
        found(look(RuntimeKind::Engine, RuntimeState::Up, local), &own);
    }

    #[test]
    fn the_ends_of_listeners_are_read() {
        let rows = [
            ("/ip4/10.0.0.7/tcp/11437", Some("10.0.0.7:11437")),
            ("/ip6/::1/tcp/5/p2p/12D3", Some("[::1]:5")),
            ("/ip4/10.0.0.7/udp/11437/quic-v1", None),
            ("/dns4/a.lan/tcp/1", None),
            ("10.0.0.7:1", None),
        ];
        for (text, expected) in rows {
            assert_eq!(tcp_address(text), expected.map(|text| text.parse().expect("an address")), "{text}");
        }
        let here = |text: &str| from_here(text.parse().expect("an address")).to_string();
        assert_eq!(here("0.0.0.0:7"), "127.0.0.1:7");
        assert_eq!(here("[::]:7"), "127.0.0.1:7");
        assert_eq!(here("10.0.0.7:7"), "10.0.0.7:7");
    }
}
