//! The protocol's words for the catalogue: what it lists, what it calls, what it says of itself.
//!
//! Handlers only translate. A request without a caller is refused: the door puts one beside every request that it lets
//! in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::request::Parts as Head;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CustomRequest, CustomResult,
    DiscoverResult, ErrorCode, Implementation, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ServerCapabilities, ServerConfig, Tool as Shown, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;

use ollamax_tools::{CallError, Caller, Tool};

use crate::toolbox::Toolbox;

/// How long a list may be thought to hold: it changes with the release and the configuration alone.
const TTL_MS: u64 = 60_000;
/// Protocols that are spoken.
const VERSIONS: &[ProtocolVersion] =
    &[ProtocolVersion::V_2025_06_18, ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];
/// Methods that rmcp reads into types of their own. What it hands over under one of these names has other params.
const TYPED: [&str; 5] = ["initialize", "ping", "server/discover", "tools/call", "tools/list"];
/// What an assistant reads before it calls anything.
const INSTRUCTIONS: &str = "This is one node of an OllamaMax cluster: machines that serve language models as one. Every \
                            node answers for all. Call health_check when something does not work; errors say under \
                            next what to do.";

/// The protocol's view of the tools. Clones are the same view.
#[derive(Clone)]
pub(crate) struct Server {
    tools: Toolbox,
    /// By name, in the protocol's words.
    shown: Arc<BTreeMap<&'static str, Shown>>,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(tools: Toolbox) -> Self {
        let everybody = ollamax_tools::Principal::of_socket(0);
        let shown = tools.catalogue().listed(&everybody).map(|tool| (tool.spec().name, shown(tool))).collect();
        Self { tools, shown: Arc::new(shown) }
    }
}

/// The revisions that are spoken, oldest first.
pub(crate) fn spoken() -> Vec<&'static str> {
    VERSIONS.iter().map(ProtocolVersion::as_str).collect()
}

/// Whether the protocol has this revision, and it is not spoken here.
pub(crate) fn is_known_and_not_spoken(version: &str) -> bool {
    let is_in = |versions: &[ProtocolVersion]| versions.iter().any(|one| one.as_str() == version);
    is_in(ProtocolVersion::KNOWN_VERSIONS) && !is_in(VERSIONS)
}

/// A tool in the protocol's words.
fn shown(tool: &Tool) -> Shown {
    let spec = tool.spec();
    let hints = ToolAnnotations::new()
        .read_only(spec.hints.read_only)
        .destructive(spec.hints.destructive)
        .idempotent(spec.hints.idempotent)
        .open_world(spec.hints.open_world);
    Shown::new(spec.name, spec.description, Arc::new(tool.input().shown().clone()))
        .with_title(spec.title)
        .with_raw_output_schema(Arc::new(tool.output().shown().clone()))
        .with_annotations(hints)
}

/// Whom the door let in.
fn caller_of(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    let caller = context.extensions.get::<Head>().and_then(|head| head.extensions.get::<Caller>());
    caller.cloned().ok_or_else(|| ErrorData::internal_error("the request has no caller", None))
}

/// A tool's own refusal is an answer, which the assistant reads; a tool that does not exist is an error of the
/// protocol.
fn told(answer: Result<Value, CallError>) -> Result<CallToolResponse, ErrorData> {
    match answer {
        Ok(value) => Ok(CallToolResult::structured(value).into()),
        // As text alone: what is structured must fit the output schema.
        Err(CallError::Failed(error)) => {
            Ok(CallToolResult::error(vec![ContentBlock::text(error.to_json().to_string())]).into())
        }
        Err(error @ CallError::UnknownTool(_)) => Err(ErrorData::invalid_params(error.to_string(), None)),
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let own = Implementation::new("ollamax", env!("CARGO_PKG_VERSION")).with_title("OllamaMax");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
            .with_server_info(own)
            .with_instructions(INSTRUCTIONS)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(VERSIONS)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let told = DiscoverResult::from_server_info(VERSIONS.to_vec(), self.get_info());
        Ok(told.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let caller = caller_of(&context)?;
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params("the list has one page; ask without a cursor", None));
        }
        let listed = self.tools.catalogue().listed(&caller.principal);
        let listed = listed.filter_map(|tool| self.shown.get(tool.spec().name).cloned()).collect();
        // Another caller may see another list.
        Ok(ListToolsResult::with_all_items(listed).with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = caller_of(&context)?;
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        tokio::select! {
            biased;
            // A caller who left has no use for the answer; dropping the call ends it.
            () = context.ct.cancelled() => Err(ErrorData::internal_error("the caller left", None)),
            answer = self.tools.call(caller, &request.name, arguments) => told(answer),
        }
    }

    fn get_tool(&self, name: &str) -> Option<Shown> {
        self.shown.get(name).cloned()
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if TYPED.contains(&method.as_str()) {
            return Err(ErrorData::invalid_params(format!("these are no params of {method}"), None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None))
    }
}
