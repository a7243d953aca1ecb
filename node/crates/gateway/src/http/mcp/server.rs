//! The protocol's words for the catalogue: what it lists, what it calls, what it says of itself.
//!
//! Handlers only translate. A request without a caller is refused: the door puts one beside every request that it lets
//! in. A tool that works in a task is answered with the task where the client of that very request takes one; everybody
//! else waits for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::request::Parts as Head;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CustomRequest, CustomResult, DiscoverResult,
    ErrorCode, GetTaskParams, GetTaskResult, Implementation, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ServerCapabilities, ServerConfig, SubscriptionFilter, Tool as Shown, ToolAnnotations, UpdateTaskParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;
use tracing::{Instrument as _, Span};

use ollamax_security::draw_span;
use ollamax_tools::{Call, Caller, Progress, Started, Tool};
use ollamax_types::{ErrorCode as Refused, Trace};

use super::approval::Round;
use super::listen;
use super::progress::Hearer;
use super::state::Seal;
use super::tasks::{self, Client, told};
use crate::http::trace;
use crate::toolbox::Toolbox;

/// How long a list may be thought to hold: it changes with the release and the configuration alone.
const TTL_MS: u64 = 60_000;
/// Protocols that are spoken.
const VERSIONS: &[ProtocolVersion] =
    &[ProtocolVersion::V_2025_06_18, ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];
/// Those on streams ([`super::sse`]): what has a handshake, and the revision that knows no other transport over HTTP.
const STREAM_VERSIONS: &[ProtocolVersion] =
    &[ProtocolVersion::V_2024_11_05, ProtocolVersion::V_2025_06_18, ProtocolVersion::V_2025_11_25];
/// The revision from which on there is no handshake.
pub(crate) const WITHOUT_HANDSHAKE: &str = "2026-07-28";
/// Methods that rmcp reads into types of their own. What it hands over under one of these names has other params.
const TYPED: [&str; 9] = [
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/update",
    "tools/call",
    "tools/list",
];
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
    /// `None`: nobody is asked here before a call begins.
    seal: Option<Seal>,
    versions: &'static [ProtocolVersion],
}

// === impl Server ===

impl Server {
    pub(crate) fn new(tools: Toolbox) -> Self {
        let everybody = ollamax_tools::Principal::of_socket(0);
        let shown = tools.catalogue().listed(&everybody).map(|tool| (tool.spec().name, shown(tool))).collect();
        let seal = tools.keys().map(Seal::new);
        Self { tools, shown: Arc::new(shown), seal, versions: VERSIONS }
    }

    /// The same view for streams.
    pub(crate) fn for_streams(self) -> Self {
        Self { versions: STREAM_VERSIONS, ..self }
    }

