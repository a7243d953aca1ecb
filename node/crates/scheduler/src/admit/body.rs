//! An answer of the local runtime on its way out: it holds the slot, and is measured when it ends.
//!
//! It breaks off when it stands still while the runtime is down for as long as makes a node count as dead: a runtime
//! that hangs keeps its connections open, and would keep reader and slot for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use crate::admission::Place;
use crate::handle::Shared;
use crate::response::{Body, Broken};
use crate::timings::{Tail, Timings};
use crate::vigil::Vigil;

/// A request that the runtime works on. Dropping it frees the slot, whatever state the request is in.
pub(super) struct Working {
    shared: Arc<Shared>,
    place: Option<Place>,
    since: Instant,
    tail: Tail,
    ended: Ended,
}

/// How a request ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Not,
    Whole,
    Broken,
    Refused,
}

// === impl Working ===

impl Working {
    pub(super) fn new(shared: Arc<Shared>, place: Option<Place>) -> Self {
        Self { shared, place, since: Instant::now(), tail: Tail::default(), ended: Ended::Not }
    }

    /// The runtime gave no answer to pass on.
    pub(super) fn refused(&mut self) {
        self.ended = Ended::Refused;
    }

    /// Hands the body through untouched and holds on to the slot until it ends or is dropped.
    pub(super) fn follow(self, body: Body, vigil: Vigil) -> Body {
        let patience = Duration::from_millis(self.shared.config.dead_after_ms);
        let step = move |flow: Option<(Body, Vigil, Self)>| async move {
            let (mut body, mut vigil, mut working) = flow?;
            let part = tokio::select! {
                biased;
                part = body.next() => part,
                why = vigil.lost(patience) => Some(Err(working.lost(&why))),
            };
            match part {
                Some(Ok(bytes)) => {
                    working.tail.feed(&bytes);
                    Some((Ok::<Bytes, Broken>(bytes), Some((body, vigil, working))))
                }
                Some(Err(broken)) => {
                    working.ended = Ended::Broken;
                    Some((Err(broken), None))
                }
                None => {
                    working.ended = Ended::Whole;
                    None
                }
            }
        };
        stream::unfold(Some((body, vigil, self)), step).boxed()
    }

    fn lost(&self, why: &str) -> Broken {
        Broken { message: format!("the runtime of node {} is down: {why}", self.shared.parts.node) }
    }

    /// A client may stop reading right after the last line; an answer that closed with its timings is whole.
    fn outcome(&self) -> (&'static str, Option<Timings>) {
        let said = self.tail.timings();
        match self.ended {
            Ended::Whole => ("ok", said.or_else(|| Some(Timings::of_wall(self.since.elapsed())))),
            Ended::Not if said.is_some() => ("ok", said),
            Ended::Not => ("cancelled", None),
            Ended::Broken => ("broken", None),
            Ended::Refused => ("refused", None),
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let (outcome, timings) = self.outcome();
        if self.ended != Ended::Refused {
            self.shared.parts.metrics.owned(outcome);
        }
        if let (Some(place), Some(timings)) = (&self.place, timings) {
            place.measured(timings);
        }
    }
}
