//! `ollamax model rules`: what becomes of models that nobody uses. The daemon checks the rules and makes their plan.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use ollamax_proto::v1::{ActView, PlanView, RulesReply, RulesRequest};

use crate::args::{Global, Output, RulesCommand};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Longest text of rules that is read, bytes; the daemon says what it takes.
const RULES_BYTES_MAX: u64 = 1 << 20;

/// Runs one of them.
pub(super) async fn run(global: &Global, command: RulesCommand) -> Result<(), Failure> {
    let nothing = RulesRequest::default();
    let (is_plan, request) = match command {
        RulesCommand::Show => (false, nothing),
        RulesCommand::Plan => (true, RulesRequest { plan: true, ..nothing }),
        RulesCommand::On => (false, RulesRequest { on: Some(true), ..nothing }),
        RulesCommand::Off => (false, RulesRequest { on: Some(false), ..nothing }),
        RulesCommand::Set { file } => (false, RulesRequest { set: Some(read(&file).await?), ..nothing }),
    };
    let told = client::connect_models(global).await?.rules(request).await?.into_inner();
    if global.output == Output::Json {
        return output::json("ModelRules", shown(&told));
    }
    if is_plan {
        return show_plan(global, &told);
    }
    output::line(&told.rules)?;
    output::talk(global.output, switched(told.on));
    Ok(())
}

fn switched(on: bool) -> &'static str {
    if on {
        "The rules are on. Next: ollamax model rules plan"
    } else {
        "The rules are off. Next: ollamax model rules plan, then: ollamax model rules on"
    }
}

async fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        tokio::io::stdin().take(RULES_BYTES_MAX).read_to_string(&mut text).await
    } else {
        match tokio::fs::File::open(file).await {
            Ok(opened) => opened.take(RULES_BYTES_MAX).read_to_string(&mut text).await,
            Err(error) => Err(error),
        }
    };
    let unread = |error: std::io::Error| {
        Failure::usage(format!("{}: {error}", file.display()), "ollamax model rules show > rules.json")
    };
    read.map(|_| text).map_err(unread)
}

fn show_plan(global: &Global, told: &RulesReply) -> Result<(), Failure> {
    let plan = told.plan.clone().unwrap_or_default();
    if plan.acts.is_empty() {
        output::talk(global.output, "The rules would do nothing now.");
        return Ok(());
    }
    output::text(&table(&plan))?;
    let now = if told.on { "The leader does this, one act after the other." } else { switched(false) };
    output::talk(global.output, now);
    Ok(())
}

fn table(plan: &PlanView) -> String {
    let rows = plan.acts.iter().map(|act| {
        let frees = if act.frees_bytes == 0 { String::new() } else { text::bytes(act.frees_bytes) };
        vec![act.name.clone(), deed(act), frees, act.why.clone()]
    });
    output::table(&["MODEL", "ACT", "FREES", "WHY"], rows.collect())
}

fn deed(act: &ActView) -> String {
    match act.deed.as_str() {
        "drop" => format!("remove the copy on {}", act.node_name),
        deed => deed.to_owned(),
    }
}

fn shown(told: &RulesReply) -> Value {
    let rules: Value = serde_json::from_str(&told.rules).unwrap_or_default();
    let act = |act: &ActView| {
        json!({
            "name": act.name,
            "deed": act.deed,
            "node": (act.node_id > 0).then(|| act.node_name.clone()),
            "freesBytes": act.frees_bytes,
            "rule": act.rule,
            "why": act.why,
        })
    };
    let acts = told.plan.as_ref().map(|plan| plan.acts.iter().map(act).collect::<Vec<Value>>());
    json!({"on": told.on, "rules": rules["rules"], "acts": acts})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_act_has_a_line_with_its_reason() {
        let act = |name: &str, deed: &str, node: &str, frees_bytes: u64| ActView {
            name: name.to_owned(),
            deed: deed.to_owned(),
            node_name: node.to_owned(),
            frees_bytes,
            why: "not used for 63 days; rule 1 says 60".to_owned(),
            ..ActView::default()
        };
        let acts = vec![act("m:latest", "drop", "n2", 2_000_000_000), act("k:latest", "deprecate", "", 0)];
        insta::assert_snapshot!(table(&PlanView { acts, frees_bytes: 2_000_000_000 }), @r"
        MODEL     ACT                    FREES   WHY
        m:latest  remove the copy on n2  2.0 GB  not used for 63 days; rule 1 says 60
        k:latest  deprecate                      not used for 63 days; rule 1 says 60
        ");
    }
}
