//! All tools of a node: who sees which, and what becomes of a call.
//!
//! Always: names are unique and in order, so that every node shows the same bytes; what a caller may not call it does
//! not see; a call is checked before its tool runs, and bounded while it does. A tool that fails, hangs, floods, panics
//! or lies about its schema spoils its own call and no other, and every call is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use ollamax_types::ErrorCode;

use crate::error::{CallError, DeclarationError, ToolError};
use crate::principal::{Caller, Principal};
use crate::rate::Rates;
use crate::tool::Tool;

/// Arguments of a call, as JSON.
pub const ARGUMENTS_BYTES_MAX: usize = 256 << 10;
/// Tools that a catalogue shows to anybody.
pub const TOOLS_MAX: usize = 40;

/// Which families are switched on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Families {
    /// All there are.
    #[default]
    All,
    /// These.
    Only(BTreeSet<String>),
}

/// The tools of a node.
#[derive(Debug, Default)]
pub struct Catalogue {
    tools: BTreeMap<&'static str, Tool>,
    rates: Rates,
}

// === impl Families ===

impl Families {
    fn has(&self, family: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(family),
        }
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// Puts one together from the families that are switched on.
    ///
    /// # Errors
    /// When two tools have one name, or there are too many.
    pub fn new(all: Vec<Tool>, families: &Families) -> Result<Self, DeclarationError> {
        let wrong =
            |name: &str, problem: &str| DeclarationError { tool: name.to_owned(), problems: vec![problem.to_owned()] };
        let mut tools = BTreeMap::new();
        for tool in all.into_iter().filter(|tool| families.has(tool.spec().family)) {
            let name = tool.spec().name;
            if tools.insert(name, tool).is_some() {
                return Err(wrong(name, "another tool has its name"));
            }
            if tools.len() > TOOLS_MAX {
                return Err(wrong(name, "it is one too many for one catalogue"));
            }
        }
        Ok(Self { tools, rates: Rates::default() })
    }

    /// What a caller sees, in the order of names.
    pub fn listed(&self, principal: &Principal) -> impl Iterator<Item = &Tool> {
        self.tools.values().filter(move |tool| principal.may(tool.spec().permission))
    }

    /// A tool, whoever may call it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// When there is no such tool; when the caller may not call it, or not so often; when the arguments do not fit;
    /// when the tool fails, takes too long, or answers too much.
    pub async fn call(&self, caller: Caller, name: &str, arguments: Value) -> Result<Value, CallError> {
        let tool = self.find(name).ok_or_else(|| CallError::UnknownTool(shortened(name)))?;
        self.admit(tool, &caller.principal, &arguments, Instant::now())?;
        let limits = tool.spec().limits;
        // What a panic leaves behind is this call's alone. Who speaks to the caller may wait for an answer for ever.
        let run = AssertUnwindSafe(async move { tool.run(caller, arguments).await }).catch_unwind();
        let answer = timeout(limits.timeout, run).await.map_err(|_| too_slow(limits.timeout))?;
        let answer = answer.unwrap_or_else(|_panic| Err(panicked(tool)))?;
        check_answer(tool, &answer)?;
        Ok(answer)
    }

    /// Whether a call may run.
    fn admit(&self, tool: &Tool, principal: &Principal, arguments: &Value, now: Instant) -> Result<(), ToolError> {
        let spec = tool.spec();
        if !principal.may(spec.permission) {
            let message = format!("{} needs the permission {}, which you do not have", spec.name, spec.permission);
            let next =
                "an administrator does this on a node with the ollamax command; ollamax --help lists what there is";
            return Err(ToolError::new(ErrorCode::Forbidden, message, next));
        }
        if let Err(wait) = self.rates.take(principal.subject(), spec.name, spec.limits.calls_per_minute, now) {
            let per_minute = spec.limits.calls_per_minute;
            let message = format!("{} may be called {per_minute} times in a minute", spec.name);
            let next = format!("try again in {} ms", wait.as_millis());
            return Err(ToolError::new(ErrorCode::Overloaded, message, next));
        }
        // Sizes are told by the text; who sent it has it in memory anyway.
        if arguments.to_string().len() > ARGUMENTS_BYTES_MAX {
            let message = format!("the arguments are larger than {} KiB", ARGUMENTS_BYTES_MAX >> 10);
            return Err(ToolError::new(ErrorCode::BodyTooLarge, message, "send less"));
        }
        let problems = tool.input().problems(arguments);
        if !problems.is_empty() {
            let message =
                format!("the arguments of {} do not fit its input schema: {}", spec.name, problems.join("; "));
            let next = spec.examples.first().map_or_else(
                || "send what tools/list says under inputSchema".to_owned(),
                |example| format!("send arguments like {}", example.arguments),
            );
            return Err(ToolError::new(ErrorCode::BadRequest, message, next));
        }
        Ok(())
    }
}

