//! `subscriptions/listen` for tasks: a client hears of each change of the tasks that it names.
//!
//! rmcp's filter has no word for tasks yet. So the door reads their ids from the message, hands them over beside it,
//! and names in the acknowledgement those that it took. Always: a client that names tasks and does not declare that it
//! takes them is refused; a task that the caller may not see is not taken, nor is one that is not shown here by who
//! has asked too often for such ones; how a task stands is told once at the beginning and then when it has changed; one
//! that was told to be over is looked at no more, since the protocol knows nothing that comes after an end; the stream
//! ends with its result when the node stops.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts as Head;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use memchr::memmem;
use rmcp::RoleServer;
use rmcp::model::{
    NotificationMetaObject, ServerNotification, TASKS_EXTENSION_ID, TaskStatusNotification,
    TaskStatusNotificationParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use serde_json::{Value, json};
use tokio::time::sleep;

use ollamax_tools::Caller;
use ollamax_tools::views::TaskView;

use super::refusal::Refusal;
use super::tasks::{Client, detailed};
use crate::http::Stopping;
use crate::toolbox::Toolbox;

/// The method.
const METHOD: &str = "subscriptions/listen";
/// Where it names tasks, and where its acknowledgement does.
const TASK_IDS: &str = "taskIds";
/// The notification that says what was taken.
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// Where it does.
const TAKEN: &str = "\"notifications\":{";
/// Tasks of one stream.
const WATCHED_MAX: usize = 64;
/// Least time between two looks: a busy cluster changes more often than anybody reads.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The tasks that a message wants to hear of, and may; an extension of its request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Watched {
    ids: Vec<String>,
    /// The id of a request that names tasks and does not declare that its client takes them.
    undeclared: Option<Value>,
}

// === impl Watched ===

impl Watched {
    /// Reads them from a message.
    pub(super) async fn of(tools: &Toolbox, caller: &Caller, message: &[u8]) -> Self {
        let named = match asked(message) {
            Ok(named) => named,
            Err(request) => return Self { undeclared: Some(request), ..Self::default() },
        };
        let is_shown = |id: &String| tools.task(caller, id).is_ok();
        // Another node may have told of one before this one has applied it. It is waited for once, however many are
        // not shown: without a leader each wait is long, and what is shown then is taken.
        if !named.iter().all(is_shown) {
            drop(tools.catch_up(caller).await);
        }
        Self { ids: named.into_iter().filter(is_shown).collect(), undeclared: None }
    }

    /// What the client is told in the place of a stream.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.undeclared.clone().map(Refusal::undeclared_tasks)
    }

    /// Names them in the acknowledgement, which is the first thing that a stream says.
    pub(super) fn acknowledge(self, body: Body) -> Body {
        let mut ids = Some(self.ids).filter(|ids| !ids.is_empty());
        if ids.is_none() {
            return body;
        }
        Body::new(body.map_frame(move |frame| {
            frame.map_data(|data: Bytes| match ids.as_ref().and_then(|ids| with_ids(&data, ids)) {
                Some(named) => {
                    ids = None;
                    named
                }
                None => data,
            })
        }))
    }
}

