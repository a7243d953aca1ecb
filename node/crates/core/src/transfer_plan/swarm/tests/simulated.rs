//! A world of nodes with equal links, under a clock that is moved by hand: how long a swarm takes, and who sends what.
//!
//! A node sends one chunk at a time, to those who asked it in turn, and receives one at a time. Words take a moment,
//! and what a node has is told a little later. The world is decided by its spec alone.

use std::collections::VecDeque;

use crate::transfer_plan::swarm::*;

const CHUNK_MS: u64 = 8;
const WORD_MS: u64 = 1;
const HAVE_MS: u64 = 50;
const TICK_MS: u64 = 100;
/// From the end of a link to the next one.
const RELINK_MS: u64 = 150;
/// Requests that a node serves at once; others are told that it is busy.
const PLACES: usize = 16;
const INGESTER: NodeId = NodeId(1);

/// The first nodes have the file, the others fetch it.
#[derive(Clone, Copy)]
struct Spec {
    nodes: u64,
    holders: u64,
    chunks: u32,
    seed: u64,
    rules: Rules,
    /// This node takes so long for a chunk.
    slow: Option<(u64, u64)>,
    /// What this node sends is damaged.
    liar: Option<u64>,
    /// This node vanishes at that moment.
    vanishes: Option<(u64, u64)>,
    /// Whoever has all of it breaks off, and is linked anew a little later.
    relinks: bool,
    /// The first node gets the file while the others fetch it: a chunk in so many milliseconds.
    origin: Option<u64>,
}

#[derive(Clone, Copy)]
enum Happening {
    Tick { at: NodeId },
    Told { to: NodeId, event: Event },
    Asked { of: NodeId, by: NodeId, request: u64, extent: Extent },
    Cancelled { by: NodeId, request: u64 },
    Sent { by: NodeId },
    Came { to: NodeId, from: NodeId, request: u64, index: u32 },
    Vanishes { node: NodeId },
}

/// What a node sends.
#[derive(Default)]
struct Uplink {
    is_sending: bool,
    turns: VecDeque<Turn>,
    sent: u32,
}

struct Turn {
    to: NodeId,
    request: u64,
    left: VecDeque<u32>,
}

struct World {
    spec: Spec,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    swarms: BTreeMap<NodeId, Swarm>,
    uplinks: BTreeMap<NodeId, Uplink>,
    /// When a node has received all that was sent to it.
    received_ms: BTreeMap<NodeId, u64>,
    done_ms: BTreeMap<NodeId, u64>,
    asked: BTreeMap<(NodeId, u32), u32>,
    trace: Vec<(u64, NodeId, Action)>,
    /// Chunks that were asked for while another request expected them.
    stolen: u32,
    /// Chunks that were asked for again while no request expected them.
    again: u32,
    /// Chunks that were expected of the node that vanished.
    lost: u32,
}

/// Only what is stolen is asked for twice.
fn no_endgame() -> Rules {
    Rules { endgame_percent: 0, ..Rules::default() }
}

// === impl Spec ===

impl Spec {
    fn new(nodes: u64, chunks: u32, seed: u64) -> Self {
        let (holders, rules) = (1, Rules::default());
        Self {
            nodes,
            holders,
            chunks,
            seed,
            rules,
            slow: None,
            liar: None,
            vanishes: None,
            relinks: false,
            origin: None,
        }
    }

    fn receivers(&self) -> impl Iterator<Item = NodeId> + use<> {
        (self.holders + 1..=self.nodes).map(NodeId)
    }

    fn run(self) -> World {
        println!("{} nodes, {} chunks, seed {}", self.nodes, self.chunks, self.seed);
        let mut world = World::new(self);
        world.run();
        world
    }
}

// === impl World ===

