//! Links to a node that hands out, and to one that speaks the protocol by hand.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::io::{DuplexStream, duplex};

use ollamax_types::{CHUNK_BYTES, Digest, ModelName};

use crate::library::samples::Disk;
use crate::mem::MemPeers;
use crate::ports::Have;
use crate::progress::PullProgress;

use super::*;

const TWO: NodeId = NodeId(2);
const LONG: Duration = Duration::from_secs(3_600);
const FILE: BlobSpec = BlobSpec { sha256: Digest([7; 32]), size_bytes: CHUNK_BYTES + 5 };

/// A node whose side of the one stream is the test's.
struct ByHand(Mutex<Option<DuplexStream>>);

impl Peers for ByHand {
    fn connect(&self, _to: NodeId) -> BoxFuture<'static, Result<Box<dyn ByteStream>, PeerError>> {
        let stream = lock(&self.0).take().ok_or_else(|| PeerError::Unreachable("no connection".to_owned()));
        async { stream.map(|stream| Box::new(stream) as Box<dyn ByteStream>) }.boxed()
    }

    fn manifest(&self, _from: NodeId, _digest: Digest) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        pending().boxed()
    }

    fn hashes(&self, _from: NodeId, _sha256: Digest) -> BoxFuture<'static, Result<(u64, Bytes), PeerError>> {
        pending().boxed()
    }

    fn haves(&self, _from: NodeId, _blobs: Vec<Digest>) -> BoxStream<'static, Result<Have, PeerError>> {
        futures::stream::pending().boxed()
    }

    fn watch(&self, _at: NodeId, _name: ModelName) -> BoxStream<'static, Result<PullProgress, PeerError>> {
        futures::stream::pending().boxed()
    }

    fn doubt(&self, _at: NodeId, _sha256: Digest, _index: u32) -> BoxFuture<'static, Result<(), PeerError>> {
        pending().boxed()
    }
}

fn links(peers: impl Peers) -> Links {
    Links::new(Arc::new(peers), Buffers::new(), Metrics::default(), &Config::default())
}

/// A link, and the other end of its stream. The links go last.
async fn by_hand() -> (Links, Link, DuplexStream) {
    let (ours, mut theirs) = duplex(64 << 10);
    let links = links(ByHand(Mutex::new(Some(ours))));
    theirs.write_all(&GREETING).await.expect("there is room");
    let link = links.to(TWO).await.expect("it greets").remove(0);
    frame::read_greeting(&mut theirs).await.expect("it greets");
    (links, link, theirs)
}

async fn question(from: &mut DuplexStream) -> Option<Question> {
    let kind = frame::read_kind(from).await.expect("readable")?;
    Some(frame::read_question(kind, from).await.expect("a question"))
}

async fn ended(link: &Link) -> String {
    timeout(LONG, link.ended()).await.expect("it ends")
}

