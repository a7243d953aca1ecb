//! Who is linked, and what they have.
//!
//! Always holds: how far a chunk has spread is the number of linked peers that have it and are no source. A source had
//! the file before anybody fetched it: who was seen with a part of it never becomes one, so its stripe is asked of it
//! to the end.

use ollamax_types::NodeId;

use super::peer::Peer;
use super::requests::Request;
use super::{OPEN_MAX, Swarm, is_own};
use crate::transfer_plan::Extent;

// === impl Swarm ===

impl Swarm {
    /// A peer is linked; whoever is distrusted stays outside.
    pub(crate) fn join(&mut self, peer: NodeId) {
        if peer == self.own || self.is_distrusted(peer) || self.peers.contains_key(&peer) {
            return;
        }
        let is_source = peer == self.stripe.ingester;
        self.peers.insert(peer, Peer::new(self.have.len(), is_source, &self.rules));
        self.divide();
    }

    /// What may be asked at once is divided among the peers.
    fn divide(&mut self) {
        let share = OPEN_MAX / self.peers.len().max(1);
        self.share = u32::try_from(share).unwrap_or(u32::MAX).clamp(1, self.rules.per_peer_max);
    }

    /// A peer has these chunks too.
    pub(crate) fn learn(&mut self, id: NodeId, extent: Extent) {
        self.join(id);
        let fresh = self.note(id, extent);
        let is_early = |index: &u32| !is_own(self.stripe, *index) && self.is_asked_of_source(*index);
        // Who has another stripe got its chunk without this node: there was no need to ask a source for it.
        if self.reach > 0 && !self.is_source(id) && fresh.iter().any(is_early) {
            self.reach = 0;
        }
        let (now_ms, is_source, mut is_useful) = (self.now_ms, self.is_source(id), self.is_endgame());
        for index in fresh {
            if is_source {
                if let Some(offered_ms) = self.offered_ms.get_mut(index as usize) {
                    *offered_ms = now_ms.min(*offered_ms);
                }
            } else {
                self.wanted.spreads(index);
            }
            is_useful |= self.wanted.holds(index);
            if self.seen.set(index) {
                self.news_ms = now_ms;
            }
        }
        if is_useful {
            self.wake(id);
        }
        self.take_stripes_of_the_done();
    }

    /// Who fetched too and has the whole file now has no stripe any more. Where all have it, nothing is waited for.
    fn take_stripes_of_the_done(&mut self) {
        let widest = self.stripe.of.saturating_sub(1);
        let is_done = |(id, peer): &(&NodeId, &Peer)| peer.is_source && **id != self.stripe.ingester;
        let done = self.peers.iter().filter(is_done).count();
        if self.reach < widest && u32::try_from(done).is_ok_and(|done| done >= widest) {
            self.reach = widest;
            self.wake_all();
        }
    }

    /// Notes what a peer has; the chunks that are new of it.
    fn note(&mut self, id: NodeId, extent: Extent) -> Vec<u32> {
        let len = self.have.len();
        let damaged = self.marks.get(&id).map(|marks| &marks.damaged);
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let is_whole_at_once = peer.has.ones() == 0 && extent.first == 0 && extent.end() >= len;
        if is_whole_at_once && !self.fetchers.contains(&id) {
            peer.is_source = true;
        } else if !peer.is_source {
            self.fetchers.insert(id);
        }
        let told = extent.first.min(len)..extent.end().min(len);
        let sound = told.filter(|index| damaged.is_none_or(|damaged| !damaged.contains(index)));
        sound.filter(|index| peer.has.set(*index)).collect()
    }

    pub(crate) fn is_source(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.is_source)
    }

    fn is_asked_of_source(&self, index: u32) -> bool {
        let mut asked = self.requests.of_chunk(index).iter().filter_map(|number| self.requests.get(*number));
        asked.any(|asked| self.is_source(asked.peer))
    }

    /// A peer is linked no more: what it was asked is wanted again.
    pub(crate) fn leave(&mut self, id: NodeId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.ready.remove(&id);
        self.divide();
        if !peer.is_source {
            peer.has.runs().flatten().for_each(|index| self.wanted.shrinks(index));
        }
        for request in peer.open {
            let left = self.requests.close(request);
            left.into_iter().flat_map(Request::open_chunks).for_each(|index| self.release(index));
        }
        self.wake_all();
    }

    /// A peer does not have a chunk after all.
    pub(crate) fn take_off(&mut self, id: NodeId, index: u32) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.has.clear(index)
            && !peer.is_source
        {
            self.wanted.shrinks(index);
        }
    }

    fn is_distrusted(&self, peer: NodeId) -> bool {
        self.marks.get(&peer).is_some_and(|marks| marks.is_distrusted)
    }
}
