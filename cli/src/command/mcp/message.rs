//! One line of the assistant, read: a request, a word that ends one, or what is refused. And the errors it is told.
//!
//! Always: an error that is made here carries the id of its request where that could be read, and null where it could
//! not.

use serde_json::{Map, Value, json};

use super::ids::{id_in, is_id};

/// JSON-RPC's code of a text that is no JSON.
pub(crate) const PARSE_ERROR: i64 = -32_700;
/// JSON-RPC's code of JSON that is no request, or that may not be sent.
pub(crate) const INVALID_REQUEST: i64 = -32_600;
/// JSON-RPC's code of params that make no sense.
pub(crate) const INVALID_PARAMS: i64 = -32_602;
/// JSON-RPC's code of what is not the caller's fault.
pub(crate) const INTERNAL_ERROR: i64 = -32_603;
/// The protocol's code of a revision that is not spoken.
pub(crate) const UNSUPPORTED_VERSION: i64 = -32_022;

/// What a request says beside its method.
pub(crate) type Params = Map<String, Value>;

/// A request that wants an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: Value,
    pub(crate) method: String,
    pub(crate) params: Params,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    Request(Request),
    /// The answer to the request of this id is wanted no more.
    Cancelled(Value),
    /// Nothing is to be done; what it was.
    Note(String),
    /// It is no message; what to answer.
    Refused(Value),
}

/// Reads a line.
pub(crate) fn read(line: &[u8]) -> Message {
    let mut fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(Value::Array(_)) => {
            let text = "several messages in one line are no part of this protocol; send each in a line of its own";
            return refused(&Value::Null, INVALID_REQUEST, text);
        }
        Ok(_) => return refused(&Value::Null, INVALID_REQUEST, "the line is no JSON-RPC 2.0 message"),
        Err(error) => {
            let text = format!("the line is no JSON that can be read: {error}");
            return refused(&id_in(line).unwrap_or_default(), PARSE_ERROR, text);
        }
    };
    let id = fields.remove("id");
    let readable = id.clone().filter(is_id).unwrap_or_default();
    let method = match fields.remove("method") {
        Some(Value::String(method)) => method,
        None if fields.contains_key("result") || fields.contains_key("error") => {
            return Message::Note("an answer to nothing that was asked".to_owned());
        }
        _ => return refused(&readable, INVALID_REQUEST, "the message names no method"),
    };
    if fields.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return refused(&readable, INVALID_REQUEST, "the message does not say that it is JSON-RPC 2.0");
    }
    let params = match fields.remove("params") {
        // Typed clients write null for what they do not say.
        None | Some(Value::Null) => Params::new(),
        Some(Value::Object(params)) => params,
        Some(_) if id.is_none() => return Message::Note(method),
        Some(_) => return refused(&readable, INVALID_PARAMS, "params must be an object"),
    };
    match id {
        None => notification(method, &params),
        Some(id) if is_id(&id) => Message::Request(Request { id, method, params }),
        Some(_) => refused(&Value::Null, INVALID_REQUEST, "an id is a text or a whole number"),
    }
}

fn notification(method: String, params: &Params) -> Message {
    let ended = params.get("requestId").filter(|id| method == "notifications/cancelled" && is_id(id));
    ended.map_or(Message::Note(method), |id| Message::Cancelled(id.clone()))
}

fn refused(id: &Value, code: i64, text: impl Into<String>) -> Message {
    Message::Refused(error(id, code, text, Value::Null))
}

