//! What time brings: late requests are asked elsewhere too, rests end, stripes widen, and silence is told.

use ollamax_types::NodeId;

use super::peer::Peer;
use super::requests::Request;
use super::{Action, Swarm};
use crate::transfer_plan::Extent;

/// No request is late before this, milliseconds.
const LATE_MS_MIN: u64 = 250;
/// So many times longer the owner of a chunk may take for it while the sources do not have all of the file: whoever
/// waits for these is in no hurry.
const GROWING_PATIENCE: u64 = 4;

// === impl Swarm ===

impl Swarm {
    pub(crate) fn watch(&mut self) {
        self.ask_late_elsewhere();
        self.widen_stripe();
        if self.wanted.is_empty() {
            self.wake_all();
        }
        let is_silent = self.now_ms.saturating_sub(self.news_ms) >= self.rules.silence_ms;
        if is_silent && !self.have.is_full() {
            self.give_up();
        }
    }

    /// Says so once; again only when there was news in between.
    pub(crate) fn give_up(&mut self) {
        if self.stuck_ms != Some(self.news_ms) {
            self.stuck_ms = Some(self.news_ms);
            self.actions.push(Action::Stuck);
        }
    }

    /// A peer is not asked for so long.
    pub(crate) fn rest(&mut self, id: NodeId, wait_ms: u64) {
        let until_ms = self.now_ms.saturating_add(wait_ms);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.rests_until_ms = peer.rests_until_ms.max(until_ms);
            self.resting.insert((peer.rests_until_ms, id));
            self.ready.remove(&id);
        }
    }

    /// Peers that have rested may be asked again.
    pub(crate) fn end_rests(&mut self) {
        while let Some((until_ms, id)) = self.resting.first().copied()
            && until_ms <= self.now_ms
        {
            self.resting.remove(&(until_ms, id));
            self.wake(id);
        }
    }

    fn ask_late_elsewhere(&mut self) {
        let usual_us = self.times.usual_us();
        let late: Vec<(u64, Request, u64)> = self
            .requests
            .all()
            .filter_map(|(number, asked)| {
                let late_ms = self.late_ms(usual_us, asked.extent.count);
                let age_ms = self.now_ms.saturating_sub(asked.asked_ms);
                (age_ms >= late_ms).then_some((number, asked, age_ms / late_ms))
            })
            .collect();
        for (number, asked, times) in late {
            let open = asked.open_chunks().find(|index| self.requests.of_chunk(*index).len() == 1);
            match open {
                Some(first) => self.steal(asked, first),
                // Everything is asked for elsewhere too, and has not come from here in twice the time.
                None if times >= 2 => self.drop_late(number),
                None => {}
            }
        }
    }

    /// The age from which on a request of so many chunks is late.
    fn late_ms(&self, usual_us: u64, chunks: u32) -> u64 {
        let usual_ms = usual_us.saturating_mul(u64::from(chunks)) / 1_000;
        usual_ms.saturating_mul(u64::from(self.rules.steal_factor)).max(LATE_MS_MIN)
    }

    /// Asks another peer for the chunks of a late request from `first` on.
    fn steal(&mut self, late: Request, first: u32) {
        let Some(thief) = self.find_thief(late.peer, first) else { return };
        let Some(peer) = self.peers.get(&thief) else { return };
        let is_more = |index: &u32| {
            let is_single = self.requests.of_chunk(*index).len() == 1;
            late.expects(*index) && is_single && peer.has.get(*index)
        };
        let limit = first.saturating_add(peer.pace.extent);
        let end = (first + 1..limit).find(|index| !is_more(index)).unwrap_or(limit);
        self.ask(thief, Extent { first, count: end - first });
    }

    /// Who has this chunk too and is free: who stalled least of late, and no source where that can be.
    fn find_thief(&self, late: NodeId, index: u32) -> Option<NodeId> {
        let may = |id: NodeId, peer: &Peer| id != late && peer.has.get(index) && peer.is_free(self.now_ms, self.share);
        let free = self.peers.iter().filter(|(id, peer)| may(**id, peer));
        free.min_by_key(|(id, peer)| (peer.stalls, peer.is_source, peer.load_us(), **id)).map(|(id, _)| *id)
    }

    /// Gives a late request up. Nothing is released: another request expects the same.
    fn drop_late(&mut self, number: u64) {
        let Some(asked) = self.close(number) else { return };
        self.actions.push(Action::Cancel { request: number });
        let times = self.peers.get_mut(&asked.peer).map_or(1, Peer::stalled);
        self.rest(asked.peer, self.rules.busy_wait_ms.saturating_mul(times));
    }

    /// While something is wanted and no source is busy with a request, it comes from the owners of other stripes. These
    /// may be slow or gone, so after a while the sources are asked for one more stripe, if they had of it for long.
    fn widen_stripe(&mut self) {
        let usual_us = self.times.usual_us();
        let is_in_time =
            |asked: Request| self.now_ms.saturating_sub(asked.asked_ms) < self.late_ms(usual_us, asked.extent.count);
        let is_fed = self.requests.all().any(|(_, asked)| self.is_source(asked.peer) && is_in_time(asked));
        if is_fed || self.wanted.is_empty() {
            self.fed_ms = self.now_ms;
        }
        let starved_ms = self.late_ms(usual_us, 1);
        let widest = self.stripe.of.saturating_sub(1);
        let is_starved = self.now_ms.saturating_sub(self.fed_ms) >= starved_ms;
        if self.reach < widest && is_starved && self.is_left_lying(starved_ms) {
            // Where everybody else has the whole file, nobody else has a stripe.
            let is_alone = self.peers.values().all(|peer| peer.is_source);
            self.reach = if is_alone { widest } else { self.reach + 1 };
            self.fed_ms = self.now_ms;
            self.wake_all();
        }
    }

    /// Whether a source has had something for so long that is wanted here, and that nobody fetches.
    fn is_left_lying(&self, wait_ms: u64) -> bool {
        let is_whole = self.peers.values().any(|peer| peer.is_source && peer.has.is_full());
        let wait_ms = if is_whole { wait_ms } else { wait_ms.saturating_mul(GROWING_PATIENCE) };
        let lay_ms = |index: u32| {
            let offered_ms = self.offered_ms.get(index as usize).copied().unwrap_or(u64::MAX);
            self.now_ms.saturating_sub(offered_ms)
        };
        self.wanted.rarest().any(|index| lay_ms(index) >= wait_ms)
    }
}
