//! Which requests may be sent again when their connection broke, and what makes one of them so: its method, what a tool
//! says of itself, a key under which its effect is had once, or the state of a question, whose answer counts once.
//!
//! What tools say is learnt from the lists that nodes give, and forgotten with the process. Without a word of a tool
//! nothing of it is sent twice.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::message::{Params, Request};

/// Tools that are remembered.
const TOOLS_MAX: usize = 4_096;
/// How long a tool that stands in no list is not looked for again: another node, or a later release, may have it.
const MISSED_FOR: Duration = Duration::from_secs(60);
/// The argument that holds a key.
const KEY: &str = "idempotency_key";
/// Where a key may stand beside the arguments.
const KEY_IN_META: &str = "ollamax.dev/idempotency-key";
/// Where a call carries the state of the question that it answers.
const STATE: &str = "requestState";
/// Requests that change nothing, or nothing more the second time.
const REPEATABLE: [&str; 12] = [
    "server/discover",
    "tools/list",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "completion/complete",
    "subscriptions/listen",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
];
/// Those of them that may change something the first time.
const CHANGING: [&str; 2] = ["tasks/update", "tasks/cancel"];

/// What a tool says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hints {
    /// It changes nothing, or nothing more the second time.
    is_repeatable: bool,
    is_reading: bool,
    takes_key: bool,
}

/// What tools said of themselves.
#[derive(Debug, Default)]
pub(crate) struct Known {
    tools: Mutex<HashMap<String, Hints>>,
    missed: Mutex<HashMap<String, Missed>>,
}

/// That a tool stood in no list.
#[derive(Debug, Clone, Copy)]
struct Missed {
    /// Until when it is not looked for.
    until: Instant,
    /// The list was told to the caller's own rights: to others a shorter one is.
    of_own_rights: bool,
}

/// Draws keys that nobody else draws: the system's randomness behind `RandomState`, and a count. They are no secrets.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    chance: [RandomState; 2],
    drawn: AtomicU64,
}

// === impl Hints ===

impl Hints {
    /// Reads a tool of a list. What it does not say is as the protocol says it is then: it may change something, each
    /// time.
    fn of(tool: &Value) -> Self {
        let says = |hint: &str| tool["annotations"][hint].as_bool() == Some(true);
        let takes_key = tool["inputSchema"]["properties"].get(KEY).is_some();
        let is_reading = says("readOnlyHint");
        Self { is_repeatable: is_reading || says("idempotentHint"), is_reading, takes_key }
    }
}

// === impl Known ===

impl Known {
    /// Remembers the tools of a list.
    pub(crate) fn learn(&self, list: &Value) {
        let mut known = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in list["tools"].as_array().into_iter().flatten() {
            let Some(name) = tool["name"].as_str() else { continue };
            if known.len() < TOOLS_MAX || known.contains_key(name) {
                known.insert(name.to_owned(), Hints::of(tool));
            }
        }
    }

    /// Remembers for a while of a tool that it did not stand in the list that was told, to the caller's own rights or
    /// to fewer.
    pub(crate) fn miss(&self, name: &str, of_own_rights: bool, now: Instant) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.retain(|_, one| one.until > now);
        if missed.len() < TOOLS_MAX {
            missed.insert(name.to_owned(), Missed { until: now + MISSED_FOR, of_own_rights });
        }
    }

    /// Whether a tool stood in no list just now. What others were told says nothing where a list that is asked for now
    /// would be told to the caller's own rights.
    pub(crate) fn is_missed(&self, name: &str, would_be_of_own_rights: bool, now: Instant) -> bool {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.get(name).is_some_and(|one| one.until > now && (one.of_own_rights || !would_be_of_own_rights))
    }

    /// What a tool said.
    pub(crate) fn of(&self, name: &str) -> Option<Hints> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

// === impl Keys ===

impl Keys {
    pub(crate) fn draw(&self) -> String {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        let [high, low] = self.chance.each_ref().map(|chance| chance.hash_one(count));
        format!("bridge-{high:016x}{low:016x}")
    }
}

/// The tool that a request calls.
pub(crate) fn tool_of(request: &Request) -> Option<&str> {
    request.params.get("name").and_then(Value::as_str).filter(|_| request.method == "tools/call")
}

/// Gives a call that may change something a key of its own, where its tool takes one and none was said, not even one
/// that makes no sense: the node refuses that. An answer to a question has the key of its question.
pub(crate) fn with_key(mut params: Params, hints: Option<Hints>, draw: impl FnOnce() -> String) -> Params {
    if hints.is_none_or(|hints| hints.is_reading || !hints.takes_key) || carries_state(&params) {
        return params;
    }
    // Typed clients write null for what they do not say; here it would hide the key beside the arguments.
    if let Some(arguments) = params.get_mut("arguments").and_then(Value::as_object_mut)
        && arguments.get(KEY).is_some_and(Value::is_null)
    {
        arguments.remove(KEY);
    }
    if said_key(&params).is_some() {
        return params;
    }
    let arguments = params.entry("arguments").or_insert_with(|| json!({}));
    // What is no object is refused by the node.
    if let Some(arguments) = arguments.as_object_mut() {
        arguments.insert(KEY.to_owned(), draw().into());
    }
    params
}

