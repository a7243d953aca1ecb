//! What is on record of a model, changed: where it stands in its life, and for which version its name stands.

use std::sync::Arc;

use futures::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_tools::views::Rescanned;
use ollamax_tools::{Call, Changes, DeclarationError, Example, Idempotency, Limits, Spec, Tool, ToolError};

use crate::{FAMILY, wrong};

const UPDATE_MODEL_CONFIG: Spec = Spec {
    name: "update_model_config",
    title: "Configure a model",
    description: "Says where a model stands in its life: active, deprecated (served, and who asks is told what to use \
                  instead) or disabled (not served).",
    family: FAMILY,
    examples: &[
        Example { title: "Retire it", arguments: r#"{"name": "m:1", "state": "deprecated", "instead": "m:2"}"# },
        Example { title: "Take it back", arguments: r#"{"name": "m:1", "state": "active"}"# },
    ],
    ..Spec::CHANGE
};

const PIN_MODEL: Spec = Spec {
    name: "pin_model",
    title: "Pin a model",
    description: "Has a model's name stand for one version, whatever is newer, or for the newest again.",
    examples: &[
        Example { title: "Keep this one", arguments: r#"{"name": "m:latest", "pinned": true}"# },
        Example { title: "Let it go on", arguments: r#"{"name": "m:latest", "pinned": false}"# },
    ],
    ..UPDATE_MODEL_CONFIG
};

const RESCAN_AVAILABLE_MODELS: Spec = Spec {
    name: "rescan_available_models",
    title: "Look for models anew",
    description: "Has every node look which models are in its folder. Call it when a model that was put there by hand \
                  is not listed.",
    idempotency: Idempotency::Natural,
    limits: Limits { calls_per_minute: 6, ..Limits::CHANGE },
    examples: &[Example { title: "All nodes", arguments: "{}" }],
    ..UPDATE_MODEL_CONFIG
};

// Which model, and where it is to stand.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfigAsked {
    #[schemars(length(min = 1, max = 512))]
    name: String,
    state: Option<State>,
    /// What to use in its place.
    #[schemars(length(min = 1, max = 512))]
    instead: Option<String>,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Active,
    Deprecated,
    Disabled,
}

// How it stands now.
#[derive(Debug, Serialize, JsonSchema)]
struct Config {
    name: String,
    state: State,
    instead: Option<String>,
}

// Which model, and which version.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PinAsked {
    #[schemars(length(min = 1, max = 512))]
    name: String,
    /// The version's digest, or its beginning; the one that is served where it is not said.
    #[schemars(length(min = 1, max = 128))]
    version: Option<String>,
    pinned: bool,
    /// Tells what would happen.
    dry_run: Option<bool>,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

// What its name stands for now.
#[derive(Debug, Serialize, JsonSchema)]
struct Pinned {
    name: String,
    /// The version's digest; null: the newest.
    digest: Option<String>,
    /// Nothing was changed: so it would be.
    dry_run: bool,
}

// A call without arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

// What the nodes found.
#[derive(Debug, Serialize, JsonSchema)]
struct Found {
    /// One row for each node.
    nodes: Vec<Rescanned>,
}

/// The tools of the family that change records.
pub(crate) fn tools(changes: &Arc<dyn Changes>) -> Result<Vec<Tool>, DeclarationError> {
    let (config, pins, scans) = (Arc::clone(changes), Arc::clone(changes), Arc::clone(changes));
    Ok(vec![
        Tool::new(UPDATE_MODEL_CONFIG, move |call: Call, asked: ConfigAsked| {
            configure(Arc::clone(&config), call, asked).boxed()
        })?,
        Tool::new(PIN_MODEL, move |call: Call, asked: PinAsked| pin(Arc::clone(&pins), call, asked).boxed())?,
        Tool::new(RESCAN_AVAILABLE_MODELS, move |_: Call, _: Nothing| rescan(Arc::clone(&scans)).boxed())?,
    ])
}

// === impl State ===

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deprecated => "deprecated",
            Self::Disabled => "disabled",
        }
    }
}

async fn configure(changes: Arc<dyn Changes>, call: Call, asked: ConfigAsked) -> Result<Config, ToolError> {
    let ConfigAsked { name, state, instead, .. } = asked;
    let state = match (state, &instead) {
        (None, None) => return Err(wrong("nothing is to be changed", "say state: active, deprecated or disabled")),
        (None, Some(_)) => State::Deprecated,
        (Some(State::Active), Some(_)) => {
            return Err(wrong("a model that is active needs nothing in its place", "leave instead out"));
        }
        (Some(state), _) => state,
    };
    changes.set_phase(&call, &name, state.as_str(), instead.as_deref()).await?;
    Ok(Config { name, state, instead })
}