#[tokio::test(start_paused = true)]
async fn requests_share_a_link_and_each_gets_its_chunks_in_order() {
    let disk = Disk::new(1, 4);
    disk.publish();
    let peers = MemPeers::default();
    peers.link_library(TWO, disk.library.clone(), 16);
    let links = links(peers.clone());
    let link = links.to(TWO).await.expect("it is there").remove(0);
    let again = links.to(TWO).await.expect("it is there");
    assert_eq!((again.len(), peers.connections(TWO)), (1, 1));
    let mut first = link.ask(disk.spec, Extent { first: 0, count: 3 }, Urgency::Asked).await.expect("it is open");
    let mut second = again[0].ask(disk.spec, Extent { first: 3, count: 1 }, Urgency::Asked).await.expect("it is open");
    for (answer, chunks) in [(&mut first, 0..3), (&mut second, 3..4)] {
        for wanted in chunks {
            let Some(Came::Chunk { index, buffer }) = answer.next().await else { panic!("chunk {wanted} comes") };
            assert!(index == wanted && buffer.bytes() == disk.chunk(wanted), "{index}");
        }
        assert!(matches!(answer.next().await, Some(Came::End(Outcome::Whole))));
        assert!(answer.next().await.is_none(), "nothing behind the end");
    }
    peers.cut(TWO);
    assert_eq!(ended(&link).await, "the connection was closed");
    assert!(link.ask(disk.spec, Extent { first: 0, count: 1 }, Urgency::Asked).await.is_none());
    let new = links.to(TWO).await.expect("it is there").remove(0);
    assert!(new.ask(disk.spec, Extent { first: 0, count: 1 }, Urgency::Asked).await.is_some());
    assert_eq!(peers.connections(TWO), 2);
    peers.unlink(TWO);
    ended(&new).await;
    let gone = links.to(TWO).await.err();
    assert_eq!(gone, Some(PeerError::Unreachable("no connection".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_cancels_and_what_still_comes_goes_nowhere() {
    let (_links, link, mut theirs) = by_hand().await;
    let extent = Extent { first: 0, count: 2 };
    let answer = link.ask(FILE, extent, Urgency::Asked).await.expect("it is open");
    let ask = Question::Ask { request: 1, sha256: FILE.sha256, extent, is_background: false };
    assert_eq!(question(&mut theirs).await, Some(ask));
    drop(answer);
    assert_eq!(question(&mut theirs).await, Some(Question::Cancel { request: 1 }));
    let length = u32::try_from(CHUNK_BYTES).expect("small");
    theirs.write_all(&Reply::Chunk { request: 1, index: 0, length }.encode()).await.expect("it reads");
    theirs.write_all(&vec![0; length as usize]).await.expect("it reads");
    theirs.write_all(&Reply::End { request: 1, outcome: Outcome::Cancelled }.encode()).await.expect("it reads");
    let mut other = link.ask(FILE, Extent { first: 1, count: 1 }, Urgency::Background).await.expect("it is open");
    let Some(Question::Ask { request, is_background: true, .. }) = question(&mut theirs).await else {
        panic!("it asks in the background")
    };
    theirs.write_all(&Reply::Chunk { request, index: 1, length: 5 }.encode()).await.expect("it reads");
    theirs.write_all(b"chunk").await.expect("it reads");
    let Some(Came::Chunk { index: 1, buffer }) = other.next().await else { panic!("it comes") };
    assert_eq!(buffer.bytes(), b"chunk");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_ends_the_link() {
    let chunk = |request, index, length| Reply::Chunk { request, index, length };
    let end = |request, outcome| Reply::End { request, outcome };
    let rows = [
        (chunk(2, 1, 5), "something that is not the bulk protocol came: a chunk of no request"),
        (chunk(1, 0, 5), "something that is not the bulk protocol came: another chunk than was asked for"),
        (chunk(1, 1, 4), "something that is not the bulk protocol came: another chunk than was asked for"),
        (chunk(1, 2, 5), "something that is not the bulk protocol came: another chunk than was asked for"),
        (end(2, Outcome::Busy), "something that is not the bulk protocol came: the end of no request"),
        (
            end(1, Outcome::Whole),
            "something that is not the bulk protocol came: the end of a request before its last chunk",
        ),
    ];
    for (reply, why) in rows {
        let (_links, link, mut theirs) = by_hand().await;
        let mut answer = link.ask(FILE, Extent { first: 1, count: 1 }, Urgency::Asked).await.expect("it is open");
        theirs.write_all(&reply.encode()).await.expect("it reads");
        assert_eq!(ended(&link).await, why, "{reply:?}");
        assert!(timeout(LONG, answer.next()).await.expect("it ends").is_none(), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up_when_it_was_asked() {
    let (_links, link, theirs) = by_hand().await;
    let begun = Instant::now();
    let stall = Duration::from_millis(Config::default().stall_ms);
    assert!(timeout(10 * stall, link.ended()).await.is_err(), "nobody asked");
    let _answer = link.ask(FILE, Extent { first: 0, count: 1 }, Urgency::Asked).await.expect("it is open");
    assert_eq!(ended(&link).await, "nothing came for 30 s");
    assert!(begun.elapsed() <= 12 * stall, "{:?}", begun.elapsed());
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_nobody_holds_is_closed() {
    let (links, link, mut theirs) = by_hand().await;
    drop(link);
    let end = timeout(LONG, question(&mut theirs)).await.expect("it ends");
    assert_eq!(end, None);
    drop(links);
}

#[tokio::test(start_paused = true)]
async fn who_speaks_another_protocol_or_nothing_is_no_peer() {
    let (ours, mut theirs) = duplex(64 << 10);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.expect("there is room");
    let other = links(ByHand(Mutex::new(Some(ours)))).to(TWO).await.err();
    let text = "something that is not the bulk protocol came: another greeting";
    assert_eq!(other, Some(PeerError::Garbled(text.to_owned())));
    let (ours, _theirs) = duplex(64 << 10);
    let silent = links(ByHand(Mutex::new(Some(ours)))).to(TWO).await.err();
    assert_eq!(silent, Some(PeerError::Unreachable("no connection within 30 s".to_owned())));
}
