//! What the official suite of MCP looks for at `/mcp`, beside the node's own tools; there only where
//! `api.conformance_fixtures` is set, which loopback alone can be.
//!
//! The protocol, the door before it and the node's own tools are the same as ever: what is not one of these names goes
//! on to them. Nothing here reads or changes anything of the node, save that jobs stand among the tasks on record.

#![expect(deprecated, reason = "the suite looks for what the protocol will drop, too")]

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, CompleteRequestParams,
    CompleteResult, CompletionInfo, CustomRequest, CustomResult, DiscoverResult, ErrorCode, GetPromptRequestParams,
    GetPromptResponse, GetTaskParams, GetTaskResult, JsonObject, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, LoggingLevel, LoggingMessageNotificationParam, PaginatedRequestParams,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, TASKS_EXTENSION_ID, Tool as Shown,
    UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use ollamax_types::Clock;

use super::server::{Server, caller_of, is_without_handshake};
use super::state::Seal;
use crate::toolbox::Toolbox;

pub(crate) mod questions;

mod jobs;
mod rounds;
mod things;

use self::jobs::Jobs;
use self::rounds::Round;

/// How long a list may be thought to hold.
const TTL_MS: u64 = 60_000;
/// Changes that a subscriber may be behind.
const CHANGES_MAX: usize = 16;
/// Between two messages of a tool that sends several.
const PAUSE: Duration = Duration::from_millis(50);

/// What subscribers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Tools,
    Prompts,
}

/// The protocol's view of the tools with the fixtures beside them. Clones are the same view.
#[derive(Clone)]
pub(crate) struct Fixtures {
    server: Server,
    shown: Arc<Vec<Shown>>,
    seal: Seal,
    jobs: Jobs,
    changes: broadcast::Sender<Change>,
}

// === impl Fixtures ===

impl Fixtures {
    pub(crate) fn new(server: Server, tools: &Toolbox, seal: Seal) -> Self {
        let shown = things::tools().into_iter().chain(rounds::tools()).chain(jobs::tools()).collect();
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let jobs = Jobs::new(tools.record(), Clock::system());
        Self { server, shown: Arc::new(shown), seal, jobs, changes }
    }

    fn has(&self, tool: &str) -> bool {
        self.shown.iter().any(|shown| shown.name == tool)
    }

    /// Calls a fixture.
    async fn answer(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let declared = context.client_capabilities().unwrap_or_default();
        let caller = caller_of(context)?;
        let subject = caller.principal.subject().to_string();
        let none = JsonObject::new();
        if let Some(told) = things::answer(&request.name, request.arguments.as_ref().unwrap_or(&none)) {
            return told.map(Into::into);
        }
        let round = Round { request: &request, declared: declared.clone(), subject, seal: &self.seal };
        if let Some(answered) = round.answer() {
            return answered;
        }
        if let Some(answered) = self.jobs.answer(&caller, &request, &declared).await {
            return answered;
        }
        self.act(&request.name, &declared, context).await
    }

