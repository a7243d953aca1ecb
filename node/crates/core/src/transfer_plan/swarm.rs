//! Many places have parts of one file: what to ask of whom.
//!
//! Always holds: a chunk that is there is not asked for, and one that is on its way is asked for again only where it is
//! late or among the last; then twice at most. Chunks come in a window behind what is there without a gap, the rarest
//! first, so that the hash can follow. Where several nodes fetch, each asks the sources for its own stripe, so that
//! these send every chunk once; the rest comes from each other. Whatever a peer does wrong costs what it was asked and
//! no more: damaged chunks end in distrust, silence in rest, and silence of everybody in [`Action::Stuck`].

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Bits, NodeId};

use self::peer::{Marks, Peer};
use self::requests::{REQUEST_CHUNKS_MAX, Requests};
use self::times::Times;
use self::wanted::Wanted;
use super::Extent;
use crate::routing::mix;

mod choice;
mod linked;
mod outcome;
mod peer;
mod requests;
mod times;
mod wanted;
mod watch;

/// Requests at once to all peers, as far as each may be asked at all. Few are enough for many peers, and few that are
/// equal let all stripes come to an end at one time.
const OPEN_MAX: usize = 16;
/// Chunks that a node that fetches alone asks for in a row; several that fetch must each want something else.
const RUN_ALONE: u32 = 4;

/// The numbers of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many chunks behind the first one that is missing may be asked for.
    pub window: u32,
    /// Most chunks of one request; at most 64.
    pub extent_max: u32,
    /// Most requests at once to one peer.
    pub per_peer_max: u32,
    /// A request is late when a chunk of it takes so many times as long as usual.
    pub steal_factor: u32,
    /// So much of the file, percent, is asked for twice when nothing else is left.
    pub endgame_percent: u32,
    /// After so many damaged chunks a peer is left.
    pub strikes_max: u32,
    /// Longest rest of a peer that said that it is busy, milliseconds.
    pub busy_wait_ms: u64,
    /// Time without anything new after which it is no use, milliseconds.
    pub silence_ms: u64,
}

/// Which part of a file this node gets from the sources, when several nodes fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// Which of the nodes this is, from 0 on.
    pub rank: u32,
    /// How many fetch; up to 1 there are no stripes.
    pub of: u32,
    /// Who brings the file into the swarm.
    pub ingester: NodeId,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A peer is linked.
    Joined {
        /// Which.
        peer: NodeId,
    },
    /// A peer has these chunks too. Whoever has all of them at the first word is a source.
    Has {
        /// Which.
        peer: NodeId,
        /// What.
        extent: Extent,
    },
    /// A peer is linked no more.
    Gone {
        /// Which.
        peer: NodeId,
    },
    /// A chunk came, is sound and is stored.
    Arrived {
        /// Asked for by this request.
        request: u64,
        /// Which chunk.
        index: u32,
    },
    /// A chunk came and is not what it must be.
    Damaged {
        /// Asked for by this request.
        request: u64,
        /// Which chunk.
        index: u32,
    },
    /// The peer has too much to do for this request.
    Busy {
        /// Which.
        request: u64,
    },
    /// The peer is done with this request.
    Ended {
        /// Which.
        request: u64,
    },
    /// The peer could not give the next chunk of this request.
    Broken {
        /// Which.
        request: u64,
    },
    /// A chunk is not there after all.
    Lost {
        /// Which.
        index: u32,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask a peer for chunks.
    Ask {
        /// The number of the request, never used before.
        request: u64,
        /// Whom.
        peer: NodeId,
        /// For what.
        extent: Extent,
    },
    /// Nothing more is expected of a request.
    Cancel {
        /// Which.
        request: u64,
    },
    /// Leave this peer: it sent damaged chunks.
    Distrust {
        /// Which.
        peer: NodeId,
    },
    /// All is there.
    Complete,
    /// Nothing comes any more.
    Stuck,
}

