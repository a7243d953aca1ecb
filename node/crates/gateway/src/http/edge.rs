//! Lets a request in by the rules of `callers`, or answers it, and tells browsers which pages may read what.

// The engine has this door too and may import no crate of ours; one file for both keeps them alike.
#[path = "../../../../engine/src/http/callers.rs"]
mod callers;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;

use ollamax_types::ErrorCode;

use crate::error::{ApiError, Shape};
use crate::http::OpenDoor;

pub(crate) use self::callers::{Callers, hostname, is_own_address};

use self::callers::Verdict;

/// What of our own a page may send and read.
const SENT: &str = "X-Request-Id";
/// What a page that speaks MCP sends.
const SENT_TO_TOOLS: &str = "MCP-Protocol-Version,Mcp-Method,Mcp-Name";
const READ: &str = "X-OllamaMax-Node,X-OllamaMax-Error,X-Request-Id";

/// Lets a request in, or answers it.
pub(crate) async fn check(State(door): State<Arc<OpenDoor>>, request: Request, next: Next) -> Response<Body> {
    if let Some(error) = said_twice(request.headers()) {
        return error.into_response(Shape::of_path(request.uri().path()));
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asks = request.method() == Method::OPTIONS;
    let decision = door.callers.decide(asks, &host_of(&request), origin.as_ref().map(text));
    let mut response = match decision.verdict {
        Verdict::Served => next.run(request).await,
        Verdict::Answered => empty(StatusCode::NO_CONTENT),
        Verdict::Refused => empty(StatusCode::FORBIDDEN),
    };
    if let (Some(cors), Some(origin)) = (decision.cors, origin) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
        for (name, value) in cors {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if asks {
            headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
            headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT_TO_TOOLS));
        }
    }
    response
}

/// What says twice where a request goes, or where it comes from, is read by two programs in two ways.
fn said_twice(headers: &HeaderMap) -> Option<ApiError> {
    let name = [header::HOST, header::ORIGIN].into_iter().find(|name| headers.get_all(name).iter().nth(1).is_some())?;
    Some(ApiError::new(ErrorCode::BadRequest, format!("the header {name} comes more than once")))
}

/// Whether a host names this machine, also where the door serves every host: a page whose name was pointed at this
/// machine calls it from this machine, and the host is all that tells it from a program here.
pub(crate) fn names_this_machine(door: &OpenDoor, host: &str) -> bool {
    let hostname = door.callers.hostname.clone();
    let strict = Callers { checks_hosts: true, hostname, origins: Vec::new(), is_own: door.callers.is_own };
    strict.decide(false, host, None).verdict == Verdict::Served
}

/// The host that the client called: of the request line (HTTP/2), else of the Host header.
pub(crate) fn host_of(request: &Request) -> String {
    let authority = request.uri().authority().map(Authority::as_str);
    authority.or_else(|| request.headers().get(header::HOST).map(text)).unwrap_or_default().to_owned()
}

/// What cannot be read names nobody.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("unreadable.invalid")
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
