//! A tool, declared once: its words, its schemas, what it needs and what it costs, and the function that answers.
//!
//! Every form in which a tool is seen comes from this declaration. One that contradicts itself cannot be made.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use ollamax_types::ErrorCode;
use ollamax_types::limits::TASK_RESULT_BYTES_MAX;

use crate::error::{DeclarationError, ToolError};
use crate::once::{DRY_RUN, KEY, OnceKey};
use crate::principal::{Caller, Permission};
use crate::progress::Progress;
use crate::schema::Schema;
use crate::views::Done;
use crate::work::Work;

/// Longest name, by the protocol.
const NAME_CHARS_MAX: usize = 128;
/// Longest description, so that a catalogue stays readable for a model.
const DESCRIPTION_CHARS_MAX: usize = 600;

/// Where a call runs and what it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Read from what the node has; runs where it arrives.
    Read,
    /// A change of what is replicated; runs where it arrives, and what it changes goes to the leader.
    LeaderWrite,
    /// A model answers; the scheduler says where.
    Inference,
    /// Something outside of the cluster changes.
    ExternalEffect,
}

/// What a client may think before it calls. Clients decide by it whether they ask a person, and whether they repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// It changes nothing.
    pub read_only: bool,
    /// It may destroy something.
    pub destructive: bool,
    /// The same call again has no further effect.
    pub idempotent: bool,
    /// It deals with things outside of the cluster.
    pub open_world: bool,
}

/// What makes a repeated call harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// It is harmless by itself.
    Natural,
    /// A key that the caller sends.
    ByKey,
    /// Nothing: it must not be repeated.
    None,
}

/// What one call, and one caller, may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a call may take.
    pub timeout: Duration,
    /// Bytes of a result, as JSON.
    pub output_bytes_max: usize,
    /// Calls of one caller in a minute.
    pub calls_per_minute: u32,
}

/// A call to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// What it does.
    pub title: &'static str,
    /// The arguments, as JSON.
    pub arguments: &'static str,
}

/// What is said of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// By which it is called; never used for another tool.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// For models: what it answers, and when to call it.
    pub description: &'static str,
    /// Which tools it is switched on and off with.
    pub family: &'static str,
    /// Where it runs.
    pub class: Class,
    /// What its caller must be permitted.
    pub permission: Permission,
    /// What a client may think.
    pub hints: Hints,
    /// What makes a repetition harmless.
    pub idempotency: Idempotency,
    /// What it may take. Of a task: until it is on record.
    pub limits: Limits,
    /// It works in a task, which outlives its call and its node.
    pub task: bool,
    /// A person must agree before it begins.
    pub needs_approval: bool,
    /// Calls to learn from; each is checked.
    pub examples: &'static [Example],
}

/// What a tool's function gets beside its arguments.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// Where it is to have effect once: which call it is.
    pub once: Option<OnceKey>,
    /// Where it says how far it is.
    pub progress: Progress,
}

/// What a task would do, as it is foreseen now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Foreseen {
    /// Line by line.
    pub lines: Vec<String>,
    /// Why it would be refused as it was asked for; `None`: it would be done.
    pub refusal: Option<ToolError>,
}

/// The way to it.
pub type Planning = BoxFuture<'static, Result<Foreseen, ToolError>>;

pub(crate) type Run = Arc<dyn Fn(Call, Value) -> BoxFuture<'static, Result<Value, ToolError>> + Send + Sync>;
type Check = Arc<dyn Fn(Value) -> Result<(), ToolError> + Send + Sync>;
pub(crate) type Look = Arc<dyn Fn(&[&Tool], Value) -> Result<Value, ToolError> + Send + Sync>;
pub(crate) type Plan = Arc<dyn Fn(Call, Value) -> Planning + Send + Sync>;
pub(crate) type Labour = Arc<dyn Fn(Work, Value) -> BoxFuture<'static, Result<Value, ToolError>> + Send + Sync>;

/// How a tool comes to its answer.
#[derive(Clone)]
pub(crate) enum How {
    /// By itself, while its caller waits.
    Now(Run),
    /// From the tools that its caller sees.
    Listed(Look),
    /// In a task; what it would do is told at once.
    Task { plan: Plan, work: Labour },
}

/// A tool.
#[derive(Clone)]
pub struct Tool {
    spec: Spec,
    input: Schema,
    output: Schema,
    how: How,
    check: Option<Check>,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("spec", &self.spec).finish_non_exhaustive()
    }
}