/// What stands where a key may stand; one among the arguments comes first.
fn said_key(params: &Params) -> Option<&Value> {
    let in_arguments = params.get("arguments").and_then(|arguments| arguments.get(KEY));
    let in_meta = params.get("_meta").and_then(|meta| meta.get(KEY_IN_META));
    in_arguments.filter(|key| !key.is_null()).or(in_meta.filter(|key| !key.is_null()))
}

/// Whether a call answers a question that was asked before it.
fn carries_state(params: &Params) -> bool {
    params.get(STATE).is_some_and(|state| !state.is_null())
}

/// The key of a call whose tool takes one.
pub(crate) fn key_of(request: &Request, hints: Option<Hints>) -> Option<&str> {
    tool_of(request)?;
    // A key that the tool does not take is none, and beside a state it does not count.
    let hints = hints.filter(|hints| hints.takes_key && !carries_state(&request.params));
    hints.and_then(|_| said_key(&request.params)).and_then(Value::as_str)
}

/// Whether something may be otherwise when a request was answered.
pub(crate) fn changes(request: &Request, hints: Option<Hints>) -> bool {
    match tool_of(request) {
        Some(_) => hints.is_none_or(|hints| !hints.is_reading),
        None => {
            let method = request.method.as_str();
            CHANGING.contains(&method) || !REPEATABLE.contains(&method)
        }
    }
}

