//! The tools on the administrator's socket, for `ollamax tool`.
//!
//! Who calls is the user whose program opened the socket; a call of nobody is refused. What is checked and what is
//! written down is the same as at `/mcp`.

use serde_json::{Value, json};
use tonic::Request;

use ollamax_proto::v1;
use ollamax_proto::v1::tools_server;
use ollamax_tools::{Call, CallError, Caller, Principal, Progress, Started, Tool, ToolError};
use ollamax_types::ErrorCode;

use super::daemon::AdminError;
use super::{Reply, SocketUser, id_of, reply, tasks};
use crate::toolbox::Toolbox;

/// What shows the tools there are.
const LIST: &str = "ollamax tool list";

/// The tools, at the socket of one node.
#[derive(Clone)]
pub(super) struct Tools(pub(super) Toolbox);

// === impl Tools ===

impl Tools {
    fn list(&self, caller: &Caller, name: &str) -> Result<v1::ListToolsReply, AdminError> {
        let listed = self.0.catalogue().listed(&caller.principal);
        let tools: Vec<v1::ToolView> =
            listed.filter(|tool| name.is_empty() || tool.spec().name == name).map(view).collect();
        if tools.is_empty() && !name.is_empty() {
            return Err(unknown(name));
        }
        Ok(v1::ListToolsReply { tools })
    }

    async fn call(&self, caller: Caller, asked: v1::CallToolRequest) -> Result<v1::CallToolReply, AdminError> {
        let v1::CallToolRequest { name, arguments_json, no_wait } = asked;
        let arguments = if arguments_json.is_empty() {
            json!({})
        } else {
            serde_json::from_str::<Value>(&arguments_json).map_err(|error| {
                let next = format!("ollamax tool describe {name} shows examples");
                AdminError::new(ErrorCode::BadRequest, "the arguments are no JSON", error.to_string(), next)
            })?
        };
        let progress = Progress::nobody();
        let answer = if no_wait {
            self.0.start(caller, &name, arguments, progress).await
        } else {
            let asked = Call { caller, once: None, progress };
            self.0.call(asked, None, &name, arguments).await.map(Started::Answered)
        };
        Ok(match answer.map_err(refused)? {
            Started::Answered(value) => v1::CallToolReply { result_json: value.to_string(), task: None },
            Started::Task(task) => v1::CallToolReply { result_json: String::new(), task: Some(tasks::view(task)) },
        })
    }
}

fn view(tool: &Tool) -> v1::ToolView {
    let spec = tool.spec();
    v1::ToolView {
        name: spec.name.to_owned(),
        title: spec.title.to_owned(),
        description: spec.description.to_owned(),
        family: spec.family.to_owned(),
        class: spec.class.as_str().to_owned(),
        permission: spec.permission.as_str().to_owned(),
        declared_json: tool.describe().to_string(),
    }
}

fn unknown(name: &str) -> AdminError {
    AdminError::new(ErrorCode::BadRequest, format!("there is no tool {name:?}"), "", LIST)
}

fn refused(error: CallError) -> AdminError {
    match error {
        CallError::UnknownTool(name) => unknown(&name),
        CallError::Failed(error) => told(error, LIST),
    }
}

/// What a tool refused; where it does not say what to do, `list` shows what there is.
pub(super) fn told(error: ToolError, list: &str) -> AdminError {
    let ToolError { code, message, next, .. } = error;
    let next = if next.is_empty() { list.to_owned() } else { next };
    AdminError::new(code, message, "", next)
}

/// The user whose program asks.
pub(super) fn caller_of<T>(request: &Request<T>) -> Result<Caller, AdminError> {
    let user = request.extensions().get::<SocketUser>();
    let nobody = || {
        let why = "the system does not say which user opened the socket";
        AdminError::new(ErrorCode::Forbidden, "nobody may call tools", why, "ollamax doctor")
    };
    let SocketUser(uid) = user.copied().ok_or_else(nobody)?;
    Ok(Caller { principal: Principal::of_socket(uid), request: id_of(request), trace: None })
}

#[tonic::async_trait]
impl tools_server::Tools for Tools {
    async fn list_tools(&self, request: Request<v1::ListToolsRequest>) -> Reply<v1::ListToolsReply> {
        reply(caller_of(&request).and_then(|caller| self.list(&caller, &request.get_ref().name)))
    }

    async fn call_tool(&self, request: Request<v1::CallToolRequest>) -> Reply<v1::CallToolReply> {
        let caller = caller_of(&request)?;
        reply(self.call(caller, request.into_inner()).await)
    }

    async fn show_open_api(&self, request: Request<v1::ShowOpenApiRequest>) -> Reply<v1::ShowOpenApiReply> {
        reply(caller_of(&request).map(|caller| {
            let document = self.0.openapi(&caller.principal);
            v1::ShowOpenApiReply { document_json: document.to_string() }
        }))
    }
}