// === impl Foreseen ===

impl Foreseen {
    /// What nothing speaks against.
    #[must_use]
    pub const fn of(lines: Vec<String>) -> Self {
        Self { lines, refusal: None }
    }

    /// For whoever only looks: what would go, and what speaks against it.
    pub(crate) fn told(self) -> Vec<String> {
        let refusal = self.refusal.map(|error| format!("it would be refused: {error}"));
        self.lines.into_iter().chain(refusal).collect()
    }

    /// For whoever is to agree: what would go. Nobody is asked for what would be refused.
    pub(crate) fn agreeable(self) -> Result<Vec<String>, ToolError> {
        match self.refusal {
            Some(error) => Err(error),
            None => Ok(self.lines),
        }
    }
}

// === impl Class ===

impl Class {
    /// Its name, as people and programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::LeaderWrite => "leader_write",
            Self::Inference => "inference",
            Self::ExternalEffect => "external_effect",
        }
    }
}

// === impl Idempotency ===

impl Idempotency {
    /// Its name, as people and programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::ByKey => "by_key",
            Self::None => "none",
        }
    }
}

// === impl Hints ===

impl Hints {
    /// Those of a tool that reads what the cluster knows.
    pub const READ: Self = Self { read_only: true, destructive: false, idempotent: true, open_world: false };
    /// Those of a tool that changes what the cluster has, and nothing more when it is called again.
    pub const CHANGE: Self = Self { read_only: false, ..Self::READ };
}

// === impl Limits ===

impl Limits {
    /// Those of a tool that reads what the node has in memory. The output is about 20,000 tokens.
    pub const READ: Self = Self { timeout: Duration::from_secs(10), output_bytes_max: 64 << 10, calls_per_minute: 600 };
    /// Those of a tool that changes something: it waits for a majority, also while another leader is found.
    pub const CHANGE: Self = Self { timeout: Duration::from_secs(30), ..Self::READ };
}

// === impl Spec ===

impl Spec {
    /// What all tools have in common that only look at what the node has; the rest is empty and must be said.
    pub const READ: Self = Self {
        name: "",
        title: "",
        description: "",
        family: "",
        class: Class::Read,
        permission: Permission::Read,
        hints: Hints::READ,
        idempotency: Idempotency::Natural,
        limits: Limits::READ,
        task: false,
        needs_approval: false,
        examples: &[],
    };

    /// What all tools have in common that change what is on record, once for each key.
    pub const CHANGE: Self = Self {
        class: Class::LeaderWrite,
        permission: Permission::Manage,
        hints: Hints::CHANGE,
        idempotency: Idempotency::ByKey,
        limits: Limits::CHANGE,
        ..Self::READ
    };

    /// The same, where it takes longer than a call.
    pub const TASK: Self = Self { task: true, ..Self::CHANGE };

    /// Everything in which it contradicts itself or the protocol.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let named = !self.name.is_empty() && self.name.len() <= NAME_CHARS_MAX && self.name.chars().all(plain);
        let described = !self.description.is_empty() && self.description.chars().count() <= DESCRIPTION_CHARS_MAX;
        let Hints { read_only, destructive, idempotent, open_world } = self.hints;
        let Limits { timeout, output_bytes_max, calls_per_minute } = self.limits;
        let changes = matches!(self.class, Class::LeaderWrite | Class::ExternalEffect);
        let permission = match self.class {
            Class::Read => Permission::Read,
            Class::Inference => Permission::Infer,
            Class::LeaderWrite | Class::ExternalEffect => Permission::Manage,
        };
        let rules = [
            (named, "its name is not 1 to 128 of A-Z a-z 0-9 _ - ."),
            (!self.title.is_empty(), "it has no title"),
            (described, "its description is empty or longer than 600 characters"),
            (!self.family.is_empty(), "it belongs to no family"),
            (!(read_only && destructive), "what only reads destroys nothing"),
            (!read_only || idempotent, "what only reads is idempotent"),
            (read_only != changes, "what changes something is not read-only, and the other way round"),
            (open_world || self.class != Class::ExternalEffect, "an effect outside of the cluster is open-world"),
            (self.permission >= permission, "its permission is less than its class needs"),
            (
                !idempotent || self.idempotency != Idempotency::None,
                "it is idempotent and says that nothing makes it so",
            ),
            (
                !self.needs_approval || self.task && destructive,
                "what a person must agree to works in a task and destroys something",
            ),
            (
                !self.task || output_bytes_max <= TASK_RESULT_BYTES_MAX,
                "what comes of a task is kept, and at most 64 KiB of it",
            ),
            (!timeout.is_zero() && output_bytes_max > 0 && calls_per_minute > 0, "a limit of it is zero"),
        ];
        problems.extend(rules.iter().filter(|(holds, _)| !holds).map(|(_, problem)| (*problem).to_owned()));
        problems
    }
}