/// Whether a request may be sent again when nobody knows what became of it.
pub(crate) fn may_repeat(request: &Request, hints: Option<Hints>) -> bool {
    if tool_of(request).is_none() {
        return REPEATABLE.contains(&request.method.as_str());
    }
    // What asks before it begins is what takes a key.
    let is_answer = |hints: Hints| hints.takes_key && carries_state(&request.params);
    hints.is_some_and(|hints| hints.is_repeatable || is_answer(hints)) || key_of(request, hints).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, read: bool, idempotent: bool, takes_key: bool) -> Value {
        let properties = if takes_key { json!({KEY: {"type": "string"}}) } else { json!({}) };
        json!({
            "name": name,
            "inputSchema": {"type": "object", "properties": properties},
            "annotations": {"readOnlyHint": read, "idempotentHint": idempotent},
        })
    }

    fn call(name: &str, arguments: Value) -> Request {
        let params = json!({"name": name, "arguments": arguments}).as_object().cloned().expect("an object");
        Request { id: json!(1), method: "tools/call".to_owned(), params }
    }

    fn known() -> Known {
        let known = Known::default();
        let tools = [
            tool("reads", true, false, false),
            tool("sets", false, true, false),
            tool("adds", false, false, false),
            tool("pulls", false, false, true),
            tool("looks", true, true, true),
            json!({"name": "silent"}),
            json!({"title": "no name"}),
        ];
        known.learn(&json!({"tools": tools}));
        known.learn(&json!({"tools": 7}));
        known
    }

    #[test]
    fn a_tool_that_stood_in_no_list_is_looked_for_again_after_a_minute() {
        let (known, now) = (known(), Instant::now());
        known.miss("hidden", true, now);
        let is_missed = |name: &str, after_s: u64| known.is_missed(name, true, now + Duration::from_secs(after_s));
        assert!(is_missed("hidden", 59) && !is_missed("hidden", 60) && !is_missed("unheard_of", 0));
        assert_eq!(known.of("hidden"), None);
    }

    #[test]
    fn a_list_that_others_were_told_counts_until_one_of_the_callers_own_may_be_had() {
        let now = Instant::now();
        let check = |of_own_rights: bool, would_be_of_own_rights: bool, expected: bool| {
            let known = known();
            known.miss("hidden", of_own_rights, now);
            let found = known.is_missed("hidden", would_be_of_own_rights, now);
            assert_eq!(found, expected, "{of_own_rights} {would_be_of_own_rights}");
        };
        check(true, true, true);
        check(true, false, true);
        check(false, false, true);
        check(false, true, false);
    }

    #[test]
    fn a_call_is_repeated_where_its_tool_reads_or_is_idempotent_or_knows_its_key() {
        let known = known();
        let check = |name: &str, arguments: Value, expected: bool| {
            assert_eq!(may_repeat(&call(name, arguments.clone()), known.of(name)), expected, "{name} {arguments}");
        };
        check("reads", json!({}), true);
        check("sets", json!({}), true);
        check("adds", json!({}), false);
        check("adds", json!({KEY: "k"}), false);
        check("pulls", json!({}), false);
        check("pulls", json!({KEY: "k"}), true);
        check("pulls", json!({KEY: 7}), false);
        check("silent", json!({KEY: "k"}), false);
        check("unheard_of", json!({KEY: "k"}), false);
        check("hidden", json!({KEY: "k"}), false);
        let mut beside = call("pulls", json!({}));
        beside.params.insert("_meta".to_owned(), json!({KEY_IN_META: "k"}));
        assert!(may_repeat(&beside, known.of("pulls")));
    }

    #[test]
    fn an_answer_to_a_question_is_repeated_and_has_no_key_of_its_own() {
        let known = known();
        let check = |name: &str, state: Value, arguments: Value, expected: (Value, bool, Option<&str>)| {
            let mut request = call(name, arguments);
            request.params.insert(STATE.to_owned(), state);
            let hints = known.of(name);
            request.params = with_key(request.params, hints, || "drawn".to_owned());
            let found = (request.params["arguments"].clone(), may_repeat(&request, hints), key_of(&request, hints));
            assert_eq!(found, expected, "{name}");
        };
        check("pulls", json!("sealed"), json!({}), (json!({}), true, None));
        check("pulls", json!("sealed"), json!({KEY: "own"}), (json!({KEY: "own"}), true, None));
        check("pulls", Value::Null, json!({}), (json!({KEY: "drawn"}), true, Some("drawn")));
        check("adds", json!("sealed"), json!({}), (json!({}), false, None));
        check("unheard_of", json!("sealed"), json!({}), (json!({}), false, None));
    }

    #[test]
    fn a_request_changes_something_unless_it_is_known_to_read() {
        let known = known();
        for (name, expected) in [("reads", false), ("looks", false), ("sets", true), ("pulls", true), ("hidden", true)]
        {
            assert_eq!(changes(&call(name, json!({})), known.of(name)), expected, "{name}");
        }
        assert!(changes(&call("unheard_of", json!({})), None));
        let of = |method: &str| changes(&Request { method: method.to_owned(), ..call("", json!({})) }, None);
        assert!(of("tasks/cancel") && of("tasks/update") && of("a/method"));
        assert!(!of("tasks/get") && !of("tools/list") && !of("subscriptions/listen"));
    }

    #[test]
    fn other_requests_are_repeated_where_they_change_nothing() {
        let check = |method: &str, expected: bool| {
            let request = Request { id: json!(1), method: method.to_owned(), params: Params::new() };
            assert_eq!(may_repeat(&request, None), expected, "{method}");
        };
        for method in REPEATABLE {
            check(method, true);
        }
        for method in ["tools/call", "a/method", ""] {
            check(method, false);
        }
    }

    #[test]
    fn a_key_is_added_where_a_tool_that_changes_something_takes_one_and_none_was_given() {
        let known = known();
        let check = |name: &str, arguments: Value, expected: Value| {
            let params = call(name, arguments.clone()).params;
            let keyed = with_key(params, known.of(name), || "drawn".to_owned());
            assert_eq!(keyed["arguments"], expected, "{name} {arguments}");
        };
        check("pulls", json!({"model": "m"}), json!({"model": "m", KEY: "drawn"}));
        check("pulls", json!({KEY: "own"}), json!({KEY: "own"}));
        check("pulls", json!([]), json!([]));
        check("pulls", json!({KEY: null}), json!({KEY: "drawn"}));
        // The node says what is wrong with it.
        check("pulls", json!({KEY: 7}), json!({KEY: 7}));
        check("adds", json!({}), json!({}));
        check("looks", json!({}), json!({}));
        check("unheard_of", json!({}), json!({}));
        let mut beside = call("pulls", json!({KEY: null}));
        beside.params.insert("_meta".to_owned(), json!({KEY_IN_META: "own"}));
        beside.params = with_key(beside.params, known.of("pulls"), || "drawn".to_owned());
        assert_eq!(key_of(&beside, known.of("pulls")), Some("own"));
        assert_eq!(beside.params["arguments"], json!({}));
        let mut bare = Params::new();
        bare.insert("name".to_owned(), "pulls".into());
        assert_eq!(with_key(bare, known.of("pulls"), || "drawn".to_owned())["arguments"], json!({KEY: "drawn"}));
    }

    #[test]
    fn no_two_keys_are_alike() {
        let (one, other) = (Keys::default(), Keys::default());
        let drawn = [one.draw(), one.draw(), other.draw(), other.draw()];
        let apart: std::collections::HashSet<&String> = drawn.iter().collect();
        assert_eq!(apart.len(), drawn.len(), "{drawn:?}");
        assert!(drawn.iter().all(|key| key.len() == 39), "{drawn:?}");
    }
}
