//! What a request must look like before any handler sees it: the rules of `callers`, and the answers to browsers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::callers::{Callers, Verdict};

/// Lets a request in, or answers it.
pub(super) async fn check(State(callers): State<Arc<Callers>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let asks = request.method() == Method::OPTIONS;
    let decision = callers.decide(asks, &host_of(&request), origin.as_ref().map(text));
    let mut response = match decision.verdict {
        Verdict::Served => next.run(request).await,
        Verdict::Answered => StatusCode::NO_CONTENT.into_response(),
        Verdict::Refused => StatusCode::FORBIDDEN.into_response(),
    };
    if let (Some(cors), Some(origin)) = (decision.cors, origin) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in cors {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    response
}

/// The host that the client called: of the request line (HTTP/2), else of the Host header.
fn host_of(request: &Request) -> String {
    let authority = request.uri().authority().map(Authority::as_str);
    authority.or_else(|| request.headers().get(HOST).map(text)).unwrap_or_default().to_owned()
}

/// What cannot be read names nobody.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("unreadable.invalid")
}