async fn pin(changes: Arc<dyn Changes>, call: Call, asked: PinAsked) -> Result<Pinned, ToolError> {
    let PinAsked { name, version, pinned, dry_run, .. } = asked;
    let is_dry = dry_run == Some(true);
    if pinned {
        let version = version.as_deref();
        let asked = if is_dry { changes.plan_pin(&name, version) } else { changes.pin(&call, &name, version) };
        return Ok(Pinned { digest: Some(asked.await?), name, dry_run: is_dry });
    }
    if version.is_some() {
        return Err(wrong("a name that is not pinned stands for the newest version", "leave version out"));
    }
    let asked = if is_dry { changes.plan_unpin(&name) } else { changes.unpin(&call, &name) };
    asked.await?;
    Ok(Pinned { name, digest: None, dry_run: is_dry })
}

async fn rescan(changes: Arc<dyn Changes>) -> Result<Found, ToolError> {
    Ok(Found { nodes: changes.rescan().await? })
}

#[cfg(test)]
mod tests {
    use ollamax_tools::mem::MemPorts;
    use ollamax_tools::{CallError, Caller, Catalogue, Families, Principal};
    use ollamax_types::ErrorCode;
    use serde_json::{Value, json};

    async fn call(ports: &MemPorts, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
        let tools = crate::tools(&ports.ports()).expect("declared well");
        let all = Catalogue::new(tools, &Families::All).expect("names differ");
        let caller = Caller { principal: Principal::of_socket(1), request: Default::default(), trace: None };
        match all.call(caller, tool, arguments).await {
            Ok(value) => Ok(value),
            Err(CallError::Failed(error)) => Err(error.code),
            Err(error) => panic!("{error}"),
        }
    }

    /// What a call changes, or why it changes nothing.
    async fn made(tool: &str, arguments: Value) -> Result<String, ErrorCode> {
        let ports = MemPorts::default();
        let answer = call(&ports, tool, arguments).await;
        let made = ports.changes.made().join("; ");
        assert_eq!(answer.is_err(), made.is_empty(), "{answer:?} {made}");
        answer.map(|_| made)
    }

    #[tokio::test]
    async fn a_model_is_retired_and_taken_back_and_half_a_wish_is_refused() {
        let check = async |arguments: Value, expected: Result<&str, ErrorCode>| {
            let found = made("update_model_config", arguments.clone()).await;
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{arguments}");
        };
        check(json!({"name": "m", "state": "disabled"}), Ok("phase m disabled")).await;
        check(json!({"name": "m", "instead": "n"}), Ok("phase m deprecated instead n")).await;
        check(json!({"name": "m", "state": "active", "idempotency_key": "k"}), Ok("phase m active once")).await;
        for wrong in [
            json!({"name": "m"}),
            json!({"name": "m", "state": "active", "instead": "n"}),
            json!({"name": "m", "state": "deleted"}),
            json!({"state": "active"}),
            json!({"name": "m", "state": "active", "idempotency_key": ""}),
        ] {
            check(wrong, Err(ErrorCode::BadRequest)).await;
        }
    }

    #[tokio::test]
    async fn a_name_is_pinned_to_a_version_and_let_go() {
        let check = async |arguments: Value, expected: Result<&str, ErrorCode>| {
            let found = made("pin_model", arguments.clone()).await;
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{arguments}");
        };
        check(json!({"name": "m", "pinned": true, "idempotency_key": "k"}), Ok("pin m newest once")).await;
        check(json!({"name": "m", "pinned": true, "version": "ab"}), Ok("pin m ab")).await;
        check(json!({"name": "m", "pinned": false}), Ok("unpin m")).await;
        check(json!({"name": "m", "pinned": false, "version": "ab"}), Err(ErrorCode::BadRequest)).await;
        check(json!({"name": "m"}), Err(ErrorCode::BadRequest)).await;
        let ports = MemPorts::default();
        let told = call(&ports, "pin_model", json!({"name": "m", "pinned": true})).await;
        assert_eq!(told, Ok(json!({"name": "m", "digest": "ab".repeat(32), "dry_run": false})));
        for (pinned, digest) in [(true, json!("ab".repeat(32))), (false, Value::Null)] {
            let ports = MemPorts::default();
            let told = call(&ports, "pin_model", json!({"name": "m", "pinned": pinned, "dry_run": true})).await;
            assert_eq!(told, Ok(json!({"name": "m", "digest": digest, "dry_run": true})));
            assert!(ports.changes.made().is_empty(), "a dry run changes nothing");
        }
    }

    #[tokio::test]
    async fn every_node_looks_anew_for_its_models() {
        let ports = MemPorts::default();
        let told = call(&ports, "rescan_available_models", json!({})).await;
        assert_eq!(told, Ok(json!({"nodes": [{"node": "n1", "models": 2, "problem": null}]})));
        assert_eq!(ports.changes.made(), ["rescan"]);
    }
}