// === impl Tool ===

impl Tool {
    /// A tool that answers at once from what the node has.
    ///
    /// # Errors
    /// When the declaration contradicts itself.
    pub fn reading<I, O>(
        spec: Spec,
        answer: impl Fn(I) -> Result<O, ToolError> + Send + Sync + 'static,
    ) -> Result<Self, DeclarationError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        Self::new(spec, move |_, input: I| ready(answer(input)).boxed())
    }

    /// A tool that answers from the tools that its caller sees.
    ///
    /// # Errors
    /// When the declaration contradicts itself.
    pub fn listed<I, O>(
        spec: Spec,
        answer: impl Fn(&[&Self], I) -> Result<O, ToolError> + Send + Sync + 'static,
    ) -> Result<Self, DeclarationError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let look: Look = Arc::new(move |tools: &[&Self], arguments: Value| {
            let asked = read(&spec, arguments)?;
            written(&answer(tools, asked)?)
        });
        Self::declare::<I, O>(spec, How::Listed(look))
    }

    /// A tool.
    ///
    /// # Errors
    /// When the declaration contradicts itself.
    pub fn new<I, O>(
        spec: Spec,
        answer: impl Fn(Call, I) -> BoxFuture<'static, Result<O, ToolError>> + Send + Sync + 'static,
    ) -> Result<Self, DeclarationError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let run: Run = Arc::new(move |call: Call, arguments: Value| match read(&spec, arguments) {
            Ok(asked) => finished(answer(call, asked)).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        });
        Self::declare::<I, O>(spec, How::Now(run))
    }

    /// A tool that works in a task. What it answers is [`Done`]; what it would do is told at once, to who asks for a
    /// dry run. The same work may be begun again by another node.
    ///
    /// # Errors
    /// When the declaration contradicts itself.
    pub fn work<I, O>(
        spec: Spec,
        plan: impl Fn(&Call, &I) -> Planning + Send + Sync + 'static,
        work: impl Fn(Work, I) -> BoxFuture<'static, Result<O, ToolError>> + Send + Sync + 'static,
    ) -> Result<Self, DeclarationError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let plan: Plan = Arc::new(move |call: Call, arguments: Value| match read::<I>(&spec, arguments) {
            Ok(asked) => plan(&call, &asked),
            Err(error) => ready(Err(error)).boxed(),
        });
        let work: Labour = Arc::new(move |given: Work, arguments: Value| match read::<I>(&spec, arguments) {
            Ok(asked) => finished(work(given, asked)).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        });
        let tool = Self::declare::<I, Done<O>>(spec, How::Task { plan, work })?;
        Ok(tool.checked(|_: &I| Ok(())))
    }

    /// The same tool, which refuses arguments that fit its schema and make no sense, before a task is opened for them.
    /// What it looks at is the arguments alone: the same call must be taken again when the world has changed.
    #[must_use]
    pub fn checked<I>(mut self, check: impl Fn(&I) -> Result<(), ToolError> + Send + Sync + 'static) -> Self
    where
        I: DeserializeOwned + 'static,
    {
        let spec = self.spec;
        self.check = Some(Arc::new(move |arguments: Value| check(&read(&spec, arguments)?)));
        self
    }

    fn declare<I: JsonSchema, O: JsonSchema>(spec: Spec, how: How) -> Result<Self, DeclarationError> {
        let wrong = |problems: Vec<String>| DeclarationError { tool: spec.name.to_owned(), problems };
        let input = Schema::of_input::<I>().map_err(|problem| wrong(vec![problem]))?;
        let output = Schema::of_output::<O>().map_err(|problem| wrong(vec![problem]))?;
        let mut problems = spec.problems();
        for (schema, what) in [(&input, "takes"), (&output, "answers")] {
            if schema.shown().get("type") != Some(&json!("object")) {
                problems.push(format!("what it {what} is no object"));
            }
        }
        let takes = |name: &str| input.shown().get("properties").is_some_and(|fields| fields.get(name).is_some());
        for (holds, problem) in [
            (
                takes(KEY) == (spec.idempotency == Idempotency::ByKey),
                "it is made harmless by a key and takes none, or the other way round",
            ),
            (takes(DRY_RUN) || !spec.task, "a task takes no dry run"),
            (
                matches!(how, How::Task { .. }) == spec.task,
                "it says that it is a task and works in none, or the reverse",
            ),
        ] {
            if !holds {
                problems.push(problem.to_owned());
            }
        }
        for example in spec.examples {
            match serde_json::from_str::<Value>(example.arguments) {
                Ok(arguments) => problems.extend(input.problems(&arguments)),
                Err(error) => problems.push(format!("an example is no JSON: {error}")),
            }
        }
        if !problems.is_empty() {
            return Err(wrong(problems));
        }
        Ok(Self { spec, input, output, how, check: None })
    }

    /// What is said of it.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it takes.
    #[must_use]
    pub const fn input(&self) -> &Schema {
        &self.input
    }

    /// What it answers.
    #[must_use]
    pub const fn output(&self) -> &Schema {
        &self.output
    }

    /// As lists show it to a model: of what it answers, the form alone.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Spec { name, title, description, hints, .. } = self.spec;
        json!({
            "name": name,
            "title": title,
            "description": description,
            "inputSchema": self.input.shown(),
            "outputSchema": self.output.brief(),
            "annotations": {
                "readOnlyHint": hints.read_only,
                "destructiveHint": hints.destructive,
                "idempotentHint": hints.idempotent,
                "openWorldHint": hints.open_world,
            },
        })
    }

    /// All that is said of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        let Spec { family, class, permission, idempotency, limits, task, needs_approval, examples, .. } = self.spec;
        let examples: Vec<Value> = examples
            .iter()
            .map(|example| {
                let arguments = serde_json::from_str::<Value>(example.arguments).unwrap_or_default();
                json!({"title": example.title, "arguments": arguments})
            })
            .collect();
        let mut told = self.to_json();
        for (key, value) in [
            ("outputSchema", json!(self.output.shown())),
            ("family", json!(family)),
            ("class", json!(class.as_str())),
            ("permission", json!(permission.as_str())),
            ("idempotency", json!(idempotency.as_str())),
            ("task", json!(task)),
            ("needsApproval", json!(needs_approval)),
            ("timeoutMs", json!(u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX))),
            ("outputBytesMax", json!(limits.output_bytes_max)),
            ("callsPerMinute", json!(limits.calls_per_minute)),
            ("examples", json!(examples)),
        ] {
            told[key] = value;
        }
        told
    }

    /// Whether arguments that fit its schema make sense.
    pub(crate) fn check(&self, arguments: &Value) -> Result<(), ToolError> {
        self.check.as_ref().map_or(Ok(()), |check| check(arguments.clone()))
    }

    /// How it comes to its answer. Who asks has admitted the call.
    pub(crate) const fn how(&self) -> &How {
        &self.how
    }
}

