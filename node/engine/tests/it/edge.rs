//! The edge: fixed routes, unknown ones, garbage, sizes, and pages of other sites.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_fixed_routes_answer_as_ollama() -> Result<()> {
    let server = Server::start().await?;
    let check = async |method: Method, path: &str, status: u16, text: &str| -> Result<()> {
        let response = server.send(method.clone(), path, None).await?;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert_eq!(response.text().await?, text, "{method} {path}");
        Ok(())
    };
    check(Method::GET, "/", 200, "Ollama is running").await?;
    check(Method::HEAD, "/", 200, "").await?;
    check(Method::HEAD, "/api/tags", 200, "").await?;
    check(Method::HEAD, "/api/version", 200, "").await?;
    check(Method::GET, "/api/ps", 200, r#"{"models":[]}"#).await?;
    check(Method::GET, "/api/nothing", 404, "404 page not found").await?;
    check(Method::GET, "/api/chat", 405, "405 method not allowed").await?;
    let version = server.send(Method::GET, "/api/version", None).await?;
    assert_eq!(version.headers()["server"], concat!("ollamax-engine/", env!("CARGO_PKG_VERSION")));
    assert_eq!(version.text().await?, r#"{"version":"0.24.0"}"#, "the Ollama whose API it speaks");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_gets_one_clear_line_and_the_server_goes_on() -> Result<()> {
    let server = Server::start().await?;
    let check = async |body: Vec<u8>, status: u16, start: &str| -> Result<()> {
        let response = server.raw(Method::POST, "/api/chat", &[], body).await?;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let text = response.text().await?;
        assert!(text.starts_with(&format!("{{\"error\":\"{start}")), "{text}");
        Ok(())
    };
    check(Vec::new(), 400, "missing request body").await?;
    check(b"{\"model\":".to_vec(), 400, "unexpected EOF").await?;
    check(vec![0xff; 1000], 400, "invalid character 'ÿ' looking for beginning of value").await?;
    check("[".repeat(1_000_000).into_bytes(), 400, "invalid character '[' exceeded max depth").await?;
    check(b"{\"model\":[]}".to_vec(), 400, "json: cannot unmarshal array into Go struct field").await?;
    check(b"null".to_vec(), 400, "model is required").await?;
    check(vec![b' '; 64 * 1024 * 1024 + 1], 413, "request body too large").await?;
    assert_eq!(server.get("/api/ps").await?, json!({"models": []}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_pages_are_refused() -> Result<()> {
    let server = Server::start().await?;
    let check = async |name: &str, value: &str, status: StatusCode| -> Result<()> {
        let response = server.raw(Method::GET, "/api/tags", &[(name, value)], Vec::new()).await?;
        assert_eq!(response.status(), status, "{name}: {value}");
        Ok(())
    };
    check("host", "evil.example", StatusCode::FORBIDDEN).await?;
    check("host", "localhost:1", StatusCode::OK).await?;
    check("origin", "https://evil.example", StatusCode::FORBIDDEN).await?;
    check("origin", "http://localhost:3000", StatusCode::OK).await?;
    let asked = server.raw(Method::OPTIONS, "/api/chat", &[("origin", "http://localhost:3000")], Vec::new()).await?;
    assert_eq!(asked.status(), StatusCode::NO_CONTENT);
    assert_eq!(asked.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert!(asked.headers()["access-control-allow-methods"].to_str()?.contains("DELETE"));
    assert_eq!(asked.headers()["vary"], "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
    let plain = server.raw(Method::OPTIONS, "/api/chat", &[("host", "localhost")], Vec::new()).await?;
    assert_eq!((plain.status(), plain.headers().get("vary")), (StatusCode::NO_CONTENT, None));
    Ok(())
}
