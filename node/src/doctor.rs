//! Checks of this machine and its way to the others, each with what was found and how to mend it.
//!
//! Gathers the facts; [`verdict`] says what they mean. Every look is bounded in time and changes nothing but a probe
//! file in the data directory, which it removes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use ollamax_blobs::{Access, Owner, Store};
use ollamax_core::catalog::{Member, read};
use ollamax_core::health::Health;
use ollamax_gateway::RegistryConfig;
use ollamax_net::{Class, NetHandle, Way};
use ollamax_outbound::{Environment, Report, RuntimeHandle};
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_proto::v1::reach_back_reply::Probe;
use ollamax_proto::v1::{Check, DoctorReply, ReachBackReply, ReachBackRequest};
use ollamax_store::Space;
use ollamax_transfer::{Adopted, Shelf};
use ollamax_types::{Digest, Gpu, ModelName, Role};

use crate::adapters::store_over_runtime::shelf_for;
use crate::model_place::{ModelPlace, model_place};
use crate::slot::{MemberEngines, Slot};

mod verdict;

use verdict::{Driver, Files, Lending, ModelStore, Port, Quorum, ReachBack, Reached};

/// Syncs that are measured.
const FSYNC_PROBES: usize = 11;
/// How long one end may take to answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a member may take to try all addresses of this node.
const REACH_BACK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a look at the model store may take; a disk behind a network may never answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// From where the runtime fetches what this node may not put into its store.
    pub(crate) shelf: Option<Shelf>,
    /// Where the `registry` listener is bound, if it is.
    pub(crate) registry: Option<SocketAddr>,
    /// Whom it serves.
    pub(crate) registry_config: RegistryConfig,
    /// Whether libp2p connections may carry what cannot be dialled.
    pub(crate) lanes: bool,
}

// === impl Doctor ===

