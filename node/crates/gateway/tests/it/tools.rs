//! Tools over plain HTTP: as scripts list and call them.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use ollamax_gateway::http::ClientAddress;
use ollamax_tools::{Principal, Tool};

use crate::mcp::{door, tools};
use crate::world::{call, get, header, post, text};

fn local(mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

#[tokio::test]
async fn tools_are_listed_as_they_were_declared() {
    let (status, body) = text(&door(), local(get("/tools"))).await;
    let found: Value = serde_json::from_str(&body).expect("JSON");
    let declared = tools(None);
    let declared: Vec<Value> = declared.listed(&Principal::loopback()).map(Tool::describe).collect();
    assert_eq!((status, &found["tools"]), (200, &Value::from(declared)));
    let says = &found["tools"][2];
    assert_eq!((&says["name"], &says["class"], &says["permission"]), (&json!("says"), &json!("read"), &json!("read")));
}

#[tokio::test]
async fn a_tool_answers_with_its_result_or_with_its_codes_status() {
    let router = door();
    let asked = async |name: &str, body: &str| {
        let response = call(&router, local(post(&format!("/tools/{name}"), body.to_owned()))).await;
        let code = header(&response, "x-ollamamax-error").unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("whole").to_bytes();
        (status, code, String::from_utf8(bytes.to_vec()).expect("text"))
    };
    let answer = |status: u16, code: &str, body: &str| (status, code.to_owned(), body.to_owned());
    assert_eq!(asked("says", r#"{"words": "x"}"#).await, answer(200, "", r#"{"words":"x"}"#));
    let said = r#"{"error":"nobody has it; list_models"}"#;
    assert_eq!(asked("fails", r#"{"words": "x"}"#).await, answer(404, "model_not_found", said));
    let said = r#"{"error":"there is no tool \"nothing\"; GET /tools lists what there is"}"#;
    assert_eq!(asked("nothing", "{}").await, answer(404, "bad_request", said));
    for (name, body, status, code) in [
        ("says", "", 400, "bad_request"),
        ("says", "[]", 400, "bad_request"),
        ("says", "{", 400, "bad_request"),
        ("manages", r#"{"words": "x"}"#, 403, "forbidden"),
    ] {
        let (found, told, body) = asked(name, body).await;
        assert_eq!((found, told.as_str()), (status, code), "{body}");
    }
}

#[tokio::test]
async fn who_is_not_on_this_machine_neither_lists_nor_calls() {
    let router = door();
    for request in [get("/tools"), post("/tools/says", r#"{"words": "x"}"#)] {
        let (status, body) = text(&router, request).await;
        assert_eq!((status, body.contains("ssh -L")), (403, true), "{body}");
    }
    let mut forwarded = local(post("/tools/says", r#"{"words": "x"}"#));
    forwarded.headers_mut().insert("x-forwarded-for", "10.0.0.9".parse().expect("a value"));
    assert_eq!(text(&router, forwarded).await.0, 403);
}
