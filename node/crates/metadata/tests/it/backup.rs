//! A backup of a running node, restored in another directory: it leads alone, far behind, with everything in it.

use std::io::Cursor;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::command::NewMember;
use ollamax_core::catalog::lineage::{Founder, Leads};
use ollamax_core::catalog::{Key, Record};
use ollamax_metadata::backup::{Order, Target, check, restore};
use ollamax_metadata::mem::Network;
use ollamax_metadata::{Config, Filter, Identity, Parts, REVISION_JUMP, Service, WatchError};
use ollamax_security::BackupKey;
use ollamax_types::{Clock, ClusterId, Incarnation, NodeId, PeerId, RequestId, Timestamp};

use crate::world::{World, eventually, setting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_node_leads_alone_and_goes_on_far_behind() {
    let world = World::one().await;
    let before = world.propose(1, setting("a", "1")).await.revision;
    let key = BackupKey::generate();
    let order = Order { taken_at: Timestamp(5), release: "0.1.0".to_owned(), recipient: key.recipient() };
    let (written, bytes) = world.handle(1).write_backup(&order, Vec::new(), &mut |_| Ok(())).expect("written");
    assert!(written.page.revision >= before, "{written:?}");
    let checked = check(&mut Cursor::new(&bytes), &key).expect("it is good");

    let dir = tempfile::tempdir().expect("folder");
    let (cluster, incarnation) = (ClusterId([7; 16]), Incarnation([7; 16]));
    let member = NewMember {
        name: "fresh".into(),
        peer_id: PeerId("peer-fresh".into()),
        incarnation,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
    };
    let store = ollamax_store::Config::default();
    let founder = Founder { cluster, public_key: [4; 32], leads: Leads::Newcomer(member) };
    let target = Target { dir: dir.path().to_owned(), store: store.clone(), incarnation, founder };
    let restored = restore(&mut Cursor::new(&bytes), &key, checked, &target).expect("restored");
    assert_eq!(restored.member.id, NodeId(514), "well above all that were given out");

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let parts = Parts {
        config: Config::default(),
        store: store.clone(),
        identity: Identity { cluster, node: restored.member.id, incarnation },
        dir: dir.path().to_owned(),
        clock: Clock::system(),
        peers: Network::default().peers_of(restored.member.id),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    let handle = Service::open(parts).await.expect("opens");
    let changed = eventually("a change", || {
        let handle = handle.clone();
        async move { handle.propose(RequestId::default(), "test", setting("b", "2")).await?.accepted() }
    })
    .await;
    assert!(changed.revision > before + REVISION_JUMP, "{changed:?}");
    assert!(changed.term > written.facts.term, "{changed:?}");
    for (name, expected) in [("a", "1"), ("b", "2")] {
        let found = handle.view().get(&Key::Setting(name.to_owned())).expect("readable");
        assert!(matches!(&found, Some(Record::Setting(setting)) if setting.value == expected.as_bytes()), "{found:?}");
    }
    let everything = Filter { namespace: String::new(), key: "user/".into(), prefix: true };
    let mut watcher = handle.watch(everything, Some(before));
    assert!(matches!(watcher.next().await, Err(WatchError::Compacted { .. })));
    assert_eq!(handle.status().voters, [restored.member.id]);

    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