    /// Calls a tool: with the task for an answer where the client takes one, else with what comes of it.
    async fn answer(
        &self,
        caller: Caller,
        client: Client,
        name: &str,
        arguments: Value,
        progress: Progress,
    ) -> Result<CallToolResponse, ErrorData> {
        if !client.takes_tasks {
            let asked = Call { caller, once: None, progress };
            return told(self.tools.call(asked, None, name, arguments).await);
        }
        match self.tools.start(caller, name, arguments, progress).await {
            Ok(Started::Answered(value)) => told(Ok(value)),
            Ok(Started::Task(task)) => {
                Ok(CallToolResponse::Task(tasks::created(self.tools.catalogue(), &task, client)))
            }
            Err(error) => told(Err(error)),
        }
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
        .with_raw_output_schema(Arc::new(tool.output().brief().clone()))
        .with_annotations(hints)
}

/// Whom the door let in.
pub(super) fn caller_of(context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
    let caller = context.extensions.get::<Head>().and_then(|head| head.extensions.get::<Caller>());
    caller.cloned().ok_or_else(|| ErrorData::internal_error("the request has no caller", None))
}

/// What has the lines of a call tell of the trace that its client names, and the trace as it goes on from the call.
fn traced(context: &RequestContext<RoleServer>) -> (Span, Option<Trace>) {
    let headers = context.extensions.get::<Head>().map(|head| &head.headers);
    let said = trace::of(context.meta.get_traceparent(), context.meta.get_tracestate(), headers);
    let Some(said) = said else { return (Span::none(), None) };
    let own = draw_span(&said);
    (trace::span(&said, &own), Some(own))
}

/// Whether a request is of a revision without a handshake. In these alone a client carries a state to the next one.
pub(super) fn is_without_handshake(context: &RequestContext<RoleServer>) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let own = Implementation::new("ollamax", env!("CARGO_PKG_VERSION")).with_title("OllamaMax");
        let able = ServerCapabilities::builder().enable_tools();
        let able = if self.tools.has_tasks() { able.enable_tasks() } else { able };
        ServerConfig::new(able.build())
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
            .with_server_info(own)
            .with_instructions(INSTRUCTIONS)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(self.versions)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let told = DiscoverResult::from_server_info(self.versions.to_vec(), self.get_info());
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
        let (span, trace) = traced(&context);
        let (caller, client) = (Caller { trace, ..caller_of(&context)? }, Client::of(&context));
        let CallToolRequestParams { name, arguments, request_state, input_responses, .. } = request;
        let tool = self.tools.catalogue().find(&name);
        let arguments = Value::Object(tasks::with_key(tool, arguments.unwrap_or_default(), &context.meta));
        let (progress, mut hearer) = Hearer::of(&context);
        let seal = self.seal.as_ref().filter(|_| client.asks && !client.takes_tasks && is_without_handshake(&context));
        let (state, responses) = (request_state.as_deref(), input_responses.as_ref());
        let call = async {
            if let Some(seal) = seal {
                let round = Round { tools: &self.tools, caller: &caller, name: &name, arguments: &arguments };
                if let Some(answer) = Box::pin(round.answer(seal, state, responses, &progress)).await? {
                    return Ok(answer);
                }
            }
            self.answer(caller, client, &name, arguments, progress).await
        };
        let call = call.instrument(span);
        let answer = tokio::select! {
            biased;
            // A caller who left has no use for the answer; dropping the call ends it, and leaves a task that it began.
            () = context.ct.cancelled() => return Err(ErrorData::internal_error("the caller left", None)),
            answer = call => answer,
            never = hearer.go_on() => match never {},
        };
        hearer.finish().await;
        answer
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let (caller, client) = (caller_of(&context)?, Client::of(&context));
        let task = self.tools.find_task(&caller, &request.task_id).await.map_err(|error| tasks::refused(&error))?;
        Ok(GetTaskResult::new(tasks::detailed(self.tools.catalogue(), &task, client)))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let caller = caller_of(&context)?;
        let task = self.tools.find_task(&caller, &request.task_id).await.map_err(|error| tasks::refused(&error))?;
        let Some(yes) = tasks::decision(&task, &request.input_responses)? else { return Ok(()) };
        match self.tools.decide_task(&caller, &task.id, yes, Some(task.attempt)).await {
            Ok(_) => Ok(()),
            // This node did not know yet that it has been decided: then this answer is one too many, and passed over.
            Err(error) if error.code == Refused::PreconditionFailed => Ok(()),
            Err(error) => Err(tasks::refused(&error)),
        }
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let caller = caller_of(&context)?;
        let ended = self.tools.cancel_task(&caller, &request.task_id).await;
        ended.map(drop).map_err(|error| tasks::refused(&error))
    }

    /// Of what the filter can name nothing changes while a node runs; tasks are read from the message by the door.
    fn accepted_subscription_filter(&self, _requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.tools.has_tasks().then(SubscriptionFilter::new)
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let caller = caller_of(context.request_context())?;
        listen::listen(&self.tools, &caller, &context).await;
        Ok(())
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
