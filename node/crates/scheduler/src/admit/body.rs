//! An answer of the local runtime on its way out: it holds the slot, and is measured when it ends.

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use crate::admission::Place;
use crate::metrics::Metrics;
use crate::response::{Body, Broken};
use crate::timings::{Tail, Timings};

/// A request that the runtime works on. Dropping it frees the slot, whatever state the request is in.
pub(super) struct Working {
    place: Option<Place>,
    since: Instant,
    tail: Tail,
    ended: Ended,
    metrics: Metrics,
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
    pub(super) fn new(place: Option<Place>, metrics: Metrics) -> Self {
        Self { place, since: Instant::now(), tail: Tail::default(), ended: Ended::Not, metrics }
    }

    /// The runtime gave no answer to pass on.
    pub(super) fn refused(&mut self) {
        self.ended = Ended::Refused;
    }

    /// Hands the body through untouched and holds on to the slot until it ends or is dropped.
    pub(super) fn follow(self, body: Body) -> Body {
        let step = |flow: Option<(Body, Self)>| async move {
            let (mut body, mut working) = flow?;
            match body.next().await {
                Some(Ok(bytes)) => {
                    working.tail.feed(&bytes);
                    Some((Ok::<Bytes, Broken>(bytes), Some((body, working))))
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
        stream::unfold(Some((body, self)), step).boxed()
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
            self.metrics.owned(outcome);
        }
        if let (Some(place), Some(timings)) = (&self.place, timings) {
            place.measured(timings);
        }
    }
}
