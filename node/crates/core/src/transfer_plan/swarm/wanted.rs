//! The chunks that nobody fetches yet, the rarest first.
//!
//! Always holds: a wanted chunk is not there and in no request. A chunk enters when the window reaches it, and again
//! when a request leaves it behind, so nothing here looks at the whole file. Rare is what few peers have that got it
//! from the swarm; what a source has counts for nothing, as a source has everything.

use std::collections::BTreeSet;

use ollamax_types::{Bits, NodeId};

use crate::routing::mix;

/// What is wanted, and how rare each chunk of the file is.
#[derive(Debug)]
pub(crate) struct Wanted {
    salt: u64,
    /// Chunks that follow each other and are as rare are asked for in runs of this length.
    run: u32,
    window: u32,
    /// The first chunk that never was in the window.
    edge: u32,
    /// Of each chunk, the peers that have it and are no source.
    spread: Vec<u16>,
    order: BTreeSet<Key>,
}

/// Lower is asked first. Each node breaks ties in its own way, or all would want the same chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    spread: u16,
    tie: u64,
    index: u32,
}

// === impl Wanted ===

impl Wanted {
    pub(crate) fn new(own: NodeId, run: u32, window: u32, len: u32) -> Self {
        let (spread, order) = (vec![0; len as usize], BTreeSet::new());
        Self { salt: mix(own.0), run: run.max(1), window: window.max(1), edge: 0, spread, order }
    }

    /// Moves the window to behind `prefix`. The chunks that entered.
    pub(crate) fn advance(&mut self, prefix: u32, have: &Bits) -> Vec<u32> {
        let edge = prefix.saturating_add(self.window).min(have.len());
        if edge <= self.edge {
            return Vec::new();
        }
        let entered: Vec<u32> = have.zeros_from(self.edge).take_while(|index| *index < edge).collect();
        self.edge = edge;
        for index in &entered {
            self.insert(*index);
        }
        entered
    }

    /// A chunk is wanted, when the window has reached it.
    pub(crate) fn insert(&mut self, index: u32) {
        if index < self.edge {
            self.order.insert(self.key(index));
        }
    }

    /// A chunk is wanted no more.
    pub(crate) fn remove(&mut self, index: u32) {
        self.order.remove(&self.key(index));
    }

    pub(crate) fn holds(&self, index: u32) -> bool {
        self.order.contains(&self.key(index))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether nothing is wanted and nothing will enter.
    pub(crate) fn is_over(&self) -> bool {
        self.order.is_empty() && self.edge as usize == self.spread.len()
    }

    /// All, the rarest first.
    pub(crate) fn rarest(&self) -> impl Iterator<Item = u32> + '_ {
        self.order.iter().map(|key| key.index)
    }

    /// Those that a peer has which is no source, the rarest first.
    pub(crate) fn rarest_spread(&self) -> impl Iterator<Item = u32> + '_ {
        self.order.range(Key { spread: 1, tie: 0, index: 0 }..).map(|key| key.index)
    }

    /// How many peers have this chunk that are no source.
    pub(crate) fn spread(&self, index: u32) -> u16 {
        self.spread.get(index as usize).copied().unwrap_or_default()
    }

    /// One more peer has it.
    pub(crate) fn spreads(&mut self, index: u32) {
        let spread = self.spread(index).saturating_add(1);
        self.respread(index, spread);
    }

    /// One peer less has it.
    pub(crate) fn shrinks(&mut self, index: u32) {
        let spread = self.spread(index).saturating_sub(1);
        self.respread(index, spread);
    }

    fn respread(&mut self, index: u32, spread: u16) {
        let was_wanted = self.order.remove(&self.key(index));
        if let Some(place) = self.spread.get_mut(index as usize) {
            *place = spread;
        }
        if was_wanted {
            self.order.insert(self.key(index));
        }
    }

    fn key(&self, index: u32) -> Key {
        Key { spread: self.spread(index), tie: mix(self.salt ^ u64::from(index / self.run)), index }
    }
}
