//! In which order a node's paths are tried, and what a dialler remembers.

use std::net::TcpListener;

use prometheus::Registry;
use tokio::sync::mpsc;

use crate::lanes::Ask;
use crate::peer::PeerEntry;
use crate::twins::Boot;

use super::*;

const OTHER: NodeId = NodeId(2);

/// A dialler of node 1 that knows node 2 at these addresses, and node 3 at none; what it asks of libp2p; its counters.
struct World {
    dialer: Dialer,
    asked: mpsc::Receiver<Ask>,
    other: PeerId,
    /// Node 2's.
    key: NodeKey,
    registry: Registry,
}

// === impl World ===

impl World {
    fn new(addresses: &[String]) -> Self {
        tls::install_crypto_provider();
        let [own, other, third] = [(); 3].map(|()| NodeKey::ephemeral().unwrap());
        let (metrics, roster, registry) = (Metrics::new(), Arc::new(Roster::default()), Registry::new());
        metrics.register(&registry).unwrap();
        let entry = |node, key: &NodeKey, addresses: &[String]| PeerEntry {
            node: NodeId(node),
            peer_id: key.peer_id().clone(),
            addresses: addresses.to_vec(),
            p2p_addresses: Vec::new(),
        };
        roster.set_members(vec![entry(1, &own, &[]), entry(2, &other, addresses), entry(3, &third, &[])]);
        let (lanes, asked) = Lanes::channel();
        let around = Surroundings {
            lanes: Some(lanes),
            roster,
            connections: Arc::new(Connections::new(Boot([1; 16]), metrics.clone())),
            metrics,
            closed: CancellationToken::new(),
        };
        let dialer = Dialer::new(PeerConfig::default(), &own, around).unwrap();
        dialer.follow_table();
        Self { dialer, asked, other: other.peer_id().clone(), key: other, registry }
    }

    /// Dials node 2, to which libp2p has no connection: after how long a lane was asked for, and what the dial said.
    async fn dial(&mut self) -> (Duration, String) {
        let Self { dialer, asked, other, .. } = self;
        let start = Instant::now();
        let answering = async {
            let Some(Ask::Open { to, answer }) = asked.recv().await else { panic!("a lane is asked for") };
            assert_eq!(to.to_base58(), other.0);
            answer.send(Err(NoLane::Unconnected)).expect("the dial waits for it");
            start.elapsed()
        };
        let (stream, after) = tokio::join!(dialer.to_node(OTHER, Class::Raft), answering);
        (after, stream.expect_err("nobody is there").to_string())
    }

    async fn probe(&self) -> Result<(), ConnectError> {
        self.dialer.through_lane(&self.other, Class::Forward).await.map(drop)
    }

    /// Members by way: the series of the gauge.
    fn ways(&self) -> Vec<(String, f64)> {
        let families = self.registry.gather();
        let ways = families.iter().find(|family| family.name() == "ollamax_peer_ways").expect("it is shown");
        let row =
            |metric: &prometheus::proto::Metric| (metric.get_label()[0].value().to_owned(), metric.get_gauge().value());
        let mut rows: Vec<_> = ways.get_metric().iter().map(row).collect();
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        rows
    }
}

