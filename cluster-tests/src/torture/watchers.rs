//! Three watchers of all keys of a round. Each goes on where it stopped, at the next node, when its own dies, falls
//! silent or does not keep what comes next; only when no node keeps it does it begin anew, and leaves a gap.
//!
//! A watcher records what it was told and judges nothing: see [`crate::watched`].

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use ollamax_proto::v1;
use ollamax_testkit::cluster::{CallError, Values, Watch};
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

use crate::traffic::{Traffic, number_of};
use crate::watched::{Event, Segment, Told};

/// How many there are.
pub(crate) const WATCHERS: usize = 3;
/// A watch says twice in a second how far it is. One that says nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(50);

/// What a watcher does after its watch has ended.
enum Ended {
    /// The round is over.
    Over,
    /// Another node may go on.
    Lost,
    /// The node does not keep what comes next.
    Compacted,
}

/// Watches until the traffic is over and everything up to its last moment was told or given up. Returns the segments
/// of each watcher.
pub(crate) async fn work(doors: Vec<Vec<Values>>, cluster: &Cluster, traffic: &Traffic<'_>) -> Vec<Vec<Segment>> {
    let watchers = doors.into_iter().enumerate();
    join_all(watchers.map(|(first, doors)| Box::pin(watch(first, doors, cluster, traffic)))).await
}

async fn watch(first: usize, doors: Vec<Values>, cluster: &Cluster, traffic: &Traffic<'_>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let (mut place, mut refused) = (first, 0);
    while !traffic.is_over() {
        let index = place % doors.len();
        place += 1;
        if !cluster.node(index).is_running() {
            wait::pause(PAUSE).await;
            continue;
        }
        // When none of them keeps it, it is begun anew.
        let from = segments.last().map_or(0, |last| if refused < doors.len() { last.complete() + 1 } else { 0 });
        let Ok(Ok(mut watch)) = timeout(SILENCE_MAX, doors[index].watch(&traffic.prefix, from)).await else {
            wait::pause(PAUSE).await;
            continue;
        };
        let mut segment = None;
        let ended = follow(&mut watch, (index, from), &mut segment, traffic).await;
        if let Some(segment) = segment {
            segments.push(segment);
            refused = 0;
        }
        match ended {
            Ended::Over => break,
            Ended::Compacted => refused += 1,
            Ended::Lost => {}
        }
        wait::pause(PAUSE).await;
    }
    segments
}

/// Reads one watch to its end. The segment is there as soon as the watch has told anything beyond its beginning.
async fn follow(
    watch: &mut Watch,
    (node, asked): (usize, u64),
    segment: &mut Option<Segment>,
    traffic: &Traffic<'_>,
) -> Ended {
    let begin = match next(watch).await {
        Ok(begin) => told(&begin, traffic),
        Err(ended) => return ended,
    };
    let mut follows = Segment { node, asked, begun: begin.revision, told: Vec::new() };
    if !begin.events.is_empty() {
        // It is never so; the judgement says it.
        follows.told.push(begin);
    }
    let ended = loop {
        match next(watch).await {
            Ok(reply) => follows.told.push(told(&reply, traffic)),
            Err(ended) => break ended,
        }
        if traffic.is_over() {
            break Ended::Over;
        }
    };
    *segment = Some(follows).filter(|follows| !follows.told.is_empty());
    ended
}

async fn next(watch: &mut Watch) -> Result<v1::WatchReply, Ended> {
    match timeout(SILENCE_MAX, watch.next()).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(CallError { code: Some(ErrorCode::Compacted), .. })) => Err(Ended::Compacted),
        Ok(Err(_)) | Err(_) => Err(Ended::Lost),
    }
}

fn told(reply: &v1::WatchReply, traffic: &Traffic<'_>) -> Told {
    let events = reply.events.iter().map(|event| Event {
        revision: event.revision,
        key: event.key.clone(),
        value: event.value.as_ref().map(number_of),
    });
    Told {
        revision: reply.header.as_ref().map_or(0, |header| header.revision),
        seen_ns: traffic.run.now_ns(),
        events: events.collect(),
    }
}
