//! How requests end, chunk by chunk or as a whole.
//!
//! Always holds: a chunk that no request expects any more is there or wanted again.

use super::peer::Peer;
use super::requests::Request;
use super::{Action, Swarm};

// === impl Swarm ===

impl Swarm {
    pub(crate) fn arrived(&mut self, request: u64, index: u32) {
        let asked = self.requests.get(request).filter(|asked| asked.expects(index));
        if let Some(asked) = asked
            && let Some(peer) = self.peers.get_mut(&asked.peer)
        {
            peer.answered(asked.asked_ms, self.now_ms);
        }
        if self.have.set(index) {
            self.news_ms = self.now_ms;
            self.wanted.remove(index);
        }
        let expecting = self.requests.of_chunk(index).to_vec();
        for number in expecting {
            let is_last = self.settle(number, index);
            if is_last && number != request {
                self.actions.push(Action::Cancel { request: number });
            }
            if let Some(asked) = asked.filter(|_| is_last && number == request) {
                self.came_whole(asked);
            }
        }
    }

    /// The last chunk of a request came.
    fn came_whole(&mut self, asked: Request) {
        self.times.note(self.now_ms.saturating_sub(asked.asked_ms), asked.extent.count);
        if let Some(peer) = self.peers.get_mut(&asked.peer) {
            peer.pace.grow(&self.rules);
        }
    }

    /// A chunk of a request is expected no more. Whether that ended the request.
    fn settle(&mut self, number: u64, index: u32) -> bool {
        let Some(asked) = self.requests.get(number) else { return false };
        let (was_expected, is_last) = self.requests.settle(number, index);
        if let Some(peer) = self.peers.get_mut(&asked.peer).filter(|_| was_expected) {
            peer.expected = peer.expected.saturating_sub(1);
            if is_last {
                peer.open.remove(&number);
                self.wake(asked.peer);
            }
        }
        is_last
    }

    pub(crate) fn damaged(&mut self, request: u64, index: u32) {
        let asked = self.requests.get(request).filter(|asked| asked.expects(index));
        let Some(asked) = asked else { return };
        let marks = self.marks.entry(asked.peer).or_default();
        marks.strikes = marks.strikes.saturating_add(1);
        marks.damaged.insert(index);
        marks.is_distrusted = marks.strikes >= self.rules.strikes_max;
        let is_distrusted = marks.is_distrusted;
        self.take_off(asked.peer, index);
        self.settle(request, index);
        self.release(index);
        if is_distrusted {
            self.leave(asked.peer);
            self.actions.push(Action::Distrust { peer: asked.peer });
            if self.peers.is_empty() {
                self.give_up();
            }
        }
    }

    pub(crate) fn busy(&mut self, request: u64) {
        let Some(asked) = self.close(request) else { return };
        // It is asked again when it is through with what it has taken on. Where that is nothing, it rests; those that
        // were refused at one moment do not all come back at one.
        let has_more = self.peers.get_mut(&asked.peer).is_some_and(Peer::took_its_fill);
        let half_ms = self.rules.busy_wait_ms / 2;
        let chance_ms = self.draw() % (half_ms + 1);
        if !has_more {
            self.rest(asked.peer, half_ms + chance_ms);
        }
        asked.open_chunks().for_each(|index| self.release(index));
    }

    pub(crate) fn ended(&mut self, request: u64) {
        let Some(asked) = self.close(request) else { return };
        // It says that it sent them.
        asked.open_chunks().for_each(|index| self.take_off(asked.peer, index));
        asked.open_chunks().for_each(|index| self.release(index));
        self.wake(asked.peer);
    }

    pub(crate) fn broken(&mut self, request: u64) {
        let Some(asked) = self.close(request) else { return };
        if let Some(index) = asked.open_chunks().next() {
            self.take_off(asked.peer, index);
        }
        self.rest(asked.peer, self.rules.busy_wait_ms);
        asked.open_chunks().for_each(|index| self.release(index));
    }

    pub(crate) fn lost(&mut self, index: u32) {
        if self.have.clear(index) {
            self.is_complete = false;
            self.news_ms = self.now_ms;
            self.prefix = self.prefix.min(index);
            self.release(index);
        }
    }

    /// A request is over before all of it came.
    pub(crate) fn close(&mut self, number: u64) -> Option<Request> {
        let asked = self.requests.close(number)?;
        if let Some(peer) = self.peers.get_mut(&asked.peer) {
            peer.open.remove(&number);
            let open = u32::try_from(asked.open_chunks().count()).unwrap_or(u32::MAX);
            peer.expected = peer.expected.saturating_sub(open);
        }
        Some(asked)
    }
}
