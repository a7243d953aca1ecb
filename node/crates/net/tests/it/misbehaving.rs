//! What does not behave at the listener's door.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use ollamax_proto::v1::RaftMessage;

use crate::harness::{LONG, Node, config, introduce, new_key};

async fn pair(change: impl FnOnce(&mut ollamax_net::Config)) -> [Node; 2] {
    let mut numbers = config();
    change(&mut numbers);
    let nodes = [Node::start_with(1, new_key(), numbers, None).await, Node::start(2).await];
    introduce(&nodes);
    nodes
}

/// The other side closes without a word, or resets.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.is_ok()
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let nodes = pair(|_| {}).await;
    let rows: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 4096], &[22, 3, 1]];
    for garbage in rows {
        let mut stream = TcpStream::connect(nodes[0].address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(is_closed(&mut stream).await);
        nodes[1].raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_or_dripping_handshake_is_cut_off() {
    let nodes = pair(|config| config.peer.handshake_timeout_ms = 300).await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(nodes[0].address()).await.unwrap();
    assert!(is_closed(&mut silent).await);
    assert!(start.elapsed() >= Duration::from_millis(250), "it had its time");
    let mut dripping = TcpStream::connect(nodes[0].address()).await.unwrap();
    let dripped = timeout(LONG, async {
        // A record header that promises much, then one byte at a time.
        let mut drip = tokio::time::interval(Duration::from_millis(20));
        let bytes = [22, 3, 1, 0x3f, 0xff, 1].into_iter().chain(std::iter::repeat(0));
        for byte in bytes {
            drip.tick().await;
            if dripping.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    assert!(dripped.await.is_ok(), "the drip is cut off");
    nodes[1].raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
}

#[tokio::test]
async fn silent_handshakes_beyond_the_bound_are_closed_at_once() {
    let nodes = pair(|config| {
        config.peer.handshakes_max = 2;
        config.peer.handshake_timeout_ms = 2_000;
    })
    .await;
    let start = Instant::now();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(nodes[0].address()).await.unwrap());
    }
    let mut beyond = TcpStream::connect(nodes[0].address()).await.unwrap();
    assert!(is_closed(&mut beyond).await);
    assert!(start.elapsed() < Duration::from_millis(1_500), "not only after the deadline");
    for stream in &mut held {
        assert!(is_closed(stream).await);
    }
    nodes[1].raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
}

#[tokio::test]
async fn strangers_have_few_places_and_members_are_not_kept_out_by_them() {
    let nodes = pair(|config| config.peer.strangers_max = 1).await;
    let stranger = Node::start(9).await;
    let (_channel, _) = stranger.handle.channel_to_address(&nodes[0].address()).await.unwrap();
    let refused = stranger.handle.channel_to_address(&nodes[0].address()).await.unwrap_err();
    assert!(refused.to_string().contains("no place left"), "the only place is taken, and it is told: {refused}");
    nodes[1].raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
}

#[tokio::test]
async fn a_stranger_that_stays_too_long_is_shown_out() {
    let nodes = pair(|config| config.peer.stranger_lifetime_ms = 1_000).await;
    let stranger = Node::start(9).await;
    stranger.handle.set_members(vec![nodes[0].entry()]);
    let mut stream = stranger.handle.connect(nodes[0].id, ollamax_net::Class::Raft).await.unwrap();
    let mut bytes = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "the connection is closed");
}
