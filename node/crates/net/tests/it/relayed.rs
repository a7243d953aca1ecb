//! Nodes that nobody can dial: they speak through members that relay for them, and through nobody else.
//!
//! All of it on loopback, where everybody could dial everybody: a node that cannot be dialled is one whose addresses
//! the others have not been told.

use std::time::Duration;

use prometheus::Registry;
use tokio::time::{interval, timeout};

use ollamax_net::config::ReachWish;
use ollamax_net::{Class, Config, PeerEntry, Way};
use ollamax_proto::v1::RaftMessage;
use ollamax_types::ClusterId;

use crate::harness::{LONG, Node, lane_config, new_key};

/// Members that can be dialled, and members that nobody can dial.
struct Star {
    hubs: Vec<Node>,
    leaves: Vec<Node>,
}

impl Star {
    async fn start(hubs: u64, leaves: u64, change: impl Fn(&mut Config)) -> Self {
        let mut star = Self { hubs: Vec::new(), leaves: Vec::new() };
        for id in 1..=hubs {
            let mut config = undiscovered();
            change(&mut config);
            star.hubs.push(Node::start_with(id, new_key(), config, None).await);
        }
        for id in hubs + 1..=hubs + leaves {
            let mut config = undiscovered();
            config.p2p.reach = ReachWish::Relayed;
            change(&mut config);
            star.leaves.push(Node::start_with(id, new_key(), config, None).await);
        }
        star.introduce();
        star
    }

    fn table(&self) -> Vec<PeerEntry> {
        self.hubs.iter().map(hub_entry).chain(self.leaves.iter().map(leaf_entry)).collect()
    }

    /// Tells everybody what everybody tells now.
    fn introduce(&self) {
        let table = self.table();
        self.hubs.iter().chain(&self.leaves).for_each(|node| node.handle.set_members(table.clone()));
    }

    /// Waits until each leaf has its places, and tells their circuits.
    async fn with_circuits(self, each: usize) -> Self {
        for leaf in &self.leaves {
            let mut told = leaf.handle.p2p_told();
            let has_all = told.wait_for(|told| circuits(told).len() == each);
            timeout(LONG, has_all).await.expect("places in time").expect("the node runs");
        }
        self.introduce();
        self
    }
}

/// A node that listens to no hint on where others are.
fn undiscovered() -> Config {
    let mut config = lane_config();
    config.p2p.punch = false;
    config.p2p.static_peers = vec!["127.0.0.1:9".to_owned()];
    config
}

fn circuits(told: &[String]) -> Vec<String> {
    told.iter().filter(|address| address.contains("/p2p-circuit/")).cloned().collect()
}

fn hub_entry(node: &Node) -> PeerEntry {
    let p2p_addresses = node.handle.local().p2p_advertise.clone();
    PeerEntry { node: node.id, peer_id: node.peer_id().clone(), addresses: vec![node.address()], p2p_addresses }
}

fn leaf_entry(node: &Node) -> PeerEntry {
    let p2p_addresses = circuits(&node.handle.p2p_told().borrow());
    PeerEntry { node: node.id, peer_id: node.peer_id().clone(), addresses: Vec::new(), p2p_addresses }
}

/// What a node counts under a name, all series together that have these labels.
fn counted(node: &Node, name: &str, labels: &[&str]) -> f64 {
    let registry = Registry::new();
    node.handle.metrics().register(&registry).expect("an empty registry takes everything");
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("the name is shown");
    let has_all = |metric: &&prometheus::proto::Metric| {
        labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label))
    };
    let values = family.get_metric().iter().filter(has_all);
    values.map(|metric| metric.get_gauge().value() + metric.get_counter().value()).sum()
}

/// Looks again and again until it is so.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        let mut pause = interval(Duration::from_millis(50));
        while !holds().await {
            pause.tick().await;
        }
    };
    assert!(timeout(LONG, looking).await.is_ok(), "{what}");
}

async fn is_answered(from: &Node, to: &Node, bytes: usize) -> bool {
    let message = RaftMessage { body: vec![7; bytes].into(), ..RaftMessage::default() };
    let answer = from.raft(to).call(message).await;
    answer.is_ok_and(|answer| answer.into_inner().body.len() == bytes)
}

