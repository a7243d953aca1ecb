//! Nodes that TCP does not connect, and the libp2p streams that do it instead.

use std::time::Duration;

use futures::FutureExt;
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tonic::{Code, Status, Streaming};

use ollamax_net::{Class, PeerEntry, PeerStream, Refuser, Way};
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_proto::v1::liveness_client::LivenessClient;
use ollamax_proto::v1::{Beat, HelloRequest, RaftMessage, WatchBeatsRequest};
use ollamax_types::NodeId;

use crate::harness::{LONG, Node, closed_port, hidden_config, lane_config, new_key, until};

const BYTES: usize = 8 << 20;

/// Two members of which neither can dial the other's `peer` listener. The first can be dialled at `p2p`.
async fn pair() -> [Node; 2] {
    let nodes = [echoing(1).await, echoing(2).await];
    let table = [PeerEntry { addresses: Vec::new(), ..nodes[0].entry() }, nodes[1].hidden_entry()];
    nodes.iter().for_each(|node| node.handle.set_members(table.to_vec()));
    nodes
}

/// A node that sends back what comes on bulk streams.
async fn echoing(id: u64) -> Node {
    let (bulk, mut arrived) = mpsc::channel::<PeerStream>(4);
    let mut config = hidden_config();
    config.peer.drain_ms = 2_000;
    let node = Node::start_with(id, new_key(), config, Some(bulk)).await;
    let tasks = node.tasks.clone();
    node.tasks.spawn(async move {
        while let Some(stream) = arrived.recv().await {
            assert_eq!(stream.way(), Way::P2p);
            tasks.spawn(async move {
                let (mut from, mut to) = split(stream);
                // It ends when the other side has what it wants and leaves.
                let _copied = copy(&mut from, &mut to).await;
            });
        }
    });
    node
}

/// Asks again at short intervals until the answer is as wanted; returns it.
async fn answer(from: &Node, to: &Node, wanted: impl Fn(&Result<u64, Status>) -> bool) -> Result<u64, Status> {
    let mut again = interval(Duration::from_millis(50));
    let asking = async {
        loop {
            again.tick().await;
            let answer = from.raft(to).call(RaftMessage::default()).await;
            let answer = answer.map(|answer| answer.into_inner().from);
            if wanted(&answer) {
                return answer;
            }
        }
    };
    timeout(LONG, asking).await.expect("the answer comes in time")
}

async fn reach(from: &Node, to: &Node) {
    assert_eq!(answer(from, to, Result::is_ok).await.expect("it is reached"), from.id.0);
}

/// A call that goes on, and a stream of bytes.
async fn running(from: &Node, to: &Node) -> (Streaming<Beat>, PeerStream) {
    reach(from, to).await;
    let mut client = LivenessClient::new(from.handle.channel(to.id, Class::Liveness));
    let watching = client.watch(WatchBeatsRequest::default()).await.expect("it is let in");
    let mut frames = watching.into_inner();
    assert!(frames.message().await.expect("it goes on").is_some());
    let mut stream = from.handle.connect(to.id, Class::Bulk).await.expect("it is reached");
    echo(&mut stream, 1).await;
    (frames, stream)
}

/// Sends bytes to a node that sends them back.
async fn echo(stream: &mut PeerStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|at| (at % 251) as u8).collect();
    let mut got = vec![0; count];
    let (mut from, mut to) = split(stream);
    let writing = async {
        to.write_all(&sent).await?;
        to.flush().await
    };
    let both = async { tokio::join!(writing, from.read_exact(&mut got)) };
    let (written, read) = timeout(LONG, both).await.expect("the bytes come back");
    written.expect("it is sent");
    read.expect("it comes back");
    assert!(got == sent, "other bytes came back");
}