fn too_slow(limit: Duration) -> ToolError {
    let message = format!("the tool did not answer within {} s", limit.as_secs());
    ToolError::new(ErrorCode::DeadlineExceeded, message, "try again, or ask for less")
}

/// The process's panic hook has told the log why.
fn panicked(tool: &Tool) -> ToolError {
    let message = format!("{} broke off", tool.spec().name);
    ToolError::new(
        ErrorCode::Internal,
        message,
        "this is a defect of the program: please report it, with the node's log",
    )
}

/// What every answer must be. The schema is compared where programs are tested: in production a lie is the family's.
fn check_answer(tool: &Tool, answer: &Value) -> Result<(), ToolError> {
    let spec = tool.spec();
    if answer.to_string().len() > spec.limits.output_bytes_max {
        let kib = spec.limits.output_bytes_max >> 10;
        let message = format!("the result of {} is larger than {kib} KiB", spec.name);
        return Err(ToolError::new(ErrorCode::BodyTooLarge, message, "ask for less: a smaller limit, or one name"));
    }
    let problems = if cfg!(debug_assertions) { tool.output().problems(answer) } else { Vec::new() };
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("the result of {} does not fit its output schema: {}", spec.name, problems.join("; "));
    Err(ToolError::new(ErrorCode::Internal, message, "this is a defect of the program: please report it"))
}