#[tokio::test]
async fn two_nodes_that_none_can_dial_speak_through_a_member() {
    let star = Star::start(1, 2, |_| {}).await.with_circuits(1).await;
    let (hub, leaves) = (&star.hubs[0], &star.leaves);
    for (from, to) in [(0, 1), (1, 0)] {
        until("an answer through the relay", async || is_answered(&leaves[from], &leaves[to], 100_000).await).await;
        assert_eq!(leaves[from].handle.way(leaves[to].id), Some(Way::Relayed));
    }
    until("the hub reaches a leaf over the leaf's own connection", async || is_answered(hub, &leaves[0], 1).await)
        .await;
    assert_eq!(hub.handle.way(leaves[0].id), Some(Way::P2p));
    assert!((counted(hub, "ollamax_relay_reservations", &[]) - 2.0).abs() < f64::EPSILON);
    assert!(counted(hub, "ollamax_relay_circuits", &[]) >= 1.0);
    assert!((counted(&leaves[0], "ollamax_relay_held", &[]) - 1.0).abs() < f64::EPSILON);
    assert!(counted(&leaves[0], "ollamax_p2p_connections", &["relayed"]) >= 1.0);
}

#[tokio::test]
async fn a_punched_connection_takes_over() {
    let punching = |config: &mut Config| {
        config.p2p.punch = true;
        // Who is asked again and again who it is has no idle connection.
        config.p2p.refresh_ms = 30_000;
    };
    let star = Star::start(1, 2, punching).await.with_circuits(1).await;
    let leaves = &star.leaves;
    until("an answer over a direct connection", async || {
        is_answered(&leaves[0], &leaves[1], 1).await && leaves[0].handle.way(leaves[1].id) == Some(Way::P2p)
    })
    .await;
    let punched: f64 = leaves.iter().map(|leaf| counted(leaf, "ollamax_p2p_punches_total", &["ok"])).sum();
    assert!(punched >= 1.0);
    // What is not used any more is given back to the relay, and the direct connection stays.
    let circuits = async || counted(&star.hubs[0], "ollamax_relay_circuits", &[]).abs() < f64::EPSILON;
    until("the circuits end", circuits).await;
    assert!(is_answered(&leaves[0], &leaves[1], 1).await);
    assert_eq!(leaves[0].handle.way(leaves[1].id), Some(Way::P2p));
}

#[tokio::test]
async fn a_stranger_gets_no_place_and_opens_no_circuit() {
    let star = Star::start(1, 1, |_| {}).await.with_circuits(1).await;
    let hub = &star.hubs[0];
    let mut config = undiscovered();
    config.p2p.reach = ReachWish::Relayed;
    let stranger = Node::start_with(9, new_key(), config, None).await;
    stranger.handle.set_members(star.table());
    for what in ["reservation", "circuit"] {
        let name = "ollamax_relay_requests_total";
        until(what, async || counted(hub, name, &[what, "denied"]) >= 1.0).await;
    }
    assert!((counted(hub, "ollamax_relay_reservations", &[]) - 1.0).abs() < f64::EPSILON, "only the leaf's");
    assert!(counted(hub, "ollamax_relay_circuits", &[]).abs() < f64::EPSILON);
    assert_eq!(circuits(&stranger.handle.p2p_told().borrow()), Vec::<String>::new());
    assert!(!is_answered(&stranger, &star.leaves[0], 1).await);
}

#[tokio::test]
async fn a_removed_member_loses_its_place_and_its_circuits() {
    let star = Star::start(1, 2, |_| {}).await.with_circuits(1).await;
    let (hub, leaves) = (&star.hubs[0], &star.leaves);
    until("an answer through the relay", async || is_answered(&leaves[0], &leaves[1], 1).await).await;
    hub.handle.set_members(vec![hub_entry(hub), leaf_entry(&leaves[0])]);
    until("the circuits end", async || counted(hub, "ollamax_relay_circuits", &[]).abs() < f64::EPSILON).await;
    let only_the_other = async || (counted(hub, "ollamax_relay_reservations", &[]) - 1.0).abs() < f64::EPSILON;
    until("the place ends", only_the_other).await;
    let mut told = leaves[1].handle.p2p_told();
    let told_none = told.wait_for(|told| circuits(told).is_empty());
    timeout(LONG, told_none).await.expect("it is told in time").expect("the node runs");
    assert!(!is_answered(&leaves[0], &leaves[1], 1).await);
}

