//! Two and three nodes on loopback, without multicast: they meet by seeds.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use ollamax_types::ClusterId;

use super::*;

const LONG: Duration = Duration::from_secs(20);

struct Node {
    key: NodeKey,
    announce: watch::Sender<Announcement>,
    discovered: watch::Receiver<Vec<Discovered>>,
    tcp: String,
}

async fn start(seeds: Vec<String>, address: &str, tasks: &TaskTracker, stop: &CancellationToken) -> Node {
    let key = NodeKey::ephemeral().unwrap();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = P2pConfig { listen, mdns: false, seeds, refresh_ms: 500 };
    let (announce, announced) = watch::channel(Announcement::new(&[address.to_owned()]));
    let (found, discovered) = watch::channel(Vec::new());
    let discovery = Discovery::bind(config, &key, announced, found, tasks).await.unwrap();
    let port = discovery.addresses().iter().find_map(|one| one.rsplit_once("/tcp/")).unwrap().1.to_owned();
    tasks.spawn(discovery.run(Arc::new(Roster::default()), stop.clone()));
    Node { key, announce, discovered, tcp: format!("127.0.0.1:{port}") }
}

async fn wait_for(node: &mut Node, wanted: impl FnMut(&Vec<Discovered>) -> bool) {
    let found = timeout(LONG, node.discovered.wait_for(wanted)).await;
    assert!(found.is_ok(), "discovered in time");
}

#[tokio::test]
async fn nodes_meet_by_a_seed_and_see_what_each_says_and_when_it_changes() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut one = start(Vec::new(), "10.0.0.1:11436", &tasks, &stop).await;
    let mut two = start(vec![one.tcp.clone()], "10.0.0.2:11436", &tasks, &stop).await;
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

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let one = start(Vec::new(), "10.0.0.1:11436", &tasks, &stop).await;
    let config = P2pConfig { listen: one.tcp.parse().unwrap(), mdns: false, ..P2pConfig::default() };
    let (_announce, announced) = watch::channel(Announcement::new(&[]));
    let (found, _discovered) = watch::channel(Vec::new());
    let error = Discovery::bind(config, &one.key, announced, found, &tasks).await.unwrap_err();
    assert!(error.to_string().contains("p2p.listen"), "{error}");
    stop.cancel();
}
