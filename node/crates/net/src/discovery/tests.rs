//! Two and three nodes on loopback, without multicast: they meet by seeds.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use ollamax_types::ClusterId;

use super::*;
use crate::lanes::Lanes;
use crate::peer::PeerEntry;

const LONG: Duration = Duration::from_secs(20);

struct Node {
    key: NodeKey,
    announce: watch::Sender<Announcement>,
    discovered: watch::Receiver<Vec<Discovered>>,
    roster: Arc<Roster>,
    lanes: Lanes,
    incoming: mpsc::Receiver<lanes::Incoming>,
    tcp: String,
    advertised: Vec<String>,
}

/// The ends of the wires that a test holds.
struct Ends {
    announce: watch::Sender<Announcement>,
    discovered: watch::Receiver<Vec<Discovered>>,
    lanes: Lanes,
    incoming: mpsc::Receiver<lanes::Incoming>,
    _better: mpsc::Receiver<(ollamax_types::PeerId, Way)>,
}

fn wires(address: &str) -> (Wires, Ends) {
    let (announce, announced) = watch::channel(Announcement::new(&[address.to_owned()]));
    let (found, discovered) = watch::channel(Vec::new());
    let (lanes, asks) = Lanes::channel();
    let (came, incoming) = mpsc::channel(lanes::LANES_WAITING_MAX);
    let (better, _better) = mpsc::channel(1);
    let (told, reach) = (watch::Sender::new(Vec::new()), watch::Sender::new(Reach::default()));
    let (roster, metrics) = (Arc::new(Roster::default()), Metrics::new());
    let wires = Wires { announced, found, asks, incoming: came, better, told, reach, roster, metrics };
    (wires, Ends { announce, discovered, lanes, incoming, _better })
}

fn config(change: impl FnOnce(&mut P2pConfig)) -> P2pConfig {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = P2pConfig { listen, mdns: false, refresh_ms: 500, ..P2pConfig::default() };
    change(&mut config);
    config
}

async fn start(config: P2pConfig, address: &str, tasks: &TaskTracker, stop: &CancellationToken) -> Node {
    let key = NodeKey::ephemeral().unwrap();
    let (wires, ends) = wires(address);
    let roster = Arc::clone(&wires.roster);
    let discovery = Discovery::bind(config, &key, &[address.to_owned()], wires, tasks).await.unwrap();
    let port = discovery.addresses().iter().find_map(|one| one.rsplit_once("/tcp/")).unwrap().1.to_owned();
    let advertised = discovery.advertised().to_vec();
    // The door closes as soon as the node stops.
    tasks.spawn(discovery.run(7, stop.clone(), stop.clone()));
    let Ends { announce, discovered, lanes, incoming, .. } = ends;
    Node { key, announce, discovered, roster, lanes, incoming, tcp: format!("127.0.0.1:{port}"), advertised }
}

async fn wait_for(node: &mut Node, wanted: impl FnMut(&Vec<Discovered>) -> bool) {
    let found = timeout(LONG, node.discovered.wait_for(wanted)).await;
    assert!(found.is_ok(), "discovered in time");
}