/// A listener that never says a word: TCP connects, and that is all.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test(start_paused = true)]
async fn a_lane_comes_last_and_at_once_when_nothing_else_is_left() {
    let (_held, silent) = silent();
    let (stagger, connect) = (PeerConfig::default().stagger(), PeerConfig::default().connect_timeout());
    let bad = || "no address".to_owned();
    let rows = [
        (vec![], Duration::ZERO, Duration::ZERO),
        (vec![bad()], Duration::ZERO, Duration::ZERO),
        (vec![silent.clone()], connect, connect),
        (vec![bad(), silent.clone()], connect, connect),
        // That one address is bad says nothing of the other, which still has its time.
        (vec![silent, bad()], connect, stagger + connect),
    ];
    for (addresses, least, most) in rows {
        let (after, text) = World::new(&addresses).dial().await;
        // Timers of a paused clock fire on whole milliseconds.
        let slack = Duration::from_millis(2);
        assert!(after >= least && after <= most + slack, "{addresses:?}: {after:?}");
        assert!(text.starts_with("node 2 cannot be reached: "), "{text}");
        assert!(text.contains("p2p: no libp2p connection to it stands"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_worked_last_is_tried_first() {
    let (_held, silent) = silent();
    let mut world = World::new(&[silent]);
    world.dialer.prefer(OTHER, Path::Lane, Way::Relayed);
    let (after, _) = world.dial().await;
    assert_eq!(after, Duration::ZERO, "the lane did not wait for the address");
}

/// The other node, which takes whoever comes over TCP.
async fn answering(key: &NodeKey) -> (String, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls::server_config(key, &[Alpn::Grpc]).unwrap());
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        let mut taken = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let mut io = acceptor.accept(tcp).await.unwrap();
            greeting::read(&mut io).await.unwrap();
            let answer = greeting::Answer { reception: Reception::Welcome, boot: Boot([2; 16]) };
            io.write_all(&greeting::encode_answer(answer)).await.unwrap();
            io.flush().await.unwrap();
            taken.push(io);
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_better_way_that_a_dial_finds_begins_an_epoch_and_the_same_one_does_not() {
    let world = World::new(&[]);
    let (address, _serving) = answering(&world.key).await;
    let entry =
        |addresses| PeerEntry { node: OTHER, peer_id: world.other.clone(), addresses, p2p_addresses: Vec::new() };
    world.dialer.roster.set_members(vec![entry(vec![address])]);
    // The way before, and the epoch after.
    for (before, expected) in [(None, 0), (Some(Way::Tcp), 0), (Some(Way::P2p), 1), (Some(Way::Relayed), 2)] {
        if let Some(way) = before {
            world.dialer.prefer(OTHER, Path::Address("gone:1".to_owned()), way);
        }
        let stream = world.dialer.to_node(OTHER, Class::Raft).await.unwrap();
        assert_eq!((stream.way(), world.dialer.way(OTHER)), (Way::Tcp, Some(Way::Tcp)));
        assert_eq!(world.dialer.epoch(OTHER), expected, "{before:?}");
    }
}

#[tokio::test]
async fn a_dialler_without_lanes_says_that_there_is_no_address() {
    let mut world = World::new(&[]);
    world.dialer.lanes = None;
    let error = world.dialer.to_node(OTHER, Class::Raft).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAddress(OTHER)), "{error}");
    for refused in [world.dialer.meet(&world.other, &[]).await, world.probe().await] {
        assert_eq!(refused.unwrap_err().to_string(), "no connection: p2p: lanes are off (p2p.lanes)");
    }
}

#[tokio::test]
async fn ways_epochs_and_round_trips_are_kept_while_a_node_is_a_member() {
    let world = World::new(&[]);
    let dialer = &world.dialer;
    let shown = |rows: [(&str, f64); 4]| rows.map(|(way, count)| (way.to_owned(), count));
    assert_eq!(world.ways(), shown([("none", 2.0), ("p2p", 0.0), ("relayed", 0.0), ("tcp", 0.0)]), "not oneself");

    dialer.prefer(OTHER, Path::Lane, Way::Relayed);
    dialer.note_rtt(OTHER, Duration::from_millis(3));
    dialer.note_rtt(NodeId(9), Duration::from_millis(3));
    assert_eq!((dialer.way(OTHER), dialer.way(NodeId(3))), (Some(Way::Relayed), None));
    assert_eq!((dialer.rtt(OTHER), dialer.rtt(NodeId(9))), (Some(Duration::from_millis(3)), None));
    assert_eq!(dialer.detours(), [(OTHER, Way::Relayed)]);
    assert_eq!(dialer.epoch(OTHER), 0, "what is preferred is told apart");
    dialer.begin_epoch(OTHER);
    assert_eq!((dialer.epoch(OTHER), dialer.epoch(NodeId(3))), (1, 0));
    dialer.prefer(OTHER, Path::Address("a:1".to_owned()), Way::Tcp);
    assert!(dialer.detours().is_empty());
    assert_eq!(world.ways(), shown([("none", 1.0), ("p2p", 0.0), ("relayed", 0.0), ("tcp", 1.0)]));

    dialer.roster.set_members(Vec::new());
    dialer.follow_table();
    assert_eq!((dialer.way(OTHER), dialer.epoch(OTHER), dialer.rtt(OTHER)), (None, 0, None));
    let families = world.registry.gather();
    assert!(families.iter().all(|family| family.name() != "ollamax_peer_rtt_seconds"), "its series is gone");
    assert!(world.ways().iter().all(|(_, count)| *count < 0.5), "nobody is left");
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_answers_for_a_moment_and_a_failed_try_does_not() {
    let mut world = World::new(&["no address".to_owned()]);
    assert_eq!(world.dialer.try_better(OTHER, Way::P2p).await, None);
    assert!(world.asked.try_recv().is_err(), "a lane would be no better");
    let World { dialer, asked, .. } = &mut world;
    let answering = async {
        let Some(Ask::Open { answer, .. }) = asked.recv().await else { panic!("a lane is asked for") };
        answer.send(Err(NoLane::Unconnected)).expect("the try waits for it");
    };
    let (better, ()) = tokio::join!(dialer.try_better(OTHER, Way::Relayed), answering);
    assert_eq!(better, None);
    assert!(world.dialer.recent_failure(OTHER, world.dialer.roster.generation()).is_none());
    world.dial().await;
    assert!(world.dialer.recent_failure(OTHER, world.dialer.roster.generation()).is_some());
}
