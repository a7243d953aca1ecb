//! One request at one node: a connection of its own, the request by HTTP, and what came of it.
//!
//! Always: what came of a request is one of three things that may be acted upon: it was answered, it was not begun, or
//! nobody knows, where a node that hangs is told from others. One that did not go out whole was not begun, since nodes
//! read a message to its end before they look at it. Dropping an exchange closes its connection, which is how nodes
//! hear that nobody waits any more.

use std::future::pending;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request as HttpRequest, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::era::MODERN;
use super::events::{Events, MESSAGE_BYTES_MAX};
use super::message::Params;
use super::telling::Telling;
use super::wire::{Counted, Wire};
use crate::http_client::deepest;

/// A connection to a node, and what to ask for there.
pub(crate) struct Way {
    pub(crate) wire: Box<dyn Wire>,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// The ways to nodes, in the order in which they are to be gone.
pub(crate) trait Ways: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;
    /// What people call the node at the end of one.
    fn name(&self, node: usize) -> String;
    /// Whether who goes it is who they are on this machine. At the end of all others they are programs of the node's
    /// machine, with fewer rights and with keys and tasks of their own.
    fn has_own_rights(&self, node: usize) -> bool;
    /// Whether two of them lead to the same node, so that what hangs at the end of one hangs at the other's.
    fn is_same_node(&self, one: usize, other: usize) -> bool;
    /// Goes one.
    fn connect(&self, node: usize) -> BoxFuture<'static, io::Result<Way>>;
}

/// A request as nodes get it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Among all that this process asks.
    pub(crate) id: u64,
    pub(crate) method: String,
    pub(crate) params: Params,
}

/// What came of a request at a node.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The node's last word, with the id that it was sent under.
    Answered(Value),
    /// Nothing was done. Why, and the node's own word where it is one of the protocol.
    NotBegun(String, Option<Value>),
    /// It was sent, and nobody knows what was done. Why.
    Unknown(String),
    /// The same, and the node answers nothing else either.
    Hung(String),
}

/// What a message of a node is, to who waits for the answer to a request.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Answer,
    Notification,
    Other,
}

// === impl Sent ===

impl Sent {
    fn body(&self) -> Bytes {
        let message = json!({"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params});
        Bytes::from(message.to_string())
    }

    fn request(&self, host: &str, path: &str) -> Result<HttpRequest<Full<Bytes>>, http::Error> {
        let mut request = HttpRequest::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", in_header(&self.method));
        if let Some(name) = name_of(&self.method, &self.params) {
            request = request.header("mcp-name", in_header(name));
        }
        request.body(Full::new(self.body()))
    }
}

/// What a request names, for those who look at its head alone.
fn name_of<'a>(method: &str, params: &'a Params) -> Option<&'a str> {
    let key = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return None,
    };
    params.get(key).and_then(Value::as_str)
}

/// A text as it may stand in a header.
fn in_header(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim() == text;
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    if is_plain && !looks_encoded { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) }
}

/// Asks a node, and hands on what it tells until its last word.
pub(crate) async fn exchange(way: Way, sent: &Sent, telling: &mut Telling) -> Outcome {
    let Way { wire, host, path } = way;
    let not_begun = |why: String| Outcome::NotBegun(why, None);
    let request = match sent.request(&host, &path) {
        Ok(request) => request,
        Err(error) => return not_begun(error.to_string()),
    };
    let whole = request.body().size_hint().lower();
    let (wire, taken) = Counted::new(wire);
    let (mut sender, connection) = match http1::handshake::<_, Full<Bytes>>(TokioIo::new(wire)).await {
        Ok(opened) => opened,
        Err(error) => return not_begun(deepest(&error)),
    };
    let asking = async {
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Outcome::Unknown(deepest(&error)),
        };
        let (head, body) = response.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if head.status.is_success() && kind.starts_with("text/event-stream") {
            return follow(body, sent.id, telling).await;
        }
        match Limited::new(body, MESSAGE_BYTES_MAX).collect().await {
            Ok(whole) => judged(head.status.as_u16(), &whole.to_bytes(), sent.id),
            Err(error) => Outcome::Unknown(deepest(&*error)),
        }
    };
    // What drives the connection has nothing to say; what it carries does.
    let driving = async {
        drop(connection.await);
        pending::<Outcome>().await
    };
    let outcome = tokio::select! {
        biased;
        outcome = asking => outcome,
        outcome = driving => outcome,
    };
    match outcome {
        // Its head is counted, too, so this is less than all of it.
        Outcome::Unknown(why) if taken.bytes() <= whole => not_begun(format!("{why}, before it had the whole request")),
        other => other,
    }
}

/// Hands on what a stream tells, until its last word.
async fn follow(mut body: Incoming, id: u64, telling: &mut Telling) -> Outcome {
    let mut events = Events::default();
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return Outcome::Unknown(deepest(&error)),
        };
        let Ok(found) = events.push(&data) else {
            return Outcome::Unknown(format!("a message has more than {} MiB", MESSAGE_BYTES_MAX >> 20));
        };
        for text in found {
            let message: Value = serde_json::from_slice(&text).unwrap_or_default();
            match kind_of(&message, id) {
                Kind::Answer => return Outcome::Answered(message),
                Kind::Notification => telling.note(message).await,
                // Nodes ask nothing here.
                Kind::Other => {}
            }
        }
    }
    Outcome::Unknown("the answer ended before its last word".to_owned())
}