/// A name that nobody knows is told, and not at any length.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::principal::Permission;
    use crate::tool::{Class, Example, Hints, Limits, Spec};

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        name: String,
    }

    /// Says that it has a number and has a text where the text is no number.
    #[derive(JsonSchema)]
    struct Liar {
        #[expect(dead_code, reason = "a schema says it")]
        name: u32,
    }

    impl Serialize for Liar {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            json!({"name": "a text"}).serialize(serializer)
        }
    }

    const fn spec(name: &'static str, family: &'static str) -> Spec {
        Spec {
            name,
            title: "A tool",
            description: "Does it.",
            family,
            examples: &[Example { title: "m", arguments: r#"{"name": "m"}"# }],
            ..Spec::READ
        }
    }

    fn echo(spec: Spec) -> Tool {
        Tool::reading(spec, |asked: Asked| Ok(asked)).expect("declared well")
    }

    fn managing(name: &'static str) -> Spec {
        let hints = Hints { read_only: false, ..Hints::READ };
        Spec { class: Class::LeaderWrite, permission: Permission::Manage, hints, ..spec(name, "b") }
    }

    fn catalogue(tools: Vec<Tool>) -> Catalogue {
        Catalogue::new(tools, &Families::All).expect("names differ")
    }

    fn caller(principal: Principal) -> Caller {
        Caller { principal, request: Default::default() }
    }

    async fn code(catalogue: &Catalogue, name: &str, arguments: Value) -> Result<Value, ErrorCode> {
        match catalogue.call(caller(Principal::loopback()), name, arguments).await {
            Ok(value) => Ok(value),
            Err(CallError::Failed(error)) => Err(error.code),
            Err(CallError::UnknownTool(name)) => panic!("{name} is not known"),
        }
    }

    fn names(catalogue: &Catalogue, principal: &Principal) -> Vec<&'static str> {
        catalogue.listed(principal).map(|tool| tool.spec().name).collect()
    }

    #[test]
    fn a_caller_sees_what_it_may_call_in_the_order_of_names() {
        let all = catalogue(vec![echo(spec("z", "a")), echo(managing("m")), echo(spec("b", "b"))]);
        assert_eq!(names(&all, &Principal::loopback()), ["b", "z"]);
        assert_eq!(names(&all, &Principal::of_socket(0)), ["b", "m", "z"]);
        let only = Families::Only(BTreeSet::from(["b".to_owned()]));
        let some = Catalogue::new(vec![echo(spec("z", "a")), echo(managing("m")), echo(spec("b", "b"))], &only);
        assert_eq!(names(&some.expect("names differ"), &Principal::of_socket(0)), ["b", "m"]);
    }

    #[test]
    fn two_tools_of_one_name_and_a_tool_too_many_are_refused() {
        let twice = Catalogue::new(vec![echo(spec("a", "a")), echo(spec("a", "b"))], &Families::All);
        assert_eq!(twice.expect_err("one name").problems, ["another tool has its name"]);
        let names: [&'static str; TOOLS_MAX + 1] = std::array::from_fn(|at| &*format!("t{at}").leak());
        let many = names.into_iter().map(|name| echo(spec(name, "a"))).collect();
        assert_eq!(Catalogue::new(many, &Families::All).expect_err("too many").problems.len(), 1);
    }

    #[tokio::test]
    async fn a_call_is_checked_before_its_tool_runs() {
        let all = catalogue(vec![echo(spec("look", "a")), echo(managing("change"))]);
        assert_eq!(code(&all, "look", json!({"name": "m"})).await, Ok(json!({"name": "m"})));
        assert_eq!(code(&all, "change", json!({"name": "m"})).await, Err(ErrorCode::Forbidden));
        for wrong in [json!({}), json!({"name": 1}), json!({"name": "m", "more": 1}), json!([]), json!(null)] {
            assert_eq!(code(&all, "look", wrong.clone()).await, Err(ErrorCode::BadRequest), "{wrong}");
        }
        let large = json!({"name": "x".repeat(ARGUMENTS_BYTES_MAX)});
        assert_eq!(code(&all, "look", large).await, Err(ErrorCode::BodyTooLarge));
        let unknown = all.call(caller(Principal::of_socket(0)), &"x".repeat(5_000), json!({})).await;
        assert_eq!(unknown, Err(CallError::UnknownTool("x".repeat(64))));
    }

    #[tokio::test]
    async fn wrong_arguments_are_answered_with_an_example() {
        let all = catalogue(vec![echo(spec("look", "a"))]);
        let answer = all.call(caller(Principal::loopback()), "look", json!({"nome": "m"})).await;
        let Err(CallError::Failed(error)) = answer else { panic!("{answer:?}") };
        assert!(error.message.contains("input schema"), "{error}");
        assert_eq!(error.next, r#"send arguments like {"name": "m"}"#);
        assert_eq!(error.to_json()["code"], "bad_request");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_hangs_floods_panics_or_lies_spoils_its_own_call() {
        let hangs = Tool::new(spec("hangs", "a"), |_, _: Asked| pending::<Result<Asked, ToolError>>().boxed());
        let floods = Tool::reading(spec("floods", "a"), |_: Asked| Ok(Asked { name: "x".repeat(64 << 10) }));
        let lies = Tool::new(spec("lies", "a"), |_, _: Asked| ready(Ok(Liar { name: 1 })).boxed());
        let panics = Tool::reading(spec("panics", "a"), |asked: Asked| match asked.name.as_str() {
            "m" => panic!("a defect"),
            _ => Ok(asked),
        });
        let all = catalogue([hangs, floods, lies, panics].map(|tool| tool.expect("declared well")).into());
        let asked = || json!({"name": "m"});
        assert_eq!(code(&all, "hangs", asked()).await, Err(ErrorCode::DeadlineExceeded));
        assert_eq!(code(&all, "floods", asked()).await, Err(ErrorCode::BodyTooLarge));
        assert_eq!(code(&all, "lies", asked()).await, Err(ErrorCode::Internal));
        assert_eq!(code(&all, "panics", asked()).await, Err(ErrorCode::Internal));
        assert_eq!(code(&all, "panics", json!({"name": "n"})).await, Ok(json!({"name": "n"})));
    }

    #[tokio::test(start_paused = true)]
    async fn who_calls_too_often_is_told_when_to_try_again_and_nobody_else_is_hurt() {
        let limits = Limits { calls_per_minute: 2, ..Limits::READ };
        let all = catalogue(vec![echo(Spec { limits, ..spec("look", "a") })]);
        let asked = || json!({"name": "m"});
        for _ in 0..2 {
            assert!(code(&all, "look", asked()).await.is_ok());
        }
        let refused = all.call(caller(Principal::loopback()), "look", asked()).await;
        let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
        assert_eq!((error.code, error.next.as_str()), (ErrorCode::Overloaded, "try again in 30000 ms"));
        assert!(all.call(caller(Principal::of_socket(1)), "look", asked()).await.is_ok());
    }
}
