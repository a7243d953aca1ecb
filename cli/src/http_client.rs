//! A small HTTP client for a node's `api` listener: one request, the answer as it arrives.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use ollamax_types::ErrorCode;

use crate::args::{ApiArgs, Global};
use crate::error::{Failure, exit_of};
use crate::place;

/// Longest whole answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most that is read of a refusal; a longer one is told by its status alone.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

/// Base URL of the listener to speak to.
pub(crate) fn base(api: &ApiArgs, global: &Global) -> Result<String, Failure> {
    if let Some(url) = &api.api {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let file = place::node_file(global)?;
    let url = file["api"].as_str().filter(|url| !url.is_empty());
    let starting = || Failure::new(7, "node.json names no api listener", "the daemon is starting", "ollamax status");
    url.map(str::to_owned).ok_or_else(starting)
}

/// The id that a node gave a request; empty where it gave none.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    word(headers, "x-request-id").to_owned()
}

fn word<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
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
    let answer = answer.map_err(|error| {
        Failure::new(7, format!("no answer from {url}"), deepest(&error), "ollamax status").caused_by(&error)
    })?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(Collected::to_bytes).unwrap_or_default();
    Err(refused(head.status, &head.headers, &body))
}

/// The whole answer as JSON.
pub(crate) async fn get_json(url: &str) -> Result<serde_json::Value, Failure> {
    let answer = send(Method::GET, url, None).await?;
    let id = request_id(answer.headers());
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| broken_off(&*error).with_request_id(&id))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let next = "look whether a node listens there: ollamax node list";
        Failure::new(1, format!("{url} answered no JSON"), error.to_string(), next).with_request_id(&id)
    })
}

/// An answer that began and did not end.
pub(crate) fn broken_off(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(1, "the answer broke off", deepest(error), "repeat the command").caused_by(error)
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let parsed: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = parsed["error"].as_str().or_else(|| parsed["error"]["message"].as_str()).unwrap_or_default();
    let what = if text.is_empty() { format!("the node answered {status}") } else { text.to_owned() };
    let exit = match status {
        StatusCode::NOT_FOUND => 3,
        StatusCode::BAD_REQUEST => 2,
        StatusCode::SERVICE_UNAVAILABLE => 7,
        _ => 1,
    };
    let failure = match ErrorCode::from_text(word(headers, "x-ollamamax-error")) {
        Some(ErrorCode::Overloaded) => {
            Failure::told(ErrorCode::Overloaded, &what, "", "repeat the command in a moment")
        }
        Some(code) => Failure::told(code, &what, "", next(exit_of(code))),
        None => Failure::new(exit, what, "", next(exit)),
    };
    failure.with_request_id(&request_id(headers))
}

fn next(exit: u8) -> &'static str {
    match exit {
        2 => "correct the request",
        3 => "ollamax model list",
        7..=9 => "ollamax status",
        _ => "ollamax logs --level warn",
    }
}

/// What is behind all that an error wraps.
pub(crate) fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_words_of_both_error_shapes_are_kept() {
        let none = HeaderMap::new();
        let native = refused(StatusCode::NOT_FOUND, &none, br#"{"error":"model 'x' not found"}"#);
        assert_eq!(native, Failure::new(3, "model 'x' not found", "", "ollamax model list"));
        let openai = refused(StatusCode::BAD_REQUEST, &none, br#"{"error":{"message":"bad"}}"#);
        assert_eq!(openai.exit(), 2);
        assert_eq!(refused(StatusCode::BAD_GATEWAY, &none, b"<html>").exit(), 1);
    }

    #[test]
    fn the_code_of_a_node_decides_and_the_id_of_the_request_is_kept() {
        let check = |status: StatusCode, code: &'static str, exit: u8| {
            let mut headers = HeaderMap::new();
            headers.insert("x-ollamamax-error", HeaderValue::from_static(code));
            headers.insert("x-request-id", HeaderValue::from_static("r-7"));
            let fields = refused(status, &headers, br#"{"error":"no"}"#).fields();
            assert_eq!(
                (&fields["code"], &fields["exit"], &fields["requestId"]),
                (&code.into(), &exit.into(), &"r-7".into())
            );
        };
        check(StatusCode::SERVICE_UNAVAILABLE, "overloaded", 1);
        check(StatusCode::SERVICE_UNAVAILABLE, "runtime_unavailable", 7);
        check(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", 9);
        check(StatusCode::NOT_FOUND, "model_not_found", 3);
    }
}
