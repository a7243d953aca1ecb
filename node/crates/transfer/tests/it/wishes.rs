//! What the cluster wishes: several nodes, one registry, and a record that all of them see.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::{Instant, interval, sleep, timeout};

use ollamax_core::catalog::{CopyCourse, Replicas};
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemPeers, PeerFault};
use ollamax_transfer::{
    Adopted, Config, Ledger as _, LedgerError, NodeCopy, OriginTrouble, Overview, OverviewWatch, Place, PullError,
    PullProgress, Source, Stage, Wait, Watch,
};
use ollamax_types::{CHUNK_BYTES, Digest, ErrorCode, ModelName, NodeId, Rate, Timestamp};

use crate::world::{LONG, Model, Node, World, ask_for, chunks, name, result, until, until_verified};

mod broken_off;
mod ingester;
mod off;
mod room;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Nodes with a store each that share a registry and a record. The first of them fetches from outside.
struct Lab {
    cluster: MemCluster,
    peers: MemPeers,
    origin: MemOrigin,
    worlds: Vec<World>,
}

// === impl Lab ===

impl Lab {
    fn new(count: u64) -> Self {
        let nodes: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let (peers, origin) = (MemPeers::default(), MemOrigin::default());
        let cluster = MemCluster::new(nodes.clone());
        let world = |node: NodeId| {
            let (cluster, peers, origin) = (cluster.clone(), peers.clone(), origin.clone());
            World { node, cluster, peers, origin, ..World::new() }
        };
        let worlds = nodes.into_iter().map(world).collect();
        Self { cluster, peers, origin, worlds }
    }

    fn model(&self, text: &str, seed: u64, weights_bytes: u64) -> Model {
        self.worlds[0].model(text, seed, weights_bytes)
    }

    fn world(&self, node: NodeId) -> &World {
        self.worlds.iter().find(|world| world.node == node).expect("one of ours")
    }

    fn start_one(&self, node: NodeId) -> Node {
        let started = self.world(node).start();
        self.peers.link(node, started.handle.clone());
        started
    }

    fn start<const N: usize>(&self) -> [Node; N] {
        [ONE, TWO, THREE].first_chunk::<N>().expect("so many").map(|node| self.start_one(node))
    }

    /// The cluster hears that nodes have a version, as their reports would tell it.
    fn hold(&self, nodes: &[NodeId], model: &Model) {
        nodes.iter().for_each(|node| self.cluster.hold(*node, &model.name, model.manifest.digest()));
    }

    fn check_published(&self, model: &Model) {
        self.worlds.iter().for_each(|world| world.check_published(model));
    }
}

async fn ask(node: &Node, name: &ModelName, replicas: Replicas) -> Result<OverviewWatch, PullError> {
    timeout(LONG, node.handle.ask(ask_for(name, replicas))).await.expect("it answers")
}

/// How a wish ends. What was verified anywhere never goes back meanwhile.
async fn end(watch: &mut OverviewWatch) -> Arc<Overview> {
    let mut before = watch.now();
    loop {
        let now = watch.now();
        let is_same = |(now, before): &(&NodeCopy, &NodeCopy)| now.node == before.node;
        let copies = now.copies.iter().zip(&before.copies).filter(is_same);
        for (now, before) in copies.take_while(|_| now.round == before.round) {
            let (now, before) = (now.progress.verified_bytes(), before.progress.verified_bytes());
            assert!(now >= before, "{now} after {before}");
        }
        if now.is_over {
            return now;
        }
        let changed = timeout(LONG, watch.changed()).await;
        assert_eq!(changed, Ok(true), "news after {now:?}");
        before = now;
    }
}

async fn held(watch: &mut OverviewWatch) -> Arc<Overview> {
    let over = end(watch).await;
    assert!(over.is_held() && over.error().is_none(), "{over:?}");
    over
}

/// The pull of a node, as soon as there is one.
async fn pull_of(node: &Node, name: &ModelName) -> Watch {
    let begun = async {
        let mut looks = interval(Duration::from_millis(10));
        loop {
            if let Some(watch) = node.handle.watch(name) {
                return watch;
            }
            looks.tick().await;
        }
    };
    timeout(LONG, begun).await.expect("it begins")
}