impl Doctor {
    /// Runs every check.
    pub(crate) async fn check(&self) -> DoctorReply {
        let engines = self.slot.get();
        let report = self.runtime.report().borrow().clone();
        let (ports, lending, back, others, fsync, store) = tokio::join!(
            self.ports(),
            self.lending(engines.as_ref()),
            self.reach_back(engines.as_ref()),
            self.reachability(engines.as_ref()),
            self.fsync(),
            self.model_store(&report, engines.as_ref())
        );
        let mut checks = vec![
            verdict::quorum(quorum(engines.as_ref())),
            verdict::clock(worst_clock(engines.as_ref())),
            verdict::ports(&ports, &self.net.local().advertise),
            verdict::reach_back(&back),
            verdict::disk(Space::of(&self.data_dir).map(|space| space.free_bytes), &self.data_dir),
            verdict::data_dir(modes(&self.data_dir).as_deref().ok(), &self.data_dir),
            verdict::fsync(&fsync),
            verdict::runtime(&report),
            verdict::gpu(&self.driver(), &report),
            verdict::model_store(&store),
            verdict::registry(lending.as_ref()),
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
            Port { name, address: end.to_string(), problem: deaf(end).await }
        }))
        .await
    }

    /// Connects to the registry for machines that are no members.
    async fn lending(&self, engines: Option<&MemberEngines>) -> Option<Lending> {
        let address = self.registry?;
        let role = engines.and_then(|engines| {
            let own = read::member(&*engines.metadata.view(), engines.node).ok().flatten()?;
            Some(own.role)
        });
        Some(Lending {
            address,
            problem: deaf(from_here(address)).await,
            networks: self.registry_config.allow.len(),
            has_tls: self.registry_config.has_tls(),
            is_gateway: role == Some(Role::Gateway),
        })
    }

    /// Has one member that is alive connect back to each address that this node advertises, and over the libp2p
    /// connection between them.
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
            lanes: self.lanes,
        };
        let mut client = JoinClient::new(self.net.channel(by, Class::Forward));
        match timeout(REACH_BACK_TIMEOUT, client.reach_back(request)).await {
            Ok(Ok(reply)) => {
                let ReachBackReply { probes, lane, .. } = reply.into_inner();
                let problem = |probe: Probe| (!probe.reached).then_some(probe.problem);
                let found = probes.into_iter().map(|probe| (probe.address.clone(), problem(probe))).collect();
                ReachBack::Tried { by, port: self.net.local().peer_port, found, lane: lane.map(problem) }
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

    /// The first address at which a member answers with its key, else the libp2p connection that leads to it.
    async fn reach(&self, member: &Member) -> Result<Reached, String> {
        let mut problem = "it has told no address".to_owned();
        for address in &member.peer_addresses {
            match timeout(REACH_TIMEOUT, self.net.probe(address, &member.peer_id)).await {
                Ok(Ok(())) => return Ok(Reached::At(address.clone())),
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("{address}: {}", silence()),
            }
        }
        match timeout(REACH_TIMEOUT, self.net.probe_lane(&member.peer_id)).await {
            Ok(Ok(())) if self.net.way(member.id) == Some(Way::Relayed) => Ok(Reached::Relayed),
            Ok(Ok(())) => Ok(Reached::OverP2p),
            Ok(Err(_)) | Err(_) => Err(problem),
        }
    }

    async fn fsync(&self) -> Result<Duration, String> {
        let path = self.data_dir.join("fsync-probe");
        let measured = tokio::task::spawn_blocking(move || median_sync(&path)).await;
        measured.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn model_store(&self, report: &Report, engines: Option<&MemberEngines>) -> ModelStore {
        let adopted = engines.map(|engines| Arc::clone(&engines.transfer.adopted().borrow()));
        let (report, data_dir, environment) = (report.clone(), self.data_dir.clone(), self.environment.clone());
        let handed = shelf_for(&report, self.shelf.as_ref()).map(|shelf| shelf.address());
        let look = move || look_into(model_place(&report, &data_dir, &environment), adopted.as_deref(), handed);
        match timeout(STORE_TIMEOUT, tokio::task::spawn_blocking(look)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => ModelStore::Unusable(error.to_string()),
            Err(_) => ModelStore::Unusable(format!("no answer from its disk within {} s", STORE_TIMEOUT.as_secs())),
        }
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

/// Opens the store and asks what may be done there. Blocks on the disk.
fn look_into(place: ModelPlace, adopted: Option<&Adopted>, handed: Result<SocketAddr, String>) -> ModelStore {
    let path = match place {
        ModelPlace::Store(path) => path,
        ModelPlace::Elsewhere(why) => return ModelStore::Elsewhere(why),
        ModelPlace::NotFound(places) => return ModelStore::NotFound(places),
    };
    let store = match Store::open(&path) {
        Ok(store) => store,
        Err(fault) if fault.is_denied() => return shut(&path, fault.to_string()),
        Err(fault) => return ModelStore::Unusable(fault.to_string()),
    };
    let access = store.access();
    let owner = match &access {
        Access::Direct { owner, .. } | Access::Locked { owner, .. } => name_of(*owner),
        Access::Hidden { .. } => String::new(),
    };
    let damaged = adopted.map_or_else(BTreeMap::new, damaged_files);
    ModelStore::Found(Files { path, access, owner, handed, damaged })
}

/// That a store is behind a folder that is shut to this process: behind the last above it that can be seen.
fn shut(path: &Path, problem: String) -> ModelStore {
    let seen = path.ancestors().skip(1).find_map(|folder| Some((folder, folder.metadata().ok()?.gid())));
    match seen {
        // Root's group opens more than a store.
        None | Some((_, 0)) => ModelStore::Unusable(problem),
        Some((folder, gid)) => ModelStore::Shut { problem, folder: folder.to_owned(), group: group_name(gid) },
    }
}

/// As this machine calls a group.
fn group_name(gid: u32) -> String {
    let known = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten();
    known.map_or_else(|| gid.to_string(), |group| group.name)
}

/// The names of the models that use a file whose bytes are not what its name says, by file. A damaged manifest is such
/// a file, whose name says which model it is.
fn damaged_files(adopted: &Adopted) -> BTreeMap<String, Vec<String>> {
    let users = |sha256: &Digest| {
        let models = adopted.models.iter().filter(|model| model.blobs.iter().any(|blob| blob.sha256 == *sha256));
        models.map(|model| model.model.name.to_string()).collect()
    };
    let files = adopted.suspect.keys().map(|sha256| (format!("sha256-{}", sha256.short()), users(sha256)));
    let manifest = |(name, why): (&ModelName, &String)| {
        let told = format!("the manifest of {name} ({why}), which ollamax model pull {name} brings again");
        (format!("{told}; where nobody wants that model, remove this file"), Vec::new())
    };
    files.chain(adopted.damaged.iter().map(manifest)).collect()
}

/// As this machine calls the owner of a folder.
fn name_of(owner: Owner) -> String {
    let known = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(owner.uid)).ok().flatten();
    known.map_or_else(|| format!("uid {}", owner.uid), |user| format!("{} (uid {})", user.name, owner.uid))
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

/// Why a listener of this node does not answer.
async fn deaf(end: SocketAddr) -> Option<String> {
    match timeout(REACH_TIMEOUT, TcpStream::connect(end)).await {
        Ok(connected) => connected.err().map(|error| error.to_string()),
        Err(_) => Some(silence()),
    }
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

/// The rights to a folder and to those above it, the innermost first.
fn modes(folder: &Path) -> std::io::Result<Vec<u32>> {
    folder.canonicalize()?.ancestors().map(|folder| Ok(folder.metadata()?.mode())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
    fn a_damaged_manifest_is_told_with_its_file_which_may_go() {
        let why = "/models/manifests/h/n/foo/latest: the manifest names no layer".to_owned();
        let damaged = BTreeMap::from([("h/n/foo".parse().expect("a name"), why)]);
        let told = damaged_files(&Adopted { damaged, ..Adopted::default() });
        let text = "the manifest of h/n/foo:latest (/models/manifests/h/n/foo/latest: the manifest names no layer), \
                    which ollamax model pull h/n/foo:latest brings again; where nobody wants that model, remove this \
                    file";
        assert_eq!(told, BTreeMap::from([(text.to_owned(), Vec::new())]));
    }

    #[test]
    fn a_store_is_looked_into_where_it_is_and_told_with_its_owner() {
        let temp = tempfile::tempdir().expect("temp");
        for folder in ["blobs", "manifests"] {
            std::fs::create_dir(temp.path().join(folder)).expect("made");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
        let found = look_into(ModelPlace::Store(temp.path().to_owned()), None, Ok(address));
        let ModelStore::Found(files) = &found else { panic!("{found:?}") };
        let own = nix::unistd::geteuid();
        assert!(matches!(files.access, Access::Direct { owner, .. } if owner.uid == own.as_raw()), "{files:?}");
        assert!(files.owner.ends_with(&format!("uid {own}")) || files.owner.ends_with(&format!("(uid {own})")));
        assert!(files.damaged.is_empty() && files.handed == Ok(address));

        let look = |place| look_into(place, None, Err("it fetches nothing".to_owned()));
        let gone = look(ModelPlace::Store(temp.path().join("gone")));
        assert!(matches!(&gone, ModelStore::Unusable(problem) if problem.contains("gone")), "{gone:?}");
        assert!(matches!(look(ModelPlace::Elsewhere("far")), ModelStore::Elsewhere("far")));
        assert!(matches!(look(ModelPlace::NotFound(Vec::new())), ModelStore::NotFound(_)));
        assert_eq!(name_of(Owner { uid: 3_999_999_999, gid: 0 }), "uid 3999999999");
    }

    #[test]
    fn a_store_behind_a_shut_folder_is_told_with_that_folder_and_its_group() {
        let temp = tempfile::tempdir().expect("temp");
        let place = temp.path().join("ollama");
        std::fs::create_dir(&place).expect("made");
        let gid = place.metadata().expect("ours").gid();
        let found = shut(&place.join(".ollama/models"), "denied".to_owned());
        match &found {
            ModelStore::Shut { problem, folder, group } if gid != 0 => {
                assert_eq!((problem.as_str(), folder, group), ("denied", &place, &group_name(gid)));
            }
            found => assert!(gid == 0 && matches!(found, ModelStore::Unusable(_)), "{found:?}"),
        }
        assert_eq!(group_name(3_999_999_999), "3999999999");

        // Root looks into every folder.
        if !nix::unistd::geteuid().is_root() {
            let set = |mode: u32| {
                std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).expect("ours");
            };
            set(0o000);
            let found = look_into(ModelPlace::Store(place.join(".ollama/models")), None, Err("no runtime".to_owned()));
            set(0o700);
            assert!(matches!(&found, ModelStore::Shut { folder, .. } if *folder == place), "{found:?}");
        }
    }

    #[test]
    fn the_rights_to_a_folder_come_with_those_to_the_folders_above() {
        let temp = tempfile::tempdir().expect("temp");
        let place = temp.path().join("data");
        std::fs::create_dir(&place).expect("made");
        for (folder, mode) in [(temp.path(), 0o700), (place.as_path(), 0o751)] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("ours");
        }
        let found: Vec<u32> = modes(&place).expect("ours").into_iter().map(|mode| mode & 0o777).collect();
        assert_eq!(found[..2], [0o751, 0o700]);
        assert!(modes(&temp.path().join("gone")).is_err());
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
