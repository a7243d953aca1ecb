//! Gets the hash tree of a file and proves it against the root on record; and a manifest, by its digest.
//!
//! Whoever has it will do: nodes are asked one after the other, and again later for as long as somebody may still have
//! it. What proves nothing is a lie or a defect of whoever told it, and he is not asked again. Which one is asked first
//! depends on the file, so that many who ask spread over those who have it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, sleep, timeout};

use ollamax_blobs::{BlobSpec, ChunkHash, Manifest, Tree};
use ollamax_core::transfer_plan::Patience;
use ollamax_types::{Digest, NodeId, Root};

use crate::error::PullError;
use crate::ports::{Bound, Ledger, PeerError, Peers};

use super::blocking;

/// How long one node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Why one node did not help.
enum Amiss {
    /// It may later.
    Trouble(String),
    /// What it tells is not true.
    Lie(String),
}

/// What is on record of a file.
///
/// # Errors
/// When nothing is, or when it is of another size than the manifest says.
pub(crate) fn bound(ledger: &dyn Ledger, blob: BlobSpec) -> Result<Bound, PullError> {
    match ledger.bound(blob.sha256) {
        Some(bound) if bound.size_bytes == blob.size_bytes => Ok(bound),
        Some(bound) => {
            let (wanted, found) = (blob.size_bytes, bound.size_bytes);
            Err(PullError::OtherSize { blob: blob.sha256.short(), wanted, found })
        }
        None => {
            let text = "its BLAKE3 is not on record".to_owned();
            Err(PullError::Peers { blob: blob.sha256.short(), text })
        }
    }
}

/// The hash tree of a file with this root.
pub(crate) async fn find(
    peers: &dyn Peers,
    from: &[NodeId],
    blob: BlobSpec,
    root: Root,
    patience: Patience,
) -> Result<Tree, PullError> {
    told(peers, from, blob, Some(root), patience).await
}

/// The hash tree of a file of which no root is on record, as the first node tells it that has the file. It may be that
/// of another file, which the file's own digest shows in the end.
pub(crate) async fn hear(
    peers: &dyn Peers,
    from: &[NodeId],
    blob: BlobSpec,
    patience: Patience,
) -> Result<Tree, PullError> {
    told(peers, from, blob, None, patience).await
}

async fn told(
    peers: &dyn Peers,
    from: &[NodeId],
    blob: BlobSpec,
    root: Option<Root>,
    patience: Patience,
) -> Result<Tree, PullError> {
    let ask = |node: NodeId| {
        let told = peers.hashes(node, blob.sha256);
        let proved = async move {
            let (size_bytes, hashes) = told.await.map_err(|error| amiss(&error))?;
            if size_bytes != blob.size_bytes {
                return Err(Amiss::Lie(format!("told of {size_bytes} bytes")));
            }
            let proved = blocking(move || {
                let (whole, rest) = hashes.as_chunks::<{ size_of::<ChunkHash>() }>();
                let tree = match root {
                    Some(root) => Tree::proved(size_bytes, root, whole.to_vec()),
                    None => Tree::of(size_bytes, whole.to_vec()),
                };
                tree.ok().filter(|_| rest.is_empty())
            });
            let tree = proved.await.map_err(|error| Amiss::Trouble(error.to_string()))?;
            tree.ok_or_else(|| Amiss::Lie("told hashes of another file".to_owned()))
        };
        proved.boxed()
    };
    ask_around(from, blob.sha256, patience, ask).await
}

/// The manifest with this digest.
pub(crate) async fn find_manifest(
    peers: &dyn Peers,
    from: &[NodeId],
    digest: Digest,
    patience: Patience,
) -> Result<Manifest, PullError> {
    let ask = |node: NodeId| {
        let told = peers.manifest(node, digest);
        let proved = async move {
            let bytes = told.await.map_err(|error| amiss(&error))?;
            let manifest = Manifest::read(&bytes).ok().filter(|manifest| manifest.digest() == digest);
            manifest.ok_or_else(|| Amiss::Lie("told another manifest".to_owned()))
        };
        proved.boxed()
    };
    ask_around(from, digest, patience, ask).await
}

/// Asks one node after the other until one of them tells the truth, all have lied, or nobody helped for too long.
async fn ask_around<'a, T>(
    from: &[NodeId],
    what: Digest,
    patience: Patience,
    ask: impl Fn(NodeId) -> BoxFuture<'a, Result<T, Amiss>>,
) -> Result<T, PullError> {
    let (started, silence) = (Instant::now(), Duration::from_millis(patience.silence_ms));
    let mut nodes = from.to_vec();
    let first = usize::from(what.0[0]) % nodes.len().max(1);
    nodes.rotate_left(first);
    let (mut lies, mut failures): (BTreeMap<NodeId, String>, u32) = (BTreeMap::new(), 0);
    let mut last = "no other node has it".to_owned();
    loop {
        for node in nodes.iter().filter(|node| !lies.contains_key(*node)).copied().collect::<Vec<_>>() {
            let answer = timeout(ANSWER_WAIT, ask(node)).await;
            let silent = || Err(Amiss::Trouble(format!("nothing came for {} s", ANSWER_WAIT.as_secs())));
            match answer.unwrap_or_else(|_| silent()) {
                Ok(found) => return Ok(found),
                Err(Amiss::Trouble(text)) => last = format!("node {node}: {text}"),
                Err(Amiss::Lie(text)) => {
                    tracing::warn!(peer = %node, of = %what, reason = text, "another node tells what is not true");
                    lies.insert(node, text);
                }
            }
        }
        if !nodes.is_empty() && lies.len() == nodes.len() {
            let told: Vec<String> = lies.iter().map(|(node, text)| format!("node {node} {text}")).collect();
            return Err(PullError::Peers { blob: what.short(), text: told.join(", ") });
        }
        let wait = Duration::from_millis(patience.wait_ms(failures));
        if started.elapsed() + wait >= silence {
            return Err(PullError::Silent { blob: what.short(), silence, last });
        }
        failures = failures.saturating_add(1);
        sleep(wait).await;
    }
}

