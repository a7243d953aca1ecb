//! `ollamax model gc`: versions that nodes keep longer than they must, and names on record that nobody has for long.

use serde_json::{Value, json};

use ollamax_proto::v1::{CollectReply, CollectRequest, CollectedView, OldNameView};
use ollamax_types::ErrorCode;

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// Has them removed, or shows which would go. It fails when a node was not heard, behind what the others did.
pub(super) async fn run(global: &Global, nodes: Vec<String>, dry_run: bool) -> Result<(), Failure> {
    let told = client::connect_models(global).await?.collect(CollectRequest { nodes, dry_run }).await?.into_inner();
    show(global, &told, dry_run)?;
    if told.names_left > 0 {
        let left = told.names_left;
        let what = if dry_run { format!("{left} more names would go") } else { format!("{left} names stay for now") };
        output::talk(global.output, &format!("{what}; the leader has them go by itself."));
    }
    if told.silent.is_empty() {
        return Ok(());
    }
    let what = format!("not heard: {}", told.silent.join(", "));
    Err(Failure::told(ErrorCode::PeerUnreachable, &what, "they do it by themselves in time", "ollamax node list"))
}

fn show(global: &Global, told: &CollectReply, dry_run: bool) -> Result<(), Failure> {
    if global.output == Output::Json {
        let kept: Vec<Value> = told.kept.iter().map(shown).collect();
        let name = |old: &OldNameView| json!({"name": old.name, "sinceMs": old.since_ms});
        let names: Vec<Value> = told.names.iter().map(name).collect();
        let fields = json!({
            "dryRun": dry_run,
            "versions": kept,
            "names": names,
            "namesLeft": told.names_left,
            "silent": told.silent,
        });
        return output::json("ModelGc", fields);
    }
    if told.kept.is_empty() && told.names.is_empty() {
        output::talk(global.output, "Nothing is kept longer than it must be.");
        return Ok(());
    }
    let parts = [(!told.kept.is_empty()).then(|| table(&told.kept)), names_table(&told.names)];
    output::text(&parts.into_iter().flatten().collect::<Vec<String>>().join("\n"))
}

/// Nothing where none goes.
fn names_table(names: &[OldNameView]) -> Option<String> {
    let rows = names.iter().map(|old| vec![old.name.clone(), text::time(old.since_ms)]);
    (!names.is_empty()).then(|| output::table(&["NAME", "NOBODY HAS IT SINCE"], rows.collect()))
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