impl World {
    fn new(spec: Spec) -> Self {
        let of = u32::try_from(spec.nodes - spec.holders).expect("few");
        let swarms = spec.receivers().zip(0..).map(|(node, rank)| {
            let stripe = Stripe { rank, of, ingester: INGESTER };
            (node, Swarm::new(spec.rules, node, stripe, Bits::new(spec.chunks), spec.seed, 0))
        });
        Self {
            spec,
            now_ms: 0,
            queue: BTreeMap::new(),
            queued: 0,
            swarms: swarms.collect(),
            uplinks: (1..=spec.nodes).map(|node| (NodeId(node), Uplink::default())).collect(),
            received_ms: BTreeMap::new(),
            done_ms: BTreeMap::new(),
            asked: BTreeMap::new(),
            trace: Vec::new(),
            stolen: 0,
            again: 0,
            lost: 0,
        }
    }

    fn run(&mut self) {
        if let Some((node, at_ms)) = self.spec.vanishes {
            self.at(at_ms, Happening::Vanishes { node: NodeId(node) });
        }
        for node in self.spec.receivers() {
            for peer in (1..=self.spec.nodes).map(NodeId).filter(|peer| *peer != node) {
                self.apply(node, Event::Joined { peer });
            }
            if let Some(chunk_ms) = self.spec.origin {
                self.comes_from_outside(node, chunk_ms);
            } else {
                for peer in (1..=self.spec.holders).map(NodeId) {
                    self.apply(node, Event::Has { peer, extent: Extent { first: 0, count: self.spec.chunks } });
                }
            }
            self.at(TICK_MS, Happening::Tick { at: node });
        }
        let limit_ms = 100 * u64::from(self.spec.chunks) * CHUNK_MS;
        while self.swarms.keys().any(|node| !self.done_ms.contains_key(node)) {
            let ((now_ms, _), happening) = self.queue.pop_first().expect("ticks never end");
            assert!(now_ms < limit_ms, "a chunk does not arrive");
            self.now_ms = now_ms;
            self.happen(happening);
        }
    }

    /// A node hears of each chunk a little after the first node has it.
    fn comes_from_outside(&mut self, to: NodeId, chunk_ms: u64) {
        for first in 0..self.spec.chunks {
            let event = Event::Has { peer: INGESTER, extent: Extent { first, count: 1 } };
            self.at(u64::from(first + 1) * chunk_ms + HAVE_MS, Happening::Told { to, event });
        }
    }

