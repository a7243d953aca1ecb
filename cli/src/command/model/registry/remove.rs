//! `ollamax model rm`: copies go, or a model as a whole. The daemon says first what would go, and whether it may.
//!
//! A dry run shows what would go also where it may not, and then fails as the real one would.

use serde_json::{Value, json};

use ollamax_proto::v1::{ActView, GuardView, PlanView, RemoveModelReply, RemoveModelRequest};

use crate::args::{Global, Output, RemoveArgs};
use crate::client;
use crate::consent;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// Shows what would go, asks, and has it removed.
pub(super) async fn run(global: &Global, args: &RemoveArgs) -> Result<(), Failure> {
    let mut client = client::connect_models(global).await?;
    let first =
        RemoveModelRequest { name: args.name.clone(), nodes: args.nodes.clone(), dry_run: true, force: args.force };
    let answer = client.remove_model(first.clone()).await?;
    let (id, foretold) = (request_id(answer.metadata()), answer.into_inner());
    let refused = foretold.refusal.as_ref().map(|guard| failure(guard).with_request_id(&id));
    if args.dry_run {
        if global.output == Output::Json {
            output::json("ModelRemoval", shown(&foretold, true))?;
        } else {
            output::text(&page(&foretold))?;
        }
        return refused.map_or(Ok(()), Err);
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    if !args.yes {
        output::talk(global.output, &page(&foretold));
        consent::ask(global, &deed(&foretold), &args.name).await?;
    }
    let removed = client.remove_model(RemoveModelRequest { dry_run: false, ..first }).await?.into_inner();
    if global.output == Output::Json {
        return output::json("ModelRemoval", shown(&removed, false));
    }
    output::text(&page(&removed))?;
    let next = if removed.left.is_empty() {
        "ollamax model list".to_owned()
    } else {
        format!("ollamax model why {}", removed.name)
    };
    let how =
        if acts(&removed).is_empty() { "" } else { "Each node does it by itself, one that is away when it is back. " };
    output::talk(global.output, &format!("{how}Next: {next}"));
    Ok(())
}

/// How the command ends where a guard speaks against it.
fn failure(guard: &GuardView) -> Failure {
    let GuardView { code, what, why, next } = guard;
    Failure::told_as(code, what, why, next)
}

fn acts(told: &RemoveModelReply) -> &[ActView] {
    told.plan.as_ref().map_or(&[], |plan| &plan.acts)
}

fn frees_bytes(told: &RemoveModelReply) -> u64 {
    told.plan.as_ref().map_or(0, |plan: &PlanView| plan.frees_bytes)
}

/// Who has it behind that and is heard.
fn serving(told: &RemoveModelReply) -> Vec<&str> {
    told.left.iter().filter(|node| !told.silent.contains(node)).map(String::as_str).collect()
}

/// Whether a copy of the pinned version is this one.
fn is_pinned(told: &RemoveModelReply, act: &ActView) -> bool {
    !told.pinned.is_empty() && act.digest == told.pinned
}

/// What will happen, for whoever is asked.
fn deed(told: &RemoveModelReply) -> String {
    if acts(told).is_empty() {
        return format!("have nobody ask for {} any more", told.name);
    }
    let copies = match acts(told).len() {
        1 => "1 copy".to_owned(),
        copies => format!("{copies} copies"),
    };
    let rest = match (told.left.is_empty(), serving(told).is_empty()) {
        (true, _) => "; no node is left with it",
        (false, true) => "; no node that is heard is left with it",
        (false, false) => "",
    };
    let takes_pinned = acts(told).iter().any(|act| is_pinned(told, act));
    let pinned = if takes_pinned { format!(", pinned at {}", text::digest(&told.pinned)) } else { String::new() };
    format!("remove {copies} of {}{pinned}{rest}", told.name)
}

fn page(told: &RemoveModelReply) -> String {
    if acts(told).is_empty() {
        return format!("{} has no copy that could go; nobody asks for it then.\n", told.name);
    }
    let rows = acts(told).iter().map(|act| {
        let notes = [
            is_pinned(told, act).then_some("pinned"),
            (act.frees_bytes < act.size_bytes).then_some("another model uses its files"),
        ];
        let note = notes.into_iter().flatten().collect::<Vec<_>>().join(", ");
        vec![act.node_name.clone(), text::digest(&act.digest), text::bytes(act.frees_bytes), note]
    });
    let table = output::table(&["NODE", "DIGEST", "FREES", "NOTE"], rows.collect());
    let serving = serving(told);
    let left = match (told.left.is_empty(), serving.is_empty()) {
        (true, _) => format!("No node is left with {}", told.name),
        (false, true) => format!("No node that is heard is left with {}", told.name),
        (false, false) => format!("{} keeps serving on {}", told.name, serving.join(", ")),
    };
    let silent = if told.silent.is_empty() {
        String::new()
    } else {
        format!("; on {}, not heard, it stays too", told.silent.join(", "))
    };
    let wanted = if told.is_forgotten { "; nobody asks for it then" } else { "" };
    format!("{table}\n{} go from disks. {left}{silent}{wanted}.\n", text::bytes(frees_bytes(told)))
}

fn shown(told: &RemoveModelReply, dry_run: bool) -> Value {
    let copies: Vec<Value> = acts(told)
        .iter()
        .map(|act| {
            json!({
                "node": act.node_name,
                "nodeId": act.node_id,
                "digest": hex::encode(&act.digest),
                "sizeBytes": act.size_bytes,
                "freesBytes": act.frees_bytes,
            })
        })
        .collect();
    json!({
        "name": told.name,
        "dryRun": dry_run,
        "copies": copies,
        "freesBytes": frees_bytes(told),
        "left": told.left,
        "silent": told.silent,
        "forgotten": told.is_forgotten,
        "pinned": (!told.pinned.is_empty()).then(|| hex::encode(&told.pinned)),
        "refusal": told.refusal.as_ref().map(|guard| {
            json!({"code": guard.code, "what": guard.what, "why": guard.why, "next": guard.next})
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(left: &[&str], is_forgotten: bool) -> RemoveModelReply {
        let act = |node: u64, frees_bytes: u64| ActView {
            node_id: node,
            node_name: format!("n{node}"),
            digest: vec![7; 32],
            size_bytes: 2_000_000_000,
            frees_bytes,
            ..ActView::default()
        };
        let acts = vec![act(1, 2_000_000_000), act(2, 0)];
        RemoveModelReply {
            name: "m:latest".to_owned(),
            plan: Some(PlanView { acts, frees_bytes: 2_000_000_000 }),
            left: left.iter().map(|node| (*node).to_owned()).collect(),
            is_forgotten,
            ..RemoveModelReply::default()
        }
    }

    #[test]
    fn what_goes_is_shown_with_what_is_left() {
        insta::assert_snapshot!(page(&reply(&["n3"], false)), @r"
        NODE  DIGEST        FREES   NOTE
        n1    070707070707  2.0 GB
        n2    070707070707  0 B     another model uses its files

        2.0 GB go from disks. m:latest keeps serving on n3.
        ");
        let gone = page(&reply(&[], true));
        assert!(gone.ends_with("No node is left with m:latest; nobody asks for it then.\n"), "{gone}");
    }

    #[test]
    fn who_is_not_heard_does_not_serve() {
        let silent = |nodes: &[&str]| RemoveModelReply {
            silent: nodes.iter().map(|node| (*node).to_owned()).collect(),
            ..reply(&["n3", "n4"], false)
        };
        let (some, all) = (silent(&["n4"]), silent(&["n3", "n4"]));
        let end = "m:latest keeps serving on n3; on n4, not heard, it stays too.\n";
        assert!(page(&some).ends_with(end), "{}", page(&some));
        let end = "No node that is heard is left with m:latest; on n3, n4, not heard, it stays too.\n";
        assert!(page(&all).ends_with(end), "{}", page(&all));
        assert_eq!(deed(&some), "remove 2 copies of m:latest");
        assert_eq!(deed(&all), "remove 2 copies of m:latest; no node that is heard is left with it");
    }

    #[test]
    fn a_pin_is_named_in_the_table_and_to_whoever_is_asked() {
        let told = RemoveModelReply { pinned: vec![7; 32], ..reply(&["n3"], false) };
        let page = page(&told);
        assert!(page.contains("n1    070707070707  2.0 GB  pinned\n"), "{page}");
        assert!(page.contains("n2    070707070707  0 B     pinned, another model uses its files\n"), "{page}");
        assert_eq!(deed(&told), "remove 2 copies of m:latest, pinned at 070707070707");
        assert_eq!(shown(&told, true)["pinned"], "07".repeat(32));
        let other = RemoveModelReply { pinned: vec![8; 32], ..reply(&["n3"], false) };
        assert_eq!(deed(&other), "remove 2 copies of m:latest", "another version is pinned, and stays");
    }

    #[test]
    fn a_wish_without_a_copy_has_no_table() {
        let told = RemoveModelReply { name: "m:latest".to_owned(), is_forgotten: true, ..RemoveModelReply::default() };
        assert_eq!(page(&told), "m:latest has no copy that could go; nobody asks for it then.\n");
        assert_eq!(deed(&told), "have nobody ask for m:latest any more");
    }

    #[test]
    fn whoever_is_asked_hears_that_nothing_is_left() {
        assert_eq!(deed(&reply(&["n3"], false)), "remove 2 copies of m:latest");
        assert_eq!(deed(&reply(&[], true)), "remove 2 copies of m:latest; no node is left with it");
    }
}