/// An error for the assistant; `data` is left out where it is null.
pub(crate) fn error(id: &Value, code: i64, text: impl Into<String>, data: Value) -> Value {
    let mut error = json!({"code": code, "message": text.into()});
    if !data.is_null() {
        error["data"] = data;
    }
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

/// Why a node did not do what was asked: an error of the protocol, or what a tool says in the place of its result.
pub(crate) fn refusal_of(answer: &Value) -> Option<Value> {
    if let Some(error) = answer.get("error") {
        return Some(error.clone());
    }
    let result = answer.get("result").filter(|result| result["isError"].as_bool() == Some(true))?;
    serde_json::from_str(result["content"][0]["text"].as_str()?).ok()
}

/// A result for the assistant.
pub(crate) fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> (Value, i64) {
        match read(line.as_bytes()) {
            Message::Refused(told) => (told["id"].clone(), told["error"]["code"].as_i64().expect("a code")),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_id_where_there_is_one() {
        let check = |line: &str, id: Value, code: i64| assert_eq!(refusal(line), (id, code), "{line}");
        check("nonsense", Value::Null, PARSE_ERROR);
        check("{", Value::Null, PARSE_ERROR);
        check(&"[".repeat(100_000), Value::Null, PARSE_ERROR);
        let deep = "[".repeat(1_000);
        check(&format!(r#"{{"jsonrpc":"2.0","id":7,"method":"x","params":{{"a":{deep}"#), json!(7), PARSE_ERROR);
        check(r#"{"jsonrpc":"2.0","id":"a","method":"x","params":{"a":"\ud800"}}"#, json!("a"), PARSE_ERROR);
        check(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, Value::Null, INVALID_REQUEST);
        check("[]", Value::Null, INVALID_REQUEST);
        check("7", Value::Null, INVALID_REQUEST);
        check("{}", Value::Null, INVALID_REQUEST);
        check(r#"{"jsonrpc":"2.0","id":1}"#, json!(1), INVALID_REQUEST);
        check(r#"{"jsonrpc":"2.0","id":"a","method":7}"#, json!("a"), INVALID_REQUEST);
        check(r#"{"id":1,"method":"ping"}"#, json!(1), INVALID_REQUEST);
        check(r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, json!(1), INVALID_REQUEST);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, json!(1), INVALID_PARAMS);
        check(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, Value::Null, INVALID_REQUEST);
        check(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, Value::Null, INVALID_REQUEST);
        check(r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, Value::Null, INVALID_REQUEST);
        assert!(matches!(read(b"\"\xff\""), Message::Refused(_)));
    }

    #[test]
    fn a_request_is_read_and_what_wants_no_answer_gets_none() {
        let request = Request { id: json!("a"), method: "ping".to_owned(), params: Params::new() };
        assert_eq!(read(br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#), Message::Request(request.clone()));
        assert_eq!(read(br#"{"jsonrpc":"2.0","id":"a","method":"ping","params":null}"#), Message::Request(request));
        let check = |line: &str, expected: Message| assert_eq!(read(line.as_bytes()), expected, "{line}");
        let note = |text: &str| Message::Note(text.to_owned());
        check(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, note("notifications/initialized"));
        check(r#"{"jsonrpc":"2.0","method":"notifications/x","params":7}"#, note("notifications/x"));
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, note("an answer to nothing that was asked"));
        let cancelled = |id: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
        };
        check(&cancelled("7"), Message::Cancelled(json!(7)));
        check(&cancelled("\"7\""), Message::Cancelled(json!("7")));
        check(&cancelled("{}"), note("notifications/cancelled"));
    }

    #[test]
    fn what_was_not_done_says_why_in_the_protocols_words_or_in_a_tools() {
        let check = |answer: Value, expected: Option<Value>| assert_eq!(refusal_of(&answer), expected, "{answer}");
        check(error(&json!(7), INVALID_PARAMS, "no", Value::Null), Some(json!({"code": -32_602, "message": "no"})));
        let said = |text: &str, is_error: bool| {
            result(&json!(7), json!({"content": [{"type": "text", "text": text}], "isError": is_error}))
        };
        check(said(r#"{"code":"no_quorum"}"#, true), Some(json!({"code": "no_quorum"})));
        check(said(r#"{"code":"no_quorum"}"#, false), None);
        check(said("no JSON", true), None);
        check(result(&json!(7), json!({"isError": true})), None);
        check(result(&json!(7), json!({})), None);
    }

    #[test]
    fn errors_and_results_have_their_shape() {
        let told = error(&json!(7), INTERNAL_ERROR, "away", json!({"code": "x"}));
        let expected = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"away","data":{"code":"x"}}}"#;
        assert_eq!(told.to_string(), expected);
        assert_eq!(result(&json!("a"), json!({})).to_string(), r#"{"jsonrpc":"2.0","id":"a","result":{}}"#);
    }
}
