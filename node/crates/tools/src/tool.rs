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

use crate::error::{DeclarationError, ToolError};
use crate::principal::{Caller, Permission};
use crate::schema::Schema;

/// Longest name, by the protocol.
const NAME_CHARS_MAX: usize = 128;
/// Longest description, so that a catalogue stays readable for a model.
const DESCRIPTION_CHARS_MAX: usize = 600;

/// Where a call runs and what it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Read from what the node has; runs where it arrives.
    Read,
    /// A change of what is replicated; runs at the leader.
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
    /// What it may take.
    pub limits: Limits,
    /// Calls to learn from; each is checked.
    pub examples: &'static [Example],
}

type Run = Arc<dyn Fn(Caller, Value) -> BoxFuture<'static, Result<Value, ToolError>> + Send + Sync>;

/// A tool.
#[derive(Clone)]
pub struct Tool {
    spec: Spec,
    input: Schema,
    output: Schema,
    run: Run,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("spec", &self.spec).finish_non_exhaustive()
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
}

// === impl Limits ===

impl Limits {
    /// Those of a tool that reads what the node has in memory. The output is about 20,000 tokens.
    pub const READ: Self = Self { timeout: Duration::from_secs(10), output_bytes_max: 64 << 10, calls_per_minute: 600 };
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
        examples: &[],
    };

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

    /// A tool.
    ///
    /// # Errors
    /// When the declaration contradicts itself.
    pub fn new<I, O>(
        spec: Spec,
        answer: impl Fn(Caller, I) -> BoxFuture<'static, Result<O, ToolError>> + Send + Sync + 'static,
    ) -> Result<Self, DeclarationError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let wrong = |problems: Vec<String>| DeclarationError { tool: spec.name.to_owned(), problems };
        let input = Schema::of_input::<I>().map_err(|problem| wrong(vec![problem]))?;
        let output = Schema::of_output::<O>().map_err(|problem| wrong(vec![problem]))?;
        let mut problems = spec.problems();
        for (schema, what) in [(&input, "takes"), (&output, "answers")] {
            if schema.shown().get("type") != Some(&json!("object")) {
                problems.push(format!("what it {what} is no object"));
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
        let run: Run = Arc::new(move |caller: Caller, arguments: Value| match serde_json::from_value(arguments) {
            Ok(asked) => finished(answer(caller, asked)).boxed(),
            Err(_) => ready(Err(unreadable(&spec))).boxed(),
        });
        Ok(Self { spec, input, output, run })
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

    /// As lists show it to a model.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Spec { name, title, description, hints, .. } = self.spec;
        json!({
            "name": name,
            "title": title,
            "description": description,
            "inputSchema": self.input.shown(),
            "outputSchema": self.output.shown(),
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
        let Spec { family, class, permission, idempotency, limits, examples, .. } = self.spec;
        let examples: Vec<Value> = examples
            .iter()
            .map(|example| {
                let arguments = serde_json::from_str::<Value>(example.arguments).unwrap_or_default();
                json!({"title": example.title, "arguments": arguments})
            })
            .collect();
        let mut told = self.to_json();
        for (key, value) in [
            ("family", json!(family)),
            ("class", json!(class.as_str())),
            ("permission", json!(permission.as_str())),
            ("idempotency", json!(idempotency.as_str())),
            ("timeoutMs", json!(u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX))),
            ("outputBytesMax", json!(limits.output_bytes_max)),
            ("callsPerMinute", json!(limits.calls_per_minute)),
            ("examples", json!(examples)),
        ] {
            told[key] = value;
        }
        told
    }

    /// Runs it. Who calls this has admitted the call.
    pub(crate) fn run(&self, caller: Caller, arguments: Value) -> BoxFuture<'static, Result<Value, ToolError>> {
        (self.run)(caller, arguments)
    }
}

/// The schema takes them and the type does not: JSON Schema counts 1.0 among the whole numbers. The decoder's own words
/// would repeat the value.
fn unreadable(spec: &Spec) -> ToolError {
    let message = format!("the arguments of {} fit its input schema and cannot be read", spec.name);
    ToolError::new(ErrorCode::BadRequest, message, "write whole numbers without a fraction")
}

async fn finished<O: Serialize + Send>(answer: BoxFuture<'static, Result<O, ToolError>>) -> Result<Value, ToolError> {
    let answer = answer.await?;
    serde_json::to_value(&answer)
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
}
