//! Tasks in the words of the protocol's extension `io.modelcontextprotocol/tasks`.
//!
//! Pure. A tool that could not do what was asked has completed its task with an answer that says so: failing is kept
//! for errors of the protocol. What waits for approval asks for it where the client can ask its user, and says
//! elsewhere which command to type.

use std::collections::BTreeMap;

use rmcp::model::{
    BooleanSchema, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult, DetailedTask,
    ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema, InputRequest,
    InputRequests, InputResponses, JsonObject, PrimitiveSchemaDefinition, Task, TaskPayload, TaskStatus,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Map, Value};

use ollamax_tools::once::KEY;
use ollamax_tools::views::TaskView;
use ollamax_tools::{CallError, Catalogue, Tool, ToolError};
use ollamax_types::{ErrorClass, limits};

use crate::toolbox::what_it_does;

/// Under which name a task asks for approval.
pub(super) const APPROVAL: &str = "approval";
/// The field of the form in which it does.
const APPROVE: &str = "approve";
/// How often a client may look.
const POLL_MS: u64 = 1_000;
/// Under which a client sends what makes its call have effect once, where it cannot add to the arguments.
const KEY_IN_META: &str = "ollamax.dev/idempotency-key";

/// What the client of a request can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Client {
    /// It takes a task for an answer.
    pub(super) takes_tasks: bool,
    /// It can put a form before its user.
    pub(super) asks: bool,
}

// === impl Client ===

impl Client {
    /// By what the request itself says.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Self {
        context.client_capabilities().map(|said| Self::saying(&said)).unwrap_or_default()
    }

    fn saying(said: &ClientCapabilities) -> Self {
        // Who names no mode means forms.
        let asks = said.elicitation.as_ref().is_some_and(|modes| modes.form.is_some() || modes.url.is_none());
        Self { takes_tasks: said.supports_tasks(), asks }
    }
}

/// What a tool answered, or why it did not.
pub(super) fn result(answer: Result<Value, ToolError>) -> CallToolResult {
    match answer {
        Ok(value) => CallToolResult::structured(value),
        // As text alone: what is structured must fit the output schema.
        Err(error) => CallToolResult::error(vec![ContentBlock::text(error.to_json().to_string())]),
    }
}

/// A tool's own refusal is an answer, which the assistant reads; a tool that does not exist is an error of the
/// protocol.
pub(super) fn told(answer: Result<Value, CallError>) -> Result<CallToolResponse, ErrorData> {
    match answer {
        Ok(value) => Ok(result(Ok(value)).into()),
        Err(CallError::Failed(error)) => Ok(result(Err(error)).into()),
        Err(error @ CallError::UnknownTool(_)) => Err(ErrorData::invalid_params(error.to_string(), None)),
    }
}

/// The answer to a call that goes on in a task.
pub(super) fn created(catalogue: &Catalogue, task: &TaskView, client: Client) -> CreateTaskResult {
    CreateTaskResult::new(detailed(catalogue, task, client).task)
}

/// A task, with what it asks for or what came of it.
pub(super) fn detailed(catalogue: &Catalogue, task: &TaskView, client: Client) -> DetailedTask {
    DetailedTask::new(base(task), payload(catalogue, task, client))
}

/// What is said of every task.
pub(super) fn base(task: &TaskView) -> Task {
    let mut base = Task::new(task.id.as_str(), TaskStatus::Working, task.created_at.as_str(), task.updated_at.as_str())
        .with_poll_interval_ms(POLL_MS);
    base.ttl_ms = kept_ms(task);
    // Who cannot be asked reads here what somebody else is to agree to.
    let plan = if task.is_waiting() { task.plan.as_slice() } else { &[] };
    let text = with_plan(with_share(task), plan);
    if !text.is_empty() {
        base = base.with_status_message(text);
    }
    base
}

