//! One node that fetches a file, and others that have it, over pipes: with faults, seeds and a paused clock.

use std::fs::File;
use std::future::pending;
use std::os::unix::fs::FileExt as _;

use prometheus::Registry;
use tokio::time::{interval, timeout};

use ollamax_blobs::chunk_hash;
use ollamax_core::catalog::Replicas;
use ollamax_types::{CHUNK_BYTES, Clock, Timestamp};

use crate::buffers::Buffers;
use crate::class::Class;
use crate::library::samples::Disk;
use crate::limits::Limits;
use crate::mem::{MemCluster, MemPeers, PeerFault};
use crate::ports::Ask;
use crate::progress::{Source, Stage, Wait};

use super::*;

mod quarantine;
mod told;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const LONG: Duration = Duration::from_secs(24 * 3_600);
const SEEDS: [u64; 3] = [1, 2, 3];

/// A node without the file, and nodes that have it.
struct World {
    own: Disk,
    holders: Vec<(NodeId, Disk)>,
    peers: MemPeers,
    cluster: MemCluster,
    metrics: Metrics,
    trust: Trusting,
    board: Arc<Board>,
    config: Config,
}

fn name() -> ModelName {
    "llama3.2".parse().expect("a name")
}

// === impl World ===

impl World {
    /// A file of so many chunks, the last of which is short, at these nodes.
    async fn new(chunks: u64, holders: &[NodeId]) -> Self {
        let own = Disk::new(chunks, chunks);
        let (peers, cluster) = (MemPeers::default(), MemCluster::new([ONE].into_iter().chain(holders.to_vec())));
        let holders: Vec<(NodeId, Disk)> = holders.iter().map(|node| (*node, Disk::of(own.bytes.clone()))).collect();
        for (node, disk) in &holders {
            disk.publish();
            peers.link_library(*node, disk.library.clone(), 16);
            cluster.hold(*node, &name(), Digest([1; 32]));
        }
        let ask = Ask {
            name: name(),
            replicas: Replicas::All,
            is_said: true,
            want: None,
            insecure: false,
            version: None,
            asked_by: "a test".to_owned(),
            once: None,
        };
        cluster.ledger(ONE).ask(ask).await.expect("it fits");
        let metrics = Metrics::default();
        let board = Arc::new(Board::new(name(), ONE, Stage::Fetching, metrics.clone()));
        let trust = Trusting::new(Arc::new(peers.clone()), Clock::system(), metrics.clone());
        Self { own, holders, peers, cluster, metrics, trust, board, config: Config::default() }
    }

    fn receiving(&self, seed: u64) -> Receiving {
        let peers: Arc<dyn Peers> = Arc::new(self.peers.clone());
        Receiving {
            name: name(),
            rank: 0,
            of: 1,
            ingester: TWO,
            own: ONE,
            others: Vec::new(),
            has_registry: false,
            part: self.own.part(),
            proof: Proof::Tree(self.own.tree()),
            links: Links::new(Arc::clone(&peers), Buffers::new(), self.metrics.clone(), &self.config),
            peers,
            ledger: Arc::new(self.cluster.ledger(ONE)),
            library: self.own.library.clone(),
            place: "/models".to_owned(),
            board: Arc::clone(&self.board),
            gate: self.gate("", &Clock::system()),
            metrics: self.metrics.clone(),
            trust: self.trust.clone(),
            seed,
        }
    }

    /// The same while no root is on record, from these nodes; the second one brings the file.
    fn hearing(&self, others: &[NodeId]) -> Receiving {
        let proof = Proof::Told(Told::new(self.own.spec));
        Receiving { others: others.to_vec(), proof, ..self.receiving(1) }
    }

    /// Makes a node reachable that has nothing of the file yet.
    fn join(&self, node: NodeId) -> (Disk, Part) {
        let disk = Disk::of(self.own.bytes.clone());
        self.peers.link_library(node, disk.library.clone(), 16);
        let part = disk.part();
        (disk, part)
    }

    /// What is there of the file.
    fn came(&self) -> Vec<u32> {
        self.own.part().have().runs().flatten().collect()
    }

    async fn until_came(&self, chunks: &[u32]) {
        let came = async {
            let mut looks = interval(Duration::from_millis(10));
            while self.came() != chunks {
                looks.tick().await;
            }
        };
        timeout(LONG, came).await.expect("they come");
    }

