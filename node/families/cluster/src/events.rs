//! What happened in the lab, part by part.
//!
//! Always: who asks again from where it was told to hears everything, and nothing is left out between two parts.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_tools::page::{PAGE_BYTES_MAX, ROWS, ROWS_MAX};
use ollamax_tools::views::EventView;
use ollamax_tools::{Changes, DeclarationError, Example, Spec, Tool, ToolError};

use crate::cluster::FAMILY;

const LIST_EVENTS: Spec = Spec {
    name: "list_events",
    title: "List events",
    description: "Lists what happened in the cluster, oldest first: the newest events, or those from a revision on.",
    family: FAMILY,
    examples: &[
        Example { title: "What happened lately?", arguments: "{}" },
        Example { title: "And since then?", arguments: r#"{"since": 120}"# },
    ],
    ..Spec::READ
};

// Which events.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EventsAsked {
    /// From this revision on.
    #[schemars(range(min = 1))]
    since: Option<u64>,
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
}

// Events, and where to go on.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Events {
    /// The oldest first.
    events: Vec<EventView>,
    /// Send it as since for what comes after; null: nothing was asked for and nothing is there.
    next_since: Option<u64>,
    /// More is there already.
    more: bool,
}

/// The tools of the family that are about events.
pub(crate) fn tools(changes: &Arc<dyn Changes>) -> Result<Vec<Tool>, DeclarationError> {
    let changes = Arc::clone(changes);
    Ok(vec![Tool::reading(LIST_EVENTS, move |asked: EventsAsked| list(&*changes, &asked))?])
}

fn list(changes: &dyn Changes, asked: &EventsAsked) -> Result<Events, ToolError> {
    let limit = asked.limit.unwrap_or(ROWS).clamp(1, ROWS_MAX);
    let found = changes.events(asked.since, limit)?;
    let is_cut = asked.since.is_some() && found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(match asked.since {
        Some(since) => part(found, since, is_cut),
        None => newest(found),
    })
}

/// The first events that fit. Those of one revision stay together, since going on begins with a revision.
fn part(mut events: Vec<EventView>, since: u64, is_cut: bool) -> Events {
    let fit = fitting(events.iter());
    let more = is_cut || fit < events.len();
    events.truncate(fit);
    let Some(last) = events.last().map(|event| event.revision) else {
        return Events { events, next_since: Some(since), more };
    };
    let whole = events.iter().take_while(|event| event.revision < last).count();
    if !more || whole == 0 {
        return Events { events, next_since: Some(last + 1), more };
    }
    events.truncate(whole);
    Events { events, next_since: Some(last), more }
}

/// The last events that fit.
fn newest(mut events: Vec<EventView>) -> Events {
    let fit = fitting(events.iter().rev());
    let events = events.split_off(events.len() - fit);
    let next_since = events.last().map(|event| event.revision + 1);
    Events { events, next_since, more: false }
}

/// How many fit into one answer; one always does.
fn fitting<'a>(events: impl ExactSizeIterator<Item = &'a EventView>) -> usize {
    // Of what stands around the words of an event, as JSON.
    const FRAME_BYTES: usize = 80;
    let (mut bytes, count) = (0_usize, events.len());
    let fit = events.take_while(|event| {
        // A character of JSON may take six bytes where it takes one here; texts are plain, and there is room behind.
        bytes += FRAME_BYTES + event.at.len() + event.kind.len() + event.text.len();
        bytes <= PAGE_BYTES_MAX
    });
    fit.count().max(count.min(1))
}

#[cfg(test)]
mod tests {
    use ollamax_tools::mem::MemChanges;

    use super::*;

    fn event(revision: u64, text: &str) -> EventView {
        EventView { revision, at: "1970-01-01T00:00:00Z".to_owned(), kind: "k".to_owned(), text: text.to_owned() }
    }

    fn told(revisions: &[u64], since: Option<u64>, limit: u32) -> (Vec<u64>, Option<u64>, bool) {
        let changes = MemChanges::after(revisions.iter().map(|one| event(*one, "t")).collect());
        let told = list(&changes, &EventsAsked { since, limit: Some(limit) }).expect("they are kept");
        (told.events.iter().map(|event| event.revision).collect(), told.next_since, told.more)
    }

    #[test]
    fn parts_follow_each_other_at_whole_revisions() {
        let kept = [3, 5, 5, 8];
        assert_eq!(told(&kept, None, 2), (vec![5, 8], Some(9), false));
        assert_eq!(told(&kept, Some(0), 10), (vec![3, 5, 5, 8], Some(9), false));
        assert_eq!(told(&kept, Some(0), 2), (vec![3], Some(5), true));
        assert_eq!(told(&kept, Some(5), 3), (vec![5, 5], Some(8), true));
        assert_eq!(told(&kept, Some(8), 3), (vec![8], Some(9), false));
        assert_eq!(told(&kept, Some(9), 3), (vec![], Some(9), false));
        // More of one revision than is told at once: going on is worth more than the rest of it.
        assert_eq!(told(&[5, 5, 5], Some(0), 2), (vec![5, 5], Some(6), true));
        assert_eq!(told(&[], None, 2), (vec![], None, false));
    }

    #[test]
    fn long_texts_are_told_in_more_parts() {
        let text = "x".repeat(20_000);
        let changes = MemChanges::after((1..=3).map(|one| event(one, &text)).collect());
        let told = |since| list(&changes, &EventsAsked { since, limit: None }).expect("they are kept");
        let (first, newest) = (told(Some(0)), told(None));
        assert_eq!((first.events.len(), first.next_since, first.more), (1, Some(2), true));
        assert_eq!((newest.events.len(), newest.next_since), (2, Some(4)));
    }
}