/// The schema takes them and the type does not: JSON Schema counts 1.0 among the whole numbers. The decoder's own words
/// would repeat the value.
fn unreadable(spec: &Spec) -> ToolError {
    let message = format!("the arguments of {} fit its input schema and cannot be read", spec.name);
    ToolError::new(ErrorCode::BadRequest, message, "write whole numbers without a fraction")
}

fn read<I: DeserializeOwned>(spec: &Spec, arguments: Value) -> Result<I, ToolError> {
    serde_json::from_value(arguments).map_err(|_| unreadable(spec))
}

async fn finished<O: Serialize + Send>(answer: BoxFuture<'static, Result<O, ToolError>>) -> Result<Value, ToolError> {
    written(&answer.await?)
}

fn written<O: Serialize>(answer: &O) -> Result<Value, ToolError> {
    serde_json::to_value(answer)
        .map_err(|error| ToolError::new(ErrorCode::Internal, format!("the result is no JSON: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        name: String,
    }

    const READ: Spec = Spec {
        name: "look",
        title: "Look",
        description: "Looks.",
        family: "tests",
        examples: &[Example { title: "Look at m", arguments: r#"{"name": "m"}"# }],
        ..Spec::READ
    };

    #[test]
    fn a_declaration_that_contradicts_itself_is_refused_with_everything_that_is_wrong() {
        let check = |spec: Spec, expected: &[&str]| {
            let problems = spec.problems();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{problem:?} {expected:?}");
            }
        };
        let hints = Hints::READ;
        let write = Spec {
            class: Class::LeaderWrite,
            permission: Permission::Manage,
            hints: Hints { read_only: false, ..hints },
            idempotency: Idempotency::ByKey,
            ..READ
        };
        check(READ, &[]);
        check(write, &[]);
        check(
            Spec { name: "a b", title: "", description: "", family: "", ..READ },
            &["name", "title", "descr", "family"],
        );
        let task = Spec { task: true, ..write };
        let destructive = Hints { destructive: true, ..Hints::CHANGE };
        check(task, &[]);
        check(Spec { needs_approval: true, hints: destructive, ..task }, &[]);
        check(Spec { needs_approval: true, ..task }, &["a person must agree"]);
        check(Spec { needs_approval: true, hints: destructive, ..write }, &["a person must agree"]);
        check(Spec { limits: Limits { output_bytes_max: 65 << 10, ..Limits::CHANGE }, ..task }, &["is kept"]);
        check(Spec { hints: Hints { destructive: true, ..hints }, ..READ }, &["destroys nothing"]);
        check(Spec { hints: Hints { idempotent: false, ..hints }, ..READ }, &["is idempotent"]);
        check(Spec { hints: Hints { read_only: false, ..hints }, ..READ }, &["not read-only"]);
        check(Spec { hints, ..write }, &["not read-only"]);
        check(Spec { permission: Permission::Read, ..write }, &["permission is less"]);
        check(Spec { class: Class::ExternalEffect, ..write }, &["open-world"]);
        check(Spec { idempotency: Idempotency::None, ..READ }, &["nothing makes it so"]);
        check(Spec { limits: Limits { calls_per_minute: 0, ..Limits::READ }, ..READ }, &["limit"]);
    }

    #[test]
    fn examples_are_checked_and_what_is_no_object_is_no_tool() {
        let made = |spec: Spec| Tool::reading(spec, |asked: Asked| Ok(asked)).map(|tool| tool.spec().name);
        assert_eq!(made(READ), Ok("look"));
        let wrong = &[Example { title: "x", arguments: r#"{"nome": "m"}"# }, Example { title: "y", arguments: "{" }];
        let error = made(Spec { examples: wrong, ..READ }).expect_err("wrong examples");
        assert!(error.problems.len() >= 2, "{error}");
        assert!(error.to_string().starts_with("tool look: "), "{error}");
        let listed = Tool::reading(READ, |asked: Asked| Ok(vec![asked])).expect_err("an array");
        assert_eq!(listed.problems, ["what it answers is no object"]);
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Keyed {
        name: String,
        dry_run: Option<bool>,
        idempotency_key: Option<String>,
    }

    #[test]
    fn a_task_is_declared_with_its_key_its_dry_run_and_its_work() {
        let works = |spec: Spec| {
            Tool::work(
                spec,
                |_: &Call, asked: &Keyed| ready(Ok(Foreseen::of(vec![asked.name.clone()]))).boxed(),
                |_: Work, asked: Keyed| ready(Ok(asked)).boxed(),
            )
        };
        let task =
            Spec { name: "do", examples: READ.examples, title: "Do", description: "Does.", family: "t", ..Spec::TASK };
        let told = works(task).expect("declared well").describe();
        assert_eq!((&told["task"], &told["needsApproval"]), (&json!(true), &json!(false)));
        let properties = told["outputSchema"]["properties"].as_object().expect("an object");
        assert_eq!(properties.keys().collect::<Vec<_>>(), ["task", "plan", "result", "next"]);
        let problems = |made: Result<Tool, DeclarationError>| made.expect_err("it contradicts itself").problems.len();
        // It says that it is none, and works in one.
        assert_eq!(problems(works(Spec { task: false, ..task })), 1);
        assert_eq!(problems(works(Spec { idempotency: Idempotency::Natural, ..task })), 1);
        // It says that it is one, takes neither a key nor a dry run, and works in none.
        assert_eq!(problems(Tool::new(task, |_: Call, asked: Asked| ready(Ok(asked)).boxed())), 3);
    }

    #[test]
    fn lists_show_the_form_of_an_answer_and_descriptions_its_words() {
        #[derive(Serialize, JsonSchema)]
        struct Told {
            /// A word of an answer.
            name: String,
        }
        let tool = Tool::reading(READ, |asked: Asked| Ok(Told { name: asked.name })).expect("declared well");
        assert!(!tool.to_json().to_string().contains("A word of"), "{}", tool.to_json());
        assert!(tool.describe().to_string().contains("A word of"), "{}", tool.describe());
    }
}
