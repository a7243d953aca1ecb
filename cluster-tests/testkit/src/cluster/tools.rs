//! A node's tools over its admin socket, and the tasks in which some of them work; every call bounded.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use ollamax_proto::v1;
use ollamax_proto::v1::tasks_client::TasksClient;
use ollamax_proto::v1::tools_client::ToolsClient;

use super::admin::{CALL_TIME, CallError, bounded};

/// Longest wait for a tool that works in a task; a node gives up before.
const WAIT_TIME: Duration = Duration::from_secs(60);

/// A node's tools. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Tools {
    node: String,
    tools: ToolsClient<Channel>,
    tasks: TasksClient<Channel>,
}

// === impl Tools ===

impl Tools {
    /// Prepares a connection; it is made with the first call.
    ///
    /// # Errors
    /// When the path cannot be written as an address.
    pub fn connect(node: &str, socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).context("name the admin socket")?;
        let channel = endpoint.connect_lazy();
        let (tools, tasks) = (ToolsClient::new(channel.clone()), TasksClient::new(channel));
        Ok(Self { node: node.to_owned(), tools, tasks })
    }

    /// Calls a tool, waits for it, and gives its answer as the JSON text that it is.
    ///
    /// # Errors
    /// With the node's code and message.
    pub async fn call(&self, name: &str, arguments: &Value) -> Result<String, CallError> {
        let request = v1::CallToolRequest {
            name: name.to_owned(),
            arguments_json: arguments.to_string(),
            ..v1::CallToolRequest::default()
        };
        Ok(bounded(&self.node, WAIT_TIME, self.tools.clone().call_tool(request)).await?.result_json)
    }

    /// Begins a tool that works in a task, and comes back with the task.
    ///
    /// # Errors
    /// As [`Tools::call`].
    pub async fn begin(&self, name: &str, arguments: &Value) -> Result<v1::TaskView, CallError> {
        let (name, arguments_json) = (name.to_owned(), arguments.to_string());
        let request = v1::CallToolRequest { name, arguments_json, no_wait: true };
        let reply = bounded(&self.node, CALL_TIME, self.tools.clone().call_tool(request)).await?;
        Ok(reply.task.unwrap_or_default())
    }

    /// A task, as this node has it on record.
    ///
    /// # Errors
    /// As [`Tools::call`].
    pub async fn task(&self, id: &str) -> Result<v1::TaskView, CallError> {
        let request = v1::GetTaskRequest { id: id.to_owned(), wait_ms: 0 };
        let reply = bounded(&self.node, CALL_TIME, self.tasks.clone().get_task(request)).await?;
        Ok(reply.task.unwrap_or_default())
    }

    /// The tasks that were begun last, up to 200, as this node has them on record.
    ///
    /// # Errors
    /// As [`Tools::call`].
    pub async fn tasks(&self) -> Result<Vec<v1::TaskView>, CallError> {
        let request = v1::ListTasksRequest { limit: 200, ..v1::ListTasksRequest::default() };
        Ok(bounded(&self.node, CALL_TIME, self.tasks.clone().list_tasks(request)).await?.tasks)
    }

    /// Says yes or no to a task that waits for it.
    ///
    /// # Errors
    /// As [`Tools::call`].
    pub async fn decide(&self, id: &str, approved: bool) -> Result<v1::TaskView, CallError> {
        let request = v1::DecideTaskRequest { id: id.to_owned(), approved, attempt: None };
        let reply = bounded(&self.node, CALL_TIME, self.tasks.clone().decide_task(request)).await?;
        Ok(reply.task.unwrap_or_default())
    }
}
