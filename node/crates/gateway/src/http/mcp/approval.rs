//! The question before a call that destroys something, to the user of a client that carries a state and takes no tasks:
//! asked in the answer to one request, answered in the next one, at whichever node.
//!
//! Always: nobody is asked for what would be refused, nor, as far as this node has heard, under a key that was decided
//! about before; nothing is on record before there is an answer; a state counts for its caller, tool and arguments
//! alone, and its answer once, whoever brings it again, and wherever: what it came to is one task, whose id comes of
//! the state, and not of what comes with the answer. A key that the question was asked with is in the state, so that it
//! has effect once also where the question is asked again. Who says no, or nothing, has said no. Where the cluster has
//! no keys yet, the call goes as one without a user to ask.

use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, InputRequiredResult, InputResponses};
use serde_json::{Value, json};

use ollamax_tools::once::KEY;
use ollamax_tools::{Call, Caller, OnceKey, Progress};
use ollamax_types::Digest;
use ollamax_types::limits::TASK_TEXT_BYTES_MAX;

use super::state::{Seal, bound_to};
use super::tasks::{self, told};
use crate::toolbox::Toolbox;

/// Where the state says which round it is.
const ROUND: &str = "round";

/// A call, as one of its requests brings it.
pub(super) struct Round<'a> {
    pub(super) tools: &'a Toolbox,
    pub(super) caller: &'a Caller,
    pub(super) name: &'a str,
    pub(super) arguments: &'a Value,
}

// === impl Round ===

impl Round<'_> {
    /// Asks, or goes on with what was answered; `None`: nobody is asked about this call.
    ///
    /// # Errors
    /// When the state cannot be opened for this call, or the answer is none to the question.
    pub(super) async fn answer(
        &self,
        seal: &Seal,
        state: Option<&str>,
        responses: Option<&InputResponses>,
        progress: &Progress,
    ) -> Result<Option<CallToolResponse>, ErrorData> {
        if !self.tools.catalogue().needs_approval(self.name, self.arguments) || !seal.has_keys() {
            return Ok(None);
        }
        let bound_to = bound_to(&self.caller.principal.subject().to_string(), self.name, self.arguments);
        // It is opened before anything else is looked at.
        let opened = state.map(|sealed| seal.open(sealed, &bound_to)).transpose()?;
        let answer = responses.and_then(|responses| responses.get(tasks::APPROVAL));
        let (Some(opened), Some(answer)) = (opened, answer) else {
            return if self.is_decided() { Ok(None) } else { self.ask(seal, &bound_to).await.map(Some) };
        };
        let yes = tasks::said(answer)?.unwrap_or(false);
        let round = opened.get(ROUND).and_then(Value::as_str);
        let round = round.ok_or_else(|| ErrorData::invalid_params("requestState: it is of another call", None))?;
        let arguments = self.arguments_with(opened.get(KEY));
        let once = Some(OnceKey::of_round(round, &arguments));
        let asked = Call { caller: self.caller.clone(), once, progress: progress.clone() };
        told(self.tools.call(asked, Some(yes), self.name, arguments).await).map(Some)
    }

    /// With the key that the question was asked with, or without any: a client may draw another one for each request,
    /// and with each of them its answer would count once more.
    fn arguments_with(&self, key: Option<&Value>) -> Value {
        let mut arguments = self.arguments.clone();
        if let Some(fields) = arguments.as_object_mut() {
            fields.shift_remove(KEY);
            fields.extend(key.filter(|key| !key.is_null()).map(|key| (KEY.to_owned(), key.clone())));
        }
        arguments
    }

    /// Whether somebody has decided about the task of this call's key: it is told as it stands, whatever was said now.
    fn is_decided(&self) -> bool {
        let once = OnceKey::of(&self.caller.principal, self.name, self.arguments);
        let task = once.and_then(|once| self.tools.task(self.caller, &once.task().to_string()).ok());
        task.is_some_and(|task| !task.is_waiting())
    }

    async fn ask(&self, seal: &Seal, bound_to: &str) -> Result<CallToolResponse, ErrorData> {
        let plan = match self.tools.ask_first(self.caller, self.name, self.arguments).await {
            Ok(plan) => plan,
            Err(refused) => return told(Err(refused)),
        };
        let round = ollamax_security::random_bytes::<32>();
        let round = round.map_err(|error| ErrorData::internal_error(format!("draw a round: {error}"), None))?;
        let state = json!({ROUND: Digest(round).to_string(), KEY: self.arguments.get(KEY)});
        let sealed = seal.close(&state, bound_to)?;
        let asked = tasks::approval(tasks::APPROVAL.to_owned(), self.question(), &plan);
        Ok(InputRequiredResult::new(Some(asked), Some(sealed)).into())
    }

    /// A key says nothing to people, who may have a tool draw it for them.
    fn question(&self) -> String {
        let (tool, asked) = (self.tools.catalogue().find(self.name), self.arguments_with(None));
        let shown = tool.map_or(Value::Null, |tool| tool.input().redact(&asked)).to_string();
        let (shown, more) = shown.split_at(shown.floor_char_boundary(TASK_TEXT_BYTES_MAX));
        // Whoever agrees sees that it is not all.
        let more = if more.is_empty() { String::new() } else { format!(" ... and {} bytes more", more.len()) };
        format!("{} needs your approval: {shown}{more}", self.name)
    }
}