#[tokio::test]
async fn a_node_without_a_dialable_address_is_reached_over_its_own_connection() {
    let nodes = pair().await;
    for (from, to) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
        reach(from, to).await;
        assert_eq!(from.handle.way(to.id), Some(Way::P2p));
        let mut stream = from.handle.connect(to.id, Class::Bulk).await.unwrap();
        assert_eq!(stream.way(), Way::P2p);
        echo(&mut stream, BYTES).await;
    }
}

#[tokio::test]
async fn a_direct_address_that_appears_is_used_and_what_runs_goes_on() {
    let nodes = pair().await;
    let (from, to) = (&nodes[0], &nodes[1]);
    let (mut frames, mut stream) = running(from, to).await;
    assert_eq!(from.handle.epoch(to.id), 0);

    let dialable = PeerEntry { addresses: vec![to.handle.local().peer.to_string()], ..to.hidden_entry() };
    from.handle.set_members(vec![from.entry(), dialable]);
    until("TCP is used", || from.handle.way(to.id) == Some(Way::Tcp)).await;
    until("the better way is told", || from.handle.epoch(to.id) == 1).await;
    reach(from, to).await;
    assert_eq!(from.handle.way(to.id), Some(Way::Tcp));
    echo(&mut stream, BYTES).await;
    assert_eq!(stream.way(), Way::P2p);
    assert!(frames.message().now_or_never().is_none(), "the stream is open and silent as before");
}

#[tokio::test]
async fn a_stranger_over_a_lane_reaches_join_and_nothing_else() {
    let nodes = pair().await;
    let stranger = Node::start_with(9, new_key(), lane_config(), None).await;
    let p2p = nodes[0].handle.local().p2p_advertise.clone();
    stranger.handle.meet(nodes[0].peer_id(), &p2p).await.unwrap();
    stranger.handle.set_members(vec![PeerEntry { addresses: Vec::new(), ..nodes[0].entry() }]);
    let refused = answer(&stranger, &nodes[0], |answer| {
        answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
    });
    assert!(refused.await.unwrap_err().message().contains("`ollamax join TOKEN`"));
    let mut join = JoinClient::new(stranger.handle.channel(nodes[0].id, Class::Forward));
    let hello = join.hello(HelloRequest::default()).await.unwrap().into_inner();
    assert_eq!(hello.cluster_name, format!("{} None", stranger.peer_id()));
    assert_eq!(stranger.handle.way(nodes[0].id), Some(Way::P2p));

    // The member reaches back over the connection that the stranger has opened, and nobody else in its place.
    nodes[0].handle.meet(stranger.peer_id(), &[]).await.unwrap();
    nodes[0].handle.probe_lane(stranger.peer_id()).await.unwrap();
    let nobody = nodes[0].handle.probe_lane(new_key().peer_id()).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no connection: p2p: no libp2p connection to it stands");
}

#[tokio::test]
async fn a_connection_that_the_other_end_makes_is_waited_for_a_moment() {
    let nodes = pair().await;
    let stranger = Node::start_with(9, new_key(), lane_config(), None).await;
    let p2p = nodes[0].handle.local().p2p_advertise.clone();
    // The member waits before the stranger begins to dial.
    let waiting = nodes[0].handle.meet(stranger.peer_id(), &[]);
    let (waited, met) = tokio::join!(waiting, stranger.handle.meet(nodes[0].peer_id(), &p2p));
    met.unwrap();
    waited.unwrap();
    nodes[0].handle.probe_lane(stranger.peer_id()).await.unwrap();
    let nobody = nodes[0].handle.meet(new_key().peer_id(), &[]).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no connection: p2p: no libp2p connection came about in time");
}

