//! What is asked and has not come yet, by request and by chunk.
//!
//! Always holds: both sides tell the same, a request without an open chunk does not exist, and a chunk is in at most
//! two requests.

use std::collections::BTreeMap;

use ollamax_types::NodeId;

use crate::transfer_plan::Extent;

/// Most requests that one chunk is in.
pub(crate) const COPIES_MAX: usize = 2;
/// Most chunks of one request: one bit each.
pub(crate) const REQUEST_CHUNKS_MAX: u32 = u64::BITS;

/// One open request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) peer: NodeId,
    pub(crate) extent: Extent,
    pub(crate) asked_ms: u64,
    /// A bit for each chunk of the extent that is still expected.
    open: u64,
}

/// All open requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last: u64,
    by_number: BTreeMap<u64, Request>,
    by_chunk: BTreeMap<u32, Vec<u64>>,
}

// === impl Request ===

impl Request {
    /// The chunks that are still expected, in order.
    pub(crate) fn open_chunks(self) -> impl Iterator<Item = u32> {
        self.extent.chunks().filter(move |index| self.expects(*index))
    }

    pub(crate) fn expects(&self, index: u32) -> bool {
        self.extent.chunks().contains(&index) && self.open & self.bit(index) != 0
    }

    fn bit(&self, index: u32) -> u64 {
        1_u64.checked_shl(index.saturating_sub(self.extent.first)).unwrap_or_default()
    }
}

// === impl Requests ===

impl Requests {
    /// A new request; its number.
    pub(crate) fn open(&mut self, peer: NodeId, extent: Extent, asked_ms: u64) -> u64 {
        self.last += 1;
        let mut request = Request { peer, extent, asked_ms, open: 0 };
        for index in extent.chunks().take(REQUEST_CHUNKS_MAX as usize) {
            request.open |= request.bit(index);
            self.by_chunk.entry(index).or_default().push(self.last);
        }
        self.by_number.insert(self.last, request);
        self.last
    }

    pub(crate) fn get(&self, number: u64) -> Option<Request> {
        self.by_number.get(&number).copied()
    }

    /// The requests that expect this chunk.
    pub(crate) fn of_chunk(&self, index: u32) -> &[u64] {
        self.by_chunk.get(&index).map(Vec::as_slice).unwrap_or_default()
    }

    /// All, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, Request)> + '_ {
        self.by_number.iter().map(|(number, request)| (*number, *request))
    }

    /// The chunks that exactly one request expects, with its number, in order.
    pub(crate) fn single(&self) -> impl DoubleEndedIterator<Item = (u32, u64)> + '_ {
        self.by_chunk.iter().filter_map(|(index, numbers)| match numbers[..] {
            [number] => Some((*index, number)),
            _ => None,
        })
    }

    /// A chunk of a request is expected no more. Whether it was, and whether that was its last.
    pub(crate) fn settle(&mut self, number: u64, index: u32) -> (bool, bool) {
        let Some(request) = self.by_number.get_mut(&number).filter(|request| request.expects(index)) else {
            return (false, false);
        };
        request.open &= !request.bit(index);
        let is_last = request.open == 0;
        if is_last {
            self.by_number.remove(&number);
        }
        self.forget(number, index);
        (true, is_last)
    }

    /// A request is over. What it was, with the chunks that were still expected.
    pub(crate) fn close(&mut self, number: u64) -> Option<Request> {
        let request = self.by_number.remove(&number)?;
        for index in request.open_chunks() {
            self.forget(number, index);
        }
        Some(request)
    }

    fn forget(&mut self, number: u64, index: u32) {
        if let Some(numbers) = self.by_chunk.get_mut(&index) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_chunk.remove(&index);
            }
        }
    }
}