    /// Calls a fixture that does something while it works.
    async fn act(
        &self,
        name: &str,
        declared: &ClientCapabilities,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match name {
            "test_tool_with_progress" => tell_progress(context).await,
            "test_tool_with_logging" => {
                for words in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                    log(context, LoggingLevel::Info, words).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            "test_logging_tool" => {
                if let Some(level) = context.meta.log_level() {
                    log(context, level, "A level was asked for").await;
                }
            }
            "test_missing_capability" if declared.sampling.is_none() => {
                let needed = ClientCapabilities::builder().enable_sampling().build();
                return Err(ErrorData::missing_required_client_capability(needed));
            }
            "test_trigger_tool_change" => self.change(Change::Tools),
            "test_trigger_prompt_change" => self.change(Change::Prompts),
            "test_reconnection" => tokio::time::sleep(PAUSE).await,
            "test_missing_capability" => {}
            _ => {
                let what = format!("{name} asks its client in the midst of a call, which this revision does not have");
                return Err(ErrorData::invalid_params(what, None));
            }
        }
        things::told(&format!("{name} is done")).map(Into::into)
    }

    /// Tells all who listen at this node.
    fn change(&self, change: Change) {
        // That nobody listens is no fault.
        let _listeners = self.changes.send(change);
    }
}

/// Tells three steps, where the call asks for them.
async fn tell_progress(context: &RequestContext<RoleServer>) {
    let Some(token) = context.meta.get_progress_token() else { return };
    for done in [0.0, 50.0, 100.0] {
        let step = ProgressNotificationParam::new(token.clone(), done).with_total(100.0);
        // A caller who left is not told.
        let _told = context.peer.notify_progress(step).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn log(context: &RequestContext<RoleServer>, level: LoggingLevel, words: &str) {
    let line = LoggingMessageNotificationParam::new(level, json!(words)).with_logger("conformance");
    // A caller who left is not told.
    let _told = context.peer.notify_logging_message(line).await;
}

/// Tells a subscriber every change that it asked for.
async fn tell_changes(sink: SubscriptionSink, mut changes: broadcast::Receiver<Change>) -> Infallible {
    loop {
        // What it did not ask for, the sink keeps back.
        match changes.recv().await {
            Ok(Change::Tools) => drop(sink.notify_tool_list_changed().await),
            Ok(Change::Prompts) => drop(sink.notify_prompt_list_changed().await),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What the fixtures can, beside what the node can.
fn with_fixtures(mut capabilities: ServerCapabilities) -> ServerCapabilities {
    capabilities.logging = Some(JsonObject::new());
    capabilities.completions = Some(JsonObject::new());
    capabilities.tools.get_or_insert_default().list_changed = Some(true);
    capabilities.prompts.get_or_insert_default().list_changed = Some(true);
    let resources = capabilities.resources.get_or_insert_default();
    resources.list_changed = Some(true);
    resources.subscribe = Some(true);
    let extensions = capabilities.extensions.get_or_insert_default();
    extensions.entry(TASKS_EXTENSION_ID.to_owned()).or_default();
    capabilities
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        let mut info = self.server.get_info();
        info.capabilities = with_fixtures(info.capabilities);
        info
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        ServerHandler::supported_protocol_versions(&self.server)
    }

    async fn discover(&self, context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let mut told = self.server.discover(context).await?;
        told.capabilities = with_fixtures(told.capabilities);
        Ok(told)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut listed = Box::pin(self.server.list_tools(request, context)).await?;
        listed.tools.extend(self.shown.iter().cloned());
        listed.tools.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !self.has(&request.name) {
            return Box::pin(self.server.call_tool(request, context)).await;
        }
        tokio::select! {
            biased;
            () = context.ct.cancelled() => Err(ErrorData::internal_error("the caller left", None)),
            answered = Box::pin(self.answer(request, &context)) => answered,
        }
    }

    fn get_tool(&self, name: &str) -> Option<Shown> {
        self.shown.iter().find(|shown| shown.name == name).cloned().or_else(|| self.server.get_tool(name))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        self.server.on_custom_request(request, context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = &request.argument.value;
        let words = ["test", "testing", "text"].into_iter().filter(|word| word.starts_with(begun.as_str()));
        let found = CompletionInfo::with_all_values(words.map(ToOwned::to_owned).collect());
        found.map(CompleteResult::new).map_err(|error| ErrorData::internal_error(error, None))
    }

    /// Without a session there is nothing to keep it in: every line is sent. The revisions without a handshake have no
    /// such method.
    async fn set_level(
        &self,
        _request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if is_without_handshake(&context) {
            return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "logging/setLevel", None));
        }
        Ok(())
    }

    /// Taken, and nothing ever comes of it: these resources do not change.
    async fn subscribe(
        &self,
        _request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(things::resources()?.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(things::templates()?.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let found = things::resource_at(&request.uri)?;
        Ok(found.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public).into())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(things::prompts()?.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == rounds::PROMPT {
            return rounds::prompt(&request, &context.client_capabilities().unwrap_or_default());
        }
        things::prompt(&request.name, &request.arguments.unwrap_or_default()).map(Into::into)
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let told = tell_changes(context.sink().clone(), self.changes.subscribe());
        tokio::select! {
            ended = self.server.listen(context) => ended,
            never = told => match never {},
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let caller = caller_of(&context)?;
        let found = self.jobs.task(&caller, &request.task_id).await;
        match found {
            Some(task) => task.map(GetTaskResult::new),
            None => Box::pin(self.server.get_task(request, context)).await,
        }
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let caller = caller_of(&context)?;
        let found = self.jobs.update(&caller, &request.task_id, &request.input_responses).await;
        match found {
            Some(taken) => taken,
            None => Box::pin(self.server.update_task(request, context)).await,
        }
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let caller = caller_of(&context)?;
        let found = self.jobs.cancel(&caller, &request.task_id).await;
        match found {
            Some(taken) => taken,
            None => Box::pin(self.server.cancel_task(request, context)).await,
        }
    }
}