    /// Fetches with this until it ends, or until what happens beside it is over.
    async fn beside<T>(&self, receiving: Receiving, happens: impl Future<Output = T>) -> Result<T, PullError> {
        let mut fetched = Box::pin(timeout(LONG, receive(receiving, &self.config, Chaser::new())));
        tokio::select! {
            ended = &mut fetched => Err(ended.expect("in time").expect_err("it does not end by itself")),
            over = happens => Ok(over),
        }
    }

    /// What lets bytes pass under this limit. The clock's zero is a Monday.
    fn gate(&self, limit: &str, clock: &Clock) -> Gate {
        let config = Config { limit_receive: limit.to_owned(), ..Config::default() };
        let minute_of_week = |now: Timestamp| u32::try_from(now.0 / 60_000 % (7 * 1_440)).expect("a week has few");
        let strain = watch::Sender::new(false).subscribe();
        let limits = Limits::new(&config, clock.clone(), minute_of_week, strain, self.metrics.clone());
        limits.gate(Class::Receive, name(), Arc::clone(&self.board))
    }

    async fn try_receive(&self, seed: u64) -> Result<Digest, PullError> {
        self.try_receive_behind(seed, Chaser::new()).await
    }

    async fn try_receive_behind(&self, seed: u64, chaser: Chaser) -> Result<Digest, PullError> {
        let fetched = Box::pin(receive(self.receiving(seed), &self.config, chaser));
        timeout(LONG, fetched).await.expect("it ends")
    }

    /// The file comes, and is what its name says.
    async fn receive(&self, seed: u64) {
        let digest = self.try_receive(seed).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(digest, self.own.spec.sha256, "seed {seed}");
        let part = self.own.part();
        part.seal(digest).expect("it is whole");
        let mut chunk = Vec::new();
        for index in 0..self.own.chunks() {
            part.read(index, &mut chunk).expect("it is there");
            assert!(chunk == self.own.chunk(index), "seed {seed}, chunk {index}");
        }
    }

    fn holder(&self, node: NodeId) -> &Disk {
        let found = self.holders.iter().find(|(holder, _)| *holder == node);
        &found.expect("it is one of them").1
    }

    /// What a metric shows, all labels together.
    fn metric(&self, name: &str) -> f64 {
        let registry = Registry::new();
        self.metrics.register(&registry).expect("an empty registry");
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| family.get_metric().iter().map(|metric| metric.get_counter().value()).sum())
    }
}

/// Chunks arrive at a node, as if from a registry.
fn arrive(disk: &Disk, part: &Part, chunks: impl IntoIterator<Item = u32>) {
    chunks.into_iter().for_each(|index| disk.write(part, index));
    disk.library.stir();
}