    fn at(&mut self, at_ms: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at_ms, self.queued), happening);
    }

    fn after(&mut self, wait_ms: u64, happening: Happening) {
        self.at(self.now_ms + wait_ms, happening);
    }

    fn apply(&mut self, node: NodeId, event: Event) {
        let Some(swarm) = self.swarms.get_mut(&node) else { return };
        for action in swarm.apply(self.now_ms, event) {
            self.trace.push((self.now_ms, node, action));
            self.perform(node, action);
        }
    }

    fn perform(&mut self, node: NodeId, action: Action) {
        match action {
            Action::Ask { request, peer, extent } => {
                extent.chunks().for_each(|index| self.count(node, index));
                self.after(WORD_MS, Happening::Asked { of: peer, by: node, request, extent });
            }
            Action::Cancel { request } => self.after(WORD_MS, Happening::Cancelled { by: node, request }),
            Action::Complete => {
                self.done_ms.insert(node, self.now_ms);
                if self.spec.relinks {
                    self.relink(node);
                }
            }
            Action::Distrust { peer } => assert_eq!(Some(peer.0), self.spec.liar),
            Action::Stuck => panic!("{node} is stuck at {} ms", self.now_ms),
        }
    }

    /// The others hear of it as a whole when it is linked again, and not of its last chunks before.
    fn relink(&mut self, node: NodeId) {
        let whole = Event::Has { peer: node, extent: Extent { first: 0, count: self.spec.chunks } };
        let others: Vec<NodeId> = self.spec.receivers().filter(|other| *other != node).collect();
        for to in others {
            self.after(WORD_MS, Happening::Told { to, event: Event::Gone { peer: node } });
            for event in [Event::Joined { peer: node }, whole] {
                self.after(RELINK_MS, Happening::Told { to, event });
            }
        }
    }

    /// Whether this is news of a part of what somebody has all of, who is linked anew.
    fn is_lost(&self, event: &Event) -> bool {
        let Event::Has { peer, extent } = event else { return false };
        self.spec.relinks && self.done_ms.contains_key(peer) && extent.count < self.spec.chunks
    }

    fn count(&mut self, node: NodeId, index: u32) {
        let expecting = self.swarms[&node].requests.of_chunk(index).len();
        let times = self.asked.entry((node, index)).or_default();
        *times += 1;
        if expecting > 1 {
            self.stolen += 1;
        } else if *times > 1 {
            self.again += 1;
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { at } => {
                self.apply(at, Event::Tick);
                self.after(TICK_MS, Happening::Tick { at });
            }
            Happening::Told { event: Event::Has { peer, .. }, .. } if !self.uplinks.contains_key(&peer) => {}
            Happening::Told { event, .. } if self.is_lost(&event) => {}
            Happening::Told { to, event } => self.apply(to, event),
            Happening::Asked { of, by, request, extent } => self.asked(of, by, request, extent),
            Happening::Cancelled { by, request } => {
                let uplinks = self.uplinks.values_mut();
                uplinks.for_each(|uplink| uplink.turns.retain(|turn| (turn.to, turn.request) != (by, request)));
            }
            Happening::Sent { by } => self.sent(by),
            Happening::Came { to, from, request, index } => self.came(to, from, request, index),
            Happening::Vanishes { node } => self.vanish(node),
        }
    }

    fn asked(&mut self, of: NodeId, by: NodeId, request: u64, extent: Extent) {
        let Some(uplink) = self.uplinks.get_mut(&of) else { return };
        if uplink.turns.len() >= PLACES {
            self.after(WORD_MS, Happening::Told { to: by, event: Event::Busy { request } });
            return;
        }
        uplink.turns.push_back(Turn { to: by, request, left: extent.chunks().collect() });
        self.send(of);
    }

    fn send(&mut self, by: NodeId) {
        let slow_ms = self.spec.slow.filter(|(node, _)| *node == by.0).map(|(_, chunk_ms)| chunk_ms);
        let Some(uplink) = self.uplinks.get_mut(&by) else { return };
        if !uplink.is_sending && !uplink.turns.is_empty() {
            uplink.is_sending = true;
            self.after(slow_ms.unwrap_or(CHUNK_MS), Happening::Sent { by });
        }
    }

    fn sent(&mut self, by: NodeId) {
        let Some(uplink) = self.uplinks.get_mut(&by) else { return };
        uplink.is_sending = false;
        let Some(mut turn) = uplink.turns.pop_front() else { return };
        let index = turn.left.pop_front().expect("a turn has chunks");
        uplink.sent += 1;
        let (to, request, is_last) = (turn.to, turn.request, turn.left.is_empty());
        if !is_last {
            uplink.turns.push_back(turn);
        }
        let received_ms = self.received_ms.entry(to).or_default();
        let came_ms = self.now_ms.max(*received_ms + CHUNK_MS);
        *received_ms = came_ms;
        self.at(came_ms, Happening::Came { to, from: by, request, index });
        if is_last {
            self.at(came_ms, Happening::Told { to, event: Event::Ended { request } });
        }
        self.send(by);
    }

    fn came(&mut self, to: NodeId, from: NodeId, request: u64, index: u32) {
        if !self.uplinks.contains_key(&from) {
            return;
        }
        if self.spec.liar == Some(from.0) {
            self.apply(to, Event::Damaged { request, index });
            return;
        }
        self.apply(to, Event::Arrived { request, index });
        let others: Vec<NodeId> = self.spec.receivers().filter(|node| *node != to).collect();
        for other in others {
            let event = Event::Has { peer: to, extent: Extent { first: index, count: 1 } };
            self.after(HAVE_MS, Happening::Told { to: other, event });
        }
    }

    fn vanish(&mut self, node: NodeId) {
        let expected = self.swarms.values().filter_map(|swarm| swarm.peers.get(&node)).map(|peer| peer.expected);
        self.lost = expected.sum();
        self.swarms.remove(&node);
        self.uplinks.remove(&node);
        self.uplinks.values_mut().for_each(|uplink| uplink.turns.retain(|turn| turn.to != node));
        for other in self.spec.receivers() {
            self.apply(other, Event::Gone { peer: node });
        }
    }

    /// When the last node had all of it, percent of the time that one copy takes.
    fn makespan_percent(&self) -> u64 {
        let last_ms = self.done_ms.values().max().copied().expect("somebody is done");
        last_ms * 100 / (u64::from(self.spec.chunks) * CHUNK_MS)
    }

    /// What a node sent, percent of the file.
    fn sent_percent(&self, node: NodeId) -> u64 {
        u64::from(self.uplinks[&node].sent) * 100 / u64::from(self.spec.chunks)
    }

    fn is_everywhere_whole(&self) -> bool {
        !self.swarms.is_empty() && self.swarms.values().all(|swarm| swarm.have().is_full())
    }
}

