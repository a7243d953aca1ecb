//! What nodes tell of a file while their pulls of it end: to the last word it is there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::{sleep, timeout};

use ollamax_core::catalog::Replicas;
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemPeers};
use ollamax_transfer::{Have, Place};
use ollamax_types::{Digest, NodeId};

use crate::world::{LONG, Node, World, ask_for, chunks};

/// Nothing is said any more that a pull has caused.
const MORE: Duration = Duration::from_secs(60);

/// What nodes say of a file.
type Words = BoxStream<'static, (NodeId, Have)>;

/// Follows what each of these nodes has of a file.
fn words<'a>(nodes: impl IntoIterator<Item = (NodeId, &'a Node)>, sha256: Digest) -> Words {
    let of = |(id, node): (NodeId, &Node)| node.handle.haves(vec![sha256]).map(move |have| (id, have)).boxed();
    stream::select_all(nodes.into_iter().map(of)).boxed()
}

/// All that is said until something is over.
async fn said(words: Words, over: impl Future<Output = ()>) -> BTreeMap<NodeId, Vec<Have>> {
    let mut said: BTreeMap<NodeId, Vec<Have>> = BTreeMap::new();
    for (node, have) in words.take_until(Box::pin(over)).collect::<Vec<_>>().await {
        said.entry(node).or_default().push(have);
    }
    said
}

/// Nothing of it went, and all of it is there in the end.
fn check_never_void(said: &[Have], sha256: Digest, size_bytes: u64) {
    assert!(!said.contains(&Have::Void { sha256 }), "{said:?}");
    assert_eq!(said.last(), Some(&Have::Whole { sha256, size_bytes }), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn what_nodes_fetch_is_never_void_while_their_pulls_end() {
    let ids = [1, 2, 3, 4].map(NodeId);
    let (cluster, peers, origin) = (MemCluster::new(ids), MemPeers::default(), MemOrigin::default());
    let world = |node: NodeId| {
        let (cluster, peers, origin) = (cluster.clone(), peers.clone(), origin.clone());
        World { node, cluster, peers, origin, ..World::new() }
    };
    let worlds: Vec<World> = ids.into_iter().map(world).collect();
    let model = worlds[0].model("tiny", 60, chunks(12) + 5);
    let (sha256, size_bytes) = (model.weights.sha256, model.weights.size_bytes);
    let nodes: Vec<Node> = worlds.iter().map(World::start).collect();
    for (id, node) in ids.into_iter().zip(&nodes) {
        peers.link(id, node.handle.clone());
    }
    let words = words(ids.into_iter().zip(&nodes), sha256);
    let ask = ask_for(&model.name, Replicas::All);
    let mut watch = timeout(LONG, nodes[3].handle.ask(ask)).await.expect("it answers").expect("it is on record");
    let over = async {
        while !watch.now().is_over {
            let changed = timeout(LONG, watch.changed()).await;
            assert_eq!(changed, Ok(true), "news after {:?}", watch.now());
        }
        sleep(MORE).await;
    };
    let said = said(words, over).await;
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), ids);
    for said in said.values() {
        check_never_void(said, sha256, size_bytes);
    }
    worlds.iter().for_each(|world| world.check_published(&model));
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_published_into_a_store_that_is_new_is_never_void() {
    let world = World::new();
    let model = world.model("tiny", 61, chunks(2) + 5);
    let (sha256, size_bytes) = (model.weights.sha256, model.weights.size_bytes);
    world.runtime.set_place(Place::None("its disk is not mounted".to_owned()));
    let node = world.start();
    let words = words([(world.node, &node)], sha256);
    // Who looks for stores has found none; he looks again in a second.
    sleep(Duration::from_millis(10)).await;
    assert_eq!(node.handle.adopted().borrow().store, None);
    world.runtime.set_place(Place::Store(world.folder.path().join("models")));
    let pulled = async {
        node.pull(&model.name).await.expect("it comes");
        sleep(MORE).await;
    };
    let said = said(words, pulled).await;
    check_never_void(&said[&world.node], sha256, size_bytes);
    world.check_published(&model);
    node.end().await;
}