#[tokio::test(start_paused = true)]
async fn a_file_comes_from_those_who_have_it_and_it_is_told_from_whom() {
    for seed in SEEDS {
        let world = World::new(9, &[TWO, THREE]).await;
        world.receive(seed).await;
        let size = world.own.spec.size_bytes;
        let sent = [TWO, THREE].map(|node| world.peers.sent_bytes(node));
        assert!(sent[0] + sent[1] >= size, "{sent:?}");
        world.board.refresh();
        let told = world.board.now();
        let of = |node| told.sources.iter().find(|told| told.source == Source::Node(node)).map_or(0, |told| told.bytes);
        let came = [of(TWO), of(THREE)];
        assert!(came[0] + came[1] >= size && came[0] <= sent[0] && came[1] <= sent[1], "{came:?} of {sent:?}");
        assert_eq!(world.metric("ollamax_transfer_peer_strikes_total"), 0.0);
        assert_eq!([TWO, THREE].map(|node| world.peers.connections(node)), [1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_already_is_not_asked_for() {
    let world = World::new(5, &[TWO]).await;
    let part = world.own.part();
    for index in [0, 1, 3] {
        world.own.write(&part, index);
    }
    world.receive(1).await;
    let missing = (world.own.chunk(2).len() + world.own.chunk(4).len()) as u64;
    assert_eq!(world.peers.sent_bytes(TWO), missing);
}

#[tokio::test(start_paused = true)]
async fn a_lying_peer_is_left_and_the_file_is_whole() {
    for seed in SEEDS {
        let world = World::new(12, &[TWO, THREE]).await;
        world.peers.set_fault(TWO, Some(PeerFault::LyingChunks));
        world.receive(seed).await;
        let strikes = world.metric("ollamax_transfer_peer_strikes_total");
        assert!(strikes >= 1.0, "seed {seed}: nothing was noticed");
        assert!(world.peers.sent_bytes(THREE) >= world.own.spec.size_bytes, "seed {seed}: a lie was taken");
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_lie_nothing_is_written_and_they_are_named() {
    let world = World::new(8, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::LyingChunks));
    let error = world.try_receive(1).await.expect_err("nobody has it");
    let PullError::Peers { blob, text } = error else { panic!("{error}") };
    assert_eq!(blob, world.own.spec.sha256.short());
    assert_eq!(text, "node 2 sent 3 damaged chunks");
    assert_eq!(world.own.part().have().ones(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_costs_only_its_open_asks() {
    for seed in SEEDS {
        let world = World::new(24, &[TWO, THREE]).await;
        world.peers.set_fault(TWO, Some(PeerFault::VanishAfter(5 * CHUNK_BYTES)));
        world.receive(seed).await;
        let came = world.metric("ollamax_transfer_received_bytes_total");
        // What came of an open request and was not whole, or was asked for twice at the end.
        let spare = 8 * CHUNK_BYTES;
        assert!(came <= (world.own.spec.size_bytes + spare) as f64, "seed {seed}: {came}");
        assert!(world.peers.sent_bytes(THREE) <= world.own.spec.size_bytes + spare, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_may_vanish() {
    let world = World::new(6, &[TWO, THREE]).await;
    world.cluster.set_quorum(false);
    world.receive(1).await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_cut_are_opened_again() {
    let world = World::new(6, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::Silent));
    let later = async {
        sleep(Duration::from_secs(100)).await;
        world.peers.set_fault(TWO, None);
        world.peers.cut(TWO);
        pending::<()>().await;
    };
    tokio::select! {
        () = world.receive(1) => {}
        () = later => {}
    }
    assert!(world.peers.connections(TWO) >= 2);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_waited_for_only_so_long() {
    let world = World::new(3, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::Silent));
    let begun = Instant::now();
    let error = world.try_receive(1).await.expect_err("it says nothing");
    let PullError::Silent { silence, last, .. } = error else { panic!("{error}") };
    assert_eq!((silence.as_secs(), last.as_str()), (300, "node 2: no connection within 30 s"));
    assert!(begun.elapsed() <= Duration::from_secs(301), "{:?}", begun.elapsed());
    let world = World::new(3, &[TWO]).await;
    world.peers.unlink(TWO);
    let error = world.try_receive(1).await.expect_err("it is not there");
    assert!(error.to_string().ends_with("nothing came for 300 s; last: node 2: no connection"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_with_what_it_had_is_no_news() {
    for (fault, reason) in [(PeerFault::Deaf, "node 2: nothing came for 30 s"), (PeerFault::Busy, "node 2: it is busy")]
    {
        let world = World::new(3, &[TWO]).await;
        world.peers.set_fault(TWO, Some(fault));
        let begun = Instant::now();
        let error = world.try_receive(1).await.expect_err("it gives nothing");
        let PullError::Silent { last, .. } = error else { panic!("{error}") };
        assert_eq!(last, reason, "{fault:?}");
        assert!(begun.elapsed() <= Duration::from_secs(302), "{fault:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_no_plan_names_are_asked_as_well() {
    let world = World::new(3, &[TWO]).await;
    assert_eq!(world.cluster.ledger(ONE).forget(name()).await, Ok(true));
    let receiving = Receiving { others: vec![ONE, TWO], ..world.receiving(1) };
    let fetched = Box::pin(receive(receiving, &world.config, Chaser::new()));
    assert_eq!(timeout(LONG, fetched).await.expect("it ends"), Ok(world.own.spec.sha256));
}

#[tokio::test(start_paused = true)]
async fn who_is_busy_is_asked_again() {
    let world = World::new(4, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::Busy));
    let later = async {
        sleep(Duration::from_secs(20)).await;
        world.peers.set_fault(TWO, None);
        world.peers.cut(TWO);
        pending::<()>().await;
    };
    let begun = Instant::now();
    tokio::select! {
        () = world.receive(1) => {}
        () = later => {}
    }
    assert!(begun.elapsed() >= Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_hands_out_nothing_at_this_time_is_waited_for() {
    let world = World::new(3, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::Closed));
    let closed_for = Duration::from_secs(1_000);
    let later = async {
        sleep(closed_for).await;
        world.peers.set_fault(TWO, None);
        world.peers.cut(TWO);
        pending::<()>().await;
    };
    let begun = Instant::now();
    tokio::select! {
        () = world.receive(1) => {}
        () = later => {}
    }
    assert!(begun.elapsed() >= closed_for, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_hands_out_nothing_at_this_time_is_not_waited_for_where_the_registry_has_it() {
    let world = World::new(3, &[TWO]).await;
    world.peers.set_fault(TWO, Some(PeerFault::Closed));
    let receiving = Receiving { has_registry: true, ..world.receiving(1) };
    let begun = Instant::now();
    let fetched = Box::pin(receive(receiving, &world.config, Chaser::new()));
    let error = timeout(LONG, fetched).await.expect("it ends").expect_err("it gives nothing");
    let PullError::Silent { last, .. } = &error else { panic!("{error}") };
    assert_eq!(last, "node 2: it hands out nothing at this time");
    assert_eq!(error.code(), ErrorCode::OriginFailed, "then the registry is asked");
    assert!(begun.elapsed() <= Duration::from_secs(302), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_limit_of_this_node_keeps_back_is_no_silence() {
    let world = World::new(12, &[TWO, THREE]).await;
    // A chunk takes 64 seconds: eleven of them are longer than any silence, and the first is on credit.
    let gate = world.gate("64KiB/s", &Clock::system());
    let begun = Instant::now();
    let fetched = Box::pin(receive(Receiving { gate, ..world.receiving(1) }, &world.config, Chaser::new()));
    assert_eq!(timeout(LONG, fetched).await.expect("it ends"), Ok(world.own.spec.sha256));
    assert!(begun.elapsed() > Duration::from_secs(10 * 64 - 70), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_time_in_which_nothing_may_come_passes_and_links_may_end_meanwhile() {
    let world = World::new(3, &[TWO]).await;
    let clock = Clock::manual(Timestamp(12 * 3_600_000));
    let gate = world.gate("mon 08:00-18:00 off", &clock);
    // Longer than any silence, and than a link stays that nobody uses.
    let closed_for = Duration::from_secs(1_500);
    let later = async {
        sleep(closed_for).await;
        let until_minute = Some(18 * 60);
        assert_eq!(world.board.now().wait.clone(), Some(Wait::Window { until_minute }));
        clock.advance_ms(6 * 3_600_000);
        pending::<()>().await;
    };
    let begun = Instant::now();
    let fetched = Box::pin(receive(Receiving { gate, ..world.receiving(1) }, &world.config, Chaser::new()));
    tokio::select! {
        fetched = timeout(LONG, fetched) => assert_eq!(fetched.expect("it ends"), Ok(world.own.spec.sha256)),
        () = later => {}
    }
    assert!(begun.elapsed() >= closed_for, "{:?}", begun.elapsed());
    let moved = world.metric("ollamax_transfer_moved_bytes_total");
    assert!(moved <= 2.0 * world.own.spec.size_bytes as f64, "{moved} bytes were let pass");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_limit_comes_once_although_its_node_was_left_meanwhile() {
    let world = World::new(3, &[TWO]).await;
    let clock = Clock::manual(Timestamp(12 * 3_600_000));
    let gate = world.gate("mon 08:00-18:00 off", &clock);
    let later = async {
        for _ in 0..20 {
            sleep(Duration::from_secs(60)).await;
            world.peers.hush(TWO);
        }
        sleep(Duration::from_secs(60)).await;
        clock.advance_ms(6 * 3_600_000);
        pending::<()>().await;
    };
    let fetched = Box::pin(receive(Receiving { gate, ..world.receiving(1) }, &world.config, Chaser::new()));
    tokio::select! {
        fetched = timeout(LONG, fetched) => assert_eq!(fetched.expect("it ends"), Ok(world.own.spec.sha256)),
        () = later => {}
    }
    let moved = world.metric("ollamax_transfer_moved_bytes_total");
    assert!(moved <= 2.0 * world.own.spec.size_bytes as f64, "{moved} bytes were let pass");
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_on_a_peers_disk_is_found_there_and_the_chunk_comes_from_elsewhere() {
    for seed in SEEDS {
        let world = World::new(6, &[TWO, THREE]).await;
        let holder = world.holder(TWO);
        let mut damaged = holder.bytes.clone();
        damaged[usize::try_from(2 * CHUNK_BYTES).expect("small") + 7] ^= 0x20;
        holder.publish_as(&damaged);
        world.receive(seed).await;
        assert_eq!(world.metric("ollamax_transfer_peer_strikes_total"), 0.0, "seed {seed}: it did not leave the node");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_own_disk_damaged_is_fetched_again() {
    let world = World::new(4, &[TWO]).await;
    let part = world.own.part();
    world.own.write(&part, 0);
    world.own.write(&part, 1);
    let data = world.own.data_path();
    let file = File::options().write(true).open(data).expect("ours");
    file.write_all_at(b"damaged", CHUNK_BYTES + 3).expect("there is room");
    world.receive(1).await;
    assert_eq!(world.metric("ollamax_transfer_chunks_damaged_total"), 1.0);
    let came = (world.own.spec.size_bytes - CHUNK_BYTES) as f64;
    assert!(world.metric("ollamax_transfer_received_bytes_total") >= came);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_came_wrong_from_elsewhere_is_fetched_again_though_its_hash_was_noted() {
    let world = World::new(4, &[TWO]).await;
    let part = world.own.part();
    world.own.write(&part, 0);
    let mut other = world.own.chunk(1).to_vec();
    other[5] ^= 1;
    part.write(1, &other, chunk_hash(world.own.spec.size_bytes, 1, &other)).expect("there is room");
    let mut chaser = Chaser::new();
    for index in [0, 1] {
        assert!(chaser.take(&part, index).expect("readable"), "it is what was written");
    }
    assert_eq!(world.try_receive_behind(1, chaser).await, Ok(world.own.spec.sha256));
    part.seal(world.own.spec.sha256).expect("it is whole");
    assert_eq!(part.tree().expect("it is whole"), world.own.tree());
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_offered_to_others_while_the_rest_is_missing() {
    let world = World::new(5, &[TWO]).await;
    let part = world.own.part();
    world.own.write(&part, 3);
    world.peers.set_fault(TWO, Some(PeerFault::Silent));
    let fetching = world.try_receive(1);
    let looking = async {
        sleep(Duration::from_secs(1)).await;
        let mut chunk = Vec::new();
        world.own.library.read(world.own.spec.sha256, 3, &mut chunk).expect("it is offered");
        chunk
    };
    let chunk = tokio::select! {
        ended = fetching => panic!("{ended:?}"),
        chunk = looking => chunk,
    };
    assert!(chunk == world.own.chunk(3));
    assert_eq!(world.own.library.held(world.own.spec.sha256), None, "and not longer");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_disk_damaged_before_it_was_heard_of_is_missing() {
    let world = World::new(3, &[TWO]).await;
    let (news, _inbox) = mpsc::channel(NEWS_MAX);
    let shared = Arc::new(Shared::new(world.receiving(1), world.config.patience(), news));
    let mut conduct = Conduct::new(shared, &world.config);
    let came = || News::Came { peer: TWO, request: 1, index: 1 };
    conduct.take(News::Lost { index: 1 });
    conduct.take(came());
    assert!(!conduct.swarm.have().get(1), "nobody would fetch it again");
    assert_eq!(conduct.verified_bytes, 0);
    world.own.write(&world.own.part(), 1);
    conduct.take(came());
    assert!(conduct.swarm.have().get(1));
    assert_eq!(conduct.verified_bytes, CHUNK_BYTES);
    conduct.take(News::Lost { index: 1 });
    assert_eq!((conduct.swarm.have().get(1), conduct.verified_bytes), (false, 0));
}

/// Time goes on while a thread hashes, as it does on a slow machine with a large file.
#[tokio::test(start_paused = true)]
async fn hashing_for_longer_than_the_silence_ends_no_pull() {
    let world = World::new(6, &[TWO]).await;
    let part = world.own.part();
    (0..world.own.chunks()).for_each(|index| world.own.write(&part, index));
    let silence = Duration::from_millis(world.config.silence_ms);
    let mut hashed = Box::pin(receive(world.receiving(1), &world.config, Chaser::new()));
    let mut silences = 0;
    let digest = loop {
        tokio::select! {
            biased;
            ended = &mut hashed => break ended.expect("nothing is missing"),
            () = tokio::time::advance(silence) => silences += 1,
        }
    };
    assert_eq!(digest, world.own.spec.sha256);
    assert!(silences > 1, "it took no time");
}