/// A file that comes from many places.
#[derive(Debug)]
pub struct Swarm {
    rules: Rules,
    own: NodeId,
    stripe: Stripe,
    now_ms: u64,
    have: Bits,
    /// What anybody ever had.
    seen: Bits,
    /// When a source was first heard to have each chunk.
    offered_ms: Vec<u64>,
    prefix: u32,
    wanted: Wanted,
    requests: Requests,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that had a part of the file once. They fetch as this node does, or did, and are no source when they have
    /// it all, also over another link.
    fetchers: BTreeSet<NodeId>,
    marks: BTreeMap<NodeId, Marks>,
    /// Peers that may be asked and for which there may be something.
    ready: BTreeSet<NodeId>,
    /// Until when peers rest.
    resting: BTreeSet<(u64, NodeId)>,
    times: Times,
    chance: u64,
    /// When something was new: a chunk here, or one that nobody had before.
    news_ms: u64,
    /// When a source had something to do for this node, nothing was wanted, or the stripe was widened.
    fed_ms: u64,
    /// How many stripes of others the sources are asked for beside the own one.
    reach: u32,
    /// Requests at once to one peer.
    share: u32,
    is_complete: bool,
    /// The moment of the last news when it was said that nothing comes any more.
    stuck_ms: Option<u64>,
    actions: Vec<Action>,
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        Self {
            window: 512,
            extent_max: 16,
            per_peer_max: 4,
            steal_factor: 3,
            endgame_percent: 1,
            strikes_max: 3,
            busy_wait_ms: 250,
            silence_ms: 300_000,
        }
    }
}

// === impl Swarm ===

impl Swarm {
    /// A swarm for what is not there. `seed` decides between equals.
    #[must_use]
    pub fn new(rules: Rules, own: NodeId, stripe: Stripe, have: Bits, seed: u64, now_ms: u64) -> Self {
        let extent_max = rules.extent_max.clamp(1, REQUEST_CHUNKS_MAX);
        let rules = Rules { extent_max, per_peer_max: rules.per_peer_max.max(1), ..rules };
        let (prefix, stripe) = (have.prefix(), of_file(stripe, have.len()));
        Self {
            rules,
            own,
            stripe,
            now_ms,
            seen: Bits::new(have.len()),
            offered_ms: vec![u64::MAX; have.len() as usize],
            prefix,
            wanted: Wanted::new(own, if stripe.of <= 1 { RUN_ALONE } else { 1 }, rules.window, have.len()),
            have,
            requests: Requests::default(),
            peers: BTreeMap::new(),
            fetchers: BTreeSet::new(),
            marks: BTreeMap::new(),
            ready: BTreeSet::new(),
            resting: BTreeSet::new(),
            times: Times::default(),
            chance: mix(seed ^ mix(own.0)),
            news_ms: now_ms,
            fed_ms: now_ms,
            reach: 0,
            share: rules.per_peer_max,
            is_complete: false,
            stuck_ms: None,
            actions: Vec::new(),
        }
    }

    /// Takes in what happened, and answers what to do, in this order.
    #[must_use]
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        self.now_ms = self.now_ms.max(now_ms);
        self.end_rests();
        match event {
            Event::Joined { peer } => self.join(peer),
            Event::Has { peer, extent } => self.learn(peer, extent),
            Event::Gone { peer } => self.leave(peer),
            Event::Arrived { request, index } => self.arrived(request, index),
            Event::Damaged { request, index } => self.damaged(request, index),
            Event::Busy { request } => self.busy(request),
            Event::Ended { request } => self.ended(request),
            Event::Broken { request } => self.broken(request),
            Event::Lost { index } => self.lost(index),
            Event::Tick => self.watch(),
        }
        self.proceed();
        std::mem::take(&mut self.actions)
    }

    /// Others fetch now than before, so another part of the file is this node's to get from the sources.
    pub fn set_stripe(&mut self, stripe: Stripe) {
        (self.stripe, self.reach) = (of_file(stripe, self.have.len()), 0);
        self.wake_all();
    }

    /// The chunks that are there.
    #[must_use]
    pub const fn have(&self) -> &Bits {
        &self.have
    }

    /// Who sent damaged chunks, and how many.
    pub fn strikes(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        let struck = self.marks.iter().filter(|(_, marks)| marks.strikes > 0);
        struck.map(|(peer, marks)| (*peer, marks.strikes))
    }

    fn draw(&mut self) -> u64 {
        self.chance = mix(self.chance);
        self.chance
    }
}

/// A file of one chunk is in nobody's stripe: whoever has it has it at once, and nobody can be seen to fetch it.
const fn of_file(stripe: Stripe, chunks: u32) -> Stripe {
    if chunks <= 1 { Stripe { of: 1, ..stripe } } else { stripe }
}

/// Whether a chunk belongs to this stripe.
const fn is_own(stripe: Stripe, index: u32) -> bool {
    stripe.of <= 1 || index % stripe.of == stripe.rank % stripe.of
}

#[cfg(test)]
mod tests;
