//! `/mcp` on the administrator's socket: the protocol as at the clients' door, for the user whose program opened it.
//!
//! What `ollamax mcp` speaks to. Always: the principal is the system's word on who opened the socket, and a request of
//! nobody is refused; form and size are checked as at the clients' door. Pages of browsers do not get here, so a
//! request with an origin is refused.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::routing::any;
use bytes::Bytes;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;

use ollamax_tools::{Caller, Principal};
use ollamax_types::RequestId;

use super::refusal::Refusal;
use super::server::Server;
use super::{Admitted, MESSAGE_BYTES_MAX, Service, check_message, check_version, hand_over, is_json, protocol_config};
use crate::grpc::SocketUser;
use crate::http::body;
use crate::toolbox::Toolbox;

/// The route, for the routes of the socket.
pub(crate) fn route(tools: Toolbox) -> Router {
    let service = service(tools.clone());
    let assistants = any(move |request: Request| {
        let (tools, service) = (tools.clone(), service.clone());
        async move {
            match admit(request).await {
                Ok(admitted) => hand_over(&tools, &service, admitted).await,
                Err(refusal) => refusal.into_response(),
            }
        }
    });
    Router::new().route("/mcp", assistants)
}

/// The protocol behind the socket. Its host is always `localhost`, which is all that is taken by default.
fn service(tools: Toolbox) -> Service {
    let server = Server::new(tools);
    let sessions = Arc::new(NeverSessionManager::default());
    Service::Tools(StreamableHttpService::new(move || Ok(server.clone()), sessions, protocol_config()))
}

/// Decides who calls, and reads the message.
async fn admit(request: Request) -> Result<Admitted, Refusal> {
    let (mut head, sent) = request.into_parts();
    let SocketUser(uid) = head.extensions.get::<SocketUser>().copied().ok_or_else(Refusal::not_local)?;
    let request_id = head.extensions.get::<RequestId>().cloned().unwrap_or_default();
    head.extensions.insert(Caller { principal: Principal::of_socket(uid), request: request_id, trace: None });
    let (is_json, is_taken) = (is_json(&head.headers), !head.headers.contains_key(header::ORIGIN));
    // Without a message there is nothing to check; the protocol refuses what is no POST.
    let mut bytes = Bytes::new();
    if head.method == Method::POST && is_json {
        bytes = body::read_small(&head.headers, sent, MESSAGE_BYTES_MAX).await?;
        check_message(&bytes)?;
        check_version(&head.headers, &bytes)?;
    }
    Ok(Admitted { head, bytes, is_json, is_taken, held: None })
}