#[test]
fn a_swarm_takes_little_longer_than_one_copy_and_the_source_sends_everything_once() {
    for nodes in [2, 3, 4, 8, 9] {
        for (chunks, seed) in [(200, 1), (700, 2), (1_500, 3)] {
            let world = Spec::new(nodes, chunks, seed).run();
            assert!(world.is_everywhere_whole());
            let numbers = (world.makespan_percent(), world.sent_percent(INGESTER));
            assert!(numbers.0 <= 110 && numbers.1 <= 115, "{nodes} nodes, {chunks} chunks: {numbers:?}");
        }
    }
}

#[test]
fn who_is_done_and_linked_anew_is_asked_for_what_it_brought() {
    for nodes in [3, 5, 7, 9] {
        for (chunks, seed) in [(200, 1), (700, 2)] {
            let world = Spec { relinks: true, ..Spec::new(nodes, chunks, seed) }.run();
            assert!(world.is_everywhere_whole());
            let numbers = (world.makespan_percent(), world.sent_percent(INGESTER));
            assert!(numbers.0 <= 130 && numbers.1 <= 115, "{nodes} nodes, {chunks} chunks: {numbers:?}");
        }
    }
}

#[test]
fn no_chunk_is_asked_for_twice_where_nobody_is_late_and_there_is_no_endgame() {
    for (nodes, chunks) in [(3, 700), (8, 200), (8, 700)] {
        let world = Spec { rules: no_endgame(), ..Spec::new(nodes, chunks, 1) }.run();
        assert_eq!((world.again, world.stolen), (0, 0), "{nodes} nodes, {chunks} chunks");
    }
}

#[test]
fn in_the_endgame_a_chunk_is_asked_for_twice_and_never_more_often() {
    let world = Spec::new(12, 700, 1).run();
    assert!(world.stolen > 0 && world.again == 0, "{} {}", world.stolen, world.again);
    assert!(world.asked.values().all(|times| *times <= 2));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let spec = Spec { holders: 3, ..Spec::new(6, 200, 9) };
    assert_eq!(spec.run().trace, spec.run().trace);
    let other = Spec { seed: 10, ..spec }.run();
    assert!(other.trace != spec.run().trace, "chance decides nothing");
}

#[test]
fn what_a_slow_peer_is_asked_for_is_stolen_from_it() {
    for slow in [(2, 160), (2, 2_000)] {
        let world = Spec { holders: 4, slow: Some(slow), rules: no_endgame(), ..Spec::new(5, 300, 1) }.run();
        assert!(world.stolen > 0 && world.is_everywhere_whole());
        let percent = world.makespan_percent();
        assert!(percent <= 130, "{slow:?}: {percent}");
    }
}

#[test]
fn a_node_with_a_slow_uplink_does_not_hold_up_the_swarm() {
    // Alone with its own uplink it would take five times as long.
    let two = Spec { slow: Some((2, 80)), ..Spec::new(3, 500, 1) }.run();
    let (makespan, sent) = (two.makespan_percent(), two.sent_percent(INGESTER));
    assert!(makespan <= 220 && sent <= 200, "{makespan} {sent}");
    let eight = Spec { slow: Some((3, 80)), ..Spec::new(8, 500, 1) }.run();
    let (makespan, sent) = (eight.makespan_percent(), eight.sent_percent(INGESTER));
    assert!(makespan <= 135 && sent <= 115, "{makespan} {sent}");
}