#[tokio::test]
async fn a_place_that_is_lost_and_found_again_is_told_all_the_while() {
    let star = Star::start(1, 1, |config| config.p2p.refresh_ms = 30_000).await.with_circuits(1).await;
    let (hub, leaf) = (&star.hubs[0], &star.leaves[0]);
    let held = || counted(leaf, "ollamax_relay_held", &[]);
    let mut told = leaf.handle.p2p_told();
    let before = told.borrow_and_update().clone();
    hub.handle.set_members(vec![hub_entry(hub)]);
    until("the place is lost", async || held() < 0.5).await;
    star.introduce();
    until("it is found again", async || held() > 0.5).await;
    assert!(!told.has_changed().expect("the node runs"), "each change is an entry in the log of the cluster");
    assert_eq!(*told.borrow(), before);
}

#[tokio::test]
async fn a_circuit_ends_at_its_bytes_and_is_opened_again() {
    const LIMIT: u64 = 1 << 20;
    const CALLS: u64 = 12;
    let star = Star::start(1, 2, |config| config.p2p.relay_circuit_bytes_max = LIMIT).await.with_circuits(1).await;
    let leaves = &star.leaves;
    let bytes = LIMIT / 4;
    for _ in 0..CALLS {
        let size = usize::try_from(bytes).expect("a quarter of a MiB");
        until("an answer through the relay", async || is_answered(&leaves[0], &leaves[1], size).await).await;
    }
    // There and back.
    let least = 2 * CALLS * bytes / LIMIT;
    let opened = counted(&star.hubs[0], "ollamax_relay_requests_total", &["circuit", "accepted"]);
    assert!(opened >= least as f64, "{opened} circuits carried what needs {least}");
}

#[tokio::test]
async fn a_relay_that_dies_is_replaced() {
    let star = Star::start(2, 2, |_| {}).await.with_circuits(2).await;
    let leaves = &star.leaves;
    until("an answer through a relay", async || is_answered(&leaves[0], &leaves[1], 1).await).await;
    star.hubs[0].shut_down().await;
    until("an answer through the other", async || is_answered(&leaves[0], &leaves[1], 1).await).await;
    assert_eq!(leaves[0].handle.way(leaves[1].id), Some(Way::Relayed));
    let mut told = leaves[1].handle.p2p_told();
    let told_one = told.wait_for(|told| circuits(told).len() == 1);
    timeout(LONG, told_one).await.expect("it is told in time").expect("the node runs");
}

#[tokio::test]
async fn static_peers_discover_nobody() {
    let fixed = Node::start_with(1, new_key(), undiscovered(), None).await;
    let mut config = lane_config();
    let local = fixed.handle.local();
    let listens = local.p2p_addresses.iter().find_map(|address| address.rsplit_once("/tcp/"));
    let (_, port) = listens.expect("it listens on TCP");
    config.p2p.static_peers = Vec::new();
    config.p2p.seeds = vec![format!("127.0.0.1:{port}")];
    let other = Node::start_with(2, new_key(), config, None).await;
    let mut discovered = other.handle.discovered();
    // The second time it has asked anew, so both have had the time to hear of each other.
    for cluster in [None, Some(ClusterId([7; 16]))] {
        fixed.handle.set_cluster(cluster);
        let found = discovered
            .wait_for(|found| found.iter().any(|one| one.peer_id == *fixed.peer_id() && one.cluster == cluster));
        timeout(LONG, found).await.expect("found in time").expect("the node runs");
    }
    assert_eq!(*fixed.handle.discovered().borrow(), Vec::new());
    // Neither is a member of the other's table: nothing is open but what asks.
    assert!(fixed.handle.connect(other.id, Class::Forward).await.is_err());
}
