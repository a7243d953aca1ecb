//! Messages of clients, as they stand on the wire: of the revision without sessions, and of the handshake.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::load::Question;

/// The door's path.
pub(super) const PATH: &str = "/mcp";
/// Both forms of an answer, as the protocol wants a client to take them.
pub(super) const BOTH: &str = "application/json, text/event-stream";
/// The last revision that begins with a handshake.
pub(super) const HANDSHAKE: &str = "2025-11-25";
/// The tool that looks at least: one word about the node, from what it has in memory.
pub(super) const NO_OP: &str = "health_check";

/// The revision in which every request stands by itself.
const MODERN: &str = "2026-07-28";
const LIST_HEADERS: &[(&str, &str)] =
    &[("accept", BOTH), ("mcp-protocol-version", MODERN), ("mcp-method", "tools/list")];
const CALL_HEADERS: &[(&str, &str)] =
    &[("accept", BOTH), ("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", NO_OP)];
/// What a good answer says. A refusal has status 200, too.
const HAS_TOOLS: &str = r#""tools":["#;
const IS_NO_ERROR: &str = r#""isError":false"#;

/// Asks for all tools.
pub(super) fn list(node: SocketAddr) -> Question {
    let body = modern("tools/list", json!({}));
    Question { headers: LIST_HEADERS, says: HAS_TOOLS, ..Question::post(node, PATH, body) }
}

/// Calls the tool that does least.
pub(super) fn call(node: SocketAddr) -> Question {
    let body = modern("tools/call", json!({"name": NO_OP, "arguments": {}}));
    Question { headers: CALL_HEADERS, says: IS_NO_ERROR, ..Question::post(node, PATH, body) }
}

fn modern(method: &str, mut params: Value) -> Bytes {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    });
    request(7, method, &params).to_string().into()
}

/// The first message of a client of the handshake.
pub(super) fn hello() -> Value {
    let own = json!({"name": "bench", "version": "1"});
    request(1, "initialize", &json!({"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": own}))
}

/// Its second one, to which nobody answers.
pub(super) fn greeted() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

/// A request.
pub(super) fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_the_message_says() {
        let node = SocketAddr::from(([127, 0, 0, 1], 1));
        for question in [list(node), call(node)] {
            let message: Value = serde_json::from_slice(&question.body).expect("JSON");
            let header = |name: &str| question.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
            assert_eq!(header("mcp-method"), message["method"].as_str());
            assert_eq!(header("mcp-name"), message["params"]["name"].as_str());
            let meta = &message["params"]["_meta"];
            assert_eq!(header("mcp-protocol-version"), meta["io.modelcontextprotocol/protocolVersion"].as_str());
        }
    }
}