#[tokio::test]
async fn nodes_meet_by_a_seed_and_see_what_each_says_and_when_it_changes() {
    for has_lanes in [false, true] {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let one = config(|config| config.lanes = has_lanes);
        let mut one = start(one, "10.0.0.1:11436", &tasks, &stop).await;
        let two = config(|config| (config.lanes, config.seeds) = (has_lanes, vec![one.tcp.clone()]));
        let mut two = start(two, "10.0.0.2:11436", &tasks, &stop).await;
        let expected = |node: &Node, address: &str, cluster| Discovered {
            peer_id: node.key.peer_id().clone(),
            cluster,
            addresses: vec![address.to_owned()],
        };
        let first = expected(&one, "10.0.0.1:11436", None);
        wait_for(&mut two, |found| found.contains(&first)).await;
        let second = expected(&two, "10.0.0.2:11436", None);
        wait_for(&mut one, |found| found.contains(&second)).await;

        let cluster = Some(ClusterId([7; 16]));
        one.announce.send_modify(|announcement| announcement.cluster = cluster);
        let first = expected(&one, "10.0.0.1:11436", cluster);
        wait_for(&mut two, |found| found.contains(&first)).await;
        wait_for(&mut one, Vec::is_empty).await;
        two.announce.send_modify(|announcement| announcement.cluster = cluster);
        let second = expected(&two, "10.0.0.2:11436", cluster);
        wait_for(&mut one, |found| found.contains(&second)).await;
        stop.cancel();
        tasks.close();
        timeout(LONG, tasks.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let one = start(config(|_| {}), "10.0.0.1:11436", &tasks, &stop).await;
    let taken = config(|config| config.listen = one.tcp.parse().unwrap());
    let (wires, _ends) = wires("10.0.0.2:11436");
    let error = Discovery::bind(taken, &one.key, &[], wires, &tasks).await.unwrap_err();
    assert!(error.to_string().contains("p2p.listen"), "{error}");
    stop.cancel();
}

/// Where to dial a node's `p2p` listener on loopback.
fn entry(id: u64, node: &Node) -> PeerEntry {
    let port = node.tcp.rsplit_once(':').unwrap().1;
    PeerEntry {
        node: ollamax_types::NodeId(id),
        peer_id: node.key.peer_id().clone(),
        addresses: Vec::new(),
        p2p_addresses: vec![format!("/ip4/127.0.0.1/tcp/{port}")],
    }
}

#[tokio::test]
async fn members_are_connected_and_open_lanes_both_ways() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut nodes = Vec::new();
    for address in ["10.0.0.1:11436", "10.0.0.2:11436"] {
        nodes.push(start(config(|_| {}), address, &tasks, &stop).await);
    }
    assert_eq!(nodes[0].advertised.len(), 2, "TCP and QUIC: {:?}", nodes[0].advertised);
    let keys = [nodes[0].key.peer_id().clone(), nodes[1].key.peer_id().clone()];
    assert_eq!(nodes[0].lanes.open(&keys[1]).await.unwrap_err(), NoLane::Unconnected);
    // Node 2 cannot be dialled by node 1; it dials itself, and lanes go both ways.
    nodes[0].roster.set_members(vec![PeerEntry { p2p_addresses: Vec::new(), ..entry(2, &nodes[1]) }]);
    nodes[1].roster.set_members(vec![entry(1, &nodes[0])]);
    for (from, to) in [(0, 1), (1, 0)] {
        let opening = async {
            loop {
                match nodes[from].lanes.open(&keys[to]).await {
                    Ok(lane) => return lane,
                    Err(NoLane::Unconnected) => tokio::task::yield_now().await,
                    Err(problem) => panic!("{problem}"),
                }
            }
        };
        let lane = timeout(LONG, opening).await.expect("a lane in time");
        assert_eq!(lane.way, Way::P2p);
        let came = timeout(LONG, nodes[to].incoming.recv()).await.unwrap().unwrap();
        assert_eq!((came.peer_id, came.lane.way), (keys[from].clone(), Way::P2p));
    }
    stop.cancel();
    tasks.close();
    timeout(LONG, tasks.wait()).await.unwrap();
    assert_eq!(nodes[0].lanes.open(&keys[1]).await.unwrap_err(), NoLane::Stopping);
}

#[tokio::test]
async fn whoever_is_met_is_connected_and_a_node_without_lanes_says_so() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let one = start(config(|_| {}), "10.0.0.1:11436", &tasks, &stop).await;
    let two = start(config(|_| {}), "10.0.0.2:11436", &tasks, &stop).await;
    let off = start(config(|config| config.lanes = false), "10.0.0.3:11436", &tasks, &stop).await;
    let at = |node: &Node| entry(1, node).p2p_addresses;
    let met = timeout(LONG, one.lanes.meet(two.key.peer_id(), &at(&two))).await.unwrap();
    assert_eq!(met, Ok(()));
    assert_eq!(one.lanes.meet(two.key.peer_id(), &[]).await, Ok(()), "what stands is kept");
    assert!(one.lanes.open(two.key.peer_id()).await.is_ok());
    // Another key is expected than the one that answers there.
    let wrong = timeout(LONG, one.lanes.meet(off.key.peer_id(), &at(&two))).await.unwrap();
    assert!(matches!(&wrong, Err(NoLane::Failed(text)) if text.starts_with("dial: ")), "{wrong:?}");
    let met = timeout(LONG, one.lanes.meet(off.key.peer_id(), &at(&off))).await.unwrap();
    assert_eq!(met, Ok(()));
    assert_eq!(one.lanes.open(off.key.peer_id()).await.unwrap_err(), NoLane::Unspoken);
    assert_eq!(off.lanes.open(one.key.peer_id()).await.unwrap_err(), NoLane::Off);
    stop.cancel();
}
