//! `ollamax model gc`: versions that nodes keep longer than they must.

use serde_json::{Value, json};

use ollamax_proto::v1::{CollectReply, CollectRequest, CollectedView};
use ollamax_types::ErrorCode;

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Has them removed, or shows which would go. It fails when a node was not heard, behind what the others did.
pub(super) async fn run(global: &Global, nodes: Vec<String>, dry_run: bool) -> Result<(), Failure> {
    let told = client::connect_models(global).await?.collect(CollectRequest { nodes, dry_run }).await?.into_inner();
    show(global, &told, dry_run)?;
    if told.silent.is_empty() {
        return Ok(());
    }
    let what = format!("not heard: {}", told.silent.join(", "));
    Err(Failure::told(ErrorCode::PeerUnreachable, &what, "they do it by themselves in time", "ollamax node list"))
}

fn show(global: &Global, told: &CollectReply, dry_run: bool) -> Result<(), Failure> {
    if global.output == Output::Json {
        let kept: Vec<Value> = told.kept.iter().map(shown).collect();
        return output::json("ModelGc", json!({"dryRun": dry_run, "versions": kept, "silent": told.silent}));
    }
    if told.kept.is_empty() {
        output::talk(global.output, "Nothing is kept longer than it must be.");
        return Ok(());
    }
    output::text(&table(&told.kept))
}

fn table(kept: &[CollectedView]) -> String {
    let rows = kept.iter().map(|one| {
        vec![one.node_name.clone(), one.name.clone(), text::digest(&one.digest), text::bytes(one.size_bytes)]
    });
    output::table(&["NODE", "MODEL", "DIGEST", "SIZE"], rows.collect())
}

fn shown(one: &CollectedView) -> Value {
    json!({
        "node": one.node_name,
        "nodeId": one.node_id,
        "name": one.name,
        "digest": hex::encode(&one.digest),
        "sizeBytes": one.size_bytes,
    })
}