async fn end_all(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.end().await;
    }
}

fn bytes_from(progress: &PullProgress, is_it: impl Fn(&Source) -> bool) -> u64 {
    progress.sources.iter().filter(|one| is_it(&one.source)).map(|one| one.bytes).sum()
}

/// What the nodes told of their copies, as soon as that is enough.
async fn told(cluster: &MemCluster, is_enough: impl Fn(&[(NodeId, CopyCourse)]) -> bool) -> Vec<(NodeId, CopyCourse)> {
    let telling = async {
        let mut looks = interval(Duration::from_millis(10));
        loop {
            let told = cluster.courses();
            if is_enough(&told) {
                return told;
            }
            looks.tick().await;
        }
    };
    timeout(LONG, telling).await.expect("it is told")
}

/// The nodes that told of copies of this kind, in order; one that told so twice is there twice.
fn tellers(told: &[(NodeId, CopyCourse)], is_whole: bool) -> Vec<NodeId> {
    let of_kind = told.iter().filter(|(_, course)| course.is_whole == is_whole);
    let mut nodes: Vec<NodeId> = of_kind.map(|(node, _)| *node).collect();
    nodes.sort_unstable();
    nodes
}

/// All that came, as it is told.
fn came(course: &CopyCourse) -> u64 {
    let members: u64 = course.members.iter().map(|(_, bytes)| bytes).sum();
    course.origin_bytes + course.here_bytes + members + course.other_bytes
}

