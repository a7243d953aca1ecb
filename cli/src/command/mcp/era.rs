//! The two eras of the protocol: what an assistant of the handshake says and hears, in the words of 2026-07-28, which
//! are all that nodes are asked in.
//!
//! An assistant of the handshake declares what it can do once and for its connection; nodes hear it as of one that can
//! be asked nothing, since it would not understand a node's question inside of an answer.

use serde_json::{Map, Value, json};

use super::message::{self, INVALID_PARAMS, Params, Request, UNSUPPORTED_VERSION};

/// The revision in which nodes are asked.
pub(crate) const MODERN: &str = "2026-07-28";
/// The revisions of the handshake that are spoken, oldest first.
const HANDSHAKES: [&str; 2] = ["2025-06-18", "2025-11-25"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_KEY: &str = "io.modelcontextprotocol/clientInfo";
const SERVER_KEY: &str = "io.modelcontextprotocol/serverInfo";
/// What a server can do that both eras know.
const SHARED_CAPABILITIES: [&str; 4] = ["tools", "prompts", "resources", "completions"];
/// Words of results that the handshake does not know.
const MODERN_WORDS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// How a request is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// Each request says who asks, and in which revision.
    Modern,
    /// That was said at the beginning.
    Handshake,
}

/// The era of a request. One that says of itself nothing of what the newer one demands is of the older one, also where
/// nobody has shaken hands: it makes sense all the same.
pub(crate) fn era_of(request: &Request) -> Era {
    if request.method == "initialize" {
        return Era::Handshake;
    }
    let meta = request.params.get("_meta");
    let says = |key: &str| meta.is_some_and(|meta| meta.get(key).is_some());
    // Only the newer one has this method.
    if says(VERSION_KEY) || says(CAPABILITIES_KEY) || request.method == "server/discover" {
        return Era::Modern;
    }
    Era::Handshake
}

/// What is answered here to a request of the newer era that no node would take.
pub(crate) fn refusal(request: &Request) -> Option<Value> {
    let version = request.params.get("_meta").and_then(|meta| meta.get(VERSION_KEY));
    match version.and_then(Value::as_str) {
        Some(MODERN) => None,
        Some(other) => {
            let text = format!("revision {other} is not spoken here in this form");
            let data = json!({"supported": spoken(), "requested": other});
            Some(message::error(&request.id, UNSUPPORTED_VERSION, text, data))
        }
        None => {
            let text = format!("params._meta must say {VERSION_KEY}");
            Some(message::error(&request.id, INVALID_PARAMS, text, Value::Null))
        }
    }
}

/// Every revision that an assistant may speak, oldest first.
fn spoken() -> Vec<&'static str> {
    HANDSHAKES.into_iter().chain([MODERN]).collect()
}

/// Params of a request of the handshake, as a node wants them; `client` is what the assistant said of itself.
pub(crate) fn modernised(mut params: Params, client: &Value) -> Params {
    let mut meta = match params.remove("_meta") {
        Some(Value::Object(meta)) => meta,
        _ => Map::new(),
    };
    meta.insert(VERSION_KEY.to_owned(), MODERN.into());
    meta.insert(CAPABILITIES_KEY.to_owned(), json!({}));
    meta.insert(CLIENT_KEY.to_owned(), client.clone());
    params.insert("_meta".to_owned(), Value::Object(meta));
    params
}

/// What this program asks nodes for by itself, in the name of its assistant or in its own one.
pub(crate) fn own_request(method: &str, client: &Value) -> Request {
    Request { id: Value::Null, method: method.to_owned(), params: modernised(Params::new(), client) }
}

/// What a node is asked only to hear that it is there.
pub(crate) fn sign_of_life() -> Request {
    own_request("server/discover", &own_name())
}

/// A node's last word on a request, as an assistant of the handshake knows it.
pub(crate) fn of_handshake(mut told: Value) -> Value {
    if let Some(result) = told.get_mut("result").and_then(Value::as_object_mut) {
        for word in MODERN_WORDS {
            result.remove(word);
        }
    }
    told
}

/// What an assistant of the handshake said of itself; this program in its place where that says too little.
pub(crate) fn client_of(params: &Params) -> Value {
    let says = |client: &Value, key: &str| client.get(key).is_some_and(Value::is_string);
    let client = params.get("clientInfo").filter(|client| says(client, "name") && says(client, "version"));
    client.cloned().unwrap_or_else(own_name)
}

/// This program, for nodes and for assistants.
pub(crate) fn own_name() -> Value {
    json!({"name": "ollamax", "title": "OllamaMax", "version": env!("CARGO_PKG_VERSION")})
}

/// What is answered to `initialize`; `discovered` is what a node said of itself, where one did. A lab that is away
/// comes back, so its assistants are let in without it, too.
pub(crate) fn initialized(params: &Params, discovered: Option<&Value>) -> Value {
    let wanted = params.get("protocolVersion").and_then(Value::as_str);
    let version = HANDSHAKES.into_iter().find(|version| wanted == Some(*version)).unwrap_or(HANDSHAKES[1]);
    let found = |key: &str| discovered.and_then(|discovered| discovered.get(key));
    let mut capabilities = Map::new();
    for name in SHARED_CAPABILITIES {
        if found("capabilities").is_some_and(|all| all.get(name).is_some()) {
            // Nobody hears of changes between requests in this era.
            capabilities.insert(name.to_owned(), json!({}));
        }
    }
    if discovered.is_none() {
        capabilities.insert("tools".to_owned(), json!({}));
    }
    let server = found("_meta").and_then(|meta| meta.get(SERVER_KEY)).cloned().unwrap_or_else(own_name);
    let mut result = json!({"protocolVersion": version, "capabilities": capabilities, "serverInfo": server});
    if let Some(instructions) = found("instructions") {
        result["instructions"] = instructions.clone();
    }
    result
}

