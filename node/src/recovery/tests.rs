//! A real directory of a voter whose other voter is gone for ever: planned, recovered, recovered again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_core::catalog::{Answer, CLUSTER_VERSION};
use ollamax_metadata::mem::Network;
use ollamax_metadata::{Config, Handle, Identity, Parts, REVISION_JUMP, Service};
use ollamax_types::{Clock, ClusterId, PeerId, RequestId, TokenId};

use super::*;
use crate::data_dir::tests::{copy_tree, membership};

const INCARNATION: Incarnation = Incarnation([7; 16]);
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Nodes in this process.
#[derive(Default)]
struct Lab {
    network: Network,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lab {
    async fn open(&self, dir: &Path, cluster: ClusterId, node: u64, incarnation: Incarnation) -> Handle {
        let parts = Parts {
            config: Config { autopilot_ms: 50, ..Config::default() },
            store: store::Config::default(),
            identity: Identity { cluster, node: NodeId(node), incarnation },
            dir: dir.to_owned(),
            clock: Clock::system(),
            peers: self.network.peers_of(NodeId(node)),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        let handle = Service::open(parts).await.expect("opens");
        self.network.plug(handle.clone());
        handle
    }
}

fn new_member(node: u64, peer_id: PeerId, incarnation: Incarnation) -> NewMember {
    let (peer_addresses, p2p_addresses, api_addresses) = (vec![], vec![], vec![]);
    NewMember { name: format!("n{node}"), peer_id, incarnation, peer_addresses, p2p_addresses, api_addresses }
}

/// Repeats a change until a majority has it; only for what may be repeated.
async fn change(handle: &Handle, command: Command) -> Answer {
    let until = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(LOOK);
    loop {
        match handle.propose(RequestId::default(), "test", command.clone()).await {
            Ok(committed) => return committed.answer,
            Err(error) => assert!(Instant::now() < until, "{command:?}: {error}"),
        }
        look.tick().await;
    }
}

/// A membership of node 1 with its keys, in a directory of its own.
fn prepare(root: &Path) -> (Membership, PeerId) {
    let mut dir = DataDir::open(root, INCARNATION).expect("opens");
    let node_key = NodeKey::load_or_create(&root.join("keys").join("node.key")).expect("a key");
    let key = ClusterKey::generate().expect("a key");
    key.seal(&root.join("keys").join("cluster.key")).expect("sealed");
    let membership = Membership {
        cluster: cluster_id(&key.public_key()).to_string(),
        cluster_public_key: hex::encode(key.public_key()),
        node: NodeId(1),
        name: "n1".to_owned(),
        ..membership()
    };
    dir.set_membership(Some(membership.clone())).expect("saved");
    (membership, node_key.peer_id().clone())
}

/// The directory of node 1 of two voters, as it is when both are killed, and what is on record there.
async fn survivor() -> (TempDir, Membership) {
    let (home, other) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let (membership, peer_id) = prepare(home.path());
    let cluster = membership.cluster_id().expect("an id");
    let mut public_key = [0; 32];
    hex::decode_to_slice(&membership.cluster_public_key, &mut public_key).expect("hex");
    let lab = Lab::default();
    let first = lab.open(home.path(), cluster, 1, INCARNATION).await;
    let init = Command::InitCluster {
        cluster,
        name: membership.cluster_name.clone(),
        public_key,
        first: new_member(1, peer_id, INCARNATION),
        version: CLUSTER_VERSION,
    };
    first.init_cluster(RequestId::default(), init).await.expect("a cluster of one");
    let (token, role) = (TokenId("t".to_owned()), Role::Voter);
    let create = Command::CreateToken { id: token.clone(), secret_sha256: [5; 32], role, uses: 1, ttl_ms: 3_600_000 };
    assert_eq!(change(&first, create).await, Answer::Done);
    let second = new_member(2, PeerId("p2".to_owned()), Incarnation([2; 16]));
    change(&first, Command::AddMember { token, secret_sha256: [5; 32], role, member: second }).await;
    lab.open(other.path(), cluster, 2, Incarnation([2; 16])).await;
    let until = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(LOOK);
    while first.status().voters.len() != 2 || first.status().voters_changing {
        assert!(Instant::now() < until, "two voters: {:?}", first.status());
        look.tick().await;
    }
    change(&first, Command::SetSetting { key: "kept".to_owned(), value: b"yes".to_vec() }).await;
    let copy = tempfile::tempdir().expect("temp");
    copy_tree(home.path(), copy.path());
    lab.stop.cancel();
    lab.tasks.close();
    lab.tasks.wait().await;
    drop(DataDir::adopt(copy.path(), INCARNATION).expect("adopted"));
    (copy, membership)
}

fn apply_with(root: &Path, confirm: Option<&str>, with: Vec<PathBuf>) -> Result<(), Failure> {
    let confirm = confirm.map(str::to_owned);
    apply(&ApplyArgs { data_dir: root.to_owned(), with, confirm, form: Form::Json })
}

#[tokio::test]
async fn a_survivor_becomes_a_cluster_of_its_own_once_and_only_with_consent() {
    let (home, before) = survivor().await;
    let root = home.path();
    let own = survey(root, &before).expect("readable");
    assert_eq!((own.node, own.members, own.voters.clone()), (1, 2, vec![vec![1, 2]]));
    let planned = plan_of(&own, &[]).expect("a plan");
    assert_eq!((planned.needed, planned.safest, planned.may_lose), (true, NodeId(1), false));

    let file = root.join("n1.json");
    let args = PlanArgs { data_dir: root.to_owned(), with: vec![], write: Some(file.clone()), form: Form::Text };
    plan(&args).expect("planned");
    assert_eq!(SurvivorFile::read(&file).expect("read"), own);

    // Without consent, or where another survivor is safer, nothing happens.
    let identity = fs::read(root.join("identity.json")).expect("there");
    let written = || fs::metadata(root.join("identity.json")).expect("there").ino();
    let before_consent = written();
    for confirm in [None, Some("another")] {
        let refused = apply_with(root, confirm, vec![]).expect_err("no consent");
        assert!(refused.exit == EXIT_USAGE && refused.text.contains("--confirm lab"), "{}", refused.text);
        assert_eq!(written(), before_consent, "nothing is written before consent");
    }
    let later = SurvivorFile { node: 5, last_index: own.last_index + 1, voters: vec![vec![1, 2]], ..own.clone() };
    let other = root.join("n5.json");
    fs::write(&other, serde_json::to_vec(&later).expect("plain fields serialise")).expect("written");
    let refused = apply_with(root, Some("lab"), vec![other]).expect_err("node 5 is safer");
    assert!(refused.exit == EXIT_CONFLICT && refused.text.contains("node 5 is safer"), "{}", refused.text);
    assert_eq!(fs::read(root.join("identity.json")).expect("there"), identity);
    assert_eq!(survey(root, &before).expect("readable"), own);

    apply_with(root, Some("lab"), vec![]).expect("recovered");
    check_recovered(root, &before, &own);
    apply_with(root, Some("lab"), vec![]).expect("done already");
    check_recovered(root, &before, &own);

    // It goes on alone, with everything.
    let held = Held::take(root).expect("ours");
    let cluster = held.membership().expect("readable").expect("a member").cluster_id().expect("an id");
    drop(held);
    let lab = Lab::default();
    let alone = lab.open(root, cluster, 1, INCARNATION).await;
    change(&alone, Command::SetSetting { key: "new".to_owned(), value: b"yes".to_vec() }).await;
    for key in ["kept", "new"] {
        let found = ollamax_core::catalog::read::setting(&*alone.view(), key).expect("readable");
        assert_eq!(found.map(|setting| setting.value), Some(b"yes".to_vec()), "{key}");
    }
    assert_eq!(alone.status().voters, [NodeId(1)]);
    lab.stop.cancel();
    lab.tasks.close();
    lab.tasks.wait().await;
}

/// Another cluster, of which the old key and credential prove nothing.
fn check_recovered(root: &Path, before: &Membership, own: &SurvivorFile) {
    let held = Held::take(root).expect("ours");
    let after = held.membership().expect("readable").expect("a member").clone();
    assert_eq!(after.recovered_from.as_ref(), Some(&before.cluster));
    assert_ne!((&after.cluster, &after.cluster_public_key), (&before.cluster, &before.cluster_public_key));
    assert_eq!((after.node, after.role, after.known.len()), (NodeId(1), Role::Voter, 0));
    let key = ClusterKey::load(&root.join("keys").join("cluster.key")).expect("its new key");
    assert_eq!(cluster_id(&key.public_key()).to_string(), after.cluster);
    let credential = Credential::verify(&hex::decode(&after.credential).expect("hex"), &key.public_key());
    assert_eq!(credential.expect("signed with it").node, NodeId(1));
    assert!(!Staging::of(root).store().exists() && !Staging::of(root).key().exists());
    let found = survey(root, &after).expect("readable");
    assert_eq!((found.members, found.voters, found.last_index), (1, vec![vec![1]], own.last_index + REVISION_JUMP));
}

#[test]
fn a_node_of_no_cluster_and_a_removed_one_have_nothing_to_recover() {
    let temp = tempfile::tempdir().expect("temp");
    let refused = apply_with(temp.path(), Some("lab"), vec![]).expect_err("no data directory");
    assert_eq!(refused.exit, EXIT_USAGE, "{}", refused.text);
    assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 0, "nothing was made");
    let mut dir = DataDir::open(temp.path(), INCARNATION).expect("opens");
    let refused = apply_with(temp.path(), Some("lab"), vec![]).expect_err("in use");
    assert!(refused.exit == EXIT_CONFLICT && refused.text.contains("in use"), "{}", refused.text);
    assert!(refused.text.ends_with("\ntry: stop that daemon, then repeat the command"), "{}", refused.text);
    dir.set_membership(Some(Membership { removed: true, raft_opened: false, ..membership() })).expect("saved");
    drop(dir);
    let refused = apply_with(temp.path(), Some("lab"), vec![]).expect_err("removed");
    assert!(refused.exit == EXIT_CONFLICT && refused.text.contains("was removed"), "{}", refused.text);
    DataDir::open(temp.path(), INCARNATION).expect("opens").set_membership(None).expect("saved");
    let refused = apply_with(temp.path(), Some("lab"), vec![]).expect_err("no member");
    assert!(refused.exit == EXIT_CONFLICT && refused.text.contains("no cluster"), "{}", refused.text);
}
