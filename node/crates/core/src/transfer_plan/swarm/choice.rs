//! Which peer is asked next, and for what.
//!
//! A peer for which nothing was found is not looked at again until there may be something: it tells of a chunk, one
//! that it has is wanted again, or it is free again.

use ollamax_types::NodeId;

use super::peer::Peer;
use super::requests::COPIES_MAX;
use super::{Action, Swarm, is_own};
use crate::transfer_plan::Extent;

// === impl Swarm ===

impl Swarm {
    /// Asks for as much as may be asked.
    pub(crate) fn proceed(&mut self) {
        if self.have.is_full() {
            self.finish();
            return;
        }
        self.move_window();
        if self.is_endgame() {
            self.wake_all();
        }
        while let Some(id) = self.next_ready() {
            match self.find_for(id) {
                Some(extent) => self.ask(id, extent),
                None => {
                    self.ready.remove(&id);
                }
            }
        }
    }

    fn finish(&mut self) {
        let left: Vec<u64> = self.requests.all().map(|(number, _)| number).collect();
        for number in left {
            self.close(number);
            self.actions.push(Action::Cancel { request: number });
        }
        if !self.is_complete {
            self.is_complete = true;
            self.actions.push(Action::Complete);
        }
    }

    fn move_window(&mut self) {
        self.prefix = self.have.zeros_from(self.prefix).next().unwrap_or(self.have.len());
        for index in self.wanted.advance(self.prefix, &self.have) {
            self.wake_holders(index);
        }
    }

    /// A chunk is on its way no more: it is wanted, unless it is there or another request expects it.
    pub(crate) fn release(&mut self, index: u32) {
        if !self.have.get(index) && self.requests.of_chunk(index).is_empty() {
            self.wanted.insert(index);
            self.wake_holders(index);
        }
    }

    fn wake_holders(&mut self, index: u32) {
        let is_useful = |peer: &Peer| peer.has.get(index) && peer.is_free(self.now_ms, self.share);
        let holders = self.peers.iter().filter(|(_, peer)| is_useful(peer));
        self.ready.extend(holders.map(|(id, _)| *id));
    }

    pub(crate) fn wake(&mut self, id: NodeId) {
        if self.peers.get(&id).is_some_and(|peer| peer.is_free(self.now_ms, self.share)) {
            self.ready.insert(id);
        }
    }

    pub(crate) fn wake_all(&mut self) {
        let free = self.peers.iter().filter(|(_, peer)| peer.is_free(self.now_ms, self.share));
        self.ready.extend(free.map(|(id, _)| *id));
    }

    /// Of two that may be asked the one that is through sooner.
    fn next_ready(&mut self) -> Option<NodeId> {
        let (now_ms, share) = (self.now_ms, self.share);
        self.ready.retain(|id| self.peers.get(id).is_some_and(|peer| peer.is_free(now_ms, share)));
        let (one, other) = (self.any_ready()?, self.any_ready()?);
        Some(self.sooner(one, other))
    }

    fn any_ready(&mut self) -> Option<NodeId> {
        let count = self.ready.len();
        if count == 0 {
            return None;
        }
        let place = usize::try_from(self.draw() % count as u64).unwrap_or_default();
        self.ready.iter().nth(place).copied()
    }

    /// Which of two is expected to be through sooner with one more chunk.
    fn sooner(&self, one: NodeId, other: NodeId) -> NodeId {
        let load_us = |id: NodeId| self.peers.get(&id).map_or(u64::MAX, Peer::load_us);
        if load_us(other) < load_us(one) { other } else { one }
    }

    fn find_for(&self, id: NodeId) -> Option<Extent> {
        let peer = self.peers.get(&id)?;
        self.find_wanted(peer).or_else(|| self.find_late(id, peer))
    }

    /// What a peer may be asked for that nobody fetches.
    pub(crate) fn find_wanted(&self, peer: &Peer) -> Option<Extent> {
        let first = if peer.is_source { self.first_of_source(peer) } else { self.first_of_peer(peer) }?;
        let is_more = |index: &u32| {
            let may_ask = !peer.is_source || self.may_ask_source(*index);
            self.wanted.holds(*index) && peer.has.get(*index) && may_ask
        };
        let limit = first.saturating_add(peer.pace.extent);
        let end = (first + 1..limit).find(|index| !is_more(index)).unwrap_or(limit);
        Some(Extent { first, count: end - first })
    }

    fn first_of_peer(&self, peer: &Peer) -> Option<u32> {
        self.wanted.rarest_spread().find(|index| peer.has.get(*index))
    }

    /// The own stripe first.
    fn first_of_source(&self, peer: &Peer) -> Option<u32> {
        let may_ask = |index: &u32| peer.has.get(*index) && self.may_ask_source(*index);
        let own = self.wanted.rarest().find(|index| is_own(self.stripe, *index) && may_ask(index));
        if own.is_some() || self.reach == 0 {
            return own;
        }
        // What others have first: its owner is slow. What only sources have may be on its way to its owner.
        self.wanted.rarest_spread().find(may_ask).or_else(|| self.wanted.rarest().find(may_ask))
    }

    /// Whether a source is asked for this chunk: it is of the own stripe and nobody else has it, or this node starves.
    fn may_ask_source(&self, index: u32) -> bool {
        let (rank, of) = (self.stripe.rank, self.stripe.of);
        if of <= 1 {
            return true;
        }
        let (place, own) = (index % of, rank % of);
        let distance = if place >= own { place - own } else { place + (of - own) };
        distance <= self.reach && (self.reach > 0 || self.wanted.spread(index) == 0)
    }

    /// Whether what is missing is on its way and so little that it is asked for twice.
    pub(crate) fn is_endgame(&self) -> bool {
        let missing = u64::from(self.have.len() - self.have.ones());
        let last = u64::from(self.have.len()) * u64::from(self.rules.endgame_percent) / 100;
        missing <= last && self.wanted.is_over()
    }

    /// When nothing is wanted: a chunk that another peer is asked for, and that is among the last or comes slowly.
    fn find_late(&self, id: NodeId, peer: &Peer) -> Option<Extent> {
        if !self.wanted.is_empty() || (peer.is_source && self.stripe.of > 1) {
            return None;
        }
        let is_endgame = self.is_endgame();
        let is_slow = |other: NodeId| self.peers.get(&other).is_some_and(|other| self.is_much_slower(other, peer));
        let is_late = |number: u64| {
            let asked = self.requests.get(number).map(|asked| asked.peer).filter(|other| *other != id);
            asked.is_some_and(|other| is_endgame || is_slow(other))
        };
        // From the end on: what a peer is asked for comes in order.
        let mut single = self.requests.single().rev();
        let late = single.find(|(index, number)| peer.has.get(*index) && is_late(*number));
        late.map(|(first, _)| Extent { first, count: 1 })
    }

    fn is_much_slower(&self, peer: &Peer, than: &Peer) -> bool {
        let usual_us = than.pace.chunk_us();
        usual_us > 0 && peer.pace.chunk_us() > usual_us.saturating_mul(u64::from(self.rules.steal_factor))
    }

    /// Asks a peer, also for what is on its way already.
    pub(crate) fn ask(&mut self, id: NodeId, extent: Extent) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let request = self.requests.open(id, extent, self.now_ms);
        peer.open.insert(request);
        peer.expected = peer.expected.saturating_add(extent.count);
        for index in extent.chunks() {
            self.wanted.remove(index);
            debug_assert!(self.requests.of_chunk(index).len() <= COPIES_MAX, "chunk {index} is asked for too often");
        }
        self.actions.push(Action::Ask { request, peer: id, extent });
    }
}