/// How long it is kept from its beginning on; `None`: as long as it goes on, since it is kept for a time after its end.
fn kept_ms(task: &TaskView) -> Option<u64> {
    let moment = |text: &str| text.parse::<jiff::Timestamp>().ok().filter(|_| task.is_over());
    let (begun, ended) = (moment(&task.created_at)?, moment(&task.updated_at)?);
    let took = u64::try_from(ended.duration_since(begun).as_millis()).unwrap_or_default();
    Some(took.saturating_add(u64::try_from(limits::TASK_KEPT_FOR.as_millis()).ok()?))
}

fn payload(catalogue: &Catalogue, task: &TaskView, client: Client) -> TaskPayload {
    if task.is_waiting() && client.asks {
        let (needs, does) = (format!("{} needs your approval ({})", task.tool, task.id), what_it_does(task));
        let asked = if does.is_empty() { needs } else { format!("{needs}: {does}") };
        return TaskPayload::InputRequired { input_requests: approval(question(task), asked, &task.plan) };
    }
    if task.status == "cancelled" {
        return TaskPayload::Cancelled;
    }
    match catalogue.finished(task) {
        Some(answer) => TaskPayload::Completed { result: object(&result(answer)) },
        None => TaskPayload::Working,
    }
}

fn object(result: &CallToolResult) -> JsonObject {
    match serde_json::to_value(result) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// A text with what would be done below it, line by line.
fn with_plan(text: String, plan: &[String]) -> String {
    plan.iter().fold(text, |text, line| format!("{text}\n- {line}"))
}

/// What it does, and while it is worked at how much of it is done, where that is known.
fn with_share(task: &TaskView) -> String {
    let total = task.total.filter(|total| *total > 0 && task.status == "working" && !task.text.is_empty());
    let share = total.map(|total| task.done.min(total).saturating_mul(100) / total);
    share.map_or_else(|| task.text.clone(), |share| format!("{} ({share} %)", task.text))
}

/// The name of a task's question. One that waits again has another, so that an answer that comes again answers nothing.
fn question(task: &TaskView) -> String {
    if task.attempt == 0 { APPROVAL.to_owned() } else { format!("{APPROVAL}-{}", task.attempt) }
}

/// The form that asks whether something may be done, in these words, with what would be done.
pub(super) fn approval(question: String, message: String, plan: &[String]) -> InputRequests {
    let field = BooleanSchema::new().title("Do it").description("Yes: it is done. No: nothing happens.");
    let fields = BTreeMap::from([(APPROVE.to_owned(), PrimitiveSchemaDefinition::Boolean(field))]);
    let form = ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: with_plan(message, plan),
        requested_schema: ElicitationSchema::new(fields).with_required(vec![APPROVE.to_owned()]),
    };
    InputRequests::from([(question, InputRequest::Elicitation(ElicitRequest::new(form)))])
}

/// What the user said: yes, no, or `None`: nothing, so that the task stays as it is. What the task does not ask for,
/// or not any more, is passed over, as the protocol wants it: an answer whose acknowledgement was lost comes again.
///
/// # Errors
/// When that is no answer to what it asks for.
pub(super) fn decision(task: &TaskView, responses: &InputResponses) -> Result<Option<bool>, ErrorData> {
    let Some(answer) = responses.get(&question(task)).filter(|_| task.is_waiting()) else { return Ok(None) };
    said(answer)
}

/// What the user said to the form: yes, no, or `None`: nothing.
///
/// # Errors
/// When that is no answer to it.
pub(super) fn said(answer: &Value) -> Result<Option<bool>, ErrorData> {
    let wrong = |text: String| Err(ErrorData::invalid_params(text, None));
    let said = match serde_json::from_value::<ElicitResult>(answer.clone()) {
        Ok(said) => said,
        Err(error) => return wrong(format!("the answer to {APPROVAL:?} is none to a form: {error}")),
    };
    if said.action == ElicitationAction::Cancel {
        return Ok(None);
    }
    if said.action != ElicitationAction::Accept {
        return Ok(Some(false));
    }
    match said.content.and_then(|content| content.get(APPROVE).and_then(Value::as_bool)) {
        Some(yes) => Ok(Some(yes)),
        None => wrong(format!("the answer to {APPROVAL:?} says neither true nor false to {APPROVE:?}")),
    }
}

