//! `ollamax upgrade check`: whether the members can be restarted one after another with another release.
//!
//! A line for each thing that matters, and what to do about it. Exit code 10 when one of them is a warning, 1 when one
//! has failed; nothing is added to what was shown.

use serde_json::{Value, json};

use ollamax_proto::v1::check::Outcome;
use ollamax_proto::v1::{Check, CheckUpgradeReply, CheckUpgradeRequest};

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Asks the node.
pub(crate) async fn check(global: &Global) -> Result<(), Failure> {
    let reply = client::connect_versions(global).await?.check_upgrade(CheckUpgradeRequest {}).await?.into_inner();
    let CheckUpgradeReply { checks, view } = reply;
    let worst = worst(&checks);
    if global.output == Output::Json {
        let shown = |check: &Check| {
            let verdict = word(check.outcome());
            json!({"id": check.id, "verdict": verdict, "found": check.found, "next": check.fix})
        };
        let shown: Vec<Value> = checks.iter().map(shown).collect();
        let applied_index = view.unwrap_or_default().applied_index;
        output::json("UpgradeCheck", json!({"verdict": word(worst), "appliedIndex": applied_index, "checks": shown}))?;
    } else {
        output::text(&page(&checks))?;
    }
    match worst {
        Outcome::Fail => Err(Failure::unfit()),
        Outcome::Warn => Err(Failure::degraded()),
        Outcome::Ok | Outcome::Skipped | Outcome::Unspecified => Ok(()),
    }
}

fn worst(checks: &[Check]) -> Outcome {
    let any = |wanted: Outcome| checks.iter().any(|check| check.outcome() == wanted);
    match (any(Outcome::Fail), any(Outcome::Warn)) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Warn,
        (false, false) => Outcome::Ok,
    }
}

fn page(checks: &[Check]) -> String {
    let mut page = String::new();
    for check in checks {
        page += &format!("{:<4}  {:<10}  {}\n", word(check.outcome()), check.id, check.found);
        if !check.fix.is_empty() {
            page += &format!("{:<16}  next: {}\n", "", check.fix);
        }
    }
    let end = match worst(checks) {
        Outcome::Fail => "Not now: mend what has failed first.",
        Outcome::Warn => "Weigh the warnings, then restart one member after another.",
        Outcome::Ok | Outcome::Skipped | Outcome::Unspecified => {
            "The members can be restarted one after another; wait for each: ollamax wait --for caught-up"
        }
    };
    format!("{page}\n{end}\n")
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warn",
        Outcome::Fail => "fail",
        Outcome::Skipped | Outcome::Unspecified => "skip",
    }
}
