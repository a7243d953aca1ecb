//! `ollamax model why`: why a model is where it is, a line for each reason.

use serde_json::{Value, json};

use ollamax_proto::v1::{ReasonView, WhyModelRequest};

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Shows the reasons.
pub(super) async fn run(global: &Global, name: String) -> Result<(), Failure> {
    let told = client::connect_models(global).await?.why_model(WhyModelRequest { name }).await?.into_inner();
    if global.output == Output::Json {
        let reasons: Vec<Value> = told.reasons.iter().map(shown).collect();
        return output::json("ModelWhy", json!({"name": told.name, "reasons": reasons, "silent": told.silent}));
    }
    for reason in &told.reasons {
        output::line(&reason.text)?;
    }
    if !told.silent.is_empty() {
        let silent = told.silent.join(", ");
        output::talk(global.output, &format!("Not heard, so it is not known what they keep: {silent}"));
    }
    Ok(())
}

fn shown(reason: &ReasonView) -> Value {
    json!({"nodeId": (reason.node_id > 0).then_some(reason.node_id), "text": reason.text})
}