/// The arguments of a call, with the key that came beside them where the tool takes one and they have none.
pub(super) fn with_key(tool: Option<&Tool>, mut arguments: JsonObject, meta: &JsonObject) -> JsonObject {
    let known = tool.and_then(|tool| tool.input().shown().get("properties"));
    let takes_one = known.is_some_and(|known| known.get(KEY).is_some());
    // Clients with types write null for what they do not say.
    let has_none = arguments.get(KEY).is_none_or(Value::is_null);
    if let Some(key) = meta.get(KEY_IN_META).filter(|_| takes_one && has_none) {
        arguments.insert(KEY.to_owned(), key.clone());
    }
    arguments
}

/// An error of the protocol for what cannot be done with a task.
pub(super) fn refused(error: &ToolError) -> ErrorData {
    let told = Some(error.to_json());
    match error.code.class() {
        ErrorClass::NotFound | ErrorClass::Validation | ErrorClass::Permission | ErrorClass::Conflict => {
            ErrorData::invalid_params(error.message.clone(), told)
        }
        _ => ErrorData::internal_error(error.message.clone(), told),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(status: &str) -> TaskView {
        let (id, text, plan) = ("task_1".to_owned(), "drops m".to_owned(), vec!["m goes".to_owned()]);
        TaskView { id, text, plan, tool: "drops".to_owned(), status: status.to_owned(), ..TaskView::default() }
    }

    fn responses(value: Value) -> InputResponses {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn a_client_can_do_what_its_request_says() {
        let check = |said: Value, takes_tasks: bool, asks: bool| {
            let said: ClientCapabilities = serde_json::from_value(said).expect("capabilities");
            assert_eq!(Client::saying(&said), Client { takes_tasks, asks }, "{said:?}");
        };
        check(json!({}), false, false);
        check(json!({"elicitation": {}}), false, true);
        check(json!({"elicitation": {"form": {}, "url": {}}}), false, true);
        check(json!({"elicitation": {"url": {}}}), false, false);
        check(json!({"extensions": {"io.modelcontextprotocol/tasks": {}}}), true, false);
    }

    #[test]
    fn what_waits_asks_who_can_be_asked_and_tells_everybody_else() {
        let (catalogue, asks) = (Catalogue::default(), Client { asks: true, takes_tasks: true });
        let shown = serde_json::to_value(detailed(&catalogue, &task("waiting"), asks)).expect("JSON");
        assert_eq!(
            (&shown["status"], &shown["statusMessage"]),
            (&json!("input_required"), &json!("drops m\n- m goes"))
        );
        assert_eq!((&shown["pollIntervalMs"], &shown["ttlMs"]), (&json!(1_000), &Value::Null));
        let asked = &shown["inputRequests"]["approval"];
        assert_eq!(asked["method"], "elicitation/create", "{shown}");
        assert_eq!(asked["params"]["requestedSchema"]["required"], json!(["approve"]), "{shown}");
        assert_eq!(asked["params"]["message"], "drops needs your approval (task_1): drops m\n- m goes", "{shown}");
        // Whoever is asked needs no command.
        for text in ["drops m", "", "drops m; waits for approval: ollamax approve task_1"] {
            let asked = TaskView { text: text.to_owned(), ..task("waiting") };
            let shown = serde_json::to_value(detailed(&catalogue, &asked, asks)).expect("JSON");
            let does = if text.is_empty() { "" } else { ": drops m" };
            let expected = format!("drops needs your approval (task_1){does}\n- m goes");
            assert_eq!(shown["inputRequests"]["approval"]["params"]["message"], expected.as_str(), "{shown}");
        }
        let told = serde_json::to_value(detailed(&catalogue, &task("waiting"), Client::default())).expect("JSON");
        assert_eq!((&told["status"], told.get("inputRequests")), (&json!("working"), None));
        let over = serde_json::to_value(detailed(&catalogue, &task("cancelled"), asks)).expect("JSON");
        assert_eq!((&over["status"], &over["statusMessage"]), (&json!("cancelled"), &json!("drops m")));
    }

    #[test]
    fn a_task_that_is_worked_at_says_how_much_of_it_is_done_where_that_is_known() {
        let check = |status: &str, done: u64, total: Option<u64>, expected: &str| {
            let told = base(&TaskView { done, total, plan: Vec::new(), ..task(status) });
            assert_eq!(told.status_message.as_deref(), Some(expected), "{status} {done} {total:?}");
        };
        check("working", 0, Some(3), "drops m (0 %)");
        check("working", 2, Some(3), "drops m (66 %)");
        check("working", u64::MAX, Some(9), "drops m (100 %)");
        check("working", 2, None, "drops m");
        check("working", 2, Some(0), "drops m");
        check("completed", 3, Some(3), "drops m");
        check("queued", 2, Some(3), "drops m");
        let silent = TaskView { done: 1, total: Some(2), text: String::new(), ..task("working") };
        assert_eq!(base(&silent).status_message, None);
    }

    #[test]
    fn a_task_is_kept_for_a_day_after_its_end_however_long_it_took() {
        let check = |status: &str, ended: &str, expected: Option<u64>| {
            let (created_at, updated_at) = ("2026-11-01T00:00:00Z".to_owned(), ended.to_owned());
            let task = TaskView { created_at, updated_at, ..task(status) };
            assert_eq!(kept_ms(&task), expected, "{status} {ended}");
        };
        for status in ["waiting", "queued", "working"] {
            check(status, "2026-11-02T06:00:00Z", None);
        }
        check("completed", "2026-11-01T00:00:00Z", Some(86_400_000));
        check("failed", "2026-11-02T06:00:00Z", Some((24 + 30) * 3_600_000));
        check("cancelled", "2026-11-01T00:00:01.5Z", Some(86_401_500));
        // A clock that was set back.
        check("completed", "2026-10-31T00:00:00Z", Some(86_400_000));
        check("completed", "", None);
    }

    #[test]
    fn only_an_answer_to_what_was_asked_decides() {
        let check = |status: &str, said: Value, expected: Result<Option<bool>, ()>| {
            let found = decision(&task(status), &responses(said.clone())).map_err(|_| ());
            assert_eq!(found, expected, "{status} {said}");
        };
        let yes = json!({"approval": {"action": "accept", "content": {"approve": true}}});
        check("waiting", yes.clone(), Ok(Some(true)));
        check("waiting", json!({"approval": {"action": "accept", "content": {"approve": false}}}), Ok(Some(false)));
        check("waiting", json!({"approval": {"action": "decline"}}), Ok(Some(false)));
        check("waiting", json!({"approval": {"action": "cancel"}}), Ok(None));
        check("waiting", json!({"approval": {"action": "accept", "content": {"approve": "yes"}}}), Err(()));
        check("waiting", json!({"approval": {"action": "accept"}}), Err(()));
        check("waiting", json!({"approval": true}), Err(()));
        // What is not asked for is passed over.
        check("waiting", json!({}), Ok(None));
        check("waiting", json!({"colour": {"action": "decline"}}), Ok(None));
        let mut more = yes.clone();
        more["colour"] = json!({"action": "decline"});
        check("waiting", more, Ok(Some(true)));
        check("working", yes.clone(), Ok(None));
        check("cancelled", json!({"approval": true}), Ok(None));
        // Nor is what was asked before the task was done again.
        let again = TaskView { attempt: 1, ..task("waiting") };
        assert_eq!(decision(&again, &responses(yes.clone())), Ok(None));
        let anew = json!({"approval-1": yes["approval"]});
        assert_eq!(decision(&again, &responses(anew)), Ok(Some(true)));
        let asks = Client { asks: true, takes_tasks: true };
        let shown = serde_json::to_value(detailed(&Catalogue::default(), &again, asks)).expect("JSON");
        assert!(shown["inputRequests"]["approval-1"].is_object(), "{shown}");
    }
}