#[test]
fn a_linked_node_that_never_answers_does_not_hold_up_the_others() {
    // It is served as all are, but not within the time of this world. The others are done before.
    let mut world = World::new(Spec { slow: Some((3, 1_000_000)), ..Spec::new(8, 500, 1) });
    world.run();
    let makespan = world.makespan_percent();
    assert!(world.is_everywhere_whole() && makespan <= 160, "{makespan}");
}

#[test]
fn a_lying_peer_is_distrusted_and_the_file_is_whole() {
    for (nodes, holders, liar) in [(4, 2, 2), (5, 1, 3)] {
        let world = Spec { holders, liar: Some(liar), rules: no_endgame(), ..Spec::new(nodes, 300, 1) }.run();
        assert!(world.is_everywhere_whole());
        for (node, swarm) in world.swarms.iter().filter(|(node, _)| node.0 != liar) {
            let strikes: Vec<(NodeId, u32)> = swarm.strikes().collect();
            assert_eq!(strikes, [(NodeId(liar), 3)], "{node}");
        }
    }
}

#[test]
fn a_vanished_peer_costs_only_what_it_was_asked_for() {
    for at_ms in [100, 700, 1_200, 2_000] {
        let world = Spec { vanishes: Some((3, at_ms)), rules: no_endgame(), ..Spec::new(5, 300, 1) }.run();
        assert!(world.is_everywhere_whole() && world.makespan_percent() <= 150, "{}", world.makespan_percent());
        assert!(world.again <= world.lost, "{at_ms}: {} of {}", world.again, world.lost);
    }
}

#[test]
fn the_ingester_may_vanish_when_another_node_has_the_file() {
    let world = Spec { holders: 2, vanishes: Some((1, 1_200)), rules: no_endgame(), ..Spec::new(5, 300, 1) }.run();
    assert!(world.is_everywhere_whole() && world.again <= world.lost, "{} of {}", world.again, world.lost);
}

#[test]
fn many_sources_share_a_large_file() {
    let world = Spec { holders: 63, ..Spec::new(64, 10_000, 1) }.run();
    assert!(world.is_everywhere_whole());
    let most = (1..=63).map(|node| world.sent_percent(NodeId(node))).max();
    assert!(world.makespan_percent() <= 115 && most <= Some(5), "{} {most:?}", world.makespan_percent());
}

/// How long after the first node the last one has all of a file that comes from outside at a quarter of the link.
fn lag_ms(spec: Spec) -> (World, u64) {
    let chunk_ms = 4 * CHUNK_MS;
    let world = Spec { origin: Some(chunk_ms), ..spec }.run();
    let last_ms = world.done_ms.values().max().copied().expect("somebody is done");
    let lag_ms = last_ms.saturating_sub(u64::from(spec.chunks) * chunk_ms);
    (world, lag_ms)
}

#[test]
fn while_the_file_comes_into_the_swarm_the_others_follow_and_each_chunk_is_sent_once() {
    for nodes in [2, 3, 4, 8] {
        let (world, lag_ms) = lag_ms(Spec::new(nodes, 200, 1));
        assert!(world.is_everywhere_whole());
        let sent = world.sent_percent(INGESTER);
        assert!(lag_ms <= 3_000 && sent <= 110, "{nodes} nodes: {lag_ms} ms, {sent} percent");
    }
}

#[test]
fn while_the_file_comes_into_the_swarm_the_stripe_of_a_node_that_vanished_comes_too() {
    let (world, lag_ms) = lag_ms(Spec { vanishes: Some((3, 1_000)), rules: no_endgame(), ..Spec::new(4, 200, 1) });
    assert!(world.is_everywhere_whole() && lag_ms <= 3_000, "{lag_ms} ms");
}
