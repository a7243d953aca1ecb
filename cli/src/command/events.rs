//! `ollamax events`: what happened in the cluster, as this node has applied it.
//!
//! Lines for people have columns: time, revision, kind, subject, text. In JSON each event is an object in a line, and
//! so is how far the node has come. Whoever was away asks again from behind the last revision that was told.

use serde_json::{Value, json};

use ollamax_proto::v1::{ClusterEvent, EventsReply, EventsRequest};

use crate::args::{EventsArgs, Global, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// Shows what is kept, and goes on with what happens if asked.
pub(crate) async fn run(global: &Global, args: EventsArgs) -> Result<(), Failure> {
    let EventsArgs { follow, since, kinds } = args;
    let request = EventsRequest { since: since.unwrap_or(0), kinds: kinds.clone(), follow, progress_ms: 0 };
    let answer = client::connect_events(global).await?.follow(request).await?;
    let (id, mut replies) = (request_id(answer.metadata()), answer.into_inner());
    let mut told = None;
    while let Some(reply) = replies.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        if told.is_none() {
            output::talk(
                global.output,
                &format!("Node {} keeps events from revision {} on.", reply.node_id, reply.oldest),
            );
        }
        told = Some(reply.revision);
        show(global.output, &reply)?;
    }
    if !follow {
        return Ok(());
    }
    let next = again(told.map_or(0, |revision| revision + 1), &kinds);
    Err(Failure::new(7, "the daemon ended the stream of events", "it is stopping", next).with_request_id(&id))
}

/// The command that goes on behind what was told.
fn again(since: u64, kinds: &[String]) -> String {
    let kinds: String = kinds.iter().map(|kind| format!(" --kind {kind}")).collect();
    format!("ollamax events --follow --since {since}{kinds}")
}

fn show(form: Output, reply: &EventsReply) -> Result<(), Failure> {
    if form == Output::Json && reply.events.is_empty() {
        let fields = json!({"revision": reply.revision, "oldest": reply.oldest, "node": reply.node_id});
        return output::json_line("EventsProgress", fields);
    }
    for event in &reply.events {
        match form {
            Output::Json => output::json_line("ClusterEvent", fields(event))?,
            Output::Table => output::line(&line(event))?,
        }
    }
    Ok(())
}

fn fields(event: &ClusterEvent) -> Value {
    let ClusterEvent { revision, at_ms, kind, subject, text } = event;
    json!({"revision": revision, "atMs": at_ms, "event": kind, "subject": subject, "text": text})
}

/// The columns have room for what is usual; more moves the rest of its line only.
fn line(event: &ClusterEvent) -> String {
    let (time, subject) = (text::time(event.at_ms), text::in_one_line(event.subject.as_bytes()));
    let what = text::in_one_line(event.text.as_bytes());
    format!("{time:<23}  {:>8}  {:<16}  {subject:<20}  {what}", event.revision, event.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_on_asks_for_the_same_kinds() {
        assert_eq!(again(45, &[]), "ollamax events --follow --since 45");
        let kinds = ["quota_set".to_owned(), "member_joined".to_owned()];
        assert_eq!(again(0, &kinds), "ollamax events --follow --since 0 --kind quota_set --kind member_joined");
    }

    #[test]
    fn a_line_has_its_columns_and_stays_a_line() {
        let event = |subject: &str| ClusterEvent {
            revision: 7,
            at_ms: 0,
            kind: "setting_changed".to_owned(),
            subject: subject.to_owned(),
            text: "was set".to_owned(),
        };
        let expected = format!("{}         7  setting_changed   a{}  was set", " ".repeat(23), " ".repeat(19));
        assert_eq!(line(&event("a")), expected);
        assert!(line(&event("a\nb")).contains("  a\\nb "), "{}", line(&event("a\nb")));
    }
}