#[tokio::test(start_paused = true)]
async fn one_wish_makes_three_copies_and_the_registry_sends_one() {
    let lab = Lab::new(3);
    let model = lab.model("tiny", 1, chunks(4));
    let nodes = lab.start::<3>();
    let mut watch = ask(&nodes[1], &model.name, Replicas::All).await.expect("it is on record");
    let over = held(&mut watch).await;
    assert_eq!(over.copies.iter().map(|copy| copy.node).collect::<Vec<_>>(), [ONE, TWO, THREE]);
    assert_eq!(over.digest, Some(model.manifest.digest()));
    lab.check_published(&model);
    assert_eq!((lab.origin.sent(model.weights.sha256), lab.origin.manifests_asked()), (chunks(4), 1));
    let total = model.manifest.size_bytes();
    assert_eq!(bytes_from(&over.copies[0].progress, |source| *source == Source::Origin), total);
    for copy in &over.copies[1..] {
        assert!(bytes_from(&copy.progress, |source| matches!(source, Source::Node(_))) >= total, "{copy:?}");
        assert_eq!(bytes_from(&copy.progress, |source| *source == Source::Origin), 0);
        assert_eq!(copy.progress.verified_bytes(), total);
    }
    assert!(!watch.changed().await, "it is over");

    // Whoever asks again has it at once.
    lab.hold(&[ONE, TWO, THREE], &model);
    let mut again = ask(&nodes[2], &model.name, Replicas::All).await.expect("it is on record");
    let over_again = held(&mut again).await;
    assert!(over_again.round > over.round);
    assert_eq!((lab.origin.sent(model.weights.sha256), lab.origin.manifests_asked()), (chunks(4), 2));
    end_all(nodes).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_says_for_which_store_it_waits_and_goes_on_when_that_is_there() {
    for comes in [true, false] {
        let lab = Lab::new(1);
        let model = lab.model("tiny", 41, chunks(1));
        let runtime = &lab.world(ONE).runtime;
        runtime.set_place(Place::None("none at /models".to_owned()));
        let one = lab.start_one(ONE);
        let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
        let wait = Some(Wait::Store { reason: "none at /models".to_owned() });
        while watch.now().copies.first().is_none_or(|copy| copy.progress.wait != wait) {
            assert_eq!(timeout(LONG, watch.changed()).await, Ok(true), "{:?}", watch.now());
        }
        if comes {
            runtime.set_place(Place::Store(lab.world(ONE).folder.path().join("models")));
            held(&mut watch).await;
            lab.check_published(&model);
        } else {
            let error = end(&mut watch).await.error().expect("nobody else has a store");
            assert_eq!(error.code(), ErrorCode::RuntimeUnavailable, "{error}");
        }
        one.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_copy_tells_its_end_once_and_what_came_from_where() {
    let lab = Lab::new(3);
    let model = lab.model("tiny", 25, chunks(4));
    let nodes = lab.start::<3>();
    held(&mut ask(&nodes[1], &model.name, Replicas::All).await.expect("it is on record")).await;
    told(&lab.cluster, |told| tellers(told, true).len() >= 3).await;
    end_all(nodes).await;
    let told = lab.cluster.courses();
    assert_eq!(tellers(&told, true), [ONE, TWO, THREE], "{told:?}");
    let total = model.manifest.size_bytes();
    for (node, course) in told.iter().filter(|(_, course)| course.is_whole) {
        assert_eq!((course.verified_bytes, course.size_bytes), (total, total), "{node}: {course:?}");
        assert!(came(course) >= total, "{node}: {course:?}");
        let from_registry = if *node == ONE { total } else { 0 };
        assert_eq!(course.origin_bytes, from_registry, "{node}: {course:?}");
        assert!(course.members.iter().all(|(member, _)| member != node), "{node}: {course:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_takes_long_tells_how_far_it_is_in_order_and_its_end_last() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 26, chunks(8));
    lab.origin.set_limit(chunks(5));
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let is_told_of = |told: &[(NodeId, CopyCourse)], is_whole: bool| {
        let nodes = tellers(told, is_whole);
        nodes.contains(&ONE) && nodes.contains(&TWO)
    };
    let halves = told(&lab.cluster, |told| is_told_of(told, false)).await;
    assert!(tellers(&halves, true).is_empty(), "nobody has it yet: {halves:?}");
    for (node, course) in &halves {
        let verified_bytes = course.verified_bytes;
        assert!((chunks(2)..=chunks(5)).contains(&verified_bytes), "{node}: {course:?}");
        assert_eq!(course.size_bytes, model.manifest.size_bytes());
        assert!(course.took_ms >= 30_000 && came(course) >= verified_bytes, "{node}: {course:?}");
    }

    lab.origin.set_limit(u64::MAX);
    held(&mut watch).await;
    told(&lab.cluster, |told| is_told_of(told, true)).await;
    end_all([one, two]).await;
    let told = lab.cluster.courses();
    for node in [ONE, TWO] {
        let own: Vec<&CopyCourse> = told.iter().filter(|(teller, _)| *teller == node).map(|(_, own)| own).collect();
        assert!((2..=4).contains(&own.len()), "{node}: {own:?}");
        assert!(own.windows(2).all(|pair| pair[0].verified_bytes <= pair[1].verified_bytes), "{node}: {own:?}");
        assert!(own.windows(2).all(|pair| !pair[0].is_whole), "{node}: {own:?}");
    }
    lab.check_published(&model);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_starts_again_at_half_fetches_the_other_half() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 2, chunks(4));
    let [one, two] = lab.start::<2>();
    lab.peers.set_fault(ONE, Some(PeerFault::VanishAfter(chunks(2))));
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut pull = pull_of(&two, &model.name).await;
    until_verified(&mut pull, chunks(2)).await;
    two.end().await;
    assert_eq!(result(&mut pull).await, Err(PullError::Stopping));
    assert_eq!(lab.world(TWO).jobs(), ["tiny:latest"]);

    lab.peers.link(ONE, one.handle.clone());
    let two = lab.start_one(TWO);
    held(&mut watch).await;
    assert_eq!(lab.peers.sent_bytes(ONE), model.manifest.size_bytes() - chunks(2));
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(4));
    lab.check_published(&model);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_ingester_cannot_fetch_nobody_waits_for() {
    let lab = Lab::new(2);
    let [one, two] = lab.start::<2>();
    let absent = name("absent");
    let started = Instant::now();
    let mut watch = ask(&two, &absent, Replicas::All).await.expect("it is on record");
    let over = end(&mut watch).await;
    let text = "node 1: pull model manifest: file does not exist";
    let error = over.error().expect("there is no copy");
    assert_eq!((error.code(), error.to_string().as_str()), (ErrorCode::ModelNotFound, text));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let error = result(&mut pull_of(&two, &absent).await).await.expect_err("nobody has it");
    assert_eq!(error.to_string(), text);
    let wish = lab.cluster.wish(&absent).expect("it is on record");
    assert_eq!(wish.failures.keys().collect::<Vec<_>>(), [&ONE], "only the failure itself is told");
    assert_eq!(lab.origin.manifests_asked(), 1);

    // Whoever asks again begins anew.
    let model = lab.model("absent", 3, chunks(1));
    held(&mut ask(&two, &absent, Replicas::All).await.expect("it is on record")).await;
    lab.check_published(&model);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn another_node_takes_the_place_of_one_that_has_no_room() {
    let mut lab = Lab::new(3);
    lab.worlds[0].config = Config { spare_bytes_min: 1 << 60, ..lab.worlds[0].config.clone() };
    let model = lab.model("tiny", 4, chunks(2));
    let nodes = lab.start::<3>();
    let mut watch = ask(&nodes[2], &model.name, Replicas::All).await.expect("it is on record");
    while lab.cluster.wish(&model.name).expect("it is on record").failures.is_empty() {
        assert!(!watch.now().is_over, "{:?}", watch.now());
        sleep(Duration::from_millis(10)).await;
    }
    let failures = lab.cluster.wish(&model.name).expect("it is on record").failures;
    assert_eq!(failures[&ONE].code, ErrorCode::DiskFull);
    sleep(Duration::from_secs(2)).await;
    assert!(!watch.now().is_over, "the leader has time to plan anew");
    lab.cluster.plan(&model.name, TWO, vec![TWO, THREE]);
    let over = held(&mut watch).await;
    assert_eq!(over.copies.iter().map(|copy| copy.node).collect::<Vec<_>>(), [TWO, THREE]);
    for node in [TWO, THREE] {
        lab.world(node).check_published(&model);
    }
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(2));
    end_all(nodes).await;
}

#[tokio::test(start_paused = true)]
async fn receivers_have_what_the_origin_gave_so_far() {
    let lab = Lab::new(4);
    let model = lab.model("tiny", 20, chunks(8));
    lab.origin.set_limit(chunks(4));
    let nodes: Vec<Node> = (1..=4).map(|id| lab.start_one(NodeId(id))).collect();
    let mut watch = ask(&nodes[3], &model.name, Replicas::All).await.expect("it is on record");
    for node in &nodes {
        until_verified(&mut pull_of(node, &model.name).await, chunks(4)).await;
    }
    assert!(!watch.now().has_copy());
    let (digest, asked) = (model.manifest.digest(), [1, 2, 3, 4, 9].map(NodeId));
    let permille = nodes[1].handle.permille_of(&model.name, digest, &asked).await;
    assert_eq!(permille.keys().copied().collect::<Vec<_>>(), asked[..4], "who is not there says nothing");
    assert!(permille.values().all(|permille| (490..500).contains(permille)), "{permille:?}");
    let seen = nodes[1].handle.pull_seen_at(NodeId(3), &model.name).await.expect("it is on its way there");
    assert_eq!((seen.node, seen.digest, seen.is_over()), (NodeId(3), Some(digest), false));
    assert_eq!(nodes[1].handle.pull_seen_at(NodeId(9), &model.name).await, None);
    assert!(nodes[1].handle.permille_of(&model.name, Digest([0; 32]), &asked).await.is_empty(), "another version");
    lab.origin.set_limit(u64::MAX);
    held(&mut watch).await;
    lab.check_published(&model);
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(8));
    end_all(nodes).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_of_the_origin_leave_nothing_anywhere() {
    let lab = Lab::new(4);
    let model = lab.model("tiny", 21, chunks(3));
    let mut wrong = model.bytes.clone();
    wrong[100] ^= 1;
    lab.origin.put_file(model.weights.sha256, wrong);
    let nodes: Vec<Node> = (1..=4).map(|id| lab.start_one(NodeId(id))).collect();
    let mut watch = ask(&nodes[1], &model.name, Replicas::All).await.expect("it is on record");
    let error = end(&mut watch).await.error().expect("there is no copy");
    assert_eq!(error.code(), ErrorCode::DigestMismatch, "{error}");
    for node in &nodes {
        let error = result(&mut pull_of(node, &model.name).await).await.expect_err("it is another file");
        assert_eq!(error.code(), ErrorCode::DigestMismatch, "{error}");
    }
    let wish = lab.cluster.wish(&model.name).expect("it is on record");
    assert_eq!(wish.failures[&ONE].code, ErrorCode::DigestMismatch);
    end_all(nodes).await;
    for world in &lab.worlds {
        world.check_nothing_published();
        assert_eq!(world.staged(), Vec::<String>::new(), "{}", world.node);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_right_does_not_go_when_another_one_is_wrong() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 24, chunks(2));
    let config = model.manifest.config().expect("it has one");
    lab.origin.put_file(config.sha256, vec![0; usize::try_from(config.size_bytes).expect("small")]);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    assert!(end(&mut watch).await.error().is_some(), "there is no copy");
    for node in [&one, &two] {
        let error = result(&mut pull_of(node, &model.name).await).await.expect_err("a file is another one");
        assert_eq!(error.code(), ErrorCode::DigestMismatch, "{error}");
    }
    lab.worlds.iter().for_each(World::check_nothing_published);

    // Gives the origin the same model as it should be.
    lab.model("tiny", 24, chunks(2));
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    held(&mut watch).await;
    lab.check_published(&model);
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(2), "once");
    end_all([one, two]).await;
}

/// A file that is on its way is told of by whoever brings it, and proved by its own digest in the end.
#[tokio::test(start_paused = true)]
async fn without_a_quorum_all_copies_come_of_a_version_that_is_on_record() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 5, chunks(2));
    lab.origin.set_limit(chunks(1));
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until_verified(&mut second, chunks(1)).await;
    lab.cluster.set_quorum(false);
    lab.origin.set_limit(u64::MAX);
    for node in [&one, &two] {
        result(&mut pull_of(node, &model.name).await).await.expect("it needs no quorum");
    }
    lab.check_published(&model);
    lab.cluster.set_quorum(true);
    held(&mut watch).await;
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(2));
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_for_the_version_the_others_wait_and_say_so() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 22, chunks(1));
    lab.origin.fail_manifests([OriginTrouble::Busy { after_ms: Some(5_000) }]);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until(&mut second, |progress| progress.wait == Some(Wait::FirstCopy)).await;
    lab.cluster.set_quorum(false);
    until(&mut second, |progress| progress.wait == Some(Wait::Quorum)).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!((&second.now().stage, second.now().verified_bytes()), (&Stage::Waiting, 0));
    lab.cluster.set_quorum(true);
    held(&mut watch).await;
    lab.check_published(&model);
    end_all([one, two]).await;
}

