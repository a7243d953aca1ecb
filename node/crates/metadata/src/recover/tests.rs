//! A real directory of a node that was killed: what is found in it, and the cluster that is made of it.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use ollamax_core::catalog::Command;
use ollamax_types::RequestId;

use super::*;
use crate::alone::{Alone, CLUSTER, INCARNATION};
use crate::{Config, Handle, Identity, REVISION_JUMP, mem};

const NEW: NewCluster =
    NewCluster { cluster: ClusterId([9; 16]), public_key: [9; 32], node: NodeId(1), incarnation: INCARNATION };
const PATIENCE: Duration = Duration::from_secs(30);

/// What kill -9 leaves: the files without what is in memory. Nothing flushes meanwhile.
fn killed(dir: &Path) -> TempDir {
    fn copy_tree(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("listed").map(|entry| entry.expect("listed")) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_tree(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).expect("copied");
            }
        }
    }
    let copy = tempfile::tempdir().expect("a folder");
    copy_tree(dir, copy.path());
    copy
}

async fn set(handle: &Handle, key: &str, value: &[u8]) -> u64 {
    let command = Command::SetSetting { key: key.to_owned(), value: value.to_vec() };
    let committed = handle.propose(RequestId::default(), "admin", command).await.expect("a majority of one");
    committed.accepted().expect("taken").revision
}

#[tokio::test]
async fn a_survivor_goes_on_alone_with_all_that_its_log_has_and_its_old_directory_is_untouched() {
    let alone = Alone::cluster_of_one().await;
    let last = set(&alone.handle, "a", b"1").await;
    let (copy, status) = (killed(alone.dir()), alone.handle.status());
    alone.close().await;

    let found = look(copy.path(), store::Config::default()).expect("readable");
    let Survivor { cluster, node, configs, standing, last: end, .. } = found.survivor.clone();
    assert_eq!((cluster, node, standing), (CLUSTER, NodeId(1), true));
    assert_eq!(configs, [BTreeSet::from([NodeId(1)])]);
    assert_eq!((end.index, end.term, found.survivor.vote_term), (last, status.term, status.term));
    assert_eq!((found.applied, found.members, found.values), (0, 1, 0), "nothing was flushed yet");
    assert_eq!((found.cluster_name.as_str(), found.state_hash), ("lab", status.state_hash));
    // The note of what is committed may be older than the truth, and then says so.
    assert!(found.survivor.committed <= last && found.tail_count <= last + 1, "{found:?}");

    // An attempt that was cut off is thrown away, and the next one makes the same.
    let cut = tempfile::tempdir().expect("a folder");
    let made = make(copy.path(), cut.path(), store::Config::default(), &NEW).expect("made");
    let to = tempfile::tempdir().expect("a folder");
    assert_eq!(make(copy.path(), to.path(), store::Config::default(), &NEW).expect("made again"), made);
    assert_eq!((made.revision, made.term), (last + REVISION_JUMP, status.term + 1));
    assert!(made.departed.is_empty(), "{made:?}");
    assert_eq!(look(copy.path(), store::Config::default()).expect("readable"), found);

    let identity = Identity { cluster: NEW.cluster, node: NEW.node, incarnation: NEW.incarnation };
    let peers = mem::Network::default().peers_of(NEW.node);
    let again = Alone::open_in(to, identity, Config::default(), peers).await;
    let wait = again.handle.0.raft.wait(Some(PATIENCE));
    wait.metrics(|now| now.current_leader == Some(1), "it leads").await.expect("in time");
    assert!(set(&again.handle, "b", b"2").await > made.revision);
    let view = again.handle.view();
    let kept = read::setting(&*view, "a").expect("readable").expect("kept");
    assert_eq!((kept.value, kept.revision), (b"1".to_vec(), last));
    let founded = read::cluster(&*view).expect("readable").expect("there");
    assert_eq!((founded.id, founded.public_key), (NEW.cluster, NEW.public_key));
    again.close().await;
}

fn refusal(refused: &RecoverError, expected: impl Fn(&store::OpenError) -> bool) -> bool {
    matches!(refused, RecoverError::Open(error) if expected(error))
}

#[tokio::test]
async fn a_directory_that_is_open_or_empty_is_not_looked_at() {
    let alone = Alone::cluster_of_one().await;
    let refused = look(alone.dir(), store::Config::default()).expect_err("open");
    assert!(refusal(&refused, |error| matches!(error, store::OpenError::Locked { .. })), "{refused}");
    alone.close().await;
    let empty = tempfile::tempdir().expect("a folder");
    let refused = look(empty.path(), store::Config::default()).expect_err("empty");
    assert!(refusal(&refused, |error| matches!(error, store::OpenError::Missing { .. })), "{refused}");
}