fn amiss(error: &PeerError) -> Amiss {
    match error {
        PeerError::Unreachable(text) | PeerError::Refused { text, .. } => Amiss::Trouble(text.clone()),
        PeerError::Garbled(text) => Amiss::Lie(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use crate::library::samples::Disk;
    use crate::mem::{MemCluster, MemPeers, PeerFault};

    use super::*;

    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);
    const PATIENCE: Patience = Patience { first_wait_ms: 500, wait_ms_max: 30_000, silence_ms: 300_000 };

    /// Two nodes that have the file.
    fn peers(disk: &Disk) -> MemPeers {
        let peers = MemPeers::default();
        for node in [TWO, THREE] {
            peers.link_library(node, disk.library.clone(), 1);
        }
        peers
    }

    async fn found(disk: &Disk, peers: &MemPeers, root: Root) -> Result<Tree, PullError> {
        find(peers, &[TWO, THREE], disk.spec, root, PATIENCE).await
    }

    #[tokio::test(start_paused = true)]
    async fn any_holder_will_do_and_a_liar_is_passed_over() {
        let disk = Disk::new(1, 3);
        disk.publish();
        let (peers, root) = (peers(&disk), disk.tree().root());
        assert_eq!(found(&disk, &peers, root).await, Ok(disk.tree()));
        for liar in [TWO, THREE] {
            peers.set_fault(liar, Some(PeerFault::LyingHashes));
            assert_eq!(found(&disk, &peers, root).await, Ok(disk.tree()), "{liar}");
            peers.set_fault(liar, None);
        }
        peers.unlink(TWO);
        assert_eq!(found(&disk, &peers, root).await, Ok(disk.tree()), "one is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_lie_nobody_waits() {
        let disk = Disk::new(2, 2);
        disk.publish();
        let (peers, begun) = (peers(&disk), Instant::now());
        let blob = disk.spec.sha256.short();
        let text = "node 2 told hashes of another file, node 3 told hashes of another file".to_owned();
        let wrong = found(&disk, &peers, Root([9; 32])).await;
        assert_eq!(wrong, Err(PullError::Peers { blob, text }));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_have_it_yet_is_asked_again_until_it_is_no_use() {
        let disk = Disk::new(3, 2);
        let (peers, root, begun) = (peers(&disk), disk.tree().root(), Instant::now());
        let silent = found(&disk, &peers, root).await.expect_err("nobody has it");
        assert!(
            silent.to_string().ends_with("nothing came for 300 s; last: node 2: no such file")
                || silent.to_string().ends_with("nothing came for 300 s; last: node 3: no such file"),
            "{silent}"
        );
        assert!(begun.elapsed() > Duration::from_secs(200), "{:?}", begun.elapsed());
        let late = async {
            sleep(Duration::from_secs(100)).await;
            disk.publish();
            std::future::pending::<()>().await;
        };
        let tree = tokio::select! {
            tree = found(&disk, &peers, root) => tree,
            () = late => return,
        };
        assert_eq!(tree, Ok(disk.tree()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_is_known_by_its_digest() {
        let disk = Disk::new(4, 1);
        let layer = format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":5}}"#, disk.spec.sha256);
        let text = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
        let manifest = Manifest::read(text.as_bytes()).expect("a manifest");
        disk.library.learn(&manifest);
        let peers = peers(&disk);
        let found = find_manifest(&peers, &[TWO, THREE], manifest.digest(), PATIENCE).await;
        assert_eq!(found.expect("both have it").bytes(), text.as_bytes());
        let other = find_manifest(&peers, &[], manifest.digest(), PATIENCE).await.expect_err("nobody is asked");
        assert!(other.to_string().ends_with("last: no other node has it"), "{other}");
    }

    #[test]
    fn what_is_on_record_is_of_the_size_that_the_manifest_says() {
        let cluster = MemCluster::new([TWO]);
        let ledger = cluster.ledger(TWO);
        let blob = BlobSpec { sha256: Digest([0xab; 32]), size_bytes: 7 };
        let text = "no node has a sound copy of abababababab: its BLAKE3 is not on record";
        assert_eq!(bound(&ledger, blob).expect_err("it is not there").to_string(), text);
        cluster.put(blob, Root([1; 32]));
        assert_eq!(bound(&ledger, blob), Ok(Bound { size_bytes: 7, root: Root([1; 32]) }));
        let longer = BlobSpec { size_bytes: 8, ..blob };
        let other = PullError::OtherSize { blob: "abababababab".to_owned(), wanted: 8, found: 7 };
        assert_eq!(bound(&ledger, longer), Err(other));
    }
}