/// It was there when others began, and its root cannot be put on record just then.
#[tokio::test(start_paused = true)]
async fn a_file_that_the_store_loses_meanwhile_comes_as_well() {
    let lab = Lab::new(2);
    let (old, model) = (lab.model("old", 16, 1_000), lab.model("tiny", 17, chunks(2)));
    let [one, two] = lab.start::<2>();
    two.pull(&old.name).await.expect("it comes");
    // What came of the other model counts too.
    lab.origin.set_limit(chunks(1) + 2_000);
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until_verified(&mut second, chunks(1)).await;
    // Both have the same configuration.
    let config = model.manifest.config().expect("it has one").sha256;
    fs::remove_file(lab.world(TWO).blob(config)).expect("it is there");
    lab.cluster.set_quorum(false);
    lab.origin.set_limit(u64::MAX);
    result(&mut second).await.expect("it needs no quorum");
    lab.cluster.set_quorum(true);
    held(&mut watch).await;
    lab.check_published(&model);
    end_all([one, two]).await;
}

/// As after a weekend off: the times of files are days ahead of the record's.
#[tokio::test(start_paused = true)]
async fn what_lay_there_before_a_wish_is_replaced_although_the_records_time_is_behind() {
    let lab = Lab::new(1);
    let now = lab.worlds[0].clock.now();
    lab.cluster.set_log_time(Timestamp(now.0 - 2 * 24 * 3_600_000));
    let theirs = lab.model("theirs", 70, 1_000);
    let manifest = lab.worlds[0].store().root().join("manifests/registry.ollama.ai/library/tiny/latest");
    fs::create_dir_all(manifest.parent().expect("it has one")).expect("there is room");
    fs::write(&manifest, theirs.manifest.bytes()).expect("there is room");
    let file = File::options().write(true).open(&manifest).expect("ours");
    file.set_modified(UNIX_EPOCH + Duration::from_millis(now.0 - 60_000)).expect("ours");

    let model = lab.model("tiny", 71, chunks(1));
    let [one] = lab.start::<1>();
    held(&mut ask(&one, &model.name, Replicas::All).await.expect("it is on record")).await;
    lab.check_published(&model);
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_whose_answer_was_lost_is_asked_for_again_and_joined() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 24, chunks(1));
    let [one, two] = lab.start::<2>();
    lab.cluster.lose_answer();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let round = held(&mut watch).await.round;
    assert_eq!((round, lab.cluster.wish(&model.name).map(|wish| wish.round)), (1, Some(1)), "one round for both");
    lab.check_published(&model);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_on_record_counts_although_its_node_is_not_heard() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 23, chunks(2));
    lab.origin.set_limit(0);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until(&mut second, |progress| progress.digest.is_some()).await;
    two.end().await;
    lab.peers.unlink(TWO);
    lab.hold(&[TWO], &model);
    lab.origin.set_limit(u64::MAX);
    held(&mut watch).await;
    lab.world(ONE).check_published(&model);
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_window_keeps_no_other_pull_from_fetching() {
    let mut lab = Lab::new(2);
    let config = &mut lab.worlds[1].config;
    (config.limit_origin, config.pulls_max) = ("off".to_owned(), 1);
    let (far, near) = (lab.model("far", 21, chunks(2)), lab.model("near", 22, chunks(2)));
    let [one, two] = lab.start::<2>();
    let mut waiting = two.ask(&far.name).await.expect("it begins");
    let closed = Some(Wait::Window { until_minute: None });
    until(&mut waiting, |progress| progress.wait == closed).await;
    let mut watch = ask(&one, &near.name, Replicas::All).await.expect("it is on record");
    held(&mut watch).await;
    assert_eq!((waiting.now().wait.clone(), waiting.now().verified_bytes()), (closed, 0));
    assert!(two.handle.cancel(&far.name).await);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_put_on_record_is_fetched_all_the_same() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 6, chunks(1));
    lab.origin.fail_manifests([OriginTrouble::Busy { after_ms: Some(5_000) }]);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    lab.cluster.set_quorum(false);
    result(&mut pull_of(&one, &model.name).await).await.expect("it needs no quorum");
    assert_eq!(lab.cluster.wish(&model.name).expect("it is on record").digest, None);
    assert!(!watch.now().has_copy(), "nobody knows whether it is the right one");
    lab.cluster.set_quorum(true);
    held(&mut watch).await;
    lab.check_published(&model);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_is_forgotten_stops_and_keeps_what_came() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 7, chunks(3));
    lab.origin.set_limit(chunks(1));
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let mut first = pull_of(&one, &model.name).await;
    until_verified(&mut first, chunks(1)).await;
    assert_eq!(two.handle.forget(&model.name).await, Ok(true));
    assert_eq!(result(&mut first).await, Err(PullError::Cancelled));
    let second = result(&mut pull_of(&two, &model.name).await).await;
    assert_eq!(second, Err(PullError::Cancelled));
    assert_eq!(end(&mut watch).await.error(), Some(PullError::Cancelled));
    assert_eq!(two.handle.forget(&model.name).await, Ok(false));
    assert!(one.handle.overview(&model.name).is_none());
    for world in &lab.worlds {
        world.check_nothing_published();
        assert_eq!(world.jobs(), Vec::<String>::new());
    }

    lab.origin.set_limit(u64::MAX);
    held(&mut ask(&one, &model.name, Replicas::All).await.expect("it is on record")).await;
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(3), "what came was kept");
    lab.check_published(&model);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_moved_makes_a_round_of_the_new_version() {
    let lab = Lab::new(2);
    let old = lab.model("tiny", 8, chunks(1));
    let [one, two] = lab.start::<2>();
    held(&mut ask(&one, &old.name, Replicas::All).await.expect("it is on record")).await;
    lab.check_published(&old);
    lab.hold(&[ONE, TWO], &old);

    let new = lab.model("tiny", 9, chunks(2));
    let mut watch = ask(&two, &new.name, Replicas::All).await.expect("it is on record");
    assert_eq!(held(&mut watch).await.digest, Some(new.manifest.digest()));
    lab.check_published(&new);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_round_ends_the_work_of_the_one_before() {
    let lab = Lab::new(2);
    let old = lab.model("tiny", 10, chunks(4));
    lab.origin.set_limit(chunks(1));
    let [one, two] = lab.start::<2>();
    let mut early = ask(&one, &old.name, Replicas::All).await.expect("it is on record");
    let mut before = pull_of(&one, &old.name).await;
    until_verified(&mut before, chunks(1)).await;
    while early.now().digest.is_none() {
        assert!(timeout(LONG, early.changed()).await.expect("there are news"));
    }

    let new = lab.model("tiny", 11, chunks(2));
    let mut late = ask(&one, &new.name, Replicas::Nodes(vec![ONE, TWO])).await.expect("it is on record");
    assert_eq!(result(&mut before).await, Err(PullError::Cancelled), "what the new round made moot");
    lab.origin.set_limit(u64::MAX);
    let over = held(&mut late).await;
    assert_eq!(over.digest, Some(new.manifest.digest()));
    let seen = held(&mut early).await;
    assert_eq!((seen.round, seen.digest), (over.round, over.digest), "whoever asked before sees the new round");
    assert_eq!(lab.origin.sent(old.weights.sha256), chunks(1), "nobody fetches what nobody asks for");
    for world in &lab.worlds {
        let (_, stored) = world.store().manifest(&new.name).expect("readable").expect("it is published");
        assert_eq!(stored.bytes(), new.manifest.bytes());
    }
    end_all([one, two]).await;
}

/// It was put there by the runtime, so it is hashed first, although that would take days in the background.
#[tokio::test(start_paused = true)]
async fn what_a_node_has_is_spread_while_the_registry_is_away() {
    let mut lab = Lab::new(2);
    let model = lab.model("tiny", 12, chunks(2));
    let one = lab.start_one(ONE);
    one.pull(&model.name).await.expect("it comes");
    one.end().await;
    fs::remove_dir_all(lab.world(ONE).folder.path().join("data/transfer/trees")).expect("it is there");
    let rate = CHUNK_BYTES / (24 * 3_600);
    lab.worlds[0].config = Config { hash_bytes_per_second_max: rate, ..lab.worlds[0].config.clone() };
    lab.hold(&[ONE], &model);
    lab.origin.fail_manifests([OriginTrouble::Unreachable; 3]);

    let [one, two] = lab.start::<2>();
    let started = Instant::now();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let over = held(&mut watch).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let remarks: Vec<Option<&str>> = over.copies.iter().map(|copy| copy.progress.remark.as_deref()).collect();
    let told = remarks[0].expect("who asked the registry says so");
    let version = model.manifest.digest().short();
    let words = format!("the registry did not answer, so version {version} of nodes is spread: ");
    assert!(told.starts_with(&words), "{told}");
    assert!(remarks[1..].iter().all(Option::is_none), "{remarks:?}");
    lab.check_published(&model);
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(2), "only the first node has asked for it");
    assert_eq!(lab.origin.manifests_asked(), 4);
    end_all([one, two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_node_asks_for_is_hashed_next() {
    let mut lab = Lab::new(1);
    let model = lab.model("tiny", 15, chunks(2));
    let one = lab.start_one(ONE);
    one.pull(&model.name).await.expect("it comes");
    one.end().await;
    fs::remove_dir_all(lab.world(ONE).folder.path().join("data/transfer/trees")).expect("it is there");
    let rate = CHUNK_BYTES / (24 * 3_600);
    lab.worlds[0].config = Config { hash_bytes_per_second_max: rate, ..lab.worlds[0].config.clone() };
    let one = lab.start_one(ONE);
    let mut adopted = one.handle.adopted();
    timeout(LONG, adopted.wait_for(|adopted| adopted.scanned)).await.expect("in time").expect("it runs");
    let started = Instant::now();
    let hashes = async {
        loop {
            if let Some(hashes) = one.handle.hashes(model.weights.sha256).await {
                return hashes;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let (size_bytes, hashes) = timeout(LONG, hashes).await.expect("it is hashed");
    assert_eq!((size_bytes, hashes.len()), (chunks(2), 64));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_manifest_of_what_is_on_its_way_is_given_however_many_came_after_it() {
    let lab = Lab::new(1);
    let model = lab.model("tiny", 20, chunks(1));
    lab.origin.set_limit(0);
    let one = lab.start_one(ONE);
    let mut watch = one.ask(&model.name).await.expect("it begins");
    for number in 0..300 {
        // No disk has room for it.
        let sha256 = Digest([7; 32]);
        let layer = format!(r#"{{"mediaType":"x{number}","digest":"sha256:{sha256}","size":{}}}"#, 10_u64 << 40);
        let (other, text) = (name(&format!("other{number}")), format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#));
        lab.origin.put_manifest(other.clone(), text);
        let error = one.pull(&other).await.expect_err("it is too large");
        assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    }
    let given = one.handle.manifest(model.manifest.digest()).await;
    assert_eq!(given.as_deref(), Some(model.manifest.bytes()));
    assert!(one.handle.cancel(&model.name).await);
    assert_eq!(result(&mut watch).await, Err(PullError::Cancelled));
    one.end().await;
}

/// The cluster hears of the model before the pull has settled, and has nothing more to be done.
#[tokio::test(start_paused = true)]
async fn a_copy_is_put_on_record_although_nobody_waits_for_it() {
    let lab = Lab::new(1);
    let model = lab.model("tiny", 13, chunks(1));
    lab.world(ONE).runtime.set_known(false);
    let one = lab.start_one(ONE);
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut pull = pull_of(&one, &model.name).await;
    until(&mut pull, |progress| progress.stage == Stage::Settling).await;
    lab.hold(&[ONE], &model);
    result(&mut pull).await.expect("it is there");
    held(&mut watch).await;
    let ledger = lab.cluster.ledger(ONE);
    for blob in model.manifest.blobs() {
        assert_eq!(ledger.bound(blob.sha256).map(|bound| bound.size_bytes), Some(blob.size_bytes));
    }
    lab.check_published(&model);
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn below_the_version_that_knows_wishes_it_says_so() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 14, chunks(1));
    let [one, two] = lab.start::<2>();
    lab.cluster.set_version(3);
    let refused = ask(&one, &model.name, Replicas::Count(2)).await.expect_err("a member is too old");
    assert_eq!(refused, PullError::Ledger(LedgerError::NeedsVersion { needed: 4, actual: 3 }));
    assert_eq!(one.handle.forget(&model.name).await, Ok(false));
    assert!(one.handle.overview(&model.name).is_none() && one.handle.watch(&model.name).is_none());
    // One node alone pulls as ever.
    one.pull(&model.name).await.expect("it comes");
    lab.world(ONE).check_published(&model);
    end_all([one, two]).await;
}