/// What is said of the lab where no node says it: that it has tools. It holds for no time at all.
pub(crate) fn discovered_without_nodes() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": spoken(),
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_KEY: own_name()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, params: Value) -> Request {
        let params = params.as_object().cloned().expect("an object");
        Request { id: json!(7), method: method.to_owned(), params }
    }

    fn said(version: &str) -> Value {
        json!({"_meta": {VERSION_KEY: version, CAPABILITIES_KEY: {}}})
    }

    #[test]
    fn a_request_says_by_itself_of_which_era_it_is() {
        let check = |method: &str, params: Value, expected: Era| {
            assert_eq!(era_of(&request(method, params.clone())), expected, "{method} {params}");
        };
        check("tools/list", json!({}), Era::Handshake);
        check("tools/list", json!({"_meta": {"progressToken": 1}}), Era::Handshake);
        check("tools/list", json!({"_meta": 7}), Era::Handshake);
        check("tools/list", said(MODERN), Era::Modern);
        check("tools/list", json!({"_meta": {CAPABILITIES_KEY: {}}}), Era::Modern);
        check("server/discover", json!({}), Era::Modern);
        check("initialize", json!({"protocolVersion": "2025-06-18"}), Era::Handshake);
        check("initialize", said(MODERN), Era::Handshake);
    }

    #[test]
    fn revisions_that_are_not_spoken_are_refused_with_those_that_are() {
        let check = |params: Value, expected: Option<i64>| {
            let told = refusal(&request("tools/list", params.clone()));
            assert_eq!(told.as_ref().and_then(|told| told["error"]["code"].as_i64()), expected, "{params}");
            assert!(told.is_none_or(|told| told["id"] == 7));
        };
        check(said(MODERN), None);
        check(said("2099-01-01"), Some(UNSUPPORTED_VERSION));
        check(said("2025-11-25"), Some(UNSUPPORTED_VERSION));
        check(json!({"_meta": {CAPABILITIES_KEY: {}}}), Some(INVALID_PARAMS));
        check(json!({"_meta": {VERSION_KEY: 7}}), Some(INVALID_PARAMS));
        let told = refusal(&request("x", said("2099-01-01"))).expect("refused");
        let data = json!({"supported": ["2025-06-18", "2025-11-25", MODERN], "requested": "2099-01-01"});
        assert_eq!(told["error"]["data"], data);
    }

    #[test]
    fn a_request_of_the_handshake_gets_what_nodes_demand_and_keeps_what_it_has() {
        let params = request("tools/call", json!({"name": "x", "_meta": {"progressToken": "p"}})).params;
        let asked = Value::Object(modernised(params, &json!({"name": "editor"})));
        let meta = json!({
            "progressToken": "p", VERSION_KEY: MODERN, CAPABILITIES_KEY: {}, CLIENT_KEY: {"name": "editor"},
        });
        assert_eq!(asked, json!({"name": "x", "_meta": meta}));
        let told =
            json!({"id": 7, "result": {"resultType": "complete", "ttlMs": 1, "cacheScope": "public", "tools": []}});
        assert_eq!(of_handshake(told), json!({"id": 7, "result": {"tools": []}}));
        let failed = json!({"id": 7, "error": {"code": -32_602, "message": "no"}});
        assert_eq!(of_handshake(failed.clone()), failed);
    }

    #[test]
    fn a_handshake_agrees_on_a_revision_and_tells_what_a_node_said_of_itself() {
        let params = |version: &str| request("initialize", json!({"protocolVersion": version})).params;
        let check = |version: &str, expected: &str| {
            assert_eq!(initialized(&params(version), None)["protocolVersion"], expected, "{version}");
        };
        check("2025-06-18", "2025-06-18");
        check("2025-11-25", "2025-11-25");
        check("2024-11-05", "2025-11-25");
        check(MODERN, "2025-11-25");
        let node = json!({
            "capabilities": {"tools": {"listChanged": true}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
            "instructions": "Ask.",
            "_meta": {SERVER_KEY: {"name": "ollamax", "version": "9"}},
        });
        let told = initialized(&params("2025-06-18"), Some(&node));
        let expected = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "ollamax", "version": "9"},
            "instructions": "Ask.",
        });
        assert_eq!(told, expected);
        let alone = initialized(&params("2025-06-18"), None);
        assert_eq!((&alone["capabilities"], &alone["serverInfo"]), (&json!({"tools": {}}), &own_name()));
        assert_eq!(client_of(&params("x")), own_name());
        let said_of = |client: Value| client_of(&request("initialize", json!({"clientInfo": client})).params);
        assert_eq!(said_of(json!({"name": "editor"})), own_name());
        let editor = json!({"name": "editor", "version": "1", "title": "Editor"});
        assert_eq!(said_of(editor.clone()), editor);
    }
}