/// The ids in a message of this method, each once, and as many as one stream may have.
///
/// # Errors
/// The request's id, where its client does not declare that it takes tasks.
fn asked(message: &[u8]) -> Result<Vec<String>, Value> {
    // Nearly every message is another one, and need not be read once more.
    if memmem::find(message, TASK_IDS.as_bytes()).is_none() {
        return Ok(Vec::new());
    }
    let message: Value = serde_json::from_slice(message).unwrap_or_default();
    let params = &message["params"];
    let named = &params["notifications"][TASK_IDS];
    if message["method"] != METHOD || named.is_null() {
        return Ok(Vec::new());
    }
    let able = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"][TASKS_EXTENSION_ID];
    if !able.is_object() {
        return Err(message["id"].clone());
    }
    let mut ids: Vec<String> = Vec::new();
    for id in named.as_array().into_iter().flatten().filter_map(Value::as_str) {
        if ids.len() < WATCHED_MAX && !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    Ok(ids)
}

/// The acknowledgement with the tasks that were taken; `None`: this is none.
fn with_ids(data: &[u8], ids: &[String]) -> Option<Bytes> {
    let text = std::str::from_utf8(data).ok().filter(|text| text.contains(ACKNOWLEDGED))?;
    let at = text.find(TAKEN)? + TAKEN.len();
    let (before, after) = text.split_at_checked(at)?;
    let comma = if after.starts_with('}') { "" } else { "," };
    Some(Bytes::from(format!("{before}\"{TASK_IDS}\":{}{comma}{after}", json!(ids))))
}

/// Tells of the tasks until the client leaves or the node stops.
pub(super) async fn listen(tools: &Toolbox, caller: &Caller, context: &SubscriptionContext) {
    let request = context.request_context();
    let head = request.extensions.get::<Head>();
    let watched = head.and_then(|head| head.extensions.get::<Watched>()).cloned().unwrap_or_default();
    let stopping = head.and_then(|head| head.extensions.get::<Stopping>()).map(|Stopping(stop)| stop.clone());
    let stop = stopping.unwrap_or_default();
    tokio::select! {
        () = context.cancelled() => {}
        () = stop.cancelled() => {}
        () = follow(tools, caller, request, &watched.ids) => {}
    }
}

/// Returns when nothing will change any more.
async fn follow(tools: &Toolbox, caller: &Caller, request: &RequestContext<RoleServer>, ids: &[String]) {
    let Some(mut changes) = tools.changes().filter(|_| !ids.is_empty()) else { return pending().await };
    let client = Client::of(request);
    let mut told: BTreeMap<String, TaskView> = BTreeMap::new();
    let is_over = |told: &BTreeMap<String, TaskView>, id: &String| told.get(id).is_some_and(TaskView::is_over);
    while !ids.iter().all(|id| is_over(&told, id)) {
        // What changes behind this look ends the wait for the next one.
        changes.mark_unchanged();
        for id in ids {
            if is_over(&told, id) {
                continue;
            }
            let Ok(task) = tools.task(caller, id) else { continue };
            if told.get(id) == Some(&task) {
                continue;
            }
            let news = TaskStatusNotificationParams::new(detailed(tools.catalogue(), &task, client));
            let mut news = TaskStatusNotification::new(news);
            let mut meta = NotificationMetaObject::new();
            meta.set_subscription_id(request.id.clone());
            news.extensions.insert(meta);
            let sent = request.peer.send_notification(ServerNotification::TaskStatusNotification(news)).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "tell a client of a task");
                return pending().await;
            }
            told.insert(id.clone(), task);
        }
        if changes.changed().await.is_err() {
            return;
        }
        sleep(LOOK_PAUSE).await;
    }
    pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_the_message_of_a_client_that_takes_tasks() {
        let check = |method: &str, extension: &str, ids: Value, expected: Result<&[&str], Value>| {
            let able = json!({"io.modelcontextprotocol/clientCapabilities": {"extensions": {extension: {}}}});
            let params = json!({"_meta": able, "notifications": {"taskIds": ids}});
            let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
            let expected = expected.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
            assert_eq!(asked(message.to_string().as_bytes()), expected, "{message}");
        };
        check(METHOD, TASKS_EXTENSION_ID, json!(["a", "b", "a", 7]), Ok(&["a", "b"]));
        check(METHOD, TASKS_EXTENSION_ID, json!("a"), Ok(&[]));
        check(METHOD, "other", json!(["a"]), Err(json!(1)));
        check(METHOD, "other", json!([]), Err(json!(1)));
        check(METHOD, "other", Value::Null, Ok(&[]));
        check("tools/call", "other", json!([METHOD]), Ok(&[]));
        assert_eq!(asked(b"{"), Ok(Vec::new()));
        let many: Vec<String> = (0..100).map(|number| format!("t{number}")).collect();
        let able = json!({"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_EXTENSION_ID: {}}}});
        let message = json!({"method": METHOD, "params": {"_meta": able, "notifications": {"taskIds": many}}});
        assert_eq!(asked(message.to_string().as_bytes()).map(|ids| ids.len()), Ok(WATCHED_MAX));
    }

    #[test]
    fn the_acknowledgement_names_what_was_taken_and_nothing_else_is_touched() {
        let ids = ["a".to_owned(), "b".to_owned()];
        let check = |data: &str, expected: Option<&str>| {
            let found = with_ids(data.as_bytes(), &ids);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{data}");
        };
        check(
            r#"data: {"method":"notifications/subscriptions/acknowledged","params":{"notifications":{}}}"#,
            Some(
                r#"data: {"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["a","b"]}}}"#,
            ),
        );
        check(
            r#"{"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"x":1}}}"#,
            Some(
                r#"{"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["a","b"],"x":1}}}"#,
            ),
        );
        check(r#"data: {"method":"notifications/tasks","params":{"notifications":{}}}"#, None);
        check(": ping", None);
    }
}
