//! A small HTTP client for a node's `api` listener: one request, the answer as it arrives.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::args::{ApiArgs, Global};
use crate::error::Failure;
use crate::place;

/// Base URL of the listener to speak to.
pub(crate) fn base(api: &ApiArgs, global: &Global) -> Result<String, Failure> {
    if let Some(url) = &api.api {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let file = place::node_file(global)?;
    let url = file["api"].as_str().filter(|url| !url.is_empty());
    url.map(str::to_owned).ok_or_else(|| Failure::other("node.json names no api listener", "the daemon is starting"))
}

/// Sends a request and returns the answer once its head is there; an error answer is a failure.
pub(crate) async fn send(
    method: Method,
    url: &str,
    body: Option<serde_json::Value>,
) -> Result<Response<Incoming>, Failure> {
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let request =
        Request::builder().method(method).uri(url).header("content-type", "application/json").body(Full::new(body));
    let request = request.map_err(|error| Failure::usage(format!("{url}: {error}"), "--api http://HOST:11435"))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await;
    let answer =
        answer.map_err(|error| Failure::new(7, format!("no answer from {url}"), deepest(&error), "ollamax status"))?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Err(refused(status, &body))
}

/// The whole answer as JSON.
pub(crate) async fn get_json(url: &str) -> Result<serde_json::Value, Failure> {
    let answer = send(Method::GET, url, None).await?;
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(|error| Failure::other("the answer broke off", error.to_string()))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Failure::other(format!("{url} answered no JSON"), error.to_string()))
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = parsed["error"].as_str().or_else(|| parsed["error"]["message"].as_str()).unwrap_or_default();
    let what = if text.is_empty() { format!("the node answered {status}") } else { text.to_owned() };
    let (exit, next) = match status {
        StatusCode::NOT_FOUND => (3, "ollamax model list"),
        StatusCode::BAD_REQUEST => (2, "correct the request"),
        StatusCode::SERVICE_UNAVAILABLE => (7, "ollamax status"),
        _ => (1, "ollamax logs --level warn"),
    };
    Failure::new(exit, what, "", next)
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_error_shapes_are_kept() {
        let native = refused(StatusCode::NOT_FOUND, br#"{"error":"model 'x' not found"}"#);
        assert_eq!(native, Failure::new(3, "model 'x' not found", "", "ollamax model list"));
        let openai = refused(StatusCode::BAD_REQUEST, br#"{"error":{"message":"bad"}}"#);
        assert_eq!(openai.exit(), 2);
        assert_eq!(refused(StatusCode::BAD_GATEWAY, b"<html>").exit(), 1);
    }
}