#[tokio::test]
async fn a_second_process_with_the_same_key_is_refused_over_a_lane() {
    let nodes = pair().await;
    reach(&nodes[1], &nodes[0]).await;
    let mut original = nodes[1].raft(&nodes[0]);
    let second = Node::start_with(2, nodes[1].key.clone(), hidden_config(), None).await;
    second.handle.set_members(vec![PeerEntry { addresses: Vec::new(), ..nodes[0].entry() }, second.hidden_entry()]);
    let told = |answer: &Result<u64, Status>| {
        let expected = "another live process has this node's identity";
        answer.as_ref().is_err_and(|status| status.message().contains(expected))
    };
    let speaking = async { while original.call(RaftMessage::default()).await.is_ok() {} };
    tokio::select! {
        () = speaking => panic!("the original was cut off"),
        refused = answer(&second, &nodes[0], told) => assert!(refused.is_err()),
    }
    let refuser = Refuser { node: NodeId(1), address: "p2p".to_owned() };
    assert_eq!(*second.handle.refused_as_twin().borrow(), Some(refuser));
    assert_eq!(*nodes[1].handle.refused_as_twin().borrow(), None);
}

#[tokio::test]
async fn with_lanes_off_no_lane_is_opened_or_taken() {
    let mut config = hidden_config();
    config.p2p.lanes = false;
    let off = Node::start_with(1, new_key(), config, None).await;
    let on = Node::start_with(2, new_key(), hidden_config(), None).await;
    let table = vec![PeerEntry { addresses: Vec::new(), ..off.entry() }, on.hidden_entry()];
    on.handle.set_members(table.clone());
    off.handle.set_members(table);
    let says = |text: &'static str| {
        move |answer: &Result<u64, Status>| answer.as_ref().is_err_and(|status| status.message().contains(text))
    };
    answer(&on, &off, says("p2p: the node takes no lanes")).await.unwrap_err();
    let refused = off.raft(&on).call(RaftMessage::default()).await.unwrap_err();
    assert!(!refused.message().contains("p2p"), "{refused:?}");
    let refused = off.handle.probe_lane(on.peer_id()).await.unwrap_err();
    assert_eq!(refused.to_string(), "no connection: p2p: lanes are off (p2p.lanes)");
    assert_eq!((off.handle.way(on.id), on.handle.way(off.id)), (None, None));
}

/// The sum of the series of a counter that have all these label values.
fn counted(registry: &Registry, name: &str, values: &[&str]) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("it is shown");
    let fits = |metric: &&prometheus::proto::Metric| {
        values.iter().all(|value| metric.get_label().iter().any(|label| label.value() == *value))
    };
    family.get_metric().iter().filter(fits).map(|metric| metric.get_counter().value()).sum()
}

#[tokio::test]
async fn bytes_and_failures_are_counted_by_way_and_reason() {
    let nodes = pair().await;
    let (from, to) = (&nodes[0], &nodes[1]);
    let registry = Registry::new();
    from.handle.metrics().register(&registry).unwrap();
    reach(from, to).await;
    let mut stream = from.handle.connect(to.id, Class::Bulk).await.unwrap();
    echo(&mut stream, BYTES).await;
    let bytes = |direction, way| counted(&registry, "ollamax_peer_bytes_total", &["bulk", direction, way]);
    for direction in ["in", "out"] {
        let expected = [0.0, BYTES as f64, 0.0];
        assert_eq!(Way::ALL.map(|way| bytes(direction, way.as_str())), expected, "{direction}");
    }

    from.handle.probe(&closed_port(), to.peer_id()).await.unwrap_err();
    from.handle.probe_lane(new_key().peer_id()).await.unwrap_err();
    let failures = |reason| counted(&registry, "ollamax_peer_dial_failures_total", &[reason]);
    assert!(failures("tcp") >= 1.0 && failures("lane") >= 1.0 && failures("wrong_peer") < 0.5);
}

#[tokio::test]
async fn what_runs_over_a_lane_may_finish_while_the_node_stops() {
    let nodes = pair().await;
    let (from, to) = (&nodes[0], &nodes[1]);
    // A call that has not ended keeps the door open until the time for that is over.
    let (mut frames, mut stream) = running(from, to).await;
    to.stop.cancel();
    echo(&mut stream, 1 << 10).await;
    drop(stream);
    assert!(timeout(LONG, frames.message()).await.expect("the stream ends").is_err());
    to.shut_down().await;
}