fn kind_of(message: &Value, id: u64) -> Kind {
    let has = |key: &str| message.get(key).is_some();
    let is_for_us = message["id"].as_u64() == Some(id);
    match (has("method"), has("result"), has("error")) {
        (true, false, false) if !has("id") => Kind::Notification,
        (false, true, false) if is_for_us => Kind::Answer,
        // An error that was made before the id was read has none.
        (false, false, true) if is_for_us || message["id"].is_null() => Kind::Answer,
        _ => Kind::Other,
    }
}

/// What an answer in one piece says.
fn judged(status: u16, body: &[u8], id: u64) -> Outcome {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_answer = kind_of(&message, id) == Kind::Answer;
    // Who is sent elsewhere, who may not ask here, who asks too much, what is stopping, and what cannot do such a
    // thing, which is no node: the door says so before anything is done.
    let is_turned_away = matches!(status, 301 | 307 | 308 | 401 | 403 | 405 | 421 | 429 | 501 | 503);
    match (is_answer, is_turned_away) {
        (true, true) if message.get("error").is_some() => {
            let why = message["error"]["message"].as_str().unwrap_or_default();
            Outcome::NotBegun(format!("it answered {status}: {why}"), Some(message))
        }
        (true, _) => Outcome::Answered(message),
        (false, true) => Outcome::NotBegun(format!("it answered {status}"), None),
        (false, false) if status == 404 => Outcome::NotBegun("it has no /mcp".to_owned(), None),
        (false, false) => Outcome::Unknown(format!("it answered {status}, and nothing of the protocol")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn what_an_answer_says_decides_whether_anything_was_done() {
        let check = |status: u16, body: &str, expected: &str| {
            let found = match judged(status, body.as_bytes(), 7) {
                Outcome::Answered(message) => format!("answered {}", message["id"]),
                Outcome::NotBegun(_, told) => format!("not begun, told {}", told.is_some()),
                Outcome::Unknown(_) | Outcome::Hung(_) => "unknown".to_owned(),
            };
            assert_eq!(found, expected, "{status} {body}");
        };
        let refusal = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#;
        check(200, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "answered 7");
        check(400, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#, "answered 7");
        check(404, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}"#, "answered 7");
        check(400, refusal, "answered null");
        check(413, refusal, "answered null");
        check(403, refusal, "not begun, told true");
        check(429, refusal, "not begun, told true");
        check(503, refusal, "not begun, told true");
        check(403, "", "not begun, told false");
        check(301, "<html>", "not begun, told false");
        check(503, "too many client connections", "not begun, told false");
        check(501, "<html>", "not begun, told false");
        check(404, "404 page not found", "not begun, told false");
        check(200, "<html>", "unknown");
        check(200, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, "unknown");
        check(200, r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, "unknown");
        check(200, r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#, "unknown");
        check(202, "", "unknown");
        check(303, "", "unknown");
        check(500, "", "unknown");
        check(502, "<html>", "unknown");
    }

    #[tokio::test]
    async fn a_request_that_did_not_go_out_whole_was_not_begun() {
        let check = async |padding: usize, taken_bytes: usize, may_be_begun: bool| {
            let params = json!({"name": "x", "padding": "x".repeat(padding)}).as_object().cloned().expect("an object");
            let sent = Sent { id: 7, method: "tools/call".to_owned(), params };
            // What the node reads before it dies goes out, and as much more as may lie between.
            let (wire, mut node) = tokio::io::duplex(1 << 10);
            let way = Way { wire: Box::new(wire), host: "localhost".to_owned(), path: "/mcp".to_owned() };
            let dying = async {
                let mut read = vec![0; taken_bytes];
                node.read_exact(&mut read).await.expect("as many bytes");
                drop(node);
            };
            let mut telling = Telling::nobody();
            let ((), outcome) = tokio::join!(dying, Box::pin(exchange(way, &sent, &mut telling)));
            let found = match &outcome {
                Outcome::Unknown(_) => true,
                Outcome::NotBegun(_, None) => false,
                other => panic!("{padding} {taken_bytes}: {other:?}"),
            };
            assert_eq!(found, may_be_begun, "{padding} {taken_bytes}: {outcome:?}");
        };
        check(0, 0, false).await;
        check(8 << 10, 0, false).await;
        check(8 << 10, 4 << 10, false).await;
        // It is small enough to have gone out whole.
        check(0, 64, true).await;
    }

    #[test]
    fn the_head_of_a_request_says_what_its_body_does() {
        let check = |method: &str, params: Value, expected: Option<&str>| {
            let params = params.as_object().cloned().expect("an object");
            let sent = Sent { id: 7, method: method.to_owned(), params };
            let request = sent.request("localhost", "/mcp").expect("a request");
            let word = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!((word("mcp-method"), word("mcp-name")), (Some(method), expected), "{method}");
            assert_eq!(word("mcp-protocol-version"), Some("2026-07-28"));
        };
        check("tools/list", json!({"name": "x"}), None);
        check("tools/call", json!({"name": "pull_model"}), Some("pull_model"));
        check("tools/call", json!({"name": "ä b"}), Some("=?base64?w6QgYg==?="));
        check("tools/call", json!({"name": " padded "}), Some("=?base64?IHBhZGRlZCA=?="));
        check("tools/call", json!({"name": "=?base64?literal?="}), Some("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="));
        check("tools/call", json!({}), None);
        check("resources/read", json!({"uri": "lab://a"}), Some("lab://a"));
        check("tasks/get", json!({"taskId": "task_1"}), Some("task_1"));
    }
}
