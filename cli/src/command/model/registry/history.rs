//! `ollamax model history`: the versions that a name stood for.

use serde_json::{Value, json};

use ollamax_proto::v1::{HistoryReply, HistoryRequest, Keeper, VersionView};

use crate::args::{Global, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, text};

/// How much of a time is its day.
const DAY_CHARS: usize = 10;

/// Shows them, the newest first.
pub(super) async fn run(global: &Global, name: String) -> Result<(), Failure> {
    let told = client::connect_models(global).await?.history(HistoryRequest { name }).await?.into_inner();
    if global.output == Output::Json {
        let versions: Vec<Value> = told.versions.iter().map(|version| shown(version, &told.pinned)).collect();
        let fields = json!({
            "name": told.name,
            "phase": told.phase,
            "note": known(&told.note),
            "pinned": (!told.pinned.is_empty()).then(|| hex::encode(&told.pinned)),
            "versions": versions,
            "silent": told.silent,
        });
        return output::json("ModelHistory", fields);
    }
    output::text(&page(&told))?;
    if !told.silent.is_empty() {
        let silent = told.silent.join(", ");
        output::talk(global.output, &format!("Not heard, so it is not known what they keep: {silent}"));
    }
    Ok(())
}

/// The newest is marked with `*`, the pinned one is called so.
fn page(told: &HistoryReply) -> String {
    let rows = told.versions.iter().map(|version| {
        let number = if version.number == 0 { "-".to_owned() } else { version.number.to_string() };
        let mark = if version.is_head { "*" } else { "" };
        let pinned = if is_pinned(version, &told.pinned) { " pinned" } else { "" };
        vec![
            format!("{number}{mark}"),
            format!("{}{pinned}", text::digest(&version.digest)),
            if version.size_bytes == 0 { String::new() } else { text::bytes(version.size_bytes) },
            text::time(version.at_ms),
            how(version),
            version.by.clone(),
            version.keepers.iter().map(keeper).collect::<Vec<_>>().join(", "),
        ]
    });
    let table = output::table(&["VERSION", "DIGEST", "SIZE", "WHEN", "HOW", "BY", "KEPT ON"], rows.collect());
    let note = if told.note.is_empty() { String::new() } else { format!(": {}", told.note) };
    match told.phase.as_str() {
        "deprecated" | "disabled" | "deleted" => format!("{} is {}{note}\n\n{table}", told.name, told.phase),
        _ => table,
    }
}

fn is_pinned(version: &VersionView, pinned: &[u8]) -> bool {
    !pinned.is_empty() && version.digest == pinned
}

fn how(version: &VersionView) -> String {
    match version.how.as_str() {
        "rolled_back" => format!("rolled back to {}", version.to),
        "tagged" => format!("tagged from {}", version.from),
        how => how.to_owned(),
    }
}

fn keeper(keeper: &Keeper) -> String {
    match (keeper.is_kept, keeper.until_ms) {
        (false, _) => keeper.node_name.clone(),
        (true, Some(until_ms)) => {
            let day: String = text::time(until_ms).chars().take(DAY_CHARS).collect();
            format!("{} (aside until {day})", keeper.node_name)
        }
        (true, None) => format!("{} (aside)", keeper.node_name),
    }
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn shown(version: &VersionView, pinned: &[u8]) -> Value {
    let keeper = |keeper: &Keeper| {
        let (node, id) = (&keeper.node_name, keeper.node_id);
        json!({"node": node, "nodeId": id, "aside": keeper.is_kept, "untilMs": keeper.until_ms})
    };
    json!({
        "version": (version.number > 0).then_some(version.number),
        "digest": hex::encode(&version.digest),
        "sizeBytes": version.size_bytes,
        "atMs": (version.at_ms > 0).then_some(version.at_ms),
        "how": known(&version.how),
        "to": (version.to > 0).then_some(version.to),
        "from": known(&version.from),
        "by": known(&version.by),
        "head": version.is_head,
        "pinned": is_pinned(version, pinned),
        "keptOn": version.keepers.iter().map(keeper).collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_a_line_with_who_has_it() {
        let version = |number: u64, digest: u8, how: &str| VersionView {
            number,
            digest: vec![digest; 32],
            size_bytes: 2_000_000_000,
            at_ms: 1_767_323_045_000,
            how: how.to_owned(),
            by: "me".to_owned(),
            ..VersionView::default()
        };
        let keeper = |node: &str, is_kept: bool, until_ms: Option<u64>| Keeper {
            node_id: 1,
            node_name: node.to_owned(),
            is_kept,
            until_ms,
        };
        let aside = keeper("n2", true, Some(1_767_423_045_000));
        let told = HistoryReply {
            name: "m:latest".to_owned(),
            versions: vec![
                VersionView {
                    to: 1,
                    is_head: true,
                    keepers: vec![keeper("n1", false, None)],
                    ..version(3, 1, "rolled_back")
                },
                VersionView { keepers: vec![aside], ..version(2, 2, "pulled") },
                VersionView {
                    from: "k".to_owned(),
                    keepers: vec![keeper("n1", true, None)],
                    ..version(1, 1, "tagged")
                },
                VersionView { digest: vec![9; 32], keepers: vec![keeper("n3", false, None)], ..VersionView::default() },
            ],
            pinned: vec![1; 32],
            phase: "deprecated".to_owned(),
            note: "use k".to_owned(),
            silent: Vec::new(),
        };
        insta::assert_snapshot!(page(&told), @r"
        m:latest is deprecated: use k

        VERSION  DIGEST               SIZE    WHEN                     HOW               BY  KEPT ON
        3*       010101010101 pinned  2.0 GB  2026-01-02 03:04:05 UTC  rolled back to 1  me  n1
        2        020202020202         2.0 GB  2026-01-02 03:04:05 UTC  pulled            me  n2 (aside until 2026-01-03)
        1        010101010101 pinned  2.0 GB  2026-01-02 03:04:05 UTC  tagged from k     me  n1 (aside)
        -        090909090909                                                                n3
        ");
    }
}
